"""`client-nat`: the client's own NAT gave its flows new addresses, or may have (core.judging.client_nat).

Whether it is a live alternative is judged already; the rules here say what was seen, and what else shows the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from affinity_tester.core.diagnosis.address_rules import node_rehash
from affinity_tester.core.diagnosis.classify import ChangeGroups, classify
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed
from affinity_tester.core.diagnosis.vip_rules import ips_of, looks_like_client_nat, vip_failover
from affinity_tester.core.events import Certainty, Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.core.judging.reasons import (
    AddressBeforeCluster,
    ClientNatPossible,
    Reason,
    ReferenceMoved,
    ReferenceStayed,
)
from affinity_tester.core.judging.reference import was_silent
from affinity_tester.core.open_incident import Member
from affinity_tester.units import format_seconds, plural

ASK_REFERENCE = "a second STUN server, asked from the same sockets (--reference HOST)"
"""What tells the client's NAT from the cluster."""

_ASK_AGAIN = "an answer of the reference before and after it"

_CLIENT_SIDE = (ClientNatPossible, AddressBeforeCluster, ReferenceMoved)


def client_side(members: Iterable[Member]) -> dict[str, type[Reason]]:
    """Return the sessions whose changes the client's NAT made or may have made, each with the kind of its reason."""
    found: dict[str, type[Reason]] = {}
    for member in members:
        for reason in member.reasons:
            if isinstance(reason, _CLIENT_SIDE):
                found[member.session] = type(reason)
    return found


def moved_before_cluster(view: IncidentView, reasons: Iterable[type[Reason]]) -> list[Diagnosis]:
    """Diagnose `client-nat` where it was judged that the client's NAT moved the sessions' addresses, or may have.

    Where nothing excludes the cluster, its fault is named too, and is not likely: `vip-failover` where all went to one node,
    `node-rehash` where all went to another one, which no wiped table does; else `flow-wipe`.
    """
    kinds = set(reasons)
    evidence = [_moved_text(view), *_pods_text(view)]
    if ReferenceMoved in kinds:
        return [diagnosis("client-nat", [*evidence, _reference_text(view)])]

    places = ips_of(view.moves) | ips_of(view.moves, new=True)
    if AddressBeforeCluster in kinds:
        evidence.append("under policy Local no proxy changes the address that a flow comes from")
        nodes = view.history.node_names
        if nodes is None:
            return [diagnosis("client-nat", evidence, f"whether {listed(places)} is a node's: {NO_CLUSTER}")]
        return [
            diagnosis("client-nat", [*evidence, f"none of {listed(places)} belongs to {plural(len(nodes), 'node')}"])
        ]

    missing = ASK_REFERENCE if view.history.reference is None else _ASK_AGAIN
    evidence.append("no session from the same address kept its own")
    groups = classify(view)
    rehashed = node_rehash(view, groups) if view.nearly_all(len(groups.to_other_ip)) else None
    other = vip_failover(view, groups) or rehashed or _perhaps_wiped(view, missing)
    stayed = next((reason for reason in view.reasons if isinstance(reason, ReferenceStayed)), None)
    if stayed is None:
        other = replace(other, certainty=Certainty.POSSIBLE, missing=other.missing or missing)
        return [diagnosis("client-nat", evidence, missing), other]

    kept = f"the reference {view.history.reference} saw {stayed.mapped} throughout, and a flushed NAT would show there"
    other = replace(other, certainty=Certainty.LIKELY, missing="", evidence=(*other.evidence, kept))
    return [other, diagnosis("client-nat", evidence, "a NAT that maps endpoint-independently, seen under policy Local")]


def client_nat(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `client-nat` of a few sessions: all show one new address, which is not known as a node's.

    They are too few for it to be judged; their pods may be others, as a new source is a new flow.
    """
    moves = groups.to_other_ip
    if not looks_like_client_nat(view, moves):
        return None

    evidence = [_moved_text(view), *_pods_text(view)]
    new, nodes = ips_of(moves, new=True), view.history.node_names
    if nodes is None:
        return diagnosis("client-nat", evidence, f"whether {listed(new)} is a node's: {NO_CLUSTER}")
    return diagnosis("client-nat", [*evidence, f"{listed(new)} belongs to none of {plural(len(nodes), 'node')}"])


def own_link(view: IncidentView) -> str | None:
    """Return, as evidence, that the reference was not answered either while sessions were silent; None: it was."""
    spans = view.unanswered_spans
    from_ns, to_ns = min(span.from_ns for span in spans), max(span.to_ns for span in spans)
    if not view.nearly_all(len(spans)) or not was_silent(view.history.references, from_ns, to_ns):
        return None
    return f"the reference {view.history.reference} was not answered either: the client's own link"


def _perhaps_wiped(view: IncidentView, missing: str) -> Diagnosis:
    evidence = [
        _moved_text(view),
        *_pods_text(view),
        "a proxy that drops its flows shows the same, where the client's NAT is not excluded",
    ]
    return diagnosis("flow-wipe", evidence, missing)


def _moved_text(view: IncidentView) -> str:
    moves = view.moves
    old, new = ips_of(moves), ips_of(moves, new=True)
    changes = [change for move in moves for change in move.changes]
    within_ns = max(0, max(c.after.sent_ns for c in changes) - min(c.before.sent_ns for c in changes))
    what = f"reflexive IP {listed(old)} -> {listed(new)}" if old != new else f"a new reflexive port at {listed(new)}"
    to_other = sum(Kind.REFLEXIVE_IP in move.kinds for move in moves)
    if old == new and to_other:
        what = f"a new reflexive address at {listed(new)}, {to_other:,} of them at another one of these"
    return f"{view.share(move.session for move in moves)} {has(len(moves))} {what} within {format_seconds(within_ns)}"


def _pods_text(view: IncidentView) -> list[str]:
    moved = sum(Kind.POD in move.kinds for move in view.moves)
    lost = view.loss_text(sum(move.lost for move in view.moves))
    return [f"{moved} of them {has(moved)} a new pod, as a new source is a new flow; {lost}" if moved else lost]


def _reference_text(view: IncidentView) -> str:
    steps = [(reason.old, reason.new) for reason in view.reasons if isinstance(reason, ReferenceMoved)]
    return f"the reference {view.history.reference} saw {listed({f'{old} -> {new}' for old, new in steps})} then, too"
