"""Sessions, loss, times and changes by pod, by node, and by reflexive IP: tables of a run, and a line of a period."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter

from affinity_tester.core.events import GroupCounts, GroupKind
from affinity_tester.report.table import Table
from affinity_tester.report.text import milliseconds, percent
from affinity_tester.units import plural

MOST_ROWS = 20
"""Of more pods (nodes, IPs), these rows: first the bad ones, then those with most sessions."""

MOST_IN_LINE = 3
"""Of a period, so many are named in a line: those that lost or changed."""

_CAPTIONS = {
    GroupKind.POD: "by pod",
    GroupKind.NODE: "by the pod's node",
    GroupKind.REFLEXIVE_IP: "by reflexive IP (mostly the node that the packets came in through)",
}

_NAMES = {GroupKind.POD: "pod", GroupKind.NODE: "the pod's node", GroupKind.REFLEXIVE_IP: "reflexive IP"}

_HEAD = ("", "sessions", "sent", "answered", "lost", "loss", "p50 ms", "p99 ms", "changes")


def group_tables(groups: Iterable[GroupCounts], nodes: Mapping[str, str]) -> list[Table]:
    """Return a table for each kind that tells more than the run's totals; `nodes` has node names by InternalIP."""
    groups = list(groups)
    told = []
    for kind, caption in _CAPTIONS.items():
        rows = [group for group in groups if group.kind is kind]
        if len(rows) < 2 and (kind is not GroupKind.POD or all(group.name is None for group in rows)):  # noqa: PLR2004 - two to compare
            continue
        shown = sorted(rows, key=_rank)[:MOST_ROWS]
        left = len(rows) - len(shown)
        told.append(
            Table(
                caption + (f" ({MOST_ROWS} of {len(rows)})" if left else ""),
                _HEAD,
                [_row(group, nodes) for group in shown],
                has_total=False,
                spare=("answered", "p50 ms", "loss"),
            )
        )
    return told


def bad_groups_text(groups: Iterable[GroupCounts]) -> str:
    """Return `by pod: a (12 of its 400 probes lost)`: those of a period that lost or changed; empty where none is worse.

    Of pods, nodes and reflexive IPs it takes the kind of which the smallest part is bad: what a node's proxy or a path breaks
    is spread over all pods, and naming pods would accuse them.
    """
    groups = list(groups)
    found = []
    for kind, name in _NAMES.items():
        members = [group for group in groups if group.kind is kind and group.name is not None]
        bad = sorted((group for group in members if group.lost or group.changes), key=_rank)
        if bad and len(members) >= 2:  # noqa: PLR2004 - two to compare
            found.append((len(bad) / len(members), len(bad), name, bad))
    if not found:
        return ""

    _, _, name, bad = min(found, key=itemgetter(0, 1))
    named = ", ".join(f"{group.name} ({_what(group)})" for group in bad[:MOST_IN_LINE])
    more = len(bad) - MOST_IN_LINE
    return f"by {name}: {named}" + (f", {more} more" if more > 0 else "")


def _what(group: GroupCounts) -> str:
    lost = f"{group.lost:,} of its {plural(group.sent, 'probe')} lost" if group.lost else ""
    changes = f"{group.changes:,} left it" if group.changes else ""
    return ", ".join(filter(None, (lost, changes)))


def _rank(group: GroupCounts) -> tuple[int, int, int, bool, str]:
    """Order by what was lost, then by changes, then by sessions: the most first."""
    return -group.lost, -group.changes, -group.sessions, group.name is None, group.name or ""


def _row(group: GroupCounts, nodes: Mapping[str, str]) -> list[str]:
    name = "no answer, or not told" if group.name is None else group.name
    node = nodes.get(name)
    return [
        f"{name} ({node})" if node and group.kind is GroupKind.REFLEXIVE_IP else name,
        f"{group.sessions:,}",
        str(group.sent),
        str(group.answered),
        str(group.lost),
        percent(group.lost, group.sent),
        milliseconds(group.p50_ns),
        milliseconds(group.p99_ns),
        str(group.changes),
    ]
