"""What experiments came to, for a terminal: what they ran on, a block for each, and of a matrix the table of all."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from affinity_tester.core.experiment.results import ExperimentReport, ExperimentResult, Held
from affinity_tester.report.experiment_words import (
    NONE,
    TABLE,
    Rows,
    asked_text,
    cell_name,
    cell_rows,
    cell_text,
    cells_by_name,
    columns,
    held_of,
    overall,
    ran_on_rows,
    result_rows,
    verdict_text,
)
from affinity_tester.report.logging import Colour
from affinity_tester.report.summary import SummaryLine
from affinity_tester.report.text import printable
from affinity_tester.report.wrapping import joined_values, parted_values

WIDTH = 100
"""Columns that the text takes at most."""

_NARROWEST_CELL = 10
"""A table's columns are never narrower, however narrow the terminal is."""

COLOURS = {Held.YES: Colour.GOOD, Held.NO: Colour.VIOLATION, Held.UNKNOWN: Colour.DOUBTFUL}


def experiment_lines(report: ExperimentReport, width: int = WIDTH) -> Iterator[SummaryLine]:
    """Yield all that is said of a report, each line with its colour."""
    width = min(width, WIDTH)
    yield "", None
    yield from _paragraph(f"experiments: {asked_text(report)}", width, None)
    yield from _rows(ran_on_rows(report.ran_on), width, indent=2)
    for result in report.results:
        yield "", None
        yield from result_lines(result, width, brief=report.matrix)
    if report.matrix and report.results:
        yield "", None
        yield from table_lines(report, width)
    yield "", None
    yield verdict_text(report), COLOURS[overall(map(held_of, report.results))]


def result_lines(result: ExperimentResult, width: int = WIDTH, *, brief: bool = False) -> Iterator[SummaryLine]:
    """Yield the block of one experiment; `brief`: what moved and the claim alone where its requirement held."""
    held = held_of(result)
    yield f"{result.name}: {held}", COLOURS[held]
    yield from _rows(result_rows(result), width, indent=2)
    for cell in result.cells:
        here = cell.outcome.held
        if brief and here is Held.YES:
            said = cell_text(cell.outcome)
            yield from _paragraph(f"  {cell_name(cell)}: {here}; {'none moved' if said == NONE else said}", width, None)
            yield from _rows([("claim", cell.outcome.claim)] if cell.outcome.claim else [], width, indent=4)
            continue
        yield from _paragraph(f"  {cell_name(cell)}: {here}", width, COLOURS[here])
        yield from _rows(cell_rows(cell), width, indent=4)


def table_lines(report: ExperimentReport, width: int = WIDTH) -> Iterator[SummaryLine]:
    """Yield the table of a matrix: a row for each experiment, a column for each Service; each cell says what moved."""
    yield from _paragraph(TABLE, width, None)
    names = columns(report)
    first = max(map(len, ["experiment", *(result.name for result in report.results)]))
    room = (width - first) // max(1, len(names)) - 2
    yield from _table_row(["experiment", *names], first, room, None)
    for result in report.results:
        cells = cells_by_name(result)
        held = held_of(result)
        texts = [cell_text(cells[name].outcome) if name in cells else str(held) for name in names]
        yield from _table_row([result.name, *texts], first, room, None if held is Held.YES else COLOURS[held])


def _table_row(cells: Sequence[str], first: int, room: int, colour: Colour | None) -> Iterator[SummaryLine]:
    """Yield a row of a table, in as many lines as its longest cell needs."""
    name, *others = map(printable, cells)
    broken = [[name], *(_wrapped(text, max(_NARROWEST_CELL, room)) for text in others)]
    widths = [first, *([max(_NARROWEST_CELL, room)] * len(others))]
    for line in range(max(map(len, broken))):
        parts = [part[line] if line < len(part) else "" for part in broken]
        yield "  ".join(part.ljust(wide) for part, wide in zip(parts, widths, strict=True)).rstrip(), colour


def _rows(rows: Rows, width: int, *, indent: int) -> Iterator[SummaryLine]:
    """Yield names and texts in two columns."""
    wide = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        opening = f"{' ' * indent}{name.ljust(wide)}  "
        yield from ((line, None) for line in _wrapped(printable(text), width, opening))


def _paragraph(text: str, width: int, colour: Colour | None) -> Iterator[SummaryLine]:
    return ((line, colour) for line in _wrapped(printable(text), width))


def _wrapped(text: str, width: int, opening: str = "") -> list[str]:
    """Return text in lines of at most so many columns, further ones below where it began; no figure leaves its unit."""
    lines = textwrap.wrap(
        joined_values(text),
        width,
        initial_indent=opening,
        subsequent_indent=" " * len(opening),
        break_long_words=bool(not opening),
        break_on_hyphens=False,
    )
    return [parted_values(line) for line in lines] or [opening.rstrip()]
