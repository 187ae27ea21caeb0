"""What a real node shows besides: two masquerade addresses, ICMP errors in the Service's name, affinity of its own."""

from __future__ import annotations

import pytest
from diagnosing import TARGET, Action, World
from network_faults import is_sound, rehash, removed, silent, vip_moves, wipe, world

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Certainty, ClientFaultKind
from affinity_tester.core.identity import Identity

LIKELY, POSSIBLE, CANNOT_TELL = Certainty

both = pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])


def bridged(_world: World, _session: int, _seq: int, who: Identity) -> Identity:
    """Pods of the ingress node see the address of its bridge."""
    assert who.reflexive is not None
    assert who.node is not None
    number = who.reflexive.ip.rpartition(".")[2]
    return (
        who
        if who.node != f"n{number}"
        else who._replace(reflexive=TransportAddress(f"10.9.{number}.1", who.reflexive.port))
    )


# --- two masquerade addresses --------------------------------------------------------------------------------------------


@both
def test_flows_that_move_between_a_nodes_two_addresses_were_wiped(watched: bool) -> None:
    w = world((4, wipe), watched=watched, sessions=24, reply=bridged).run()
    assert w.named == [("flow-wipe", LIKELY)]
    (incident,) = w.incidents
    assert (
        "the reflexive IP stays, or is the other one of the same node (10.0.0.1 and 10.9.1.1)"
        in (incident.diagnoses[0].evidence[1])
    )


@both
def test_flows_that_move_to_another_nodes_two_addresses_were_rehashed(watched: bool) -> None:
    assert world((4, rehash), watched=watched, sessions=24, reply=bridged).run().named == [("node-rehash", LIKELY)]


def test_a_pod_that_goes_may_move_its_flows_between_two_addresses() -> None:
    w = world((4, removed), watched=False, sessions=24, reply=bridged).run()
    assert w.named == [("early-flush", POSSIBLE), ("flow-wipe", POSSIBLE)]


@both
def test_a_failover_leads_from_two_addresses_to_two(watched: bool) -> None:
    w = world(
        (0, vip_moves(1)), (4, silent()), (5.5, vip_moves(2)), watched=watched, sessions=24, nodes=2, reply=bridged
    ).run()
    # Without the cluster's word, the client's NAT may have got other addresses.
    assert w.named == (
        [("vip-failover", LIKELY)] if watched else [("client-nat", POSSIBLE), ("vip-failover", POSSIBLE)]
    )
    (incident,) = w.incidents
    assert "10.0.0.1" in incident.diagnoses[-1].evidence[0]
    assert "10.9.1.1" in incident.diagnoses[-1].evidence[0]


def test_two_addresses_with_the_same_pods_behind_are_two_nodes() -> None:
    gathered: Action = lambda w: (w.heal(), w.move(range(24), node=3))  # noqa: E731 - a action like the others
    w = world((4, silent()), (5.5, gathered), watched=False, sessions=24, nodes=2, pods=4).run()
    assert w.named == [("client-nat", POSSIBLE), ("flow-wipe", POSSIBLE)]


def test_a_session_alone_at_its_pod_may_have_left_because_that_went() -> None:
    def leave(w: World) -> None:
        w.network.remove_pod("p1")
        w.move([0], node=3)

    w = world(
        (0, lambda w: w.move([0], pod="p1")), (0, lambda w: w.move(range(1, 12), pod="p2")), (4, leave), watched=False
    )
    (diagnosis,) = w.run().diagnoses
    is_sound(diagnosis)
    assert (diagnosis.name, diagnosis.certainty, diagnosis.missing) == (
        "node-rehash",
        POSSIBLE,
        "whether the one pod that they all left is still there: run with cluster access",
    )


# --- what a node says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offender", "named"),
    [
        (TARGET.ip, [("stale-flow", LIKELY)]),
        ("10.0.0.254", [("stale-flow", POSSIBLE), ("dead-target", POSSIBLE)]),
    ],
    ids=["translated", "by a router"],
)
def test_no_host_said_in_the_services_name_tells_a_stale_flow(offender: str, named: object) -> None:
    said: Action = lambda w: w.icmp(0, "EHOSTUNREACH", offender)  # noqa: E731
    w = world((4, silent(0)), (7, said), watched=False, seconds=14, sessions=3, pods=9)
    assert w.run().named == named


@both
def test_a_connected_socket_does_not_tell_an_empty_node_from_a_wrong_source(watched: bool) -> None:
    w = world((0, silent(0, 3, 6)), watched=watched, local=True, seconds=10, connected=True).run()
    assert w.named == [("local-policy", POSSIBLE)]


# --- the run as a whole --------------------------------------------------------------------------------------------------


def own_pod(w: World, session: int, _seq: int, who: Identity) -> Identity:
    """Each node keeps to one pod."""
    number = w.node_of(session)
    return who._replace(pod=f"p{number}", node=f"n{number}", instance=b"%8d" % number)


def test_affinity_that_each_node_seems_to_keep_may_be_one_that_is_spread() -> None:
    w = world(watched=False, reply=own_pod).run()
    assert w.named == [("client-ip-spread", POSSIBLE)]
    (diagnosis,) = w.diagnoses
    is_sound(diagnosis)
    assert diagnosis.evidence == (
        'the 12 sessions of client IP 192.168.0.9 are served by 3 pods at once: pods "p1", "p2", "p3"',
        "each of the 3 ingress IPs keeps to one pod, another one each",
    )
    assert world(watched=False, reply=own_pod, sessions=3).run().named == []


def test_probes_refused_for_want_of_an_address_are_not_the_machines_load() -> None:
    refused: Action = lambda w: w.fault(1, ClientFaultKind.SEND_ERROR, "ENETUNREACH: Network is unreachable")  # noqa: E731
    moved: Action = lambda w: w.fault(1, ClientFaultKind.LOCAL_ADDRESS, "this machine's own address changed: a -> b")  # noqa: E731
    counts = {"send_errors": 50}
    assert world((4, refused), (4, moved), watched=False, own_counts=counts).run().named == [("client-socket", LIKELY)]
    both_ = world((1, refused), (4, moved), watched=False, own_counts=counts).run().named
    assert both_ == [("client-socket", LIKELY), ("self-inflicted", LIKELY)]
