"""Runs the client against its target, with the cluster beside it where there is one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from affinity_tester import clock
from affinity_tester.app.container_bridge import bridge_warning
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.app.metrics_port import open_metrics_port
from affinity_tester.app.reference import find_reference
from affinity_tester.app.run import run_to_verdict, stop_on_signals
from affinity_tester.app.signals import ASKING, handle_signals
from affinity_tester.app.target import TargetContext, TargetOptions, open_target
from affinity_tester.app.violation_hook import ViolationHook
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import CaseJudged, Event, Judgement, NoReplies, Verdict
from affinity_tester.core.pulse import Pulse
from affinity_tester.errors import UserError
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import bound_source_for, local_source_for
from affinity_tester.report.reporter import Reporter
from affinity_tester.report.run_metrics import RunMetrics
from affinity_tester.settings import ClientSettings


async def run_against_target(
    settings: ClientSettings,
    options: TargetOptions,
    reporter: Reporter,
    warn: Callable[[str], None],
    metrics_at: TransportAddress | None = None,
    *,
    on_violation: str | None = None,
    fail_fast: bool = False,
) -> Verdict:
    """Probe until a signal or the settings' duration ends it, and wait for the verdict.

    `warn` is called with a text if something beside the cluster is under test. The run is scraped at `metrics_at`, if given.
    `on_violation` is a command for each incident with a violation; `fail_fast` ends the sending at the first violation.

    Raises `UserError`, and `OutputClosed` when whoever reads the log has gone.
    """
    rules = settings.rules
    stop, abort = asyncio.Event(), asyncio.Event()
    metrics = RunMetrics()
    hook = ViolationHook(on_violation, reporter.warn) if on_violation else None

    def stop_at_violation(event: Event) -> None:
        if isinstance(event, CaseJudged) and event.judgement is Judgement.VIOLATION and not stop.is_set():
            reporter.warn("the first violation ends the run (--fail-fast)")
            stop.set()

    consumers = [
        reporter.emit,
        metrics.emit,
        *([hook.emit] if hook is not None else []),
        *([stop_at_violation] if fail_fast else []),
    ]
    dispatcher = Dispatcher(RunAnalysis(rules), consumers, [reporter.advance])

    def beat(pulse: Pulse) -> None:
        reporter.beat(pulse)
        metrics.beat(pulse)

    with (
        stop_on_signals(stop, abort, dispatcher, to_the_end=True),
        handle_signals(dict.fromkeys(ASKING, lambda: reporter.show_progress(clock.now_ns()))),
    ):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(open_metrics_port(metrics_at, metrics, warn))
            if hook is not None:
                await stack.enter_async_context(hook.running())
            context = await unless_stopped(stop, stack.enter_async_context(open_target(options)))
            if line := _bridge_warning(context):
                warn(line)
            reference = await find_reference(options.reference, context.target, warn)
            if context.has_service:
                dispatcher.enrich(NoReplies, context.with_cluster_reason)
            await context.start_watch(dispatcher.emit, required=options.watch == "on", settle_ns=rules.settle_ns)

            def emit(event: Event) -> None:
                dispatcher.emit(event)
                context.observe(event)

            client = run_client(
                settings,
                context.target,
                emit,
                stop,
                abort,
                reference=reference,
                source_for=local_source_for if settings.bind is None else bound_source_for(settings.bind),
                watch_pulse=beat,
            )
            verdict = await run_to_verdict(dispatcher, client, abort, rules.settle_ns, context.request_list)
            if hook is not None:
                await hook.finish(abort)
            return verdict


async def unless_stopped(stop: asyncio.Event, opening: Coroutine[Any, Any, TargetContext]) -> TargetContext:
    """Return the opened target. Raises `KeyboardInterrupt` on a signal before: a login may be waited for without end."""
    opened, stopped = asyncio.create_task(opening), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({opened, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            return opened.result()
        raise KeyboardInterrupt
    finally:
        stopped.cancel()
        opened.cancel()
        await asyncio.wait({opened})


def _bridge_warning(context: TargetContext) -> str:
    try:
        return bridge_warning(local_source_for(context.target.address), os.environ)
    except UserError:  # no route; the run says so itself, unless another address of the target has one
        return ""
