"""For how long sessions were not answered: of each the longest run of probes lost one after the other.

A blackout lasts from the sending of its first lost probe to that of the first answered one after it. When that was sent
is known where it showed a change, or ended an outage; else it is the next one by the schedule, an interval later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from affinity_tester.core.events import (
    ChangeRevised,
    ChangeSeen,
    Event,
    OutageEnded,
    ProbesLost,
    RunStarted,
    SendingStopped,
    SessionSummary,
)
from affinity_tester.core.experiment.results import Blackouts
from affinity_tester.core.session.canaries import SILENCE_NS

_PERCENT = 100


@dataclass(slots=True)
class _Run:
    """Probes lost one after the other, sent at the window's begin or later."""

    next_seq: int
    first_ns: int
    last_ns: int


@dataclass(slots=True)
class _Losses:
    """The losses of a session."""

    newest: _Run | None = None
    longest_ns: int = 0
    """Of its blackouts but the newest."""
    resumed: tuple[int, int] = (-1, 0)
    """The newest probe that was told as answered after others: its number, and when it was sent."""
    unanswered_ns: int = 0
    """For how long it was silent at the run's end."""


class SessionBlackouts:
    """Take in what is told of lost probes. `feed` takes every event, in order; what was lost before the window is left out.

    Of each session only its newest and its longest run is kept, so that a lossy path fills no memory.
    """

    def __init__(self) -> None:
        """Start with a window that has not begun."""
        self._since_ns: int | None = None
        self._until_ns: int | None = None
        self._interval_ns = 0
        self._sessions: dict[str, _Losses] = {}
        self._stopped_ns: int | None = None
        self._lost = 0

    def begin(self, at_ns: int) -> None:
        """Count from here on: what was sent at this time or later."""
        self._since_ns, self._until_ns = at_ns, None

    def end(self, at_ns: int) -> None:
        """Count no probe that was sent at this time or later; a blackout that began before goes on to its end."""
        self._until_ns = at_ns

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted(interval_ns=interval_ns):
                self._interval_ns = interval_ns
            case ProbesLost():
                self._lose(event)
            case ChangeSeen(session=session, change=change) | ChangeRevised(session=session, change=change):
                self._resume(session, change.after.seq, change.after.sent_ns)
            case OutageEnded(session=session, first=first):
                self._resume(session, first.seq, first.sent_ns)
            case SessionSummary(session=session, unanswered_ns=unanswered_ns):
                self._of(session).unanswered_ns = unanswered_ns
            case SendingStopped(at_ns=at_ns):
                self._stopped_ns = at_ns
            case _:
                pass

    # --- what is known -------------------------------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Probes of the window that were lost."""
        return self._lost

    def silent(self, sessions: Collection[str]) -> list[str]:
        """Return those of these sessions that were unanswered for 2 s or longer when the run ended."""
        return [name for name in sessions if self._of(name).unanswered_ns >= SILENCE_NS]

    def summary(self, sessions: Collection[str]) -> Blackouts:
        """Return the blackouts of these sessions."""
        lasted = sorted(ns for name in sessions if (ns := self._longest_ns(self._of(name))) > 0)
        return Blackouts(
            sessions=len(lasted),
            median_ns=nearest_rank(lasted, 50),
            p95_ns=nearest_rank(lasted, 95),
            worst_ns=nearest_rank(lasted, _PERCENT),
            still_silent=len(self.silent(sessions)),
            lasted_ns=tuple(lasted),
        )

    def _longest_ns(self, losses: _Losses) -> int:
        newest = losses.newest
        return losses.longest_ns if newest is None else max(losses.longest_ns, self._lasted_ns(newest, losses))

    def _lasted_ns(self, run: _Run, losses: _Losses) -> int:
        """Return how long a run's blackout lasted; one that no answer ended lasts until sending stopped."""
        if losses.resumed[0] == run.next_seq:
            return losses.resumed[1] - run.first_ns
        until_ns = run.last_ns + self._interval_ns
        if losses.unanswered_ns and self._stopped_ns is not None:
            until_ns = max(until_ns, self._stopped_ns)
        return until_ns - run.first_ns

    # --- collecting ----------------------------------------------------------------------------------------------------

    def _of(self, session: str) -> _Losses:
        return self._sessions.setdefault(session, _Losses())

    def _resume(self, session: str, seq: int, sent_ns: int) -> None:
        self._of(session).resumed = seq, sent_ns

    def _lose(self, event: ProbesLost) -> None:
        losses = self._of(event.session)
        since_ns, until_ns = self._since_ns, self._until_ns
        if since_ns is None or event.last_sent_ns < since_ns:
            return
        run = losses.newest
        if run is not None and run.next_seq == event.first_seq:
            run.next_seq, run.last_ns = event.first_seq + event.count, event.last_sent_ns
        elif until_ns is None or event.first_sent_ns < until_ns:
            losses.longest_ns = self._longest_ns(losses)
            first_ns = max(event.first_sent_ns, since_ns)
            losses.newest = _Run(event.first_seq + event.count, first_ns, event.last_sent_ns)
        self._lost += _count_within(event, since_ns, until_ns)


def _count_within(event: ProbesLost, since_ns: int, until_ns: int | None) -> int:
    """Return how many of these probes were sent within a window: they are evenly apart."""
    before = _count_before(event, since_ns)
    return max(0, (event.count if until_ns is None else _count_before(event, until_ns)) - before)


def _count_before(event: ProbesLost, at_ns: int) -> int:
    """Return how many of these probes were sent before a time."""
    lasted_ns, gaps = event.last_sent_ns - event.first_sent_ns, max(1, event.count - 1)
    if at_ns <= event.first_sent_ns:
        return 0
    if lasted_ns <= 0:
        return event.count
    return min(event.count, -((event.first_sent_ns - at_ns) * gaps // lasted_ns))


def nearest_rank(values: Sequence[int], percent: int) -> int | None:
    """Return the smallest of these sorted values that so many percent are not above (the nearest rank); None of none."""
    if not values:
        return None
    return values[max(1, -(-len(values) * percent // _PERCENT)) - 1]
