"""The open sessions of a run: each has a socket, and all sockets are polled as one."""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import secrets
from collections.abc import Callable, Sequence

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event
from affinity_tester.core.session.tracker import HISTORY_NS, PRUNE_NS, SessionTracker
from affinity_tester.core.stun import ProbeCodec
from affinity_tester.errors import UserError
from affinity_tester.net.poller import SocketPoller
from affinity_tester.net.probe_socket import open_probe_socket
from affinity_tester.net.routes import Route
from affinity_tester.net.session import Session
from affinity_tester.settings import DEFAULT_REQUEST_SIZE, ClientSettings
from affinity_tester.units import NS_PER_S


class SessionGroup:
    """Opens and closes the sessions of a run, and the short-lived ones of its canaries."""

    def __init__(self, settings: ClientSettings, routes: Sequence[Route], poller: SocketPoller) -> None:
        """Start without sessions. The poller reads their sockets; `close` closes it too."""
        self._settings = settings
        self._poller = poller
        self._routes = {route.address: route for route in routes}
        self._sizes = settings.sizes or (settings.request_size,)
        kept_ns = HISTORY_NS + PRUNE_NS
        self._usual_probes = min(kept_ns, settings.duration_ns or kept_ns) // settings.interval_ns + 1
        self._by_token: dict[int, Session] = {}
        """All sessions and the latest canaries, since a reply to one may arrive at another."""
        self.sessions: list[Session] = []
        """The sessions of the run, without canaries."""

    @property
    def targets(self) -> tuple[TransportAddress, ...]:
        """The addresses that are probed."""
        return tuple(self._routes)

    def open_all(self, emit: Callable[[Event], None]) -> None:
        """Open the sessions of the run, spread over the routes. Raise `UserError` if one cannot be opened."""
        wanted = self._settings.sessions
        numbers = random.SystemRandom().sample(range(1 << 31), wanted)
        for number, route in zip(numbers, itertools.cycle(self._routes.values()), strict=False):
            try:
                self.sessions.append(self.open(f"CLIENT-{number}", route.address, emit))
            except OSError as error:
                raise _open_error(error, len(self.sessions), wanted, route.source) from error

    def open_small(self, name: str, target: TransportAddress, emit: Callable[[Event], None]) -> Session:
        """Open a session whose probes have the default size, however large those of the others are. Raise `OSError`."""
        return self.open(name, target, emit, (DEFAULT_REQUEST_SIZE,))

    def open(
        self,
        name: str,
        target: TransportAddress,
        emit: Callable[[Event], None],
        sizes: tuple[int, ...] = (),
    ) -> Session:
        """Open a session on a socket of its own, which is read from now on. Raise `OSError`.

        `sizes` are those of its probes; empty: as the run has them.
        """
        settings, route = self._settings, self._routes[target]
        sock = open_probe_socket(
            route.source, target, scope_id=route.scope_id, connected=settings.connected, dscp=settings.dscp
        )
        session = Session(
            sock,
            target,
            SessionTracker(name, settings.loss_threshold_ns, emit, usual_probes=self._usual_probes),
            ProbeCodec(secrets.randbits(64), sizes or self._sizes, settings.key),
            emit=emit,
            scope_id=route.scope_id,
            connected=settings.connected,
            sessions_by_token=self._by_token,
        )

        self._by_token[session.token] = session
        self._poller.add(session)
        return session

    def close_one(self, session: Session) -> None:
        """Close a canary's session; its token is kept for a while, since its replies may still arrive at others."""
        self._poller.remove(session)
        session.sock.close()
        keep_s = self._settings.loss_threshold_ns / NS_PER_S
        asyncio.get_running_loop().call_later(keep_s, self._by_token.pop, session.token, None)

    def close(self) -> None:
        """Close the sessions of the run, and the poller."""
        self._poller.close()
        for session in self.sessions:
            session.sock.close()


def _open_error(error: OSError, opened: int, wanted: int, source: str) -> UserError:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return UserError(
            f"too few file descriptors for {wanted} sessions (stopped at {opened}): "
            f"raise the hard limit (ulimit -Hn) or take fewer --sessions"
        )
    if error.errno == errno.EADDRINUSE:
        return UserError(f"no free port left at {source} after {opened} sockets: take fewer --sessions")
    return UserError(f"cannot open a socket at {source}: {error.strerror}")
