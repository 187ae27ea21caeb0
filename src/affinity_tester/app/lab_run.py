"""Runs a plan of the lab to its verdict: the client, the analysis by the lab's own pool, and what was done beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from affinity_tester import clock
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.app.run import run_to_verdict, stop_on_signals
from affinity_tester.app.signals import ASKING, handle_signals
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import Event, Verdict
from affinity_tester.core.judging.verdict import MAX_TIMER_MISSES
from affinity_tester.core.pulse import Pulse
from affinity_tester.lab.check_diagnosis import NamedFault, name_faults, unexpected
from affinity_tester.lab.compare import Findings, compare
from affinity_tester.lab.lab_record import LabRecord
from affinity_tester.lab.model import Policy
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.runner import open_lab

SELF_INFLICTED = "self-inflicted"
"""The catalogue's name of what a busy machine does to a client."""


@dataclass(frozen=True, slots=True)
class LabResult:
    """The outcome of a lab run."""

    verdict: Verdict
    """The client's own."""
    findings: Findings
    """Whether what was injected was done and seen."""
    named: tuple[NamedFault, ...]
    """What each fault was named."""
    unexpected_diagnoses: tuple[str, ...]
    """What was named `likely` though nobody injected it."""
    busy: bool
    """The machine, and not the plan, kept the client from sending on time: the run proves nothing."""

    @property
    def diagnosis_errors(self) -> tuple[str, ...]:
        """What is wrong with the diagnoses, in words."""
        wrong = [f"{each.fault}: {each.problem}" for each in self.named if each.problem]
        return (*wrong, *(f"it was likely {name}, which nobody did" for name in self.unexpected_diagnoses))


class LabRun:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        consumers: Sequence[Callable[[Event], None]] = (),
        clocks: Sequence[Callable[[int], None]] = (),
        watch_pulse: Callable[[Pulse], None] | None = None,
        show_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Each of `consumers` gets every event, observed or derived; each of `clocks` the time as it passes.

        `watch_pulse` is told about once a second what the sessions are at; `show_progress` is called with the time when a
        signal asks how the run stands.
        """
        self._plan = plan
        self._watch_pulse = watch_pulse
        self._show_progress = show_progress
        self._consumers = consumers
        self._clocks = clocks
        self._stop, self._abort = asyncio.Event(), asyncio.Event()
        # Under policy Local the balancer's health check may decide when flows move, and is slower than the proxies.
        move_ns = max(plan.settle_ns, plan.check_ns) if plan.policy is Policy.LOCAL else plan.settle_ns
        self.record = LabRecord(plan.faults, plan.settle_ns, move_ns, plan.verdict)

    @property
    def interrupted(self) -> bool:
        """True if a signal ended the run early."""
        return self._stop.is_set()

    async def run(self) -> LabResult:
        """Run the plan to its verdict and compare. Raises `UserError`, and what a consumer raises."""
        plan, abort = self._plan, self._abort
        # First the lab's record: what it has of an event must not depend on whether somebody reads the log.
        dispatcher = Dispatcher(RunAnalysis(plan.rules), [self.record.feed, *self._consumers], self._clocks)
        show = self._show_progress
        asking = dict.fromkeys(ASKING, lambda: show(clock.now_ns())) if show is not None else {}
        with stop_on_signals(self._stop, abort, dispatcher), handle_signals(asking):
            async with open_lab(plan, self.record, dispatcher.emit) as lab:
                client = lab.run(self._stop, abort, self._watch_pulse)
                verdict = await run_to_verdict(dispatcher, client, abort, plan.settle_ns)

        return LabResult(
            verdict,
            compare(self.record),
            name_faults(self.record, plan.alike),
            unexpected(self.record, plan.alike),
            self._is_busy(),
        )

    def _is_busy(self) -> bool:
        """True if more slots were missed than the verdict allows, and no fault of the plan takes the client's core."""
        total = self.record.total
        slots = total.sent + total.send_errors + total.timer_misses
        wanted = any(SELF_INFLICTED in (fault.name, *fault.also_correct) for fault in self._plan.faults)
        return not wanted and total.timer_misses > MAX_TIMER_MISSES * slots
