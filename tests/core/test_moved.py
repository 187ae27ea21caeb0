"""What moves sessions and is not what it looks like at first: each name by what excludes the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diagnosing import Action, S, World
from network_faults import (
    every_time_anew,
    is_sound,
    new_ports,
    proxy_leaves,
    proxy_replaced,
    restarts,
    sessions_end,
    spray,
    wipe,
    wipe_all,
    world,
)

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis import limit_rules, proxy_rules
from affinity_tester.core.events import (
    Certainty,
    ClusterAction,
    ClusterSubject,
    Diagnosis,
    PodAddresses,
    PoolObserved,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.pool import PoolSnapshot
from affinity_tester.lab.model import Affinity, Pod, SessionLimit

LIKELY, POSSIBLE, CANNOT_TELL = Certainty

both = pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])


def only(w: World) -> Diagnosis:
    (diagnosis,) = w.run().diagnoses
    is_sound(diagnosis)
    return diagnosis


# --- two wipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0.7, 1.0])
def test_two_wipes_are_one_finding_though_flows_went_to_another_address_and_back(gap: float) -> None:
    w = world((4.03, wipe_all), (4.03 + gap, wipe_all), watched=True, sessions=24, pods=8, nodes=4, bridges=True)
    found = only(w)
    assert (found.name, found.certainty) == ("flow-wipe", LIKELY)
    assert any(fact.startswith("wiped twice in ") for fact in found.evidence)
    there_and_back = [i for i in w.incidents if i.changes > i.sessions]
    assert there_and_back


@pytest.mark.parametrize(
    ("which", "seed", "size"), [(wipe_all, 0, (12, 3, 2)), (wipe, 0, (6, 4, 6))], ids=["all nodes", "one node"]
)
def test_two_wipes_are_no_rehash_where_nobody_knows_the_nodes_and_all_flows_changed_their_address(
    which: Action, seed: int, size: tuple[int, int, int]
) -> None:
    sessions, nodes, pods = size
    actions = [(3, which), (3.7, which)]
    w = world(
        *actions, watched=False, seed=seed, sessions=sessions, nodes=nodes, pods=pods, bridges=True, interval=S // 5
    )
    found = w.run().diagnoses
    assert [each.name for each in found] == ["flow-wipe"]


@both
def test_all_sessions_at_another_node_may_be_a_rehash_and_are_no_wiped_tables(watched: bool) -> None:
    def shift(w: World) -> None:
        for session in range(w.sessions):
            w.pin(session, w.node_of(session) % w.nodes + 1)

    nat, rehash = world((3, shift), watched=watched).run().diagnoses
    assert [(each.name, each.certainty) for each in (nat, rehash)] == [
        ("client-nat", POSSIBLE),
        ("node-rehash", POSSIBLE),
    ]
    assert "12 of them at another one of these" in nat.evidence[0]
    is_sound(rehash)


def test_a_new_node_whose_flows_affinity_keeps_at_one_pod_is_no_second_address_of_that_pods_node() -> None:
    def rehash(w: World) -> None:
        w.tell(ClusterSubject.NODE, "n4", ClusterAction.READY)
        w.move((0, 4, 8), node=4, pod="p3")

    w = world((3, rehash), watched=True, affinity=Affinity.CLIENT_IP, pods=6, seed=1).run()
    (incident,) = w.incidents
    (found,) = incident.diagnoses
    assert (found.name, found.certainty) == ("node-rehash", LIKELY)
    assert found.evidence[0].startswith("3 of 12 sessions have a new reflexive IP, 10.0.0.4; ")


def test_wipes_are_counted() -> None:
    actions = [(4.03 + 0.8 * n, wipe) for n in range(3)]
    assert "wiped 3 times in 1.6 s" in only(world(*actions, watched=True, sessions=24)).evidence


def test_a_session_that_comes_back_to_its_old_entry_was_not_wiped() -> None:
    away: Action = lambda w: [w.pin(s, 2) for s in range(0, 24, 4)]  # noqa: E731 - an action like the others
    back: Action = lambda w: [w.pin(s, w.node_of(s)) for s in range(0, 24, 4)]  # noqa: E731
    w = world((4, away), (4.6, back), watched=True, sessions=24, nodes=4, pods=4, bridges=True)
    found = only(w)
    assert (found.name, found.certainty) == ("node-rehash", LIKELY)


def test_flows_behind_the_bridges_alone_are_rehashed_from_node_to_node() -> None:
    """Each session is at a pod of its ingress node before and after: no address of theirs is an InternalIP."""

    def move(w: World) -> None:
        for session in (0, 3, 6):
            w.move([session], node=2, pod="p2")

    at_home: Action = lambda w: [w.move([s], pod=f"p{w.node_of(s)}") for s in range(12)]  # noqa: E731
    w = world((0, at_home), (4, move), watched=True, bridges=True)
    assert (w.run().named) == [("node-rehash", LIKELY)]


def test_two_wiped_flows_are_enough_where_affinity_is_known() -> None:
    w = world((4, new_ports(0, 3)), watched=True, sessions=6, affinity=Affinity.CLIENT_IP)
    told = [d for incident in w.run().incidents for d in incident.diagnoses]
    assert [(d.name, d.certainty) for d in told] == [("flow-wipe", LIKELY), ("port-rewrite", POSSIBLE)]


def test_of_one_wiped_flow_the_node_has_to_tell() -> None:
    w = world((4, new_ports(0)), watched=True, sessions=3, affinity=Affinity.CLIENT_IP)
    told = [d for incident in w.run().incidents for d in incident.diagnoses]
    assert [(d.name, d.certainty) for d in told] == [("flow-wipe", POSSIBLE), ("port-rewrite", POSSIBLE)]
    assert told[0].missing == "whether entries were deleted on the ingress node then: conntrack -E -p udp there"


# --- limits --------------------------------------------------------------------------------------------------------------


def test_a_limit_says_how_many_probes_and_how_long() -> None:
    found = world((0, sessions_end(packets=25)), watched=True, seconds=12).run().incidents[2].diagnoses[0]
    assert found.evidence == (
        "12 of 12 sessions, each 25 probes, or 2.5 s, after its own last change",
        "so ended 36 lifetimes of 12 sessions, and none lasted longer; no address came again",
    )


def test_a_limit_met_once_may_be_a_wipe_of_all() -> None:
    w = world((0, sessions_end(packets=50)), watched=False, sessions=6, seconds=8).run()
    assert w.named == [("flow-wipe", POSSIBLE), ("session-limit", POSSIBLE)]


def test_a_wipe_in_mid_interval_is_no_limit() -> None:
    w = world((4.05, wipe_all), watched=False, sessions=6).run()
    assert w.named == [("flow-wipe", LIKELY)]


def test_periodic_wipes_are_no_limit() -> None:
    w = world(*[(at, wipe_all) for at in (2.03, 5.03, 8.03)], watched=True, seconds=12).run()
    assert {name for name, certainty in w.named if certainty is LIKELY} == {"flow-wipe"}


def test_probes_far_apart_that_each_show_a_new_address_are_idle_expiry_or_a_limit_of_one() -> None:
    forget: Action = lambda w: setattr(w.network, "idle_ns", 3 * S)  # noqa: E731
    w = world((0, forget), watched=True, interval=5 * S, seconds=60, affinity=Affinity.CLIENT_IP).run()
    told = [(d.name, d.certainty) for incident in w.incidents for d in incident.diagnoses]
    assert told == [("idle-expiry", LIKELY), ("session-limit", POSSIBLE)]


# --- proxies -------------------------------------------------------------------------------------------------------------


def test_a_proxy_that_is_replaced_is_named_with_its_pod() -> None:
    found = only(world((4, proxy_replaced(1, 4)), watched=True, proxies=True))
    assert found.evidence == (
        'all 4 sessions of 10.2.0.1 (pod "edge/proxy-n1") moved to 10.2.0.4 (pod "edge/proxy-n4")',
        "8 other sessions have not moved; no probe lost",
    )


def test_unwatched_it_is_said_that_all_sessions_of_an_address_moved() -> None:
    w = world((4, proxy_replaced(1, 4)), watched=False, proxies=True)
    found = only(w)
    assert (found.name, found.certainty) == ("proxy-tier", POSSIBLE)
    assert found.evidence[0] == "all 4 sessions of 10.2.0.1 moved to 10.2.0.4"
    assert (
        found.missing == "whether 10.2.0.1 is a proxy's pod, or a node that left the balancer: run with cluster access"
    )


def test_a_new_proxy_takes_sessions_of_the_others() -> None:
    def grow(w: World) -> None:
        w.node(4)
        w.move((0, 1, 2), node=4)
        w.look_at_proxies()

    found = only(world((4, grow), watched=True, proxies=True))
    assert (found.name, found.certainty) == ("proxy-tier", LIKELY)
    assert "a proxy that had no session before takes some of the others'" in found.evidence


def test_sessions_that_only_change_between_proxies_need_a_reason() -> None:
    found = only(world((4, lambda w: w.move((0, 3), node=2)), watched=True, proxies=True))
    assert (found.name, found.missing) == (
        "proxy-tier",
        "whether a proxy's pod came or went then: kubectl get events -A",
    )


def test_whose_an_address_is_may_be_unknown_in_a_watched_cluster() -> None:
    w = world((0, lambda w: w.emit(PodAddresses(0, ()))), (4, proxy_leaves(1)), watched=True, proxies=True)
    found = only(w)
    assert (found.name, found.missing) == (
        "proxy-tier",
        "whether 10.2.0.1 is a proxy's pod, or a node that left the balancer: kubectl get pods -A -o wide",
    )


# --- beside a change of the pool -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_a_rehash_off_serving_pods_beside_a_change_of_the_pool_is_named(local: bool) -> None:
    def leave(w: World) -> None:
        w.add_pod("p7")
        w.look()
        for session in range(0, 12, 3):
            w.pin(session, 2)

    found = only(world((4, leave), watched=True, local=local, pods=6, bridges=not local))
    assert (found.name, found.certainty) == ("node-rehash", LIKELY)
    assert "ready and serving all the time" in found.evidence[0]
    assert "the pool had changed, and none of these pods; no probe lost" in found.evidence


def test_a_pod_made_anew_under_its_name_is_no_restarted_container() -> None:
    def again(w: World) -> None:
        w.network.pods["p1"] = Pod(
            name="p1", node="n3", address=TransportAddress("10.1.0.9", 3478), instance=b"another!", uid="uid-p1-again"
        )
        for node in w.network.nodes.values():
            for entry in node.entries.values():
                if entry.pod.name == "p1":
                    entry.pod = w.network.pods["p1"]
        w.look()

    w = world((4, again), watched=True).run()
    assert "pod-restart" not in {name for name, _ in w.named}
    assert "pod-restart" in {name for name, _ in world((4, restarts), watched=True).run().named}


def elsewhere(w: World, _session: int, _seq: int, who: Identity) -> Identity:
    return who if w.now < 6 * S else who._replace(pod=f"other-{who.pod}", instance=b"strange!")


def test_pods_of_another_cluster_that_begin_to_answer_are_said_to_be_so() -> None:
    found = only(world(watched=True, reply=elsewhere, seconds=14))
    assert (found.name, found.certainty) == ("", CANNOT_TELL)
    assert found.evidence[0] == (
        '12 of 12 sessions are answered by pods "other-p1", "other-p2", "other-p3", never in the watched pool: '
        "of another cluster or Service"
    )


# --- what a limit is not -------------------------------------------------------------------------------------------------


def names(w: World) -> set[tuple[str, Certainty]]:
    return {(d.name, d.certainty) for incident in w.incidents for d in incident.diagnoses}


def test_of_few_lifetimes_nothing_follows() -> None:
    assert "session-limit" not in {
        name
        for name, _ in names(world((0, every_time_anew), watched=True, sessions=2, interval=5 * S, seconds=12).run())
    }


def test_after_a_pause_that_every_table_forgets_in_no_limit_is_needed() -> None:
    w = world((0, every_time_anew), watched=True, interval=5 * S, window=S, seconds=60).run()
    assert names(w) == {("idle-expiry", LIKELY)}


@pytest.mark.parametrize("moments", [(0.24, 2.74, 5.24), (0.54, 1.24)])
def test_wipes_that_begin_just_after_the_run_are_no_limit(moments: tuple[float, ...]) -> None:
    """All sessions have then sent as many probes; and a proxy may sync twice in a row."""
    network = {"seed": 337, "nodes": 3, "pods": 8, "sessions": 24, "bridges": True, "affinity": Affinity.CLIENT_IP}
    w = world(*((at, wipe_all) for at in moments), watched=True, seconds=12, **network).run()
    assert {name for name, certainty in names(w) if certainty is LIKELY} == {"flow-wipe"}


def test_a_limit_of_one_packet_is_not_spread_where_nobody_knows_whose_the_two_addresses_are() -> None:
    """A node masquerades from two; packets that are spread over two nodes may look alike."""
    network = {"seed": 2, "nodes": 2, "pods": 2, "sessions": 24, "bridges": True}
    w = world((0, sessions_end(packets=1)), watched=False, seconds=12, **network).run()
    assert {("packet-spray", POSSIBLE), ("session-limit", POSSIBLE)} <= names(w)
    assert not {name for name, certainty in names(w) if certainty is LIKELY}


def test_packets_that_go_anywhere_and_are_forgotten_are_spread() -> None:
    w = world((0, every_time_anew), (0, spray()), watched=True, seconds=6).run()
    # All change within a second, over and over: a box of the client's may spread them, too.
    assert names(w) == {("packet-spray", LIKELY), ("client-nat", POSSIBLE), ("flow-wipe", POSSIBLE)}


def test_where_the_first_change_costs_all_a_probe_it_is_no_limit() -> None:
    w = world((0, sessions_end(packets=50)), watched=True, seconds=8, is_lost=lambda _w, _session, seq: seq == 50).run()
    assert "session-limit" not in {name for name, _ in names(w)}


def with_timeout(w: World) -> None:
    pool = w.network.pool()
    told = PoolSnapshot(pool.endpoints, (*pool.spec, ("sessionAffinityTimeout", "3 s")))
    w.emit(PoolObserved(w.now, w.now, w.now, told, w.now))


def test_the_services_own_timeout_is_said_where_it_is_as_long() -> None:
    w = world((0, with_timeout), (0, sessions_end(seconds=3)), watched=True, seconds=14).run()
    told = [d for incident in w.incidents for d in incident.diagnoses if d.certainty is LIKELY]
    assert {d.name for d in told} == {"session-limit"}
    assert "that is the Service's sessionAffinity timeoutSeconds (3 s)" in told[-1].evidence


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_of_a_session_that_lost_too_often_no_lifetime_is_known(node: str) -> None:
    w = world(
        (47.03, lambda w: w.network.flush_flows(node)),
        watched=True,
        sessions=6,
        seconds=52,
        is_lost=lambda _w, session, seq: session == 0 and seq % 3 == 1,
    ).run()
    assert names(w) <= {("flow-wipe", LIKELY), ("", CANNOT_TELL)}
    assert ("flow-wipe", LIKELY) in names(w)


def test_a_timeout_that_may_be_that_of_the_clients_nat_is_named_beside_it() -> None:
    network = {"seed": 8, "nodes": 2, "pods": 3, "affinity": Affinity.CLIENT_IP}
    w = world((0, every_time_anew), watched=False, interval=5 * S, seconds=50, **network).run()
    assert {("idle-expiry", POSSIBLE), ("client-nat", POSSIBLE), ("session-limit", POSSIBLE)} <= names(w)
    (found,) = [d for incident in w.incidents for d in incident.diagnoses if d.name == "idle-expiry"]
    assert found.missing == "whether it is the client's own NAT that forgets: --reference HOST"


# --- timeouts and spreading where pods see the client's own address ------------------------------------------------------


def test_under_policy_local_a_timeout_draws_another_pod_of_the_same_node() -> None:
    w = world((0, every_time_anew), watched=True, local=True, pods=24, interval=5 * S, seconds=70).run()
    assert {name for name, certainty in names(w) if certainty is LIKELY} == {"idle-expiry"}


def test_under_policy_local_packets_that_are_spread_meet_pods_of_other_nodes() -> None:
    w = world((0, spray()), watched=True, local=True, pods=24, interval=5 * S, seconds=70).run()
    assert {name for name, certainty in names(w) if certainty is LIKELY} == {"packet-spray"}


# --- other Services ------------------------------------------------------------------------------------------------------


def test_a_wipe_tells_the_change_of_another_udp_service_whose_node_port_is_this_ones() -> None:
    def change(w: World) -> None:
        w.tell(ClusterSubject.UDP_SERVICE, "other/dns", ClusterAction.ENDPOINTS_CHANGED)
        wipe_all(w)

    shared: Action = lambda w: w.tell(  # noqa: E731
        ClusterSubject.WATCH, "media/turn", ClusterAction.NODE_PORT_SHARED, resource="services", detail="other/dns 3478"
    )
    found = only(world((0, shared), (4.03, change), watched=True))
    assert found.evidence[-2:] == (
        'UDP service "other/dns": endpoints changed 0.0 s before',
        "that Service has this one's port as a node port: other/dns 3478",
    )


def test_slow_packets_that_are_spread_meet_again_what_they_had_left() -> None:
    w = world((0, spray()), watched=True, interval=5 * S, seconds=70).run()
    assert {name for name, certainty in names(w) if certainty is LIKELY} == {"packet-spray"}


# --- more of limits ------------------------------------------------------------------------------------------------------


def test_a_session_that_loses_probes_reaches_the_limit_at_a_moment_of_its_own() -> None:
    w = world(
        (0, sessions_end(packets=25)),
        watched=True,
        seconds=16,
        is_lost=lambda _w, session, seq: session == 0 and seq % 5 == 1,
    ).run()
    assert {name for name, certainty in names(w) if certainty is LIKELY} == {"session-limit"}
    assert any(incident.sessions < 12 for incident in w.incidents)


def test_a_limit_of_age_is_told_as_one_where_the_number_of_probes_varies() -> None:
    later: Action = lambda w: setattr(w.network, "limit", SessionLimit(age_ns=2_550_000_000))  # noqa: E731
    never_answered: Action = lambda w: w.block(11)  # noqa: E731
    w = world((0, never_answered), (0, sessions_end(seconds=2.5)), (4, later), watched=True, seconds=10).run()
    told = [d for incident in w.incidents for d in incident.diagnoses if d.name == "session-limit"]
    assert told[-1].certainty is LIKELY
    assert told[-1].evidence[0] == "11 of 11 sessions, each 2.5 s after its own last change"


def test_one_new_port_without_affinity_may_be_a_wipe_that_met_the_same_pod() -> None:
    w = world((4, new_ports(0)), watched=True, sessions=3, pods=2).run()
    told = [d for incident in w.incidents for d in incident.diagnoses]
    assert [(d.name, d.certainty) for d in told] == [("flow-wipe", POSSIBLE), ("port-rewrite", POSSIBLE)]
    assert told[0].missing == "whether entries were deleted on the ingress node then: conntrack -E -p udp there"


def test_a_limit_that_is_met_again_and_again_is_possible_beside_the_clients_nat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    likely = Diagnosis("session-limit", LIKELY, ("each after 5 probes",))
    lives = (SimpleNamespace(is_first=True), SimpleNamespace(is_first=False))
    monkeypatch.setattr(limit_rules, "session_limit", lambda _view, _groups: likely)
    monkeypatch.setattr(limit_rules, "_constant", lambda _view: SimpleNamespace(probes=(5, 5), lives=lives))
    view: Any = None
    found = limit_rules.repeated_limit(view, view)
    assert found is not None
    assert (found.certainty, found.missing) == (
        POSSIBLE,
        "whether it is the client's own NAT that renews its mappings: --reference HOST",
    )


def test_few_sessions_of_a_proxy_may_all_be_at_one_pod() -> None:
    at = [("10.0.0.1", "a"), ("10.0.0.1", "b"), ("10.0.0.2", "c")]
    identities = {str(n): Identity(TransportAddress(ip, n), pod) for n, (ip, pod) in enumerate(at)}
    view: Any = SimpleNamespace(identities=identities)
    assert proxy_rules._chance_of_one_pod(view, 3) == pytest.approx(1 / 9)
    one_pod_each: Any = SimpleNamespace(identities={k: v for k, v in identities.items() if v.pod != "b"})
    assert proxy_rules._chance_of_one_pod(one_pod_each, 3) == 1.0
