"""Faults that the whole run shows and no single incident does."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

from affinity_tester.core.address import LOCAL_CHECK_NS
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, listed, pods, was
from affinity_tester.core.events import ClientFaultKind, Diagnosis
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.verdict import MAX_SELF_INFLICTED, MAX_TIMER_MISSES
from affinity_tester.units import plural

_MAX_CHANCE = 0.01
"""An accident less probable than this is not believed."""

_FIRST_PROBES = 3
"""How many probes count as a session's first ones."""

_SIZE_LOST = 10
"""Probes of one size lost before their share means something."""

_SIZE_SHARE = 0.05
"""The loss of one size of probes means something from this share on."""

_SIZE_RATIO = 10
"""It is also at least so many times that of the size with the least loss."""

_COMMON_MTU = 1472
"""The largest UDP payload over IPv4 and plain Ethernet in one packet."""


def self_inflicted(history: RunHistory) -> Diagnosis | None:
    """Diagnose `self-inflicted`: the client dropped replies, refused to send or missed slots itself."""
    total = history.total
    refused = 0 if _refused_without_address(history) else total.send_errors
    own = total.own_losses + refused
    tried = total.sent + total.send_errors
    slots = tried + total.timer_misses

    evidence = []
    if own > MAX_SELF_INFLICTED * tried:
        evidence.append(
            f"this machine dropped {plural(total.socket_drops, 'datagram')} at full socket buffers, which cost "
            f"{plural(total.own_losses, 'reply')}, and refused {plural(refused, 'probe')}: {own / max(1, tried):.2%} of "
            f"{plural(tried, 'probe')}"
        )
    if total.timer_misses > MAX_TIMER_MISSES * slots:
        evidence.append(
            f"this client missed {plural(total.timer_misses, 'slot')} of {slots:,} ({total.timer_misses / max(1, slots):.2%})"
        )
    return diagnosis("self-inflicted", evidence) if evidence else None


def client_ip_spread(history: RunHistory) -> Diagnosis | None:
    """Diagnose `client-ip-spread`: ClientIP affinity is set, or seems so at each node, and one client IP has several pods."""
    affinity = history.spec("sessionAffinity")
    by_ip: dict[str, dict[str, Identity]] = {}
    for name, session in history.sessions.items():
        if session.local is not None and session.identities and not session.silent:
            by_ip.setdefault(session.local.ip, {})[name] = session.identities[-1][1]
    spread = {ip: {who.pod for who in served.values() if who.pod is not None} for ip, served in by_ip.items()}
    ip, served_by = max(spread.items(), key=lambda item: len(item[1]), default=("", set()))
    if affinity not in {"ClientIP", None} or len(served_by) < 2:  # noqa: PLR2004 - one is what affinity promises
        return None

    many = f"the {plural(len(by_ip[ip]), 'session')} of client IP {ip} are served by {plural(len(served_by), 'pod')} at once"
    per_node: dict[str, set[str | None]] = {}
    for who in by_ip[ip].values():
        if who.reflexive is not None:
            per_node.setdefault(who.reflexive.ip, set()).add(who.pod)
    kept = len(per_node) > 1 and all(len(names) == 1 for names in per_node.values())
    each = f"each of the {plural(len(per_node), 'ingress IP')} keeps to one pod"
    if affinity is not None:
        evidence = [f"sessionAffinity is ClientIP, yet {many}: {pods(served_by)}"]
        return diagnosis(
            "client-ip-spread", [*evidence, f"{each}: each node has its own affinity"] if kept else evidence
        )

    # A pod that is seen from two IPs is drawn anew for each flow: a node's two addresses tell its own pods from others'.
    alone = kept and len(per_node) == len(served_by)
    by_chance = len(served_by) ** (len(per_node) - len(by_ip[ip]))
    if not alone or by_chance > _MAX_CHANCE:
        return None

    missing = f"the Service's sessionAffinity, where each node does not just serve its own pods: {NO_CLUSTER}"
    return diagnosis("client-ip-spread", [f"{many}: {pods(served_by)}", f"{each}, another one each"], missing)


def rewritten_from_the_start(history: RunHistory) -> Diagnosis | None:
    """Diagnose `port-rewrite`: pods always saw the client's own IP with another port, which breaks nothing."""
    known = [
        (session.local, session.first.reflexive)
        for session in history.sessions.values()
        if session.local is not None and session.first is not None and session.first.reflexive is not None
    ]
    local = history.spec("externalTrafficPolicy", 0) == "Local"
    other_port = [(own, seen) for own, seen in known if own.port != seen.port]
    rewritten = [(own, seen) for own, seen in other_port if own.ip == seen.ip]
    missing = ""
    if not rewritten and local:
        rewritten = other_port
        missing = "whether the client is behind a NAT of its own: the IP differs too"
    if not rewritten:
        return None

    own, seen = rewritten[0]

    evidence = [
        f"{len(rewritten)} of {plural(len(known), 'session')} had another port from the first reply on, "
        f"such as {own} seen as {seen}: information, and no break by itself"
    ]
    return diagnosis("port-rewrite", evidence, missing)


