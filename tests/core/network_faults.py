"""What befalls the world of `diagnosing`: each fault as an action at a time."""

from __future__ import annotations

from diagnosing import Action, S, World

from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Certainty, ClientFaultKind, ClusterAction, ClusterSubject, Diagnosis
from affinity_tester.lab.model import SessionLimit
from affinity_tester.lab.packet_log import Direction


def world(*actions: tuple[float, Action], watched: bool, **kw: object) -> World:
    """Return a run with these actions at these seconds."""
    return World(watched=watched, actions=list(actions), **kw)  # type: ignore[arg-type]


# --- silences ------------------------------------------------------------------------------------------------------------


def silent(*sessions: int) -> Action:
    """Block these flows; without any, let nothing pass."""
    return lambda w: w.block(*sessions) if sessions else w.drop(Direction.UP)


def replies_lost(*sessions: int) -> Action:
    return lambda w: w.drop(Direction.DOWN, *sessions)


def answered(w: World) -> None:
    w.heal()


def balancer_made_anew(w: World) -> None:
    w.drop(Direction.UP)
    w.tell(ClusterSubject.SERVICE, "media/turn", ClusterAction.FIELDS_CHANGED, fields=("annotations",))


def pause(w: World) -> None:
    w.paused.update((1, 2, 3))


def resume(w: World) -> None:
    w.paused.clear()
    w.move((1, 2, 3))


# --- flow tables ---------------------------------------------------------------------------------------------------------


def wipe(w: World) -> None:
    w.network.flush_flows("n1")
    w.tell(ClusterSubject.PROXY, "kube-proxy-x7k2p", ClusterAction.RESTARTED, node="n1")


def wipe_all(w: World) -> None:
    for node in w.network.nodes:
        w.network.flush_flows(node)


def new_ports(*sessions: int) -> Action:
    return lambda w: w.rewrite(*sessions)


def every_time_anew(w: World) -> None:
    """Nodes forget a flow before its next packet."""
    w.network.idle_ns = 0


def one_takes_anothers_address(w: World) -> None:
    if w.network.entry_of(w.flow(4)) is not None:
        w.network.set_source(w.flow(1), w.source(4), w.now)
    w.drop(Direction.DOWN, 4)


def on_one_pod(w: World) -> None:
    w.move(range(w.sessions), pod="p1")


# --- nodes ---------------------------------------------------------------------------------------------------------------


def rehash(w: World) -> None:
    w.tell(ClusterSubject.NODE, "n4", ClusterAction.READY)
    w.move(range(5), node=4)


def rehash_local(w: World) -> None:
    for session in range(5):
        w.pin(session, w.node_of(session) % 3 + 1)


def node_dies(w: World) -> None:
    w.network.ingress.dead_nodes.add("n1")
    w.tell(ClusterSubject.NODE, "n1", ClusterAction.NOT_READY)


def node_drains(w: World) -> None:
    for session in range(w.sessions):
        if w.network.ingress.node_of(w.flow(session)) == "n1":
            w.pin(session, 2)


def vip_moves(node: int) -> Action:
    """Give the service's address to a node, which answers from then on."""

    def move(w: World) -> None:
        w.heal()
        w.network.ingress.vip = w.node(node)

    return move


def spray(*sessions: int) -> Action:
    """Send each packet of these sessions to any node."""

    def begin(w: World) -> None:
        for session in sessions or range(w.sessions):
            w.network.ingress.pinned.pop(w.flow(session), None)
        w.network.ingress.spray = True

    return begin


def no_spray(w: World) -> None:
    w.network.ingress.spray = False
    for session in range(w.sessions):
        w.pin(session, w.node_of(session))


def proxy_replaced(old: int, new: int) -> Action:
    """A proxy's pod is replaced by another one, which gets its sessions."""

    def replace(w: World) -> None:
        w.node(new)
        for session in range(w.sessions):
            if w.network.ingress.node_of(w.flow(session)) == f"n{old}":
                w.pin(session, new)
        w.look_at_proxies()

    return replace


def proxy_leaves(number: int) -> Action:
    """A proxy's pod goes, and its sessions to the others."""

    def leave(w: World) -> None:
        others = [n for n in range(1, w.nodes + 1) if n != number]
        for session in range(w.sessions):
            if w.network.ingress.node_of(w.flow(session)) == f"n{number}":
                w.pin(session, others[session % len(others)])

    return leave


def sessions_end(packets: int = 0, seconds: float = 0) -> Action:
    """The proxies end their sessions after so many packets, or so long."""

    def begin(w: World) -> None:
        w.network.limit = SessionLimit(packets, round(seconds * S))

    return begin


def passes_nothing(w: World) -> None:
    """Drop all that comes to a node, fresh flows too."""
    w.network.ingress.powered_off.add("n1")


def way_cut(w: World) -> None:
    """Cut the way from one ingress node to the pods of another."""
    w.network.dead_cells.add(("n1", "n2"))


def ports_dead(w: World) -> None:
    """Lose all that is hashed to one member of a bundle."""
    w.network.dead_below = 0.2


# --- pods ----------------------------------------------------------------------------------------------------------------


def hung(w: World) -> None:
    """A pod answers nobody, and its endpoint stays Ready."""
    w.network.dead_pods.add("p1")


def entries_stay(w: World) -> None:
    w.network.dead_pods.add("p1")
    w.network.remove_pod("p1", flush=False)
    w.look()


def terminates(w: World) -> None:
    w.network.dead_pods.add("p1")
    w.network.set_conditions("p1", ready=False, serving=True, terminating=True)
    w.look()


def removed(w: World) -> None:
    w.network.remove_pod("p1")
    w.look()


def flushed_early(w: World) -> None:
    w.network.set_conditions("p1", ready=False, serving=True, terminating=True)
    w.network.flush_pod("p1")
    w.look()


def restarts(w: World) -> None:
    w.network.dead_pods.clear()
    if "p1" in w.network.pods:
        w.network.restart_pod("p1", b"reborn!!")


# --- the client ----------------------------------------------------------------------------------------------------------


def nat_moves(w: World) -> None:
    w.rewrite(*range(w.sessions), ip="198.51.100.1")


def socket_changes(w: World) -> None:
    nat_moves(w)
    w.fault(1, ClientFaultKind.LOCAL_ADDRESS, "this machine's own address changed: 192.168.0.9 -> 198.51.100.1")


def stray(w: World) -> None:
    w.astray(1)
    w.astray(2)


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
