"""Faults of a node's tables: flows get another pod or port behind the same reflexive IP."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from affinity_tester.core.diagnosis.case import Case, Move
from affinity_tester.core.diagnosis.masquerade import FEW, left_one_pod
from affinity_tester.core.diagnosis.moves import looks_local
from affinity_tester.core.diagnosis.sorting import Groups
from affinity_tester.core.diagnosis.wording import NO_CLUSTER, count, diagnosis, has, listed, pods, seconds, was
from affinity_tester.core.events import Change, ClusterSubject, Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.core.incidents import BURST

_CHANCE = 0.05
"""An accident less probable than this is not believed."""

_STAYED_NS = 1_000_000_000
"""A pod that is still in the pool this long after its flows left it was not being removed just then."""

_MUTE_NS = 2_000_000_000
"""A flow that is not answered for so long is blocked..."""

_MUTE = 10
"""...and not unlucky when it lost so many replies in a row: where half of all are lost at random, one time in a thousand."""

_NOTICED = 3
"""Intervals after which a session has surely noticed that it lost its address to another."""

_ADDRESS = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT})

_PERIODS = 3
"""So many wipes at even distances are a period."""

_EVEN = 0.1
"""Distances that differ by at most this share are even."""


def cross_delivered(case: Case) -> Diagnosis | None:
    """Replies to one session's probes arrived at another: entries of the NAT are mixed up."""
    seen = [event for event in case.facts.cross_delivered if event.session in case.astray and case.during(event.at_ns)]
    if not seen:
        return None
    ways = sorted({f"{event.session} got what was meant for {event.owner}" for event in seen})
    evidence = [f"{case.share(event.session for event in seen)}: {listed(ways[:3])}", *_more(len(ways) - 3)]
    return diagnosis("snat-collision", evidence)


def _more(count_: int) -> list[str]:
    return [f"and {count_} more pairs of sessions"] if count_ > 0 else []


def flow_wipe(case: Case, groups: Groups) -> Diagnosis | None:
    """The proxy dropped live flows: a new pod, or under affinity ClientIP a new port alone."""
    moved = _quick(groups.to_other_pod)
    ports = _quick(groups.port_alone)
    if not moved:
        return _wipe_under_affinity(case, ports)
    if looks_local(case, moved) and case.source_kept:
        return None
    moves = moved + ports
    new_ports = sum(Kind.REFLEXIVE_PORT in move.kinds for move in moves)
    evidence = [
        f"{case.share(m.session for m in moves)}; {case.cohort_words(m.session for m in moves)}",
        f"{len(moved)} {has(len(moved))} a new pod and {new_ports} a new reflexive port; {_ip_words(moves)}; "
        f"{case.loss(sum(m.lost for m in moves))}",
        *_around(case),
    ]
    return diagnosis("flow-wipe", evidence, _doubt(case, moved))


def early_flush(case: Case, groups: Groups) -> Diagnosis | None:
    """Flows left a pod that was serving and no longer ready."""
    moves = _quick(groups.to_other_pod + groups.to_other_ip)
    left = [move for move in moves if _left_serving(case, move)]
    if left:
        names = {move.old.pod for move in left if move.old.pod is not None}
        evidence = [
            f"{case.share(m.session for m in left)} left {pods(names)}, which "
            f"{was(len(names))} serving and not ready, and stayed so for {seconds(_STAYED_NS)} and more",
            case.loss(sum(m.lost for m in left)),
        ]
        return diagnosis("early-flush", evidence)
    if case.facts.watched or not _went(case, groups.to_other_pod) or groups.to_other_ip:
        return None
    moves = _quick(groups.to_other_pod)
    evidence = [
        f"{case.share(m.session for m in moves)}, all of them from {pods(_old_pods(moves))}, which serves no session since",
        case.loss(sum(m.lost for m in moves)),
    ]
    return diagnosis(
        "early-flush", evidence, f"whether that pod still ran and was not ready, or left the pool: {NO_CLUSTER}"
    )


