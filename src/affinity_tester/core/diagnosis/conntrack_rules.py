"""Faults of a node's conntrack and NAT tables: flows get another pod or port behind the same reflexive IP."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from affinity_tester.core.diagnosis.address_rules import looks_local
from affinity_tester.core.diagnosis.classify import ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import MIN_PATTERN, addresses_of, left_one_pod
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed, pods, was
from affinity_tester.core.events import Change, ClusterSubject, CrossDelivered, Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.core.incidents import BURST
from affinity_tester.units import NS_PER_S, format_seconds, plural

_MAX_CHANCE = 0.05
"""An accident less probable than this is not believed."""

_STAYED_NS = NS_PER_S
"""A pod that is still in the pool this long after its flows left it was not being removed just then."""

_MIN_LOST_NS = 2 * NS_PER_S
"""Replies that are lost for so long are blocked."""

_MIN_LOST = 10
"""So many replies lost in a row are no chance: where half are lost at random, it happens once in a thousand times."""

_NOTICE_INTERVALS = 3
"""Intervals after which a session has surely seen that another one has its address."""

_ADDRESS = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT})

_TABLE = "whether entries were deleted on the ingress node then: conntrack -E -p udp there"
"""What tells a wiped flow from a rewritten port where nothing that the client sees does."""

_PERIODS = 3
"""So many flow wipes at even distances are periodic."""

_EVEN = 0.1
"""Distances that differ by at most this share are even."""


def cross_delivered(view: IncidentView) -> Diagnosis | None:
    """Diagnose `snat-collision`: replies to one session's probes arrived at another, so entries of the NAT are mixed up."""
    seen = _cross_delivered(view)
    if not seen:
        return None

    ways = sorted({f"{event.session} got what was meant for {event.owner}" for event in seen})
    evidence = [f"{view.share(event.session for event in seen)}: {listed(ways[:3])}", *_more(len(ways) - 3)]
    return diagnosis("snat-collision", evidence)


def _more(count_: int) -> list[str]:
    return [f"and {count_} more pairs of sessions"] if count_ > 0 else []


