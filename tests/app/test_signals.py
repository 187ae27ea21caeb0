"""Signals in a running loop: with asyncio's handlers, and without them, as on Windows."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from affinity_tester.app.signals import handle_signals


def refuse(*_arguments: Any) -> None:
    raise NotImplementedError


@pytest.mark.parametrize("asyncio_can", [True, False])
async def test_a_signal_is_handled_in_the_loop_and_afterwards_does_what_it_did(
    asyncio_can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if not asyncio_can:
        monkeypatch.setattr(loop, "add_signal_handler", refuse)
    heard: list[tuple[str, asyncio.Task[Any] | None]] = []
    told = asyncio.Event()

    def tell(name: str) -> None:
        heard.append((name, asyncio.current_task()))
        told.set()

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with handle_signals({signal.SIGINT: lambda: tell("int"), signal.SIGTERM: lambda: tell("term")}):
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                async with asyncio.timeout(10):
                    await told.wait()
                told.clear()
        assert heard == [("term", None), ("int", None)]  # by the loop, between tasks
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
