"""UDP proxies that run as pods (ingress-nginx, Envoy, cloud-provider-kind): one that goes takes its sessions with it.

What is true then: the pods see a proxy's own address as the source, which is a pod's and no node's, and all sessions of
the one that goes leave it, whatever becomes of the others. A hash over nodes that changes (`node-rehash`) moves a part of
the sessions of each node, between addresses that are nodes'; only a node that leaves the balancer looks alike to a client
that does not know whose the addresses are.
"""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis.classify import ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView, SessionChange
from affinity_tester.core.diagnosis.masquerade import left_one_pod
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed
from affinity_tester.core.events import Certainty, Diagnosis
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.chance import DOUBT
from affinity_tester.units import plural

_MIN_SESSIONS = 2
"""Of one session alone "all of them" says nothing."""

_EXCLUDED = frozenset({"client-nat", "vip-failover", "node-rehash"})
"""What else gives sessions other addresses, and no pod's."""


def proxy_tier(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `proxy-tier`: sessions leave an address that is a pod's, or all leave one that is not known as a node's."""
    moves = groups.to_other_ip or of_two_places(view, groups)
    if not moves or view.source_ip_preserved:
        return None
    proxies = {ip for move in moves if (ip := old_ip(move)) is not None and view.is_pod(ip)}
    if proxies:
        return _known(view, moves, proxies)

    left = left_altogether(view, moves)
    if not left or view.nearly_all(len(moves)):
        return None
    mine = [move for move in moves if old_ip(move) in left]
    whose = "a proxy's pod, or a node that left the balancer"
    missing = f"whether {listed(left)} {'is' if len(left) == 1 else 'are'} {whose}"
    settle = NO_CLUSTER if view.history.node_names is None else "kubectl get pods -A -o wide"
    return diagnosis("proxy-tier", _evidence(view, mine, left), f"{missing}: {settle}")


def of_two_places(view: IncidentView, groups: ChangeGroups) -> tuple[SessionChange, ...]:
    """Return the changes between two addresses that may be one node's, or two nodes' or proxies': nobody stays at one.

    Where all left one pod it was the pod, whose node masquerades towards others with its other address, unless a proxy's
    sessions were all at that pod: by chance, or since one client's all are (affinity ClientIP).
    """
    moves = tuple(move for move in groups.to_other_pod if Kind.REFLEXIVE_IP in move.kinds)
    if view.history.node_names is not None:
        return ()
    if left_one_pod(view, moves) and _chance_of_one_pod(view, len(moves)) < DOUBT:
        return ()
    return moves if {old_ip(move) for move in view.moves} <= left_altogether(view, moves) else ()


def _chance_of_one_pod(view: IncidentView, sessions: int) -> float:
    """Return the chance that so many sessions of one proxy were all given one pod; 1 where each place has but one pod."""
    pods_at: dict[str | None, set[str | None]] = {}
    for who in view.identities.values():
        pods_at.setdefault(_ip_of(who), set()).add(who.pod)
    if max((len(pods) for pods in pods_at.values()), default=1) == 1:
        return 1.0
    pods = len({who.pod for who in view.identities.values()})
    return float((1 / pods) ** (sessions - 1))


def left_altogether(view: IncidentView, moves: Iterable[SessionChange]) -> set[str]:
    """Return the old IPs that are not known as nodes', which all their sessions left in this incident, and none came to."""
    cohorts = view.cohorts((move.session for move in moves), _ip_of)
    after = {_ip_of(who) for who in view.history.identities_at(view.to_ns).values()}
    return {
        ip
        for ip, (mine, all_) in cohorts.items()
        if mine == all_ >= _MIN_SESSIONS and ip not in after and not view.is_node(ip)
    }


def goes_to_one_new_place(view: IncidentView, moves: Iterable[SessionChange]) -> bool:
    """True if all of these came to one IP at which no session had been before: no hash sends them there alone."""
    new = {move.new.reflexive.ip for move in moves if move.new.reflexive is not None}
    before = {_ip_of(who) for who in view.identities.values()}
    return len(new) == 1 and not new & before


def beside_proxies(found: Iterable[Diagnosis], proxies: Diagnosis | None) -> list[Diagnosis]:
    """Return what may be true beside a fault of the proxies: where it is likely, nothing that has no pods' addresses."""
    sure = proxies is not None and proxies.certainty is Certainty.LIKELY
    return [each for each in found if not sure or each.name not in _EXCLUDED]


def old_ip(move: SessionChange) -> str | None:
    """Return the reflexive IP before the changes."""
    return _ip_of(move.old)


def _known(view: IncidentView, moves: tuple[SessionChange, ...], proxies: set[str]) -> Diagnosis:
    mine = [move for move in moves if old_ip(move) in proxies]
    gone = left_altogether(view, mine) or {
        ip
        for ip, (some, all_) in view.cohorts((m.session for m in mine), _ip_of).items()
        if ip in proxies and some == all_
    }
    evidence = _evidence(view, mine, gone or proxies)
    if gone:
        return diagnosis("proxy-tier", evidence)
    came = {ip for move in mine if (ip := _ip_of(move.new)) is not None and view.is_pod(ip)}
    if came - {_ip_of(who) for who in view.identities.values()}:
        return diagnosis("proxy-tier", [*evidence, "a proxy that had no session before takes some of the others'"])
    return diagnosis("proxy-tier", evidence, "whether a proxy's pod came or went then: kubectl get events -A")


def _evidence(view: IncidentView, moves: list[SessionChange], left: set[str]) -> list[str]:
    said = []
    for ip, (mine, all_) in view.cohorts((move.session for move in moves), _ip_of).items():
        to = {new for move in moves if old_ip(move) == ip and (new := _ip_of(move.new)) is not None}
        which = (
            f"all {plural(all_, 'session')}" if ip in left and mine == all_ else f"{mine} of {plural(all_, 'session')}"
        )
        said.append(f"{which} of {view.place(ip)} moved to {listed(map(view.place, to))}")
    others = len(view.identities) - len(moves)
    lost = sum(move.lost for move in moves)
    return [
        *said[:3],
        f"{plural(others, 'other session')} {has(others)} not moved; {view.loss_text(lost)}",
    ]


def _ip_of(who: Identity) -> str | None:
    return None if who.reflexive is None else who.reflexive.ip
