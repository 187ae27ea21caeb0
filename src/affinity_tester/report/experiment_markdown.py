"""What experiments came to, in markdown, to be pasted into a bug report: what they ran on comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from affinity_tester.core.experiment.results import CellResult, ExperimentReport, ExperimentResult, Held
from affinity_tester.report.experiment_words import (
    TABLE,
    asked_text,
    cell_name,
    cell_rows,
    cell_text,
    cells_by_name,
    columns,
    held_of,
    ran_on_rows,
    result_rows,
    verdict_text,
)
from affinity_tester.report.text import printable

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&]")
"""Characters that markdown, or the HTML in it, would take for its own."""


def experiment_markdown(report: ExperimentReport) -> str:
    """Return the document."""
    return "\n".join(_document(report)) + "\n"


def _document(report: ExperimentReport) -> Iterator[str]:
    yield from ("### Ran on", "")
    yield from _table(("", ""), ran_on_rows(report.ran_on))
    yield from ("", _plain(asked_text(report)), "", f"### {_plain(verdict_text(report))}", "")
    yield from _results(report)
    for result in report.results:
        if held_of(result) is not Held.YES:
            yield from _details(result)


def _results(report: ExperimentReport) -> Iterator[str]:
    yield from (_plain(TABLE), "")
    names = columns(report)
    rows = []
    for result in report.results:
        cells = cells_by_name(result)
        rows.append((result.name, *(_cell(cells.get(name), result) for name in names)))
    yield from _table(("experiment", *names), rows)


def _cell(cell: CellResult | None, result: ExperimentResult) -> str:
    """Return what the table says of a cell; of one that an experiment did not come to, what the experiment came to."""
    if cell is None:
        return str(held_of(result))
    text = cell_text(cell.outcome)
    return f"{Held.NO}: {text}" if cell.outcome.held is Held.NO else text


def _details(result: ExperimentResult) -> Iterator[str]:
    yield from ("", f"#### {_plain(result.name)}: {held_of(result)}", "")
    yield from (f"- {name}: {_plain(text)}" for name, text in result_rows(result))
    for cell in result.cells:
        if cell.outcome.held is not Held.YES:
            yield f"- **{_plain(cell_name(cell))}: {cell.outcome.held}**"
            yield from (f"  - {name}: {_plain(text)}" for name, text in cell_rows(cell))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_plain, head))} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in rows)


def _plain(text: str) -> str:
    """Return text that markdown shows as it is."""
    return _SPECIAL.sub(lambda found: f"\\{found.group()}", printable(text))
