"""The results of a run, collected from its events for every form of its end."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.judging.tally import Tally


@dataclass(slots=True)
class ReferenceResults:
    """What the reference has answered so far."""

    asked: int = 0
    """Requests that were answered, or given up."""
    answered: int = 0
    changes: int = 0
    """How often a session's mapped address was another than before."""
    silence: ev.NoReferenceReplies | None = None
    """That it never answered, once that was told."""
    _mapped: dict[str, TransportAddress] = field(default_factory=dict)
    """By session."""

    def add(self, event: ev.ReferenceResult) -> None:
        """Count one more request."""
        self.asked += 1
        if event.mapped is not None:
            self.answered += 1
            self.changes += self._mapped.get(event.session, event.mapped) != event.mapped
            self._mapped[event.session] = event.mapped


@dataclass(slots=True)
class RunResults:
    """The results of a run so far. A field is None while its event has not come."""

    started: ev.RunStarted | None = None
    foreign: ev.ForeignServer | None = None
    sessions: dict[str, ev.SessionSummary] = field(default_factory=dict)
    """Summaries by session, in the order in which the sessions ended."""
    run: ev.RunSummary | None = None
    verdict: ev.Verdict | None = None
    reference: ReferenceResults = field(default_factory=ReferenceResults)
    tally: Tally = field(default_factory=Tally)
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Node names by InternalIP, of nodes that are gone too: the tables are of the whole run."""

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
            case ev.ReferenceResult():
                self.reference.add(event)
            case ev.NoReferenceReplies():
                self.reference.silence = event
            case ev.RunSummary():
                self.run = event
            case ev.NodeAddresses(names=names):
                self.nodes = {**self.nodes, **dict(names)}
            case ev.Verdict():
                self.verdict = event

    def worst(self, count: int) -> list[ev.SessionSummary]:
        """Return so many sessions, the worst first: most lost, then most changes, then the longest gap."""
        return heapq.nlargest(
            count, self.sessions.values(), key=lambda s: (s.total.lost, s.total.changes, s.longest_gap_ns)
        )
