"""Several processes that answer as one server: one INSTANCE-ID, the same addresses, totals over all.

The kernel spreads flows over the sockets that share an address (SO_REUSEPORT) by a hash of source and destination.
This process binds all of them and keeps them open, so that the set never changes while it lives: a flow always meets
the same worker, which has all its counts. Only a client that moves to another address of the server may meet another;
it then sees a count that falls, and a loss whose direction is unknown.

Each worker is asked for its totals again and again. One that ends, or no longer answers, would lose the probes of all
flows that hash to its sockets, so it is killed and another takes over the sockets; the other workers' flows notice
nothing. Its counts are lost. The new one's begin far above, so that no client takes the difference for a number of
probes: the direction of a loss then is unknown, and never guessed. When that happens twice within a minute the server
ends: what has a lasting cause is for whoever restarts it. Workers live by a pipe, and end with this process however it
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import reduce
from operator import add
from typing import NoReturn, Self

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.echo import ServerTotals
from affinity_tester.core.stun import MAX_COUNT, ResponseEncoder
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import bind_udp, bound_address, enable_reuseport
from affinity_tester.net.worker import Task, read_totals
from affinity_tester.settings import ServerSettings

BEAT_S = 1.0
"""Between two questions to a worker, and how long each answer may take."""

DOUBTFUL_BEATS = 2
"""Unanswered in a row, after which `trouble` names the worker."""

LOST_BEATS = 5
"""Unanswered in a row, after which a worker is replaced. It answers within milliseconds, and on a node so busy that it
waits for seconds another process would wait as long. Each beat counts by itself, so that this process's own standing
still is not taken for the worker's."""

START_S = 30.0
"""How long a worker may take to start: Python alone takes seconds on a busy node."""

END_S = 2.0
"""How long a worker may take to tell its last totals and end, before it is killed."""

AGAIN_S = 60.0
"""A worker that took another's place and is lost within this time is not replaced."""

COUNTS_APART = 1 << 28
"""How far above the counts of the worker before it those of a new one begin: more probes than a gap can have."""


