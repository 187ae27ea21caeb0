"""Which sessions lost probes now and then, and when: a short row of counts for each, however long the run lasts.

What is counted are bursts, runs of probes lost one after the other: the probes of one burst share one cause. Left out are
bursts that have another explanation: those before a session's first answer, those around a change of it, and silences.
"""

from __future__ import annotations

from array import array
from collections import deque

from affinity_tester.core.events import (
    ChangeRevised,
    ChangeSeen,
    ClientFault,
    CrossDelivered,
    Event,
    LateReply,
    ProbesLost,
    RunStarted,
    SessionSummary,
    WrongSource,
)
from affinity_tester.core.session.canaries import SILENCE_NS
from affinity_tester.units import NS_PER_MS

FIRST_WIDTH_NS = 125 * NS_PER_MS
"""The time that one count is of, in a short run."""

MOST_COUNTS = 256
"""Counts of a session; when they are used up, each becomes one of twice the time."""

_CHANGES = 8
"""Changes of a session that are remembered: a burst is told soon after the change around it."""


class SessionLosses:
    """The losses of one session."""

    __slots__ = ("_brackets", "_first_ns", "_first_seq", "_last_ns", "_next_seq", "bursts", "late", "lost", "silent_ns")

    def __init__(self) -> None:
        """Start with none."""
        self.bursts = array("I", [0] * MOST_COUNTS)
        """How many bursts began in each span of the run."""
        self.silent_ns = 0
        """How long it was silent in all."""
        self.lost = 0
        """Its lost probes, all of them."""
        self.late = 0
        """Those whose reply came after all."""
        self._brackets: deque[tuple[int, int]] = deque(maxlen=_CHANGES)
        """The probes around its changes."""
        self._first_seq = self._next_seq = 0
        """The burst that is not counted yet; empty at first."""
        self._first_ns = self._last_ns = 0

    def add(self, event: ProbesLost) -> int | None:
        """Take in lost probes; return when the burst before them began, if that is over and counts."""
        self.lost += event.count
        if event.first_seq == self._next_seq:
            self._next_seq, self._last_ns = event.first_seq + event.count, event.last_sent_ns
            return None

        over = self.take()
        self._first_seq, self._next_seq = event.first_seq, event.first_seq + event.count
        self._first_ns, self._last_ns = event.first_sent_ns, event.last_sent_ns
        return over

    def take(self) -> int | None:
        """Return when the newest burst began, if it counts, and forget it."""
        first_seq, self._first_seq = self._first_seq, self._next_seq
        lasted_ns = self._last_ns - self._first_ns
        if lasted_ns >= SILENCE_NS:
            self.silent_ns += lasted_ns
            self._first_ns = self._last_ns
            return None

        has_change = any(before < self._next_seq and first_seq < after for before, after in self._brackets)
        return None if has_change or first_seq in {0, self._next_seq} else self._first_ns

    def moved(self, before: int, after: int) -> None:
        """Note a change between two probes."""
        self._brackets.append((before, after))


class LossHistory:
    """The losses of all sessions that had any. `feed` takes every observed event, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self.width_ns = FIRST_WIDTH_NS
        """The time that each count is of."""
        self.sessions: dict[str, SessionLosses] = {}
        """Those that lost probes or changed."""
        self.sent: dict[str, int] = {}
        """How many probes each session sent, of those whose end was told."""
        self.astray: set[str] = set()
        """Sessions whose losses say nothing about the path: replies went elsewhere, or this machine dropped them."""
        self._from_ns = self._until_ns = 0
        self._interval_ns = 0

    @property
    def slots(self) -> int:
        """How many probes a session can have sent so far."""
        return (self._until_ns - self._from_ns) // self._interval_ns if self._interval_ns else 0

    def feed(self, event: Event) -> None:
        """Take in an event."""
        self._until_ns = max(self._until_ns, event.at_ns)
        match event:
            case RunStarted(at_ns=at_ns, interval_ns=interval_ns):
                self._from_ns, self._interval_ns = at_ns, interval_ns
            case ProbesLost(session=session):
                self._count(session, self._of(session).add(event))
            case ChangeSeen(session=session, change=change) | ChangeRevised(session=session, change=change):
                self._of(session).moved(change.before.seq, change.after.seq)
            case LateReply(session=session):
                self._of(session).late += 1
            case WrongSource(session=session) | CrossDelivered(owner=session) | ClientFault(session=session):
                self.astray.add(session)
            case SessionSummary(session=session, total=total):
                self.sent[session] = total.sent
            case _:
                pass

    def finish(self) -> None:
        """Count the newest burst of each session: the run is over."""
        for name, losses in self.sessions.items():
            self._count(name, losses.take())

    def _of(self, session: str) -> SessionLosses:
        return self.sessions.setdefault(session, SessionLosses())

    def _count(self, session: str, began_ns: int | None) -> None:
        if began_ns is None:
            return
        since_ns = max(0, began_ns - self._from_ns)
        while since_ns // self.width_ns >= MOST_COUNTS:
            self._widen()
        self.sessions[session].bursts[since_ns // self.width_ns] += 1

    def _widen(self) -> None:
        """Make each count one of twice the time."""
        self.width_ns *= 2
        for losses in self.sessions.values():
            counts = losses.bursts
            halves = [counts[at] + counts[at + 1] for at in range(0, MOST_COUNTS, 2)]
            losses.bursts = array("I", halves + [0] * (MOST_COUNTS // 2))
