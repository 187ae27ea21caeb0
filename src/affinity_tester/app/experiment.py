"""Runs experiments one after the other: rights, the Lease, what earlier ones left, the matrix's Services, and the report."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from affinity_tester import __version__, clock
from affinity_tester.app.experiment_cell import CellOptions
from affinity_tester.app.experiment_checks import check_actions, check_context, show_plan
from affinity_tester.app.experiment_file import Planned
from affinity_tester.app.experiment_journal import Journal, journal_path, record_path
from affinity_tester.app.experiment_objects import manifest_object, read_provider_id, service_object
from affinity_tester.app.experiment_run import (
    ExperimentRun,
    InterruptedExperimentError,
    Interrupts,
    Timing,
    unless,
)
from affinity_tester.app.signals import ASKING, TERMINATING, handle_signals
from affinity_tester.app.target import TargetOptions
from affinity_tester.cluster.actions.base import Action, ActionContext, ActionOptions, NotSettledError, Step
from affinity_tester.cluster.actions.lease import ExperimentLease
from affinity_tester.cluster.actions.matrix_services import MatrixServices
from affinity_tester.cluster.actions.mend import mend
from affinity_tester.cluster.actions.mend import rights as mending_rights
from affinity_tester.cluster.actions.select import action_of
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster, connect
from affinity_tester.cluster.discover import OWN_SERVICE, split_service
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.ran_on import read_ran_on
from affinity_tester.core.experiment.phases import INTERRUPTED
from affinity_tester.core.experiment.results import ExperimentReport, ExperimentResult
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import local_addresses
from affinity_tester.report.logging import OutputClosed
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S, plural

T = TypeVar("T")

ENDING = "interrupted: what was done is undone now; a second signal ends that, too"
"""What is said of the first signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentOptions:
    """What the user asked for."""

    experiments: tuple[Planned, ...]
    target: TargetOptions
    """Its `service` may be None: the one that k8s/service.yaml makes."""
    settings: ClientSettings
    matrix: bool = False
    steady_ns: int = 10 * NS_PER_S
    timing: Timing = field(default_factory=Timing)
    record: Path | None = None
    """A directory, for the records of all runs and the journal."""
    confirmed_context: str | None = None
    """The context's name as it was repeated on the command line."""
    dry_run: bool = False


class Progress(Protocol):
    """Who shows how experiments go."""

    def step(self, line: dict[str, Any]) -> None:
        """Show a line of the journal."""

    def result(self, result: ExperimentResult) -> None:
        """Show what one experiment came to."""

    def status(self, text: str) -> None:
        """Show how it stands, in place of what was shown so before."""

    def show_progress(self) -> None:
        """Write how it stands as a line, since a signal asked."""

    def note(self, text: str) -> None:
        """Show a line that belongs to no step."""

    def warn(self, text: str) -> None:
        """Show a warning."""


async def run_experiments(options: ExperimentOptions, progress: Progress) -> ExperimentReport | None:
    """Run the experiments, and return what they came to; None after a dry run.

    The first signal undoes what was done, and the report is of what was run; the second one ends the undoing as well. One
    that asks how a run stands is answered, and ends nothing.
    Raises `UserError`, `ApiError` as one, and `KeyboardInterrupt` for a signal before anything was done.
    """
    interrupts = Interrupts()
    numbers = (signal.SIGINT, *TERMINATING)

    def on_signal() -> None:
        if not interrupts.first.is_set():
            with contextlib.suppress(OutputClosed):  # it is raised where something else is shown
                progress.note(ENDING)
        interrupts.interrupt()

    def on_question() -> None:
        with contextlib.suppress(OutputClosed):
            progress.show_progress()

    with handle_signals({**dict.fromkeys(numbers, on_signal), **dict.fromkeys(ASKING, on_question)}):
        try:
            cluster = await unless(interrupts.first, connect(options.target.cluster))
        except InterruptedExperimentError:
            raise KeyboardInterrupt from None
        try:
            return await _Experiments(options, cluster, interrupts, progress).run()
        except ApiError as error:
            advice = f": {error.advice}" if error.advice else ""
            raise UserError(f"context {cluster.context}: {error}{advice}") from error
        except InterruptedExperimentError:
            raise KeyboardInterrupt from None
        finally:
            await cluster.close()


