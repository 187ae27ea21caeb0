"""Compares two reports of experiments, cell by cell, and the cells of one measure all together.

An experiment's requirement is absolute: one session that moves breaks it. Whether that is *new* is another question: what
was broken once in AFTER may have been as likely in BEFORE. So a requirement that broke is told, and is a regression only
where what broke it differs beyond chance. Sessions of a cell count as independent draws; what an action does to several of
them at once is one draw, which a repeated experiment tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from affinity_tester.core.comparison.differences import differences, report_settings
from affinity_tester.core.comparison.holm import PValue
from affinity_tester.core.comparison.ranks import spread
from affinity_tester.core.comparison.results import (
    Comparison,
    Direction,
    Figure,
    HeldChange,
    Measure,
    Row,
    Side,
    Unit,
    Why,
)
from affinity_tester.core.comparison.weigh import (
    Candidate,
    Of,
    Series,
    median_figure,
    not_compared,
    series,
    share_figure,
    shares,
    told,
    weigh,
)
from affinity_tester.core.exact import strata_differ
from affinity_tester.core.experiment.results import CellOutcome, CellResult, ExperimentReport, ExperimentResult, Held
from affinity_tester.units import NS_PER_MS

BLACKOUT_FLOOR = (500 * NS_PER_MS, 0.25)
"""Blackouts whose medians differ by less do not matter: this time, or this share of the one before; nor by two intervals."""

_FEWEST_RANKED = 4
"""Sessions that lost a probe, in each: 4 against 4 come out at 3 % at the least."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """A cell of an experiment that both have."""

    where: str
    requirement: str
    before: CellOutcome
    after: CellOutcome


def compare_experiments(before: ExperimentReport, after: ExperimentReport, confidence: float) -> Comparison:
    """Return all of the comparison of two reports."""
    ours, theirs = _by_name(before), _by_name(after)
    failed = [
        (name, failure) for name in ours if name in theirs and (failure := ours[name].failure or theirs[name].failure)
    ]
    both = [name for name in ours if name in theirs and name not in dict(failed)]
    cells, lacking = _matched([(name, ours[name], theirs[name]) for name in both])

    floor_ns = 2 * max(before.interval_ns, after.interval_ns)
    found = [row for cell in cells for row in _rows(cell, floor_ns, confidence)]
    found += _in_all(cells, confidence)
    weighed, level = weigh([row for row in found if isinstance(row, Candidate)], confidence)
    left = iter(weighed)
    rows = tuple(next(left) if isinstance(row, Candidate) else row for row in found)

    return Comparison(
        kind="experiments",
        confidence=confidence,
        before=_side(before),
        after=_side(after),
        differences=differences(report_settings(before), report_settings(after)),
        rows=rows,
        held=tuple(_held(cells, rows)),
        still_broken=tuple(cell.where for cell in cells if cell.before.held is cell.after.held is Held.NO),
        appeared=tuple(_names(cells, after=True)),
        vanished=tuple(_names(cells, after=False)),
        only_before=(*(name for name in ours if name not in theirs), *lacking[0]),
        only_after=(*(name for name in theirs if name not in ours), *lacking[1]),
        not_run=tuple(failed),
        level=level,
    )


# --- which belong together ----------------------------------------------------------------------------------------------


def _by_name(report: ExperimentReport) -> dict[str, ExperimentResult]:
    """Return experiments by name; one that was run again has its number."""
    seen: Counter[str] = Counter()
    found = {}
    for result in report.results:
        seen[result.name] += 1
        again = seen[result.name]
        found[result.name if again == 1 else f"{result.name} (run {again})"] = result
    return found


def _by_label(result: ExperimentResult) -> dict[str, CellResult]:
    """Return cells by policy and affinity, or by the Service where these are not known or not one cell's alone."""
    labels = Counter(_label(cell) for cell in result.cells)
    return {cell.service if labels[_label(cell)] > 1 else _label(cell): cell for cell in result.cells}


def _label(cell: CellResult) -> str:
    return f"{cell.policy}, {cell.affinity}" if cell.policy and cell.affinity else cell.service


def _matched(
    results: list[tuple[str, ExperimentResult, ExperimentResult]],
) -> tuple[list[_Cell], tuple[list[str], list[str]]]:
    """Return the cells that both sides have, and the names of those that only one has."""
    cells: list[_Cell] = []
    only: tuple[list[str], list[str]] = ([], [])
    for name, before, after in results:
        ours, theirs = _by_label(before), _by_label(after)
        if len(ours) == len(theirs) == 1:  # the one Service of each, whatever it is called
            theirs = {next(iter(ours)): next(iter(theirs.values()))}
        cells += [
            _Cell(f"{name} ({label})", after.requirement, ours[label].outcome, theirs[label].outcome)
            for label in ours
            if label in theirs
        ]
        only[0].extend(f"{name} ({label})" for label in ours if label not in theirs)
        only[1].extend(f"{name} ({label})" for label in theirs if label not in ours)
    return cells, only


# --- what is compared -----------------------------------------------------------------------------------------------------


