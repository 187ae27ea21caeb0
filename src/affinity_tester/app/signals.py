"""Signals that an event loop handles, on systems where asyncio can and where it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping

TERMINATING: tuple[signal.Signals, ...] = (
    signal.SIGTERM,
    *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
)
"""What asks a process to end: SIGTERM, and SIGHUP (a terminal that closes), which Windows has not."""


@contextlib.contextmanager
def handle_signals(callbacks: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have the running loop call `callbacks[number]` for each such signal, until the context ends.

    asyncio has no signal handlers on Windows. There the signal module's own handler hands the call to the loop.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as undo:
        for number, callback in callbacks.items():
            try:
                loop.add_signal_handler(number, callback)
            except NotImplementedError:
                before = signal.signal(number, _handing_to(loop, callback))
                undo.callback(signal.signal, number, before)
            else:
                undo.callback(loop.remove_signal_handler, number)
        yield


def _handing_to(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> Callable[[int, object], None]:
    def handler(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(callback)

    return handler
