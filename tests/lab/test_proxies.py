"""UDP proxies in the lab, limits of sessions, and nodes with two masquerade addresses."""

from __future__ import annotations

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, NodeAddresses, PodAddresses
from affinity_tester.core.identity import Kind
from affinity_tester.lab.control_plane import ControlPlane
from affinity_tester.lab.fault import Fault, FaultContext
from affinity_tester.lab.faults import FlowWipe, ProxyReplaced, SessionsEnd
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.injection import Injection
from affinity_tester.lab.model import Entry, Pod, SessionLimit
from affinity_tester.lab.network import NetworkModel

S = 1_000_000_000
CLIENTS = [TransportAddress("127.0.0.1", 40_000 + number) for number in range(12)]


def network(*, proxies: bool = False, bridge: bool = False) -> NetworkModel:
    made = NetworkModel(seed=1, log=lambda _event: None)
    for number in (1, 2, 3):
        ip = f"127.5.0.{number}" if proxies else f"127.1.0.{number}"
        bridge_ip = f"127.6.0.{number}" if bridge else ""
        made.ingress.add_node(f"node-{number}", ip, bridge_ip=bridge_ip, is_proxy=proxies)
        address = TransportAddress(f"127.2.0.{number}", 3478)
        made.add_pod(Pod(name=f"pod-{number}", node=f"node-{number}", address=address, instance=bytes([number] * 8)))
    return made


def send(made: NetworkModel, now_ns: int) -> dict[TransportAddress, Entry]:
    entries = {client: made.forward(client, now_ns) for client in CLIENTS}
    return {client: entry for client, entry in entries.items() if entry is not None}


def inject(made: NetworkModel, fault: Fault) -> Injection:
    context = FaultContext(made, Impairments(lambda _event: None), 1)
    return fault.inject(context.of(fault, 1, S))


def test_pods_of_the_ingress_node_see_the_address_of_its_bridge() -> None:
    made = network(bridge=True)
    for client, entry in send(made, 0).items():
        node = made.nodes[made.ingress.node_of(client) or ""]
        assert entry.source.ip == (node.bridge_ip if entry.pod.node == node.name else node.ip)
    assert made.may_change_ip
    assert not network().may_change_ip


def test_a_wipe_may_change_the_address_of_a_node_with_two() -> None:
    for bridge in (False, True):
        made = network(bridge=bridge)
        send(made, 0)
        (effect, *_) = inject(made, FlowWipe(at_ns=S)).effects
        assert (Kind.REFLEXIVE_IP in effect.may) is bridge


@pytest.mark.parametrize(
    ("limit", "lasting"), [(SessionLimit(packets=3), 3), (SessionLimit(age_ns=2 * S), 2), (SessionLimit(), 9)]
)
def test_a_session_ends_by_count_or_age(limit: SessionLimit, lasting: int) -> None:
    made = network()
    made.limit = limit
    sources = [made.forward(CLIENTS[0], second * S) for second in range(9)]
    ports = [entry.source.port for entry in sources if entry is not None]
    first = ports[0]
    assert ports[:lasting] == [first] * lasting
    assert ports[lasting : lasting + 1] != [first]


def test_a_limit_is_for_all_flows() -> None:
    made = network(proxies=True)
    send(made, 0)
    injection = inject(made, SessionsEnd(at_ns=S, packets=30))
    assert injection.text == "proxies end each session after 30 packets"
    assert made.limit == SessionLimit(packets=30)
    assert {effect.flow for effect in injection.effects} == set(CLIENTS)


def test_a_replaced_proxy_takes_its_own_flows_and_no_other() -> None:
    made = network(proxies=True)
    before = send(made, 0)
    injection = inject(made, ProxyReplaced(at_ns=S))
    after = send(made, 2 * S)
    moved = {client for client in CLIENTS if after[client].source != before[client].source}
    assert moved == {effect.flow for effect in injection.effects}
    assert len({before[client].source.ip for client in moved}) == 1
    assert {after[client].source.ip for client in moved} == {"127.5.0.4"}
    assert moved == {client for client in CLIENTS if before[client].source.ip in {before[c].source.ip for c in moved}}


def test_without_proxies_none_is_replaced() -> None:
    made = network()
    send(made, 0)
    injection = inject(made, ProxyReplaced(at_ns=S))
    assert (injection.text, injection.effects) == ("no proxies are there: nothing was done", ())


def test_the_watch_tells_whose_the_proxies_addresses_are() -> None:
    made = network(proxies=True)
    told: list[Event] = []
    plane = ControlPlane(made, told.append, one_item_ns=S, watch_ns=0, changed=lambda _now_ns: None)
    plane.start_watch(0)
    names = tuple((f"127.5.0.{n}", f"edge/proxy-node-{n}") for n in (1, 2, 3))
    assert told[:2] == [NodeAddresses(0, ()), PodAddresses(0, names)]
    send(made, 0)
    inject(made, ProxyReplaced(at_ns=S))
    plane.publish(S)
    assert PodAddresses(S, (*names, ("127.5.0.4", "edge/proxy-node-4"))) in told
