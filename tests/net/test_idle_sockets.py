"""A round of samples on real sockets: each on a port of its own, told as it ends."""

from __future__ import annotations

import asyncio
import socket

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.idle.grid import PlannedSample, plan_round
from affinity_tester.core.idle.model import Direction, Fate, FlowState, SampleResult, Step
from affinity_tester.errors import UserError
from affinity_tester.net.idle import run_round
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Destination
from affinity_tester.net.server import EchoServer

MS = 1_000_000
EXCHANGE = Step(Direction.CLIENT, FlowState.ONE_EXCHANGE, 200 * MS)
STREAM = Step(Direction.CLIENT, FlowState.STREAM, 200 * MS)


async def measured(
    planned: tuple[PlannedSample, ...],
    *destinations: TransportAddress,
    stop: asyncio.Event | None = None,
    key: bytes | None = None,
) -> list[SampleResult]:
    results: list[SampleResult] = []
    await run_round(
        planned,
        [Destination(each) for each in destinations],
        stop or asyncio.Event(),
        results.append,
        source_for=local_source_for,
        key=key,
    )
    return results


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("key", [None, b"secret"])
async def test_each_sample_has_a_port_of_its_own(host: str, key: bytes | None) -> None:
    server = await EchoServer.start([host], 0, pod_name="a", key=key)
    results = await measured(plan_round([(EXCHANGE, 3), (STREAM, 3)]), server.addresses[0], key=key)
    await server.close()
    assert [result.fate for result in results] == [Fate.ANSWERED] * 6
    assert len({result.local_port for result in results}) == 6
    for result in results:
        assert result.before is not None
        assert result.before.reflexive == TransportAddress(host, result.local_port)
        assert result.before == result.after
        assert 200 * MS <= result.silent_ns < 300 * MS
    assert sorted(result.sent for result in results) == [1, 1, 1, 13, 13, 13]


async def test_destinations_take_turns_in_each_step() -> None:
    first = await EchoServer.start(["127.0.0.1"], 0, pod_name="a")
    second = await EchoServer.start(["127.0.0.1"], 0, pod_name="b")
    results = await measured(plan_round([(EXCHANGE, 2)]), first.addresses[0], second.addresses[0])
    await first.close()
    await second.close()
    assert {result.before.pod for result in results if result.before} == {"a", "b"}


async def test_nobody_there_never_starts() -> None:
    """A closed port refuses each probe; that is no answer, and no error either."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        address = TransportAddress(*closed.getsockname())
    results = await measured(plan_round([(EXCHANGE, 1)]), address)
    assert [result.fate for result in results] == [Fate.NOT_STARTED]


async def test_a_server_that_goes_in_the_silence_leaves_a_silent_path() -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a")
    step = Step(Direction.CLIENT, FlowState.ONE_EXCHANGE, 500 * MS)

    async def end_soon() -> None:
        await asyncio.sleep(0.25)
        await server.close()

    results, _ = await asyncio.gather(measured(plan_round([(step, 1)]), server.addresses[0]), end_soon())
    assert [result.fate for result in results] == [Fate.PATH_SILENT]
    assert results[0].resent


@pytest.mark.parametrize("state", FlowState)
@pytest.mark.parametrize("key", [b"secret", None])
async def test_the_pod_speaks_first_to_those_who_have_the_key(state: FlowState, key: bytes | None) -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a", key=key)
    step = Step(Direction.POD, state, 300 * MS)
    (result,) = await measured(plan_round([(step, 1)]), server.addresses[0], key=key)
    totals = await server.close()
    if key is None:
        assert (result.fate, totals.not_delayed) == (Fate.NOT_DELAYED, (("no-key", 1),))
        return
    assert (result.fate, result.heard, totals.delayed) == (Fate.ANSWERED, True, 1)
    assert 290 * MS <= result.silent_ns < 500 * MS
    assert result.before == result.after


async def test_the_end_cuts_samples_off() -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, stop.set)
    long = Step(Direction.CLIENT, FlowState.ONE_EXCHANGE, 3_600_000 * MS)
    assert await measured(plan_round([(long, 100)]), server.addresses[0], stop=stop) == []
    await server.close()


async def test_a_source_that_is_not_this_machines_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"no socket can be opened for 127\.0\.0\.1:3478"):
        await run_round(
            plan_round([(EXCHANGE, 1)]),
            [Destination(TransportAddress("127.0.0.1", 3478))],
            asyncio.Event(),
            lambda _result: None,
            source_for=lambda *_: "192.0.2.1",
        )
