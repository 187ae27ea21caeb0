"""Runs `affinity-tester server` from start to end, in one process or several: statistics, draining, the health port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from affinity_tester import __version__, clock
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_events import (
    ServerDraining,
    ServerEvent,
    ServerStarted,
    ServerStats,
    ServerStopped,
    ServerWarning,
)
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.net.addresses import is_wildcard, local_addresses
from affinity_tester.net.health import HealthServer
from affinity_tester.net.server import EchoServer
from affinity_tester.net.workers import WorkerPool
from affinity_tester.settings import ServerSettings
from affinity_tester.units import NS_PER_S

Server = EchoServer | WorkerPool


async def run_server(
    settings: ServerSettings,
    *,
    stop: asyncio.Event,
    stop_now: asyncio.Event,
    log: Callable[[ServerEvent], None],
    metrics_page: Callable[[ServerTotals, float], tuple[str, bytes]] | None = None,
) -> None:
    """Serve until `stop` is set and the drain time is over, or until `stop_now` is set. Raise `UserError`.

    While the server drains it answers as before and stays ready. Deleting a pod clears its endpoint's `ready` anyway, and a
    failing readiness probe would make the proxy flush live flows (kubernetes/kubernetes 137986), a fault of our own making.
    An exception from `log` ends the server and is raised here. `metrics_page` returns what `/metrics` on the health port
    answers, given the totals and the Unix time of the start.
    """
    hosts = settings.hosts or local_addresses()
    warnings: asyncio.Queue[ServerWarning] = asyncio.Queue()

    def warn(text: str) -> None:
        warnings.put_nowait(ServerWarning(clock.now_ns(), text))

    server = await _start(hosts, settings, warn)
    health = None
    try:
        started_s = time.time()

        async def tell_metrics() -> tuple[str, bytes]:
            assert metrics_page is not None
            return metrics_page(await server.totals(), started_s)

        if settings.health_port:
            health = await HealthServer.start(
                hosts,
                settings.health_port,
                lambda: server.unhealthy_reason,
                warn,
                metrics=tell_metrics if metrics_page is not None else None,
            )
        started_ns = clock.now_ns()
        log(
            ServerStarted(
                at_ns=started_ns,
                wall_ns=time.time_ns(),
                utc_offset_s=time.localtime().tm_gmtoff,
                version=__version__,
                pod_name=settings.pod_name,
                node_name=settings.node_name,
                instance_id=server.instance_id,
                addresses=server.addresses,
                health=health.addresses if health else (),
                keyed=settings.key is not None,
                workers=settings.workers,
            )
        )

        for host in filter(is_wildcard, hosts):
            warn(f"{host} is a wildcard: replies may leave from another address than the probe was sent to")

        background = (
            asyncio.create_task(_log_stats(server, settings.stats_interval_ns, log)),
            asyncio.create_task(_log_warnings(warnings, log)),
            asyncio.create_task(server.wait_for_failure()),
        )
        try:
            await _wait_for(stop, stop_now, or_failure_of=background)
            if not stop_now.is_set() and settings.drain_ns:
                log(ServerDraining(clock.now_ns(), settings.drain_ns))
                await _wait_for(stop_now, within_ns=settings.drain_ns, or_failure_of=background)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)

        total = await server.close()
        while not warnings.empty():
            log(warnings.get_nowait())
        ended_ns = clock.now_ns()
        log(ServerStopped(ended_ns, total, ended_ns - started_ns))
    finally:
        if health is not None:
            await health.close()
        await server.close()


async def _start(hosts: Sequence[str], settings: ServerSettings, warn: Callable[[str], None]) -> Server:
    """Start the server: in this process for one worker, in processes of their own for several."""
    if settings.workers > 1:
        return await WorkerPool.start(hosts, settings, warn)
    return await EchoServer.start(
        hosts,
        settings.port,
        pod_name=settings.pod_name,
        node_name=settings.node_name,
        key=settings.key,
        max_flows=settings.max_flows,
        limit=RateLimit.of(settings.rate_limit, settings.rate_limit_prefix, clock.now_ns()),
    )


async def _wait_for(
    *events: asyncio.Event, within_ns: int | None = None, or_failure_of: Sequence[asyncio.Task[None]]
) -> None:
    """Wait until one of the events is set, or the time is over; raise what a background task raises meanwhile."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    timeout_s = None if within_ns is None else within_ns / NS_PER_S
    try:
        await asyncio.wait([*waits, *or_failure_of], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in or_failure_of:
            if task.done():
                task.result()
    finally:
        for wait in waits:
            wait.cancel()


async def _log_warnings(warnings: asyncio.Queue[ServerWarning], log: Callable[[ServerEvent], None]) -> None:
    """Log the warnings of callbacks, which must not raise what `log` may raise."""
    while True:
        log(await warnings.get())


async def _log_stats(server: Server, interval_ns: int, log: Callable[[ServerEvent], None]) -> None:
    """Log the totals at each interval, counted from the start."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    before = await server.totals()

    while True:
        # From the time it was due, not from now, so that intervals do not drift.
        due_s += interval_ns / NS_PER_S
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        total = await server.totals()
        log(ServerStats(clock.now_ns(), total.since(before), total))
        before = total
