"""The lab's cluster as a process, and requests to its API server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from commands import PATIENCE_S, environment

COMMAND = Path(sys.executable).with_name("affinity-tester")
MERGE = {"Content-Type": "application/merge-patch+json"}


@asynccontextmanager
async def lab(kubeconfig: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A lab's cluster that is ready."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "lab-cluster",
        "--kubeconfig",
        kubeconfig,
        "--with-parent",
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("lab cluster ready"), (line, (await process.communicate())[1].decode())
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Api:
    """Requests to the lab's API server."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self.server = server

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        data = None if body is None else json.dumps(body)
        headers = MERGE if method == "PATCH" else {}
        async with self._session.request(method, self.server + path, data=data, headers=headers, **more) as answer:
            found = await answer.json()
            return found if answer.ok else (answer.status, found["reason"])

    async def until(self, path: str, true: Callable[[Any], bool]) -> Any:
        """Watch the list at a path until something holds of it."""
        async with asyncio.timeout(PATIENCE_S):
            while not true(found := await self.ask("GET", path)):
                async with self._session.get(
                    self.server + path, params={"watch": "1", "resourceVersion": found["metadata"]["resourceVersion"]}
                ) as watch:
                    await watch.content.readline()
        return found


@asynccontextmanager
async def api_of(kubeconfig: Path) -> AsyncIterator[Api]:
    config = yaml.safe_load(kubeconfig.read_text())  # noqa: ASYNC240 - a small file
    assert config["current-context"] == "lab"
    async with aiohttp.ClientSession() as session:
        yield Api(session, config["clusters"][0]["cluster"]["server"])
