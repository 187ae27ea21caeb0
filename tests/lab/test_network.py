"""The network model: where packets go, and what commands change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Kind
from affinity_tester.core.pool import Endpoint
from affinity_tester.lab.model import Affinity, Entry, Flow, Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.packet_log import Direction, Dropped, PacketEvent, Rerouted

S = 1_000_000_000
PODS = 4
seeds = st.integers(0, 2**32)
flow_counts = st.integers(1, 40)


def client(number: int, ip: str = "127.0.0.1") -> TransportAddress:
    return TransportAddress(ip, 40_000 + number)


def pod(number: int, *, ready: bool = True, serving: bool = True, terminating: bool = False) -> Pod:
    return Pod(
        name=f"pod-{number}",
        node=f"node-{(number - 1) % 3 + 1}",
        address=TransportAddress(f"127.2.0.{number}", 3478),
        instance=bytes([number] * 8),
        ready=ready,
        serving=serving,
        terminating=terminating,
    )


class Lab:
    """A network with three nodes, some pods, and its packet log."""

    def __init__(
        self, seed: int = 1, policy: Policy = Policy.CLUSTER, affinity: Affinity = Affinity.NONE, pods: int = PODS
    ) -> None:
        self.packets: list[PacketEvent] = []
        self.network = NetworkModel(
            seed=seed, log=self.packets.append, policy=policy, affinity=affinity, idle_ns=30 * S
        )
        for number in (1, 2, 3):
            self.network.ingress.add_node(f"node-{number}", f"127.1.0.{number}")
        for number in range(1, pods + 1):
            self.network.add_pod(pod(number))

    def send(self, flows: int, now_ns: int = 0) -> list[Entry | None]:
        return [self.network.forward(client(number), now_ns) for number in range(flows)]

    def ways(self, flows: int, now_ns: int = 0) -> list[tuple[str, TransportAddress]]:
        return [(entry.pod.name, entry.source) for entry in self.send(flows, now_ns) if entry is not None]


@given(seeds, flow_counts, st.sampled_from(Policy), st.sampled_from(Affinity))
def test_a_flow_sticks_while_nothing_changes(seed: int, flows: int, policy: Policy, affinity: Affinity) -> None:
    lab = Lab(seed, policy, affinity)
    first = lab.send(flows)
    for step in range(1, 5):
        assert [a is b for a, b in zip(first, lab.send(flows, step * 30 * S), strict=True)] == [True] * flows
    assert lab.packets == []


@given(seeds, flow_counts, st.sampled_from(Policy))
def test_the_same_seed_sends_flows_the_same_way(seed: int, flows: int, policy: Policy) -> None:
    assert Lab(seed, policy).ways(flows) == Lab(seed, policy).ways(flows)


def test_another_seed_sends_flows_another_way() -> None:
    assert Lab(1).ways(20) != Lab(2).ways(20)


def test_flows_use_all_nodes_and_all_pods() -> None:
    entries = [entry for entry in Lab().send(60) if entry is not None]
    assert {entry.source.ip for entry in entries} == {"127.1.0.1", "127.1.0.2", "127.1.0.3"}
    assert {entry.pod.name for entry in entries} == {"pod-1", "pod-2", "pod-3", "pod-4"}


@given(seeds, flow_counts, st.floats(0.1, 5))
def test_a_joining_node_moves_only_the_flows_that_hash_to_it(seed: int, flows: int, weight: float) -> None:
    lab = Lab(seed)
    before = lab.send(flows)
    lab.network.ingress.add_node("node-4", "127.1.0.4", weight)
    after = lab.send(flows, S)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if lab.network.ingress.node_of(client(number)) == "node-4":
            assert new is not None
            assert new.source.ip == "127.1.0.4"
        else:
            assert new is old


@given(seeds, flow_counts, st.floats(0, 1))
def test_a_joining_node_takes_just_as_many_flows_as_asked(seed: int, flows: int, fraction: float) -> None:
    count = round(fraction * flows)
    lab = Lab(seed)
    lab.send(flows)
    lab.network.ingress.add_node("node-4", "127.1.0.4", lab.network.ingress.weight_to_move("node-4", count))
    assert sum(lab.network.ingress.node_of(client(number)) == "node-4" for number in range(flows)) == count


@given(seeds, flow_counts)
def test_a_leaving_node_moves_only_its_own_flows(seed: int, flows: int) -> None:
    lab = Lab(seed)
    before = lab.send(flows)
    lab.network.ingress.remove_node("node-2")
    for old, new in zip(before, lab.send(flows, S), strict=True):
        assert old is not None
        assert new is not None
        assert (new is old) == (old.source.ip != "127.1.0.2")


def test_a_flow_that_moves_back_in_time_finds_its_old_entry() -> None:
    lab = Lab()
    before = lab.send(20)
    lab.network.ingress.add_node("node-4", "127.1.0.4", lab.network.ingress.weight_to_move("node-4", 20))
    moved = lab.send(20, S)
    assert not any(a is b for a, b in zip(before, moved, strict=True))
    lab.network.ingress.remove_node("node-4")
    assert all(a is b for a, b in zip(before, lab.send(20, 2 * S), strict=True))


def test_a_move_is_recorded_once_with_both_identities() -> None:
    lab = Lab()
    (old,) = lab.send(1)
    lab.network.ingress.add_node("node-4", "127.1.0.4", lab.network.ingress.weight_to_move("node-4", 1))
    (new,) = lab.send(1, S)
    lab.send(1, 2 * S)
    assert old is not None
    assert new is not None
    assert lab.packets == [Rerouted(client(0), S, before=old.identity, after=new.identity)]


def test_a_rewritten_port_changes_the_reflexive_port_alone() -> None:
    lab = Lab()
    (old, other) = lab.send(2)
    assert lab.network.rewrite_port(client(0), S)
    (new, still) = lab.send(2, S)
    assert still is other
    assert old is not None
    assert new is not None
    (packet,) = lab.packets
    assert isinstance(packet, Rerouted)
    assert packet.kinds == (Kind.REFLEXIVE_PORT,)
    assert (new.pod, new.source.ip) == (old.pod, old.source.ip)
    assert lab.network.reverse(old.source, old.pod.address, S) == client(0), "a reply on its way arrives"


def test_a_port_of_an_unknown_flow_is_not_rewritten() -> None:
    lab = Lab()
    lab.send(1)
    lab.network.flush_flows("node-1")
    lab.network.flush_flows("node-2")
    lab.network.flush_flows("node-3")
    assert not lab.network.rewrite_port(client(0), S)


@given(seeds, flow_counts)
def test_a_flush_redraws_the_flows_of_that_node_alone(seed: int, flows: int) -> None:
    lab = Lab(seed)
    before = lab.send(flows)
    flushed = lab.network.flush_flows("node-1")
    after = lab.send(flows, S)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        assert old is not None
        assert new is not None
        assert (client(number) in flushed) == (old.source.ip == "127.1.0.1") == (new is not old)
        assert new.source.ip == old.source.ip


def test_client_ip_affinity_outlives_a_flush_and_only_the_port_tells() -> None:
    lab = Lab(affinity=Affinity.CLIENT_IP)
    lab.send(30)
    for node in lab.network.nodes:
        lab.network.flush_flows(node)
    lab.send(30, S)
    assert len(lab.packets) == 30
    assert {packet.kinds for packet in lab.packets if isinstance(packet, Rerouted)} == {(Kind.REFLEXIVE_PORT,)}


def test_client_ip_affinity_is_kept_by_each_node_on_its_own() -> None:
    entries = [entry for entry in Lab(seed=3, affinity=Affinity.CLIENT_IP).send(30) if entry is not None]
    by_node: dict[str, set[str]] = {}
    for entry in entries:
        by_node.setdefault(entry.source.ip, set()).add(entry.pod.name)
    assert [len(pods) for pods in by_node.values()] == [1, 1, 1]
    assert len(set.union(*by_node.values())) > 1, "one client IP is served by several pods"


def test_policy_local_keeps_the_address_and_uses_local_pods() -> None:
    lab = Lab(policy=Policy.LOCAL)
    for number, entry in enumerate(lab.send(30)):
        assert entry is not None
        assert entry.source == TransportAddress("127.3.0.1", 40_000 + number)
        assert entry.pod.node == lab.network.ingress.node_of(client(number))
    lab.network.ingress.add_node("node-4", "127.1.0.4", lab.network.ingress.weight_to_move("node-4", 10))
    lab.network.add_pod(Pod(name="far", node="node-4", address=TransportAddress("127.2.0.9", 1), instance=b"\0" * 8))
    lab.send(30, S)
    assert len(lab.packets) == 10
    for packet in lab.packets:
        assert isinstance(packet, Rerouted)
        assert packet.kinds == (Kind.POD, Kind.NODE, Kind.INSTANCE), "a new pod, the address stays"


def test_policy_local_drops_at_a_node_without_a_pod() -> None:
    lab = Lab(policy=Policy.LOCAL, pods=2)
    entries = lab.send(30)
    lost = [client(number) for number, entry in enumerate(entries) if entry is None]
    assert lost
    assert lab.packets == [Dropped(flow, 0, Direction.UP, "no-local-pod") for flow in lost]
    assert {lab.network.ingress.node_of(flow) for flow in lost} == {"node-3"}


def test_policy_local_takes_another_port_when_the_clients_own_is_not_free() -> None:
    taken = TransportAddress("127.3.0.1", 40_000)
    network = NetworkModel(seed=1, log=lambda _: None, policy=Policy.LOCAL, claim=lambda source: source != taken)
    network.ingress.add_node("node-1", "127.1.0.1")
    network.add_pod(pod(1))
    entry = network.forward(client(0), 0)
    assert entry is not None
    assert (entry.source.ip, entry.source == taken) == ("127.3.0.1", False)


def test_an_idle_flow_is_new_again_and_replies_keep_it_alive() -> None:
    lab = Lab()
    (idle, kept) = lab.send(2)
    assert idle is not None
    assert kept is not None
    assert lab.network.reverse(kept.source, kept.pod.address, 20 * S) == client(1)
    (new, still) = lab.send(2, 31 * S)
    assert still is kept
    assert new is not None
    assert new.source != idle.source
    assert [type(packet) for packet in lab.packets] == [Rerouted]


def test_what_is_idle_is_forgotten() -> None:
    lab = Lab()
    (old, _) = lab.send(2)
    lab.network.forward(client(0), 20 * S)
    assert old is not None
    assert lab.network.expire(40 * S) == {old.source}
    assert sum(len(node.entries) for node in lab.network.nodes.values()) == 1


def test_a_reply_that_nobody_asked_for_belongs_to_no_flow() -> None:
    lab = Lab()
    (entry,) = lab.send(1)
    assert entry is not None
    assert lab.network.reverse(entry.source, TransportAddress("127.2.0.200", 3478), 0) is None


def test_a_removed_pod_loses_its_flows_or_keeps_them_stale() -> None:
    flushed, stale = Lab(), Lab()
    before = flushed.send(20)
    stale.send(20)
    flushed.network.remove_pod("pod-1")
    stale.network.remove_pod("pod-1", flush=False)
    for old, new, dead in zip(before, flushed.send(20, S), stale.send(20, S), strict=True):
        assert old is not None
        assert new is not None
        assert dead is not None
        assert (new is old) == (old.pod.name != "pod-1")
        assert new.pod.name != "pod-1"
        assert dead.pod.name == old.pod.name


def test_new_flows_go_to_ready_pods_then_to_terminating_ones_that_serve() -> None:
    lab = Lab(pods=3)
    lab.network.set_conditions("pod-1", ready=False, serving=False)
    lab.network.set_conditions("pod-2", ready=False, serving=True, terminating=True)
    assert {entry.pod.name for entry in lab.send(20) if entry} == {"pod-3"}
    lab.network.remove_pod("pod-3")
    assert {entry.pod.name for entry in lab.send(20, S) if entry} == {"pod-2"}
    lab.network.remove_pod("pod-2")
    assert lab.send(1, 2 * S) == [None]
    assert lab.packets[-1] == Dropped(client(0), 2 * S, Direction.UP, "no-pod")


def test_without_a_node_everything_is_dropped() -> None:
    lab = Lab()
    for name in list(lab.network.nodes):
        lab.network.ingress.remove_node(name)
    assert lab.send(1) == [None]
    assert lab.packets == [Dropped(client(0), 0, Direction.UP, "no-node")]
    with pytest.raises(ValueError, match="no node to take flows from"):
        lab.network.ingress.weight_to_move("node-4", 1)


def test_a_name_is_given_once() -> None:
    lab = Lab()
    with pytest.raises(ValueError, match="'node-1' is there already"):
        lab.network.ingress.add_node("node-1", "127.1.0.9")
    with pytest.raises(ValueError, match="'pod-1' is there already"):
        lab.network.add_pod(pod(1))


def test_a_node_without_a_free_port_says_so() -> None:
    network = NetworkModel(seed=1, log=lambda _: None, claim=lambda _: False)
    network.ingress.add_node("node-1", "127.1.0.1")
    network.add_pod(pod(1))
    with pytest.raises(RuntimeError, match=r"no free port on 127\.1\.0\.1"):
        network.forward(client(0), 0)


def test_client_ip_affinity_to_a_pod_that_is_gone_is_drawn_anew() -> None:
    lab = Lab(affinity=Affinity.CLIENT_IP)
    (old,) = lab.send(1)
    assert old is not None
    lab.network.remove_pod(old.pod.name)
    (new, same) = lab.send(2, S)
    assert new is not None
    assert new.pod.name != old.pod.name
    assert same is not None


def test_a_dead_pod_swallows_its_flows_and_their_entries_stay_alive_by_it() -> None:
    lab = Lab()
    (entry,) = lab.send(1)
    assert entry is not None
    lab.network.remove_pod(entry.pod.name, flush=False)
    lab.network.dead_pods.add(entry.pod.name)
    assert [lab.send(1, step * 20 * S) for step in range(1, 5)] == [[None]] * 4
    assert {packet.reason for packet in lab.packets if isinstance(packet, Dropped)} == {"dead-pod"}
    lab.network.flush_pod(entry.pod.name)
    (after,) = lab.send(1, 81 * S)
    assert after is not None
    assert after.pod.name != entry.pod.name


def test_an_unhealthy_node_keeps_its_flows_and_gets_no_new_ones() -> None:
    lab = Lab()
    lab.send(30)
    pinned = {flow for flow in lab.network.flows if lab.network.ingress.node_of(flow) == "node-1"}
    lab.network.ingress.dead_nodes.add("node-1")
    lab.send(60, S)
    assert {flow for flow in lab.network.flows if lab.network.ingress.node_of(flow) == "node-1"} == pinned
    dropped = [packet.flow for packet in lab.packets if isinstance(packet, Dropped) and packet.reason == "dead-node"]
    assert set(dropped) == pinned
    lab.network.ingress.remove_node("node-1")
    assert None not in lab.send(60, 2 * S)


def test_a_vip_takes_every_flow_and_a_flow_finds_its_old_entry_when_the_vip_returns() -> None:
    lab = Lab()
    lab.network.ingress.vip = "node-1"
    first = lab.ways(20)
    lab.network.ingress.vip = "node-2"
    assert {source.ip for _, source in lab.ways(20, S)} == {"127.1.0.2"}
    lab.network.ingress.vip = "node-1"
    assert lab.ways(20, 2 * S) == first


def test_a_node_outside_the_hash_gets_nothing_until_it_joins() -> None:
    lab = Lab()
    lab.network.ingress.add_node("node-4", "127.1.0.4", hashed=False)
    lab.send(30)
    assert all(lab.network.ingress.node_of(flow) != "node-4" for flow in lab.network.flows)
    lab.network.ingress.join_hash("node-4", lab.network.ingress.weight_to_move("node-4", 12))
    assert sum(lab.network.ingress.node_of(flow) == "node-4" for flow in lab.network.flows) == 12


def test_spray_sends_each_packet_to_any_node() -> None:
    lab = Lab(policy=Policy.LOCAL)
    first = lab.ways(1)
    lab.network.ingress.spray = True
    ways = [lab.ways(1, step)[0] for step in range(30)]
    assert len({pod for pod, _ in ways}) == 3
    assert {source for _, source in ways} == {first[0][1]}
    lab.network.ingress.spray = False
    assert lab.ways(1, 31) == first


def test_a_restarted_pod_answers_on_the_same_way_with_another_instance() -> None:
    lab = Lab()
    (before,) = lab.send(1)
    assert before is not None
    identity = before.identity
    lab.network.restart_pod(before.pod.name, b"restarte")
    (after,) = lab.send(1, S)
    assert after is not None
    assert after.identity == identity._replace(instance=b"restarte")
    assert lab.packets == [Rerouted(client(0), S, before=identity, after=after.identity)]


def test_two_flows_share_a_source_and_part_again() -> None:
    lab = Lab(pods=1)
    lab.network.ingress.vip = "node-1"
    owner, taker = lab.send(2)
    assert owner is not None
    assert taker is not None
    pods = owner.pod.address
    lab.network.share_source(client(1), client(0), S)
    assert [source for _, source in lab.ways(2, S)] == [owner.source] * 2
    assert lab.network.shared_sources == {owner.source}
    assert lab.network.reverse(owner.source, pods, S) == client(1), "the taker gets the replies to both"
    lab.network.part_source(client(1), client(0), 2 * S)
    mine, theirs = (source for _, source in lab.ways(2, 2 * S))
    assert mine == owner.source
    assert theirs not in {owner.source, taker.source}
    assert lab.network.shared_sources == set()
    assert lab.network.reverse(mine, pods, 2 * S) == client(0)


def test_flows_that_do_not_meet_cannot_share() -> None:
    lab = Lab()
    lab.send(30)
    first, *others = lab.network.flows
    stranger = next(flow for flow in others if lab.network.ingress.node_of(flow) != lab.network.ingress.node_of(first))
    with pytest.raises(ValueError, match="do not meet"):
        lab.network.share_source(first, stranger, S)


def test_a_flow_is_renumbered_and_stays_with_its_pod() -> None:
    lab = Lab(policy=Policy.LOCAL, pods=3)
    before = lab.ways(5)
    assert all(lab.network.rewrite_source(flow, "127.4.0.1", S) for flow in lab.network.flows)
    after = lab.ways(5, S)
    assert [pod for pod, _ in after] == [pod for pod, _ in before]
    assert {source.ip for _, source in after} == {"127.4.0.1"}


def test_something_on_the_way_gives_new_flows_any_port() -> None:
    lab = Lab(policy=Policy.LOCAL, pods=3)
    lab.network.sources.rewrites_ports = True
    assert all(source.port != client(number).port for number, (_, source) in enumerate(lab.ways(10)))


def test_a_proxy_that_hashes_over_pods_moves_a_flow() -> None:
    lab = Lab(pods=2)
    (before,) = lab.send(1)
    assert before is not None
    new = pod(3)
    lab.network.add_pod(new)
    lab.network.send_to(client(0), new, S)
    (after,) = lab.send(1, S)
    assert after is not None
    assert (after.pod, after.source.ip) == (new, before.source.ip)


def test_a_node_without_power_swallows_new_flows_too_until_the_balancer_leaves_it_out() -> None:
    lab = Lab()
    lab.send(30)
    mine = {
        client(number) for number in range(60) if lab.network.forward(client(number), 0) and at(lab, number) == "node-1"
    }
    lab.network.ingress.powered_off.add("node-1")
    assert [entry is None for entry in lab.send(60, S)] == [client(number) in mine for number in range(60)]
    assert {packet.reason for packet in lab.packets if isinstance(packet, Dropped)} == {"dead-node"}
    homes = {number: at(lab, number) for number in range(60)}
    lab.network.ingress.leave_hash("node-1")
    assert None not in lab.send(60, 2 * S)
    assert [number for number in range(60) if at(lab, number) != homes[number]] == [
        number for number in range(60) if client(number) in mine
    ]


def at(lab: Lab, number: int) -> str | None:
    return lab.network.ingress.node_of(client(number))


def test_a_stuck_flow_is_lost_while_a_fresh_port_passes() -> None:
    lab = Lab()
    lab.send(3)
    lab.network.stuck_flows.update({client(0), client(1)})
    assert [entry is None for entry in lab.send(5, S)] == [True, True, False, False, False]
    assert [(packet.flow, packet.reason) for packet in lab.packets if isinstance(packet, Dropped)] == [
        (client(0), "stale-entry"),
        (client(1), "stale-entry"),
    ]


def test_one_packet_scheduling_sends_each_packet_to_any_pod_and_keeps_the_address() -> None:
    lab = Lab()
    (home,) = lab.send(1)
    assert home is not None
    lab.network.one_packet = True
    ways = [entry for _ in range(60) for entry in lab.send(1, S) if entry is not None]
    assert {entry.source for entry in ways} == {home.source}
    assert {entry.pod.name for entry in ways} == {"pod-1", "pod-2", "pod-3", "pod-4"}
    for entry in ways:
        assert lab.network.is_direct(entry.source, entry.pod.address) is (entry.pod.name != home.pod.name)
        assert lab.network.reverse(entry.source, entry.pod.address, S) == client(0)
    lab.network.one_packet = False
    assert lab.send(1, 2 * S) == [home]
    assert not lab.network.is_direct(TransportAddress("127.9.9.9", 1), home.pod.address)


def test_one_packet_scheduling_without_a_backend_stays_where_it_is() -> None:
    lab = Lab()
    (home,) = lab.send(1)
    lab.network.one_packet = True
    for number in range(1, PODS + 1):
        lab.network.set_conditions(f"pod-{number}", ready=False, serving=False)
    assert lab.send(1, S) == [home]


def test_the_proxies_of_single_nodes_clean_their_entries_on_their_own() -> None:
    lab = Lab()
    lab.send(60)
    held = {name: sum(e.pod.name == "pod-1" for e in node.entries.values()) for name, node in lab.network.nodes.items()}
    assert all(held.values())
    lab.network.flush_pod("pod-1", at="node-2")
    left = {name: sum(e.pod.name == "pod-1" for e in node.entries.values()) for name, node in lab.network.nodes.items()}
    assert left == {**held, "node-2": 0}


def test_a_pinned_flow_goes_to_its_node_whatever_the_hash_says_and_is_not_sprayed() -> None:
    lab = Lab()
    lab.network.ingress.pinned[client(0)] = "node-2"
    lab.network.ingress.spray = True
    for step in range(20):
        lab.send(1, step)
    entry = lab.network.entry_of(client(0))
    assert entry is not None
    assert entry.source.ip == "127.1.0.2"
    assert lab.packets == []
    lab.network.ingress.vip = "node-3"
    assert lab.network.ingress.node_of(client(0)) == "node-3"


def test_without_a_stand_in_pods_see_the_clients_own_address_under_policy_local() -> None:
    network = NetworkModel(seed=1, log=lambda _: None, policy=Policy.LOCAL, stand_in=False)
    network.ingress.add_node("node-1", "127.1.0.1")
    network.add_pod(pod(1))
    entry = network.forward(client(0), 0)
    assert entry is not None
    assert entry.source == client(0)


def test_a_flow_takes_a_given_source_at_its_pod_if_its_node_knows_it() -> None:
    lab = Lab()
    source = TransportAddress("127.1.0.9", 1024)
    lab.network.flows[client(0)] = Flow(1)
    assert not lab.network.set_source(client(0), source, 0)
    ((pod_name, _),) = lab.ways(1)
    assert lab.network.set_source(client(0), source, 0)
    assert lab.ways(1) == [(pod_name, source)]


def test_the_pool_is_all_pods_with_their_conditions_and_the_services_traffic_fields() -> None:
    lab = Lab(policy=Policy.LOCAL, affinity=Affinity.CLIENT_IP, pods=2)
    lab.network.set_conditions("pod-2", ready=False, serving=True, terminating=True)
    pool = lab.network.pool()
    assert dict(pool.spec) == {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}
    assert pool.endpoints == {
        Endpoint("uid-pod-1", "pod-1", "127.2.0.1", "node-1"),
        Endpoint("uid-pod-2", "pod-2", "127.2.0.2", "node-2", ready=False, serving=True, terminating=True),
    }
