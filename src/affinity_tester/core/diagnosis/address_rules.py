"""Faults that change a session's pod or its address, but for those of a node's tables (`conntrack_rules`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from affinity_tester.core.diagnosis.alternation import may_alternate
from affinity_tester.core.diagnosis.classify import ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import addresses_of, ingress_nodes, left_one_pod, may_be_one_node
from affinity_tester.core.diagnosis.proxy_rules import goes_to_one_new_place, left_altogether, of_two_places, old_ip
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed, pods
from affinity_tester.core.events import ClusterSubject, Diagnosis
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.incidents import BURST
from affinity_tester.units import NS_PER_S, format_seconds, plural

_GO_ON = "whether the same sessions go on moving: a longer run, or a shorter --interval"
"""What tells packets that are spread from a hash that changed twice, where each session was seen to change once or twice."""

_STAYED_NS = NS_PER_S
"""A pod that is ready this long after its flows left it was not being removed just then."""

_MIN_REPEATS = 3
"""So many changes of a session, each after a pause, are no coincidence where nearly every pause has one."""


def spray(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `packet-spray`: the pod changes from packet to packet for most sessions."""
    moves = groups.sprayed
    few = not moves and may_alternate(view)
    if few:
        moves = groups.to_other_ip
    if not moves or groups.by_size:
        return None

    changes = [change for move in moves for change in move.changes]
    probes = sum(move.changes[-1].after.seq - move.changes[0].before.seq for move in moves)

    evidence = [
        f"{view.share(m.session for m in moves)}; {plural(len(changes), 'change')} in {plural(probes, 'probe')}, "
        f"one in {probes / len(changes):.1f}",
        f"answered in turn by {plural(len({c.after.identity.pod for c in changes}), 'pod')} "
        f"as {plural(len({c.after.identity.reflexive for c in changes}), 'reflexive address')}",
    ]
    twice = sum(view.during(event.at_ns) for event in view.history.duplicates)
    if twice:
        evidence.append(f"{plural(twice, 'probe')} answered twice, and differently")
    most = 2 * max(len(moves), groups.spread) >= len(view.identities)
    missing = "" if most else "why most sessions keep their pod: compare their source ports and paths"
    return diagnosis("packet-spray", evidence, _GO_ON if few else missing)


