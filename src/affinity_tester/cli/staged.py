"""A lab run as `demo` and `lab` conduct it: the plan, the client, the analysis by the lab's own pool, and the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from affinity_tester.cli.conduct import Pipeline, conduct, stop_on_signals
from affinity_tester.core.analysis import Rules, RunAnalysis
from affinity_tester.core.events import Event, Verdict
from affinity_tester.core.verdict import MAX_TIMER_MISSES
from affinity_tester.lab.compare import Findings, compare
from affinity_tester.lab.ledger import Ledger
from affinity_tester.lab.naming import Named, named, strangers
from affinity_tester.lab.parts import Policy
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.runner import open_lab

SELF_INFLICTED = "self-inflicted"
"""The catalogue's name of what a busy machine does to a client."""


@dataclass(frozen=True, slots=True)
class Staged:
    """The outcome of a lab run."""

    verdict: Verdict
    """The client's own."""
    findings: Findings
    """Whether what was injected was done and seen."""
    named: tuple[Named, ...]
    """What each fault was named."""
    strangers: tuple[str, ...]
    """What was named `likely` though nobody did it."""

    busy: bool
    """The machine, and not the plan, kept the client from sending on time: the run proves nothing."""

    @property
    def misnamed(self) -> tuple[str, ...]:
        """What is wrong with the names, in words."""
        wrong = [f"{each.fault}: {each.problem}" for each in self.named if each.problem]
        return (*wrong, *(f"it was likely {name}, which nobody did" for name in self.strangers))


class StagedRun:
    """One run of a plan."""

    def __init__(
        self, plan: Plan, show: Callable[[Event], None], pass_time: Callable[[int], None] | None = None
    ) -> None:
        """`show` gets every event, observed or derived; `pass_time` is told the time as it passes."""
        self._plan = plan
        self._pass_time = pass_time
        self._show = show
        self._stop, self._abort = asyncio.Event(), asyncio.Event()
        # Whose health check may decide when flows move: docs/judging.md#outages.
        move_ns = max(plan.settle_ns, plan.check_ns) if plan.policy is Policy.LOCAL else plan.settle_ns
        self.ledger = Ledger(plan.faults, plan.settle_ns, move_ns, plan.verdict)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it early."""
        return self._stop.is_set()

    async def conducted(self) -> Staged:
        """Run it to its verdict and compare. Raises `UserError`, and what `show` raises."""
        plan, abort = self._plan, self._abort
        rules = Rules(settle_ns=plan.settle_ns, affinity_window_ns=plan.window_ns, balancer_check_ns=plan.check_ns)
        pipeline = Pipeline(RunAnalysis(rules), self._tell, self._pass_time)
        with stop_on_signals(self._stop, abort, pipeline):
            async with open_lab(plan, self.ledger, pipeline.emit) as lab:
                verdict = await conduct(pipeline, lab.run(self._stop, abort), abort, rules.settle_ns)
        return Staged(
            verdict,
            compare(self.ledger),
            named(self.ledger, plan.alike),
            strangers(self.ledger, plan.alike),
            self._busy(),
        )

    def _busy(self) -> bool:
        """Whether more slots were missed than the verdict allows, and no fault takes the client's core."""
        total = self.ledger.total
        slots = total.sent + total.send_errors + total.timer_misses
        wanted = any(SELF_INFLICTED in (fault.name, *fault.also) for fault in self._plan.faults)
        return not wanted and total.timer_misses > MAX_TIMER_MISSES * slots

    def _tell(self, event: Event) -> None:
        self.ledger.conclude(event)
        self._show(event)
