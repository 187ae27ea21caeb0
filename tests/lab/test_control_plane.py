"""The lab's cluster as the client's analysis hears of it."""

from __future__ import annotations

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ClusterEvent,
    Event,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.lab.control_plane import ControlPlane
from affinity_tester.lab.parts import Pod
from affinity_tester.lab.path import NetworkPath

SPEC = (("externalTrafficPolicy", "Cluster"), ("sessionAffinity", "None"))
POD = Pod(name="a", node="node-1", address=TransportAddress("127.2.0.1", 3478), instance=bytes(8))
ENDPOINT = Endpoint(uid="uid-a", pod="a", address="127.2.0.1", node="node-1")
NODES = (("127.1.0.1", "node-1"),)


class Lab:
    def __init__(self) -> None:
        self.told: list[Event] = []
        self.path = NetworkPath(seed=1, record=lambda _deed: None)
        self.path.add_node("node-1", "127.1.0.1")
        self.path.add_pod(POD)
        self.control = ControlPlane(self.path, self.told.append)
        self.control.look(1)
        assert self.new() == [NodeAddresses(1, NODES), PoolObserved(1, 1, pool(ENDPOINT), listed=True)]

    def new(self) -> list[Event]:
        told, self.told[:] = list(self.told), []
        return told


def pool(*endpoints: Endpoint) -> PoolSnapshot:
    return PoolSnapshot(frozenset(endpoints), SPEC)


def test_a_look_tells_what_differs_and_no_more() -> None:
    lab = Lab()
    lab.control.look(2)
    assert lab.new() == []
    lab.path.set_conditions("a", ready=False, serving=True, terminating=True)
    lab.control.look(3)
    leaving = Endpoint("uid-a", "a", "127.2.0.1", "node-1", ready=False, serving=True, terminating=True)
    assert lab.new() == [PoolObserved(3, 3, pool(leaving), listed=True)]


def test_cluster_events_come_before_the_pool_they_change() -> None:
    lab = Lab()
    lab.control.tell("node", "node-2", "added")
    assert lab.new() == []
    lab.path.add_node("node-2", "127.1.0.2")
    lab.control.look(2)
    assert lab.new() == [
        ClusterEvent(2, "node", "node-2", "added"),
        NodeAddresses(2, (*NODES, ("127.1.0.2", "node-2"))),
    ]


def test_a_confirmation_tells_first_what_is_new() -> None:
    lab = Lab()
    lab.path.remove_pod("a")
    lab.control.confirm(2)
    lab.control.confirm(3)
    assert lab.new() == [PoolObserved(2, 2, pool(), listed=True), PoolConfirmed(2, 2), PoolConfirmed(3, 3)]


def test_nothing_is_told_while_the_api_server_is_gone_and_then_what_may_have_changed_since() -> None:
    lab = Lab()
    lab.control.look(5)
    lab.control.leave(7)
    lab.path.remove_pod("a")
    lab.control.tell("node", "node-1", "not Ready")
    lab.control.look(8)
    lab.control.confirm(9)
    lab.control.come_back(10)
    assert lab.new() == [
        PoolUnobserved(7, 5, "the API server does not answer"),
        PoolObserved(10, 5, pool(), listed=True),
    ]
