"""A whole measurement on loopback: its rounds, what voids its samples, and what the Service says of the way."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from affinity_tester import clock
from affinity_tester.app.idle_run import IdleContext, Progress, measure_idle
from affinity_tester.cluster.discover import Found
from affinity_tester.cluster.objects import parse_service
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.idle.advice import LINUX_TIMEOUTS, KnownTimeout
from affinity_tester.core.idle.model import Property
from affinity_tester.core.idle.settings import IdleSettings
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from affinity_tester.core.pool_timeline import PoolTimeline
from affinity_tester.errors import UserError
from affinity_tester.net.resolve import Target
from affinity_tester.net.server import EchoServer
from fakeapi import service

pytestmark = pytest.mark.busy

S = 1_000_000_000
SHORT = IdleSettings(silences_ns=(S // 5,), samples=10, settle_ns=S // 10)
ENDPOINT = Endpoint("1", "a", "10.1.0.1", "node-1")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a", node_name="node-1")
    yield Target(server.addresses[0], "here")
    await server.close()


async def test_one_silence_in_both_states_is_all_that_the_experiment_needs(target: Target) -> None:
    told: list[Progress] = []
    result = await measure_idle(target, SHORT, on_progress=told.append)
    assert result.is_unbroken
    assert [len(curve.steps) for curve in result.curves] == [1, 1]
    assert (result.planned, result.repeated, result.void, result.watched) == (20, 0, 0, False)
    assert told[0].planned == 20
    assert told[-1].done > 0


async def test_a_change_of_the_pool_voids_all_and_all_are_repeated(target: Target) -> None:
    timeline = PoolTimeline()
    now_ns = clock.now_ns()
    snapshot = PoolSnapshot(frozenset({ENDPOINT}))
    timeline.observed(now_ns, now_ns, snapshot, (), now_ns)
    changed_ns = now_ns + 1
    change = EndpointChange(EndpointAction.JOINED, ENDPOINT)
    timeline.observed(changed_ns, changed_ns, snapshot, (change,), changed_ns)
    asked: list[int | None] = []

    def request(after_ns: int | None) -> None:
        asked.append(after_ns)
        if after_ns is not None:
            timeline.confirmed(clock.now_ns())

    context = IdleContext(timeline=timeline, request_list=request, policy="Cluster", affinity="None", via="node-port")
    result = await measure_idle(target, SHORT, context=context)
    first = [each for each in result.results if each.begun_ns < changed_ns + S // 10]
    assert 0 < len(first) <= 20
    assert result.void == len(first)
    assert result.repeated >= result.void  # a busy machine spoils others, too
    assert result.watched
    assert asked[-1] is None


async def test_what_was_not_watched_is_void(target: Target) -> None:
    timeline = PoolTimeline()
    now_ns = clock.now_ns()
    timeline.observed(now_ns, now_ns, PoolSnapshot(frozenset({ENDPOINT})), (), now_ns)
    timeline.unobserved(now_ns)
    abort = asyncio.Event()
    abort.set()
    result = await measure_idle(target, SHORT, context=IdleContext(timeline=timeline), abort=abort)
    assert result.void == len(result.results) == 40
    assert not result.is_conclusive


async def test_the_end_comes_with_the_samples_so_far(target: Target) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(1.5, stop.set)
    settings = IdleSettings(silences_ns=(S // 2, 100 * S), samples=5)
    result = await measure_idle(target, settings, stop=stop)
    assert result.planned == 20
    assert {each.step.silence_ns for each in result.results} == {S // 2}


async def test_a_target_that_answers_nothing_is_given_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = Target(TransportAddress("127.0.0.1", silent.getsockname()[1]), "here")
        result = await measure_idle(target, IdleSettings(silences_ns=(600 * S,), samples=300))
    assert result.is_unanswered
    assert result.planned == 600
    # Those that end in the same pass of the loop as the hundredth are told, too.
    assert 100 <= len(result.results) < 600


async def test_too_many_samples_are_refused(target: Target) -> None:
    with pytest.raises(UserError, match=r"30 steps|60 steps"):
        await measure_idle(target, IdleSettings(samples=1_000))


def found(via: str = "load-balancer", **more: Any) -> Found:
    parsed = parse_service(service("turn", **more))
    return Found(parsed, parsed.ports[0], "203.0.113.7", 3478, via)


def test_the_service_says_what_can_be_seen_and_how_long_it_remembers() -> None:
    cluster = IdleContext.of(found(), PoolTimeline(), lambda _ns: None)
    assert (cluster.policy, cluster.affinity, cluster.via) == ("Cluster", "None", "load-balancer")
    assert cluster.known == LINUX_TIMEOUTS
    unknown = IdleContext.of(None, PoolTimeline(), lambda _ns: None)
    assert (unknown.policy, unknown.affinity, unknown.via) == ("", "", "")


def test_the_affinitys_timeout_and_the_clouds_are_known() -> None:
    made = service("turn", ingress=("a.elb.eu-west-1.amazonaws.com",))
    made["spec"] |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 35}}}
    parsed = parse_service(made)
    where = Found(parsed, parsed.ports[0], "203.0.113.7", 3478, "load-balancer")
    assert IdleContext.of(where, PoolTimeline(), lambda _ns: None).known[:2] == (
        KnownTimeout("the Service's sessionAffinityConfig.clientIP.timeoutSeconds", 35 * S, Property.POD),
        KnownTimeout("the balancer's, as aws's documents say", 120 * S),
    )
