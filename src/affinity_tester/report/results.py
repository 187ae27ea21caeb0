"""The results of a run, collected from its events for every form of its end."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.core.judging.tally import Tally


@dataclass(slots=True)
class RunResults:
    """The results of a run so far. A field is None while its event has not come."""

    started: ev.RunStarted | None = None
    foreign: ev.ForeignServer | None = None
    sessions: dict[str, ev.SessionSummary] = field(default_factory=dict)
    """Summaries by session, in the order in which the sessions ended."""
    run: ev.RunSummary | None = None
    verdict: ev.Verdict | None = None
    tally: Tally = field(default_factory=Tally)
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Node names by InternalIP."""

    def add(self, event: ev.Event) -> None:
        """Keep what this event adds to the results; most add nothing."""
        match event:
            case ev.CaseJudged():
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
            case ev.NodeAddresses(names=names):
                self.nodes = dict(names)
            case ev.Verdict():
                self.verdict = event

    def worst(self, count: int) -> list[ev.SessionSummary]:
        """Return so many sessions, the worst first: most lost, then most changes, then the longest gap."""
        return heapq.nlargest(
            count, self.sessions.values(), key=lambda s: (s.total.lost, s.total.changes, s.longest_gap_ns)
        )
