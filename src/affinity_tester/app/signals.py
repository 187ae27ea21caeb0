"""Handles signals in an event loop, also on systems where asyncio cannot."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping

TERMINATING: tuple[signal.Signals, ...] = (
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)
"""The signals that ask a process to end: SIGTERM, and SIGHUP (a terminal that closes), which Windows does not have."""

ASKING: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGUSR1", "SIGINFO") if hasattr(signal, name)
)
"""The signals that ask how a run stands: SIGUSR1, and Ctrl-T where there is one; Windows has neither."""


@contextlib.contextmanager
def handle_signals(callbacks: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have the running loop call `callbacks[number]` on each such signal, until the context ends.

    asyncio has no signal handlers on Windows: there a handler of the signal module hands the call to the loop.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        for number, callback in callbacks.items():
            try:
                loop.add_signal_handler(number, callback)
            except NotImplementedError:
                before = signal.signal(number, _call_in_loop(loop, callback))
                undo.callback(signal.signal, number, before)
            else:
                undo.callback(loop.remove_signal_handler, number)
        yield


def _call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[int, object], None]:
    def handler(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(callback)

    return handler
