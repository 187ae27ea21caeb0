"""The ways from this machine to the addresses of a target: the sessions are dealt out to them in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target

Learn = Callable[[TransportAddress, int], str]
"""Says this machine's own address towards an address (and its scope). Raises `UserError` where there is no route."""


@dataclass(slots=True)
class Route:
    """One address of the target, and this machine's own towards it."""

    address: TransportAddress
    scope_id: int
    source: str


def find_routes(target: Target, most: int, learn: Learn) -> tuple[list[Route], tuple[TransportAddress, ...]]:
    """The routes to at most so many addresses, and the addresses that are left unprobed.

    An address that no route leads to is left out. Raises `UserError` where none leads to any.
    """
    routes: list[Route] = []
    left: list[TransportAddress] = []
    failure: UserError | None = None
    for address, scope_id in target.destinations:
        try:
            route = Route(address, scope_id, learn(address, scope_id))
        except UserError as error:
            failure = failure or error
            left.append(address)
        else:
            routes.append(route)
    if not routes:
        assert failure is not None, "a target has an address"
        raise failure
    left += [route.address for route in routes[most:]]
    return routes[:most], (*left, *target.unprobed)
