"""The steady state before an action: for a given time every session is answered, and nothing happens to any of them.

What happens starts that time anew. A probe lost now and then does not: many a path loses some. A silence does.
"""

from __future__ import annotations

from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    ChangeSeen,
    Event,
    FirstAnswer,
    Judgement,
    OutageEnded,
    OutageStarted,
    Phase,
    PhaseStarted,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    ProbesLost,
    RunStarted,
    SessionStarted,
)
from affinity_tester.core.identity import Kind
from affinity_tester.core.session.canaries import SILENCE_NS
from affinity_tester.units import format_seconds, plural


class SteadyState:
    """Take in every event of a run, in order, and say whether its sessions are in a steady state."""

    def __init__(self, steady_ns: int) -> None:
        """Ask for so long a time in which nothing happens."""
        self._steady_ns = steady_ns
        self._began_ns: int | None = None
        self._expected = 0
        self._started: set[str] = set()
        self._unanswered: set[str] = set()
        """Sessions that were never answered."""
        self._silent: set[str] = set()
        """Sessions in an outage."""
        self._blackout = False
        self._unobserved = False
        self._silences: dict[str, tuple[int, int]] = {}
        """By session, of its newest run of lost probes: the number after it, and when its first was sent."""
        self._trouble: tuple[int, str] | None = None
        """When something last happened, and what."""

    def reason(self, now_ns: int) -> str:
        """Return why the sessions are not in a steady state; empty if they are."""
        if self._began_ns is None:
            return "it has not begun"
        if len(self._started) < max(1, self._expected):
            return f"{len(self._started):,} of {plural(self._expected, 'session')} have started"
        if self._unanswered:
            return f"{len(self._unanswered):,} of {plural(len(self._started), 'session')} were never answered"
        if self._blackout:
            return "no session is answered"
        if self._silent:
            return f"{plural(len(self._silent), 'session')} not answered any more, such as {min(self._silent)}"
        if self._unobserved:
            return "the pool is not observed"

        wanted = f"{format_seconds(self._steady_ns)} without it are wanted"
        if self._trouble is not None and now_ns - self._trouble[0] < self._steady_ns:
            return f"{self._trouble[1]} {format_seconds(max(0, now_ns - self._trouble[0]))} ago, {wanted}"
        if now_ns - self._began_ns < self._steady_ns:
            lasted = format_seconds(now_ns - self._began_ns)
            return f"it has lasted for {lasted}, {format_seconds(self._steady_ns)} are wanted"
        return ""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted(sessions=sessions):
                self._expected = sessions
            case PhaseStarted(phase=Phase.STEADY, at_ns=at_ns):
                self._began_ns = at_ns
            case SessionStarted(session=session):
                self._started.add(session)
                self._unanswered.add(session)
            case FirstAnswer(session=session):
                self._started.add(session)
                self._unanswered.discard(session)
            case ChangeSeen(session=session, change=change) if change.kinds != (Kind.INSTANCE,):
                self._note(event, f"{session} moved")
            case CaseJudged(session=session, judgement=Judgement.VIOLATION):
                self._note(event, f"a violation was found ({session})")
            case ProbesLost():
                self._lose(event)
            case OutageStarted(session=session):
                self._silent.add(session)
            case OutageEnded(session=session):
                self._silent.discard(session)
                self._note(event, f"{session} was silent until")
            case BlackoutStarted() | BlackoutEnded():
                self._blackout = isinstance(event, BlackoutStarted)
                self._note(event, "no session was answered until")
            case _:
                self._feed_pool(event)

    def _feed_pool(self, event: Event) -> None:
        match event:
            case PoolUnobserved():
                self._unobserved = True
                self._note(event, "the pool was not observed")
            case PoolConfirmed():
                self._unobserved = False
            case PoolObserved(asked_ns=asked_ns, changes=changes):
                self._unobserved = self._unobserved and asked_ns is None
                if changes:
                    self._note(event, "the endpoints changed")
            case _:
                pass

    def _note(self, event: Event, what: str) -> None:
        self._trouble = (event.at_ns, what)

    def _lose(self, event: ProbesLost) -> None:
        next_seq, first_ns = self._silences.get(event.session, (-1, 0))
        if event.first_seq != next_seq:
            first_ns = event.first_sent_ns
        self._silences[event.session] = (event.first_seq + event.count, first_ns)
        if event.last_sent_ns - first_ns >= SILENCE_NS:
            self._note(event, f"{event.session} was silent")
