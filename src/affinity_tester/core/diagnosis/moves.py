"""Faults that show as changes: a session is answered by another pod, or seen at another address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from affinity_tester.core.diagnosis.case import Case, Move
from affinity_tester.core.diagnosis.masquerade import left_one_pod, one_node
from affinity_tester.core.diagnosis.sorting import Groups
from affinity_tester.core.diagnosis.wording import NO_CLUSTER, count, diagnosis, has, listed, pods, seconds
from affinity_tester.core.events import ClusterSubject, Diagnosis
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.incidents import BURST

_AFFINITY_WINDOW_NS = 30_000_000_000
"""The shortest common UDP timeout (nf_conntrack_udp_timeout)."""

_AGAIN = 3
"""So many changes of a session, each after a silence, are no coincidence where nearly every silence has one."""


def spray(case: Case, groups: Groups) -> Diagnosis | None:
    """The pod alternates from packet to packet for most sessions."""
    moves = groups.sprayed
    if not moves or groups.by_size:
        return None
    changes = [change for move in moves for change in move.changes]
    probes = sum(move.changes[-1].after.seq - move.changes[0].before.seq for move in moves)
    evidence = [
        f"{case.share(m.session for m in moves)}; {count(len(changes), 'change')} in {count(probes, 'probe')}, "
        f"one in {probes / len(changes):.1f}",
        f"answered in turn by {count(len({c.after.identity.pod for c in changes}), 'pod')} "
        f"as {count(len({c.after.identity.reflexive for c in changes}), 'reflexive address')}",
    ]
    twice = sum(case.during(event.at_ns) for event in case.facts.duplicates)
    if twice:
        evidence.append(f"{count(twice, 'probe')} answered twice, and differently")
    most = 2 * len(moves) >= len(case.homes)
    missing = "" if most else "why most sessions keep their pod: compare their source ports and paths"
    return diagnosis("packet-spray", evidence, missing)


def sent_by_size(case: Case, groups: Groups) -> Diagnosis | None:
    """Who answers depends on the probe's size alone."""
    if not groups.by_size:
        return None
    moves = groups.sprayed
    sizes = case.facts.sizes
    at: dict[int, set[str]] = {}
    for move in moves:
        for change in move.changes:
            for sighting in (change.before, change.after):
                at.setdefault(sizes[sighting.seq % len(sizes)], set()).add(sighting.identity.pod or "unnamed")
    return diagnosis(
        "mtu",
        [
            f"{case.share(m.session for m in moves)}; who answers a session depends on its probe's size alone",
            *(f"probes of {size:,} bytes were answered by {pods(names)}" for size, names in sorted(at.items())),
        ],
    )


def pod_restart(case: Case, groups: Groups) -> Diagnosis | None:
    """The same pod name, a new instance."""
    moves = groups.restarted
    if not moves:
        return None
    names = {move.new.pod for move in moves if move.new.pod is not None}
    evidence = [
        f"{case.share(m.session for m in moves)} answered by the same {pods(names)} with a new INSTANCE-ID",
        f"{case.loss(sum(m.lost for m in moves))} meanwhile",
        *case.near(ClusterSubject.POD),
    ]
    instances = Counter((move.old.instance, move.new.instance) for move in moves)
    back = any((new, old) in instances for old, new in instances) or any(move.shares_name for move in moves)
    missing = "one new instance for all: two servers seem to share the pod's name" if back else ""
    return diagnosis("pod-restart", evidence, missing)


def idle_expiry(case: Case, groups: Groups) -> Diagnosis | None:
    """Changes only at the first probe after a silence."""
    moves = groups.after_silence
    if not moves:
        return None
    pauses = sorted(move.pause_ns for move in moves)
    others = len(case.homes) - len(case.moves)
    evidence = [
        f"{case.share(m.session for m in moves)}, each at the first probe after a silence of "
        f"{seconds(pauses[0])} or more; {case.loss(sum(m.lost for m in moves))}",
    ]
    interval_ns = case.facts.interval_ns
    if all(move.pause_ns < 2 * interval_ns for move in moves):
        rates = [case.facts.change_rate(move.session) for move in moves]
        changes, probes = sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)
        evidence.append(
            f"probes are {seconds(interval_ns)} apart, and since its first change {changes:,} of {count(probes, 'probe')} "
            f"showed one"
        )
        if 2 * changes >= probes and max(rate[0] for rate in rates) >= _AGAIN:
            return diagnosis("idle-expiry", evidence)
        return diagnosis(
            "idle-expiry",
            evidence,
            "a change after each such silence, and none without it: a shorter --interval beside it",
        )
    evidence.append(
        f"probes are {seconds(interval_ns)} apart otherwise, and {count(others, 'other session')} did not change"
    )
    sure = others > 0 or pauses[0] > _AFFINITY_WINDOW_NS
    return diagnosis(
        "idle-expiry", evidence, "" if sure else "a session that went on sending meanwhile and did not move"
    )


