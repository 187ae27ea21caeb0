"""A large cluster: 5,000 endpoints in 50 slices and 500 nodes are listed page by page and make one snapshot."""

from __future__ import annotations

from typing import Any

from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.pool_watch import PoolWatch
from affinity_tester.core.events import (
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
)
from fakeapi import FakeApi, Told, endpoint_slice, node, numbered_endpoint, until


def slices(count: int = 50, each: int = 100) -> list[dict[str, Any]]:
    return [
        endpoint_slice(*(numbered_endpoint(at * each + n) for n in range(each)), name=f"turn-{at:03}")
        for at in range(count)
    ]


async def test_5000_endpoints_in_50_slices_and_500_nodes(api: FakeApi, cluster: Cluster) -> None:
    told = Told()
    api.delete("endpointslices", "turn-1")
    for each in slices():
        api.put("endpointslices", each)
    for number in range(500):
        api.put("nodes", node(f"node-{number}", internal=f"172.16.{number >> 8}.{number & 255}"))
    watch = PoolWatch(cluster, ServiceRef("media", "turn"), 3478, told.tell, now_ns=told.clock)
    assert await watch.start(60) is None
    assert watch.snapshot is not None
    assert watch.snapshot.ready_count == len(watch.snapshot.endpoints) == 5000
    names, observed = sorted(told.take(), key=str)
    assert isinstance(names, NodeAddresses)
    assert len(names.names) == 502
    assert isinstance(observed, PoolObserved)
    await until(lambda: len(api.streams) == 7)
    lists = [path for verb, path, query in api.asked if verb == "list" and "continue" in query]
    assert len([path for path in lists if path.endswith("endpointslices")]) == 9  # pages after the first
    assert len([path for path in lists if path.endswith("nodes")]) == 25
    told.now = 2000
    first = slices()[0]
    api.put("endpointslices", {**first, "endpoints": first["endpoints"][1:]})
    api.delete("nodes", "node-7", "")
    left, event = sorted(await told.at(2000, 2), key=lambda event: isinstance(event, ClusterEvent))
    assert event == ClusterEvent(2000, ClusterSubject.NODE, "node-7", ClusterAction.REMOVED)
    assert isinstance(left, PoolObserved)
    assert (left.at_ns, left.since_ns, len(left.snapshot.endpoints)) == (2000, 1000, 4999)
    assert await watch.confirm()
    assert told.take() == [PoolConfirmed(2000, 2000)]
    await watch.stop()
