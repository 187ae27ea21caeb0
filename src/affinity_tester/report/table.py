"""A table of text, before it is laid out for a terminal or a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows of cells under a head; the first column is a name."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    has_total: bool = True
    """True if the last row is about all sessions."""


def aligned(table: Table) -> Iterator[str]:
    """Yield the rows, with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(table.head, *table.rows, strict=True)]
    for row in (table.head, *table.rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