def client_nat(case: Case, groups: Groups) -> Diagnosis | None:
    """All sessions show a new address that is no node's, and keep their pods."""
    moves = groups.to_other_ip
    if not _looks_like_client_nat(case, moves):
        return None
    new = _ips(moves, new=True)
    served = {move.old.pod for move in moves}
    kept = sum(Kind.POD not in move.kinds for move in moves)
    evidence = [
        f"{case.share(m.session for m in moves)} changed reflexive IP {listed(_ips(moves))} -> {listed(new)} at once",
        f"{count(kept, 'session')} kept their pod, {count(len(served), 'pod')} in all; "
        f"{case.loss(sum(m.lost for m in moves))}",
    ]
    nodes = case.facts.node_names
    if nodes is None:
        return diagnosis("client-nat", evidence, f"whether {listed(new)} is a node's: {NO_CLUSTER}")
    return diagnosis("client-nat", [*evidence, f"{listed(new)} belongs to none of {count(len(nodes), 'node')}"])


def vip_failover(case: Case, groups: Groups) -> Diagnosis | None:
    """All lose together, then one new ingress for all; a flip-flop alternates."""
    jump = _jump(case, groups.to_other_ip, _ip)
    if jump is None and case.source_kept:
        jump = _jump(case, groups.to_other_pod, _node)
    if jump is None or (case.facts.node_names is not None and _ips(jump.moves) and not _of_nodes(case, jump)):
        return None
    moves = jump.moves
    losers = sum(move.lost > 0 for move in moves)
    evidence = [
        f"{case.share(m.session for m in moves)} moved together, {_words(case, jump.old)} -> {_words(case, jump.new)}",
        f"{losers} of {len(moves)} lost probes meanwhile, {count(sum(m.lost for m in moves), 'probe')} in all",
    ]
    flips = min(len(move.changes) for move in moves) - 1
    if flips:
        evidence.append(f"they moved to and fro, each at least {count(flips + 1, 'time')}")
    if _looks_like_client_nat(case, moves):
        return diagnosis("vip-failover", evidence, f"whether {listed(jump.new)} is a node's: {NO_CLUSTER}")
    back = all(case.facts.was_at(move.session, jump.key, jump.new, move.changes[0].before.sent_ns) for move in moves)
    if back and not flips:
        evidence.append(f"they had been at {_words(case, jump.new)} before: it goes to and fro")
    sure = flips or back or case.most(losers)
    return diagnosis("vip-failover", evidence, "" if sure else "loss of all sessions at the same time")


def node_rehash(case: Case, groups: Groups) -> Diagnosis | None:
    """The reflexive IP moves to another node for a fraction of the sessions."""
    moves = tuple(move for move in groups.to_other_ip if move.run < BURST)
    if not moves or _looks_like_client_nat(case, moves):
        return None
    if case.facts.node_names is not None and not any(case.is_node(ip) for ip in _ips(moves) | _ips(moves, new=True)):
        return None
    pods_moved = sum(Kind.POD in move.kinds for move in moves)
    new = [case.place(ip) for ip in _ips(moves, new=True)]
    evidence = [
        f"{case.share(m.session for m in moves)} {has(len(moves))} a new reflexive IP, {listed(new)}; "
        f"{case.cohort_words(m.session for m in moves)}",
        f"{pods_moved} of them also {has(pods_moved)} a new pod; {case.loss(sum(m.lost for m in moves))}",
        *case.near(ClusterSubject.NODE),
    ]
    if _jump(case, moves, _ip) is not None:
        if case.most(sum(move.lost > 0 for move in moves)) or any(len(move.changes) > 1 for move in moves):
            return None
        return diagnosis("node-rehash", evidence, "a session that kept its reflexive IP, or a second ingress node")
    if not case.facts.watched and left_one_pod(case, groups.to_other_pod + moves):
        return diagnosis(
            "node-rehash", evidence, f"whether the one pod that they all left is still there: {NO_CLUSTER}"
        )
    return diagnosis("node-rehash", evidence)


