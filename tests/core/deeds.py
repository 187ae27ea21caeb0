"""What befalls the small world of `diagnosing`: each fault as a deed at a time."""

from __future__ import annotations

from collections.abc import Callable

from diagnosing import S, World

from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Certainty, ClientFaultKind, ClusterAction, ClusterSubject, Diagnosis

Deed = Callable[[World], object]


def world(*deeds: tuple[float, Deed], watched: bool, **kw: object) -> World:
    """A run with these deeds at these seconds."""
    return World(watched=watched, deeds=list(deeds), **kw)  # type: ignore[arg-type]


def wipe(w: World) -> None:
    w.move(w.on(ip="10.0.0.1"))
    if w.watched:
        w.tell(ClusterSubject.PROXY, "kube-proxy-x7k2p", ClusterAction.RESTARTED, node="n1")


def new_ports(*sessions: int) -> Deed:
    return lambda w: [w.port(session) for session in sessions]


def silent(*sessions: int) -> Deed:
    return lambda w: w.dead.update(sessions or range(w.sessions))


def answered(w: World) -> None:
    w.dead.clear()
    w.mute.clear()


def rehash(w: World) -> None:
    if w.watched:
        w.tell(ClusterSubject.NODE, "n4", ClusterAction.READY)
    w.move(range(5), node=4)


def rehash_local(w: World) -> None:
    for session in range(5):
        w.flows[session] = w.fresh(session, w.node_of(session) % 3 + 1)


def entries_stay(w: World) -> None:
    w.gone_pods.add("p1")
    if w.watched:
        w.pool("p1")


def hung(w: World) -> None:
    """A pod answers nobody, and its endpoint stays Ready."""
    w.gone_pods.add("p1")


def node_dies(w: World) -> None:
    w.dead.update(w.on(ip="10.0.0.1"))
    if w.watched:
        w.tell(ClusterSubject.NODE, "n1", ClusterAction.NOT_READY)


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
    w.fault(1, ClientFaultKind.LOCAL_ADDRESS, "this machine's own address changed: 192.168.0.9 -> 198.51.100.1")


def balancer_made_anew(w: World) -> None:
    silent()(w)
    if w.watched:
        w.tell(ClusterSubject.SERVICE, "media/turn", ClusterAction.FIELDS_CHANGED, fields=("annotations",))


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
        w.fault(session, ClientFaultKind.SOCKET_DROPS, "8 replies dropped at this machine's full socket buffer")


# --- what every diagnosis must be ----------------------------------------------------------------------------------------


def is_sound(diagnosis: Diagnosis) -> None:
    assert diagnosis.evidence
    assert all(diagnosis.evidence)
    assert bool(diagnosis.missing) == (diagnosis.certainty is not Certainty.LIKELY)
    if diagnosis.certainty is Certainty.CANNOT_TELL:
        assert (diagnosis.name, diagnosis.remedy, diagnosis.references) == ("", "", ())
    else:
        entry = CATALOGUE[diagnosis.name]
        assert (diagnosis.remedy, diagnosis.references) == (entry.remedy, entry.references)
