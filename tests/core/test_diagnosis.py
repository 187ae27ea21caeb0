"""Each fault of the catalogue as a client would see it, without and with a watched cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnosing import Action, S, World
from network_faults import (
    answered,
    balancer_made_anew,
    drops,
    entries_stay,
    every_time_anew,
    flushed_early,
    hung,
    is_sound,
    nat_moves,
    new_ports,
    no_spray,
    node_dies,
    node_drains,
    on_one_pod,
    one_takes_anothers_address,
    passes_nothing,
    pause,
    ports_dead,
    proxy_leaves,
    proxy_replaced,
    rehash,
    rehash_local,
    removed,
    restarts,
    resume,
    sessions_end,
    silent,
    socket_changes,
    spray,
    stray,
    terminates,
    vip_moves,
    way_cut,
    wipe,
    wipe_all,
    world,
)

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis, Judgement
from affinity_tester.lab.model import Affinity
from affinity_tester.lab.packet_log import Direction

LIKELY, POSSIBLE, CANNOT_TELL = Certainty

NAT_OR_WIPE = [("client-nat", POSSIBLE), ("flow-wipe", POSSIBLE)]
"""Beside what changes all sessions within a second, where nothing excludes the client's own NAT."""

SCENES: dict[str, tuple[Callable[[bool], World], list[tuple[str, Certainty]], list[tuple[str, Certainty]]]] = {
    "flow-wipe": (
        lambda watched: world((4, wipe), watched=watched),
        [("flow-wipe", LIKELY)],
        [("flow-wipe", LIKELY)],
    ),
    "flow-wipe under affinity": (
        lambda watched: world((4, new_ports(0, 3, 6, 9)), watched=watched, pods=1, affinity=Affinity.CLIENT_IP),
        [("flow-wipe", POSSIBLE), ("port-rewrite", POSSIBLE)],
        [("flow-wipe", LIKELY), ("port-rewrite", POSSIBLE)],
    ),
    "flow-wipe under policy Local": (
        lambda watched: world((4, wipe_all), watched=watched, pods=6, local=True),
        [("flow-wipe", LIKELY)],
        [("flow-wipe", LIKELY)],
    ),
    "flow-wipe while the watch is down": (
        lambda watched: world((3.5, lambda w: watched and w.blind()), (4, wipe), watched=watched),
        [("flow-wipe", LIKELY)],
        [("flow-wipe", POSSIBLE)],
    ),
    "idle-expiry, slow probes": (
        lambda watched: world((8, every_time_anew), watched=watched, interval=1500_000_000, window=S, seconds=30),
        [("idle-expiry", LIKELY)],
        [("idle-expiry", LIKELY)],
    ),
    "idle-expiry, now and then": (
        lambda watched: world((8, wipe), watched=watched, interval=1500_000_000, window=S, seconds=30),
        [("idle-expiry", POSSIBLE)],
        [("idle-expiry", POSSIBLE)],
    ),
    "idle-expiry after a pause": (
        lambda watched: world((4, pause), (8, resume), watched=watched, seconds=12),
        [("idle-expiry", LIKELY)],
        [("idle-expiry", LIKELY)],
    ),
    "idle-expiry, all paused": (
        lambda watched: world(
            (4, lambda w: w.paused.update(range(12))),
            (8, lambda w: (w.paused.clear(), w.move(range(12)))),
            watched=watched,
            seconds=12,
        ),
        [("idle-expiry", POSSIBLE)],
        [("idle-expiry", POSSIBLE)],
    ),
    "node-rehash": (
        lambda watched: world((4, rehash), watched=watched),
        [("node-rehash", LIKELY)],
        [("node-rehash", LIKELY)],
    ),
    "node-rehash under policy Local": (
        lambda watched: world((4, rehash_local), watched=watched, local=True, pods=6),
        [("node-rehash", LIKELY)],
        [("node-rehash", LIKELY)],
    ),
    "node-rehash of all": (
        lambda watched: world((4, lambda w: w.move(range(12), node=2)), watched=watched, nodes=1),
        [("client-nat", POSSIBLE), ("vip-failover", POSSIBLE)],
        [("vip-failover", POSSIBLE), ("node-rehash", POSSIBLE)],
    ),
    "session-limit by count": (
        lambda watched: world((0, sessions_end(packets=25)), watched=watched, seconds=14),
        [("flow-wipe", POSSIBLE), ("session-limit", POSSIBLE), ("session-limit", LIKELY)],
        [("flow-wipe", POSSIBLE), ("session-limit", POSSIBLE), ("session-limit", LIKELY)],
    ),
    "session-limit of one reply": (
        lambda watched: world((0, sessions_end(packets=1)), watched=watched, proxies=True, nodes=1),
        [("packet-spray", POSSIBLE), ("session-limit", POSSIBLE), *NAT_OR_WIPE],
        [("session-limit", LIKELY), *NAT_OR_WIPE],
    ),
    "proxy-tier": (
        lambda watched: world((4, proxy_replaced(1, 4)), watched=watched, proxies=True),
        [("proxy-tier", POSSIBLE)],
        [("proxy-tier", LIKELY)],
    ),
    "proxy-tier, one fewer": (
        lambda watched: world((4, proxy_leaves(1)), watched=watched, proxies=True),
        [("proxy-tier", POSSIBLE), ("node-rehash", POSSIBLE)],
        [("proxy-tier", LIKELY)],
    ),
    "stale-flow": (
        lambda watched: world((4, entries_stay), watched=watched, seconds=14),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "stale-flow from the start": (
        lambda watched: world((0, silent(0, 3, 6)), watched=watched, seconds=10),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "stale-flow of some at living pods": (
        lambda watched: world((4, silent(1, 2)), watched=watched, seconds=14),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "no canary": (
        lambda watched: world((4, silent(1, 2)), watched=watched, seconds=14, canaries=False),
        [("stale-flow", POSSIBLE), ("lossy-path", POSSIBLE)],
        [("stale-flow", POSSIBLE), ("lossy-path", POSSIBLE)],
    ),
    "dead-target": (
        lambda watched: world((4, node_dies), (11, node_drains), watched=watched, seconds=16),
        [("dead-target", LIKELY)],
        [("dead-target", LIKELY)],
    ),
    "dead-target without a canary": (
        lambda watched: world((4, node_dies), watched=watched, seconds=16, canaries=False),
        [("dead-target", POSSIBLE), ("stale-flow", POSSIBLE)],
        [("dead-target", LIKELY)],
    ),
    "a pod, a node, a way, an entry or a port": (
        lambda watched: world((4, silent(0)), watched=watched, seconds=14, sessions=3, pods=9, canaries=False),
        [(name, POSSIBLE) for name in ("pod-silent", "dead-target", "node-path", "stale-flow", "lossy-path")],
        [(name, POSSIBLE) for name in ("pod-silent", "dead-target", "node-path", "stale-flow", "lossy-path")],
    ),
    "an entry, where canaries met its pod and its node": (
        lambda watched: world((4, silent(0)), watched=watched, seconds=14, sessions=3, pods=9),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "dead-ingress": (
        lambda watched: world((0, passes_nothing), watched=watched, sessions=24, pods=6, seconds=16),
        [(name, POSSIBLE) for name in ("dead-ingress", "pod-silent", "node-path", "lossy-path")],
        [("dead-ingress", LIKELY)],
    ),
    "node-path": (
        lambda watched: world((4, way_cut), watched=watched, sessions=36, pods=6, seconds=16),
        [("node-path", LIKELY)],
        [("node-path", LIKELY)],
    ),
    "lossy-path": (
        lambda watched: world((4, ports_dead), watched=watched, sessions=24, seconds=16),
        [("lossy-path", LIKELY)],
        [("lossy-path", LIKELY)],
    ),
    "terminating-backend": (
        lambda watched: world((4, terminates), (7, removed), watched=watched, seconds=12),
        [("terminating-backend", POSSIBLE), ("pod-silent", POSSIBLE), ("stale-flow", POSSIBLE)],
        [("terminating-backend", LIKELY)],
    ),
    "early-flush": (
        lambda watched: world((4, flushed_early), watched=watched, seconds=10),
        [("early-flush", POSSIBLE), ("flow-wipe", POSSIBLE)],
        [("early-flush", LIKELY)],
    ),
    "port-rewrite": (
        lambda watched: world((4, new_ports(1, 2, 3)), watched=watched),
        [("port-rewrite", LIKELY)],
        [("port-rewrite", LIKELY)],
    ),
    "port-rewrite under policy Local": (
        lambda watched: world((4, new_ports(*range(12))), watched=watched, local=True),
        [("port-rewrite", LIKELY)],
        [("port-rewrite", LIKELY)],
    ),
    "port-rewrite of all": (
        lambda watched: world((4, new_ports(*range(12))), watched=watched),
        [("port-rewrite", LIKELY)],
        [("port-rewrite", LIKELY)],
    ),
    "snat-collision": (
        lambda watched: world(
            (0, on_one_pod), (4, one_takes_anothers_address), (6, answered), (6, new_ports(1)), watched=watched
        ),
        [("snat-collision", LIKELY)],
        [("snat-collision", LIKELY)],
    ),
    "client-socket": (
        lambda watched: world((4, socket_changes), watched=watched, local=True),
        [("client-socket", LIKELY)],
        [("client-socket", LIKELY)],
    ),
    "client-socket ended": (
        lambda watched: world((4, silent(1)), (4.1, lambda w: w.icmp(1, "ECONNABORTED")), watched=watched),
        [("client-socket", LIKELY)],
        [("client-socket", LIKELY)],
    ),
    "client-socket refused": (
        lambda watched: world(
            (4, silent(1)), (4.1, lambda w: w.icmp(1, "ECONNREFUSED")), (5, answered), watched=watched, connected=True
        ),
        [("client-socket", POSSIBLE)],
        [("client-socket", POSSIBLE)],
    ),
    "local-policy": (
        lambda watched: world(watched=watched, local=True, pods=2, seconds=14),
        [
            ("local-policy", POSSIBLE),
            ("dead-ingress", POSSIBLE),
            ("pod-silent", POSSIBLE),
            ("lossy-path", POSSIBLE),
        ],
        [("local-policy", LIKELY)],
    ),
    "client-ip-spread": (
        lambda watched: world(watched=watched, affinity=Affinity.CLIENT_IP),
        [],
        [("client-ip-spread", LIKELY)],
    ),
    "wrong-source": (
        lambda watched: world((4, stray), (6, answered), watched=watched),
        [("wrong-source", LIKELY)],
        [("wrong-source", LIKELY)],
    ),
    "mtu": (
        lambda watched: world(
            watched=watched, sizes=(288, 1400), is_lost=lambda w, _s, seq: seq % 2 == 1 and w.now > 4 * S
        ),
        [("mtu", LIKELY)],
        [("mtu", LIKELY)],
    ),
    "mtu, fragments elsewhere": (
        lambda watched: world(
            watched=watched,
            sizes=(288, 1400),
            reply=lambda _w, _s, seq, who: who if seq % 2 else who._replace(pod="p9", node="n9", instance=b"p9      "),
        ),
        [("mtu", LIKELY)],
        [("mtu", LIKELY)],
    ),
    "mtu, told by ICMP": (
        lambda watched: world(
            (4, silent(1)), (4.1, lambda w: w.icmp(1, "EMSGSIZE", "10.0.0.1")), (5, answered), watched=watched
        ),
        [("mtu", LIKELY)],
        [("mtu", LIKELY)],
    ),
    "mtu of one size": (
        lambda watched: world(watched=watched, sizes=(3000,), is_lost=lambda _w, s, seq: (seq + s) % 2 == 0),
        [("mtu", POSSIBLE)],
        [("mtu", POSSIBLE)],
    ),
    "first-packet-race": (
        lambda watched: world(watched=watched, is_lost=lambda _w, session, seq: seq == 0 and session % 2 == 0),
        [("first-packet-race", LIKELY)],
        [("first-packet-race", LIKELY)],
    ),
    "table-full": (
        lambda watched: world(watched=watched, is_lost=lambda _w, session, seq: session % 3 == 0 and seq < 2 + session),
        [("table-full", LIKELY)],
        [("table-full", LIKELY)],
    ),
    "lossy-path of some probes": (
        lambda watched: world(
            watched=watched, seconds=17, is_lost=lambda w, session, seq: session in {1, 5, 6} and w.rng.random() < 0.15
        ),
        [("lossy-path", LIKELY)],
        [("lossy-path", LIKELY)],
    ),
    "late-replies": (
        lambda watched: world((4, lambda w: w.hold()), (9, lambda w: w.release()), watched=watched, seconds=14),
        [("late-replies", LIKELY)],
        [("late-replies", LIKELY)],
    ),
    "vip-failover": (
        lambda watched: world((4, silent()), (5.5, vip_moves(2)), watched=watched, nodes=1),
        [("client-nat", POSSIBLE), ("vip-failover", POSSIBLE)],
        [("vip-failover", LIKELY)],
    ),
    "vip-failover under policy Local": (
        lambda watched: world(
            (0, vip_moves(1)), (4, silent()), (5.5, vip_moves(2)), watched=watched, nodes=2, pods=4, local=True
        ),
        [("vip-failover", LIKELY)],
        [("vip-failover", LIKELY)],
    ),
    "vip-failover to and fro": (
        lambda watched: world((4, vip_moves(2)), (4.5, vip_moves(1)), watched=watched, nodes=1),
        [("vip-failover", LIKELY)],
        [("vip-failover", LIKELY)],
    ),
    "lb-churn": (
        lambda watched: world((4, balancer_made_anew), (6, answered), watched=watched),
        [("lb-churn", POSSIBLE)],
        [("lb-churn", LIKELY)],
    ),
    "pod-restart": (
        lambda watched: world((4, lambda w: w.network.dead_pods.add("p1")), (4.5, restarts), watched=watched),
        [("pod-restart", LIKELY)],
        [("pod-restart", LIKELY)],
    ),
    "client-nat": (
        lambda watched: world((4, nat_moves), watched=watched, local=True),
        [("client-nat", POSSIBLE), ("vip-failover", POSSIBLE)],
        [("client-nat", LIKELY)],
    ),
    "packet-spray": (
        lambda watched: world((4, spray()), (6, no_spray), watched=watched),
        [("packet-spray", LIKELY)],
        [("packet-spray", LIKELY)],
    ),
    "packet-spray of few": (
        lambda watched: world((4, spray(0, 1)), (6, no_spray), watched=watched),
        [("packet-spray", POSSIBLE)],
        [("packet-spray", POSSIBLE)],
    ),
    "pod-silent": (
        lambda watched: world((4, hung), watched=watched, seconds=34),
        [("pod-silent", LIKELY)],
        [("pod-silent", LIKELY)],
    ),
    "self-inflicted": (
        lambda watched: world(
            (4, lambda w: w.drop(Direction.DOWN, 1, 2)), (5, answered), (6.5, drops), watched=watched
        ),
        [("self-inflicted", LIKELY)],
        [("self-inflicted", LIKELY)],
    ),
    "self-inflicted over the run": (
        lambda watched: world(watched=watched, own_counts={"socket_drops": 20, "send_errors": 3, "timer_misses": 200}),
        [("self-inflicted", LIKELY)],
        [("self-inflicted", LIKELY)],
    ),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
def test_each_fault_is_named(scene: str, watched: bool) -> None:
    make, alone, with_cluster = SCENES[scene]
    w = make(watched).run()
    assert w.named == (with_cluster if watched else alone), w.diagnoses
    for diagnosis in w.diagnoses:
        is_sound(diagnosis)


# --- in full -------------------------------------------------------------------------------------------------------------


def test_where_the_watch_was_down_no_still_pool_is_claimed() -> None:
    (incident,) = world((3.5, lambda w: w.blind()), (4, wipe), watched=True).run().incidents
    (wiped,) = incident.diagnoses
    assert "the pool was not observed then" in wiped.evidence
    assert "no endpoint had changed" not in wiped.evidence


def test_a_wipe_tells_its_cohort_its_loss_and_the_proxy() -> None:
    (incident,) = world((4, wipe), watched=True).run().incidents
    assert incident.diagnoses == (
        Diagnosis(
            "flow-wipe",
            LIKELY,
            (
                '4 of 12 sessions; all with old reflexive IP 10.0.0.1 (node "n1"), which had 4 sessions',
                "2 have a new pod and 4 a new reflexive port; the reflexive IP stays; no probe lost",
                "no endpoint had changed",
                'proxy "kube-proxy-x7k2p" was restarted on node "n1" 0.0 s before',
            ),
            "",
            CATALOGUE["flow-wipe"].remedy,
            (
                "kubernetes/kubernetes#122740",
                "kubernetes/kubernetes#120076",
                "kubernetes/kubernetes#113859",
                "cilium/cilium#13399",
            ),
        ),
    )


def back_again(w: World) -> None:
    w.network.restart_pod("p1", b"p1".ljust(8))


@pytest.mark.parametrize(("window_s", "certainty"), [(10, LIKELY), (30, POSSIBLE)])
def test_all_sessions_paused_for_longer_than_the_run_s_own_affinity_window(window_s: int, certainty: Certainty) -> None:
    actions: list[tuple[float, Action]] = [
        (4, lambda w: w.paused.update(range(12))),
        (18, lambda w: (w.paused.clear(), w.move(range(12)))),
    ]
    assert world(*actions, watched=False, window=window_s * S, seconds=22).run().named == [("idle-expiry", certainty)]


def test_an_instance_that_answers_again_was_not_restarted() -> None:
    story = world((2, restarts), (6, back_again), watched=False)
    first, second = story.run().incidents
    assert [(d.name, d.certainty, d.missing) for d in first.diagnoses] == [("pod-restart", LIKELY, "")]
    assert second.judgements == ((Judgement.VIOLATION, len(story.on(pod="p1"))),)
    assert [(d.name, d.certainty) for d in second.diagnoses] == [("pod-restart", POSSIBLE)]
    assert "two servers seem to share the pod's name" in second.diagnoses[0].missing


def evidence(w: World, name: str) -> tuple[str, ...]:
    """Of the last diagnosis of this name."""
    return next(d.evidence for d in reversed(w.run().diagnoses) if d.name == name)


def test_a_rehash_tells_who_moved_where_and_the_node_that_came() -> None:
    assert evidence(world((4, rehash), watched=True), "node-rehash") == (
        "5 of 12 sessions have a new reflexive IP, 10.0.0.4; by old reflexive IP "
        '10.0.0.1 (node "n1"): 2 of its 4, 10.0.0.2 (node "n2"): 2 of its 4, 10.0.0.3 (node "n3"): 1 of its 4',
        "3 of them also have a new pod; no probe lost",
        'node "n4" became Ready 0.0 s before',
    )


def test_a_stale_flow_tells_the_pod_that_is_gone_and_the_canary() -> None:
    assert evidence(world((4, entries_stay), watched=True, seconds=14), "stale-flow") == (
        '3 of 12 sessions lost every probe for 9.9 s and more, 3 sessions still silent; all had been served by pod "p1"',
        'by old reflexive IP 10.0.0.2 (node "n2"): 1 of its 4, 10.0.0.3 (node "n3"): 2 of its 4',
        'pod "p1" had left the pool, and the silence went on',
        '28 test probes from new ports were answered by pods "p2", "p3" within 0.0 s',
        "were 25 % of all ports dead, 28 test probes would all have missed them in 0.0 %",
        "direction not known: no reply since tells how many probes the pod has received",
    )


def test_wipes_at_even_distances_are_told_as_a_period() -> None:
    actions = [(at, wipe) for at in (4, 8, 12)]
    assert "it is at least the third such incident, every 4.0 s" in evidence(
        world(*actions, watched=True, seconds=16), "flow-wipe"
    )
    uneven = [(at, wipe) for at in (4, 8, 15)]
    assert not any("third" in fact for fact in evidence(world(*uneven, watched=True, seconds=19), "flow-wipe"))


def test_a_drain_long_after_its_node_died_is_of_the_same_incident() -> None:
    """It lasts as long as the silence, and what the sessions met at its end belongs to it; a long silence is not cut."""
    w = world((4, node_dies), (70, node_drains), watched=True, seconds=75).run()
    (incident,) = w.incidents
    assert (incident.outages, incident.changes, incident.continuing) == (4, 4, False)
    assert 66 * S <= incident.to_ns - incident.from_ns <= 67 * S
    assert [d.name for d in incident.diagnoses] == ["dead-target"]


def test_a_flip_flop_is_known_by_its_second_turn() -> None:
    w = world((0, vip_moves(1)), (4, vip_moves(2)), (12, vip_moves(1)), watched=True, nodes=2, seconds=18)
    first, second = w.run().incidents
    assert [(d.name, d.certainty) for d in first.diagnoses] == [("vip-failover", POSSIBLE), ("node-rehash", POSSIBLE)]
    assert [(d.name, d.certainty) for d in second.diagnoses] == [("vip-failover", LIKELY)]


def test_every_fault_of_the_catalogue_has_a_scene() -> None:
    shown = {name for _, alone, with_cluster in SCENES.values() for name, c in alone + with_cluster if c is LIKELY}
    assert shown == set(CATALOGUE)


def test_one_dead_address_of_several_is_said_and_named_nothing_that_it_is_not() -> None:
    """Every third session probes 203.0.113.9, where nobody answers."""
    w = World(sessions=12, seconds=12)
    told = [
        TransportAddress("203.0.113.7", 3478),
        TransportAddress("203.0.113.8", 3478),
        TransportAddress("203.0.113.9", 3478),
    ]
    w.targets = {session: told[session % 3] for session in range(12)}
    w.block(*range(2, 12, 3))
    w.run()
    assert w.named == [("", Certainty.CANNOT_TELL)]
    words = "they are all the sessions to 203.0.113.9:3478, one of 3 addresses of the target, and none of the others"
    assert words in w.diagnoses[0].evidence
