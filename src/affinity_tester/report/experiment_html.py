"""What experiments came to as one HTML page that needs nothing else: no script, and nothing is requested.

It has the look of a run's page (`html`): light, dark and on paper. Everything shown is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from affinity_tester.core.experiment.results import CellResult, ExperimentReport, ExperimentResult, Held
from affinity_tester.report.experiment_words import (
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
from affinity_tester.report.html import asset, linked, shown

_CLASSES = {Held.YES: "PASS", Held.NO: "FAIL", Held.UNKNOWN: "INCONCLUSIVE"}
"""By whose colours the page's style knows them."""

_STYLE = (
    "table.cells td { white-space: normal; min-width: 9rem; text-align: left; vertical-align: top; } "
    "table.cells th { text-align: left; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def experiment_html(report: ExperimentReport) -> str:
    """Return the page."""
    title = f"Affinity Tester: {shown(verdict_text(report))}"
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{title}</title><style>{asset('report.css')}{_STYLE}</style></head><body>\n"
        "<h1>Affinity Tester: experiments</h1>\n" + "\n".join(_sections(report)) + "\n</body></html>\n"
    )


def _sections(report: ExperimentReport) -> Iterator[str]:
    held = overall(map(held_of, report.results))
    yield f'<p class="verdict {_CLASSES[held]}">{shown(verdict_text(report))}</p>'
    yield f"<p>{shown(asked_text(report))}</p>"
    yield f'<p class="dim">{shown(TABLE)}</p>'
    yield _matrix(report)
    yield "<h2>Ran on</h2>"
    yield _rows(ran_on_rows(report.ran_on))
    yield "<h2>Experiments</h2>"
    yield from (_details(number, result) for number, result in enumerate(report.results))


def _matrix(report: ExperimentReport) -> str:
    """Return the table: a row for each experiment, a column for each Service; each name leads to its details."""
    names = columns(report)
    head = "".join(f"<th>{shown(name)}</th>" for name in ("experiment", *names))
    rows = []
    for number, result in enumerate(report.results):
        cells = cells_by_name(result)
        found = "".join(_cell(cells[name]) if name in cells else f"<td>{held_of(result)}</td>" for name in names)
        rows.append(f'<tr><td><a href="#experiment-{number}">{shown(result.name)}</a></td>{found}</tr>')
    body = "".join(rows)
    return f'<div class="wide"><table class="cells"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: CellResult) -> str:
    held = cell.outcome.held
    text = cell_text(cell.outcome)
    said = text if held is not Held.NO else f"{held}: {text}"
    return f'<td class="{_CLASSES[held]}">{shown(said)}</td>'


def _details(number: int, result: ExperimentResult) -> str:
    """Return an experiment's section; one that did not hold is open."""
    held = held_of(result)
    opened = "" if held is Held.YES else " open"
    cells = "".join(
        f'<h3 class="{_CLASSES[cell.outcome.held]}">{shown(cell_name(cell))}: {cell.outcome.held}</h3>'
        f"{_rows(cell_rows(cell))}"
        for cell in result.cells
    )
    return (
        f'<details id="experiment-{number}"{opened}><summary class="{_CLASSES[held]}">{shown(result.name)}: {held}</summary>'
        f"{_rows(result_rows(result))}{cells}</details>"
    )


def _rows(rows: Rows) -> str:
    body = "".join(f'<tr><td class="dim">{shown(name)}</td><td>{linked(shown(text))}</td></tr>' for name, text in rows)
    return f'<div class="wide"><table class="log"><tbody>{body}</tbody></table></div>'
