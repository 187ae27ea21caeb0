"""Each fault of the catalogue as a client would see it, without and with a watched cluster, and what may not be accused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from diagnosing import S, World

from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis

LIKELY, POSSIBLE, CANNOT_TELL = Certainty

Deed = Callable[[World], object]


def world(*deeds: tuple[float, Deed], watched: bool, **kw: object) -> World:
    """A run with these deeds at these seconds."""
    return World(watched=watched, deeds=list(deeds), **kw)  # type: ignore[arg-type]


# --- deeds -------------------------------------------------------------------------------------------------------------


def wipe(w: World) -> None:
    w.move(w.on(ip="10.0.0.1"))
    if w.watched:
        w.tell("proxy", "kube-proxy-x7k2p", 'restarted on node "n1"')


def new_ports(*sessions: int) -> Deed:
    return lambda w: [w.port(session) for session in sessions]


def silent(*sessions: int) -> Deed:
    return lambda w: w.dead.update(sessions or range(w.sessions))


def answered(w: World) -> None:
    w.dead.clear()
    w.mute.clear()


def rehash(w: World) -> None:
    if w.watched:
        w.tell("node", "n4", "Ready")
    w.move(range(5), node=4)


def rehash_local(w: World) -> None:
    for session in range(5):
        w.flows[session] = w.fresh(session, w.node_of(session) % 3 + 1)


def entries_stay(w: World) -> None:
    w.gone_pods.add("p1")
    if w.watched:
        w.pool("p1")


def node_dies(w: World) -> None:
    w.dead.update(w.on(ip="10.0.0.1"))
    if w.watched:
        w.tell("node", "n1", "not Ready")


def node_drains(w: World) -> None:
    flows = w.on(ip="10.0.0.1")
    w.dead.clear()
    w.move(flows, node=2)


def vip_moves(node: int) -> Deed:
    return lambda w: (w.dead.clear(), w.move(range(w.sessions), node=node))


def nat_moves(w: World) -> None:
    for session in range(w.sessions):
        w.port(session, ip="198.51.100.1")


def socket_changes(w: World) -> None:
    nat_moves(w)
    w.fault(1, "local-address", "this machine's own address changed: 192.168.0.9 -> 198.51.100.1")


def balancer_made_anew(w: World) -> None:
    silent()(w)
    if w.watched:
        w.tell("service", "media/turn", "changed: annotations")


def terminates(w: World) -> None:
    if w.watched:
        w.pool("p1", ready=False, terminating=True)
    w.gone_pods.add("p1")


def removed(w: World) -> None:
    flows = w.on(pod="p1")
    if w.watched:
        w.pool("p1")
    else:
        del w.endpoints["p1"]
    w.move(flows)


def flushed_early(w: World) -> None:
    flows = w.on(pod="p1")
    if w.watched:
        w.pool("p1", ready=False, terminating=True)
    held = w.endpoints.pop("p1")
    w.move(flows)
    w.endpoints["p1"] = held


def restarts(w: World) -> None:
    w.gone_pods.clear()
    for session in w.on(pod="p1"):
        w.flows[session] = w.flows[session]._replace(instance=b"reborn!!")


def every_time_anew(w: World) -> None:
    w.way = lambda w, session, _seq: w.fresh(session, w.node_of(session))


def pause(w: World) -> None:
    w.quiet.update((1, 2, 3))


def resume(w: World) -> None:
    w.quiet.clear()
    w.move((1, 2, 3))


def sprayed(w: World, session: int, _seq: int) -> object:
    return w.fresh(session, w.rng.choice([1, 2, 3])) if 4 * S < w.now < 6 * S else w.flows[session]


def stray(w: World) -> None:
    w.astray(1)
    w.astray(2)


def one_takes_anothers_address(w: World) -> None:
    theirs = w.flows[4]
    w.flows[1] = theirs
    w.mute.add(4)


def on_one_pod(w: World) -> None:
    for session in range(w.sessions):
        w.flows[session] = w.fresh(session, w.node_of(session), pod="p1")


def drops(w: World) -> None:
    for session in (1, 2):
        w.fault(session, "socket-drops", "8 replies dropped at this machine's full socket buffer")


SCENES: dict[str, tuple[Callable[[bool], World], list[tuple[str, Certainty]], list[tuple[str, Certainty]]]] = {
    "flow-wipe": (
        lambda watched: world((4, wipe), watched=watched),
        [("flow-wipe", LIKELY)],
        [("flow-wipe", LIKELY)],
    ),
    "flow-wipe under affinity": (
        lambda watched: world((4, new_ports(0, 3, 6, 9)), watched=watched, pods=1, affinity="ClientIP"),
        [("flow-wipe", POSSIBLE), ("port-rewrite", POSSIBLE)],
        [("flow-wipe", LIKELY), ("port-rewrite", POSSIBLE)],
    ),
    "flow-wipe under policy Local": (
        lambda watched: world((4, lambda w: w.move(range(12))), watched=watched, pods=6, local=True),
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
        [("idle-expiry", LIKELY)],
        [("idle-expiry", LIKELY)],
    ),
    "idle-expiry after a pause": (
        lambda watched: world((4, pause), (8, resume), watched=watched, seconds=12),
        [("idle-expiry", LIKELY)],
        [("idle-expiry", LIKELY)],
    ),
    "idle-expiry, all paused": (
        lambda watched: world(
            (4, lambda w: w.quiet.update(range(12))),
            (8, lambda w: (w.quiet.clear(), w.move(range(12)))),
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
        [("vip-failover", POSSIBLE), ("node-rehash", POSSIBLE)],
        [("vip-failover", POSSIBLE), ("node-rehash", POSSIBLE)],
    ),
    "stale-flow": (
        lambda watched: world((4, entries_stay), watched=watched, seconds=14),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "stale-flow from the start": (
        lambda watched: world((0, silent(0, 3, 6)), watched=watched, seconds=10),
        [("local-policy", POSSIBLE), ("stale-flow", POSSIBLE)],
        [("stale-flow", LIKELY)],
    ),
    "stale-flow of some at living pods": (
        lambda watched: world((4, silent(1, 2)), watched=watched, seconds=14),
        [("stale-flow", LIKELY)],
        [("stale-flow", LIKELY)],
    ),
    "no canary": (
        lambda watched: world((4, silent(1, 2)), watched=watched, seconds=14, canaries=False),
        [("stale-flow", POSSIBLE)],
        [("stale-flow", POSSIBLE)],
    ),
    "dead-target": (
        lambda watched: world((4, node_dies), (11, node_drains), watched=watched, seconds=16),
        [("dead-target", LIKELY)],
        [("dead-target", LIKELY)],
    ),
    "dead-target without a canary": (
        lambda watched: world((4, node_dies), watched=watched, seconds=16, canaries=False),
        [("dead-target", POSSIBLE)],
        [("dead-target", POSSIBLE)],
    ),
    "a pod or a node": (
        lambda watched: world((4, silent(0)), watched=watched, seconds=14, sessions=3, pods=9),
        [("stale-flow", POSSIBLE), ("dead-target", POSSIBLE)],
        [("stale-flow", POSSIBLE), ("dead-target", POSSIBLE)],
    ),
    "terminating-backend": (
        lambda watched: world((4, terminates), (7, removed), watched=watched, seconds=12),
        [("terminating-backend", POSSIBLE), ("stale-flow", POSSIBLE)],
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
        lambda watched: world((0, silent(0, 3, 6)), watched=watched, local=True, seconds=10),
        [("local-policy", LIKELY)],
        [("local-policy", LIKELY)],
    ),
    "client-ip-spread": (
        lambda watched: world(watched=watched, affinity="ClientIP"),
        [],
        [("client-ip-spread", LIKELY)],
    ),
    "wrong-source": (
        lambda watched: world((4, stray), (6, answered), watched=watched),
        [("wrong-source", LIKELY)],
        [("wrong-source", LIKELY)],
    ),
    "mtu": (
        lambda watched: world(watched=watched, sizes=(288, 1400), up=lambda w, _s, seq: seq % 2 == 1 and w.now > 4 * S),
        [("mtu", LIKELY)],
        [("mtu", LIKELY)],
    ),
    "mtu, fragments elsewhere": (
        lambda watched: world(
            watched=watched,
            sizes=(288, 1400),
            way=lambda w, s, seq: (
                w.flows[s] if seq % 2 else w.flows[s]._replace(pod="p9", node="n9", instance=b"p9      ")
            ),
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
        lambda watched: world(watched=watched, sizes=(3000,), up=lambda _w, s, seq: (seq + s) % 2 == 0),
        [("mtu", POSSIBLE)],
        [("mtu", POSSIBLE)],
    ),
    "first-packet-race": (
        lambda watched: world(watched=watched, up=lambda _w, session, seq: seq == 0 and session % 2 == 0),
        [("first-packet-race", LIKELY)],
        [("first-packet-race", LIKELY)],
    ),
    "vip-failover": (
        lambda watched: world((4, silent()), (5.5, vip_moves(2)), watched=watched, nodes=1),
        [("vip-failover", LIKELY)],
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
        lambda watched: world((4, lambda w: w.gone_pods.add("p1")), (4.5, restarts), watched=watched),
        [("pod-restart", LIKELY)],
        [("pod-restart", LIKELY)],
    ),
    "client-nat": (
        lambda watched: world((4, nat_moves), watched=watched, local=True),
        [("client-nat", POSSIBLE), ("vip-failover", POSSIBLE)],
        [("client-nat", LIKELY)],
    ),
    "packet-spray": (
        lambda watched: world(watched=watched, way=sprayed),
        [("packet-spray", LIKELY)],
        [("packet-spray", LIKELY)],
    ),
    "packet-spray of few": (
        lambda watched: world(watched=watched, way=lambda w, s, q: sprayed(w, s, q) if s < 2 else w.flows[s]),
        [("packet-spray", POSSIBLE)],
        [("packet-spray", POSSIBLE)],
    ),
    "self-inflicted": (
        lambda watched: world((4, lambda w: w.mute.update((1, 2))), (5, answered), (6.5, drops), watched=watched),
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


def is_sound(diagnosis: Diagnosis) -> None:
    assert diagnosis.evidence
    assert all(diagnosis.evidence)
    assert bool(diagnosis.missing) == (diagnosis.certainty is not LIKELY)
    if diagnosis.certainty is CANNOT_TELL:
        assert (diagnosis.name, diagnosis.remedy, diagnosis.references) == ("", "", ())
    else:
        entry = CATALOGUE[diagnosis.name]
        assert (diagnosis.remedy, diagnosis.references) == (entry.remedy, entry.references)
