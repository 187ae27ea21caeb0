"""From an incident, or a whole run, to its diagnoses: which rules are asked, and in which order their answers stand.

What a change of the pool explains is not accused: of it only those faults are named that show by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis import flows, moves, own, silences, whole
from affinity_tester.core.diagnosis.case import Case
from affinity_tester.core.diagnosis.catalogue import equivalents
from affinity_tester.core.diagnosis.facts import Facts
from affinity_tester.core.diagnosis.sorting import sort
from affinity_tester.core.diagnosis.wording import NO_CLUSTER, cannot_tell, count, was
from affinity_tester.core.events import Certainty, Diagnosis, Judgement
from affinity_tester.core.incidents import Member, Story

_ORDER = {Certainty.LIKELY: 0, Certainty.POSSIBLE: 1, Certainty.CANNOT_TELL: 2}


def diagnose(story: Story, now_ns: int, facts: Facts) -> tuple[Diagnosis, ...]:
    """What an incident told now may be, the best first; empty where a change of the pool explains all of it."""
    explained: list[Member] = []
    mute: list[Member] = []
    rest: list[Member] = []
    for member in story.members.values():
        if member.judgement is Judgement.POD_SILENT:
            mute.append(member)
        elif member.judgement is not Judgement.INFORMATION:
            (explained if _explained(member, facts) else rest).append(member)
    found: list[Diagnosis] = []
    if mute:
        found.append(silences.pod_silent(Case(mute, story, now_ns, facts)))
    if rest:
        case = Case(rest, story, now_ns, facts)
        found += _unexplained(case) or [_cannot_tell(case)]
    if explained:
        found += _shows_by_itself(Case(explained, story, now_ns, facts))
    return _ranked(found)


def diagnose_run(facts: Facts) -> tuple[Diagnosis, ...]:
    """What the run as a whole shows, the best first; empty: nothing."""
    return _ranked(found for rule in whole.RULES if (found := rule(facts)) is not None)


def _explained(member: Member, facts: Facts) -> bool:
    """Whether a change of the pool explains it. A burst is not judged: one near a change of the pool counts as explained."""
    if member.judgement is None:
        return facts.pool_changed(member.from_ns - facts.settle_ns, member.to_ns + facts.settle_ns)
    return member.judgement is Judgement.EXPLAINED


def _unexplained(case: Case) -> list[Diagnosis]:
    """All rules, the most telling first."""
    socket = own.client_socket(case)
    if socket is not None and not socket.missing:
        return [socket]  # from another address every flow is another one: nothing that follows is the path's
    groups = sort(case)
    at_home = [own.wrong_source(case), own.too_big(case), own.self_inflicted(case)]
    found = [
        socket,
        moves.spray(case, groups),  # where each packet goes elsewhere, replies from elsewhere are what follows
        *at_home[:2],
        moves.sent_by_size(case, groups),
        moves.pod_restart(case, groups),
        moves.idle_expiry(case, groups),
        moves.client_nat(case, groups),
        moves.vip_failover(case, groups),
        moves.node_rehash(case, groups),
        moves.local_rehash(case, groups),
        flows.early_flush(case, groups),
        flows.snat_collision(case, groups),
        flows.cross_delivered(case),
        flows.flow_wipe(case, groups),
        flows.port_rewrite(case, groups),
        at_home[2],
    ]
    if not any(at_home):
        blocked = silences.held(case)
        found += [
            silences.terminating_backend(case, blocked),
            silences.local_policy(case),
            silences.stale_flow(case, blocked),
            silences.dead_target(case, blocked),
            silences.lb_churn(case),
        ]
    return [diagnosis for diagnosis in found if diagnosis is not None]


def _shows_by_itself(case: Case) -> list[Diagnosis]:
    """The faults that show although the pool changed."""
    groups = sort(case)
    blocked = silences.held(case)
    found = (
        own.client_socket(case),
        own.wrong_source(case),
        own.self_inflicted(case),
        moves.pod_restart(case, groups),
        flows.early_flush(case, groups),
        silences.terminating_backend(case, blocked),
        silences.stale_flow(case, blocked),
    )
    return [diagnosis for diagnosis in found if diagnosis is not None and diagnosis.certainty is Certainty.LIKELY]


def _cannot_tell(case: Case) -> Diagnosis:
    """Nothing fits: what was seen, and what would settle it."""
    evidence = []
    if case.moves:
        changed = sum(len(move.changes) for move in case.moves)
        evidence.append(f"{case.share(move.session for move in case.moves)}, {count(changed, 'change')}")
    if case.silences:
        names = {silence.session for silence in case.silences}
        lost = sum(silence.lost for silence in case.silences)
        evidence.append(f"{case.share(names)} lost {count(lost, 'probe')} in a row or in several")
        gaps = [gap for gap in case.facts.directed if gap.session in names and case.during(gap.at_ns)]
        if gaps:
            up, down = sum(gap.up for gap in gaps), sum(gap.down for gap in gaps)
            evidence.append(
                f"in gaps of any length, {up:,} {was(up)} lost on the way to the pod and {down:,} on the way back"
            )
        evidence += silences.dead_address(case)
        evidence += _how_they_ended(case)
        evidence += case.canary_words(case.canaries)
        evidence += case.icmp(names)
    settle = "a capture on the pod's node, and the proxy's log beside it"
    return cannot_tell(evidence, settle if case.facts.watched else f"{NO_CLUSTER}; else {settle}")


def _how_they_ended(case: Case) -> list[str]:
    """How many silences ended, and of those how many where they had begun; nothing where that can't be said of any."""
    ended = [silence for silence in case.silences if silence.ended and silence.old is not None]
    if not ended:
        return []
    same = sum(silence.change is None for silence in ended)
    went_on = f"{count(len(ended), 'session')} then went on"
    if same == len(ended):
        return [f"{went_on} at the same pod and address"]
    return [
        f"{went_on}, {same:,} of them at the same pod and address" if same else f"{went_on} at another pod or address"
    ]


def _ranked(found: Iterable[Diagnosis]) -> tuple[Diagnosis, ...]:
    """Likely ones first, each name once; beside a likely one only those stay that no client could tell from it."""
    ranked: dict[str, Diagnosis] = {}
    for diagnosis in sorted(found, key=lambda diagnosis: _ORDER[diagnosis.certainty]):
        ranked.setdefault(diagnosis.name, diagnosis)
    likely = [name for name, diagnosis in ranked.items() if diagnosis.certainty is Certainty.LIKELY]
    alike = frozenset().union(*(equivalents(name) for name in likely))
    return tuple(d for name, d in ranked.items() if not likely or name in alike)
