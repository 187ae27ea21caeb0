"""When an experiment did what: its phases, its steps, and what its action named."""

from __future__ import annotations

from itertools import pairwise

from affinity_tester.core.events import (
    ActionRemoved,
    ActionStep,
    Event,
    ExperimentStarted,
    Phase,
    PhaseStarted,
    SendingStopped,
)
from affinity_tester.core.experiment.results import PhaseSpan

INTERRUPTED = "interrupted"
"""The text of the step that failed where a signal ended an experiment."""


class Phases:
    """Take in what is told of the experiment itself. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with none begun."""
        self.started: ExperimentStarted | None = None
        self.begun: dict[Phase, PhaseStarted] = {}
        """Those that have begun, each once."""
        self.steps: list[ActionStep] = []
        self.removed_pods: set[str] = set()
        """Pods that the action itself named, by uid."""
        self.removed_nodes: set[str] = set()
        """Nodes that it named."""
        self._stopped_ns: int | None = None
        self._newest_ns = 0

    def feed(self, event: Event) -> None:
        """Take in an event."""
        self._newest_ns = max(self._newest_ns, event.at_ns)
        match event:
            case ExperimentStarted():
                self.started = event
            case PhaseStarted(phase=phase):
                self.begun.setdefault(phase, event)
            case ActionStep():
                self.steps.append(event)
            case ActionRemoved(pods=pods, nodes=nodes):
                self.removed_pods.update(pods)
                self.removed_nodes.update(nodes)
            case SendingStopped(at_ns=at_ns):
                self._stopped_ns = at_ns
            case _:
                pass

    @property
    def action_ns(self) -> int | None:
        """When the action began; None: it did not."""
        return self._began_ns(Phase.ACTION)

    @property
    def rollback_ns(self) -> int | None:
        """When the rollback began; None: it did not."""
        return self._began_ns(Phase.ROLLBACK)

    @property
    def end_ns(self) -> int:
        """When the rollback was over: where the judgement began, or else when sending stopped, or the newest event."""
        judged_ns = self._began_ns(Phase.JUDGEMENT)
        if judged_ns is not None:
            return judged_ns
        return self._newest_ns if self._stopped_ns is None else self._stopped_ns

    @property
    def cut_off_in(self) -> Phase | None:
        """The phase in which the record of an experiment ends; None: it went on to its judgement."""
        return None if Phase.JUDGEMENT in self.begun else next(reversed(self.begun), None)

    @property
    def failed(self) -> list[str]:
        """What of the action could not be done."""
        return [step.text for step in self.steps if step.failed and not step.undo]

    def spans(self) -> tuple[PhaseSpan, ...]:
        """Return the phases in their order; the newest one ends with the newest event."""
        edges = [*(event.at_ns for event in self.begun.values()), self._newest_ns]
        return tuple(
            PhaseSpan(phase.value, since_ns, until_ns)
            for phase, (since_ns, until_ns) in zip(self.begun, pairwise(edges), strict=True)
        )

    def sent_within(self) -> int | None:
        """Return how many probes were sent from the action to the end of the rollback; None: they were not counted."""
        action, judgement = self.begun.get(Phase.ACTION), self.begun.get(Phase.JUDGEMENT)
        if action is None or judgement is None or action.sent is None or judgement.sent is None:
            return None
        return judgement.sent - action.sent

    def _began_ns(self, phase: Phase) -> int | None:
        event = self.begun.get(phase)
        return None if event is None else event.at_ns
