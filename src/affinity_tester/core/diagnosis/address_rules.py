"""Faults that change a session's pod or its address, but for those of a node's tables (`conntrack_rules`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from affinity_tester.core.diagnosis.alternation import may_alternate
from affinity_tester.core.diagnosis.classify import ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import addresses_of, left_one_pod
from affinity_tester.core.diagnosis.proxy_rules import goes_to_one_new_place, left_altogether, of_two_places, old_ip
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed, pods
from affinity_tester.core.diagnosis.vip_rules import ingress_switch, ip_of, ips_of, looks_like_client_nat, node_of
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


def node_rehash(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `node-rehash`: the reflexive IP is another node's for some of the sessions."""
    moves = groups.to_other_ip or of_two_places(view, groups)
    moves = tuple(move for move in moves if move.longest_loss < BURST)
    if not moves or looks_like_client_nat(view, moves):
        return None
    known = view.node_names
    if view.history.node_names is not None and not any(ip in known for ip in ips_of(moves) | ips_of(moves, new=True)):
        return None

    left = left_altogether(view, moves) if view.history.node_names is None else set()
    all_left = bool(left) and all(old_ip(move) in left for move in moves) and not view.nearly_all(len(moves))
    if all_left and goes_to_one_new_place(view, moves):
        return None  # a proxy's pod was replaced: no hash of nodes picks all sessions of one for one new place

    pods_moved = sum(Kind.POD in move.kinds for move in moves)
    new = [view.place(ip) for ip in ips_of(moves, new=True)]

    evidence = [
        f"{view.share(m.session for m in moves)} {has(len(moves))} a new reflexive IP, {listed(new)}; "
        f"{view.cohort_text(m.session for m in moves)}",
        f"{pods_moved} of them also {has(pods_moved)} a new pod; {view.loss_text(sum(m.lost for m in moves))}",
        *view.cluster_events_near(ClusterSubject.NODE),
    ]
    if ingress_switch(view, moves, ip_of) is not None:
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
    if not looks_local(view, moves) or ingress_switch(view, moves, node_of) is not None:
        return None

    nodes = {move.new.node for move in moves if move.new.node is not None}
    evidence = [
        f"{view.share(m.session for m in moves)} moved to pods of another node ({listed(nodes)}); their reflexive "
        f"addresses stay",
        view.loss_text(sum(m.lost for m in moves)),
        *view.cluster_events_near(ClusterSubject.NODE),
    ]
    if view.source_ip_preserved:
        whose = "the client's own address" if view.sees_own_ip else "the address that a flow comes from"
        return diagnosis("node-rehash", [*evidence, f"pods see {whose} (policy Local)"])
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
        known = view.node_names
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
