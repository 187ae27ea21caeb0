"""Diagnose an incident, or a whole run: which rules are tried, and in which order their diagnoses are given.

What a change of the pool explains is no fault: of it only those faults are diagnosed that have evidence of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from affinity_tester.core.diagnosis import (
    address_rules,
    balancer_rules,
    client_nat_rules,
    client_rules,
    conntrack_rules,
    dead_rules,
    late_rules,
    limit_rules,
    pod_rules,
    proxy_rules,
    run_rules,
    slow_start_rules,
    start_rules,
    vip_rules,
)
from affinity_tester.core.diagnosis.catalogue import equivalents
from affinity_tester.core.diagnosis.classify import classify
from affinity_tester.core.diagnosis.cohort_text import ways_text
from affinity_tester.core.diagnosis.icmp import IcmpMeaning, icmp_meaning
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import NO_CLUSTER, cannot_tell, pods
from affinity_tester.core.events import Certainty, Diagnosis, Judgement
from affinity_tester.core.judging.reasons import Reason, ReferenceMoved
from affinity_tester.core.open_incident import Member, OpenIncident
from affinity_tester.units import plural

_ORDER = {Certainty.LIKELY: 0, Certainty.POSSIBLE: 1, Certainty.CANNOT_TELL: 2}


def diagnose(incident: OpenIncident, now_ns: int, history: RunHistory) -> tuple[Diagnosis, ...]:
    """Return the diagnoses of an incident reported now, the best first; none where a change of the pool explains it all."""
    explained: list[Member] = []
    silent_pods: list[Member] = []
    rest: list[Member] = []
    for member in incident.members.values():
        if member.judgement is Judgement.POD_SILENT:
            silent_pods.append(member)
        elif member.judgement is not Judgement.INFORMATION:
            (explained if _explained(member, history) else rest).append(member)

    found: list[Diagnosis] = []
    # A burst of loss before such a change is part of it.
    nat = client_nat_rules.client_side(rest)
    before = [m for m in rest if m.session in nat and (m.key[0] == "burst" or client_nat_rules.client_side([m]))]
    beside: list[Diagnosis] = []
    if before:
        rest = [member for member in rest if member not in before]
        view = IncidentView(before, incident, now_ns, history)
        beside = [*_by_pace(view, nat.values()), *client_nat_rules.moved_before_cluster(view, nat.values())]

    whole = IncidentView(incident.members.values(), incident, now_ns, history)
    if silent_pods:
        view = IncidentView(silent_pods, incident, now_ns, history)
        found += [late for late in (late_rules.late_replies(view),) if late is not None]
        found += pod_rules.pod_silent(view, whole)
    if rest:
        view = IncidentView(rest, incident, now_ns, history)
        found += _unexplained(view, whole) or [_cannot_tell(view)]
    if explained:
        found += _evident(IncidentView(explained, incident, now_ns, history))
    return _ranked(found, beside)


def _by_pace(view: IncidentView, reasons: Iterable[type[Reason]]) -> list[Diagnosis]:
    """Return what changes after each single probe show, be it a box of the client's or of the cluster's that makes them."""
    if ReferenceMoved in set(reasons):
        return []  # it is the client's
    groups = classify(view)
    limit = limit_rules.repeated_limit(view, groups)
    spray, expiry = address_rules.spray(view, groups), address_rules.idle_expiry(view, groups)
    if expiry is not None:  # a NAT of the client's has timeouts, too
        missing = expiry.missing or "whether it is the client's own NAT that forgets: --reference HOST"
        expiry = replace(expiry, certainty=Certainty.POSSIBLE, missing=missing)
    return [*limit_rules.beside_limit([each for each in (spray, expiry) if each is not None], limit)]


def diagnose_run(history: RunHistory) -> tuple[Diagnosis, ...]:
    """Return the diagnoses of the whole run, the best first; there may be none."""
    return _ranked(found for rule in run_rules.RULES if (found := rule(history)) is not None)


def _explained(member: Member, history: RunHistory) -> bool:
    """True if a change of the pool explains a member. A burst is not judged: one near a change of the pool is explained."""
    if member.judgement is None:
        return history.pool_changed(member.from_ns - history.settle_ns, member.to_ns + history.settle_ns)
    return member.judgement is Judgement.EXPLAINED


def _unexplained(view: IncidentView, whole: IncidentView) -> list[Diagnosis]:
    """Try all rules; return what they find, the most specific first. `whole` has all members of the incident."""
    socket = client_rules.client_socket(view)
    if socket is not None and not socket.missing:
        return [socket]  # from another address every flow is a new one: nothing that follows is the path's fault
    if view.unanswered_spans and client_nat_rules.own_link(view) is not None:
        return []  # what is silent beside the reference is no fault of the cluster's

    strangers = _strangers(view)
    if strangers is not None:
        return [strangers]  # what leads to another cluster is none of this one's faults

    late = late_rules.late_replies(view)
    if late is not None and not late.missing and not view.moves:
        return [late]  # nothing was lost: no flow's entry was gone, and no drop of this machine is the cause

    groups = classify(view)
    # Checked here, since what they find explains the silences below, too.
    client_side = [client_rules.wrong_source(view), client_rules.too_big(view), client_rules.self_inflicted(view)]
    proxies = proxy_rules.proxy_tier(view, groups)
    found: list[Diagnosis | None] = [
        socket,
        address_rules.spray(view, groups),  # first: spread packets cause replies from elsewhere, too
        *client_side[:2],
        address_rules.sent_by_size(view, groups),
        address_rules.pod_restart(view, groups),
        address_rules.idle_expiry(view, groups),
        proxies,
        client_nat_rules.client_nat(view, groups),
        vip_rules.vip_failover(view, groups),
        address_rules.node_rehash(view, groups),
        address_rules.local_rehash(view, groups),
        conntrack_rules.early_flush(view, groups),
        conntrack_rules.snat_collision(view, groups),
        conntrack_rules.cross_delivered(view),
        conntrack_rules.flow_wipe(view, groups),
        conntrack_rules.port_rewrite(view, groups),
        client_side[2],
        late,
        slow_start_rules.slow_start(view),
    ]
    limit = limit_rules.session_limit(view, groups)
    told = proxy_rules.beside_proxies([d for d in found if d is not None], proxies)
    found = [*limit_rules.beside_limit(told, limit)]

    if not any(client_side):
        found += [
            pod_rules.terminating_backend(view),
            *start_rules.dead_from_start(view),
            *dead_rules.dead(view, whole),
            balancer_rules.lb_churn(view),
        ]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def _evident(view: IncidentView) -> list[Diagnosis]:
    """Return the faults that are evident although the pool changed."""
    groups = classify(view)
    found = (
        client_rules.client_socket(view),
        client_rules.wrong_source(view),
        client_rules.self_inflicted(view),
        address_rules.pod_restart(view, groups),
        address_rules.rehash_off_serving(view, groups),
        conntrack_rules.early_flush(view, groups),
        pod_rules.terminating_backend(view),
        dead_rules.stale_after_removal(view),
    )
    return [diagnosis for diagnosis in found if diagnosis is not None and diagnosis.certainty is Certainty.LIKELY]


def _strangers(view: IncidentView) -> Diagnosis | None:
    """Return what is known where sessions moved to pods of another pool: no fault of the catalogue, and no name."""
    moves = [m for m in view.moves if m.new.pod is not None and view.history.is_stranger(m.new.pod)]
    if not moves or 2 * len(moves) < len(view.moves):
        return None
    names = {move.new.pod for move in moves if move.new.pod is not None}
    evidence = [
        f"{view.share(move.session for move in moves)} are answered by {pods(names)}, never in the watched pool: of another "
        "cluster or Service",
        f"they came from {pods({move.old.pod for move in moves if move.old.pod is not None})}; "
        f"{view.loss_text(sum(move.lost for move in moves))}",
    ]
    return cannot_tell(evidence, "where the target leads now: its DNS records, its routes, and the balancer's backends")


def _cannot_tell(view: IncidentView) -> Diagnosis:
    """Return what was seen where no rule fits, and what would settle it."""
    evidence = []
    if view.moves:
        changed = sum(len(move.changes) for move in view.moves)
        evidence.append(f"{view.share(move.session for move in view.moves)}, {plural(changed, 'change')}")
        evidence += ways_text(view)
    if view.unanswered_spans:
        names = {span.session for span in view.unanswered_spans}
        lost = sum(span.lost for span in view.unanswered_spans)
        # Of each session the longest gap counts; what it lost besides stands in the incident's first line.
        one = len(view.unanswered_spans) == 1
        what = plural(lost, "consecutive probe") if one else f"{plural(lost, 'probe')} in the longest gap of each"
        evidence.append(f"{view.share(names)} lost {what}")
        gaps = [gap for gap in view.history.loss_directions if gap.session in names and view.during(gap.at_ns)]
        if gaps:
            up, down = sum(gap.up for gap in gaps), sum(gap.down for gap in gaps)
            evidence.append(
                f"in gaps of any length {up:,} are known to be lost towards the pod, {down:,} on the way back"
            )
        if any(span.old is not None for span in view.unanswered_spans):
            evidence.append(view.cohort_text(names))
        link = client_nat_rules.own_link(view)
        if link is not None:
            return cannot_tell([*evidence, link], "this machine's own link, and the router on its way out")
        evidence += start_rules.dead_address(view)
        evidence += _how_they_ended(view)
        evidence += view.canary_text(view.canaries)
        evidence += view.icmp_text(names)

    refused = any(
        icmp_meaning(event) is IcmpMeaning.PORT_UNREACHABLE and view.during(event.at_ns)
        for event in view.history.network_errors
    )
    if refused:
        settle = (
            "who refuses: `kubectl get endpointslices` (without an endpoint the nodes reject), whether the server listens on "
            "the Service's targetPort, and a capture on the pod's node"
        )
        return cannot_tell(evidence, settle)
    settle = "packet capture on the pod's node and the kube-proxy log"
    return cannot_tell(evidence, settle if view.history.watched else f"{NO_CLUSTER}; else {settle}")


def _how_they_ended(view: IncidentView) -> list[str]:
    """Say how many unanswered spans ended, and how many of these at the pod and address where they began."""
    ended = [span for span in view.unanswered_spans if span.ended and span.old is not None]
    if not ended:
        return []
    same = sum(span.change is None for span in ended)
    went_on = f"{plural(len(ended), 'session')} then went on"
    if same == len(ended):
        return [f"{went_on} at the same pod and address"]
    return [
        f"{went_on}, {same:,} of them at the same pod and address" if same else f"{went_on} at another pod or address"
    ]


def _ranked(found: Iterable[Diagnosis], beside: Iterable[Diagnosis] = ()) -> tuple[Diagnosis, ...]:
    """Return the likely ones first, each name once. Beside a likely one only those stay that no client can tell from it.

    Those of `beside` are of other sessions, and stay.
    """
    ranked: dict[str, Diagnosis] = {}
    beside = list(beside)
    for diagnosis in sorted([*beside, *found], key=lambda diagnosis: _ORDER[diagnosis.certainty]):
        ranked.setdefault(diagnosis.name, diagnosis)
    likely = [name for name, diagnosis in ranked.items() if diagnosis.certainty is Certainty.LIKELY]
    alike = frozenset(d.name for d in beside).union(*(equivalents(name) for name in likely))
    return tuple(d for name, d in ranked.items() if not likely or name in alike)
