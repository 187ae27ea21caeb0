"""The routes from this machine to the addresses of a target; sessions are assigned to them in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target

SourceFor = Callable[[TransportAddress, int], str]
"""Returns this machine's own address towards an address (and its scope). Raises `UserError` if there is no route."""


@dataclass(slots=True)
class Route:
    """One address of the target, and this machine's own address towards it."""

    address: TransportAddress
    scope_id: int
    source: str


def find_routes(target: Target, most: int, source_for: SourceFor) -> tuple[list[Route], tuple[TransportAddress, ...]]:
    """Return the routes to at most `most` addresses, and the addresses that are left unprobed.

    An address without a route is left unprobed. Raises `UserError` if no address has one.
    """
    routes: list[Route] = []
    unprobed: list[TransportAddress] = []
    failure: UserError | None = None
    for address, scope_id in target.destinations:
        try:
            route = Route(address, scope_id, source_for(address, scope_id))
        except UserError as error:
            failure = failure or error
            unprobed.append(address)
        else:
            routes.append(route)

    if not routes:
        assert failure is not None, "a target has an address"
        raise failure

    unprobed += [route.address for route in routes[most:]]
    return routes[:most], (*unprobed, *target.unprobed)
