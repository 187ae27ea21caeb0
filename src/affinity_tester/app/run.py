"""Runs a client, live or in the lab, until its verdict: nothing is judged before all that it depends on is known."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from affinity_tester import clock
from affinity_tester.app.dispatcher import Dispatcher
from affinity_tester.app.signals import TERMINATING, handle_signals
from affinity_tester.core.events import RunEnded, Settling, Verdict
from affinity_tester.units import NS_PER_S

ADVANCE_S = 0.25
"""How often time alone may make a judgement certain."""

SETTLING_NS = 5 * NS_PER_S
"""How often the run says what it still waits for."""


def _request_nothing(_after_ns: int | None) -> None:
    """Without a watch no list can be had."""


async def run_to_verdict(
    dispatcher: Dispatcher,
    client: Awaitable[None],
    abort: asyncio.Event,
    settle_ns: int,
    request_list: Callable[[int | None], None] = _request_nothing,
) -> Verdict:
    """Let the client's run end, then wait until every judgement is certain, or until `abort` is set.

    `request_list` is told, as often as time passes, after when a list of the pool is wanted (None: none is).
    Raises what the client raises, and what ended the dispatcher.
    """
    analysis = dispatcher.analysis
    running = asyncio.ensure_future(client)
    failed = asyncio.ensure_future(dispatcher.failed.wait())
    aborted = asyncio.ensure_future(abort.wait())

    async def advance_beside(awaited: asyncio.Future[Any]) -> None:
        await asyncio.wait({awaited, failed}, timeout=ADVANCE_S, return_when=asyncio.FIRST_COMPLETED)
        dispatcher.raise_failure()
        request_list(analysis.next_list_after_ns)
        dispatcher.advance()

    try:
        while not running.done():
            await advance_beside(running)
        running.result()

        # A list of the pool is asked for as soon as the settle time is over; a dead API server must not hold the run.
        deadline_ns = clock.now_ns() + 2 * settle_ns + 5 * NS_PER_S
        say_ns = 0
        while not analysis.settled and not abort.is_set() and (now_ns := clock.now_ns()) < deadline_ns:
            if analysis.open_count and now_ns >= say_ns:
                dispatcher.emit(Settling(now_ns, analysis.open_count, deadline_ns - now_ns))
                say_ns = now_ns + SETTLING_NS
            await advance_beside(aborted)

        dispatcher.emit(RunEnded(clock.now_ns(), abort.is_set()))
        dispatcher.raise_failure()
    finally:
        # The client is still there when something else failed: it must be gone before its sockets' environment is.
        for task in (running, failed, aborted):
            task.cancel()
        await dispatcher.close()
        await asyncio.gather(running, failed, aborted, return_exceptions=True)
    assert dispatcher.verdict is not None, "the end of a run has a verdict"
    return dispatcher.verdict


@contextlib.contextmanager
def stop_on_signals(
    stop: asyncio.Event, abort: asyncio.Event, dispatcher: Dispatcher, *, to_the_end: bool = False
) -> Iterator[None]:
    """Set `stop` on SIGINT, SIGTERM and SIGHUP (a dropped terminal).

    A second one, or the first when sending has stopped by itself, sets `abort` too. `to_the_end`: the process ends with this
    run; a signal that comes when the verdict is told must not take its exit code away.
    """
    numbers = (signal.SIGINT, *TERMINATING)

    def on_signal() -> None:
        if stop.is_set() or not dispatcher.sending:
            abort.set()
        stop.set()

    try:
        with handle_signals(dict.fromkeys(numbers, on_signal)):
            yield
    finally:
        if to_the_end and stop.is_set():
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
