"""The routes from this machine to the addresses of a target, and whether its own address towards them changes.

Sessions are assigned to the routes in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from affinity_tester.core.address import LOCAL_CHECK_NS, TransportAddress
from affinity_tester.core.events import ClientFault, ClientFaultKind, Event
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target
from affinity_tester.net.session import Session

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


class LocalAddressCheck:
    """Checks whether this machine's own address towards the target has changed since the routes were found."""

    def __init__(
        self,
        routes: Iterable[Route],
        sessions: Sequence[Session],
        source_for: SourceFor,
        emit: Callable[[Event], None],
    ) -> None:
        """`routes` are those of the sessions; a change is written to them."""
        self._routes = tuple(routes)
        self._sessions = sessions
        self._source_for = source_for
        self._emit = emit
        self._checked_ns = 0

    def check(self, now_ns: int, session_name: str) -> None:
        """Emit a client fault for each route whose local address has changed; at most one check a second.

        `session_name` is the session whose event is the occasion; it is named if it has that route.
        """
        if now_ns - self._checked_ns <= LOCAL_CHECK_NS:
            return
        self._checked_ns = now_ns

        for route in self._routes:
            try:
                source = self._source_for(route.address, route.scope_id)
            except UserError as error:
                source = str(error)
            if source == route.source:
                continue

            detail = f"this machine's own address changed: {route.source} -> {source}"
            route.source = source
            names = [session.name for session in self._sessions if session.target == route.address]
            name = session_name if session_name in names else names[0]
            self._emit(ClientFault(now_ns, name, ClientFaultKind.LOCAL_ADDRESS, detail))
