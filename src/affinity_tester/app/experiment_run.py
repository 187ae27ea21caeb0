"""One experiment: steady state, action, recovery, rollback, judgement, for all its cells at once.

    steady     every session is answered and none changes, for a time; else the experiment ends here
    action     the cluster is changed
    recovery   until what the action changed has settled, as the watch shows it, and every session is answered again
    rollback   what was changed is undone, or healed by its controller, and has settled again
    judgement  sending has stopped; what is judged later than it happened becomes certain

Whatever goes wrong after the first write, Ctrl-C too, the rollback follows. A second Ctrl-C ends that as well, and the next
experiment in this namespace mends what it left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from affinity_tester import clock
from affinity_tester.app.experiment_cell import Cell, CellOptions
from affinity_tester.app.experiment_journal import Journal
from affinity_tester.cluster.actions.base import Action, NotSettledError, Step, StepState
from affinity_tester.cluster.api import ApiError
from affinity_tester.core.events import ActionRemoved, ActionStep, Event, Phase, PhaseStarted
from affinity_tester.core.experiment.catalogue import EXPERIMENTS, ActionKind
from affinity_tester.core.experiment.idle_outcome import idle_outcome
from affinity_tester.core.experiment.phases import INTERRUPTED
from affinity_tester.core.experiment.results import CellResult, ExperimentResult
from affinity_tester.core.idle.advice import ICE_INTERVAL_NS
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.errors import UserError
from affinity_tester.units import NS_PER_S, format_seconds, format_span, plural

T = TypeVar("T")

STATUS_S = 0.5
"""How often it is shown how an experiment stands."""

POLL_S = 0.1
"""How often the sessions are looked at in the steady state and while silent ones are waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long an experiment waits for what."""

    steady_limit_ns: int = 60 * NS_PER_S
    """For the steady state to begin and to last."""
    settle_limit_ns: int = 300 * NS_PER_S
    """For what the action, and then its undo, changed to settle: pulling an image may take minutes."""
    answer_limit_ns: int = 15 * NS_PER_S
    """For silent sessions to be answered again after that: three times as long as an outage takes to be one."""


_UNDONE = {
    ActionKind.NOTHING: "nothing was changed",
    ActionKind.UNDONE: "what was changed is as it was",
    ActionKind.HEALED: "all pods are ready again",
    ActionKind.NOT_UNDOABLE: "what was changed stays",
}


class Interrupts:
    """The signals that ask an experiment to end: the first one undoes, the second one ends at once."""

    def __init__(self) -> None:
        """Begin with none."""
        self.first, self.second = asyncio.Event(), asyncio.Event()

    def interrupt(self) -> None:
        """Take in a signal."""
        (self.second if self.first.is_set() else self.first).set()


class InterruptedExperimentError(Exception):
    """A signal ended what was being done."""


class ExperimentRun:
    """One experiment, for the cells of which it is given the options."""

    def __init__(
        self,
        name: str,
        action_on: Callable[[str], Action],
        timing: Timing,
        interrupts: Interrupts,
        *,
        journal: Journal,
        show_status: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`action_on` returns the action on the pod of this name (empty: on any), whose steps come to `take_step`.

        `show_status` is told twice a second how the experiment stands.
        """
        self._show_status = show_status
        self._experiment = EXPERIMENTS[name]
        self._action_on = action_on
        self._action = action_on("")
        self._idle: list[IdleResult] = []
        """Of each cell, for the experiment `idle`."""
        self._timing = timing
        self._interrupts = interrupts
        self._journal = journal
        self._cells: list[Cell] = []
        self.via = ""
        """The way into the Services; empty until their sessions began."""
        self._phase: PhaseStarted | None = None
        """The one that has begun; None: none has."""
        self._acted = False
        self._did = False
        self._failure = ""
        self._undone = ""

    async def run(self, options: Sequence[CellOptions], warn: Callable[[str], None]) -> ExperimentResult:
        """Run it, and return what it came to. Raises `UserError` if the sessions cannot begin."""
        name = self._experiment.name
        await self._unless_interrupted(self._action.prepare())
        async with AsyncExitStack() as stack:
            for each in options:
                running = Cell.running(each, name, warn)
                self._cells.append(await self._unless_interrupted(stack.enter_async_context(running)))
            self.via = self._cells[0].via
            telling = asyncio.create_task(self._tell_status())
            stack.callback(telling.cancel)
            await self._to_the_end()
            cells = tuple(cell.analysis.result() for cell in self._cells)
        if self._idle:
            cells = tuple(
                replace(cell, outcome=idle_outcome(cell.outcome, idle))
                for cell, idle in zip(cells, self._idle, strict=True)
            )
        return self._result(cells)

    def failed(self, failure: str) -> ExperimentResult:
        """Return the result of an experiment whose sessions never began."""
        self._failure = failure
        return self._result(())

    def take_step(self, step: Step) -> None:
        """Take in what the action tells: the journal has it before it is done, the run's record after it."""
        phase = self._phase.phase.value if self._phase is not None else ""
        self._journal.write_step(step, experiment=self._experiment.name, phase=phase)
        if step.state in (StepState.WILL, StepState.AGAIN):
            return
        failed = step.state is StepState.FAILED
        self._did |= not step.undo and not failed
        self._emit(ActionStep(clock.now_ns(), step.text, step.undo, failed))

    async def _to_the_end(self) -> None:
        """Go through the phases; what ends them early is in `_failure`."""
        try:
            self._begin(Phase.STEADY)
            await self._unless_interrupted(self._wait_steady())
            await self._unless_interrupted(self._choose_pod())
            self._begin(Phase.ACTION)
            self._acted = True
            await self._unless_interrupted(self._action.act())
            self._tell_removed()
            self._begin(Phase.RECOVERY)
            await self._unless_interrupted(self._recover())
        except InterruptedExperimentError:
            self._break_off(INTERRUPTED)
        except (ApiError, UserError, NotSettledError) as error:
            self._break_off(str(error))
        except asyncio.CancelledError:
            raise
        except Exception:
            # A bug, or the end of the output: what was changed is undone before it is told.
            if self._acted:
                await self._roll_back()
            raise
        if self._acted:
            await self._roll_back()
        await self._judge()

    def _break_off(self, reason: str) -> None:
        """Note why the experiment did not go to its end; what it did until then proves nothing."""
        self._failure = reason
        self._journal.write("broke-off", experiment=self._experiment.name, reason=reason)
        if self._acted or reason == INTERRUPTED:
            self._emit(ActionStep(clock.now_ns(), reason, failed=True))

    async def _wait_steady(self) -> None:
        """Return when every cell is steady. Raises `UserError` if that does not come in time."""
        deadline_ns = clock.now_ns() + self._timing.steady_limit_ns
        while True:
            await self._pause()
            now_ns = clock.now_ns()
            reasons = [(cell, reason) for cell in self._cells if (reason := cell.analysis.steady_reason(now_ns))]
            if not reasons:
                return
            if now_ns >= deadline_ns:
                cell, reason = reasons[0]
                raise UserError(
                    f"no steady state in {format_seconds(self._timing.steady_limit_ns)} at {cell.service}: {reason};"
                    " nothing was done"
                )

    async def _choose_pod(self) -> None:
        """Have an action that takes a pod away take one that serves sessions of all Services, and of them the busiest.

        Where it serves none, its end tests nothing.
        """
        served = [cell.analysis.sessions.by_pod() for cell in self._cells]
        pods = sorted({pod for each in served for pod in each})
        if not self._action.takes_one_pod or not pods:
            return

        def worth(pod: str) -> tuple[int, int, int]:
            counts = [each[pod] for each in served]
            return sum(count > 0 for count in counts), min(counts), sum(counts)

        busiest = max(pods, key=worth)
        self._action = self._action_on(busiest)
        await self._action.prepare()

    async def _recover(self) -> None:
        """Wait until what the action changed has settled, and no session is silent. Raises what says that it has not."""
        await self._action.wait_settled(self._timing.settle_limit_ns / NS_PER_S)
        self._tell_removed()
        if self._experiment.name == "idle":
            self._idle = await asyncio.gather(*(cell.measure_idle(ICE_INTERVAL_NS) for cell in self._cells))
        await self._wait_answered()

    async def _wait_answered(self) -> None:
        """Return when no session is silent, or when that has been waited for long enough."""
        deadline_ns = clock.now_ns() + self._timing.answer_limit_ns
        settled_ns = clock.now_ns() + max(cell.settle_ns for cell in self._cells)
        while (now_ns := clock.now_ns()) < deadline_ns:
            await self._pause()
            if now_ns >= settled_ns and all(cell.is_answered for cell in self._cells):
                return

    async def _roll_back(self) -> None:
        """Undo what was done, or wait for what heals; only a second signal ends that."""
        self._begin(Phase.ROLLBACK)
        limit_s = self._timing.settle_limit_ns / NS_PER_S
        kind = self._action.kind
        written = False
        try:
            await self._unless_ended(self._action.undo())
            written = True
            await self._unless_ended(self._action.wait_undone(limit_s))
            self._tell_removed()
            self._undone = _UNDONE[kind]
            if not self._failure:
                await self._unless_interrupted(self._wait_answered())
        except InterruptedExperimentError:
            if not self._failure:
                self._break_off(INTERRUPTED)
            self._undone = self._undone or self._left(written, "a second signal ended it")
        except (ApiError, UserError, NotSettledError) as error:
            self._failure = self._failure or f"the rollback failed: {error}"
            self._undone = self._undone or self._left(written, str(error))
        self._journal.write("rolled-back", experiment=self._experiment.name, text=self._undone)

    def _left(self, written: bool, why: str) -> str:
        """Return what is to be said of a rollback that did not come to its end; `written`: all was written back."""
        if written and self._action.kind is ActionKind.UNDONE:
            return f"written back, and not seen to settle ({why})"
        if written:
            return f"not seen to settle ({why})"
        if self._experiment.name == "command":
            return f"not undone ({why}): undo by hand what the command did"
        return f"not undone ({why}): the next experiment in this namespace mends what is left"

    async def _judge(self) -> None:
        """End the sending, and wait until all is judged."""
        self._begin(Phase.JUDGEMENT)
        for cell in self._cells:
            cell.stop()
        judged = asyncio.gather(*(cell.task for cell in self._cells))
        try:
            await unless(self._interrupts.second, _shielded(judged))
        except InterruptedExperimentError:
            for cell in self._cells:
                cell.abort()
            await judged

    def _result(self, cells: tuple[CellResult, ...]) -> ExperimentResult:
        return ExperimentResult(
            name=self._experiment.name,
            kind=self._action.kind,
            requirement=self._experiment.requirement,
            source=self._experiment.source,
            action=self._action.text if self._did else "",
            undone=self._undone,
            failure=self._failure,
            phases=self._cells[0].analysis.phases.spans() if cells else (),
            cells=cells,
        )

    async def _tell_status(self) -> None:
        while True:
            if self._phase is not None:
                lasted = format_span((clock.now_ns() - self._phase.at_ns) // NS_PER_S * NS_PER_S)
                pulses = [cell.pulse for cell in self._cells if cell.pulse is not None]
                silent = sum(pulse.silent for pulse in pulses)
                moved = sum(cell.analysis.sessions.changed for cell in self._cells)
                self._show_status(
                    f"{self._experiment.name}: {self._phase.phase.value} for {lasted} | {silent:,} silent | {moved:,} moved"
                    f" of {plural(sum(cell.sessions for cell in self._cells), 'session')}"
                )
            await asyncio.sleep(STATUS_S)

    def _begin(self, phase: Phase) -> None:
        self._phase = PhaseStarted(clock.now_ns(), phase)
        self._journal.write("phase", experiment=self._experiment.name, phase=phase.value)
        for cell in self._cells:
            cell.emit(replace(self._phase, sent=cell.sent))

    def _tell_removed(self) -> None:
        pods, nodes = sorted(self._action.removed_pods), sorted(self._action.removed_nodes)
        if pods or nodes:
            self._emit(ActionRemoved(clock.now_ns(), tuple(pods), tuple(nodes)))

    def _emit(self, event: Event) -> None:
        for cell in self._cells:
            cell.emit(event)

    async def _pause(self) -> None:
        """Let time pass. Raises what ended the run of a cell."""
        await asyncio.wait({cell.task for cell in self._cells}, timeout=POLL_S, return_when=asyncio.FIRST_EXCEPTION)
        for cell in self._cells:
            if cell.task.done():
                cell.task.result()
                raise UserError(f"the sessions of {cell.service} ended too early")

    async def _unless_interrupted(self, work: Coroutine[Any, Any, T]) -> T:
        return await unless(self._interrupts.first, work)

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        return await unless(self._interrupts.second, work)


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns. Raises `InterruptedExperimentError` when the event comes first, and cancels the work."""
    working, interrupted = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({working, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise InterruptedExperimentError
    finally:
        interrupted.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _shielded(work: asyncio.Future[T]) -> T:
    """Wait for work that goes on when the waiting is cancelled."""
    return await asyncio.shield(work)
