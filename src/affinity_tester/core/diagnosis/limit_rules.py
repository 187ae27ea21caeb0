"""A box on the way ends each session after so many probes or so much time: nginx, Envoy, a balancer's own limits.

What is true then: every session keeps its address for the same number of probes (or the same time) since its own last
change, from its first probe on; none keeps it longer; and none ever gets back an address that it had.

What it is not: a table wiped again and again (`flow-wipe`) changes all sessions of an ingress in one moment, so it cannot
hit some of them and spare others, and the first wipe comes at any distance from the run's start. Timeouts (`idle-expiry`)
end what pauses. Packets that are spread (`packet-spray`) meet another place after any number of probes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod

from affinity_tester.core.diagnosis.classify import PAUSE_NS, ChangeGroups
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.lifetimes import Lifetime, age, gets_old_addresses_back, lifetimes
from affinity_tester.core.diagnosis.masquerade import may_be_one_node
from affinity_tester.core.diagnosis.text import diagnosis
from affinity_tester.core.events import Certainty, Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.core.incidents import BURST
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_seconds, plural

_JITTER_NS = 5 * NS_PER_MS
"""How much the time between two probes varies on the way, and on a busy client."""

_MAX_CHANCE = 0.01
"""An accident less probable than this is not believed. It is asked of every incident of a run, so it is a small one."""

_MIN_SHARE = 0.25
"""The most that chance can give: of packets that are spread, every fourth lifetime at best has a given length above one."""

_MIN_SYNC_NS = NS_PER_S
"""kube-proxy's minSyncPeriod (k8s.io/kubernetes, pkg/proxy/apis/config/v1alpha1). It may sync twice in a row, and nothing
syncs more often (burstSyncs of pkg/proxy/iptables/proxier.go)."""

_MIN_SESSIONS = 3
"""So many sessions that change after the same number of probes show a pattern."""

_RIVALS = frozenset({"flow-wipe", "node-rehash", "packet-spray", "port-rewrite", "client-nat", "vip-failover"})
"""What a limit looks like as long as it was met once."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """All lifetimes that have ended fit one limit."""

    lives: tuple[Lifetime, ...]
    probes: tuple[int, int] | None
    """The fewest and the most probes that it may be; None: only the time is constant."""
    span_ns: tuple[int, int]
    """The shortest and the longest time that it may be."""
    spec_timeout: str
    """The Service's own timeout, where it is as long; else empty."""


