"""The experiment in a recorded run: what was done, and what it came to, judged again by the code that judges a live one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from affinity_tester.core import events as ev
from affinity_tester.core.experiment.analysis import ExperimentAnalysis
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import CellResult
from affinity_tester.report.clock import RunClock
from affinity_tester.report.event_json import encode
from affinity_tester.report.experiment_steps import step_text
from affinity_tester.report.experiment_words import cell_rows

_MOST_EARLY = 1_000
"""Events remembered until the experiment's start is told, which comes right after the run's."""

_MOST_STEPS = 1_000
"""Steps that are shown: enough for any reader."""


class RecordedExperiment:
    """Take in every event of a recorded run, in order; without an experiment in it there is nothing to tell."""

    def __init__(self) -> None:
        """Start with no experiment known."""
        self._early: list[ev.Event] = []
        self._analysis: ExperimentAnalysis | None = None
        self.started: ev.ExperimentStarted | None = None
        """The experiment; None: the record has none."""
        self.steps: list[tuple[int, str]] = []
        """What was done and when, in words."""

    def add(self, event: ev.Event) -> None:
        """Take in an event."""
        if isinstance(event, ev.ExperimentStarted):
            self._start(event)
        if isinstance(event, ev.ExperimentStarted | ev.PhaseStarted | ev.ActionStep) and len(self.steps) < _MOST_STEPS:
            self.steps.append((event.at_ns, step_text(event)))
        if self._analysis is not None:
            self._analysis.feed(event)
        elif self.started is None and len(self._early) < _MOST_EARLY:
            self._early.append(event)

    def _start(self, event: ev.ExperimentStarted) -> None:
        self.started = event
        experiment = EXPERIMENTS.get(event.name)
        if experiment is not None:  # a later version of this program may know more of them
            self._analysis = ExperimentAnalysis(experiment, event.steady_ns)
            for early in self._early:
                self._analysis.feed(early)
        self._early.clear()

    def result(self) -> CellResult | None:
        """Return what it came to; None where there is no experiment, or one that this program does not know."""
        return None if self._analysis is None else self._analysis.result()

    def lines(self, clock: RunClock) -> Iterator[str]:
        """Yield all that is said of it: its steps, whether its requirement held, and what became of the sessions."""
        yield from (f"{clock.time_of_day(at_ns)} {text}" for at_ns, text in self.steps)
        result = self.result()
        if result is not None and self.started is not None:
            experiment = EXPERIMENTS[self.started.name]
            yield f"{experiment.requirement}: {result.outcome.held}"
            yield from (f"    {name}: {text}" for name, text in cell_rows(result))

    def document(self, clock: RunClock) -> dict[str, Any] | None:
        """Return it as JSON values; None where there is none.

        What it came to has times in nanoseconds, as the report of experiments has them (`experiment_json`).
        """
        if self.started is None:
            return None
        result = self.result()
        return {
            "name": self.started.name,
            "service": self.started.service,
            "steps": [{"time": clock.rfc3339(at_ns), "text": text} for at_ns, text in self.steps],
            "outcome": None if result is None else _plain(result),
        }


def _plain(result: CellResult) -> dict[str, Any]:
    outcome = encode(result.outcome)
    del outcome["event"]
    return outcome
