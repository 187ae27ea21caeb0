"""All sessions come in through one new place: `vip-failover`, and how it differs from the client's own NAT."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from affinity_tester.core.diagnosis.classify import ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import may_be_one_node
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, listed
from affinity_tester.core.events import Diagnosis
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.client_nat import MIN_SESSIONS
from affinity_tester.units import plural


def vip_failover(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `vip-failover`: all sessions lose probes together, then come in through one new node, or to and fro."""
    switch = ingress_switch(view, groups.to_other_ip, ip_of)
    if switch is None and view.source_ip_preserved:
        switch = ingress_switch(view, groups.to_other_pod, node_of)
    if switch is None or (
        view.history.node_names is not None and ips_of(switch.moves) and not _involves_node(view, switch)
    ):
        return None

    moves = switch.moves
    losers = sum(move.lost > 0 for move in moves)

    evidence = [
        f"{view.share(m.session for m in moves)} moved together, "
        f"{_places_text(view, switch.old)} -> {_places_text(view, switch.new)}",
        f"{losers} of {len(moves)} lost probes meanwhile, {plural(sum(m.lost for m in moves), 'probe')} in all",
    ]
    flips = min(len(move.changes) for move in moves) - 1
    if flips:
        evidence.append(f"they moved to and fro, each at least {plural(flips + 1, 'time')}")
    if looks_like_client_nat(view, moves):
        return diagnosis("vip-failover", evidence, f"whether {listed(switch.new)} is a node's: {NO_CLUSTER}")

    # A second node that they had been at before is a flip-flop, and no client NAT.
    back = all(
        view.history.had_been_at(move.session, switch.key, switch.new, move.changes[0].before.sent_ns) for move in moves
    )
    if back and not flips:
        evidence.append(f"they had been at {_places_text(view, switch.new)} before: it goes to and fro")
    sure = flips or back or view.nearly_all(losers)
    return diagnosis("vip-failover", evidence, "" if sure else "loss of all sessions at the same time")


@dataclass(frozen=True, slots=True)
class IngressSwitch:
    """All sessions went from one ingress node to another one; a node has at most two reflexive IPs."""

    moves: tuple[SessionChange, ...]
    key: Callable[[Identity], str | None]
    """What an ingress is known by: the reflexive IP, or under policy Local the pod's node."""
    old: frozenset[str]
    new: frozenset[str]


def ingress_switch(
    view: IncidentView, moves: tuple[SessionChange, ...], key: Callable[[Identity], str | None]
) -> IngressSwitch | None:
    """Return the switch of all sessions together between two nodes, once or to and fro; None where there is none."""
    if not view.nearly_all(len(moves)):
        return None

    places = {key(who) for m in moves for c in m.changes for who in (c.before.identity, c.after.identity)}
    starts = {key(move.old) for move in moves}
    firsts = [move.changes[0] for move in moves]
    overlap = max(c.before.sent_ns for c in firsts) <= min(c.after.sent_ns for c in firsts)
    spread_ns = max(c.after.sent_ns for c in firsts) - min(c.before.sent_ns for c in firsts)
    together = overlap or spread_ns <= 3 * view.history.interval_ns

    old = frozenset(place for place in starts if place is not None)
    new = frozenset(place for place in places - starts if place is not None)
    if None in places or not together or not _is_one_place(view, old, key) or not _is_one_place(view, new, key):
        return None
    return IngressSwitch(moves, key, old, new)


def _is_one_place(view: IncidentView, places: Set[str], key: Callable[[Identity], str | None]) -> bool:
    """True if these may be one node's."""
    return may_be_one_node(view, places) if key is ip_of else len(places) == 1


def _places_text(view: IncidentView, places: Set[str]) -> str:
    return listed(view.place(place) for place in places)


def _involves_node(view: IncidentView, switch: IngressSwitch) -> bool:
    """True if the old or the new place is a node, by name or address."""
    names = view.history.node_names or {}
    return any(place in names or place in names.values() for place in switch.old | switch.new)


def looks_like_client_nat(view: IncidentView, moves: tuple[SessionChange, ...]) -> bool:
    """True if all went together to one address that is not known as a node's, whichever pods the new flows were given.

    Of enough sessions it is judged whether the NAT is excluded, and these are no case of it then.
    """
    if len(moves) >= MIN_SESSIONS and not view.has_unjudged:
        return False
    switch = ingress_switch(view, moves, ip_of)
    if switch is None or len(switch.new) > 1:
        return False
    return not any(view.is_node(ip) for ip in switch.old | switch.new)


def ip_of(who: Identity) -> str | None:
    """Return the reflexive IP; None: not known."""
    return who.reflexive.ip if who.reflexive is not None else None


def node_of(who: Identity) -> str | None:
    """Return the pod's node; None: not known."""
    return who.node


def ips_of(moves: tuple[SessionChange, ...], *, new: bool = False) -> set[str]:
    """Return the reflexive IPs before their changes, or after them."""
    seen = (ip_of(move.new if new else move.old) for move in moves)
    return {ip for ip in seen if ip is not None}
