"""The installed command, started and run to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import busy
from commands import Client, Ended, Run, Start, environment


@pytest.fixture
def start(affinity_tester: Path) -> Start:
    """Starts the client; what is still running in the end is killed."""

    @asynccontextmanager
    async def running(
        *arguments: object, before: Callable[[], None] | None = None, **extra: str
    ) -> AsyncIterator[Client]:
        process = await asyncio.create_subprocess_exec(
            affinity_tester,
            "client",
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(**extra),
            preexec_fn=before,
        )
        try:
            yield Client(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    return running


@pytest.fixture
def run(start: Start) -> Run:
    """Runs the client to its end; of several that are asked for together, no more at once than the machine can start."""
    machine = asyncio.Semaphore(busy.clients_at_a_time())

    async def to_the_end(*arguments: object, **extra: Any) -> Ended:
        async with machine, start(*arguments, **extra) as client:
            return await client.end()

    return to_the_end