def port_rewrite(case: Case, groups: Groups) -> Diagnosis | None:
    """The reflexive port alone changed, and no wiped table accounts for it."""
    sharing = {move.session for move in _shared(case, groups)}
    moves = tuple(move for move in _quick(groups.port_alone) if move.session not in sharing)
    if not moves or _quick(groups.to_other_pod):
        return None
    spared = _spared(case, moves)
    evidence = [
        f"{case.share(m.session for m in moves)} {has(len(moves))} a new reflexive port, the same IP and pod: "
        f"{listed(f'{m.old.reflexive} -> {m.new.reflexive}' for m in moves)}",
        case.loss(sum(m.lost for m in moves)),
    ]
    if case.source_kept:
        return diagnosis(
            "port-rewrite", [*evidence, "pods see the client's own IP, so no masquerade drew the port anew"]
        )
    if spared:
        return diagnosis(
            "port-rewrite", [*evidence, f"{count(spared, 'other session')} with the same old IP kept theirs"]
        )
    chance = _chance(case, len(moves))
    if _affinity(case) is False and chance < _CHANCE:
        return diagnosis(
            "port-rewrite",
            [
                *evidence,
                f"no ClientIP affinity: that flows made anew all find their pod again has a chance of {chance:.1%}",
            ],
        )
    return diagnosis("port-rewrite", evidence, "a session through the same node that kept its port")


def snat_collision(case: Case, groups: Groups) -> Diagnosis | None:
    """Two sessions have the same reflexive address at one pod, or a flow's replies alone are lost, for long or repeatedly."""
    sharing = _shared(case, groups)
    if sharing:
        steps = {f"{move.old.reflexive} -> {move.new.reflexive}" for move in sharing}
        lost = sum(silence.lost for silence in case.silences)
        evidence = [
            f"{case.share(m.session for m in sharing)} shared a reflexive address with another one at the same pod: "
            f"{listed(steps)}",
            f"{count(lost, 'probe')} of {count(len(case.silences), 'session')} lost meanwhile",
        ]
        return diagnosis("snat-collision", evidence)
    mute = [silence for silence in case.silences if silence.ended and silence.change is None]
    names = {silence.session for silence in mute}
    gaps = [gap for gap in case.facts.directed if gap.session in names and case.during(gap.at_ns)]
    if not gaps or any(gap.up for gap in gaps) or {gap.session for gap in gaps} != names or case.most(len(names)):
        return None
    # A lost entry costs a flow every reply until it is made anew. Replies that are lost at random are lost here and there.
    held = all(s.lost >= _MUTE and s.lost * case.facts.interval_ns >= _MUTE_NS for s in mute)
    again = _mute_before(case, names)
    if len(names) == len(case.homes) or not (held or again):
        return None
    lost = sum(gap.down for gap in gaps)
    evidence = [f"{case.share(names)} lost {count(lost, 'reply')} and no request, then went on as before"]
    if again:
        evidence.append("the same had lost replies in a row before, and no other session had lost one")
    return diagnosis(
        "snat-collision", evidence, "a second session with the same reflexive address; replies may be just lost"
    )


# --- how ---------------------------------------------------------------------------------------------------------------


def _mute_before(case: Case, names: set[str]) -> bool:
    """Whether these sessions, and no others, had lost replies alone before this incident, each of them a burst."""
    earlier = [gap for gap in case.facts.directed if gap.at_ns < case.from_ns and gap.down]
    bursts = {gap.session for gap in earlier if gap.down >= BURST and not gap.up}
    return bursts == names == {gap.session for gap in earlier}


def _quick(moves: tuple[Move, ...]) -> tuple[Move, ...]:
    """Those without a burst of loss on the way."""
    return tuple(move for move in moves if move.run < BURST)


def _ip_words(moves: tuple[Move, ...]) -> str:
    """Whether the reflexive IP stays, or is the other one of the same node."""
    pairs = {
        " and ".join(sorted(who.reflexive.ip for who in (move.old, move.new) if who.reflexive is not None))
        for move in moves
        if Kind.REFLEXIVE_IP in move.kinds
    }
    if not pairs:
        return "the reflexive IP stays"
    return f"the reflexive IP stays, or is the other one of the same node ({listed(pairs)})"


def _wipe_under_affinity(case: Case, ports: tuple[Move, ...]) -> Diagnosis | None:
    """All flows of a node got a new port and kept their pod, which affinity (or luck) gave them again."""
    if not ports or case.source_kept or _spared(case, ports):
        return None
    chance = _chance(case, len(ports))
    affinity = _affinity(case)
    if affinity is False and chance < _CHANCE:
        return None
    evidence = [
        f"{case.share(m.session for m in ports)} {has(len(ports))} a new reflexive port, the same IP and pod; "
        f"{case.cohort_words(m.session for m in ports)}",
        case.loss(sum(m.lost for m in ports)),
        *_around(case),
    ]
    if affinity and len(ports) >= FEW:
        return diagnosis("flow-wipe", [*evidence, "sessionAffinity ClientIP gives a wiped flow its pod again"])
    return diagnosis("flow-wipe", evidence, f"whether affinity ClientIP gave them their pods again: {NO_CLUSTER}")


