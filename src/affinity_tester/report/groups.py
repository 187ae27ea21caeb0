"""Sessions, loss, times and changes by pod, by node, and by reflexive IP: tables of a run, and a line of a period."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
    """Return `pod "a" 12 lost of its 400, p99 3.1 ms` for the worst pods of a period; empty where none lost or changed."""
    pods = [group for group in groups if group.kind is GroupKind.POD and group.name is not None]
    bad = sorted((group for group in pods if group.lost or group.changes), key=_rank)
    if len(pods) < 2:  # noqa: PLR2004 - two to compare
        return ""

    named = [f"{group.name} ({_what(group)})" for group in bad[:MOST_IN_LINE]]
    more = len(bad) - len(named)
    return ", ".join(named) + (f", {more} more" if more else "")


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
