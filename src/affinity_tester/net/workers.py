"""Several processes that answer as one server: one INSTANCE-ID, the same addresses, totals over all.

The kernel spreads flows over the sockets that share an address (SO_REUSEPORT) by a hash of source and destination.
This process binds all of them and keeps them open, so that the set never changes while it lives: a flow always meets
the same worker, which has all its counts. Only a client that moves to another address of the server may meet another;
it then sees a count that falls, and a loss whose direction is unknown.

When a worker dies its counts are lost, and go on from 1 under the same INSTANCE-ID they could blame the wrong
direction for a loss. So the server then ends, as it does when it is one process; what restarts it draws a new id.
Workers live by a pipe, and end with this process however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import NoReturn, Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.server_events import ServerTotals
from affinity_tester.core.stun import ResponseEncoder
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import bind_udp, bound_address, let_others_join
from affinity_tester.net.worker import Task, read_totals
from affinity_tester.settings import ServerSettings

PATIENCE_S = 5.0
"""How long a worker may take to tell its totals, or to end, before it is passed over, or killed."""


class _Worker:
    """One process, and what it told."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.totals = ServerTotals()
        """The last it told."""
        self.told = asyncio.Event()
        """Set when it tells something; at its end, for good."""
        self.listening = asyncio.create_task(self._listen())
        """Fails when the worker ends."""

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def ask(self) -> None:
        """Have it tell its totals."""
        if not self.listening.done():
            self.told.clear()
            self.write("")
            await self.told.wait()

    async def _listen(self) -> NoReturn:
        assert self.process.stdout is not None
        try:
            while line := await self.process.stdout.readline():
                self.totals = read_totals(line)
                self.told.set()
            code = await self.process.wait()
        finally:
            self.told.set()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise UserError(
            f"{self.name} {how}, and the counts of its sessions are lost: start the server again (out of memory?)"
        )

    async def end(self) -> None:
        """Have it end, and wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await asyncio.gather(self.listening, return_exceptions=True)


class WorkerPool:
    """A running server of several processes. It runs until `close`, or until a worker ends."""

    def __init__(self, instance_id: bytes, sockets: list[list[socket.socket]]) -> None:
        self._sockets = sockets
        self._workers: list[_Worker] = []
        self.instance_id = instance_id
        """INSTANCE-ID of every reply."""
        self.addresses: tuple[TransportAddress, ...] = tuple(map(bound_address, sockets[0]))
        """Where it answers."""

    @classmethod
    async def start(cls, hosts: Iterable[str], settings: ServerSettings) -> Self:
        """Bind, start the workers, and wait until all answer. Raises `UserError` as `EchoServer.start` does."""
        if sys.platform != "linux":
            raise UserError("only Linux spreads flows over several workers; choose --workers 1")
        instance_id = secrets.token_bytes(8)
        try:
            ResponseEncoder(settings.pod_name, settings.node_name, instance_id)
        except ValueError as error:
            raise UserError(str(error)) from error
        self = cls(instance_id, _bind(hosts, settings.port, settings.workers))
        try:
            for index, sockets in enumerate(self._sockets, 1):
                task = Task(
                    fds=[sock.fileno() for sock in sockets],
                    pod_name=settings.pod_name,
                    node_name=settings.node_name,
                    instance_id=instance_id.hex(),
                    key=None if settings.key is None else settings.key.hex(),
                    max_flows=max(1, settings.max_flows // settings.workers),
                )
                self._workers.append(await _spawn(f"worker {index} of {settings.workers}", task))
            await asyncio.gather(*(worker.ask() for worker in self._workers))
            for worker in self._workers:
                if worker.listening.done():
                    await worker.listening
        except BaseException:
            await self.close()
            raise
        return self

    async def totals(self) -> ServerTotals:
        """What all workers counted so far; one that does not answer in time counts with the last that it told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(worker.ask() for worker in self._workers))
        return reduce(add, (worker.totals for worker in self._workers))

    async def failure(self) -> NoReturn:
        """Wait for the end of a worker that nobody ended. Raises `UserError`, or `WorkerError` for a bug."""
        ended, _ = await asyncio.wait(
            [worker.listening for worker in self._workers], return_when=asyncio.FIRST_COMPLETED
        )
        for listening in ended:
            await listening
        raise AssertionError

    async def close(self) -> None:
        """End the workers and close the sockets; it is silent when this returns."""
        await asyncio.gather(*(worker.end() for worker in self._workers))
        for sockets in self._sockets:
            for sock in sockets:
                sock.close()


async def _spawn(name: str, task: Task) -> _Worker:
    # -P: what lies in the current directory is not the worker's to import. A session of its own: Ctrl-C is for the
    # parent alone.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "affinity_tester.net.worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=task.fds,
        start_new_session=True,
    )
    worker = _Worker(f"{name} (process {process.pid})", process)
    worker.write(json.dumps(asdict(task)))
    return worker


def _bind(hosts: Iterable[str], port: int, workers: int) -> list[list[socket.socket]]:
    """For each worker a socket on each host. Raises `UserError`, and then leaves none open."""
    with contextlib.ExitStack() as opened:
        sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
        for host in hosts:
            # The first is bound alone, so that another server's port is in use and not shared with it.
            first = opened.enter_context(bind_udp(host, port))
            let_others_join(first)
            sockets[0].append(first)
            for others in sockets[1:]:
                others.append(opened.enter_context(bind_udp(host, bound_address(first).port, join=True)))
        opened.pop_all()
    return sockets
