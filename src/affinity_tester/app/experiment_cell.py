"""One Service of an experiment: fresh sessions, the watch of its pool, and what becomes of the sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from affinity_tester import __version__, clock
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.app.idle_run import IdleContext, measure_idle
from affinity_tester.app.reference import find_reference
from affinity_tester.app.run import run_to_verdict
from affinity_tester.app.target import TargetContext, TargetOptions, open_target
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import Event, ExperimentStarted, NoReplies, Verdict
from affinity_tester.core.experiment.analysis import ExperimentAnalysis
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.core.idle.settings import IdleSettings
from affinity_tester.core.pulse import Pulse
from affinity_tester.errors import UserError
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.reachable import find_answering
from affinity_tester.net.resolve import Target
from affinity_tester.report.recorder import RecordWriter, SparedRecord
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S, plural

DATING_NS = 2 * NS_PER_S
"""A list of one object each half of this dates when a pod served no more: servers drain for 5 s, and it must be known of a
session that it left before."""


@dataclass(frozen=True, slots=True)
class CellOptions:
    """What one Service is asked with."""

    target: TargetOptions
    settings: ClientSettings
    steady_ns: int
    """How long the sessions must be steady before the action."""
    record: Path | None
    """Where every event of the run is recorded; None: nowhere."""


class Cell:
    """A running cell: made by `running`, which ends it."""

    def __init__(
        self,
        options: CellOptions,
        context: TargetContext,
        reference: Target | None,
        experiment: str,
        warn: Callable[[str], None],
    ) -> None:
        self._options = options
        self._context = context
        self._reference = reference
        self._warn = warn
        self._stop, self._abort = asyncio.Event(), asyncio.Event()
        self.analysis = ExperimentAnalysis(EXPERIMENTS[experiment], options.steady_ns)
        record = None if options.record is None else RecordWriter(options.record, version=__version__)
        self._record = SparedRecord(record)
        self._dispatcher = Dispatcher(
            RunAnalysis(options.settings.rules), [self.analysis.feed, self._write], [self._flush]
        )
        self.pulse: Pulse | None = None
        """What the sessions were at about a second ago; None before the first."""
        self.task: asyncio.Task[Verdict] = asyncio.create_task(self._run())
        """The client's run, to its verdict; it ends early only where it fails."""

    @classmethod
    @asynccontextmanager
    async def running(cls, options: CellOptions, experiment: str, warn: Callable[[str], None]) -> AsyncIterator[Self]:
        """Start sessions and watch, and end them with the context. Raises `UserError`."""
        async with AsyncExitStack() as stack:
            context = await stack.enter_async_context(open_target(options.target))
            context.target = await _answering(context, options.settings, warn)
            reference = await find_reference(options.target.reference, context.target, warn)
            cell = cls(options, context, reference, experiment, warn)
            stack.push_async_callback(cell._close)
            service = context.service
            which = (experiment, str(service.ref), service.policy, service.affinity)
            cell.emit(ExperimentStarted(clock.now_ns(), *which, options.steady_ns))
            settle_ns = min(options.settings.rules.settle_ns, DATING_NS)
            await context.start_watch(cell._dispatcher.emit, required=True, settle_ns=settle_ns)
            yield cell

    def emit(self, event: Event) -> None:
        """Take in an event of the experiment."""
        self._dispatcher.emit(event)

    @property
    def service(self) -> str:
        """namespace/name of the Service."""
        return str(self._context.service.ref)

    @property
    def target(self) -> Target:
        """Where the probes go."""
        return self._context.target

    @property
    def via(self) -> str:
        """The way into the Service: `load-balancer`, `node-port`, ..."""
        found = self._context.found
        return "" if found is None else found.via

    @property
    def sessions(self) -> int:
        """How many there are."""
        return self._options.settings.sessions

    async def measure_idle(self, silence_ns: int) -> IdleResult:
        """Let flows beside the sessions be silent for so long, and return what became of them. Raises `UserError`."""
        settings = self._options.settings
        idle = IdleSettings(silences_ns=(silence_ns,), key=settings.key, settle_ns=settings.rules.settle_ns)
        context = IdleContext.of(self._context.found, self.analysis.timeline, self._context.request_list)
        return await measure_idle(self.target, idle, context=context)

    @property
    def settle_ns(self) -> int:
        """How long after a change of the pool sessions may be moved by it."""
        return self._options.settings.rules.settle_ns

    @property
    def sent(self) -> int | None:
        """Probes sent so far, as of about a second ago; None before the first second."""
        return None if self.pulse is None else self.pulse.total.sent

    @property
    def is_answered(self) -> bool:
        """True if no session was silent when that was last looked at."""
        return self.pulse is not None and not self.pulse.silent

    def stop(self) -> None:
        """End the sending; replies drain, and judgements settle."""
        self._stop.set()

    def abort(self) -> None:
        """End the waiting for judgements too: those still open become `unknown`."""
        self._stop.set()
        self._abort.set()

    async def _run(self) -> Verdict:
        rules, context = self._options.settings.rules, self._context
        self._dispatcher.enrich(NoReplies, context.with_cluster_reason)

        def emit(event: Event) -> None:
            self._dispatcher.emit(event)
            context.observe(event)

        client = run_client(
            self._options.settings,
            context.target,
            emit,
            self._stop,
            self._abort,
            reference=self._reference,
            source_for=local_source_for,
            watch_pulse=self._beat,
        )
        return await run_to_verdict(self._dispatcher, client, self._abort, rules.settle_ns, context.request_list)

    def _beat(self, pulse: Pulse) -> None:
        self.pulse = pulse

    def _write(self, event: Event) -> None:
        self._recorded(lambda record: record.write(event))

    def _flush(self, now_ns: int) -> None:
        self._recorded(lambda record: record.advance(now_ns))

    def _recorded(self, work: Callable[[RecordWriter], object]) -> None:
        if (error := self._record.attempt(work)) is not None:
            self._warn(f"the record {self._options.record} ends here, the experiment goes on: {error.strerror}")

    async def _close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self._recorded(RecordWriter.close)


async def _answering(context: TargetContext, settings: ClientSettings, warn: Callable[[str], None]) -> Target:
    """Return the target without the addresses that answer nothing. Raises `UserError` where none answers.

    Not every node may be reached from here: firewalls open some. An experiment compares with a steady state, and a way
    that was never open has none.
    """
    target = context.target
    answering = await find_answering(target.destinations, settings.key)
    silent = [str(each.address) for each in target.destinations if each not in answering]
    if not answering:
        where = ", ".join(silent)
        why = await context.explain_no_reply()
        raise UserError(
            f"nothing answers at {where}{f' ({why})' if why else ''}: open the way there (firewall, security group),"
            " or choose another --via"
        )
    if silent:
        warn(
            f"{plural(len(silent), 'address')} of {context.service.ref} {'answers' if len(silent) == 1 else 'answer'}"
            f" nothing and {'is' if len(silent) == 1 else 'are'} left out: {', '.join(silent)}"
        )
    first, *more = answering
    return target._replace(address=first.address, scope_id=first.scope_id, more=tuple(more))
