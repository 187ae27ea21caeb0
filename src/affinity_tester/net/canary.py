"""The sockets of canaries: each canary is a short-lived session on a fresh port, as `core.session.canaries` plans them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import CanaryResult, Event, FirstAnswer, SmallProbeResult
from affinity_tester.core.identity import Identity
from affinity_tester.core.session import canaries
from affinity_tester.net.session import Session

PROBES = 3
"""Probes of one canary, one each sweep, so that one lost packet does not look like a dead target."""

LARGE_PAYLOAD = 1_200
"""What is larger may be too large for a hop: tunnels end at 1,280 to 1,420 bytes (RFC 8200 section 5: 1,280 always pass)."""

_MAX_KEPT = 256
"""Canary results that are kept: more than the canaries of one outage."""


class CanaryAnswer(NamedTuple):
    """A canary that was answered."""

    sent_ns: int
    """When its first probe was sent."""
    answered_ns: int
    """When the first reply was received."""
    identity: Identity
    target: TransportAddress
    """The address that it was sent to."""


class _Canary:
    """A canary that waits for an answer, or for its repetition."""

    def __init__(self, about: Session, now_ns: int, small_size: int = 0) -> None:
        self.about = about.name
        self.small_size = small_size
        """Its bytes, where they are fewer than the sessions' probes have; 0: they are as many."""
        self.sent_ns = now_ns
        self.probes = PROBES
        """How many probes it will have sent."""
        self.pause_ns = 0
        """The pause before it was repeated; 0: it was not."""
        self.answer: FirstAnswer | None = None
        self.session: Session | None = None

    def repeat(self, now_ns: int) -> None:
        """Send as many probes again, from the same port."""
        assert self.session is not None
        self.pause_ns, self.sent_ns = now_ns - self.sent_ns, now_ns
        self.probes = self.session.tracker.sent_count + PROBES
        self.session.send()

    def observe(self, event: Event) -> None:
        if isinstance(event, FirstAnswer):
            self.answer = event


class Canaries:
    """Sends canaries when they are due, and emits the result of each."""

    def __init__(
        self,
        open_session: Callable[[str, TransportAddress, Callable[[Event], None]], Session],
        close_session: Callable[[Session], None],
        emit: Callable[[Event], None],
        *,
        interval_ns: int,
        wait_ns: int,
        open_small: Callable[[str, TransportAddress, Callable[[Event], None]], Session] | None = None,
        small_size: int = 0,
    ) -> None:
        """Start with no canaries.

        `open_session(name, target, emit)` opens a session on a fresh port, and may raise `OSError`. A canary is unanswered
        once `wait_ns` (the loss threshold) has passed. `interval_ns` is the sessions' interval. `open_small` opens a session
        whose probes have only `small_size` bytes; with it, one goes beside each canary.
        """
        self._open_session = open_session
        self._close_session = close_session
        self._emit = emit
        self._wait_ns = wait_ns
        self._open_small, self._small_size = open_small, small_size
        self._plan = canaries.CanaryPlan(interval_ns)
        self._waiting: list[_Canary] = []
        self._held: list[_Canary] = []
        """Unanswered ones that wait for their repetition."""
        self.answered: deque[CanaryAnswer] = deque(maxlen=_MAX_KEPT)
        """The last answered canaries, in the order of their answers."""
        self._unanswered_ns: deque[int] = deque(maxlen=_MAX_KEPT)

    @property
    def unanswered_ns(self) -> list[int]:
        """When each canary without an answer was sent, including those that still wait for one."""
        return [*self._unanswered_ns, *self._waiting_ns()]

    def _waiting_ns(self) -> Iterator[int]:
        return (canary.sent_ns for canary in self._waiting if canary.answer is None and not canary.small_size)

    @property
    def answer_times(self) -> list[tuple[int, int]]:
        """(sent, answered) times of the last answered canaries."""
        return [answer[:2] for answer in self.answered]

    def sweep(
        self,
        now_ns: int,
        sessions: Iterable[Session],
        unanswered: Iterable[tuple[str, int]],
        resumed_ns: int = 0,
    ) -> None:
        """Check the canaries that wait for an answer, and send those that are due (see `core.session.canaries`).

        `sessions` has all that `unanswered` names.
        """
        for canary in list(self._waiting):
            self._check(canary, now_ns)

        unanswered = list(unanswered)
        self._repeat_due(now_ns, {name for name, _ in unanswered})
        if due := self._plan.due(now_ns, unanswered, resumed_ns):
            by_name = {session.name: session for session in sessions}
            for name in due:
                self._send(by_name[name], now_ns)

    def close(self) -> None:
        """Close the canaries that still wait for an answer, without a result."""
        while self._waiting:
            self._close(self._waiting[0])
        while self._held:
            self._release(self._held[0])

    def _send(self, about: Session, now_ns: int) -> None:
        self._open(_Canary(about, now_ns), about, self._open_session)
        if self._open_small is not None:
            self._open(_Canary(about, now_ns, self._small_size), about, self._open_small)

    def _open(
        self,
        canary: _Canary,
        about: Session,
        open_session: Callable[[str, TransportAddress, Callable[[Event], None]], Session],
    ) -> None:
        try:
            canary.session = open_session(f"CANARY-{about.name}", about.target, canary.observe)
        except OSError:
            return  # no descriptor or port left: this evidence is missing, and the run goes on
        self._waiting.append(canary)
        canary.session.send()

    def _check(self, canary: _Canary, now_ns: int) -> None:
        """Emit a canary's result and close it, or send its next probe."""
        session = canary.session
        assert session is not None
        session.read_until_empty()

        if canary.answer is not None and not canary.small_size:
            answer = CanaryAnswer(canary.sent_ns, canary.answer.at_ns, canary.answer.identity, session.target)
            self.answered.append(answer)
        elif canary.answer is None and now_ns - canary.sent_ns < self._wait_ns:
            if session.tracker.sent_count < canary.probes:
                session.send()
            return

        # Without a probe sent there is no result: this machine refused them all, which says nothing about the target.
        if session.tracker.sent_count:
            identity = None if canary.answer is None else canary.answer.identity
            told_ns, size = clock.now_ns(), canary.small_size
            if identity is None and not size:
                self._unanswered_ns.append(canary.sent_ns)
            self._emit(
                SmallProbeResult(told_ns, canary.about, canary.sent_ns, identity, size)
                if size
                else CanaryResult(told_ns, canary.about, canary.sent_ns, identity, canary.pause_ns)
            )
            if identity is None and not size and not canary.pause_ns and len(self._held) < canaries.MAX_REPEATS:
                self._waiting.remove(canary)
                self._held.append(canary)
                return
        self._close(canary)

    def _repeat_due(self, now_ns: int, silent: set[str]) -> None:
        """Repeat the unanswered canaries whose pause is over; release those that nobody needs any more."""
        for canary in list(self._held):
            if canary.about not in silent or canary.answer is not None:
                self._release(canary)  # answered late, or the session goes on: the pause would tell nothing
            elif now_ns - canary.sent_ns >= canaries.REPEAT_AFTER_NS:
                self._held.remove(canary)
                self._waiting.append(canary)
                canary.repeat(now_ns)

    def _release(self, canary: _Canary) -> None:
        assert canary.session is not None
        self._held.remove(canary)
        self._close_session(canary.session)

    def _close(self, canary: _Canary) -> None:
        assert canary.session is not None
        self._waiting.remove(canary)
        self._close_session(canary.session)
