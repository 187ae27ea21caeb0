"""Several processes that answer as one server: real ones, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.errors import UserError
from affinity_tester.net import workers
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.limits import usable_cpus
from affinity_tester.net.worker import WorkerConfig, WorkerError
from affinity_tester.net.workers import WorkerPool
from affinity_tester.settings import ServerSettings

SETTINGS = ServerSettings(pod_name="pod-a", node_name="node-1", port=0, workers=2, max_flows=200, key=b"secret")
TOKEN = 7


@asynccontextmanager
async def pool(
    *hosts: str, settings: ServerSettings = SETTINGS, warn: Callable[[str], None] = pytest.fail
) -> AsyncIterator[WorkerPool]:
    running = await WorkerPool.start(hosts or ("127.0.0.1",), settings, warn)
    try:
        yield running
    finally:
        await running.close()


def pids(running: WorkerPool) -> list[int]:
    return [worker.process.pid for worker in running._workers]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def counts(server: tuple[str, int], probes: int) -> tuple[list[int | None], bytes | None]:
    """RECEIVED-COUNT of each reply to a new session, and the last one's INSTANCE-ID."""
    loop = asyncio.get_running_loop()
    token = random.getrandbits(64)  # a port may be drawn twice
    found = []
    instance = None
    with bind_udp(server[0], 0) as sock:
        for seq in range(probes):
            await loop.sock_sendto(sock, stun.new_request(stun.pack_transaction_id(token, seq), 288, b"secret"), server)
            async with asyncio.timeout(20):
                response = stun.decode_response(await loop.sock_recv(sock, 2048), b"secret")
            found.append(response.received_count)
            instance = response.identity.instance
    return found, instance


async def test_workers_answer_as_one_instance_and_each_flow_meets_one() -> None:
    async with pool("127.0.0.1", "::1") as running:
        assert [address.ip for address in running.addresses] == ["127.0.0.1", "::1"]
        told = [await counts(address, 3) for address in running.addresses for _ in range(40)]
        assert told == [([1, 2, 3], running.instance_id)] * 80
        assert await running.totals() == ServerTotals(received=240, answered=240, flows=80)
        shares = [worker.totals.answered for worker in running._workers]
        assert sum(shares) == 240
        assert min(shares) > 0
        alive = pids(running)
    assert not any(map(is_alive, alive))
    bind_udp(*running.addresses[0]).close()


async def test_workers_share_the_bound_of_flows() -> None:
    async with pool(settings=replace(SETTINGS, max_flows=3)) as running:
        for _ in range(30):
            assert (await counts(running.addresses[0], 1))[0] == [1]
        totals = await running.totals()
        assert (totals.flows, totals.evicted) == (2, 28)


async def test_a_port_in_use_is_not_shared() -> None:
    async with pool() as running:
        with pytest.raises(UserError, match="UDP port in use"):
            await WorkerPool.start(("127.0.0.1",), replace(SETTINGS, port=running.addresses[0].port))


async def test_a_name_too_long_is_one_line() -> None:
    with pytest.raises(UserError, match="POD-NAME has 254 bytes of UTF-8: 1 to 253 are possible"):
        await WorkerPool.start(("127.0.0.1",), replace(SETTINGS, pod_name="p" * 254))


async def test_elsewhere_than_on_linux_there_is_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    with pytest.raises(UserError, match="only Linux spreads flows over several workers; choose --workers 1"):
        await WorkerPool.start(("127.0.0.1",), SETTINGS)


async def test_a_worker_that_ends_is_replaced_and_the_other_goes_on() -> None:
    said: list[str] = []
    async with pool(warn=said.append) as running:
        (address,) = running.addresses
        with contextlib.ExitStack() as opened:
            socks = await meeting_each(running, opened)
            first, second = pids(running)
            before = await running.totals()
            os.kill(first, signal.SIGKILL)
            async with asyncio.timeout(20):
                while pids(running)[0] == first:  # noqa: ASYNC110 - the pool tells nobody
                    await asyncio.sleep(0.01)
            kept, anew = [await counted(sock, address) for sock in reversed(socks)]
        assert (kept.received_count, anew.received_count) == (2, (1 << 28) + 1)
        assert kept.identity.instance == anew.identity.instance == running.instance_id
        assert said == [
            f"worker 1 of 2 (process {first}) was killed by SIGKILL: another takes its place, and the counts of its"
            " sessions begin anew"
        ]
        assert pids(running)[1] == second
        totals = await running.totals()
        assert (totals.received, totals.answered) == (before.received + 2, before.answered + 2)