def wrong_source(history: RunHistory) -> Diagnosis | None:
    """Diagnose `wrong-source`: replies came from another address than the Service's, with or without an incident."""
    seen = history.wrong_sources
    if not seen:
        return None

    strayed = len({event.session for event in seen})
    evidence = [
        f"{strayed} of {plural(len(history.sessions), 'session')} {was(strayed)} answered from "
        f"{listed({str(event.source) for event in seen})}; probes go to {seen[0].expected}",
        f"{plural(history.total.wrong_source, 'such reply')} in all",
    ]
    return diagnosis("wrong-source", evidence)


def mtu(history: RunHistory) -> Diagnosis | None:
    """Diagnose `mtu`: loss depends on the probe's size alone."""
    sizes = history.sizes
    sent, lost = history.total.sent, history.total.lost
    if len(sizes) > 1:
        each = sent / len(sizes)
        shares = [history.lost_by_size[position] / each if each else 0.0 for position in range(len(sizes))]
        worst = shares.index(max(shares))
        clear = shares[worst] >= _SIZE_SHARE and shares[worst] >= _SIZE_RATIO * min(shares)
        if not clear or history.lost_by_size[worst] < _SIZE_LOST:
            return None
        return diagnosis(
            "mtu",
            [
                f"of the probes of {size:,} bytes {share:.1%} were lost ({plural(history.lost_by_size[position], 'probe')})"
                for position, (size, share) in enumerate(zip(sizes, shares, strict=True))
            ],
        )
    if not sizes or sizes[0] <= _COMMON_MTU or not sent or lost < max(_SIZE_LOST, _SIZE_SHARE * sent):
        return None

    evidence = [f"{lost / sent:.1%} of the probes of {sizes[0]:,} bytes were lost"]
    return diagnosis("mtu", evidence, "probes of a smaller size beside them (--sizes)")


def first_packet_race(history: RunHistory) -> Diagnosis | None:
    """Diagnose `first-packet-race`: only the first packets of new sessions are lost."""
    begun = [session for session in history.sessions.values() if session.first is not None]
    unlucky = [session for session in begun if 0 < session.start_lost <= _FIRST_PROBES]
    if len(unlucky) < 2:  # noqa: PLR2004 - one lost packet is no pattern
        return None

    at_start = sum(session.start_lost for session in unlucky)
    later, probes = history.total.lost - at_start, history.total.sent - at_start
    rate = (max(later, 0) + 1) / (max(probes, 0) + 1)  # one more than seen: no loss so far does not mean none ever
    if _chance_of_at_least(len(begun), len(unlucky), rate) > _MAX_CHANCE:
        return None

    longest = max(session.start_lost for session in unlucky)
    first = "their first probe" if longest == 1 else f"their first {longest} probes at most"

    evidence = [
        f"{len(unlucky)} of {plural(len(begun), 'session')} lost {first}, "
        f"{plural(at_start, 'probe')} in all, and were answered then",
        f"{later:,} of the {plural(probes, 'probe')} after {was(later)} lost",
    ]
    if len(unlucky) == len(begun):
        return diagnosis("first-packet-race", evidence, "a session begun then whose first probe was answered")
    return diagnosis("first-packet-race", evidence)


def client_socket(history: RunHistory) -> Diagnosis | None:
    """Diagnose `client-socket`: this machine's own address changed in the run."""
    details = {event.detail for event in history.client_faults if event.fault is ClientFaultKind.LOCAL_ADDRESS}
    return diagnosis("client-socket", [listed(details)]) if details else None


def snat_collision(history: RunHistory) -> Diagnosis | None:
    """Diagnose `snat-collision`: two sessions have the same reflexive address at one pod."""
    holders: dict[tuple[object, ...], list[str]] = {}
    for name, session in history.sessions.items():
        who = session.identities[-1][1] if session.identities else None
        if who is not None and who.reflexive is not None:
            holders.setdefault((who.pod, who.instance, who.reflexive), []).append(name)
    shared = {key: names for key, names in holders.items() if len(names) > 1}
    if not shared:
        return None

    evidence = [
        f"{plural(len(names), 'session')} ({listed(names)}) are seen at the same address {key[2]} by one pod"
        for key, names in sorted(shared.items(), key=lambda item: -len(item[1]))[:3]
    ]
    return diagnosis("snat-collision", evidence)


RULES: tuple[Callable[[RunHistory], Diagnosis | None], ...] = (
    client_socket,
    snat_collision,
    wrong_source,
    mtu,
    client_ip_spread,
    first_packet_race,
    rewritten_from_the_start,
    self_inflicted,
)


def _refused_without_address(history: RunHistory) -> bool:
    """True if sends failed only since this machine lost its address: that is `client-socket`."""
    refused_ns = [event.at_ns for event in history.client_faults if event.fault is ClientFaultKind.SEND_ERROR]
    moved_ns = [event.at_ns for event in history.client_faults if event.fault is ClientFaultKind.LOCAL_ADDRESS]
    return bool(refused_ns and moved_ns) and min(refused_ns) >= min(moved_ns) - LOCAL_CHECK_NS


def _chance_of_at_least(of: int, at_least: int, rate: float) -> float:
    """Return the chance that at least so many of `of` are hit when each is hit at this rate, independently."""
    return sum(comb(of, hits) * rate**hits * (1 - rate) ** (of - hits) for hits in range(at_least, of + 1))
