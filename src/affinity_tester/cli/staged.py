"""A lab run as `demo` and `lab` conduct it: the plan, the client, the analysis by the lab's own pool, and the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from affinity_tester.cli.conduct import Pipeline, conduct, stop_on_signals
from affinity_tester.core.analysis import Rules, RunAnalysis
from affinity_tester.core.events import Event, Verdict
from affinity_tester.lab.compare import Findings, compare
from affinity_tester.lab.ledger import Ledger
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.runner import open_lab


class StagedRun:
    """One run of a plan."""

    def __init__(self, plan: Plan, show: Callable[[Event], None]) -> None:
        """`show` gets every event, observed or derived."""
        self._plan = plan
        self._show = show
        self._stop, self._abort = asyncio.Event(), asyncio.Event()
        self.ledger = Ledger(plan.faults, plan.settle_ns)

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it early."""
        return self._stop.is_set()

    async def conducted(self) -> tuple[Verdict, Findings]:
        """Run it to its verdict and compare. Raises `UserError`, and what `show` raises."""
        plan, abort = self._plan, self._abort
        rules = Rules(settle_ns=plan.settle_ns, affinity_window_ns=plan.window_ns)
        pipeline = Pipeline(RunAnalysis(rules), self._tell)
        with stop_on_signals(self._stop, abort, pipeline):
            async with open_lab(plan, self.ledger, pipeline.emit) as lab:
                verdict = await conduct(pipeline, lab.run(self._stop, abort), abort, rules.settle_ns)
        return verdict, compare(self.ledger)

    def _tell(self, event: Event) -> None:
        self.ledger.conclude(event)
        self._show(event)
