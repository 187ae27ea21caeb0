"""A comparison in Markdown, for a pull request or a bug report."""

from __future__ import annotations

from collections.abc import Iterator

from affinity_tester.core.comparison.results import Comparison, Direction, Row
from affinity_tester.report.comparison_text import (
    alike,
    how_to_read,
    lacking,
    requirements,
    side_text,
    where_text,
)
from affinity_tester.report.comparison_words import (
    detail_text,
    difference_text,
    figure_text,
    heading,
    result_text,
    subject,
)


def markdown_text(comparison: Comparison) -> str:
    """Return the result, what else differs, and a table of the comparisons."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"**{result_text(comparison)}**"
    yield ""
    yield f"- BEFORE: {_escaped(side_text(comparison.before))}"
    yield f"- AFTER: {_escaped(side_text(comparison.after))}"
    for difference in comparison.differences:
        yield f"- differs: {_escaped(difference_text(difference))}"
    for text in lacking(comparison):
        yield f"- {_escaped(text)}"
    for text, _ in requirements(comparison):
        yield f"- {_escaped(text)}"
    if comparison.rows:
        yield ""
        yield "| | before | after | |"
        yield "|---|---|---|---|"
    for direction in Direction:
        for group in alike([row for row in comparison.rows if row.direction is direction]):
            yield _row(group)
    for text in how_to_read(comparison):
        yield ""
        yield _escaped(text)


def _row(group: list[Row]) -> str:
    row, where = group[0], where_text(group)
    said = f"{heading(row.direction)}: {detail_text(row)}"
    if row.direction in (Direction.WORSE, Direction.BETTER):
        said = f"**{heading(row.direction)}**: {detail_text(row)}"
    elif row.direction is Direction.SAME:
        said = f"same: {detail_text(row)}"
    cells = (f"{where}: {subject(row)}" if where else subject(row), figure_text(row.before), figure_text(row.after))
    return "| " + " | ".join((*map(_escaped, cells), said)) + " |"


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in "\\`*_<>|[]#" else char for char in text)
