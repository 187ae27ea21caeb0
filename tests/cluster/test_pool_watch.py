"""The watch against an API server on loopback that is changed, slowed, cut, killed and brought back: whole event lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef, Slice
from affinity_tester.cluster.pool_watch import MIN_SAMPLE_NS, PoolWatch
from affinity_tester.cluster.reflector import Cached, Listing, Reflector, WatchTiming
from affinity_tester.core.events import (
    ApiServerAnswered,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from fakeapi import FakeApi, Told, endpoint, endpoint_slice, node, pod, proxy, service, until

S = 1_000_000_000
QUICK = WatchTiming(backoff_s=0.02, backoff_max_s=0.05, min_watch_s=0, max_lag_s=0.1)
REF = ServiceRef("media", "turn")
SPEC = (
    ("type", "LoadBalancer"),
    ("externalTrafficPolicy", "Cluster"),
    ("sessionAffinity", "None"),
    ("ports", "stun 3478/UDP->stun:30478"),
)
A = Endpoint("uid-a", "a", "10.1.0.97", "n1")
B = Endpoint("uid-b", "b", "10.1.0.98", "n2")
C = Endpoint("uid-c", "c", "10.1.0.99", "n1")
CUT = "the connection to the API server broke"


def pool(*endpoints: Endpoint, spec: tuple[tuple[str, str], ...] = SPEC) -> PoolSnapshot:
    return PoolSnapshot(frozenset(endpoints), spec)


def blind(at_ns: int, trouble: ClusterAction, resource: str = "", detail: str = "") -> ClusterEvent:
    """What the watch says that it cannot see."""
    return ClusterEvent(at_ns, ClusterSubject.WATCH, "media/turn", trouble, resource=resource, detail=detail)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watching(cluster: Cluster, told: Told) -> Callable[..., Any]:
    @asynccontextmanager
    async def watching(timing: WatchTiming = QUICK, **more: Any) -> AsyncIterator[PoolWatch]:
        emit, sample_ns = more.pop("emit", told.tell), more.pop("sample_ns", 3600 * S)
        watch = PoolWatch(cluster, REF, 3478, emit, now_ns=told.clock, timing=timing, sample_ns=sample_ns)
        await watch.start(**more)
        try:
            yield watch
        finally:
            await watch.stop()

    return watching


@pytest.fixture
async def watch(api: FakeApi, watching: Callable[..., Any], told: Told) -> AsyncIterator[PoolWatch]:
    """Running since 1000; the first snapshot is taken, and all its watches are open."""
    async with watching() as watch:
        names = (("10.0.0.1", "n1"), ("10.0.0.2", "n2"))
        first = [NodeAddresses(1000, names), PoolObserved(1000, 1000, 1000, pool(A, B), 1000)]
        assert sorted(told.take(), key=str) == first
        await until(lambda: len(api.streams) == 7)
        yield watch


async def test_the_first_lists_tell_the_pool_and_no_events(watch: PoolWatch, told: Told) -> None:
    assert watch.unwatched_reason is None
    assert watch.snapshot == pool(A, B)
    assert told.events == []


async def test_pool_changes_are_told_as_they_are_heard(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2"), endpoint("c")))
    assert await told.at(2000) == [PoolObserved(2000, 1000, 2000, pool(A, B, C))]
    told.now = 3000
    api.put("endpointslices", endpoint_slice(endpoint("b", "n2"), endpoint("c")))
    assert await told.at(3000) == [PoolObserved(3000, 1000, 3000, pool(B, C))]
    told.now = 4000
    api.put("services", service(externalTrafficPolicy="Local"))
    spec = (SPEC[0], ("externalTrafficPolicy", "Local"), *SPEC[2:])
    assert await told.at(4000, 2) == [
        ClusterEvent(
            4000, ClusterSubject.SERVICE, "media/turn", ClusterAction.FIELDS_CHANGED, fields=("externalTrafficPolicy",)
        ),
        PoolObserved(4000, 1000, 4000, pool(B, C, spec=spec)),
    ]


async def test_repacked_slices_nodes_and_hints_do_not_change_the_pool(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.put("endpointslices", endpoint_slice(endpoint("b", "n2"), name="turn-2"))  # b stands in both for a moment
    api.put("endpointslices", endpoint_slice({**endpoint("a", "n9"), "hints": {"forZones": [{"name": "z"}]}}))
    api.put("endpointslices", endpoint_slice(name="other", of="other"))
    api.put("nodes", node("n3"))
    assert await told.at(2000) == [ClusterEvent(2000, ClusterSubject.NODE, "n3", ClusterAction.ADDED)]
    assert await watch.confirm()
    assert told.take() == [PoolConfirmed(2000, 2000)]


async def test_a_load_balancer_s_new_address_is_an_event_and_no_pool_change(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.put("services", service(ingress=("203.0.113.9",)))
    changed = ClusterEvent(2000, ClusterSubject.SERVICE, "media/turn", ClusterAction.ADDRESS_CHANGED)
    assert await told.at(2000) == [replace(changed, old=("203.0.113.7",), new=("203.0.113.9",))]


async def test_a_deleted_service_and_its_return(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.delete("services", "turn")
    assert await told.at(2000, 2) == [
        ClusterEvent(2000, ClusterSubject.SERVICE, "media/turn", ClusterAction.DELETED),
        PoolObserved(2000, 1000, 2000, pool(A, B, spec=())),
    ]
    told.now = 3000
    api.put("services", service())
    assert await told.at(3000, 2) == [
        ClusterEvent(3000, ClusterSubject.SERVICE, "media/turn", ClusterAction.CREATED),
        PoolObserved(3000, 1000, 3000, pool(A, B)),
    ]


async def test_what_happens_around_the_pool(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.put("nodes", node("n3", ready="Unknown", internal="10.0.0.3"))
    api.put("nodes", node("n3", internal="10.0.0.3"))
    api.put("nodes", node("n3", cordoned=True, internal="10.0.0.3"))
    api.delete("nodes", "n3", "")
    names = (("10.0.0.1", "n1"), ("10.0.0.2", "n2"), ("10.0.0.3", "n3"))
    assert await told.at(2000, 5) == [
        ClusterEvent(2000, ClusterSubject.NODE, "n3", ClusterAction.ADDED),
        NodeAddresses(2000, names),
        *[
            ClusterEvent(2000, ClusterSubject.NODE, "n3", ClusterAction(each))
            for each in ("ready", "cordoned", "removed")
        ],
    ]
    api.put("pods", pod("a", restarts=1, end="OOMKilled"))
    api.put("pods", pod("z", labels={"app": "other"}, restarts=1))
    api.put("pods", proxy("kube-proxy-1", restarts=1))
    assert sorted(await told.at(2000, 2), key=str) == [
        ClusterEvent(2000, ClusterSubject.POD, "a", ClusterAction.RESTARTED, node="n1", last_end="OOMKilled"),
        ClusterEvent(2000, ClusterSubject.PROXY, "kube-proxy-1", ClusterAction.RESTARTED, node="n1"),
    ]


async def test_pods_of_a_new_selector_are_watched_instead(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    api.put("pods", pod("z", labels={"app": "other"}))
    api.put("services", service(selector={"app": "other"}))
    assert await told.at(1000) == [
        ClusterEvent(1000, ClusterSubject.SERVICE, "media/turn", ClusterAction.FIELDS_CHANGED, fields=("selector",))
    ]
    await until(lambda: api.asked[-1][2].get("labelSelector") == "app=other" and api.asked[-1][0] == "watch")
    await until(lambda: len(api.streams) == 7)
    api.put("pods", pod("a", restarts=1))
    api.put("pods", pod("z", labels={"app": "other"}, restarts=1))
    assert await told.at(1000) == [ClusterEvent(1000, ClusterSubject.POD, "z", ClusterAction.RESTARTED, node="n1")]


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_a_wanted_list_confirms_as_of_when_it_was_asked_for(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    api.hold.clear()
    asked = len(api.asked)
    watch.request_confirmation(None)
    watch.request_confirmation(2000)
    told.now = 2000
    watch.request_confirmation(2000)  # not later than that
    told.now = 2001
    watch.request_confirmation(2000)
    watch.request_confirmation(2000)  # one at a time
    await until(lambda: len(api.asked) == asked + 1)
    told.now = 9000
    api.hold.set()
    assert await told.at(9000) == [PoolConfirmed(9000, 2001)]
    watch.request_confirmation(2000)  # too soon after the last
    assert [(verb, path.rpartition("/")[2]) for verb, path, _ in api.asked[asked:]] == [
        ("list", "endpointslices"),
        ("list", "services"),
    ]
    told.now += 10**9
    assert await watch.confirm()
    assert told.take() == [PoolConfirmed(told.now, told.now)]


async def test_a_list_that_the_watch_cannot_follow_is_a_gap(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    api.deaf = True
    told.now = 2000
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    assert not await watch.confirm()
    assert await told.at(2000, 2) == [
        PoolUnobserved(2000, 1000, "the watch does not tell what a list shows"),
        PoolObserved(2000, 1000, 2000, pool(A), 2000),
    ]
    api.deaf = False
    await until(lambda: len(api.streams) == 7)
    api.delete("endpointslices", "turn-1")
    assert await told.at(2000) == [PoolObserved(2000, 2000, 2000, pool())]
    assert await watch.confirm()


async def test_bookmarks_of_a_watch_that_is_late_do_not_shorten_the_gap(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    """An API server whose watch cache lags goes on telling of an old version."""
    told.now = 10 * S
    async with watching() as watch:
        await until(lambda: len(api.streams) == 7)
        told.take()
        old = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(api.revision)}}}
        api.deaf = True
        told.now = 50 * S
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        told.now = 60 * S
        for resource in ("endpointslices", "services"):
            api.say(resource, old)
        await until(lambda: not any(stream.queue.qsize() for stream in api.streams))
        assert not await watch.confirm()
        assert await told.at(60 * S, 2) == [
            PoolUnobserved(60 * S, 10 * S, "the watch does not tell what a list shows"),
            PoolObserved(60 * S, 10 * S, 60 * S, pool(A), 60 * S),
        ]


async def test_lists_of_one_object_are_asked_for_twice_in_a_settle_time(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    api.put("endpointslices", endpoint_slice(endpoint("c"), name="turn-2"))
    async with watching(sample_ns=1):  # as short as can be
        await until(lambda: len(api.streams) == 7)
        told.take()
        asked = len(api.asked)
        told.now = 2000
        assert await told.at(2000) == [ApiServerAnswered(2000, 2000)]
        assert sorted((verb, path.rpartition("/")[2], query["limit"]) for verb, path, query in api.asked[asked:]) == [
            ("list", "endpointslices", "1"),
            ("list", "services", "1"),
        ]
        assert not any("resourceVersion" in query for _, _, query in api.asked[asked:])
        api.answering.clear()
        asked = len(api.asked)
        await until(lambda: len(api.asked) == asked + 2)
        await asyncio.sleep(3 * MIN_SAMPLE_NS / S)
        assert len(api.asked) == asked + 2  # one round at a time
        told.now = 3000
        api.statuses = [500]
        api.answering.set()
        await until(lambda: len(api.asked) > asked + 2)
        assert await told.at(3000) == [ApiServerAnswered(3000, 3000)]  # the round that failed is left out


async def test_a_list_of_one_object_dates_what_comes_late(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    """The watch is deaf from 3000, and tells at 9000 what happened at 4000."""
    sample = watch._slices.sample
    for told.now in (2000, 3000):
        await sample()
    api.deaf = True
    told.now = 4000
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    late = api.history[-1][2]
    for told.now in (5000, 6000):
        await sample()
    told.now = 9000
    api.deaf = False
    api.say("endpointslices", late)
    assert await told.at(9000) == [PoolObserved(9000, 3000, 5000, pool(A))]
    told.now = 10_000
    api.cut("endpointslices")
    assert await told.at(10_000, 2) == [PoolUnobserved(10_000, 1000, CUT), PoolConfirmed(10_000, 1000)]


async def test_a_list_of_one_object_that_has_no_more_proves_the_copy(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    for told.now in (2000, 3000):
        await watch._slices.sample()
        await watch._service.sample()
    api.deaf = True
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    told.now = 4000
    await watch._slices.sample()  # it shows what the watch has not told
    told.now = 5000
    api.cut("endpointslices")
    assert await told.at(5000, 2) == [
        PoolUnobserved(5000, 3000, CUT),
        PoolObserved(5000, 3000, 5000, pool(A), 3000),
    ]


async def test_a_list_in_several_pages_is_as_old_as_its_first(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    """What changes between two of its pages is not in it."""
    for number in range(6):
        api.put("endpointslices", endpoint_slice(name=f"more-{number}"))
    await until(lambda: len(watch._slices.items) == 7)
    told.now = 2000
    get, asked = watch._slices._api.get, []

    async def slow(path: str, params: Any = ()) -> Any:
        answer = await get(path, params)
        asked.append(told.now)
        told.now += 1000
        if len(asked) == 1:
            api.put("endpointslices", endpoint_slice(endpoint("a")))
            await until(lambda: watch.snapshot == pool(A))
        return answer

    watch._slices._api.get = slow  # type: ignore[method-assign]
    assert await watch.confirm()
    del watch._slices._api.get
    assert asked == [2000, 3000, 4000]
    assert told.take() == [PoolObserved(3000, 1000, 3000, pool(A)), PoolConfirmed(5000, 2000)]
    told.now = 9000
    api.put("endpointslices", endpoint_slice(endpoint("b", "n2")))
    assert await told.at(9000) == [PoolObserved(9000, 2000, 9000, pool(B))]


async def test_a_failed_list_confirms_nothing(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.statuses = [500]
    assert not await watch.confirm()
    api.put("nodes", node("n3"))
    assert await told.at(2000) == [ClusterEvent(2000, ClusterSubject.NODE, "n3", ClusterAction.ADDED)]


async def test_a_gap_that_begins_meanwhile_is_not_confirmed_away(
    watch: PoolWatch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lists() -> bool:
        watch._pool.watch_down("slices", "cut")
        return True

    monkeypatch.setattr(watch, "_wait_until_caught_up", lists)
    assert not await watch.confirm()
    assert told.take() == [PoolUnobserved(1000, 1000, "cut")]


@pytest.mark.parametrize(
    ("copy", "seen", "listing", "version", "caught_up"),
    [
        ({"a": "5"}, "5", {"a": "5"}, "9", True),
        ({"a": "7"}, "7", {"a": "5"}, "6", True),  # the watch is ahead
        ({"a": "5"}, "5", {"a": "7"}, "9", False),
        ({"a": "5"}, "5", {"a": "5", "b": "7"}, "9", False),  # b was created, and not told
        ({"a": "5"}, "8", {"a": "5", "b": "7"}, "7", True),  # b was told, and deleted since
        ({"a": "5", "b": "4"}, "5", {"a": "5"}, "9", False),  # b was deleted, and not told
        ({"a": "5", "b": "12"}, "12", {"a": "5"}, "9", True),  # b was created since
        ({"a": "10"}, "10", {"a": "9"}, "9", True),  # numbers, not text
        ({"a": "x"}, "x", {"a": "x"}, "y", True),
        ({"a": "x"}, "x", {"a": "y"}, "y", False),  # no numbers: only the same is as new...
        ({"a": "x", "b": "z"}, "z", {"a": "x"}, "y", False),  # ...and b may have been created since, or deleted before
    ],
)
def test_whether_a_watch_is_level_with_a_list(
    *, copy: dict[str, str], seen: str, listing: dict[str, str], version: str, caught_up: bool
) -> None:
    reflector: Reflector[None] = Reflector(
        None, "", (), lambda _obj: None, None, kind="Node", page=1, timing=QUICK, now_ns=lambda: 0
    )
    reflector.items = {key: Cached(own, None) for key, own in copy.items()}
    reflector._version = seen
    cached = {key: Cached(own, None) for key, own in listing.items()}
    assert reflector.has_caught_up_with(Listing(0, 0, version, cached)) is caught_up


# --- interruptions --------------------------------------------------------------------------------------------------


async def test_a_cut_watch_that_missed_nothing_leaves_no_gap(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.cut("endpointslices")
    assert await told.at(2000, 2) == [PoolUnobserved(2000, 1000, CUT), PoolConfirmed(2000, 1000)]
    await api.watched("endpointslices")
    told.now = 3000
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    assert await told.at(3000) == [PoolObserved(3000, 2000, 3000, pool(A))]


async def test_what_changed_while_it_was_cut_became_so_within_the_gap(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.status = 503
    api.cut("endpointslices")
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, CUT)]
    assert not await watch.confirm()
    told.now = 5000
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2")))  # as it was, and yet it changed
    api.cut("services")  # is part of the same gap
    await api.watched("services", 0)
    api.status = None
    assert await told.at(5000) == [PoolObserved(5000, 1000, 5000, pool(A, B), 5000)]
    await until(lambda: len(api.streams) == 7)
    told.now = 6000
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    assert await told.at(6000) == [PoolObserved(6000, 5000, 6000, pool(A))]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_came_and_went_while_it_was_cut_leaves_a_gap(
    api: FakeApi, watch: PoolWatch, told: Told, *, forgotten: bool
) -> None:
    """The objects of the new list are as they were, every one."""
    told.now = 2000
    api.status = 503
    api.cut("endpointslices")
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, CUT)]
    api.put("endpointslices", endpoint_slice(endpoint("c"), name="turn-2"))
    api.delete("endpointslices", "turn-2")
    if forgotten:
        api.compact()
    told.now = 5000
    api.status = None
    assert await told.at(5000) == [PoolObserved(5000, 1000, 5000, pool(A, B), 1000)]
    assert await watch.confirm()


async def test_what_came_and_went_under_a_silent_watch_leaves_a_gap(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    async with watching(replace(QUICK, silence_s=0.3)):
        await until(lambda: len(api.streams) == 7)
        told.take()
        api.deaf = True
        api.put("endpointslices", endpoint_slice(endpoint("c"), name="turn-2"))
        api.delete("endpointslices", "turn-2")
        api.deaf = False
        await until(lambda: any(isinstance(event, PoolObserved) for event in told.events))
        gap = [event for event in told.events if isinstance(event, PoolUnobserved | PoolObserved)]
        assert gap == [
            PoolUnobserved(1000, 1000, "the watch was silent for 0.3 s while things changed"),
            PoolObserved(1000, 1000, 1000, pool(A, B), 1000),
        ]


@pytest.mark.parametrize("what", ["bookmark", "end", "newer"])
async def test_whether_anything_was_missed_is_told_by_what_comes_next(
    api: FakeApi, watching: Callable[..., Any], told: Told, what: str
) -> None:
    """An API server that ends the watch instead of telling proves nothing."""
    async with watching(replace(QUICK, max_lag_s=20)) as watch:
        await until(lambda: len(api.streams) == 7)
        told.take()
        api.put("nodes", node("n3"))  # so that the list is newer than the last change of slices
        await told.at(1000)
        api.cut("endpointslices")
        await until(lambda: "endpointslices" not in {stream.resource for stream in api.streams})
        await api.watched("endpointslices")
        assert told.take() == [PoolUnobserved(1000, 1000, CUT)]
        if what == "bookmark":
            api.bookmark("endpointslices")
        elif what == "end":
            api.end("endpointslices")
        else:
            api.put("endpointslices", endpoint_slice(endpoint("c"), name="turn-2"))
        again = PoolObserved(1000, 1000, 1000, pool(A, B), 1000) if what == "end" else PoolConfirmed(1000, 1000)
        await until(lambda: again in told.events)
        await until(lambda: watch.snapshot == (pool(A, B, C) if what == "newer" else pool(A, B)))


async def test_changes_of_one_half_wait_while_the_other_is_down(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.status = 503
    api.cut("services")
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, CUT)]
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    api.put("nodes", node("n3"))  # it is told, so the change before it was heard
    assert await told.at(2000) == [ClusterEvent(2000, ClusterSubject.NODE, "n3", ClusterAction.ADDED)]
    told.now = 3000
    api.status = None
    assert await told.at(3000) == [PoolObserved(3000, 1000, 2000, pool(A), 1000)]


async def test_what_is_told_at_the_end_of_a_gap_is_as_wide_as_all_that_it_holds(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.forbidden = {"list /api/v1/namespaces/media/services"}
    api.cut("services")
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, CUT)]
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    await until(lambda: len(next(iter(watch._slices.items.values())).value.endpoints) == 1)
    told.now = 3000
    await watch._slices.sample()
    told.now = 4000
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("c")))
    await until(lambda: len(next(iter(watch._slices.items.values())).value.endpoints) == 2)
    told.now = 5000
    api.forbidden = set()
    assert await told.at(5000) == [PoolObserved(5000, 1000, 4000, pool(A, C), 3000)]


@pytest.mark.parametrize("how", ["http", "event"])
async def test_an_expired_version_is_a_gap_and_a_new_list(api: FakeApi, watch: PoolWatch, told: Told, how: str) -> None:
    told.now = 2000
    if how == "http":
        api.revision += 1
        api.compact()
        api.end("endpointslices")  # goes on from a version that is no more
    else:
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}
        api.say("endpointslices", {"type": "ERROR", "object": status})
    reason = "the API server no longer has the changes since we last looked (410)"
    again = {  # a list proves nothing of what came and went, unless the changes can be had after all
        "http": PoolObserved(2000, 1000, 2000, pool(A, B), 1000),
        "event": PoolConfirmed(2000, 1000),
    }
    assert await told.at(2000, 2) == [PoolUnobserved(2000, 1000, reason), again[how]]
    await api.watched("endpointslices")
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    assert await told.at(2000) == [PoolObserved(2000, 2000, 2000, pool(A))]


async def test_a_watch_that_ends_after_its_time_goes_on_without_a_gap(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    api.deaf = True
    api.put("endpointslices", endpoint_slice(endpoint("a")))
    api.deaf = False
    lists = sum(verb == "list" for verb, *_ in api.asked)
    told.now = 2000
    api.end("endpointslices")
    assert await told.at(2000) == [PoolObserved(2000, 1000, 2000, pool(A))]
    assert sum(verb == "list" for verb, *_ in api.asked) == lists


async def test_a_watch_that_ends_as_soon_as_it_begins_is_broken(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    async with watching(replace(QUICK, min_watch_s=60)):
        told.take()
        await api.watched("endpointslices")
        api.end("endpointslices")
        reason = "the API server ends the watch as soon as it begins"
        assert await told.at(1000, 2) == [PoolUnobserved(1000, 1000, reason), PoolConfirmed(1000, 1000)]


async def test_a_line_that_cannot_be_read_is_a_gap(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    api.say("endpointslices", {"type": "ADDED"})
    reason = "the API server sent a watch event that cannot be read"
    assert await told.at(1000, 2) == [PoolUnobserved(1000, 1000, reason), PoolConfirmed(1000, 1000)]


async def test_silence_is_checked_by_a_list_and_is_a_gap_only_if_things_changed(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    async with watching(replace(QUICK, silence_s=0.1)):
        told.take()
        told.now = 2000
        assert PoolConfirmed(2000, 2000) in await told.at(2000, 2)
        api.deaf = True
        told.now = 3000
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        await until(lambda: any(isinstance(event, PoolUnobserved) for event in told.events))
        gap = next(event for event in told.events if isinstance(event, PoolUnobserved))
        assert gap.reason == "the watch was silent for 0.1 s while things changed"
        await until(lambda: any(isinstance(event, PoolObserved) for event in told.events))
        seen = next(event for event in told.events if isinstance(event, PoolObserved))
        assert (seen.since_ns, seen.until_ns, seen.snapshot) == (gap.since_ns, 3000, pool(A))


async def test_a_killed_api_server_is_one_line_and_the_watch_resumes_when_it_is_back(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    await api.kill()
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, CUT)]
    told.now = 3000
    api.put("endpointslices", endpoint_slice(endpoint("b", "n2")))
    api.put("nodes", node("n3"))
    await api.start()
    assert sorted(await told.at(3000, 2), key=str) == [
        ClusterEvent(3000, ClusterSubject.NODE, "n3", ClusterAction.ADDED),
        PoolObserved(3000, 1000, 3000, pool(B), 3000),
    ]
    await until(lambda: len(api.streams) == 7)
    told.now = 4000
    api.put("endpointslices", endpoint_slice(endpoint("a"), endpoint("b", "n2")))
    assert await told.at(4000) == [PoolObserved(4000, 3000, 4000, pool(A, B))]
    assert await watch.confirm()
    assert told.take() == [PoolConfirmed(4000, 4000)]


# --- starts -----------------------------------------------------------------------------------------------------------


async def test_a_slow_start_goes_on_in_the_background(api: FakeApi, watching: Callable[..., Any], told: Told) -> None:
    api.hold.clear()
    async with watching(wait_s=0.05) as watch:
        assert watch.unwatched_reason == "the endpointslices could not be listed (no answer yet)"
        assert told.events == []
        told.now = 5000
        api.hold.set()
        await until(lambda: watch.unwatched_reason is None)
        assert PoolObserved(5000, 1000, 5000, pool(A, B), 1000) in told.events


async def test_a_dead_start_says_why(api: FakeApi, watching: Callable[..., Any], told: Told) -> None:
    await api.kill()
    async with watching(wait_s=0.1) as watch:
        why = f"the API server at 127.0.0.1:{api.port} cannot be reached (Connection refused)"
        assert watch.unwatched_reason == f"the endpointslices could not be listed ({why})"
        assert told.events == []
        await api.start()
        await until(lambda: watch.unwatched_reason is None)


async def test_what_is_refused_is_said_once_and_the_rest_goes_on(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    api.forbidden = {f"list /api/v1/{path}" for path in ("nodes", "pods", "namespaces/media/pods")}
    async with watching() as watch:
        assert watch.unwatched_reason is None
        assert sorted(told.take(), key=lambda event: getattr(event, "resource", "")) == [
            PoolObserved(1000, 1000, 1000, pool(A, B), 1000),
            blind(1000, ClusterAction.LIST_FORBIDDEN, "nodes"),
            blind(1000, ClusterAction.LIST_FORBIDDEN, "pods", "media"),
            blind(1000, ClusterAction.LIST_FORBIDDEN, "proxies"),
        ]


async def test_without_the_service_the_pool_is_its_endpoints(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    api.forbidden = {"list /api/v1/namespaces/media/services"}
    async with watching() as watch:
        assert watch.unwatched_reason is None
        assert watch.snapshot == pool(A, B, spec=())
        assert blind(1000, ClusterAction.LIST_FORBIDDEN, "services", "media") in told.take()
        api.deaf = True
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        assert not await watch.confirm()
        assert await told.at(1000, 2) == [
            PoolUnobserved(1000, 1000, "the watch does not tell what a list shows"),
            PoolObserved(1000, 1000, 1000, pool(A, spec=()), 1000),
        ]
        assert await watch.confirm()


async def test_refused_slices_leave_the_pool_unwatched(api: FakeApi, watching: Callable[..., Any], told: Told) -> None:
    api.forbidden = {"list /apis/discovery.k8s.io/v1/namespaces/media/endpointslices"}
    async with watching() as watch:
        assert watch.unwatched_reason == "cannot list endpointslices in namespace media (status 403)"
        assert not await watch.confirm()
        told.take()
        await until(lambda: len(api.streams) == 6)
        api.put("nodes", node("n3"))
        assert await told.at(1000) == [ClusterEvent(1000, ClusterSubject.NODE, "n3", ClusterAction.ADDED)]


async def test_a_right_to_watch_that_is_taken_away_later_is_told_and_lists_go_on(
    api: FakeApi, watching: Callable[..., Any], told: Told
) -> None:
    async with watching(replace(QUICK, poll_s=0.02)) as watch:
        await until(lambda: len(api.streams) == 7)
        told.take()
        api.forbidden = {"watch"}
        api.end("endpointslices")
        assert (await told.at(1000))[0] == blind(1000, ClusterAction.WATCH_FORBIDDEN, detail="0.02 s")
        told.now = 2000
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        await until(lambda: watch.snapshot == pool(A))
        assert await watch.confirm()
        assert not [event for event in told.take() if isinstance(event, (PoolUnobserved, ClusterEvent))]


async def test_it_says_when_no_proxy_can_be_seen(api: FakeApi, watching: Callable[..., Any], told: Told) -> None:
    api.objects["pods"] = {}
    async with watching():
        assert blind(1000, ClusterAction.NO_PROXY_SEEN) in told.events


async def test_each_proxy_is_seen_once(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    labels = [
        {"k8s-app": "kube-proxy", "component": "kube-proxy"},
        {"component": "kube-proxy", "app": "ovnkube-node"},
        {"app": "ovnkube-node"},
        {"k8s-app": "cilium", "app": "ovnkube-node"},
        {"k8s-app": "coredns"},
    ]
    for number, each in enumerate(labels):
        api.put("pods", proxy(f"p{number}", labels=each))
    api.put("pods", proxy("p9", kind="calico-node"))
    told_of = sorted(event.name for event in await told.at(1000, 5) if isinstance(event, ClusterEvent))
    assert told_of == ["p0", "p1", "p2", "p3", "p9"]


# --- errors of its own ------------------------------------------------------------------------------------------------


async def test_an_internal_error_is_one_event_and_a_gap(
    api: FakeApi, watch: PoolWatch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_obj: object) -> Slice:
        raise KeyError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(watch._slices, "_keep", fail)
        told.now = 2000
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        assert await told.at(2000, 2) == [
            blind(2000, ClusterAction.INTERNAL_ERROR, "slices", "KeyError: 'bug'"),
            PoolUnobserved(2000, 1000, "an internal error (KeyError)"),
        ]
        assert not await watch.confirm()
    assert await told.at(2000) == [PoolObserved(2000, 1000, 2000, pool(A), 1000)]
    with monkeypatch.context() as patch:
        patch.setattr(watch._slices, "_keep", fail)
        assert not await watch.confirm()
    assert told.take() == []  # said once


# --- what cannot be read ----------------------------------------------------------------------------------------------

ODD = endpoint_slice({**endpoint("a"), "conditions": {"ready": "false"}})
NO_FLAG = 'EndpointSlice "media/turn-1" cannot be read: endpoints[0].conditions.ready is "false", not a boolean'


async def test_a_slice_that_cannot_be_read_leaves_the_pool_unknown_until_it_can(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.put("endpointslices", ODD)
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, NO_FLAG)]
    told.now = 3000
    assert not await watch.confirm()
    lists = len(api.asked)
    await until(lambda: len(api.asked) > lists + 1)  # it is listed again and again
    assert told.take() == []
    told.now = 4000
    api.put("endpointslices", endpoint_slice(endpoint("a", ready=False), endpoint("b", "n2")))
    assert await told.at(4000) == [
        PoolObserved(4000, 1000, 4000, pool(replace(A, ready=False, serving=False), B), 1000)
    ]


async def test_what_cannot_be_read_in_a_gap_is_said(api: FakeApi, watch: PoolWatch, told: Told) -> None:
    told.now = 2000
    api.deaf = True
    api.put("endpointslices", ODD)
    api.cut("endpointslices")
    assert await told.at(2000, 2) == [
        PoolUnobserved(2000, 1000, CUT),
        blind(2000, ClusterAction.UNREADABLE, detail=NO_FLAG),
    ]


async def test_a_service_that_cannot_be_read_leaves_the_pool_unknown(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    told.now = 2000
    api.put("services", service(selector=["app"]))
    reason = 'Service "media/turn" cannot be read: spec.selector is a list, not an object'
    assert await told.at(2000) == [PoolUnobserved(2000, 1000, reason)]
    api.put("services", service())
    assert await told.at(2000) == [PoolObserved(2000, 1000, 2000, pool(A, B), 1000)]


async def test_other_objects_that_cannot_be_read_are_told_and_left_as_they_were(
    api: FakeApi, watch: PoolWatch, told: Told
) -> None:
    api.put("nodes", node("n1", ready="yes", internal="10.0.0.1"))
    api.put("nodes", node("n1", ready="yes", internal="10.0.0.1"))
    odd = 'Node "n1" cannot be read: status.conditions[1].status is none of True, False, Unknown'
    assert await told.at(1000) == [blind(1000, ClusterAction.UNREADABLE, detail=odd)]
    for number in range(30):
        api.put("nodes", node(f"x{number}", ready="yes"))
    api.put("nodes", node("n3"))
    events = await told.at(1000, 21)
    assert [event.name for event in events if isinstance(event, ClusterEvent)] == [*["media/turn"] * 20, "n3"]
    assert events[-2] == blind(1000, ClusterAction.MORE_UNREADABLE)
    api.cut("nodes")
    await until(lambda: "nodes" not in {stream.resource for stream in api.streams})
    await api.watched("nodes")
    assert watch._context._nodes.items.keys() == {"/n1", "/n2", "/n3"}  # n1 was not removed
    assert told.take() == []


@pytest.mark.parametrize("obj", [None, [], 7, "x"])
@pytest.mark.parametrize("resource", ["endpointslices", "nodes"])
async def test_an_event_without_an_object(
    api: FakeApi, watch: PoolWatch, told: Told, resource: str, obj: object
) -> None:
    told.now = 2000
    api.say(resource, {"type": "MODIFIED", "object": obj})
    if resource == "endpointslices":
        reason = "the API server sent a watch event that cannot be read"
        assert await told.at(2000, 2) == [PoolUnobserved(2000, 1000, reason), PoolConfirmed(2000, 1000)]
    else:
        await until(lambda: "nodes" not in {stream.resource for stream in api.streams})
    await api.watched(resource)


@pytest.mark.parametrize("nothing", ["name", "resourceVersion"])
async def test_an_object_without_a_name_or_version(api: FakeApi, watch: PoolWatch, told: Told, nothing: str) -> None:
    metadata = {"namespace": "media", "name": "turn-1", "resourceVersion": "9999"}
    del metadata[nothing]
    api.say("endpointslices", {"type": "MODIFIED", "object": {**endpoint_slice(), "metadata": metadata}})
    name = "media" if nothing == "name" else "media/turn-1"
    reason = f'EndpointSlice "{name}" cannot be read: metadata.{nothing} is missing'
    assert await told.at(1000, 2) == [PoolUnobserved(1000, 1000, reason), PoolConfirmed(1000, 1000)]


# --- errors of its own ------------------------------------------------------------------------------------------------


async def test_an_emit_that_fails_is_raised_at_the_end(api: FakeApi, watching: Callable[..., Any], told: Told) -> None:
    def emit(event: Event) -> None:
        told.tell(event)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        async with watching(emit=emit) as watch:
            assert watch.unwatched_reason is None
    assert len(told.events) == 1
