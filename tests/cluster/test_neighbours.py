"""Other UDP Services, and whose reflexive IPs are: what is asked, what is told, and what is left out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from affinity_tester.cluster import neighbour_watch
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, PodAddresses
from fakeapi import FakeApi, Told, endpoint, endpoint_slice, pod, service, until

S = 1_000_000_000
UDP, CHANGED = ClusterSubject.UDP_SERVICE, ClusterAction.ENDPOINTS_CHANGED


def other_slice(*pods: str, name: str = "dns-1", of: str = "dns", generation: int | None = None) -> dict[str, Any]:
    found = endpoint_slice(*map(endpoint, pods), name=name, of=of)
    found["metadata"]["namespace"] = "other"
    if generation is not None:
        found["metadata"]["generation"] = generation
    return found


@asynccontextmanager
async def watching(cluster: Cluster, told: Told, port: int = 3478) -> AsyncIterator[PoolWatch]:
    watch = PoolWatch(cluster, ServiceRef("media", "turn"), port, told.tell, now_ns=told.clock, sample_ns=3600 * S)
    await watch.start()
    watch.watch_neighbours()
    await until(lambda: not watch.is_busy)
    try:
        yield watch
    finally:
        await watch.stop()


def of(told: Told, *kinds: object) -> list[ClusterEvent]:
    return [event for event in told.take() if isinstance(event, ClusterEvent) and event.action in kinds]


async def test_changes_of_other_udp_services_are_told_once_a_second(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    api.put("services", service("dns", "other"))
    tcp = {"protocol": "TCP", "port": 80, "nodePort": 30080}
    api.put("services", service("web", "other", ports=[tcp]))
    api.put("endpointslices", other_slice("x", generation=1))
    api.put("endpointslices", other_slice("y", name="web-1", of="web", generation=1))
    async with watching(cluster, told):
        await until(lambda: len(api.streams) == 8)
        told.take()
        told.now = 2 * S
        api.put("endpointslices", other_slice("y", "z", name="web-1", of="web", generation=2))
        api.put("endpointslices", other_slice("x", generation=1))  # its metadata alone
        api.put("endpointslices", other_slice("x", "z", generation=2))
        api.put("endpointslices", other_slice("z", generation=3))
        assert await told.at(2 * S) == [ClusterEvent(2 * S, UDP, "other/dns", CHANGED)]
        told.now = 4 * S
        api.delete("endpointslices", "dns-1", "other")
        assert await told.at(4 * S) == [ClusterEvent(4 * S, UDP, "other/dns", CHANGED)]


async def test_its_own_endpoints_are_no_neighbours_and_a_busy_cluster_is_cut(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour_watch, "MAX_EVENTS", 2)
    told = Told()
    for number in range(4):
        api.put("services", service(f"dns-{number}", "other"))
    async with watching(cluster, told):
        await until(lambda: len(api.streams) == 8)
        told.take()
        told.now = 2 * S
        api.put("endpointslices", endpoint_slice(endpoint("a")))
        for number in range(4):
            api.put("endpointslices", other_slice("x", name=f"s-{number}", of=f"dns-{number}"))
        await until(lambda: len(told.events) == 3)
        assert [event.name for event in of(told, CHANGED)] == ["other/dns-0", "other/dns-1"]
        told.now = 14 * S
        api.put("endpointslices", other_slice(name="s-3", of="dns-3"))
        assert [event.name for event in await told.at(14 * S)] == ["other/dns-3"]


async def test_a_port_that_is_anothers_node_port_is_warned_of(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    port = {"protocol": "UDP", "port": 53, "nodePort": 3478}
    api.put("services", service("dns", "other", ports=[port]))
    async with watching(cluster, told):
        (warned,) = of(told, ClusterAction.NODE_PORT_SHARED)
    assert (warned.subject, warned.detail) == (ClusterSubject.WATCH, "other/dns 3478")


@pytest.mark.parametrize("refused", ["list /api/v1/services", "list /apis/discovery.k8s.io/v1/endpointslices"])
async def test_what_is_refused_is_left_out_without_a_word(api: FakeApi, cluster: Cluster, refused: str) -> None:
    told = Told()
    api.put("services", service("dns", "other"))
    api.forbidden.add(refused)
    async with watching(cluster, told) as watch:
        await until(lambda: len(api.streams) == 7)
        assert watch.unwatched_reason is None
    assert of(told, ClusterAction.LIST_FORBIDDEN) == []


async def test_a_refused_watch_of_metadata_is_silent(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    api.put("services", service("dns", "other"))
    api.put("endpointslices", other_slice("x"))
    api.forbidden.add("watch /apis/discovery.k8s.io/v1/endpointslices")
    async with watching(cluster, told):
        await until(lambda: len(api.streams) == 7)
    assert of(told, ClusterAction.LIST_FORBIDDEN, ClusterAction.INTERNAL_ERROR) == []


@pytest.mark.parametrize("what", ["services", "endpointslices"])
async def test_a_cluster_of_too_many_objects_is_not_watched(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(neighbour_watch, "MAX_OBJECTS", 3)
    told = Told()
    api.put("services", service("dns", "other"))
    for number in range(4):
        if what == "services":
            api.put("services", service(f"dns-{number}", "other"))
        else:
            api.put("endpointslices", other_slice("x", name=f"s-{number}"))
    async with watching(cluster, told):
        await until(lambda: len(api.streams) == 7)


async def test_an_unreadable_service_is_passed_over(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    api.put("services", {"metadata": {"name": "odd", "namespace": "other"}, "spec": {"ports": "none"}})
    api.put("services", service("dns", "other"))
    async with watching(cluster, told):
        await until(lambda: len(api.streams) == 8)


# --- whose an address is -------------------------------------------------------------------------------------------------


async def test_a_reflexive_ip_that_is_a_pods_is_told_and_no_other(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("affinity_tester.cluster.address_lookup.PAUSE_S", 0)
    told = Told()
    api.put("pods", pod("proxy-a", namespace="edge", ip="10.2.0.1"))
    api.put("pods", pod("host", namespace="edge", ip="10.0.0.7", spec={"hostNetwork": True}))
    api.put("pods", {**pod("odd", namespace="edge", ip="10.2.0.9"), "spec": 5})
    async with watching(cluster, told) as watch:
        told.take()
        for ip in ("10.0.0.1", "10.0.0.7", "10.2.0.9", "10.2.0.1", "10.2.0.1", "10.2.0.8"):
            watch.look_up(ip)
        assert await told.at(1000) == [PodAddresses(1000, (("10.2.0.1", "edge/proxy-a"),))]
        await until(lambda: any("10.2.0.8" in query.get("fieldSelector", "") for _, _, query in api.asked))
    selectors = [query.get("fieldSelector", "") for _, _, query in api.asked]
    asked = [selector.split(",")[0] for selector in selectors if selector.startswith("status.podIP")]
    assert asked == [f"status.podIP={ip}" for ip in ("10.0.0.7", "10.2.0.9", "10.2.0.1", "10.2.0.8")]


async def test_where_pods_may_not_be_listed_nothing_is_told(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    api.forbidden.add("list /api/v1/pods")
    async with watching(cluster, told) as watch:
        asked = len(api.asked)
        watch.look_up("10.2.0.1")
        watch.look_up("10.2.0.2")
        await until(lambda: len(api.asked) == asked + 1)
    assert not any(isinstance(event, PodAddresses) for event in told.events)
