"""What proxies and balancer do with flows as the cluster changes: as real kube-proxy was measured, and with each fault."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.pool import Endpoint
from affinity_tester.errors import UserError
from affinity_tester.lab.kube.faults import FAULTS, Faults, read_faults
from affinity_tester.lab.kube.service_proxy import NodeView, ProxyTiming, ServiceProxy, ServiceView
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.units import NS_PER_S

S = NS_PER_S
FLOWS = [TransportAddress("127.0.0.1", port) for port in range(40_000, 40_024)]


def node(number: int, *, proxy: str = "c1", ready: bool = True) -> NodeView:
    return NodeView(f"n{number}", f"127.16.0.{number}", f"127.16.{number}.1", ready, proxy)


def endpoint(number: int, on: int | None = None, state: str = "ready") -> Endpoint:
    """`state`: ready, draining (serves, terminates), ended (terminates, serves no more)."""
    name = f"p{number}"
    return Endpoint(
        uid=name,
        pod=name,
        address=f"127.16.{number}.2",
        node=f"n{on or number}",
        ready=state == "ready",
        serving=state != "ended",
        terminating=state != "ready",
    )


NODES = (node(1), node(2), node(3))
VIEW = ServiceView(
    policy=Policy.CLUSTER,
    affinity=Affinity.NONE,
    affinity_ns=10_800 * S,
    endpoints=frozenset({endpoint(1), endpoint(2), endpoint(3)}),
    port=3478,
    nodes=NODES,
)
LOCAL = replace(VIEW, policy=Policy.LOCAL)


def with_endpoints(*endpoints: Endpoint, view: ServiceView = VIEW) -> ServiceView:
    return replace(view, endpoints=frozenset(endpoints))


class Way(NamedTuple):
    """Where a packet went."""

    pod: str
    source: TransportAddress


class World:
    """A Service's proxies, through the balancer (`via` None) or a node's port."""

    def __init__(self, view: ServiceView = VIEW, via: str | None = None, **faults: object) -> None:
        self.now_ns = 1000 * S
        self.via = via
        self.proxy = ServiceProxy(
            seed=7,
            claim=lambda _source: True,
            stand_in_net="127.17",
            faults=Faults(**faults),  # type: ignore[arg-type]
            timing=ProxyTiming(),
        )
        self.due = self.proxy.step(view, self.now_ns)
        self.ways = self.send()

    def send(self) -> dict[TransportAddress, Way | None]:
        found: dict[TransportAddress, Way | None] = {}
        for flow in FLOWS:
            entry = self.proxy.forward(flow, self.via, self.now_ns)
            found[flow] = None if entry is None else Way(entry.pod.name, entry.source)
        return found

    def answer(self) -> None:
        """Let a reply come back in each flow."""
        for way in self.ways.values():
            assert way is not None
            pod = self.proxy.network.pods[way.pod]
            assert self.proxy.network.reverse(way.source, pod.address, self.now_ns) is not None

    def moved(self) -> set[TransportAddress]:
        """Send a packet in each flow: those that do not go where they went at the start."""
        return {flow for flow, way in self.send().items() if way != self.ways[flow]}

    def on(self, pod: str) -> set[TransportAddress]:
        """The flows that went to a pod at the start."""
        return {flow for flow, way in self.ways.items() if way is not None and way.pod == pod}

    def through(self, name: str) -> set[TransportAddress]:
        """The flows that the balancer sends to a node."""
        return {flow for flow in FLOWS if self.proxy.network.ingress.node_of(flow) == name}

    def step(self, view: ServiceView, after_s: float = 0.0) -> set[TransportAddress]:
        """Let time pass, take a change, and return what moved."""
        self.now_ns += round(after_s * S)
        self.due = self.proxy.step(view, self.now_ns)
        return self.moved()


async def test_flows_spread_over_pods_and_stay() -> None:
    for via in (None, "n2"):
        world = World(via=via)
        assert {way.pod for way in world.ways.values() if way} == {"p1", "p2", "p3"}
        assert world.step(VIEW, 10) == set()


@pytest.mark.parametrize("via", [None, "n1"])
@pytest.mark.parametrize(
    "changed",
    [
        with_endpoints(endpoint(1), endpoint(2), endpoint(3), endpoint(4, on=1)),
        with_endpoints(endpoint(1), endpoint(2), endpoint(3, state="draining")),
        replace(VIEW, policy=Policy.LOCAL),
        replace(VIEW, affinity=Affinity.CLIENT_IP),
        replace(VIEW, nodes=(node(1, proxy="c2"), node(2, proxy=""), node(3))),
        replace(VIEW, nodes=(*NODES, node(4))),
    ],
    ids=["scaled up", "draining", "policy", "affinity", "proxy restarted", "node joined"],
)
def test_changes_that_move_no_flow(changed: ServiceView, via: str | None) -> None:
    world = World(via=via)
    assert world.step(changed) == set()
    assert world.step(changed, 2) == set()


@pytest.mark.parametrize("view", [VIEW, LOCAL], ids=["Cluster", "Local"])
def test_a_pod_that_is_gone_loses_its_flows_until_they_are_cleaned(view: ServiceView) -> None:
    world = World(view)
    gone = with_endpoints(endpoint(1), endpoint(2), view=view)
    own = world.on("p3")
    assert own
    world.step(with_endpoints(endpoint(1), endpoint(2), endpoint(3, state="ended"), view=view))
    assert {flow for flow, way in world.send().items() if way is None} == own
    assert world.step(gone, 0.5) == own
    assert world.due == 1001 * S
    assert {flow for flow, way in world.send().items() if way is None} == own
    assert world.step(gone, 0.5) == own
    assert None not in world.send().values(), "each has found another pod"


def test_a_node_without_a_proxy_cleans_when_it_has_one_again() -> None:
    world = World(via="n1")
    down = replace(with_endpoints(endpoint(1), endpoint(2)), nodes=(node(1, proxy=""), node(2), node(3)))
    world.step(down)
    world.step(down, 5)
    assert {flow for flow, way in world.send().items() if way is None} == world.on("p3")
    world.step(replace(down, nodes=(node(1, proxy="c2"), node(2), node(3))))
    assert None not in world.send().values()


def test_without_any_serving_pod_nothing_is_cleaned() -> None:
    world = World()
    world.step(with_endpoints())
    world.step(with_endpoints(), 2)
    assert set(world.send().values()) == {None}
    assert world.proxy.network.nodes["n1"].entries
    world.step(with_endpoints(endpoint(4, on=1)))
    assert world.step(with_endpoints(endpoint(4, on=1)), 1) == set(FLOWS)
    assert {way.pod for way in world.send().values() if way} == {"p4"}


def test_new_flows_go_to_terminating_pods_where_none_is_ready() -> None:
    world = World(with_endpoints(endpoint(1, state="draining"), endpoint(2, state="ended")))
    assert {way.pod for way in world.ways.values() if way} == {"p1"}


def test_policy_local_keeps_to_its_node_and_the_clients_address() -> None:
    world = World(LOCAL, via="n2")
    assert {way.pod for way in world.ways.values() if way} == {"p2"}
    assert {way.source for way in world.ways.values() if way} == {
        TransportAddress("127.17.0.1", flow.port) for flow in FLOWS
    }
    assert set(World(with_endpoints(endpoint(1), view=LOCAL), via="n2").ways.values()) == {None}


def test_an_entry_made_anew_under_policy_local_shows_the_clients_address() -> None:
    world = World(via="n2")
    assert {way.source.ip for way in world.ways.values() if way} == {"127.16.0.2", "127.16.2.1"}
    world.step(LOCAL)
    world.proxy.network.flush_flows("n2")
    assert {way.source for way in world.send().values() if way} == {
        TransportAddress("127.17.0.1", flow.port) for flow in FLOWS
    }


def test_the_balancer_leaves_a_node_whose_last_pod_has_ended_when_its_check_fails() -> None:
    world = World(LOCAL)
    own = world.through("n3")
    assert own == world.on("p3")
    draining = with_endpoints(endpoint(1), endpoint(2), endpoint(3, state="draining"), view=LOCAL)
    assert world.step(draining, 5) == set(), "flows stay where their pod serves"
    without = with_endpoints(endpoint(1), endpoint(2), view=LOCAL)
    world.step(without)
    assert world.through("n3") == own
    world.step(without, 1)
    assert world.through("n3") == set()
    assert None not in world.send().values()


def test_a_node_that_is_gone_takes_no_flow() -> None:
    world = World()
    own = world.through("n3")
    without = replace(with_endpoints(endpoint(1), endpoint(2)), nodes=NODES[:2])
    moved = world.step(without)
    assert moved >= own
    assert world.through("n3") == set()
    assert World(via="n9").ways == dict.fromkeys(FLOWS)


def test_an_entry_lives_as_long_as_the_kernels_two_timeouts_say() -> None:
    once = World()
    assert once.step(VIEW, 29) == set()
    assert once.step(VIEW, 31) == set(FLOWS)

    stream = World()
    stream.answer()
    stream.step(VIEW, 3)
    assert stream.step(VIEW, 119) == set()
    assert stream.step(VIEW, 121) == set(FLOWS)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_each_fault_breaks_what_it_says() -> None:
    more = with_endpoints(endpoint(1), endpoint(2), endpoint(3), endpoint(4, on=1))
    assert len(World(flush_on_change=True).step(more)) > 12

    stale = World(stale_entries=True)
    stale.step(with_endpoints(endpoint(1), endpoint(2)))
    stale.step(with_endpoints(endpoint(1), endpoint(2)), 20)
    assert {flow for flow, way in stale.send().items() if way is None} == stale.on("p3")
    stale.now_ns += 31 * S
    assert None not in stale.send().values(), "an entry that nobody uses ends"

    early = World(early_flush=True)
    assert early.step(with_endpoints(endpoint(1), endpoint(2), endpoint(3, state="draining"))) == early.on("p3")

    restarted = World(proxy_restart_flush=True)
    moved = restarted.step(replace(VIEW, nodes=(node(1, proxy="c2"), node(2), node(3))))
    assert moved == restarted.through("n1")

    assert World(policy_flush=True).step(replace(VIEW, affinity=Affinity.CLIENT_IP)) == set(FLOWS)
    assert World(policy_flush=True).step(more) == set()

    rehash = World(node_join_rehash=True)
    assert 0 < len(rehash.step(replace(VIEW, nodes=(*NODES, node(4))))) < 24

    short = World(conntrack_timeout_ns=10 * S)
    assert short.step(VIEW, 9) == set()
    assert short.step(VIEW, 11) == set(FLOWS)

    spray = World(spray=True)
    pods = {way.pod for _ in range(10) for way in [spray.send()[FLOWS[0]]] if way}
    assert pods == {"p1", "p2", "p3"}


def test_faults_by_name() -> None:
    assert read_faults([]) == Faults()
    assert read_faults(["early-flush", "spray"]) == Faults(early_flush=True, spray=True)
    assert read_faults(["conntrack-timeout=10s"]) == Faults(conntrack_timeout_ns=10 * S)
    for wrong in ("none", "spray=1", "conntrack-timeout", "conntrack-timeout=x", "conntrack-timeout=0"):
        with pytest.raises(UserError, match=f"--fault '?{wrong.partition('=')[0]}"):
            read_faults([wrong])
    for name, entry in FAULTS.items():
        assert hasattr(Faults(), entry.field), name
