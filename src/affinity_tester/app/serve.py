"""Runs the server until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

from affinity_tester.app.signals import TERMINATING, handle_signals
from affinity_tester.core.server_events import ServerEvent
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.net.run_server import run_server
from affinity_tester.report.logging import OutputClosed
from affinity_tester.report.metric_families import CONTENT_TYPE, exposition
from affinity_tester.report.server_metrics import server_families
from affinity_tester.settings import ServerSettings


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the event loop to serve on; None: the default one. That of Windows lacks `add_reader`."""
    return asyncio.SelectorEventLoop if sys.platform == "win32" else None


async def serve(settings: ServerSettings, log: Callable[[ServerEvent], None]) -> None:
    """Serve until a signal: SIGINT ends it at once, SIGTERM and SIGHUP let it drain, and a second one ends that too.

    Raises `UserError`, and `OutputClosed` when whoever reads the log has gone.
    """
    stop, stop_now = asyncio.Event(), asyncio.Event()
    closed: OutputClosed | None = None

    def terminate() -> None:
        (stop_now if stop.is_set() else stop).set()

    def emit(event: ServerEvent) -> None:
        """Log an event. An output that closes ends the server, unless it drains: the terminal that closed may be why."""
        nonlocal closed
        if closed is None:
            try:
                log(event)
            except OutputClosed as error:
                if not stop.is_set():
                    raise
                closed = error

    with handle_signals({signal.SIGINT: stop_now.set, **dict.fromkeys(TERMINATING, terminate)}):
        await run_server(settings, stop=stop, stop_now=stop_now, log=emit, metrics_page=_metrics_page)
    if closed is not None:
        raise closed


def _metrics_page(totals: ServerTotals, started_s: float) -> tuple[str, bytes]:
    return CONTENT_TYPE, exposition(server_families(totals, started_s))