def _around(case: Case) -> list[str]:
    """The pool, the proxies and the period."""
    if not case.facts.watched:
        pool = "the pool is not watched"
    elif _is_blind(case):
        pool = "the pool was not observed then"
    else:
        pool = "whether the pool stood still is not known" if case.in_doubt else "the pool stood still"
    said = [pool, *case.near(ClusterSubject.PROXY)]
    times = [*case.facts.wipes_ns, case.from_ns][-_PERIODS:]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    if len(times) == _PERIODS and max(gaps) - min(gaps) <= _EVEN * max(gaps):
        said.append(f"it is at least the third such incident, every {seconds(sum(gaps) // len(gaps))}")
    return said


def _is_blind(case: Case) -> bool:
    """Whether the watch was down so near that a change of the pool may have been missed."""
    settle_ns = case.facts.settle_ns
    return case.facts.blind(case.from_ns - settle_ns, case.to_ns + settle_ns)


def _doubt(case: Case, moved: tuple[Move, ...]) -> str:
    """What else may have moved flows to other pods; empty: nothing."""
    if looks_local(case, moved):
        return f"the Service's externalTrafficPolicy: {NO_CLUSTER}"
    if case.facts.watched:
        return "the pool around it: the watch was down" if _is_blind(case) else ""
    if _went(case, moved):
        return f"whether the one pod that they all left is still ready: {NO_CLUSTER}"
    return ""


def _went(case: Case, moves: tuple[Move, ...]) -> bool:
    """Whether several sessions show that the pod which they left may have gone."""
    return len(_quick(moves)) >= FEW and left_one_pod(case, moves)


def _old_pods(moves: Iterable[Move]) -> set[str]:
    return {move.old.pod for move in moves if move.old.pod is not None}


def _left_serving(case: Case, move: Move) -> bool:
    """Whether a session left its pod while that was serving, not ready, and not about to go."""
    change = move.changes[0]
    pod = change.before.identity.pod
    if pod is None:
        return False
    held = case.facts.endpoints(pod, change.before.sent_ns, change.seen_ns + _STAYED_NS)
    at_change = case.facts.endpoints(pod, change.before.sent_ns, change.seen_ns)
    return (
        bool(held)
        and all(endpoint is not None and endpoint.serving for endpoint in held)
        and at_change[-1] is not None
        and not at_change[-1].ready
    )


def _shared(case: Case, groups: Groups) -> tuple[Move, ...]:
    """Moves to or from an address that another session had too, at the same pod, for longer than a change goes unnoticed."""
    moves = groups.port_alone + groups.to_other_pod + groups.to_other_ip
    return tuple(move for move in moves if any(_has_company(case, move.session, change) for change in move.changes))


def _has_company(case: Case, session: str, change: Change) -> bool:
    """Whether another session had the address from or to which this one changed, at the same time."""
    if not _ADDRESS.intersection(change.kinds):
        return False
    enough_ns = _NOTICED * case.facts.interval_ns
    for who in (change.before.identity, change.after.identity):
        holders = case.holders.get((who.pod, who.instance, who.reflexive), ())
        mine = [(start, end) for name, start, end in holders if name == session]
        others = [(start, end) for name, start, end in holders if name != session]
        if any(min(a[1], b[1]) - max(a[0], b[0]) >= enough_ns for a in mine for b in others):
            return True
    return False


def _spared(case: Case, moves: tuple[Move, ...]) -> int:
    """Sessions that came in through the same nodes and did not change."""
    cohorts = case.cohorts((move.session for move in moves), case.ingress)
    return sum(all_ - mine for mine, all_ in cohorts.values())


def _affinity(case: Case) -> bool | None:
    """Whether ClientIP affinity is in force; without the spec it is known not to be where a node's sessions are spread."""
    spec = case.facts.spec("sessionAffinity")
    if spec is not None:
        return spec == "ClientIP"
    pods_of: dict[str | None, set[str | None]] = {}
    for who in case.homes.values():
        pods_of.setdefault(case.ingress(who), set()).add(who.pod)
    pods_of.pop(None, None)
    return False if any(len(names) > 1 for names in pods_of.values()) else None


def _chance(case: Case, flows: int) -> float:
    """That so many flows, made anew, all find the pod again that they had."""
    known = len({who.pod for who in case.homes.values()})
    if case.facts.pool is not None:
        known = max(known, case.facts.pool.ready_count)
    return float((1 / max(1, known)) ** flows)
