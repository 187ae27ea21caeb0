"""The lab's cluster as the client's analysis hears of it: late, and never more than it could know."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
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
from affinity_tester.lab.control_plane import ANSWER_NS, CONFIRM_NS, ControlPlane
from affinity_tester.lab.model import Pod
from affinity_tester.lab.network import NetworkModel
from pools import ChangesChecker

MS = 1_000_000
S = 1_000 * MS
SPEC = (("externalTrafficPolicy", "Cluster"), ("sessionAffinity", "None"))
POD = Pod(name="a", node="node-1", address=TransportAddress("127.2.0.1", 3478), instance=bytes(8))
ENDPOINT = Endpoint(uid="uid-a", pod="a", address="127.2.0.1", node="node-1")
LEAVING = Endpoint("uid-a", "a", "127.2.0.1", "node-1", ready=False, serving=True, terminating=True)
NODES = (("127.1.0.1", "node-1"),)

ONE_ITEM_NS = 400 * MS


class Lab:
    """A control plane that has begun at 0; a list of one item is asked for every 400 ms, a whole one every 500 ms."""

    def __init__(self, watch_ns: int = 0) -> None:
        self.told: list[Event] = []
        self.changes = ChangesChecker()
        self.changed: list[int] = []
        self.network = NetworkModel(seed=1, log=lambda _packet: None)
        self.network.ingress.add_node("node-1", "127.1.0.1")
        self.network.add_pod(POD)
        self.control = ControlPlane(
            self.network, self.told.append, one_item_ns=ONE_ITEM_NS, watch_ns=watch_ns, changed=self.changed.append
        )
        self.control.start_watch(0)
        assert self.new() == [NodeAddresses(0, NODES), PoolObserved(0, 0, 0, pool(ENDPOINT), asked_ns=0)]

    def new(self) -> list[Event]:
        told, self.told[:] = [self.changes.check(event) for event in self.told], []
        return told

    def leaving(self, now_ns: int) -> None:
        self.network.set_conditions("a", ready=False, serving=True, terminating=True)
        self.control.publish(now_ns)

    def pass_time(self, from_ns: int, to_ns: int) -> None:
        for now_ns in range(from_ns, to_ns + 1, 20 * MS):
            self.control.advance(now_ns)


def pool(*endpoints: Endpoint) -> PoolSnapshot:
    return PoolSnapshot(frozenset(endpoints), SPEC)


def test_the_watch_tells_what_differs_and_no_more_and_when_it_may_have_happened() -> None:
    lab = Lab()
    lab.control.publish(2)
    assert lab.new() == []
    lab.leaving(3)
    assert lab.new() == [PoolObserved(3, 0, 3, pool(LEAVING))]
    assert lab.changed == [3]


def test_lists_of_one_item_and_whole_ones_are_asked_for_again_and_again_and_heard_later() -> None:
    lab = Lab()
    lab.pass_time(0, S)
    one, whole = ONE_ITEM_NS, CONFIRM_NS
    assert lab.new() == [
        ApiServerAnswered(one + ANSWER_NS, one),
        PoolConfirmed(whole + ANSWER_NS, whole),
        ApiServerAnswered(2 * one + 2 * ANSWER_NS, 2 * one + ANSWER_NS),
    ]


def test_a_list_of_one_item_narrows_when_a_change_happened() -> None:
    lab = Lab()
    lab.pass_time(0, 440 * MS)
    lab.new()
    lab.leaving(450 * MS)
    assert lab.new() == [PoolObserved(450 * MS, 400 * MS, 450 * MS, pool(LEAVING))]


def test_a_late_watch_is_overtaken_by_a_whole_list_and_tells_nothing_twice() -> None:
    lab = Lab(watch_ns=2 * S)
    lab.leaving(100 * MS)
    lab.control.add_cluster_event(ClusterEvent(0, ClusterSubject.NODE, "node-1", ClusterAction.CORDONED))
    lab.control.publish(100 * MS)
    lab.pass_time(100 * MS, 3 * S)
    told = [event for event in lab.new() if not isinstance(event, ApiServerAnswered | PoolConfirmed)]
    assert told == [
        PoolObserved(520 * MS, 0, 520 * MS, pool(LEAVING), asked_ns=500 * MS),
        ClusterEvent(2_100 * MS, ClusterSubject.NODE, "node-1", ClusterAction.CORDONED),
    ]
    assert lab.changed == [100 * MS]


def test_what_a_list_of_one_item_shows_first_counts_for_the_change_after_it() -> None:
    """It shows that something happened, and not what; once that is known, it is a list that shows no more."""
    lab = Lab(watch_ns=60 * MS)
    lab.leaving(390 * MS)
    lab.pass_time(400 * MS, 460 * MS)
    lab.network.remove_pod("a")
    lab.control.publish(470 * MS)
    lab.pass_time(480 * MS, 540 * MS)
    assert [event for event in lab.new() if isinstance(event, PoolObserved)] == [
        PoolObserved(460 * MS, 0, 460 * MS, pool(LEAVING)),
        PoolObserved(520 * MS, 400 * MS, 520 * MS, pool(), asked_ns=500 * MS),
    ]


def test_a_server_that_stalls_answers_and_tells_everything_at_the_end_of_it() -> None:
    lab = Lab()
    lab.control.stall(100 * MS, 5 * S)
    lab.leaving(S)
    lab.pass_time(S, 5_080 * MS)
    assert lab.new() == []
    lab.pass_time(5_100 * MS, 5_120 * MS)
    assert lab.new() == [
        PoolObserved(5_100 * MS, 0, 5_100 * MS, pool(LEAVING)),
        ApiServerAnswered(5_120 * MS, S),
        PoolConfirmed(5_120 * MS, S),
    ]


def test_cluster_events_come_before_the_pool_they_change() -> None:
    lab = Lab()
    lab.control.add_cluster_event(ClusterEvent(0, ClusterSubject.NODE, "node-2", ClusterAction.ADDED))
    assert lab.new() == []
    lab.network.ingress.add_node("node-2", "127.1.0.2")
    lab.control.publish(2)
    assert lab.new() == [
        ClusterEvent(2, ClusterSubject.NODE, "node-2", ClusterAction.ADDED),
        NodeAddresses(2, (*NODES, ("127.1.0.2", "node-2"))),
    ]


def test_nothing_is_told_while_the_api_server_is_gone_and_then_what_may_have_changed_since() -> None:
    lab = Lab()
    lab.pass_time(0, 540 * MS)
    lab.new()
    lab.control.disconnect(7 * S)
    lab.network.remove_pod("a")
    lab.control.add_cluster_event(ClusterEvent(0, ClusterSubject.NODE, "node-1", ClusterAction.NOT_READY))
    lab.control.publish(8 * S)
    lab.network.ingress.add_node("node-2", "127.1.0.2")
    lab.pass_time(8 * S, 9 * S)
    lab.control.reconnect(10 * S)
    assert lab.new() == [
        PoolUnobserved(7 * S, 500 * MS, "the API server does not answer"),
        PoolObserved(10 * S, 500 * MS, 10 * S, pool(), asked_ns=10 * S),
        NodeAddresses(10 * S, (*NODES, ("127.1.0.2", "node-2"))),
    ]
    assert lab.changed == [8 * S]


steps = st.lists(
    st.tuples(st.sampled_from(["pass", "pass", "change", "stall", "disconnect"]), st.integers(1, 900 * MS)), max_size=60
)


@given(steps=steps, watch_ns=st.sampled_from([0, 30 * MS, 700 * MS, 5 * S]))
def test_no_change_is_ever_dated_where_it_did_not_happen(steps: list[tuple[str, int]], watch_ns: int) -> None:
    """An oracle that knows each change's time, over any order of changes, stalls, gaps and lists."""
    lab = Lab(watch_ns)
    now_ns, away, count = 0, False, 0
    states = [(0, pool(ENDPOINT))]
    for what, size_ns in [*steps, ("back", 1), ("pass", 6 * S)]:
        if what == "change":
            count += 1
            lab.network.add_pod(Pod(name=f"p{count}", node="n", address=POD.address, instance=bytes(8)))
            lab.control.publish(now_ns)
            states.append((now_ns, PoolSnapshot(states[-1][1].endpoints | {endpoint(f"p{count}")}, SPEC)))
        elif what == "stall":
            lab.control.stall(now_ns, size_ns)
        elif what == "disconnect" and not away:
            away = True
            lab.control.disconnect(now_ns)
        elif away:
            away = False
            lab.control.reconnect(now_ns)
        for at_ns in range(now_ns, now_ns + size_ns, 20 * MS):
            lab.control.advance(at_ns)
        now_ns += size_ns
    assert lab.changed == [at_ns for at_ns, _ in states[1:]]
    known = 0
    for event in lab.new():
        match event:
            case PoolObserved():
                shown = next(index for index, (_, state) in enumerate(states) if state == event.snapshot)
                assert shown >= known
                for at_ns, _ in states[known + 1 : shown + 1]:
                    assert event.since_ns <= at_ns <= event.until_ns == event.at_ns
                known = shown
                if event.asked_ns is not None:
                    assert all(at_ns >= event.asked_ns for at_ns, _ in states[known + 1 :])
            case PoolConfirmed(asked_ns=asked_ns):
                assert all(at_ns >= asked_ns for at_ns, _ in states[known + 1 :])
            case PoolUnobserved(since_ns=since_ns):
                assert all(at_ns >= since_ns for at_ns, _ in states[known + 1 :])
    assert known == len(states) - 1, "in the end all is known"


def endpoint(name: str) -> Endpoint:
    return Endpoint(f"uid-{name}", name, POD.address.ip, "n")