def flow_wipe(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `flow-wipe`: live flows were dropped, and got a new pod, or under affinity ClientIP only a new port."""
    moved = _without_loss(groups.to_other_pod)
    ports = _without_loss(groups.port_alone)
    if not moved:
        return _wipe_under_affinity(view, ports)
    if looks_local(view, moved) and view.source_ip_preserved:
        return None

    moves = moved + ports
    new_ports = sum(Kind.REFLEXIVE_PORT in move.kinds for move in moves)
    evidence = [
        f"{view.share(m.session for m in moves)}; {view.cohort_text(m.session for m in moves)}",
        f"{len(moved)} {has(len(moved))} a new pod and {new_ports} a new reflexive port; {_ip_text(moves)}; "
        f"{view.loss_text(sum(m.lost for m in moves))}",
        *_waves(moves),
        *_pool_evidence(view),
    ]
    return diagnosis("flow-wipe", evidence, _other_causes(view, moved))


def early_flush(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `early-flush`: flows left a pod that was serving and no longer ready."""
    moves = _without_loss(groups.to_other_pod + groups.to_other_ip)
    left = [move for move in moves if _left_unready_pod(view, move)]
    if left:
        names = {move.old.pod for move in left if move.old.pod is not None}
        evidence = [
            f"{view.share(m.session for m in left)} left {pods(names)}, which "
            f"{was(len(names))} serving and not ready, and stayed so for {format_seconds(_STAYED_NS)} and more",
            view.loss_text(sum(m.lost for m in left)),
        ]
        return diagnosis("early-flush", evidence)

    # Without the pool's word it is only known that the sessions' old pod serves none of them since.
    if view.history.watched or not _pod_vanished(view, groups.to_other_pod) or groups.to_other_ip:
        return None

    moves = _without_loss(groups.to_other_pod)
    evidence = [
        f"{view.share(m.session for m in moves)}, all of them from {pods(_old_pods(moves))}, which serves no session since",
        view.loss_text(sum(m.lost for m in moves)),
    ]
    return diagnosis(
        "early-flush", evidence, f"whether that pod still ran and was not ready, or left the pool: {NO_CLUSTER}"
    )


def port_rewrite(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `port-rewrite`: only the reflexive port changed, and no wiped table accounts for it."""
    mixed_up = {name for event in _cross_delivered(view) for name in (event.session, event.owner)}
    mixed_up.update(move.session for move in _sharing_address(view, groups))
    moves = tuple(move for move in _without_loss(groups.port_alone) if move.session not in mixed_up)
    if not moves or _without_loss(groups.to_other_pod):
        return None

    spared = _unaffected(view, moves)
    evidence = [
        f"{view.share(m.session for m in moves)} {has(len(moves))} a new reflexive port, the same IP and pod: "
        f"{listed(f'{m.old.reflexive} -> {m.new.reflexive}' for m in moves)}",
        view.loss_text(sum(m.lost for m in moves)),
    ]
    if view.sees_own_ip:
        return diagnosis(
            "port-rewrite", [*evidence, "pods see the client's own IP, so no masquerade drew the port anew"]
        )
    if spared:
        return diagnosis(
            "port-rewrite", [*evidence, f"{plural(spared, 'other session')} with the same old IP kept theirs"]
        )

    # A wiped table draws the pod anew, too: without affinity, not all flows find their old pods again.
    chance = _chance_of_same_pods(view, len(moves))
    if _affinity(view) is False and chance < _MAX_CHANCE:
        return diagnosis(
            "port-rewrite",
            [
                *evidence,
                f"if the flows had been re-created, only {100 * chance:.1f} % chance that all met their old pod",
            ],
        )
    return diagnosis("port-rewrite", evidence, "a session through the same node that kept its port")


def snat_collision(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `snat-collision`: sessions share a reflexive address, or replies alone are lost, for long or again."""
    sharing = _sharing_address(view, groups)
    if sharing:
        steps = {f"{move.old.reflexive} -> {move.new.reflexive}" for move in sharing}
        lost = sum(span.lost for span in view.unanswered_spans)
        evidence = [
            f"{view.share(m.session for m in sharing)} shared a reflexive address with another one at the same pod: "
            f"{listed(steps)}",
            f"{plural(lost, 'probe')} of {plural(len(view.unanswered_spans), 'session')} lost meanwhile",
        ]
        return diagnosis("snat-collision", evidence)

    ended = [span for span in view.unanswered_spans if span.ended and span.change is None]
    names = {span.session for span in ended}
    gaps = [gap for gap in view.history.loss_directions if gap.session in names and view.during(gap.at_ns)]
    if not gaps or any(gap.up for gap in gaps) or {gap.session for gap in gaps} != names or view.nearly_all(len(names)):
        return None

    # A lost entry costs a flow every reply until it is created anew; at random, replies are lost one here and one there.
    long_enough = all(s.lost >= _MIN_LOST and s.lost * view.history.interval_ns >= _MIN_LOST_NS for s in ended)
    again = _lost_replies_before(view, names)
    if len(names) == len(view.identities) or not (long_enough or again):
        return None

    lost = sum(gap.down for gap in gaps)
    evidence = [f"{view.share(names)} lost {plural(lost, 'reply')} and no request, then went on as before"]
    if again:
        evidence.append("the same had lost replies in a row before, and no other session had lost one")
    return diagnosis(
        "snat-collision", evidence, "a second session with the same reflexive address; replies may be just lost"
    )


# --- how ---------------------------------------------------------------------------------------------------------------


def _cross_delivered(view: IncidentView) -> list[CrossDelivered]:
    """Return the replies of the incident that arrived at another session than the one asked for."""
    return [
        event
        for event in view.history.cross_delivered
        if event.session in view.stray_sessions and view.during(event.at_ns)
    ]


def _lost_replies_before(view: IncidentView, names: set[str]) -> bool:
    """True if these sessions, and no others, had lost a burst of replies and no request before this incident."""
    earlier = [gap for gap in view.history.loss_directions if gap.at_ns < view.from_ns and gap.down]
    bursts = {gap.session for gap in earlier if gap.down >= BURST and not gap.up}
    return bursts == names == {gap.session for gap in earlier}


def _without_loss(moves: tuple[SessionChange, ...]) -> tuple[SessionChange, ...]:
    """Return those without a burst of loss before their change."""
    return tuple(move for move in moves if move.longest_loss < BURST)


def _ip_text(moves: tuple[SessionChange, ...]) -> str:
    """Say whether the reflexive IP stays, or is the other one of the same node."""
    pairs = {" and ".join(sorted(addresses_of(move))) for move in moves if Kind.REFLEXIVE_IP in move.kinds}
    if not pairs:
        return "the reflexive IP stays"
    return f"the reflexive IP stays, or is the other one of the same node ({listed(pairs)})"


def _waves(moves: tuple[SessionChange, ...]) -> list[str]:
    """Say how often the tables were wiped, where sessions changed more than once: proxies sync in pairs."""
    times = max(len(move.changes) for move in moves)
    if times == 1:
        return []
    most = [move for move in moves if len(move.changes) == times]
    first = min(move.changes[0].after.sent_ns for move in most)
    last = min(move.changes[-1].after.sent_ns for move in most)
    often = "twice" if times == 2 else f"{times} times"  # noqa: PLR2004 - it has a word of its own
    return [f"wiped {often} in {format_seconds(last - first)}"]


def _wipe_under_affinity(view: IncidentView, ports: tuple[SessionChange, ...]) -> Diagnosis | None:
    """Diagnose `flow-wipe` where all flows of a node got a new port, and affinity (or chance) their old pods again."""
    if not ports or view.source_ip_preserved or _unaffected(view, ports):
        return None

    chance = _chance_of_same_pods(view, len(ports))
    affinity = _affinity(view)
    if affinity is False and chance < _MAX_CHANCE:
        return None

    evidence = [
        f"{view.share(m.session for m in ports)} {has(len(ports))} a new reflexive port, the same IP and pod; "
        f"{view.cohort_text(m.session for m in ports)}",
        view.loss_text(sum(m.lost for m in ports)),
        *_pool_evidence(view),
    ]
    if affinity:
        evidence.append("sessionAffinity ClientIP gives a wiped flow its pod again")
        # Of one flow alone nothing shows that a table was wiped, and not one port rewritten.
        return diagnosis("flow-wipe", evidence, "" if len(ports) > 1 else _TABLE)
    if view.history.spec("sessionAffinity") is None:
        return diagnosis("flow-wipe", evidence, f"whether affinity ClientIP gave them their pods again: {NO_CLUSTER}")
    return diagnosis("flow-wipe", evidence, _TABLE)


def _pool_evidence(view: IncidentView) -> list[str]:
    """Return what is known of the pool, the proxies and the incident's period."""
    if not view.history.watched:
        pool = "the cluster is not watched"
    elif _is_unobserved(view):
        pool = "the pool was not observed then"
    else:
        pool = "whether an endpoint had changed is not known" if view.has_unjudged else "no endpoint had changed"
    said = [pool, *view.cluster_events_near(ClusterSubject.PROXY), *_neighbours(view)]

    times = [*view.history.flow_wipes_ns, view.from_ns][-_PERIODS:]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if len(times) == _PERIODS and max(gaps) - min(gaps) <= _EVEN * max(gaps):
        said.append(f"it is at least the third such incident, every {format_seconds(sum(gaps) // len(gaps))}")
    return said


def _neighbours(view: IncidentView) -> list[str]:
    """Say what is known of other UDP Services: proxies clean their tables at those endpoints' changes, too."""
    near = view.cluster_events_near(ClusterSubject.UDP_SERVICE)
    shared = view.history.shared_node_ports if near else ()
    return [*near, *(f"that Service has this one's port as a node port: {each}" for each in shared)]


def _is_unobserved(view: IncidentView) -> bool:
    """True if the watch was down so near to it that a change of the pool may have been missed."""
    settle_ns = view.history.settle_ns
    return view.history.unobserved(view.from_ns - settle_ns, view.to_ns + settle_ns)


def _other_causes(view: IncidentView, moved: tuple[SessionChange, ...]) -> str:
    """Return what has to be known to exclude other causes of new pods; empty: nothing."""
    if looks_local(view, moved):
        return f"the Service's externalTrafficPolicy: {NO_CLUSTER}"
    if view.history.watched:
        return "the pool around it: the watch was down" if _is_unobserved(view) else ""
    if _pod_vanished(view, moved):
        return f"whether the one pod that they all left is still ready: {NO_CLUSTER}"
    return ""


def _pod_vanished(view: IncidentView, moves: tuple[SessionChange, ...]) -> bool:
    """True if so many sessions left one pod that it may be gone."""
    return len(_without_loss(moves)) >= MIN_PATTERN and left_one_pod(view, moves)


def _old_pods(moves: Iterable[SessionChange]) -> set[str]:
    return {move.old.pod for move in moves if move.old.pod is not None}


def _left_unready_pod(view: IncidentView, move: SessionChange) -> bool:
    """True if a session left its pod while that was serving and not ready, and stayed so."""
    change = move.changes[0]
    pod = change.before.identity.pod
    if pod is None:
        return False

    endpoints = view.history.endpoints(pod, change.before.sent_ns, change.seen_ns + _STAYED_NS)
    at_change = view.history.endpoints(pod, change.before.sent_ns, change.seen_ns)
    return (
        bool(endpoints)
        and all(endpoint is not None and endpoint.serving for endpoint in endpoints)
        and at_change[-1] is not None
        and not at_change[-1].ready
    )


def _sharing_address(view: IncidentView, groups: ChangeGroups) -> tuple[SessionChange, ...]:
    """Return the changes to or from an address that another session had too, for longer than a change goes unnoticed."""
    moves = groups.port_alone + groups.to_other_pod + groups.to_other_ip
    return tuple(move for move in moves if any(_shares_address(view, move.session, change) for change in move.changes))


def _shares_address(view: IncidentView, session: str, change: Change) -> bool:
    """True if another session had the address from or to which this one changed, at the same pod and time."""
    if not _ADDRESS.intersection(change.kinds):
        return False

    enough_ns = _NOTICE_INTERVALS * view.history.interval_ns
    for who in (change.before.identity, change.after.identity):
        holders = view.address_holders.get((who.pod, who.instance, who.reflexive), ())
        mine = [(start, end) for name, start, end in holders if name == session]
        others = [(start, end) for name, start, end in holders if name != session]
        if any(min(a[1], b[1]) - max(a[0], b[0]) >= enough_ns for a in mine for b in others):
            return True
    return False


def _unaffected(view: IncidentView, moves: tuple[SessionChange, ...]) -> int:
    """Return how many sessions came in through the same nodes and did not change."""
    cohorts = view.cohorts((move.session for move in moves), view.ingress)
    return sum(all_ - mine for mine, all_ in cohorts.values())


def _affinity(view: IncidentView) -> bool | None:
    """Return whether ClientIP affinity is set; None: not known. A node's sessions at several pods exclude it."""
    spec = view.history.spec("sessionAffinity", view.from_ns)
    if spec is not None:
        return spec == "ClientIP"

    pods_of: dict[str | None, set[str | None]] = {}
    for who in view.identities.values():
        pods_of.setdefault(view.ingress(who), set()).add(who.pod)
    pods_of.pop(None, None)
    return False if any(len(names) > 1 for names in pods_of.values()) else None


def _chance_of_same_pods(view: IncidentView, flows: int) -> float:
    """Return the chance that so many flows, created anew, all find their old pods again."""
    known = len({who.pod for who in view.identities.values()})
    if view.history.pool is not None:
        known = max(known, view.history.pool.ready_count)
    return float((1 / max(1, known)) ** flows)
