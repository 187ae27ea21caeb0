"""A node masquerades from two addresses: its own, and towards the pods that it runs that of their bridge (`cni0`).

So a flow that keeps its ingress node shows another reflexive IP when it moves from a pod of that node to one elsewhere,
or back. Which two addresses may be one node's shows in the pods behind them: all behind the bridge's address run on the
node itself, and none of those is behind the other address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set

from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.identity import Kind
from affinity_tester.core.incidents import BURST

_ADDRESSES_PER_NODE = 2
"""The addresses that one node masquerades from."""

MIN_PATTERN = 3
"""Fewer sessions than this show no pattern."""


def may_be_one_node(view: IncidentView, ips: Set[str]) -> bool:
    """True if these reflexive IPs may be those of one node."""
    if len(ips) != _ADDRESSES_PER_NODE:
        return len(ips) == 1
    names = view.history.node_names
    if names is not None and len(ips & names.keys()) != 1:
        return False  # a bridge's address is not among the nodes' addresses
    behind = view.history.nodes_behind(ips)
    ours, theirs = (behind[ip] for ip in sorted(ips))
    if not ours or not theirs or ours & theirs:
        return False
    local = {names[ip] for ip in ips if ip in names} if names is not None else None
    return any(len(nodes) == 1 and local in (None, nodes) for nodes in (ours, theirs))


def left_one_pod(view: IncidentView, moves: Iterable[SessionChange]) -> bool:
    """True if all these left one pod, which serves nobody since while others go on: the pod may be the cause."""
    moves = [move for move in moves if move.longest_loss < BURST]
    left = {move.old.pod for move in moves}
    if len(left) != 1 or None in left or len({who.pod for who in view.identities.values()}) == 1:
        return False
    return all(who.pod not in left for who in view.history.identities_at(view.to_ns).values())


def without_new_ingress(
    view: IncidentView, to_other_ip: tuple[SessionChange, ...], stayed: tuple[SessionChange, ...]
) -> tuple[SessionChange, ...]:
    """Return the changes of IP that need no other ingress node: they are between the two addresses of one node.

    A rehash gives no flow a new port at its old IP: where some have one (`stayed`), their node's table was wiped. And a
    rehash does not pick the sessions of one pod: where just those moved, the pod may be the cause, as far as is known.
    """
    local = tuple(move for move in to_other_ip if Kind.NODE in move.kinds and may_be_one_node(view, _ips(move)))
    pairs = {_ips(move) for move in local}
    partners = Counter(ip for pair in pairs for ip in pair)
    local = tuple(move for move in local if all(partners[ip] == 1 for ip in _ips(move)))
    if len(local) < len(to_other_ip):
        return ()
    if not view.history.watched and len(local + stayed) >= MIN_PATTERN and left_one_pod(view, local + stayed):
        return local
    wiped = {ip for move in stayed if Kind.REFLEXIVE_PORT in move.kinds for ip in _ips(move)}
    return tuple(move for move in local if wiped & _ips(move))


def _ips(move: SessionChange) -> frozenset[str]:
    return frozenset(who.reflexive.ip for who in (move.old, move.new) if who.reflexive is not None)
