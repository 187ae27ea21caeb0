"""Several processes that answer as one server, with one INSTANCE-ID, the same addresses, and totals over all.

The kernel spreads flows over the sockets that share an address (SO_REUSEPORT) by a hash of source and destination. The
parent process binds all sockets and keeps them open, so the set never changes while it lives: a flow always reaches the
same worker, which counts all its probes. Only a client that moves to another address of the server may reach another
worker. Such a client sees a count that falls, and the direction of its losses is unknown.

The parent asks each worker for its totals at every heartbeat. A worker that ends, or stops answering, would lose the probes
of all flows that hash to its sockets. So the parent kills it and gives the sockets to a new worker; flows of the other
workers are not affected. The old worker's counts are lost. The new worker's counts start far above them, so that no client
takes the difference for a number of probes: the direction of those losses is then unknown, and not wrong.

If a new worker fails within a minute, the server ends, since the cause is a lasting one that whoever restarts the server
must find. A worker ends when its pipe closes, and so with the parent, however the parent ends.
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
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.core.stun import MAX_COUNT, ResponseEncoder
from affinity_tester.errors import UserError
from affinity_tester.net import worker
from affinity_tester.net.addresses import bind_udp, bound_address, enable_reuseport
from affinity_tester.net.worker import WorkerConfig, read_totals
from affinity_tester.settings import ServerSettings

HEARTBEAT_S = 1.0
"""The time between two requests to a worker, and the timeout of each."""

UNHEALTHY_HEARTBEATS = 2
"""Consecutive heartbeats without an answer, after which `unhealthy_reason` names the worker."""

REPLACE_HEARTBEATS = 5
"""Consecutive heartbeats without an answer, after which a worker is replaced.

A worker usually answers within milliseconds; on a node so busy that it needs seconds, a new process would too. Counting
heartbeats instead of time means that a stop of the parent process is not taken for one of the worker.
"""

START_TIMEOUT_S = 30.0
"""How long a worker may take to start. Python alone takes seconds on a busy node."""

SHUTDOWN_TIMEOUT_S = 2.0
"""How long a worker may take to report its final totals and end, before it is killed."""

MIN_LIFETIME_S = 60.0
"""A replacement that fails sooner than this is not replaced again."""

COUNT_OFFSET = 1 << 28
"""How far the counts of a new worker start above its predecessor's: more probes than a session can lose in a row."""