def _rows(cell: _Cell, floor_ns: int, confidence: float) -> Iterator[Candidate | Row]:
    """Compare a cell."""
    pair = cell.before, cell.after

    def of(measure: Measure) -> Of:
        return Of(measure, confidence, where=cell.where)

    def share_of(count: Callable[[CellOutcome], int]) -> Iterator[Figure]:
        return (share_figure(count(each), each.sessions, Unit.SESSIONS, confidence) for each in pair)

    if not all(each.sessions for each in pair):
        yield not_compared(of(Measure.BEYOND), *share_of(lambda _: 0), why=Why.NO_SESSIONS)
        return
    if any(each.least is None for each in pair):
        yield not_compared(of(Measure.MOVED), *share_of(lambda each: len(each.moved)), why=Why.LEAST_UNKNOWN)
    elif not all(known for _, known in map(_beyond, pair)):
        yield not_compared(of(Measure.MOVED), *share_of(lambda each: len(each.moved)), why=Why.UNCLEAR)
    else:
        yield shares(of(Measure.BEYOND), Unit.SESSIONS, *map(_beyond, pair))
        yield told(of(Measure.MOVED), *share_of(lambda each: len(each.moved)), why=Why.DEPENDS_ON_ACTION)
    yield shares(of(Measure.TWICE), Unit.SESSIONS, *((len(each.twice), each.sessions) for each in pair))
    yield shares(of(Measure.SILENT), Unit.SESSIONS, *map(_silent, pair))
    yield from _blackouts(of(Measure.BLACKOUT_TIME), cell, floor_ns)
    if any(each.lost for each in pair):
        yield told(of(Measure.CELL_LOSS), *map(_lost, pair), why=Why.NOT_INDEPENDENT)


def _beyond(outcome: CellOutcome) -> tuple[int, int]:
    """Return how many sessions moved that need not have, or once too often, of those of which that is known."""
    return len(outcome.beyond), max(len(outcome.beyond), outcome.sessions - len(outcome.unclear))


def _silent(outcome: CellOutcome) -> tuple[int, int]:
    silent = outcome.blackouts.still_silent
    return silent, max(silent, outcome.sessions)


def _lost(outcome: CellOutcome) -> Figure:
    share = outcome.lost / outcome.sent if outcome.sent else None
    return Figure(Unit.LOSS, share, None, None, outcome.lost, outcome.sent)


def _blackouts(of: Of, cell: _Cell, floor_ns: int) -> Iterator[Candidate | Row]:
    """Compare how long sessions were not answered, where some were not."""
    lasted = cell.before.blackouts.lasted_ns, cell.after.blackouts.lasted_ns
    if not any(lasted):
        return
    figures = [median_figure(each, Unit.TIME, of.confidence) for each in lasted]
    if min(map(len, lasted)) < _FEWEST_RANKED:
        yield not_compared(of, figures[0], figures[1], why=Why.FEW_LOST)
        return
    floor = max(floor_ns, BLACKOUT_FLOOR[0], BLACKOUT_FLOOR[1] * (figures[0].value or 0.0))
    yield series(of, *(Series(figure, spread(each)) for figure, each in zip(figures, lasted, strict=True)), floor=floor)


def _in_all(cells: list[_Cell], confidence: float) -> list[Candidate]:
    """Compare the sessions that moved and need not have over all cells: many cells see what each is too small for."""
    strata = [
        (*_beyond(cell.before), *_beyond(cell.after))
        for cell in cells
        if None not in (cell.before.least, cell.after.least) and _beyond(cell.before)[1] and _beyond(cell.after)[1]
    ]
    if len(strata) < 2:  # noqa: PLR2004 - one cell is compared by itself
        return []
    hits_a, of_a, hits_b, of_b = map(sum, zip(*strata, strict=True))
    alone = shares(Of(Measure.BEYOND_IN_ALL, confidence), Unit.SESSIONS, (hits_a, of_a), (hits_b, of_b))
    tested = PValue(*strata_differ(strata))
    expected = sum((a + b) * n / (n + m) for a, n, b, m in strata if n + m)
    return [replace(alone, row=replace(alone.row, p=tested.p), tested=tested, is_more=hits_a < expected)]


# --- what is told beside it -----------------------------------------------------------------------------------------------


def _held(cells: list[_Cell], rows: tuple[Row, ...]) -> Iterator[HeldChange]:
    """Return requirements that do not hold as they did."""
    for cell in cells:
        before, after = cell.before.held, cell.after.held
        if before is after:
            continue
        sought = Direction.BETTER if after is Held.YES else Direction.WORSE
        proved = any(row.where == cell.where and row.direction is sought for row in rows)
        reasons = cell.before.reasons if after is Held.YES else cell.after.reasons
        yield HeldChange(cell.where, cell.requirement, before, after, reasons, proved)


def _names(cells: list[_Cell], *, after: bool) -> Iterator[tuple[str, str]]:
    """Return (cell, name) of what was seen on one side alone."""
    for cell in cells:
        here, there = (cell.after, cell.before) if after else (cell.before, cell.after)
        yield from ((cell.where, name) for name in here.names if name not in there.names)


def _side(report: ExperimentReport) -> Side:
    names = list(dict.fromkeys(result.name for result in report.results))
    return Side(report.version, report.started_wall_ns, report.sessions, None, "", ", ".join(names))
