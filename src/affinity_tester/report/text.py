"""Text for values and for single events. Nothing here has a state.

Pods, servers and records choose parts of these texts, which must be made `printable` before they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import CaseJudged, Change, Counts, Judgement
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import NothingExplains, PoolState
from affinity_tester.report.reason_text import reason_texts
from affinity_tester.units import NS_PER_MS, format_percent, plural, quoted

_NO_NODES: Mapping[str, str] = MappingProxyType({})

X_ADDRESS = frozenset({Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT})


def printable(text: str) -> str:
    """Return text without terminal escapes, bidirectional overrides or anything else that is not printed."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def percent(part: int, whole: int) -> str:
    """Return `0 %`, `0.13 %`; `0 %` of nothing."""
    return format_percent(part / whole if whole else 0.0)


def milliseconds(ns: int | None) -> str:
    """Return milliseconds in about three digits, without a unit: `0.025`, `1.52`, `1203`."""
    if ns is None:
        return "-"
    ms = ns / NS_PER_MS
    decimals = 3 if ms < 1 else 2 if ms < 10 else 1 if ms < 1_000 else 0  # noqa: PLR2004 - powers of ten
    return f"{ms:.{decimals}f}"


def served_by(identity: Identity) -> str:
    """Return who answered, as it named itself: `pod "a"`, or the address that a foreign server reflected."""
    if identity.pod is not None:
        return f"pod {quoted(identity.pod)}"
    name = "a server" if identity.software is None else quoted(identity.software)
    return name if identity.reflexive is None else f"{name} at x_address {identity.reflexive}"


def address_text(where: TransportAddress | None, nodes: Mapping[str, str] = _NO_NODES) -> str:
    """Return a reflexive address, with the name of the node whose InternalIP it has."""
    node = nodes.get(where.ip) if where is not None else None
    return f"{where} (node {quoted(node)})" if node else str(where)


def change_facts(change: Change, nodes: Mapping[str, str] = _NO_NODES) -> list[str]:
    """Return what differs, one text for each line of the log; `nodes` has node names by InternalIP.

    A new node that came with a new pod stands in the pod's text. A new instance of another pod has no text: a new process
    always has a new id.
    """
    before, after = change.before.identity, change.after.identity
    facts = []
    if X_ADDRESS.intersection(change.kinds):
        facts.append(
            f"x_address changed {address_text(before.reflexive, nodes)} -> {address_text(after.reflexive, nodes)}"
        )
    node = f"{quoted(before.node)} -> {quoted(after.node)}"
    if Kind.POD in change.kinds:
        moved = f", node_name {node}" if Kind.NODE in change.kinds else ""
        facts.append(f"pod_name changed {quoted(before.pod)} -> {quoted(after.pod)}{moved}")
    elif Kind.NODE in change.kinds:
        facts.append(f"node_name changed {node}")
    if Kind.SOFTWARE in change.kinds:
        facts.append(f"software changed {quoted(before.software)} -> {quoted(after.software)}")
    if is_restart(change):
        facts.append(f"{served_by(after)} restarted: same name, new instance")
    return facts


def is_restart(change: Change) -> bool:
    """True if a new instance answered under the name of the old one."""
    return Kind.INSTANCE in change.kinds and Kind.POD not in change.kinds


def judgement_text(event: CaseJudged) -> str:
    """Return the class with its facts: `explained by: pod "…" left the pool 0.8 s before; old pod gone`."""
    why = "; ".join(reason_texts(event.reasons))
    so_far = " so far" if event.lasts else ""
    old_pod = "" if event.avoidable is None else "; old pod still ready" if event.avoidable else "; old pod gone"

    match event.judgement:
        case Judgement.VIOLATION:
            label = f"VIOLATION{so_far}"
            if event.reasons == (NothingExplains(PoolState.NOT_WATCHED),):
                return f"{label} ({why})"
        case Judgement.EXPLAINED if why:
            label = f"explained{so_far} by"
        case _:
            label = f"{event.judgement}{so_far}"

    return label + (f": {why}" if why else "") + old_pod


def judgement_count(count: int, judgement: Judgement) -> str:
    """Return `2 violations`, `1 explained`: of the classes only a violation is a noun."""
    return plural(count, judgement) if judgement is Judgement.VIOLATION else f"{count:,} {judgement}"


def irregular_counts(counts: Counts) -> str:
    """Return `, 3 late, 1 skipped`: the counts that a statistics line adds where they are not zero."""
    parts = (
        (counts.late, "late"),
        (counts.reordered, "reordered"),
        (counts.duplicate, "duplicate"),
        (counts.timer_misses, "skipped"),
        (counts.send_errors, "send error(s)"),
        (counts.socket_drops, "socket drop(s)"),
    )
    return "".join(f", {count:,} {word}" for count, word in parts if count)