class _Worker:
    """One worker process and what it last reported."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, *, is_replacement: bool) -> None:
        self.name = name
        self.process = process
        self.is_replacement = is_replacement
        """True if it replaces a worker that failed."""
        self.started_s = asyncio.get_running_loop().time()
        self.totals = ServerTotals()
        """The last totals that it reported."""
        self.updated = asyncio.Event()
        """Set by each report, and permanently once the process has ended."""
        self.reader_task = asyncio.create_task(self._read())
        """Done when the process has ended; its result says how. Raises `WorkerError` if the worker reported a traceback."""

    def write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def request_totals(self) -> None:
        """Wait until the worker has reported its totals, or has ended."""
        if not self.reader_task.done():
            self.updated.clear()
            self.write("")
            await self.updated.wait()

    async def _read(self) -> str:
        assert self.process.stdout is not None
        try:
            while line := await self.process.stdout.readline():
                self.totals = read_totals(line)
                self.updated.set()
            code = await self.process.wait()
        finally:
            self.updated.set()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    async def end(self) -> None:
        """Ask the worker for its final totals and wait until it has ended; kill it if that takes too long."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                await asyncio.wait([self.reader_task])
        await self.kill()

    async def kill(self) -> None:
        """Kill the process and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(self.reader_task, return_exceptions=True)


class WorkerPool:
    """A running server of several processes. It runs until `close` is called."""

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
        self._supervisors: list[asyncio.Task[NoReturn]] = []
        self._replaced = 0
        self._replaced_totals = ServerTotals()
        """The totals of workers that were replaced."""
        self._problems: dict[int, str] = {}
        """What is wrong with a worker, by its index from 0."""
        self.instance_id = instance_id
        """INSTANCE-ID of every reply."""
        self.addresses: tuple[TransportAddress, ...] = tuple(map(bound_address, sockets[0]))
        """The addresses that the server answers at."""

    @classmethod
    async def start(
        cls, hosts: Iterable[str], settings: ServerSettings, warn: Callable[[str], None] = lambda _: None
    ) -> Self:
        """Bind the sockets, start the workers, and wait until all of them answer.

        `warn` is called with a text when a worker is replaced; it must not raise. Raises `UserError` as
        `EchoServer.start` does.
        """
        if sys.platform != "linux":
            raise UserError("only Linux spreads flows over several workers; choose --workers 1")

        instance_id = secrets.token_bytes(8)
        try:
            # Names that no reply can carry are refused here, before any worker starts.
            ResponseEncoder(settings.pod_name, settings.node_name, instance_id)
        except ValueError as error:
            raise UserError(str(error)) from error

        self = cls(settings, instance_id, _bind_sockets(hosts, settings.port, settings.workers), warn)
        try:
            for index in range(settings.workers):
                self._workers.append(await self._spawn(index))
            failures = await asyncio.gather(*map(self._wait_until_started, self._workers))
            for worker, failure in zip(self._workers, failures, strict=True):
                if failure:
                    raise UserError(f"{worker.name} {failure}: start the server again (out of memory?)")
        except BaseException:
            await self.close()
            raise

        self._supervisors = [asyncio.create_task(self._supervise(index)) for index in range(settings.workers)]
        return self

    @property
    def unhealthy_reason(self) -> str:
        """Which workers do not answer, as a text; empty while all do."""
        return "; ".join(self._problems.values())

    async def totals(self) -> ServerTotals:
        """Return the totals over all workers; a worker that does not answer in time counts with its last report."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_S):
                await asyncio.gather(*(worker.request_totals() for worker in self._workers))
        return self._sum_totals()

    async def wait_for_failure(self) -> NoReturn:
        """Wait until a worker cannot be replaced. Raise `UserError`, or `WorkerError` if a worker reported a traceback."""
        ended, _ = await asyncio.wait(self._supervisors, return_when=asyncio.FIRST_COMPLETED)
        for supervisor in ended:
            await supervisor
        raise AssertionError

    async def close(self) -> ServerTotals:
        """End the workers and close the sockets; return the final totals. No probe is answered after that."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._workers))

        for sockets in self._sockets:
            for sock in sockets:
                sock.close()
        return self._sum_totals()

    def _sum_totals(self) -> ServerTotals:
        return reduce(add, (worker.totals for worker in self._workers), self._replaced_totals)

    async def _supervise(self, index: int) -> NoReturn:
        """Watch the worker at an index, and replace it whenever it fails."""
        loop = asyncio.get_running_loop()
        failure = ""
        while True:
            worker = self._workers[index]
            failure = failure or await self._wait_until_lost(index)
            self._problems[index] = f"{worker.name} {failure}"
            await worker.kill()

            if worker.is_replacement and loop.time() - worker.started_s < MIN_LIFETIME_S:
                raise UserError(
                    f"{worker.name} {failure}, less than a minute after it took another's place: start the server again"
                    " (out of memory?)"
                )

            self._warn(f"{worker.name} {failure}: another takes its place, and the counts of its sessions begin anew")
            # Its flows are forgotten; what it counted still belongs to the server's totals.
            self._replaced_totals += replace(worker.totals, flows=0)
            worker.totals = ServerTotals()

            self._replaced += 1
            self._workers[index] = await self._spawn(index)
            failure = await self._wait_until_started(self._workers[index])
            del self._problems[index]

    async def _wait_until_lost(self, index: int) -> str:
        """Send heartbeats to a worker until it fails; return what failed. Raise `WorkerError` if it reported a traceback."""
        worker = self._workers[index]
        missed = 0
        while missed < REPLACE_HEARTBEATS:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await worker.request_totals()
            except TimeoutError:
                missed += 1
                if missed >= UNHEALTHY_HEARTBEATS:
                    self._problems[index] = f"{worker.name} has not answered for {missed * HEARTBEAT_S:.0f} s"
                continue

            missed = 0
            self._problems.pop(index, None)
            # Sleep until the next heartbeat, but notice at once if the process ends.
            await asyncio.wait([worker.reader_task], timeout=HEARTBEAT_S)
            if worker.reader_task.done():
                return worker.reader_task.result()
        return f"has not answered for {missed * HEARTBEAT_S:.0f} s"

    @staticmethod
    async def _wait_until_started(worker: _Worker) -> str:
        """Wait for a worker's first report; return what failed, or "". Raise `WorkerError` if it reported a traceback."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await worker.request_totals()
        except TimeoutError:
            return f"did not start within {START_TIMEOUT_S:.0f} s"
        return worker.reader_task.result() if worker.reader_task.done() else ""

    async def _spawn(self, index: int) -> _Worker:
        settings = self._settings
        config = WorkerConfig(
            fds=[sock.fileno() for sock in self._sockets[index]],
            pod_name=settings.pod_name,
            node_name=settings.node_name,
            instance_id=self.instance_id.hex(),
            key=None if settings.key is None else settings.key.hex(),
            max_flows=max(1, settings.max_flows // settings.workers),
            rate_limit=settings.rate_limit,
            rate_limit_prefix=settings.rate_limit_prefix,
            shares=settings.workers,
            counted_before=count_offset(self._replaced),
        )
        return await _spawn(f"worker {index + 1} of {settings.workers}", config, is_replacement=self._replaced > 0)


def count_offset(replaced: int) -> int:
    """Return where the counts of the next worker start, within the 32 bits of RECEIVED-COUNT."""
    return replaced * COUNT_OFFSET & MAX_COUNT


def worker_command() -> list[str]:
    """Return the command line of a worker: it runs the code that this process runs, installed or in a zipapp."""
    # -P keeps modules in the current directory out of the worker's imports.
    python = [sys.executable, "-P"]

    archive = getattr(worker.__spec__.loader, "archive", None)
    if archive is None:
        return [*python, "-m", worker.__name__]

    # The interpreter finds modules in a zipapp only when it is started with it, and then it runs the zipapp's own command.
    boot = f"import sys; sys.path.insert(0, sys.argv[1]); from {worker.__name__} import main; main()"
    return [*python, "-c", boot, archive]


async def _spawn(name: str, config: WorkerConfig, *, is_replacement: bool = False) -> _Worker:
    # In a session of its own it does not get the terminal's Ctrl-C, which is for the parent.
    process = await asyncio.create_subprocess_exec(
        *worker_command(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=config.fds,
        start_new_session=True,
    )
    worker = _Worker(f"{name} (process {process.pid})", process, is_replacement=is_replacement)
    worker.write(json.dumps(asdict(config)))
    return worker


def _bind_sockets(hosts: Iterable[str], port: int, workers: int) -> list[list[socket.socket]]:
    """Return, for each worker, one socket on each host. Raise `UserError` and leave none open if one cannot be bound."""
    with contextlib.ExitStack() as opened:
        sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
        for host in hosts:
            # The first is bound without SO_REUSEPORT: if another server has the port, that fails instead of sharing it.
            first = opened.enter_context(bind_udp(host, port))
            enable_reuseport(first)
            sockets[0].append(first)
            for others in sockets[1:]:
                others.append(opened.enter_context(bind_udp(host, bound_address(first).port, reuse_port=True)))
        opened.pop_all()
    return sockets