class _Worker:
    """One process, and what it told."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, *, is_new: bool) -> None:
        self.name = name
        self.process = process
        self.is_new = is_new
        """Whether it took another's place."""
        self.started_s = asyncio.get_running_loop().time()
        self.totals = ServerTotals()
        """The last it told."""
        self.told = asyncio.Event()
        """Set when it tells something; at its end, for good."""
        self.listening = asyncio.create_task(self._listen())
        """Done when the worker ends; then it says how. Fails with `WorkerError` for a bug in it."""

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def ask(self) -> None:
        """Have it tell its totals, or wait for its end."""
        if not self.listening.done():
            self.told.clear()
            self.write("")
            await self.told.wait()

    async def _listen(self) -> str:
        assert self.process.stdout is not None
        try:
            while line := await self.process.stdout.readline():
                self.totals = read_totals(line)
                self.told.set()
            code = await self.process.wait()
        finally:
            self.told.set()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    async def end(self) -> None:
        """Have it tell its last totals and end, and wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await asyncio.wait([self.listening])
        await self.kill()

    async def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(self.listening, return_exceptions=True)


class WorkerPool:
    """A running server of several processes. It runs until `close`."""

    def __init__(
        self,
        settings: ServerSettings,
        instance_id: bytes,
        sockets: list[list[socket.socket]],
        warn: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._warn = warn
        self._workers: list[_Worker] = []
        self._keepers: list[asyncio.Task[NoReturn]] = []
        self._replaced = 0
        self._past = ServerTotals()
        """What the workers that were replaced had told."""
        self._doubts: dict[int, str] = {}
        """By worker, from 0: what is the matter with it."""
        self.instance_id = instance_id
        """INSTANCE-ID of every reply."""
        self.addresses: tuple[TransportAddress, ...] = tuple(map(bound_address, sockets[0]))
        """Where it answers."""

    @classmethod
    async def start(
        cls, hosts: Iterable[str], settings: ServerSettings, warn: Callable[[str], None] = lambda _: None
    ) -> Self:
        """Bind, start the workers, and wait until all answer. Raises `UserError` as `EchoServer.start` does.

        `warn` is told in words of each worker that is replaced; it may not raise.
        """
        if sys.platform != "linux":
            raise UserError("only Linux spreads flows over several workers; choose --workers 1")
        instance_id = secrets.token_bytes(8)
        try:
            ResponseEncoder(settings.pod_name, settings.node_name, instance_id)
        except ValueError as error:
            raise UserError(str(error)) from error
        self = cls(settings, instance_id, _bind(hosts, settings.port, settings.workers), warn)
        try:
            for index in range(settings.workers):
                self._workers.append(await self._spawn(index))
            hows = await asyncio.gather(*map(self._started, self._workers))
            for worker, how in zip(self._workers, hows, strict=True):
                if how:
                    raise UserError(f"{worker.name} {how}: start the server again (out of memory?)")
        except BaseException:
            await self.close()
            raise
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(settings.workers)]
        return self

    @property
    def trouble(self) -> str:
        """Which workers do not answer, in words; empty while all do."""
        return "; ".join(self._doubts.values())

    async def totals(self) -> ServerTotals:
        """What all workers counted so far; one that does not answer in time counts with the last that it told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await asyncio.gather(*(worker.ask() for worker in self._workers))
        return self._told()

    async def failure(self) -> NoReturn:
        """Wait until a worker cannot be replaced. Raises `UserError`, or `WorkerError` for a bug."""
        ended, _ = await asyncio.wait(self._keepers, return_when=asyncio.FIRST_COMPLETED)
        for keeper in ended:
            await keeper
        raise AssertionError

    async def close(self) -> ServerTotals:
        """End the workers and close the sockets; it is silent when this returns what all have counted."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._workers))
        for sockets in self._sockets:
            for sock in sockets:
                sock.close()
        return self._told()

    def _told(self) -> ServerTotals:
        return reduce(add, (worker.totals for worker in self._workers), self._past)

    async def _keep(self, index: int) -> NoReturn:
        """Put another worker in the place of each that is lost."""
        loop = asyncio.get_running_loop()
        how = ""
        while True:
            worker = self._workers[index]
            how = how or await self._lost(index)
            self._doubts[index] = f"{worker.name} {how}"
            await worker.kill()
            if worker.is_new and loop.time() - worker.started_s < AGAIN_S:
                raise UserError(
                    f"{worker.name} {how}, less than a minute after it took another's place: start the server again"
                    " (out of memory?)"
                )
            self._warn(f"{worker.name} {how}: another takes its place, and the counts of its sessions begin anew")
            self._past += replace(worker.totals, flows=0)
            worker.totals = ServerTotals()
            self._replaced += 1
            self._workers[index] = await self._spawn(index)
            how = await self._started(self._workers[index])
            del self._doubts[index]

    async def _lost(self, index: int) -> str:
        """Ask a worker each beat; returns how it was lost. Raises `WorkerError` for a bug in it."""
        worker = self._workers[index]
        missed = 0
        while missed < LOST_BEATS:
            try:
                async with asyncio.timeout(BEAT_S):
                    await worker.ask()
            except TimeoutError:
                missed += 1
                if missed >= DOUBTFUL_BEATS:
                    self._doubts[index] = f"{worker.name} has not answered for {missed * BEAT_S:.0f} s"
                continue
            missed = 0
            self._doubts.pop(index, None)
            await asyncio.wait([worker.listening], timeout=BEAT_S)
            if worker.listening.done():
                return worker.listening.result()
        return f"has not answered for {missed * BEAT_S:.0f} s"

    @staticmethod
    async def _started(worker: _Worker) -> str:
        """Wait for a worker's first answer; returns what went wrong. Raises `WorkerError` for a bug in it."""
        try:
            async with asyncio.timeout(START_S):
                await worker.ask()
        except TimeoutError:
            return f"did not start within {START_S:.0f} s"
        return worker.listening.result() if worker.listening.done() else ""

    async def _spawn(self, index: int) -> _Worker:
        settings = self._settings
        task = Task(
            fds=[sock.fileno() for sock in self._sockets[index]],
            pod_name=settings.pod_name,
            node_name=settings.node_name,
            instance_id=self.instance_id.hex(),
            key=None if settings.key is None else settings.key.hex(),
            max_flows=max(1, settings.max_flows // settings.workers),
            rate_limit=settings.rate_limit,
            rate_limit_prefix=settings.rate_limit_prefix,
            shares=settings.workers,
            counted_before=counts_from(self._replaced),
        )
        return await _spawn(f"worker {index + 1} of {settings.workers}", task, is_new=self._replaced > 0)


def counts_from(replaced: int) -> int:
    """Where the counts of a worker begin after so many were replaced: RECEIVED-COUNT has 32 bits, and begins anew."""
    return replaced * COUNTS_APART & MAX_COUNT


async def _spawn(name: str, task: Task, *, is_new: bool = False) -> _Worker:
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
    worker = _Worker(f"{name} (process {process.pid})", process, is_new=is_new)
    worker.write(json.dumps(asdict(task)))
    return worker


def _bind(hosts: Iterable[str], port: int, workers: int) -> list[list[socket.socket]]:
    """For each worker a socket on each host. Raises `UserError`, and then leaves none open."""
    with contextlib.ExitStack() as opened:
        sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
        for host in hosts:
            # The first is bound alone, so that another server's port is in use and not shared with it.
            first = opened.enter_context(bind_udp(host, port))
            enable_reuseport(first)
            sockets[0].append(first)
            for others in sockets[1:]:
                others.append(opened.enter_context(bind_udp(host, bound_address(first).port, reuse_port=True)))
        opened.pop_all()
    return sockets
