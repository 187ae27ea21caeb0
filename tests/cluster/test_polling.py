"""A pool that may be listed and not watched: that is said once, lists tell, and date what changes between two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.cluster.reflector import WatchTiming
from affinity_tester.core.events import (
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from fakeapi import FakeApi, Told, endpoint, endpoint_slice, node, service, until

TIMING = WatchTiming(backoff_s=0.02, backoff_max_s=0.05, min_watch_s=0, max_lag_s=0.1, poll_s=0.02, context_poll_s=0.02)
LISTS = ("/apis/discovery.k8s.io/v1/namespaces/media/endpointslices", "/api/v1/namespaces/media/services")


@pytest.fixture
def told() -> Told:
    return Told()


@asynccontextmanager
async def polling(api: FakeApi, cluster: Cluster, told: Told) -> AsyncIterator[PoolWatch]:
    api.forbidden = {"watch"}
    watch = PoolWatch(cluster, ServiceRef("media", "turn"), 3478, told.tell, now_ns=told.clock, timing=TIMING)
    assert await watch.start() is None
    try:
        yield watch
    finally:
        await watch.stop()


async def two_lists(api: FakeApi) -> None:
    """Wait until lists of both parts of the pool were asked for after now, and taken."""
    before = {path: lists_of(api, path) for path in LISTS}
    await until(lambda: all(lists_of(api, path) >= count + 3 for path, count in before.items()))


def lists_of(api: FakeApi, path: str) -> int:
    return sum(asked == path and verb == "list" for verb, asked, _ in api.asked)


def pods(event: Event) -> list[str]:
    assert isinstance(event, PoolObserved)
    return sorted(each.pod for each in event.snapshot.endpoints)


async def test_it_is_said_once_for_all_and_the_pool_is_observed(api: FakeApi, cluster: Cluster, told: Told) -> None:
    async with polling(api, cluster, told) as watch:
        for _ in range(5):
            await two_lists(api)
        assert await watch.confirm()
    said = [event for event in told.events if isinstance(event, ClusterEvent)]
    assert said == [
        ClusterEvent(1000, ClusterSubject.WATCH, "media/turn", ClusterAction.WATCH_FORBIDDEN, detail="0.02 s")
    ]
    assert [pods(event) for event in told.events if isinstance(event, PoolObserved)] == [["a", "b"]]
    assert not [event for event in told.events if isinstance(event, PoolUnobserved)]
    assert len([event for event in told.events if isinstance(event, PoolConfirmed)]) > 5
    watches = [path for verb, path, _ in api.asked if verb == "watch"]
    assert len(watches) == len(set(watches)) + 2, "each is asked for once: two more proxies have the same path"


async def test_changes_lie_between_the_lists_that_differ(api: FakeApi, cluster: Cluster, told: Told) -> None:
    async with polling(api, cluster, told):
        for number, names in enumerate(("abc", "bc", "c", "cd")):
            await two_lists(api)
            told.now = 2000 + number * 1000
            await two_lists(api)
            api.put("endpointslices", endpoint_slice(*map(endpoint, names)))
            told.now += 500
            await two_lists(api)
    observed = [event for event in told.events if isinstance(event, PoolObserved)][1:]
    assert [("".join(pods(event)), event.since_ns, event.until_ns) for event in observed] == [
        ("abc", 2000, 2500),
        ("bc", 3000, 3500),
        ("c", 4000, 4500),
        ("cd", 5000, 5500),
    ]
    assert not [event for event in told.events if isinstance(event, PoolUnobserved)]
    times = [event.at_ns for event in told.events]
    assert times == sorted(times)


async def test_a_change_and_its_change_back_between_two_lists_is_a_gap(
    api: FakeApi, cluster: Cluster, told: Told
) -> None:
    """A pod that is unready for a second moves flows; only its slice's resourceVersion shows it."""
    async with polling(api, cluster, told):
        await two_lists(api)
        told.now = 2000
        await two_lists(api)
        told.take()
        api.put("endpointslices", endpoint_slice(endpoint("a", ready=False), endpoint("b", "n2")))
        api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2")))
        told.now = 3000
        await two_lists(api)
        events = [event for event in told.take() if not isinstance(event, PoolConfirmed)]
    reason = "something was changed and changed back between two lists"
    assert events[0] == PoolUnobserved(3000, 2000, reason)
    assert isinstance(events[1], PoolObserved)
    assert (events[1].since_ns, events[1].until_ns, pods(events[1])) == (2000, 3000, ["a", "b"])
    assert len(events) == 2


async def test_lists_that_fail_are_one_gap(api: FakeApi, cluster: Cluster, told: Told) -> None:
    async with polling(api, cluster, told):
        await two_lists(api)
        told.take()
        api.status = 503
        await until(lambda: bool(told.events) and isinstance(told.events[-1], PoolUnobserved))
        await asyncio.sleep(0.2)
        api.status = None
        await until(lambda: isinstance(told.events[-1], PoolConfirmed))
        gaps = [event for event in told.take() if isinstance(event, PoolUnobserved)]
    assert [gap.reason for gap in gaps] == ["the API server is out of order (503: status 503)"]


async def test_the_service_and_what_is_around_it_is_listed_too(api: FakeApi, cluster: Cluster, told: Told) -> None:
    async with polling(api, cluster, told):
        told.take()
        api.put("services", service(externalTrafficPolicy="Local"))
        api.put("nodes", node("n3"))
        await until(lambda: sum(isinstance(event, ClusterEvent) for event in told.events) >= 2)
        found = {event.action for event in told.events if isinstance(event, ClusterEvent)}
    assert {ClusterAction.FIELDS_CHANGED, ClusterAction.ADDED} <= found


async def test_a_list_that_a_judgement_asks_for_is_never_older_than_the_one_before(
    api: FakeApi, cluster: Cluster, told: Told
) -> None:
    """Lists of the watch and of judgements at the same time, while the pool changes."""
    async with polling(api, cluster, told) as watch:
        for number in range(40):
            told.now += 10
            api.put("endpointslices", endpoint_slice(endpoint(chr(ord("a") + number % 20))))
            await asyncio.gather(watch.confirm(), asyncio.sleep(0.005), watch.confirm())
        last = chr(ord("a") + 39 % 20)
        assert watch.snapshot is not None
        assert [each.pod for each in watch.snapshot.endpoints] == [last]
    assert not [event for event in told.events if isinstance(event, PoolUnobserved)]
    observed = [event for event in told.events if isinstance(event, PoolObserved)]
    assert all(event.since_ns <= event.until_ns <= event.at_ns for event in observed)
    assert [event.until_ns for event in observed] == sorted(event.until_ns for event in observed)
