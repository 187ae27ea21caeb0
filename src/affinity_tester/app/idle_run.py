"""Measures how long a flow may be silent on the way to a target, beside the watch of its pool where there is one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from affinity_tester import clock
from affinity_tester.app.client_run import unless_stopped
from affinity_tester.app.clouds import UDP_IDLE_S, cloud_of_balancer
from affinity_tester.app.signals import ASKING, TERMINATING, handle_signals
from affinity_tester.app.target import TargetOptions, open_target
from affinity_tester.cluster.discover import Found
from affinity_tester.core.events import Event, PoolConfirmed, PoolNotWatched, PoolObserved, PoolUnobserved
from affinity_tester.core.idle.advice import LINUX_TIMEOUTS, KnownTimeout
from affinity_tester.core.idle.estimate import curves
from affinity_tester.core.idle.grid import MAX_SAMPLES, PlannedSample, grid, plan_round, round_ns, steps_of
from affinity_tester.core.idle.model import Property, SampleResult
from affinity_tester.core.idle.results import GIVE_UP, IdleResult, nothing_answered, second_round
from affinity_tester.core.idle.settings import IdleSettings
from affinity_tester.core.idle.view import PathView
from affinity_tester.core.pool_timeline import PoolTimeline
from affinity_tester.errors import UserError
from affinity_tester.net.idle import run_round
from affinity_tester.net.probe_socket import bound_source_for, local_source_for
from affinity_tester.net.resolve import Target
from affinity_tester.report.idle_report import IdleReport
from affinity_tester.units import NS_PER_S

ADVANCE_S = 0.25
"""How often the time that has passed is looked at."""


def _request_nothing(_after_ns: int | None) -> None:
    """Without a watch no list can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleContext:
    """What is known of the way to the target; by default nothing."""

    timeline: PoolTimeline = field(default_factory=PoolTimeline)
    """The watched pool, which the caller keeps feeding; unwatched: no change of the pool is seen."""
    request_list: Callable[[int | None], None] = _request_nothing
    """Has the pool listed later than a time (None: no list is wanted)."""
    policy: str = ""
    """externalTrafficPolicy; empty: not known."""
    affinity: str = ""
    """sessionAffinity; empty: not known."""
    via: str = ""
    """The way into the Service; empty: not known."""
    known: tuple[KnownTimeout, ...] = LINUX_TIMEOUTS
    """Timeouts on the way."""

    @classmethod
    def of(cls, found: Found | None, timeline: PoolTimeline, request_list: Callable[[int | None], None]) -> IdleContext:
        """Return the context of a Service; with None, of an address of which nothing is known."""
        if found is None:
            return cls(timeline=timeline, request_list=request_list)
        service = found.service
        return cls(
            timeline=timeline,
            request_list=request_list,
            policy=service.policy,
            affinity=service.affinity,
            via=found.via,
            known=(*_service_timeouts(found), *LINUX_TIMEOUTS),
        )