class _Experiments:
    """One call of the command, against one cluster."""

    def __init__(
        self, options: ExperimentOptions, cluster: Cluster, interrupts: Interrupts, progress: Progress
    ) -> None:
        self._options = options
        self._interrupts = interrupts
        self._progress = progress
        self._started_wall_ns = time.time_ns()
        self._current: ExperimentRun | None = None
        self._output_closed: OutputClosed | None = None
        """Raised in the end, where the reader of the output has gone."""
        self._via: str = options.target.via
        """The way into the Services, once that is known."""
        namespace, name = split_service(options.target.service or OWN_SERVICE)
        service = ServiceRef(namespace or cluster.namespace, name)
        self._context = ActionContext(
            cluster=cluster,
            namespace=service.namespace,
            services=(service,),
            emit_step=self._take_step,
            now_ns=clock.now_ns,
            client_nodes=tuple(filter(None, [os.environ.get("NODE_NAME")])),
            client_addresses=local_addresses(),
            kubeconfig=options.target.cluster.kubeconfig or os.environ.get("KUBECONFIG", ""),
        )
        self._lease = ExperimentLease(self._context, self._lease_lost)
        self._journal: Journal | None = None
        self._matrix: MatrixServices | None = None

    async def run(self) -> ExperimentReport | None:
        """Run all. Raises `UserError`, `ApiError`, and `InterruptedExperimentError` before anything was done."""
        options = self._options
        if not options.dry_run:
            check_context(options.experiments, self._context.cluster.context, options.confirmed_context)
        if options.matrix:
            self._matrix = await self._make_matrix()
            services = tuple(cell.ref for cell in self._matrix.cells)
            self._context = replace(self._context, services=services)
        if options.dry_run:
            self._progress.note(f"{self._where()}; a dry run: nothing is done")
        await unless(self._interrupts.first, self._check())
        if options.dry_run:
            return None

        self._journal = Journal(journal_path(options.record), lambda line: self._show(self._progress.step, line))
        try:
            async with self._lease:
                self._begin()
                if self._lease.took_over:
                    self._progress.note(f"an experiment of {self._lease.took_over} did not end: what it left is mended")
                await mend(self._context)
                async with self._matrix_services():
                    results = await self._run_each()
                    ran_on = await read_ran_on(self._context.cluster, self._context.services, self._via)
                await self._mend_late()
            self._write("ended", experiments=len(results))
        finally:
            self._journal.close()
        if self._output_closed is not None:
            raise self._output_closed
        return ExperimentReport(
            version=__version__,
            started_wall_ns=self._started_wall_ns,
            matrix=options.matrix,
            sessions=options.settings.sessions,
            interval_ns=options.settings.interval_ns,
            ran_on=ran_on,
            results=tuple(results),
        )

    def _begin(self) -> None:
        """Write what is acted on, before anything is changed."""
        planned, settings = self._options.experiments, self._options.settings
        self._write(
            "began",
            text=f"{self._where()}: {plural(len(planned), 'experiment')} with {plural(settings.sessions, 'session')}"
            f"{' of each' if self._matrix is not None else ''}",
            version=__version__,
            context=self._context.cluster.context,
            namespace=self._context.namespace,
            services=[str(service) for service in self._context.services],
            experiments=[each.name for each in planned],
        )

    def _where(self) -> str:
        """Return which cluster, namespace and Services are acted on, for people who may have meant another."""
        services = self._context.services
        which = f"Service {services[0].name}" if self._matrix is None else f"{len(services)} Services of its own"
        return f"context {self._context.cluster.context}, namespace {self._context.namespace}, {which}"

    async def _make_matrix(self) -> MatrixServices:
        load_balancer = self._options.target.via == "load-balancer"
        provider = await read_provider_id(self._context.api) if load_balancer else ""
        return MatrixServices(
            self._context,
            lambda policy, affinity: service_object(policy, affinity, provider),
            load_balancer=load_balancer,
        )

    async def _check(self) -> None:
        """Check what is asked for, or show what it would do in a dry run. Raises `UserError` and `ApiError`."""
        context, actions = self._context, list[Action]()
        if self._matrix is not None:
            context = replace(context, planned_services=self._matrix.planned)
            actions.append(self._matrix)
        actions += [action_of(each.name, context, self._action_options(each)) for each in self._options.experiments]
        if self._options.dry_run:
            await show_plan(actions, self._lease.calls(), self._progress.note)
        else:
            rights = [*self._lease.rights(), *mending_rights(context)]
            await check_actions(context.api, actions, rights, self._progress.note)

    # --- running -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _matrix_services(self) -> AsyncIterator[None]:
        """Have the matrix's Services, where there is a matrix."""
        if self._matrix is None:
            yield
            return
        limit_s = self._options.timing.settle_limit_ns / NS_PER_S
        try:
            await unless(self._interrupts.first, self._matrix.act())
            await unless(self._interrupts.first, self._matrix.wait_settled(limit_s))
            yield
        except NotSettledError as error:
            raise UserError(f"the matrix's Services are not ready: {error}") from error
        finally:
            await self._delete_matrix(self._matrix, limit_s)

    async def _mend_late(self) -> None:
        """Bring back what a write did that was answered too late to be undone with the others."""
        try:
            await mend(self._context)
        except (ApiError, UserError) as error:
            self._warn(f"what may be left could not be looked for ({error}): the next experiment does")

    async def _delete_matrix(self, matrix: MatrixServices, limit_s: float) -> None:
        try:
            await unless(self._interrupts.second, matrix.undo())
            await unless(self._interrupts.second, matrix.wait_undone(limit_s))
        except (ApiError, UserError, NotSettledError, InterruptedExperimentError) as error:
            why = str(error) or INTERRUPTED
            self._warn(
                f"the matrix's Services are not all deleted ({why}): they are looked for once more, and the next experiment"
                f" in namespace {self._context.namespace} deletes what is left then"
            )

    async def _run_each(self) -> list[ExperimentResult]:
        results: list[ExperimentResult] = []
        planned = self._options.experiments
        for number, each in enumerate(planned, 1):
            self._write("experiment", experiment=each.name, number=number, of=len(planned))
            results.append(await self._run_one(each))
            if self._journal is not None:
                self._journal.write_result(results[-1])
            self._show(self._progress.result, results[-1])
            if self._interrupts.first.is_set():
                self._tell_left_out(planned[number:])
                break
        return results

    def _tell_left_out(self, left: Sequence[Planned]) -> None:
        """Say which experiments a signal ended before they began: no report has them."""
        if left:
            self._show(self._progress.note, f"not run: {', '.join(each.name for each in left)}")

    async def _run_one(self, planned: Planned) -> ExperimentResult:
        assert self._journal is not None, "the experiments have begun"
        options = self._action_options(planned)

        def action_on(pod: str) -> Action:
            chosen = replace(options, pod=pod) if pod and not options.pod else options
            return action_of(planned.name, self._context, chosen)

        run = self._current = ExperimentRun(
            planned.name,
            action_on,
            self._options.timing,
            self._interrupts,
            journal=self._journal,
            show_status=self._progress.status,
        )
        try:
            result = await run.run(self._cells(planned.name), self._warn)
            self._via = run.via
            return result
        except InterruptedExperimentError:
            return run.failed(INTERRUPTED)
        except (UserError, ApiError) as error:
            if len(self._options.experiments) == 1:
                raise
            return run.failed(str(error))
        finally:
            self._current = None

    def _cells(self, name: str) -> list[CellOptions]:
        """Return what each Service is asked with."""
        options = self._options
        refs = self._context.services
        via = "node-port" if options.matrix and options.target.via == "auto" else options.target.via
        return [
            CellOptions(
                target=replace(options.target, service=str(ref), via=via),
                settings=options.settings,
                steady_ns=options.steady_ns,
                record=record_path(options.record, name, ref.name if options.matrix else ""),
            )
            for ref in refs
        ]

    def _action_options(self, planned: Planned) -> ActionOptions:
        if planned.name != "node-scaleup":
            return planned.options
        nodes = str(planned.options.nodes)
        return replace(planned.options, node_scaleup=manifest_object("node-scaleup", {"NODES": nodes}))

    def _take_step(self, step: Step) -> None:
        """Take in what an action tells: within an experiment its record has it too."""
        if self._current is not None:
            self._current.take_step(step)
            return
        if self._journal is not None:
            self._journal.write_step(step)

    def _write(self, step: str, **fields: Any) -> None:
        if self._journal is not None:
            self._journal.write(step, **fields)

    def _show(self, show: Callable[[T], None], what: T) -> None:
        """Show something. Where nobody reads it any more, end as on a signal: what was changed must still be undone."""
        if self._output_closed is None:
            try:
                show(what)
            except OutputClosed as closed:
                self._output_closed = closed
                self._interrupts.interrupt()

    def _warn(self, text: str) -> None:
        self._show(self._progress.warn, text)

    def _lease_lost(self, reason: str) -> None:
        self._warn(f"{reason}: the experiment ends, and undoes what it did")
        self._interrupts.interrupt()
