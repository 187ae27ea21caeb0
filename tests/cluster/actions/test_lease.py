"""One experiment at a time: the Lease is taken, renewed, lost, taken over and given back, in virtual time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from memory_api import NAMESPACE, WALL, Json, MemoryApi, merge
from simulation import simulate

from affinity_tester.cluster.actions.base import ActionContext, holder_identity
from affinity_tester.cluster.actions.lease import LEASE, ExperimentLease, is_dead_here, time_of
from affinity_tester.cluster.actions.rights import check_rights
from affinity_tester.cluster.api import ApiError
from affinity_tester.cluster.connect import Cluster
from affinity_tester.errors import UserError

PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{LEASE}"


def wall() -> datetime:
    return WALL + timedelta(seconds=asyncio.get_running_loop().time())


def context_of(api: MemoryApi, holder: str = "me@here (pid 1)", clock: Callable[[], datetime] = wall) -> ActionContext:
    return ActionContext(
        cluster=Cluster(api, "c", NAMESPACE, inside=False),
        namespace=NAMESPACE,
        services=(),
        emit_step=lambda _: None,
        now_ns=lambda: 0,
        holder=holder,
        wall=clock,
    )


def play(run: Callable[[MemoryApi], Coroutine[Any, Any, None]]) -> None:
    async def in_loop() -> None:
        await run(MemoryApi())

    simulate(in_loop)


def never(reason: str) -> None:
    raise AssertionError(reason)


def test_it_is_held_renewed_and_given_back() -> None:
    async def run(api: MemoryApi) -> None:
        lease = ExperimentLease(context_of(api), never)
        await check_rights(api, lease.rights())
        async with lease:
            assert lease.took_over == ""
            first = dict(api.objects[PATH]["spec"])
            assert first["holderIdentity"] == "me@here (pid 1)"
            await asyncio.sleep(95)
            later = api.objects[PATH]["spec"]
            gained = time_of(later["renewTime"]) - time_of(first["renewTime"])  # type: ignore[operator]
            assert timedelta(seconds=89) < gained < timedelta(seconds=95)
            assert later["acquireTime"] == first["acquireTime"]
        assert PATH not in api.objects

    play(run)


def test_another_is_kept_out() -> None:
    async def run(api: MemoryApi) -> None:
        async with ExperimentLease(context_of(api, "you@there (pid 7)"), never):
            await asyncio.sleep(100)
            with pytest.raises(
                UserError, match=r"you@there \(pid 7\) runs an experiment in namespace media since 2026-01-02T"
            ):
                async with ExperimentLease(context_of(api), never):
                    raise AssertionError
        async with ExperimentLease(context_of(api), never):
            pass

    play(run)


async def leave(api: MemoryApi, holder: str) -> None:
    """As a killed run does."""
    lease = ExperimentLease(context_of(api, holder), never)
    await lease.__aenter__()
    assert lease._renewing is not None
    lease._renewing.cancel()
    await asyncio.gather(lease._renewing, return_exceptions=True)


def test_an_expired_one_is_observed_and_taken_over() -> None:
    async def run(api: MemoryApi) -> None:
        await leave(api, "you@there (pid 7)")
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(UserError, match="for 30 s"):
            await ExperimentLease(context_of(api), never).__aenter__()
        await asyncio.sleep(31)
        lease = ExperimentLease(context_of(api), never)
        async with lease:
            assert lease.took_over == "you@there (pid 7)"
            assert api.objects[PATH]["spec"]["holderIdentity"] == "me@here (pid 1)"
            assert 45 < asyncio.get_running_loop().time() - began_s < 47

    play(run)


def test_one_that_another_clock_renews_is_not_taken() -> None:
    async def run(api: MemoryApi) -> None:
        slow = context_of(api, "you@there (pid 7)", lambda: wall() - timedelta(minutes=5))
        async with ExperimentLease(slow, never):
            with pytest.raises(UserError, match="runs an experiment"):
                await ExperimentLease(context_of(api), never).__aenter__()

    play(run)


def test_one_of_long_ago_is_taken_at_once() -> None:
    async def run(api: MemoryApi) -> None:
        await leave(api, "you@there (pid 7)")
        await asyncio.sleep(7200)
        began_s = asyncio.get_running_loop().time()
        async with ExperimentLease(context_of(api), never):
            assert asyncio.get_running_loop().time() == began_s

    play(run)


def test_one_of_a_dead_process_here_is_taken_at_once() -> None:
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    own = holder_identity()
    dead = own.replace(f"(pid {os.getpid()})", f"(pid {int(process.stdout)})")

    async def run(api: MemoryApi) -> None:
        await leave(api, dead)
        lease = ExperimentLease(context_of(api, own), never)
        async with lease:
            assert lease.took_over == dead

    play(run)


@pytest.mark.parametrize("machine", ["", "another boot"])
def test_one_of_another_process_namespace_is_not(machine: str) -> None:
    async def run(api: MemoryApi) -> None:
        own = holder_identity()
        lease = ExperimentLease(
            context_of(api, own.replace(f"(pid {os.getpid()})", "(pid 4194303)")), never, machine=machine
        )
        await lease.__aenter__()
        with pytest.raises(UserError, match="runs an experiment"):
            await ExperimentLease(context_of(api, own), never).__aenter__()
        with pytest.raises(UserError, match="runs an experiment"):
            await ExperimentLease(context_of(api, own), never, machine="").__aenter__()
        await lease.__aexit__(None, None, None)

    play(run)


def test_who_is_dead() -> None:
    own = holder_identity()
    assert not is_dead_here(own, own)
    assert not is_dead_here("you@there (pid 99999999)", own)
    assert not is_dead_here("somebody", own)
    assert not is_dead_here(own.replace(f"(pid {os.getpid()})", "(pid 1)"), own)
    assert not is_dead_here(own.replace(f"(pid {os.getpid()})", f"(pid {10**30})"), own)


def test_times() -> None:
    assert time_of("2026-01-02T03:04:05.000000Z") == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert time_of("2026-01-02T03:04:05") is time_of("soon") is time_of(None) is None


def test_one_that_somebody_took_is_told_as_lost() -> None:
    async def run(api: MemoryApi) -> None:
        lost: list[str] = []
        async with ExperimentLease(context_of(api), lost.append):
            api.put(PATH, merge(api.objects[PATH], {"spec": {"holderIdentity": "you@there (pid 7)"}}))
            await asyncio.sleep(15)
            assert lost == [
                "the Lease affinity-tester-experiment is no longer this experiment's (you@there (pid 7) has it)"
            ]
        assert api.objects[PATH]["spec"]["holderIdentity"] == "you@there (pid 7)"

    play(run)


def test_a_label_of_somebody_is_no_loss() -> None:
    async def run(api: MemoryApi) -> None:
        async with ExperimentLease(context_of(api), never):
            api.put(PATH, merge(api.objects[PATH], {"metadata": {"labels": {"a": "b"}}}))
            await asyncio.sleep(35)
            api.put(PATH, merge(api.objects[PATH], {"metadata": {"labels": {"a": "c"}}}))
        assert PATH not in api.objects

    play(run)


def test_a_renewal_that_fails_for_a_while() -> None:
    async def run(api: MemoryApi) -> None:
        def away(_do: Any) -> Json:
            raise ApiError("the API server is out of order", 503)

        lost: list[str] = []
        async with ExperimentLease(context_of(api), lost.append):
            count = len(api.requests)
            api.sabotage = {count: away, count + 1: away}
            await asyncio.sleep(40)
            assert lost == []
            api.sabotage = dict.fromkeys(range(len(api.requests), len(api.requests) + 100), away)
            await asyncio.sleep(60)
            assert lost == [
                "the Lease affinity-tester-experiment could not be renewed for 30 s (the API server is out of order)"
            ]

    play(run)


def test_two_at_the_same_moment() -> None:
    async def run(api: MemoryApi) -> None:
        leases = [ExperimentLease(context_of(api, f"you@there (pid {number})"), never) for number in range(5)]
        results = await asyncio.gather(*(each.__aenter__() for each in leases), return_exceptions=True)
        assert sum(isinstance(each, UserError) for each in results) == 4
        for each in leases:
            if each._renewing is not None:
                await each.__aexit__(None, None, None)

    play(run)


def test_two_take_over_at_the_same_moment() -> None:
    async def run(api: MemoryApi) -> None:
        await leave(api, "you@there (pid 7)")
        await asyncio.sleep(7200)
        leases = [ExperimentLease(context_of(api, f"you@there (pid {number})"), never) for number in range(5)]
        results = await asyncio.gather(*(each.__aenter__() for each in leases), return_exceptions=True)
        assert sum(isinstance(each, UserError) for each in results) == 4
        for each in leases:
            if each._renewing is not None:
                await each.__aexit__(None, None, None)

    play(run)
