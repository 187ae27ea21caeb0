"""What a run came to: gathered from its events, for every form of the end of a run."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.core.judging.tally import Tally


@dataclass(slots=True)
class RunResults:
    """The end of a run, as far as its events have told it. A field is None while its event has not come."""

    started: ev.RunStarted | None = None
    foreign: ev.ForeignServer | None = None
    sessions: dict[str, ev.SessionSummary] = field(default_factory=dict)
    """By name, in the order in which they ended."""
    run: ev.RunSummary | None = None
    verdict: ev.Verdict | None = None
    tally: Tally = field(default_factory=Tally)

    def add(self, event: ev.Event) -> None:
        """Take what this event says of the end; most say nothing of it."""
        match event:
            case ev.ChangeJudged() | ev.OutageJudged() | ev.StrayJudged():
                self.tally.add(event)
            case ev.ChangeWithdrawn():
                self.tally.withdraw(event)
            case ev.SessionSummary():
                self.sessions[event.session] = event
            case ev.RunStarted():
                self.started = event
            case ev.ForeignServer():
                self.foreign = event
            case ev.RunSummary():
                self.run = event
            case ev.Verdict():
                self.verdict = event

    def worst(self, count: int) -> list[ev.SessionSummary]:
        """So many sessions, the worst first: most lost, then most changes, then the longest gap."""
        return heapq.nlargest(
            count, self.sessions.values(), key=lambda s: (s.total.lost, s.total.changes, s.longest_gap_ns)
        )
