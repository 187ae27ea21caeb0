"""The installed command as a process: what it says line by line, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import busy

OWN = ("AFFINITY_", "POD_", "NODE_NAME", "TARGET_ADDR", "NO_COLOR", "FORCE_COLOR")
NO_KUBECONFIG = "/nonexistent/kubeconfig"
"""A test asks no cluster that its surroundings know."""
MS = 1_000_000
PATIENCE_S = 60
"""For a process on a busy machine."""

TIME = r"\d\d:\d\d:\d\d\.\d{3}"


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what the tests' own surroundings may have set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    return own | {"KUBECONFIG": NO_KUBECONFIG} | extra


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    """Its whole log."""
    err: str

    @property
    def last(self) -> str:
        """The first line of the verdict."""
        return next((line for line in self.out.splitlines() if re.match("PASS|FAIL|INCONCLUSIVE", line)), "")


class Client:
    """A running `affinity-tester client`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        assert process.stdout is not None
        self.stdout = process.stdout
        self.read: list[str] = []
        """What was read of its log."""

    async def line(self) -> str:
        """The next line of its log."""
        async with asyncio.timeout(PATIENCE_S):
            self.read.append((await self.stdout.readline()).decode())
        return self.read[-1].rstrip("\n")

    async def until(self, pattern: str) -> str:
        """Read on until a line has this."""
        while not re.search(pattern, line := await self.line()):
            assert line or not self.stdout.at_eof(), f"it ended without {pattern!r}"
        return line

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> Ended:
        """Wait for its end."""
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        busy.look_at("".join(self.read) + out.decode())
        return Ended(self.process.returncode, "".join(self.read) + out.decode(), err.decode())


Start = Callable[..., Any]
"""Starts `affinity-tester client` with arguments and environment; what still runs in the end is killed."""

Run = Callable[..., Any]
"""Runs it to its end: `Ended`."""
