"""From the events of a run to what an experiment came to: the live experiment and a recorded one feed the same class.

`ExperimentAnalysis` takes every event, observed or derived, in order; `outcome` looks at all of them when the run is over.
What had to move is `least_possible`; which moves the cluster surely made, `judged_moves`; whether the requirement held,
`holding`.
"""

from __future__ import annotations

from affinity_tester.core.events import Event, Phase, PhaseStarted
from affinity_tester.core.experiment.catalogue import BASELINE, Experiment
from affinity_tester.core.experiment.findings import Finder
from affinity_tester.core.experiment.holding import claim, hold
from affinity_tester.core.experiment.observed import Observed
from affinity_tester.core.experiment.phases import INTERRUPTED, Phases
from affinity_tester.core.experiment.results import CellOutcome, CellResult, Held
from affinity_tester.core.experiment.session_moves import SessionMoves
from affinity_tester.core.experiment.steady import SteadyState
from affinity_tester.core.pool_timeline import PoolTimeline
from affinity_tester.units import plural


class ExperimentAnalysis:
    """What one experiment does to the sessions of one Service."""

    def __init__(self, experiment: Experiment, steady_ns: int) -> None:
        """Judge by this experiment's requirement; nothing may happen for `steady_ns` before its action."""
        self.experiment = experiment
        self._steady = SteadyState(steady_ns)
        self._not_steady = ""
        self._observed = Observed()

    @property
    def phases(self) -> Phases:
        """When the experiment did what."""
        return self._observed.phases

    @property
    def timeline(self) -> PoolTimeline:
        """The watched pool, as far as it was told."""
        return self._observed.pool.timeline

    @property
    def sessions(self) -> SessionMoves:
        """Where each session is, and how it moved."""
        return self._observed.sessions

    def steady_reason(self, now_ns: int) -> str:
        """Return why the sessions are in no steady state; empty if they are."""
        return self._steady.reason(now_ns)

    def feed(self, event: Event) -> None:
        """Take in an event of the run, observed or derived."""
        match event:
            case PhaseStarted(phase=Phase.ACTION, at_ns=at_ns):
                self._not_steady = self._steady.reason(at_ns)
            case _:
                pass
        self._steady.feed(event)
        self._observed.feed(event)

    def result(self) -> CellResult:
        """Return what the experiment came to, with the Service that `ExperimentStarted` named."""
        started, outcome = self.phases.started, self.outcome()
        if started is None:
            return CellResult("", "", "", outcome)
        return CellResult(started.service, started.policy, started.affinity, outcome)

    def outcome(self) -> CellOutcome:
        """Return what the experiment came to; the run is over, and all of it is judged."""
        observed, begin_ns = self._observed, self.phases.action_ns
        if begin_ns is None:
            return self._without_action()

        found = Finder(self.experiment, observed, begin_ns).findings(self._not_steady)
        held, reasons = hold(found)
        return CellOutcome(
            sessions=len(found.sessions),
            moved=tuple(found.moves),
            moved_pod=sum(any(move.new_pod for move in moves) for moves in found.moves.values()),
            moved_address=sum(any(move.new_address for move in moves) for moves in found.moves.values()),
            least=found.least.sessions,
            least_reason=found.least.reason,
            beyond=found.beyond,
            twice=tuple(name for name, moves in found.moves.items() if len(moves) > 1),
            blackouts=observed.blackouts.summary(found.sessions),
            sent=self._sent(len(found.sessions), begin_ns),
            lost=observed.blackouts.lost,
            violations=len(observed.judged.violations),
            names=observed.names.names(begin_ns),
            held=held,
            reasons=reasons,
            claim=claim(found),
            excused=found.excused,
            unclear=found.unclear,
        )

    def _without_action(self) -> CellOutcome:
        """Return the outcome of an experiment that was stopped before its action."""
        observed, end_ns = self._observed, self.phases.end_ns
        not_steady = self._steady.reason(end_ns)
        failed = self.phases.failed
        reasons = [f"no steady state: {not_steady}" if not_steady else "there was no action", *failed]
        if INTERRUPTED in failed:
            reasons = [INTERRUPTED]
        broken = tuple(dict.fromkeys(judged.session for judged in observed.judged.violations))
        is_broken = self.experiment.name == BASELINE and bool(broken)  # the steady state is all that it asks for
        if is_broken:
            reasons.insert(0, f"{plural(len(broken), 'session')} had a violation while nothing was done")
        return CellOutcome(
            sessions=len(observed.sessions.answered_before(end_ns)),
            moved=(),
            moved_pod=0,
            moved_address=0,
            least=None,
            least_reason="not known: there was no action",
            beyond=(),
            twice=(),
            blackouts=observed.blackouts.summary(()),
            sent=0,
            lost=0,
            violations=len(observed.judged.violations),
            names=observed.names.names(0),
            held=Held.NO if is_broken else Held.UNKNOWN,
            reasons=tuple(reasons),
            claim="nothing can be claimed",
        )

    def _sent(self, sessions: int, begin_ns: int) -> int:
        """Return how many probes were sent from the action to the end of the rollback; uncounted, what was due by then."""
        sent, interval_ns = self.phases.sent_within(), self._observed.interval_ns
        if sent is not None or not interval_ns:
            return sent or 0
        return sessions * max(0, self.phases.end_ns - begin_ns) // interval_ns
