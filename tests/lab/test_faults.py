"""What each fault does to the network and to packets, and what it declares."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext
from affinity_tester.lab.faults import (
    FAULTS,
    Blackout,
    ClientNat,
    ClientNatAddress,
    ClientNatFlush,
    DeadTarget,
    DuplicateReorder,
    FirstPacketRace,
    FlowWipe,
    HungPod,
    IdleExpiry,
    LossDown,
    LossUp,
    Mtu,
    NodeDown,
    NodeRehash,
    PodDeleted,
    PortRewrite,
    StuckFlows,
)
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.injection import FOREVER_NS, VIOLATION, Effect, Injection, Judged, Symptom
from affinity_tester.lab.model import Affinity, Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.packet_log import Direction, Dropped, Duplicated, PacketEvent, Rerouted
from affinity_tester.lab.parameter import parameters

S = 1_000_000_000
CLIENTS = [TransportAddress("127.0.0.1", 40_000 + number) for number in range(10)]


class Lab:
    def __init__(
        self, seed: int = 1, policy: Policy = Policy.CLUSTER, affinity: Affinity = Affinity.NONE, outside: bool = False
    ) -> None:
        self.packets: list[PacketEvent] = []
        self.network = NetworkModel(seed=seed, log=self.packets.append, policy=policy, affinity=affinity)
        self.impairments = Impairments(self.packets.append)
        self.context = FaultContext(self.network, self.impairments, seed)
        for number in (1, 2, 3, 4) if outside else (1, 2, 3):
            address = TransportAddress(f"127.2.0.{number}", 3478)
            self.network.ingress.add_node(f"node-{number}", f"127.1.0.{number}", hashed=number < 4)
            self.network.add_pod(
                Pod(name=f"pod-{number}", node=f"node-{number}", address=address, instance=bytes([number] * 8))
            )
        self.send(0)

    def inject(self, fault: Fault, number: int, at_ns: int) -> Injection:
        return fault.inject(self.context.of(fault, number, at_ns))

    def choose(self, count: int, family: Family, number: int) -> tuple[TransportAddress, ...]:
        return self.context.of(Mtu(at_ns=S), number, S).choose(count, family)

    def send(self, now_ns: int) -> None:
        for client in CLIENTS:
            self.network.forward(client, now_ns)

    def moved(self) -> dict[TransportAddress, tuple[Kind, ...]]:
        return {packet.flow: packet.kinds for packet in self.packets if isinstance(packet, Rerouted)}


@pytest.mark.parametrize(("fraction", "count"), [(0.5, 5), (0.25, 3), (0.01, 1), (1.0, 10)])
def test_a_joining_node_takes_its_fraction_and_at_least_one(fraction: float, count: int) -> None:
    lab = Lab()
    injection = lab.inject(NodeRehash(at_ns=S, fraction=fraction), 1, S)
    lab.send(2 * S)
    may = frozenset({Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE})
    assert injection.text == f'node "node-4" (127.1.0.4) joins the balancer: {count} of 10 flows rehashed to it'
    assert injection.until_ns == S
    assert injection.effects == tuple(
        Effect(flow, frozenset({Kind.REFLEXIVE_IP}), may, VIOLATION) for flow in lab.moved()
    )
    assert len(injection.effects) == count
    for kinds in lab.moved().values():
        assert Kind.REFLEXIVE_IP in kinds
        assert set(kinds) <= may | {Kind.REFLEXIVE_IP}


def test_a_second_node_joins_under_the_next_name() -> None:
    lab = Lab()
    lab.inject(NodeRehash(at_ns=S), 1, S)
    assert lab.inject(NodeRehash(at_ns=S), 2, S).text.startswith('node "node-5" (127.1.0.5) joins')


def test_ports_are_rewritten_of_the_chosen_flows_alone() -> None:
    lab = Lab()
    injection = lab.inject(PortRewrite(at_ns=S, sessions=3), 1, S)
    lab.send(2 * S)
    assert injection.text == "the source port of 3 flows is rewritten"
    assert [effect.must for effect in injection.effects] == [{Kind.REFLEXIVE_PORT}] * 3
    assert lab.moved() == {effect.flow: (Kind.REFLEXIVE_PORT,) for effect in injection.effects}


def test_faults_of_a_family_choose_different_flows_while_there_are_any() -> None:
    lab = Lab()
    first, second, third = (set(lab.choose(4, Family.PACKETS, number)) for number in range(3))
    assert not first & second
    assert len(third - first - second) == 2
    assert len(lab.choose(4, Family.ROUTING, 4)) == 4
    assert len(lab.choose(99, Family.ROUTING, 5)) == 10


def test_a_seed_repeats_the_choice() -> None:
    assert Lab(5).choose(4, Family.ROUTING, 1) == Lab(5).choose(4, Family.ROUTING, 1)
    assert Lab(5).choose(4, Family.ROUTING, 1) != Lab(6).choose(4, Family.ROUTING, 1)


@pytest.mark.parametrize(
    ("kind", "direction", "symptom", "text"),
    [
        (LossUp, Direction.UP, Symptom.LOSS_UP, "100 % of the probes of 2 flows are dropped for 500 ms"),
        (LossDown, Direction.DOWN, Symptom.LOSS_DOWN, "100 % of the replies of 2 flows are dropped for 500 ms"),
    ],
)
def test_a_loss_burst_drops_one_way_for_its_time(
    kind: type[LossUp | LossDown], direction: Direction, symptom: Symptom, text: str
) -> None:
    lab = Lab()
    injection = lab.inject(kind(at_ns=S, sessions=2, for_ns=S // 2), 1, S)
    hit = {effect.flow for effect in injection.effects}
    assert (injection.text, injection.until_ns) == (text, S + S // 2)
    assert [effect.must for effect in injection.effects] == [{symptom}] * 2
    for client in CLIENTS:
        assert {way: lab.impairments.delays(way, client, S) for way in Direction} == {
            way: () if way is direction and client in hit else (0,) for way in Direction
        }
    assert {lab.impairments.delays(direction, client, injection.until_ns) for client in CLIENTS} == {(0,)}
    assert lab.packets == [Dropped(client, S, direction, "fault") for client in CLIENTS if client in hit]


def test_replies_are_duplicated_and_held_back() -> None:
    lab = Lab()
    injection = lab.inject(DuplicateReorder(at_ns=S, probability=0.5), 1, S)
    assert injection.text == (
        "50 % of the replies of 1 flow are duplicated, and 50 % of the copies are held back by 250 ms, for 1 s"
    )
    (effect,) = injection.effects
    assert effect.must == {Symptom.DUPLICATES, Symptom.REORDERING}
    delays = {lab.impairments.delays(Direction.DOWN, effect.flow, S) for _ in range(200)}
    held = 250_000_000
    assert delays == {(0,), (held,), (0, 0), (0, held), (held, 0), (held, held)}
    assert any(isinstance(packet, Duplicated) for packet in lab.packets)
    assert lab.impairments.delays(Direction.UP, effect.flow, S) == (0,)


def test_every_fault_is_registered_under_its_name_and_says_what_it_does() -> None:
    for name, fault in FAULTS.items():
        assert fault.name == name
        assert fault.__doc__
        assert fault.expects
        assert all(spec.text and spec.allowed for spec in parameters(fault).values())
        assert parameters(fault)["at"].required is not fault.from_start


@pytest.mark.parametrize(
    ("policy", "affinity", "must", "seen"),
    [
        (Policy.CLUSTER, Affinity.NONE, {Kind.REFLEXIVE_PORT}, {Kind.REFLEXIVE_PORT, Kind.POD}),
        (Policy.CLUSTER, Affinity.CLIENT_IP, {Kind.REFLEXIVE_PORT}, {Kind.REFLEXIVE_PORT}),
        (Policy.LOCAL, Affinity.NONE, set(), set()),
    ],
)
def test_a_wipe_hits_the_flows_of_one_node_as_real_proxies_were_measured_to(
    policy: Policy, affinity: Affinity, must: set[Kind], seen: set[Kind]
) -> None:
    lab = Lab(policy=policy, affinity=affinity)
    injection = lab.inject(FlowWipe(at_ns=S), 1, S)
    lab.send(2 * S)
    hit = {effect.flow for effect in injection.effects}
    homes = {flow: lab.network.ingress.node_of(flow) for flow in CLIENTS}
    assert len({homes[flow] for flow in hit}) == 1
    assert hit == {flow for flow, node in homes.items() if node == homes[next(iter(hit))]}
    assert all(effect.must == must for effect in injection.effects)
    assert all(
        set(kinds) <= effect.allowed for effect in injection.effects for kinds in [lab.moved().get(effect.flow, ())]
    )
    kinds = {kind for moved in lab.moved().values() for kind in moved} - {Kind.NODE, Kind.INSTANCE}
    assert kinds == seen
    assert set(lab.moved()) == (hit if must else set())


def test_a_waiting_node_joins_under_policy_local_and_the_address_stays() -> None:
    lab = Lab(policy=Policy.LOCAL, outside=True)
    injection = lab.inject(NodeRehash(at_ns=S, fraction=0.5), 1, S)
    lab.send(2 * S)
    assert injection.text == 'node "node-4" (127.1.0.4) joins the balancer: 5 of 10 flows rehashed to it'
    assert lab.moved() == {effect.flow: (Kind.POD, Kind.NODE, Kind.INSTANCE) for effect in injection.effects}
    assert [effect.must for effect in injection.effects] == [{Kind.NODE}] * 5


def test_flows_expire_between_probes_that_are_farther_apart_than_the_timeout() -> None:
    lab = Lab()
    injection = lab.inject(IdleExpiry(at_ns=S, timeout_ns=S), 1, S)
    lab.send(S)
    assert lab.moved() == {}
    lab.send(3 * S)
    assert set(lab.moved()) == set(CLIENTS) == {effect.flow for effect in injection.effects}
    assert {effect.changes_judged for effect in injection.effects} == {Judged(Judgement.IDLE)}


def new_addresses(lab: Lab) -> list[TransportAddress]:
    seen = (packet.after.reflexive for packet in lab.packets if isinstance(packet, Rerouted))
    return [address for address in seen if address is not None]


def test_the_clients_nat_gives_all_flows_one_new_ip_and_they_begin_anew() -> None:
    lab = Lab(policy=Policy.LOCAL)
    injection = lab.inject(ClientNat(at_ns=S), 1, S)
    lab.send(2 * S)
    moved = lab.moved()
    assert {effect.flow for effect in injection.effects} == set(CLIENTS) == set(moved)
    assert {kinds[:2] for kinds in moved.values()} == {(Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT)}
    assert 0 < sum(Kind.POD in kinds for kinds in moved.values()) < len(CLIENTS)
    assert {address.ip for address in new_addresses(lab)} == {"127.4.0.1"}


def test_a_lost_address_of_the_clients_nat_moves_its_flows_alone() -> None:
    lab = Lab(policy=Policy.LOCAL)
    fault = ClientNatAddress(at_ns=S, sessions=4)
    injection = lab.inject(fault, 1, S)
    lab.send(2 * S)
    assert fault.diagnosis_name == "client-nat"
    assert {effect.flow for effect in injection.effects} == set(lab.moved())
    assert len(injection.effects) == 4
    assert {address.ip for address in new_addresses(lab)} == {"127.4.0.1"}


def test_a_flushed_nat_of_the_clients_gives_each_flow_a_new_port_and_way() -> None:
    lab = Lab()
    injection = lab.inject(ClientNatFlush(at_ns=S), 1, S)
    lab.send(2 * S)
    moved = lab.moved()
    assert injection.text == "the client's NAT maps its 10 flows anew"
    assert {effect.changes_judged for effect in injection.effects} == {Judged(Judgement.UNKNOWN)}
    assert set(moved) == set(CLIENTS)
    assert all(Kind.REFLEXIVE_PORT in kinds for kinds in moved.values())
    assert 0 < sum(Kind.REFLEXIVE_IP in kinds for kinds in moved.values()) < len(CLIENTS)


def test_a_small_mtu_drops_large_probes_alone() -> None:
    lab = Lab()
    injection = lab.inject(Mtu(at_ns=S, limit=1200), 1, S)
    assert (injection.must_somewhere, injection.effects) == ({Symptom.LOSS_UP}, ())
    assert [lab.impairments.delays(Direction.UP, CLIENTS[0], 2 * S, size) for size in (288, 1204)] == [(0,), ()]


def test_first_packets_race_from_the_start() -> None:
    lab = Lab()
    fault = FirstPacketRace(probability=1.0)
    assert (fault.at_ns, fault.from_start) == (0, True)
    lab.inject(fault, 1, 0)
    assert [lab.impairments.delays(Direction.UP, CLIENTS[0], S) for _ in range(2)] == [(), (0,)]


def test_only_sessions_are_hit_and_never_the_clients_canaries() -> None:
    lab = Lab()
    lab.context.clients.update(CLIENTS[:3])
    assert set(lab.choose(10, Family.ROUTING, 1)) == set(CLIENTS[:3])
    assert sorted(flow for flows in lab.context.flows_by_pod().values() for flow in flows) == CLIENTS[:3]


def test_where_nothing_can_be_done_a_fault_says_so() -> None:
    lab = Lab()
    assert lab.inject(DeadTarget(at_ns=S), 1, S) == Injection(
        1, S, "every node has a pod: none can die without the pool", S
    )


def test_times_scale_but_for_what_the_network_takes() -> None:
    assert FlowWipe(at_ns=4 * S, times=3, every_ns=2 * S).scaled(1, 2) == FlowWipe(at_ns=2 * S, times=3, every_ns=S)
    assert PodDeleted(at_ns=4 * S, gap_ns=S).scaled(1, 2) == PodDeleted(at_ns=2 * S, gap_ns=S)
    assert Mtu(at_ns=4 * S, limit=1200).scaled(1, 2) == Mtu(at_ns=2 * S, limit=1200)


# --- silences and strays ---------------------------------------------------------------------------------------------


def drops(lab: Lab) -> set[tuple[TransportAddress, str]]:
    return {(packet.flow, packet.reason) for packet in lab.packets if isinstance(packet, Dropped)}


def test_a_pod_that_hangs_to_the_end_swallows_its_flows_and_stays_ready() -> None:
    lab = Lab()
    held = lab.context.flows_by_pod()
    pod = max(held, key=lambda name: len(held[name]))
    injection = lab.inject(HungPod(at_ns=S), 1, S)
    lab.send(2 * S)
    assert injection.text == f'pod "{pod}" hangs from now on, and its endpoint stays ready: {len(held[pod])} flows'
    assert injection.until_ns == FOREVER_NS
    assert drops(lab) == {(flow, "dead-pod") for flow in held[pod]}
    assert {effect.flow for effect in injection.effects} == set(held[pod])
    for effect in injection.effects:
        assert effect.must == {Symptom.OUTAGE, Symptom.LOSS_UP}
        assert effect.outages_judged == {Judgement.POD_SILENT, Judgement.UNKNOWN}
    assert lab.network.pods[pod].ready
    assert lab.network.pods[pod].serving


def test_stuck_flows_are_lost_and_fresh_ports_pass() -> None:
    lab = Lab()
    injection = lab.inject(StuckFlows(at_ns=S, sessions=4), 1, S)
    lab.send(2 * S)
    hit = {effect.flow for effect in injection.effects}
    assert injection.text == "4 flows of 10 have a stale entry that leads nowhere"
    assert drops(lab) == {(flow, "stale-entry") for flow in hit}
    assert len(hit) == 4
    assert lab.network.forward(TransportAddress("127.0.0.1", 50_000), 2 * S) is not None
    lab = Lab()
    everything = lab.inject(StuckFlows(at_ns=S), 1, S)
    assert {effect.flow for effect in everything.effects} == set(CLIENTS)


@pytest.mark.parametrize(
    ("fault", "until_ns", "text"),
    [
        (Blackout(at_ns=S, for_ns=8 * S), 9 * S, "nothing passes for 8 s"),
        (Blackout(at_ns=S), FOREVER_NS, "nothing passes from now on"),
    ],
)
def test_in_a_blackout_nothing_passes_canaries_neither(fault: Blackout, until_ns: int, text: str) -> None:
    lab = Lab()
    injection = lab.inject(fault, 1, S)
    assert (injection.text, injection.until_ns, injection.blackout_ns) == (text, until_ns, until_ns - S)
    canary = TransportAddress("127.0.0.1", 50_000)
    assert {lab.impairments.delays(Direction.UP, flow, until_ns - 1) for flow in (*CLIENTS, canary)} == {()}
    assert {lab.impairments.delays(Direction.UP, flow, until_ns) for flow in (*CLIENTS, canary)} == {(0,)}
    assert {effect.flow for effect in injection.effects} == set(CLIENTS)


def test_optional_ends_scale_and_the_new_times_too() -> None:
    assert HungPod(at_ns=4 * S).scaled(1, 2) == HungPod(at_ns=2 * S)
    assert HungPod(at_ns=4 * S, for_ns=8 * S).scaled(1, 2) == HungPod(at_ns=2 * S, for_ns=4 * S)
    down = NodeDown(at_ns=4 * S, for_ns=60 * S, notice_ns=50 * S, drain_ns=30 * S)
    assert down.scaled(1, 2) == NodeDown(at_ns=2 * S, for_ns=30 * S, notice_ns=25 * S, drain_ns=15 * S)


def test_a_fault_is_a_frozen_dataclass_of_its_parameters_without_saying_so() -> None:
    fault = PortRewrite(at_ns=S)
    assert fault == PortRewrite(at_ns=S, sessions=1)
    assert hash(fault) == hash(PortRewrite(at_ns=S))
    with pytest.raises(FrozenInstanceError):
        fault.at_ns = 0  # type: ignore[misc]
    with pytest.raises(TypeError, match="at_ns"):
        PortRewrite()  # type: ignore[call-arg]


def test_each_injection_has_random_numbers_of_its_own_which_a_seed_repeats() -> None:
    lab = Lab()
    first, again, second = (lab.context.of(Mtu(at_ns=S), number, S).rng().random() for number in (1, 1, 2))
    assert first == again != second