def _service_timeouts(found: Found) -> Iterable[KnownTimeout]:
    """Yield the timeouts that a Service says of itself, or that its balancer is documented to have."""
    service = found.service
    timeout = (service.traffic_field("sessionAffinityTimeout") or "").removesuffix(" s")
    if service.affinity == "ClientIP" and timeout.isdigit():
        name = "the Service's sessionAffinityConfig.clientIP.timeoutSeconds"
        yield KnownTimeout(name, int(timeout) * NS_PER_S, Property.POD)
    if found.via == "load-balancer":
        annotations = (name.removeprefix("annotation ") for name, _ in service.fields if name.startswith("annotation "))
        cloud = cloud_of_balancer(annotations, service.ingress)
        if cloud in UDP_IDLE_S:
            yield KnownTimeout(f"the balancer's, as {cloud}'s documents say", UDP_IDLE_S[cloud] * NS_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a measurement is."""

    round: int
    """1 or 2; 0: both are over, and a list of the pool is waited for."""
    done: int
    planned: int
    """Samples of this round."""
    ends_ns: int
    """When the round ends at the latest, unless this machine is busy."""


async def measure_idle(
    target: Target,
    settings: IdleSettings,
    *,
    context: IdleContext | None = None,
    stop: asyncio.Event | None = None,
    abort: asyncio.Event | None = None,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
) -> IdleResult:
    """Measure how long flows to a resolved target may be silent, and return what the samples say.

    The experiment `idle` needs no more than `measure_idle(target, IdleSettings(silences_ns=(15 * NS_PER_S,)))`, which takes
    about 20 s: 20 flows in each of both states. With a `context` whose timeline it feeds, changes of the pool void the
    samples they touch, and the result comes a settle time later. `stop` ends the measurement with the samples so far;
    `abort` the wait after it, too. Raises `UserError`.
    """
    return await _Measurement(target, settings, context or IdleContext(), on_progress).run(
        stop or asyncio.Event(), abort or asyncio.Event()
    )


class _Measurement:
    """The rounds of one measurement."""

    def __init__(
        self, target: Target, settings: IdleSettings, context: IdleContext, on_progress: Callable[[Progress], None]
    ) -> None:
        self._target = target
        self._settings = settings
        self._context = context
        self._on_progress = on_progress
        self._results: list[SampleResult] = []
        self._planned = 0

    async def run(self, stop: asyncio.Event, abort: asyncio.Event) -> IdleResult:
        settings = self._settings
        silences = settings.silences_ns or grid(settings.longest_ns)
        first = [(step, settings.samples) for step in steps_of(silences, settings.directions)]
        if sum(count for _, count in first) > MAX_SAMPLES:
            raise UserError(
                f"{len(first)} steps with {settings.samples} samples each are more than {MAX_SAMPLES:,} sockets: take"
                " fewer --samples"
            )
        await self._round(1, plan_round(first), stop)

        repeated = 0
        if not stop.is_set():
            found = curves(self._results, self._view(), self._is_void)
            known = {step for step, _ in first}
            second = second_round(found, settings.samples)
            if settings.silences_ns:
                second = tuple((step, count) for step, count in second if step in known)
            repeated = sum(count for step, count in second if step in known)
            if second:
                await self._round(2, plan_round(second), stop)
        await self._settle(abort)
        return IdleResult.of(
            self._results,
            self._view(),
            self._is_void,
            longest_ns=max(silences),
            watched=self._context.timeline.watched,
            planned=self._planned,
            repeated=repeated,
            known=self._context.known,
        )

    async def _round(self, number: int, planned: tuple[PlannedSample, ...], stop: asyncio.Event) -> None:
        self._planned += len(planned)
        before = len(self._results)
        ends_ns = clock.now_ns() + round_ns(planned)

        def tell() -> None:
            done = len(self._results) - before
            self._on_progress(Progress(round=number, done=done, planned=len(planned), ends_ns=ends_ns))

        async def tell_often() -> None:
            while True:
                tell()
                await asyncio.sleep(ADVANCE_S)

        def take(result: SampleResult) -> None:
            self._results.append(result)
            if len(self._results) == GIVE_UP and nothing_answered(self._results):
                stop.set()

        bind = self._settings.bind
        telling = asyncio.create_task(tell_often())
        try:
            await run_round(
                planned,
                self._target.destinations,
                stop,
                take,
                source_for=local_source_for if bind is None else bound_source_for(bind),
                key=self._settings.key,
            )
        finally:
            telling.cancel()

    async def _settle(self, abort: asyncio.Event) -> None:
        """Wait until it is known whether the pool changed near the last sample; a dead API server must not hold it."""
        timeline, settle_ns = self._context.timeline, self._settings.settle_ns
        if not timeline.watched or not self._results:
            return
        after_ns = max(result.ended_ns for result in self._results) + settle_ns
        deadline_ns = clock.now_ns() + 2 * settle_ns + 5 * NS_PER_S
        done = len(self._results)
        self._on_progress(Progress(round=0, done=done, planned=self._planned, ends_ns=deadline_ns))
        aborted = asyncio.ensure_future(abort.wait())
        try:
            while not timeline.confirmed_after(after_ns) and clock.now_ns() < deadline_ns and not abort.is_set():
                self._context.request_list(after_ns)
                await asyncio.wait({aborted}, timeout=ADVANCE_S)
        finally:
            self._context.request_list(None)
            aborted.cancel()

    def _view(self) -> PathView:
        context = self._context
        return PathView.of(
            self._results,
            context.timeline.snapshot,
            policy=context.policy,
            affinity=context.affinity,
            via=context.via,
            is_cluster_ip=context.via == "cluster-ip",
        )

    def _is_void(self, result: SampleResult) -> bool:
        """True if a change of the pool may have touched a sample, or the watch was interrupted during it."""
        timeline, settle_ns = self._context.timeline, self._settings.settle_ns
        if not timeline.watched:
            return False
        reach = result.begun_ns - settle_ns, result.ended_ns + settle_ns
        changed = next(timeline.perhaps_within(*reach), None) is not None
        return changed or timeline.unobserved_within(result.begun_ns, result.ended_ns) is not None


def feed_timeline(timeline: PoolTimeline, event: Event) -> None:
    """Put what the watch tells into the timeline; other events have no place there."""
    match event:
        case PoolObserved():
            timeline.observed(event.since_ns, event.until_ns, event.snapshot, event.changes, event.asked_ns)
        case PoolConfirmed():
            timeline.confirmed(event.asked_ns)
        case PoolUnobserved():
            timeline.unobserved(event.since_ns)
        case _:
            pass


async def run_idle(settings: IdleSettings, options: TargetOptions, report: IdleReport) -> IdleResult:
    """Measure until a signal or the end, tell it, and return the result. Raises `UserError` and `OutputClosed`."""
    stop, abort = asyncio.Event(), asyncio.Event()
    timeline = PoolTimeline()

    def on_signal() -> None:
        if stop.is_set():
            abort.set()
        stop.set()

    def emit(event: Event) -> None:
        feed_timeline(timeline, event)
        if isinstance(event, PoolNotWatched):
            why = f"the pool is not watched ({event.reason}): changes of it are not told from expired flows"
            report.warn(clock.now_ns(), why)

    def on_question() -> None:
        report.show_progress(clock.now_ns())

    callbacks = dict.fromkeys((signal.SIGINT, *TERMINATING), on_signal) | dict.fromkeys(ASKING, on_question)
    with handle_signals(callbacks):
        async with AsyncExitStack() as stack:
            context = await unless_stopped(stop, stack.enter_async_context(open_target(options)))
            report.started(clock.now_ns(), context.target.address, settings)
            await context.start_watch(emit, required=options.watch == "on", settle_ns=settings.settle_ns)
            result = await measure_idle(
                context.target,
                settings,
                context=IdleContext.of(context.found, timeline, context.request_list),
                stop=stop,
                abort=abort,
                on_progress=lambda p: report.progress(clock.now_ns(), p.round, p.done, p.planned, p.ends_ns),
            )
    report.result(clock.now_ns(), result)
    return result
