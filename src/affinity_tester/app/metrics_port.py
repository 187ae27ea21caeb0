"""The port at which a client's run is scraped."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from affinity_tester.core.address import TransportAddress
from affinity_tester.net.health import HealthServer
from affinity_tester.report.metric_families import CONTENT_TYPE, exposition
from affinity_tester.report.run_metrics import RunMetrics


@contextlib.asynccontextmanager
async def open_metrics_port(
    where: TransportAddress | None, metrics: RunMetrics, warn: Callable[[str], None]
) -> AsyncIterator[None]:
    """Answer `/metrics` there until the context ends; nowhere if `where` is None. Raises `UserError` if it cannot listen."""
    if where is None:
        yield
        return

    async def page() -> tuple[str, bytes]:
        return CONTENT_TYPE, exposition(metrics.families())

    server = await HealthServer.start((where.ip,), where.port, warn=warn, metrics=page, option="--metrics")
    try:
        yield
    finally:
        await server.close()
