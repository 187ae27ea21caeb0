"""The sockets of canaries: each is a short-lived session on a fresh port. `core.canaries` says when, and about whom."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.canaries import CanaryPlan
from affinity_tester.core.events import CanaryResult, Event, FirstAnswer
from affinity_tester.core.identity import Identity
from affinity_tester.net.session import Session

PROBES = 3
"""So many probes, one each sweep: one lost packet is not to look like a dead target."""

_KEPT = 64
"""Answers remembered: more than one silence has canaries."""


class CanaryAnswer(NamedTuple):
    """A canary that was answered."""

    sent_ns: int
    """When its first probe was sent."""
    answered_ns: int
    """When the first reply was received."""
    identity: Identity
    target: TransportAddress
    """Where it was sent to."""


class _Canary:
    """One that is out."""

    def __init__(self, about: Session, now_ns: int) -> None:
        self.about = about.name
        self.sent_ns = now_ns
        self.answer: FirstAnswer | None = None
        self.session: Session | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, FirstAnswer):
            self.answer = event


class Canaries:
    """Sends them when they are due, and tells what became of each."""

    def __init__(
        self,
        open_session: Callable[[str, TransportAddress, Callable[[Event], None]], Session],
        close_session: Callable[[Session], None],
        emit: Callable[[Event], None],
        *,
        interval_ns: int,
        wait_ns: int,
    ) -> None:
        """A canary unanswered after `wait_ns` (the loss threshold) is dead; `interval_ns` is the sessions'.

        `open_session` may raise `OSError`.
        """
        self._open_session = open_session
        self._close_session = close_session
        self._emit = emit
        self._wait_ns = wait_ns
        self._plan = CanaryPlan(interval_ns)
        self._out: list[_Canary] = []
        self.answered: deque[CanaryAnswer] = deque(maxlen=_KEPT)
        """Those last answered, in the order in which they were."""
        self._unanswered_ns: deque[int] = deque(maxlen=_KEPT)

    @property
    def unanswered_ns(self) -> list[int]:
        """When those were sent that nobody has answered, those that are still out too."""
        return [*self._unanswered_ns, *(canary.sent_ns for canary in self._out if canary.answer is None)]

    @property
    def answer_times(self) -> list[tuple[int, int]]:
        """When those were sent that were answered last, and when they were answered."""
        return [answer[:2] for answer in self.answered]

    def sweep(
        self,
        now_ns: int,
        behind: Iterable[Session],
        unanswered: Iterable[tuple[str, int]],
        resumed_ns: int = 0,
    ) -> None:
        """Look after those that are out, and send those that are due: see `CanaryPlan.due`; `behind` are its sessions."""
        for canary in list(self._out):
            self._look_after(canary, now_ns)
        if due := self._plan.due(now_ns, unanswered, resumed_ns):
            sessions = {session.name: session for session in behind}
            for name in due:
                self._send(sessions[name], now_ns)

    def close(self) -> None:
        """End those that are out; what they would have shown is not known."""
        while self._out:
            self._end(self._out[0])

    def _send(self, about: Session, now_ns: int) -> None:
        canary = _Canary(about, now_ns)
        try:
            canary.session = self._open_session(f"CANARY-{about.name}", about.target, canary.observe)
        except OSError:
            return  # no descriptor or port left: the evidence is missing, the run goes on
        self._out.append(canary)
        canary.session.send()

    def _look_after(self, canary: _Canary, now_ns: int) -> None:
        session = canary.session
        assert session is not None
        session.read_empty()
        if canary.answer is not None:
            answer = CanaryAnswer(canary.sent_ns, canary.answer.at_ns, canary.answer.identity, session.target)
            self.answered.append(answer)
        elif now_ns - canary.sent_ns < self._wait_ns:
            if session.tracker.sent_count < PROBES:
                session.send()
            return
        if session.tracker.sent_count:  # else this machine refused all its probes, which says nothing of the target
            identity = None if canary.answer is None else canary.answer.identity
            if identity is None:
                self._unanswered_ns.append(canary.sent_ns)
            self._emit(CanaryResult(clock.now_ns(), canary.about, canary.sent_ns, identity))
        self._end(canary)

    def _end(self, canary: _Canary) -> None:
        assert canary.session is not None
        self._out.remove(canary)
        self._close_session(canary.session)