def session_limit(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `session-limit`: each session changes after the same number of probes, or the same time, of its own."""
    sessions = view.history.sessions
    if not view.moves or groups.by_size or any(move.longest_loss >= BURST for move in view.moves):
        return None
    if any(gets_old_addresses_back(sessions[move.session]) for move in view.moves):
        return None
    limit = _constant(view)
    if limit is None:
        return None
    if limit.probes == (1, 1):
        return _after_each_probe(view, limit)
    if groups.after_pause:
        return None  # sessions that paused may have been forgotten for that

    is_no_chance = _chance(limit) < _MAX_CHANCE
    if is_no_chance and (_no_common_moment(view) or _from_the_first_probe(limit) or _is_faster_than_any_sync(limit)):
        return diagnosis("session-limit", _evidence(view, limit))
    once = all(life.is_first for life in limit.lives)
    if not (_may_be_the_first(view, limit) if once else is_no_chance):
        return None
    return diagnosis(
        "session-limit",
        _evidence(view, limit),
        "whether each session changes again after as many probes of its own: a run of twice the length",
    )


def repeated_limit(view: IncidentView, groups: ChangeGroups) -> Diagnosis | None:
    """Diagnose `session-limit` where it was met again and again, and where the client's own NAT may do the same.

    What no session kept for a second probe may be likely all the same: nothing is renewed at that pace.
    """
    found = session_limit(view, groups)
    limit = _constant(view) if found is not None else None
    if found is None or limit is None or limit.probes == (1, 1):
        return found
    if all(life.is_first for life in limit.lives):
        return None
    missing = found.missing or "whether it is the client's own NAT that renews its mappings: --reference HOST"
    return replace(found, certainty=Certainty.POSSIBLE, missing=missing)


def beside_limit(found: Iterable[Diagnosis], limit: Diagnosis | None) -> Iterable[Diagnosis]:
    """Return what is likely beside a limit: nothing of what a limit looks like, as long as that may be one."""
    if limit is None:
        return found
    if limit.certainty is Certainty.LIKELY:
        return [limit, *(d for d in found if d.name not in _RIVALS)]
    missing = "whether each session changes again after as many probes of its own: a run of twice the length"
    return [
        *(
            replace(d, certainty=Certainty.POSSIBLE, missing=d.missing or missing) if d.name in _RIVALS else d
            for d in found
        ),
        limit,
    ]


# --- how ---------------------------------------------------------------------------------------------------------------


def _constant(view: IncidentView) -> _Limit | None:
    """Return the limit that fits all lifetimes of all sessions, those that last too; None where none does."""
    history = view.history
    lives = tuple(lifetimes(history, view.now_ns))
    if not {move.session for move in view.moves} <= {life.session for life in lives}:
        return None

    probes = max(life.min_probes for life in lives), min(life.max_probes for life in lives)
    span_ns = (
        max(life.min_ns for life in lives) - _JITTER_NS,
        min(life.max_ns for life in lives) + _JITTER_NS,
    )
    ages = [found for s in history.sessions.values() if (found := age(history, s, view.now_ns)) is not None]
    by_count = probes[0] <= probes[1] and all(answered <= probes[1] for answered, _ in ages)
    by_time = span_ns[0] <= span_ns[1] and all(
        answered * history.interval_ns <= span_ns[1] + history.interval_ns for answered, _ in ages
    )
    if not by_count and not by_time:
        return None
    return _Limit(lives, probes if by_count else None, span_ns, _spec_timeout(view, span_ns) if by_time else "")


def _spec_timeout(view: IncidentView, span_ns: tuple[int, int]) -> str:
    """Return the Service's timeoutSeconds of ClientIP where it lies within these times."""
    whole = range(-(-span_ns[0] // NS_PER_S), span_ns[1] // NS_PER_S + 1)
    timeout = view.history.spec("sessionAffinityTimeout")
    return next((text for seconds in whole if (text := f"{seconds} s") == timeout), "")


def _after_each_probe(view: IncidentView, limit: _Limit) -> Diagnosis | None:
    """Return the diagnosis where no session kept its address for a second probe.

    Where probes are seconds apart, a timeout shorter than that shows the same (the catalogue's equivalence). At a pace that
    no timeout explains, packets that are spread show it too, unless a proxy's own pod is seen as the source.
    """
    if _MIN_SHARE ** (len(limit.lives) - 1) >= _MAX_CHANCE:
        return None
    pause_ns = min(move.pause_ns for move in view.moves)
    if pause_ns > view.history.affinity_window_ns:
        return None  # no limit is needed: every table forgets in that time

    evidence = _evidence(view, limit)
    if pause_ns >= PAUSE_NS:
        return diagnosis("session-limit", evidence, "whether sessions change as often at a shorter --interval")
    if not _stays_at_its_ingress(view):
        return None
    if all(view.is_pod(ip) for ip in _ips(view)):
        return diagnosis("session-limit", evidence)
    return diagnosis(
        "session-limit", evidence, "whether a proxy on the way ends each session after one reply or request"
    )


def _chance(limit: _Limit) -> float:
    """Return the chance that all lifetimes fit the limit by accident: each as wide as its own bounds are."""
    shares = (_share(limit, life) for life in limit.lives[1:])
    return prod(max(share, _MIN_SHARE) for share in shares)


def _share(limit: _Limit, life: Lifetime) -> float:
    """Return how exactly a lifetime is known, as a share of it."""
    if limit.probes is not None:
        return (life.max_probes - life.min_probes + 1) / life.max_probes
    return (life.max_ns - life.min_ns) / life.max_ns


def _stays_at_its_ingress(view: IncidentView) -> bool:
    """True if each session keeps its ingress: one IP, or those that are one node's, or may be."""
    known = view.node_names
    for move in view.moves:
        ips = {
            who.reflexive.ip for _, who in view.history.sessions[move.session].identities if who.reflexive is not None
        }
        if len({known.get(ip, ip) for ip in ips}) != 1 and not may_be_one_node(view, ips):
            return False
    return True


def _ips(view: IncidentView) -> set[str]:
    seen = (move.new.reflexive for move in view.moves)
    return {address.ip for address in seen if address is not None}


def _no_common_moment(view: IncidentView) -> bool:
    """True if no wipe of a table can have changed these sessions: it hits all of an ingress at one moment."""
    at: dict[str | None, list[tuple[int, int]]] = {}
    for move in view.moves:
        first = move.changes[0]
        at.setdefault(view.ingress(move.old), []).append((first.before.sent_ns, first.after.sent_ns))
    for ingress, brackets in at.items():
        there = sum(view.ingress(who) == ingress for who in view.identities.values())
        if len(brackets) < there or max(start for start, _ in brackets) >= min(end for _, end in brackets):
            return True
    return False


def _from_the_first_probe(limit: _Limit) -> bool:
    """True if sessions changed again and again after as many probes as the first time.

    Wipes begin at any distance from the run's start, and each one has to come as long after the one before. That they hit
    all sessions in the one gap between their phases counts for nothing: the first may come there by chance.
    """
    first = {life.session for life in limit.lives if life.is_first}
    again = Counter(life.session for life in limit.lives if not life.is_first and life.session in first)
    share = max((_share(limit, life) for life in limit.lives), default=1.0)
    return len(again) >= _MIN_SESSIONS and share ** min(again.values()) < _MAX_CHANCE


def _is_faster_than_any_sync(limit: _Limit) -> bool:
    """True if a session changed so often that no proxy's syncs can be the cause.

    What a first lifetime began with is the run's start, and no sync. Of n + 1 changes in a row the last needs a sync that
    comes n - 1 periods after the first.
    """
    again = Counter(life.session for life in limit.lives if not life.is_first)
    most = max(again.values(), default=0)
    return most * limit.span_ns[1] < (most - 1) * _MIN_SYNC_NS


def _may_be_the_first(view: IncidentView, limit: _Limit) -> bool:
    """True if all sessions changed together for the first time, as a limit ends them all that began together.

    Not where all went from one ingress to another: a new port would be hashed anew. Nor where all kept their pods though
    a new flow draws one.
    """
    if not view.nearly_all(len(view.moves)) or view.source_ip_preserved:
        return False
    losers = sum(move.lost > 0 for move in view.moves)
    if not all(Kind.REFLEXIVE_PORT in move.kinds for move in view.moves) or 2 * losers >= len(view.moves):
        return False
    old = {move.old.reflexive.ip for move in view.moves if move.old.reflexive is not None}
    redrawn = any(Kind.POD in move.kinds for move in view.moves) or view.history.spec("sessionAffinity") == "ClientIP"
    return (
        limit.probes is not None
        and bool(old & _ips(view))
        and redrawn
        and len({life.session for life in limit.lives}) >= _MIN_SESSIONS
    )


def _evidence(view: IncidentView, limit: _Limit) -> list[str]:
    sessions = {life.session for life in limit.lives}
    lasts_ns = sum(limit.span_ns) // 2
    if limit.probes is None:
        each = f"each {format_seconds(lasts_ns)} after its own last change"
    elif limit.probes == (1, 1):
        each = "each at its next probe after its own last change"
    else:
        low, high = limit.probes
        number = plural(low, "probe") if low == high else f"{low:,} to {plural(high, 'probe')}"
        each = f"each {number}, or {format_seconds(lasts_ns)}, after its own last change"
    evidence = [
        f"{view.share(move.session for move in view.moves)}, {each}",
        f"so ended {plural(len(limit.lives), 'lifetime')} of {plural(len(sessions), 'session')}, and none lasted longer; "
        "no address came again",
    ]
    if limit.spec_timeout:
        evidence.append(f"that is the Service's sessionAffinity timeoutSeconds ({limit.spec_timeout})")
    return evidence