def local_rehash(case: Case, groups: Groups) -> Diagnosis | None:
    """Under policy Local the client's address stays: sessions move to pods of another node."""
    moves = tuple(move for move in groups.to_other_pod if move.run < BURST)
    if not looks_local(case, moves) or _jump(case, moves, _node) is not None:
        return None
    nodes = {move.new.node for move in moves if move.new.node is not None}
    evidence = [
        f"{case.share(m.session for m in moves)} moved to pods of another node ({listed(nodes)}); their reflexive "
        f"addresses stay",
        case.loss(sum(m.lost for m in moves)),
        *case.near(ClusterSubject.NODE),
    ]
    if case.source_kept:
        return diagnosis("node-rehash", [*evidence, "pods see the client's own address (policy Local)"])
    return diagnosis("node-rehash", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")


def looks_local(case: Case, moves: Iterable[Move]) -> bool:
    """Whether all of these moved to another node while their addresses stay, and policy Local is not ruled out."""
    moves = tuple(moves)
    return (
        bool(moves)
        and case.source_kept is not False
        and all(Kind.NODE in move.kinds and Kind.REFLEXIVE_PORT not in move.kinds for move in moves)
    )


@dataclass(frozen=True, slots=True)
class _Jump:
    """All sessions went from one ingress to one other; a node is known by two reflexive IPs at the most."""

    moves: tuple[Move, ...]
    key: Callable[[Identity], str | None]
    """What names a place: the reflexive IP, or under policy Local the pod's node."""
    old: frozenset[str]
    new: frozenset[str]


def _jump(case: Case, moves: tuple[Move, ...], key: Callable[[Identity], str | None]) -> _Jump | None:
    """All sessions together, between two nodes: there, or to and fro. None: not so."""
    if not case.most(len(moves)):
        return None
    places = {key(who) for m in moves for c in m.changes for who in (c.before.identity, c.after.identity)}
    starts = {key(move.old) for move in moves}
    firsts = [move.changes[0] for move in moves]
    overlap = max(c.before.sent_ns for c in firsts) <= min(c.after.sent_ns for c in firsts)
    spread_ns = max(c.after.sent_ns for c in firsts) - min(c.before.sent_ns for c in firsts)
    together = overlap or spread_ns <= 3 * case.facts.interval_ns
    old = frozenset(place for place in starts if place is not None)
    new = frozenset(place for place in places - starts if place is not None)
    if None in places or not together or not _one(case, old, key) or not _one(case, new, key):
        return None
    return _Jump(moves, key, old, new)


def _one(case: Case, places: Set[str], key: Callable[[Identity], str | None]) -> bool:
    """Whether these are one node's."""
    return one_node(case, places) if key is _ip else len(places) == 1


def _words(case: Case, places: Set[str]) -> str:
    return listed(case.place(place) for place in places)


def _of_nodes(case: Case, jump: _Jump) -> bool:
    """Whether one of the two places is a node, by name or address."""
    names = case.facts.node_names or {}
    return any(place in names or place in names.values() for place in jump.old | jump.new)


def _looks_like_client_nat(case: Case, moves: tuple[Move, ...]) -> bool:
    """All together to one address that is not known as a node's, and the pods are the same."""
    jump = _jump(case, moves, _ip)
    if jump is None or len(jump.new) > 1 or any(Kind.POD in move.kinds or move.old.pod is None for move in moves):
        return False
    return not any(case.is_node(ip) for ip in jump.old | jump.new)


def _ip(who: Identity) -> str | None:
    return who.reflexive.ip if who.reflexive is not None else None


def _node(who: Identity) -> str | None:
    return who.node


def _ips(moves: tuple[Move, ...], *, new: bool = False) -> set[str]:
    """The IPs that they had, or have."""
    seen = (_ip(move.new if new else move.old) for move in moves)
    return {ip for ip in seen if ip is not None}
