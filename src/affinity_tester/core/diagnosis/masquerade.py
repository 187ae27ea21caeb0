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

    All changes of a session count: two wipes lead a flow from one address of its node to the other and back. Where the
    nodes of its addresses are known, they decide. Else: a rehash gives no flow a new port at its old IP, so where some have
    one (`stayed`, or one that went there and back), their node's table was wiped. And a rehash does not pick the sessions
    of one pod: where just those moved, the pod may be the cause, as far as is known.
    """
    known = view.node_names
    moves = [move for move in to_other_ip if not _met_its_old_entry(move)]
    sure = tuple(
        m for m in moves if addresses_of(m) <= known.keys() and len({known[ip] for ip in addresses_of(m)}) == 1
    )
    rest = tuple(m for m in to_other_ip if m not in sure)

    local = tuple(m for m in rest if m in moves and Kind.NODE in m.kinds and may_be_one_node(view, addresses_of(m)))
    pairs = {ips for m in local if len(ips := addresses_of(m)) > 1}
    partners = Counter(ip for pair in pairs for ip in pair)
    local = tuple(m for m in local if all(partners[ip] <= 1 for ip in addresses_of(m)))
    if len(local) < len(rest):
        return sure
    if not view.history.watched and len(local + stayed) >= MIN_PATTERN and left_one_pod(view, local + stayed):
        return sure + local
    anew = (
        *(move for move in (*stayed, *sure) if Kind.REFLEXIVE_PORT in move.kinds),
        *filter(_drew_another_port, local),
    )
    wiped = {ip for move in anew for ip in addresses_of(move)}
    return sure + tuple(move for move in local if wiped & addresses_of(move))


def _met_its_old_entry(move: SessionChange) -> bool:
    """True if a session came back to an address and port that it had before: no table forgot it, another way led elsewhere.

    A wiped flow draws its port anew; a masquerade that keeps ports shows the same port at every address, and nothing here.
    """
    seen = [who.reflexive for who in (move.old, *(change.after.identity for change in move.changes))]
    again = any(address is not None and address in seen[:number] for number, address in enumerate(seen))
    return again and len({address.port for address in seen if address is not None}) > 1


def _drew_another_port(move: SessionChange) -> bool:
    """True if a session had two ports at one IP, before, between or after its changes: the flow's entry there was gone."""
    seen = {who.reflexive for who in (move.old, *(change.after.identity for change in move.changes))} - {None}
    return len(seen) > len({address.ip for address in seen if address is not None})


def addresses_of(move: SessionChange) -> frozenset[str]:
    """Return all reflexive IPs that a session had in its changes."""
    seen = (who.reflexive for c in move.changes for who in (c.before.identity, c.after.identity))
    return frozenset(address.ip for address in seen if address is not None)
