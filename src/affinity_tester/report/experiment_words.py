"""What experiments came to, in words: the parts that all texts of it are made from.

Names of pods, nodes and versions come from the cluster, so every text must be made `printable` before it is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from affinity_tester.core.diagnosis.catalogue import CATALOGUE
from affinity_tester.core.experiment.results import (
    CellOutcome,
    CellResult,
    ExperimentReport,
    ExperimentResult,
    Held,
    RanOn,
)
from affinity_tester.report.text import percent
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration, format_seconds, plural

Rows = Sequence[tuple[str, str]]
"""Names and what stands beside them."""

TABLE = (
    "Sessions that moved, by external traffic policy and session affinity (own: their pod or ingress node went away; "
    "beyond: they need not have moved; dark: the longest blackout of each)"
)
"""What the table of a matrix is about."""

_SECONDS_FROM_NS = 950 * NS_PER_MS

NONE = "none"
"""What it says of a Service whose sessions all stayed."""

_WORST_FIRST = (Held.NO, Held.UNKNOWN, Held.YES)


def overall(held: Iterable[Held]) -> Held:
    """Return what several come to: broken where one is, else not known where one is not; of none nothing is known."""
    seen = set(held)
    return next((each for each in _WORST_FIRST if each in seen), Held.UNKNOWN)


def held_of(result: ExperimentResult) -> Held:
    """Return whether an experiment's requirement held, over all of its Services."""
    held = overall(cell.outcome.held for cell in result.cells)
    return Held.UNKNOWN if result.failure and held is Held.YES else held


def verdict_text(report: ExperimentReport) -> str:
    """Return how many requirements held: `9 experiments: 7 held, 1 broken, 1 cannot tell`."""
    counts = Counter(map(held_of, report.results))
    told = [f"{counts[held]:,} {held}" for held in (Held.YES, Held.NO, Held.UNKNOWN) if counts[held]]
    return f"{plural(len(report.results), 'experiment')}: {', '.join(told) or 'none was made'}"