async def counted(sock: socket.socket, server: TransportAddress) -> stun.BindingResponse:
    """The answer to a probe of the session that this socket is."""
    loop = asyncio.get_running_loop()
    token = sock.getsockname()[1]
    await loop.sock_sendto(sock, stun.new_request(stun.pack_transaction_id(token, 1), 288, b"secret"), server)
    async with asyncio.timeout(20):
        return stun.decode_response(await loop.sock_recv(sock, 2048), b"secret")


async def meeting_each(running: WorkerPool, opened: contextlib.ExitStack) -> list[socket.socket]:
    """A socket for each worker, which has answered one probe from there."""
    met: dict[int, socket.socket] = {}
    while len(met) < len(running._workers):
        sock = opened.enter_context(bind_udp("127.0.0.1", 0))
        await running.totals()
        before = [worker.totals.answered for worker in running._workers]
        await counted(sock, running.addresses[0])
        await running.totals()
        after = [worker.totals.answered for worker in running._workers]
        (index,) = (at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
        met.setdefault(index, sock)
    return [met[index] for index in range(len(met))]


async def test_a_worker_that_is_lost_again_within_a_minute_ends_the_server() -> None:
    said: list[str] = []
    async with pool(warn=said.append) as running:
        first = pids(running)[0]
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(20):
            while pids(running)[0] == first:  # noqa: ASYNC110 - the pool tells nobody
                await asyncio.sleep(0.01)
        again, second = pids(running)
        os.kill(again, signal.SIGKILL)
        with pytest.raises(UserError) as caught:
            async with asyncio.timeout(20):
                await running.wait_for_failure()
        assert str(caught.value) == (
            f"worker 1 of 2 (process {again}) was killed by SIGKILL, less than a minute after it took another's place:"
            " start the server again (out of memory?)"
        )
        assert is_alive(second)
    assert not is_alive(second)
    assert len(said) == 1


async def test_signals_are_for_the_parent() -> None:
    async with pool() as running:
        for pid in pids(running):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert (await counts(running.addresses[0], 1))[0] == [1]
        assert await running.totals() == ServerTotals(received=1, answered=1, flows=1)


async def test_a_worker_that_hangs_is_named_and_then_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "HEARTBEAT_S", 0.2)
    said: list[str] = []
    async with pool(warn=said.append) as running:
        await counts(running.addresses[0], 2)
        async with asyncio.timeout(20):
            while (before := await running.totals()).received < 2 or running.unhealthy_reason:  # noqa: ASYNC110 - as below
                await asyncio.sleep(0.01)  # a busy worker tells its own late
        hung = pids(running)[1]
        os.kill(hung, signal.SIGSTOP)
        async with asyncio.timeout(20):
            while not running.unhealthy_reason:  # noqa: ASYNC110 - it is asked, and tells nobody
                await asyncio.sleep(0.01)
            assert re.fullmatch(
                rf"worker 2 of 2 \(process {hung}\) has not answered for \d s", running.unhealthy_reason
            )
            assert await running.totals() == before
            while running.unhealthy_reason:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert not is_alive(hung)
        told = [await counts(running.addresses[0], 1) for _ in range(20)]
        assert {instance for _, instance in told} == {running.instance_id}
        assert {count for (count,), _ in told} == {1, (1 << 28) + 1}
        totals = await running.totals()
        assert (totals.received, totals.answered) == (22, 22)
    assert said == [
        f"worker 2 of 2 (process {hung}) has not answered for 1 s: another takes its place, and the counts of its"
        " sessions begin anew"
    ]


