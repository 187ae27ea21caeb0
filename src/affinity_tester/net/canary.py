"""Canaries tell a blackhole from loss: while a session is unanswered, a fresh source port asks the same target.

Answered, the target lives and only this flow is dead; unanswered, the path or the target is (failure-modes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import CanaryResult, Event, FirstAnswer
from affinity_tester.core.identity import Identity
from affinity_tester.net.session import Session
from affinity_tester.settings import NS_PER_S

SILENCE_NS = 2 * NS_PER_S
"""A session unanswered for so long gets a canary."""

AGAIN_NS = 10 * NS_PER_S
"""And, while it stays unanswered, another one after so long: blackholes end."""

APART_NS = NS_PER_S // 5
"""At most five a second: a target in trouble is not to be stormed."""

PROBES = 3
"""So many probes, one each sweep: one lost packet is not to look like a dead target."""


class _Canary:
    """A short-lived session on a port of its own."""

    def __init__(self, about: str, now_ns: int) -> None:
        self.about = about
        self.sent_ns = now_ns
        self.answer: Identity | None = None
        self.session: Session | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, FirstAnswer):
            self.answer = event.identity


class Canaries:
    """Sends them when they are due, and tells what became of each."""

    def __init__(
        self,
        open_session: Callable[[str, TransportAddress, Callable[[Event], None]], Session],
        close_session: Callable[[Session], None],
        emit: Callable[[Event], None],
        wait_ns: int,
    ) -> None:
        """A canary unanswered after `wait_ns` (the loss threshold) is dead. `open_session` may raise `OSError`."""
        self._open_session = open_session
        self._close_session = close_session
        self._emit = emit
        self._wait_ns = wait_ns
        self._out: list[_Canary] = []
        self._sent_ns: dict[str, int] = {}
        self._newest_ns = 0
        self.answered_ns: int | None = None
        """When one was last answered; None: never."""

    def sweep(self, now_ns: int, sessions: Iterable[Session]) -> None:
        """Look after those that are out, and send those that are due."""
        for canary in list(self._out):
            self._look_after(canary, now_ns)
        for session in sessions:
            since = session.tracker.unanswered()
            if since is not None and now_ns - since[1] >= SILENCE_NS and self._may_send(session.name, now_ns):
                self._send(session, now_ns)

    def close(self) -> None:
        """End those that are out; what they would have shown is not known."""
        while self._out:
            self._end(self._out[0])

    def _may_send(self, name: str, now_ns: int) -> bool:
        return now_ns - self._newest_ns >= APART_NS and now_ns - self._sent_ns.get(name, -AGAIN_NS) >= AGAIN_NS

    def _send(self, about: Session, now_ns: int) -> None:
        canary = _Canary(about.name, now_ns)
        self._newest_ns = self._sent_ns[about.name] = now_ns
        try:
            canary.session = self._open_session(f"CANARY-{about.name}", about.target, canary.observe)
        except OSError:
            return  # no descriptor or port left: the evidence is missing, the run goes on
        self._out.append(canary)
        canary.session.send()

    def _look_after(self, canary: _Canary, now_ns: int) -> None:
        assert canary.session is not None
        canary.session.read_empty()
        if canary.answer is not None:
            self.answered_ns = now_ns
        elif now_ns - canary.sent_ns < self._wait_ns:
            if canary.session.tracker.sent_count < PROBES:
                canary.session.send()
            return
        self._emit(CanaryResult(clock.now_ns(), canary.about, canary.sent_ns, canary.answer))
        self._end(canary)

    def _end(self, canary: _Canary) -> None:
        assert canary.session is not None
        self._out.remove(canary)
        self._close_session(canary.session)
