"""All that is kept of a run for an experiment, each in a part of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

from affinity_tester.core.events import Event, Phase, PhaseStarted, RunStarted
from affinity_tester.core.experiment.blackouts import SessionBlackouts
from affinity_tester.core.experiment.judged_moves import JudgedMoves
from affinity_tester.core.experiment.names_seen import NamesSeen
from affinity_tester.core.experiment.nodes import Nodes
from affinity_tester.core.experiment.phases import Phases
from affinity_tester.core.experiment.pool_history import PoolHistory
from affinity_tester.core.experiment.session_moves import SessionMoves
from affinity_tester.core.judging.rules import DEFAULT_RULES


@dataclass(slots=True)
class Observed:
    """What was told, by what it is of. `feed` takes every event, observed or derived, in order."""

    phases: Phases = field(default_factory=Phases)
    sessions: SessionMoves = field(default_factory=SessionMoves)
    pool: PoolHistory = field(default_factory=PoolHistory)
    nodes: Nodes = field(default_factory=Nodes)
    judged: JudgedMoves = field(default_factory=JudgedMoves)
    blackouts: SessionBlackouts = field(default_factory=SessionBlackouts)
    names: NamesSeen = field(default_factory=NamesSeen)
    settle_ns: int = DEFAULT_RULES.settle_ns
    interval_ns: int = 0

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case RunStarted(rules=rules, interval_ns=interval_ns):
                self.settle_ns, self.interval_ns = rules.settle_ns, interval_ns
            case PhaseStarted(phase=Phase.ACTION, at_ns=at_ns):
                self.blackouts.begin(at_ns)
            case PhaseStarted(phase=Phase.JUDGEMENT, at_ns=at_ns):
                self.blackouts.end(at_ns)
            case _:
                pass
        for part in (
            self.phases,
            self.sessions,
            self.pool,
            self.nodes,
            self.judged,
            self.blackouts,
            self.names,
        ):
            part.feed(event)