def sent_by_size(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `mtu`: which pod answers depends on the probe's size alone."""
    if not groups.by_size:
        return None

    moves = groups.sprayed
    sizes = view.history.sizes
    at: dict[int, set[str]] = {}
    for move in moves:
        for change in move.changes:
            for probe in (change.before, change.after):
                at.setdefault(sizes[probe.seq % len(sizes)], set()).add(probe.identity.pod or "unnamed")
    return diagnosis(
        "mtu",
        [
            f"{view.share(m.session for m in moves)}; who answers a session depends on its probe's size alone",
            *(f"probes of {size:,} bytes were answered by {pods(names)}" for size, names in sorted(at.items())),
        ],
    )


def pod_restart(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `pod-restart`: the pod has the same name and a new instance."""
    moves = groups.restarted
    if not moves:
        return None

    names = {move.new.pod for move in moves if move.new.pod is not None}
    evidence = [
        f"{view.share(m.session for m in moves)} answered by the same {pods(names)} with a new INSTANCE-ID",
        f"{view.loss_text(sum(m.lost for m in moves))} meanwhile",
        *view.cluster_events_near(ClusterSubject.POD),
    ]

    # A restarted container never has its old instance again; two servers under one name alternate.
    instances = Counter((move.old.instance, move.new.instance) for move in moves)
    back = any((new, old) in instances for old, new in instances) or any(move.shares_name for move in moves)
    missing = "one new instance for all: two servers seem to share the pod's name" if back else ""
    return diagnosis("pod-restart", evidence, missing)


def idle_expiry(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `idle-expiry`: sessions change only at the first probe after a pause."""
    moves = groups.after_pause
    if not moves:
        return None

    pauses = sorted(move.pause_ns for move in moves)
    others = len(view.identities) - len(view.moves)

    evidence = [
        f"{view.share(m.session for m in moves)}, each at the first probe after a silence of "
        f"{format_seconds(pauses[0])} or more; {view.loss_text(sum(m.lost for m in moves))}",
    ]
    interval_ns = view.history.interval_ns

    # Where the interval itself is the pause, no session sends without one: what counts is how often one ends in a change.
    if all(move.pause_ns < 2 * interval_ns for move in moves):
        rates = [view.history.change_rate(move.session) for move in moves]
        changes, probes = sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)
        evidence.append(
            f"probes are {format_seconds(interval_ns)} apart, and since its first change {changes:,} of "
            f"{plural(probes, 'probe')} showed one"
        )
        if 2 * changes >= probes and max(rate[0] for rate in rates) >= _MIN_REPEATS:
            return diagnosis("idle-expiry", evidence)
        return diagnosis(
            "idle-expiry",
            evidence,
            "a change after each such silence, and none without it: a shorter --interval beside it",
        )

    evidence.append(
        f"probes are {format_seconds(interval_ns)} apart otherwise, and {plural(others, 'other session')} did not change"
    )
    sure = others > 0 or pauses[0] > view.history.affinity_window_ns
    return diagnosis(
        "idle-expiry", evidence, "" if sure else "a session that went on sending meanwhile and did not move"
    )


def client_nat(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `client-nat`: all sessions show a new address that is no node's, and keep their pods."""
    moves = groups.to_other_ip
    if not _looks_like_client_nat(view, moves):
        return None

    new = _ips(moves, new=True)
    served = {move.old.pod for move in moves}
    kept = sum(Kind.POD not in move.kinds for move in moves)
    evidence = [
        f"{view.share(m.session for m in moves)} changed reflexive IP {listed(_ips(moves))} -> {listed(new)} at once",
        f"{plural(kept, 'session')} kept their pod, {plural(len(served), 'pod')} in all; "
        f"{view.loss_text(sum(m.lost for m in moves))}",
    ]
    nodes = view.history.node_names
    if nodes is None:
        return diagnosis("client-nat", evidence, f"whether {listed(new)} is a node's: {NO_CLUSTER}")
    return diagnosis("client-nat", [*evidence, f"{listed(new)} belongs to none of {plural(len(nodes), 'node')}"])


def vip_failover(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `vip-failover`: all sessions lose probes together, then come in through one new node, or to and fro."""
    switch = _ingress_switch(view, groups.to_other_ip, _ip)
    if switch is None and view.source_ip_preserved:
        switch = _ingress_switch(view, groups.to_other_pod, _node)
    if switch is None or (
        view.history.node_names is not None and _ips(switch.moves) and not _involves_node(view, switch)
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
    if _looks_like_client_nat(view, moves):
        return diagnosis("vip-failover", evidence, f"whether {listed(switch.new)} is a node's: {NO_CLUSTER}")

    # A second node that they had been at before is a flip-flop, and no client NAT.
    back = all(
        view.history.had_been_at(move.session, switch.key, switch.new, move.changes[0].before.sent_ns) for move in moves
    )
    if back and not flips:
        evidence.append(f"they had been at {_places_text(view, switch.new)} before: it goes to and fro")
    sure = flips or back or view.nearly_all(losers)
    return diagnosis("vip-failover", evidence, "" if sure else "loss of all sessions at the same time")


def node_rehash(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `node-rehash`: the reflexive IP is another node's for some of the sessions."""
    moves = groups.to_other_ip or of_two_places(view, groups)
    moves = tuple(move for move in moves if move.longest_loss < BURST)
    if not moves or _looks_like_client_nat(view, moves):
        return None
    known = ingress_nodes(view)
    if view.history.node_names is not None and not any(ip in known for ip in _ips(moves) | _ips(moves, new=True)):
        return None

    left = left_altogether(view, moves) if view.history.node_names is None else set()
    all_left = bool(left) and all(old_ip(move) in left for move in moves) and not view.nearly_all(len(moves))
    if all_left and goes_to_one_new_place(view, moves):
        return None  # a proxy's pod was replaced: no hash of nodes picks all sessions of one for one new place

    pods_moved = sum(Kind.POD in move.kinds for move in moves)
    new = [view.place(ip) for ip in _ips(moves, new=True)]

    evidence = [
        f"{view.share(m.session for m in moves)} {has(len(moves))} a new reflexive IP, {listed(new)}; "
        f"{view.cohort_text(m.session for m in moves)}",
        f"{pods_moved} of them also {has(pods_moved)} a new pod; {view.loss_text(sum(m.lost for m in moves))}",
        *view.cluster_events_near(ClusterSubject.NODE),
    ]
    if _ingress_switch(view, moves, _ip) is not None:
        if view.nearly_all(sum(move.lost > 0 for move in moves)) or any(len(move.changes) > 1 for move in moves):
            return None
        return diagnosis("node-rehash", evidence, "a session that kept its reflexive IP, or a second ingress node")
    if left and not view.nearly_all(len(moves)):
        whose = f"whether {listed(left)} {'is a node' if len(left) == 1 else 'are nodes'}, and no proxy's pod"
        return diagnosis("node-rehash", evidence, f"{whose}: {NO_CLUSTER}")
    if not view.history.watched and left_one_pod(view, groups.to_other_pod + moves):
        return diagnosis(
            "node-rehash", evidence, f"whether the one pod that they all left is still there: {NO_CLUSTER}"
        )
    return diagnosis("node-rehash", evidence, _GO_ON if may_alternate(view) else "")


def local_rehash(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `node-rehash` under policy Local: sessions move to pods of another node, and keep their addresses."""
    moves = tuple(move for move in groups.to_other_pod if move.longest_loss < BURST)
    if not looks_local(view, moves) or _ingress_switch(view, moves, _node) is not None:
        return None

    nodes = {move.new.node for move in moves if move.new.node is not None}
    evidence = [
        f"{view.share(m.session for m in moves)} moved to pods of another node ({listed(nodes)}); their reflexive "
        f"addresses stay",
        view.loss_text(sum(m.lost for m in moves)),
        *view.cluster_events_near(ClusterSubject.NODE),
    ]
    if view.source_ip_preserved:
        return diagnosis("node-rehash", [*evidence, "pods see the client's own address (policy Local)"])
    return diagnosis("node-rehash", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")


def rehash_off_serving(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `node-rehash` beside a change of the pool: sessions left pods that went on serving for another ingress.

    What happened to the pool explains them (a node without a ready pod leaves the balancer, which hashes anew), and a
    balancer that remembers flows had moved none of them.
    """
    if view.source_ip_preserved:
        moves = groups.to_other_pod
        moves = tuple(move for move in moves if looks_local(view, [move]))
    else:
        known = ingress_nodes(view)
        moves = tuple(move for move in groups.to_other_ip if addresses_of(move) <= known.keys())
    moves = tuple(move for move in moves if move.longest_loss < BURST and _left_ready_pod(view, move))
    if not moves:
        return None

    left, reached = ({place for who in ends if (place := view.ingress(who)) is not None} for ends in _ends(moves))
    return diagnosis(
        "node-rehash",
        [
            f"{view.share(m.session for m in moves)} left {pods({p for m in moves if (p := m.old.pod) is not None})}, "
            f"ready and serving all the time, for another ingress ({listed(left)} -> {listed(reached)})",
            f"the pool had changed, and none of these pods; {view.loss_text(sum(m.lost for m in moves))}",
            *view.cluster_events_near(ClusterSubject.NODE),
        ],
    )


def _ends(moves: tuple[SessionChange, ...]) -> tuple[list[Identity], list[Identity]]:
    return [move.old for move in moves], [move.new for move in moves]


def _left_ready_pod(view: IncidentView, move: SessionChange) -> bool:
    """True if a session's old pod was ready and serving then, and for a second after."""
    change = move.changes[0]
    pod = change.before.identity.pod
    known = () if pod is None else view.history.endpoints(pod, change.before.sent_ns, change.seen_ns + _STAYED_NS)
    return bool(known) and all(endpoint is not None and endpoint.ready and endpoint.serving for endpoint in known)


def looks_local(view: IncidentView, moves: Iterable[SessionChange]) -> bool:
    """True if all of these moved to another node and kept their addresses, and policy Local is not excluded."""
    moves = tuple(moves)
    return (
        bool(moves)
        and view.source_ip_preserved is not False
        and all(Kind.NODE in move.kinds and Kind.REFLEXIVE_PORT not in move.kinds for move in moves)
    )


@dataclass(frozen=True, slots=True)
class _IngressSwitch:
    """All sessions went from one ingress node to another one; a node has at most two reflexive IPs."""

    moves: tuple[SessionChange, ...]
    key: Callable[[Identity], str | None]
    """What an ingress is known by: the reflexive IP, or under policy Local the pod's node."""
    old: frozenset[str]
    new: frozenset[str]


def _ingress_switch(
    view: IncidentView, moves: tuple[SessionChange, ...], key: Callable[[Identity], str | None]
) -> _IngressSwitch | None:
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
    return _IngressSwitch(moves, key, old, new)


def _is_one_place(view: IncidentView, places: Set[str], key: Callable[[Identity], str | None]) -> bool:
    """True if these may be one node's."""
    return may_be_one_node(view, places) if key is _ip else len(places) == 1


def _places_text(view: IncidentView, places: Set[str]) -> str:
    return listed(view.place(place) for place in places)


def _involves_node(view: IncidentView, switch: _IngressSwitch) -> bool:
    """True if the old or the new place is a node, by name or address."""
    names = view.history.node_names or {}
    return any(place in names or place in names.values() for place in switch.old | switch.new)


def _looks_like_client_nat(view: IncidentView, moves: tuple[SessionChange, ...]) -> bool:
    """True if all went together to one address that is not known as a node's, and kept their pods."""
    switch = _ingress_switch(view, moves, _ip)
    if switch is None or len(switch.new) > 1 or any(Kind.POD in move.kinds or move.old.pod is None for move in moves):
        return False
    return not any(view.is_node(ip) for ip in switch.old | switch.new)


def _ip(who: Identity) -> str | None:
    return who.reflexive.ip if who.reflexive is not None else None


def _node(who: Identity) -> str | None:
    return who.node


def _ips(moves: tuple[SessionChange, ...], *, new: bool = False) -> set[str]:
    """Return the reflexive IPs before their changes, or after them."""
    seen = (_ip(move.new if new else move.old) for move in moves)
    return {ip for ip in seen if ip is not None}
