"""A node masquerades from two addresses: its own, and towards the pods that it runs that of their bridge (`cni0`).

So a flow that keeps its ingress node shows another reflexive IP when it moves from a pod of that node to one elsewhere,
or back. Which two addresses may be one node's is told by what stands behind them: all pods behind the bridge's are the
node's own, and none of those stands behind the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set

from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.identity import Kind
from affinity_tester.core.incidents import BURST

_ADDRESSES = 2
"""That a node masquerades from."""

FEW = 3
"""Fewer sessions than this make no pattern."""


def one_node(view: IncidentView, ips: Set[str]) -> bool:
    """Whether these reflexive IPs may be those of one node."""
    if len(ips) != _ADDRESSES:
        return len(ips) == 1
    names = view.history.node_names
    if names is not None and len(ips & names.keys()) != 1:
        return False  # of the two just one is the node's own
    behind = view.history.nodes_behind(ips)
    ours, theirs = (behind[ip] for ip in sorted(ips))
    if not ours or not theirs or ours & theirs:
        return False
    local = {names[ip] for ip in ips if ip in names} if names is not None else None
    return any(len(nodes) == 1 and local in (None, nodes) for nodes in (ours, theirs))


def left_one_pod(view: IncidentView, moves: Iterable[SessionChange]) -> bool:
    """Whether all these left one pod, which serves nobody since while others go on: then the pod may be the cause."""
    moves = [move for move in moves if move.run < BURST]
    left = {move.old.pod for move in moves}
    if len(left) != 1 or None in left or len({who.pod for who in view.identities.values()}) == 1:
        return False
    return all(who.pod not in left for who in view.history.identities_at(view.to_ns).values())


def within_nodes(
    view: IncidentView, to_other_ip: tuple[SessionChange, ...], stayed: tuple[SessionChange, ...]
) -> tuple[SessionChange, ...]:
    """The moves to another IP that need no other ingress node: they moved between the two addresses of theirs.

    A rehash gives no flow a new port at the IP that it had, so where some did (`stayed`) their node's table was wiped; and
    it does not pick the sessions of one pod, so where just those moved the pod may be the cause, as far as is known.
    """
    local = tuple(move for move in to_other_ip if Kind.NODE in move.kinds and one_node(view, _ips(move)))
    pairs = {_ips(move) for move in local}
    partners = Counter(ip for pair in pairs for ip in pair)
    local = tuple(move for move in local if all(partners[ip] == 1 for ip in _ips(move)))
    if len(local) < len(to_other_ip):
        return ()
    if not view.history.watched and len(local + stayed) >= FEW and left_one_pod(view, local + stayed):
        return local
    wiped = {ip for move in stayed if Kind.REFLEXIVE_PORT in move.kinds for ip in _ips(move)}
    return tuple(move for move in local if wiped & _ips(move))


def _ips(move: SessionChange) -> frozenset[str]:
    return frozenset(who.reflexive.ip for who in (move.old, move.new) if who.reflexive is not None)