def asked_text(report: ExperimentReport) -> str:
    """Return what was run: sessions, their interval, the time, and this tool's version."""
    began = datetime.fromtimestamp(report.started_wall_ns // NS_PER_S, UTC)
    services = " of each Service" if report.matrix else ""
    return (
        f"{plural(report.sessions, 'session')}{services}, a probe every {format_duration(report.interval_ns)} each; "
        f"{began:%Y-%m-%d %H:%M} UTC; affinity-tester {report.version}"
    )


# --- cells -------------------------------------------------------------------------------------------------------------


def cell_name(cell: CellResult) -> str:
    """Return `Cluster, None`: the policy and the affinity; the Service's name where neither is known."""
    return ", ".join(filter(None, (cell.policy, cell.affinity))) or cell.service or "the Service"


def cell_text(outcome: CellOutcome) -> str:
    """Return what a table says of a cell: `none`, or `7 of 7 own moved; median 1.2 s dark`."""
    moved, least = set(outcome.moved), outcome.least or ()
    parts = []
    if outcome.held is Held.UNKNOWN:
        parts.append(str(Held.UNKNOWN))
    if outcome.beyond:
        parts.append(f"{len(outcome.beyond):,} beyond")
    if least:
        parts.append(f"{len(moved.intersection(least)):,} of {len(least):,} own moved")
    elif moved and not outcome.beyond:
        parts.append(f"{len(moved):,} moved")
    if outcome.blackouts.still_silent:
        parts.append(f"{outcome.blackouts.still_silent:,} silent")
    if moved and outcome.blackouts.median_ns is not None:
        parts.append(f"median {_dark(outcome.blackouts.median_ns)} dark")
    return "; ".join(parts) or NONE


def moved_text(outcome: CellOutcome) -> str:
    """Return how many sessions moved, against the least possible."""
    sessions = plural(outcome.sessions, "session")
    moved = f"{len(outcome.moved):,} of {sessions} moved"
    if outcome.moved:
        moved += f" ({outcome.moved_pod:,} to another pod, {outcome.moved_address:,} to another address)"
    if outcome.least is None:
        return f"{moved}; how many had to is {outcome.least_reason}"
    told = [f"{len(outcome.least) or 'none'} had to: {outcome.least_reason}"]
    if outcome.beyond or (outcome.moved and set(outcome.moved) <= set(outcome.least)):
        told.append(f"{_count(outcome.beyond)} moved beyond that")
    if outcome.moved:
        told.append(f"{_count(outcome.twice)} moved more than once")
    if outcome.unclear:
        told.append(f"{_count(outcome.unclear)} perhaps not by the cluster")
    return f"{moved}; {'; '.join(told)}"


def _count(sessions: Sequence[str]) -> str:
    return f"{len(sessions):,}" if sessions else "none"


def dark_text(outcome: CellOutcome) -> str:
    """Return for how long sessions were not answered, and what was lost."""
    dark, lost = outcome.blackouts, f"{outcome.lost:,} of {plural(outcome.sent, 'probe')} lost"
    lost += f" ({percent(outcome.lost, outcome.sent)})" if outcome.lost else ""
    if dark.median_ns is None or dark.p95_ns is None or dark.worst_ns is None:
        return lost
    longest = f"median {_dark(dark.median_ns)}, p95 {_dark(dark.p95_ns)}, worst {_dark(dark.worst_ns)}"
    silent = f"; {dark.still_silent:,} silent at the end" if dark.still_silent else ""
    return f"{lost}; longest blackout of {plural(dark.sessions, 'session')}: {longest}{silent}"


def seen_text(name: str) -> str:
    """Return what was seen with what it means: `likely flow-wipe: the proxy drops live flows ...`."""
    known = CATALOGUE.get(name.rpartition(" ")[2])
    return f"{name}: {known.what}" if known is not None else name


def _dark(ns: int) -> str:
    """Return how long a blackout was, from about a second on to a tenth: it is known to an interval."""
    return format_seconds(ns) if ns >= _SECONDS_FROM_NS else format_duration(ns)


def cell_rows(cell: CellResult) -> Rows:
    """Return all that is said of a cell, without its name and whether the requirement held there."""
    outcome = cell.outcome
    rows = [("why", reason) for reason in outcome.reasons]
    if outcome.sent or outcome.least is not None:  # else nothing was counted: there was no action
        rows.append(("moved", moved_text(outcome)))
    if outcome.sent:
        rows.append(("lost", dark_text(outcome)))
    if outcome.violations:
        rows.append(("violations", f"{outcome.violations:,}"))
    if outcome.names:
        rows += [("seen", seen_text(name)) for name in outcome.names]
    return [*rows, ("claim", outcome.claim)] if outcome.claim else rows


# --- experiments -------------------------------------------------------------------------------------------------------


def result_rows(result: ExperimentResult) -> Rows:
    """Return what an experiment required, did, and undid."""
    phases = ", ".join(f"{phase.name} {format_duration(phase.until_ns - phase.since_ns)}" for phase in result.phases)
    rows = [
        ("must hold", result.requirement),
        ("said by", result.source),
        ("done", result.action or "nothing"),
        (str(result.kind), result.undone),
        ("failed", result.failure),
        ("phases", phases),
    ]
    return [(name, text) for name, text in rows if text]


def ran_on_rows(ran_on: RanOn) -> Rows:
    """Return what experiments ran on, as far as it is known, and what is not."""
    rows = [
        ("context", ran_on.context),
        ("Kubernetes", ran_on.kubernetes),
        ("nodes", "" if ran_on.nodes is None else f"{ran_on.nodes:,}"),
        ("OS", _shares(ran_on.os, ran_on.nodes)),
        ("kernel", _shares(ran_on.kernels, ran_on.nodes)),
        ("runtime", _shares(ran_on.runtimes, ran_on.nodes)),
        ("kubelet", _shares(ran_on.kubelets, ran_on.nodes)),
        ("proxy", ran_on.proxy),
        ("CNI", ran_on.cni),
        ("cloud", ran_on.cloud),
        ("balancer", ran_on.balancer),
        ("by way of", ran_on.via),
        ("not known", "; ".join(ran_on.missing)),
    ]
    return [(name, text) for name, text in rows if text]


def _shares(values: Sequence[tuple[str, int]], nodes: int | None) -> str:
    """Return `v1.36.0`, or where nodes differ how many have each: `v1.36.0 (2), v1.35.1 (1)`."""
    if len(values) == 1 and values[0][1] == nodes:
        return values[0][0]
    return ", ".join(f"{value} ({count:,})" for value, count in values)


def columns(report: ExperimentReport) -> list[str]:
    """Return the names of all cells, in the order in which they first stand in a result."""
    return list(dict.fromkeys(cell_name(cell) for result in report.results for cell in result.cells))


def cells_by_name(result: ExperimentResult) -> dict[str, CellResult]:
    """Return a result's cells by their names."""
    return {cell_name(cell): cell for cell in result.cells}