async def test_a_worker_that_hangs_holds_up_the_end_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SHUTDOWN_TIMEOUT_S", 0.1)
    async with pool() as running:
        await counts(running.addresses[0], 2)
        before = await running.totals()
        hung = pids(running)[1]
        os.kill(hung, signal.SIGSTOP)
        async with asyncio.timeout(1):
            assert await running.close() == replace(before, flows=1)
        assert not is_alive(hung)


async def test_the_last_totals_have_every_answer() -> None:
    """Workers tell them when they answer no more, however many probes still come."""
    loop = asyncio.get_running_loop()
    async with pool(settings=replace(SETTINGS, key=None)) as running:
        (address,) = running.addresses
        heard = 0
        with contextlib.ExitStack() as opened:
            socks = [opened.enter_context(bind_udp("127.0.0.1", 0)) for _ in range(20)]

            def hear(sock: socket.socket) -> None:
                nonlocal heard
                with contextlib.suppress(BlockingIOError):
                    while sock.recv(2048):
                        heard += 1

            async def load() -> None:
                for seq in range(1 << 20):
                    for token, sock in enumerate(socks):
                        sock.sendto(stun.new_request(stun.pack_transaction_id(token, seq)), address)
                    await asyncio.sleep(0)

            for sock in socks:
                loop.add_reader(sock, hear, sock)
            loading = asyncio.create_task(load())
            while heard < 1000:  # noqa: ASYNC110 - the readers count
                await asyncio.sleep(0.01)
            total = await running.close()
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            for sock in socks:
                hear(sock)
                loop.remove_reader(sock)
        assert total.answered == heard > 1000


async def test_a_bug_in_a_worker_is_told_with_its_traceback() -> None:
    worker = await workers._spawn("worker 1 of 1", WorkerConfig([], "pod-a", None, "no digits", None, 1))
    await worker.request_totals()
    with pytest.raises(WorkerError, match=r"Traceback .*\n(.*\n)*ValueError: non-hexadecimal number found"):
        await worker.reader_task
    await worker.end()


@pytest.mark.parametrize(
    ("cpu_max", "cpus"), [("150000 100000\n", 1), ("50000 100000\n", 1), ("200000 100000\n", 2), ("max 100000\n", 4)]
)
def test_cpus_are_bounded_by_the_quota(
    cpu_max: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 7}, raising=False)
    quota = tmp_path / "cpu.max"
    quota.write_text(cpu_max)
    assert usable_cpus(quota) == cpus
    assert usable_cpus(tmp_path / "none") == 4
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert usable_cpus(tmp_path / "none") == 2


def test_the_counts_of_the_sixteenth_worker_in_a_place_fit_32_bits() -> None:
    """They were a `struct.error` for each reply."""
    begins = [workers.count_offset(replaced) for replaced in range(40)]
    assert begins[:2] == [0, workers.COUNT_OFFSET]
    assert max(begins) <= stun.MAX_COUNT
    assert all(abs(a - b) >= workers.COUNT_OFFSET for a, b in itertools.pairwise(begins))


RUN_POOL = """\
import asyncio, sys
from affinity_tester.net.workers import WorkerPool
from affinity_tester.settings import ServerSettings

async def run():
    pool = await WorkerPool.start(("127.0.0.1",), ServerSettings(pod_name="pod-a", port=0, workers=2))
    print(pool.unhealthy_reason or "2 workers answer", (await pool.close()).received)

asyncio.run(run())
"""


def test_workers_start_from_a_zipapp(repo: Path, tmp_path: Path) -> None:
    archive = tmp_path / "server.pyz"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__main__.py", RUN_POOL)
        for path in sorted((repo / "src").rglob("*.py")):
            packed.write(path, path.relative_to(repo / "src"))
    # The interpreter below the test's environment has no affinity_tester of its own, so nothing comes from elsewhere.
    python = Path(sys.base_exec_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(
        [python, "-P", archive.name], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 workers answer 0\n", "")
