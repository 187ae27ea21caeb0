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
    spare: Sequence[str] = ()
    """Columns that a narrow terminal does without, the first first."""


def aligned(table: Table, width: int | None = None) -> Iterator[str]:
    """Yield the rows, with the first column to the left and the others to the right.

    Where they are wider than `width`, columns first stand closer, and then the spare ones are left out.
    """
    columns = list(zip(table.head, *table.rows, strict=True))
    spare = [column for head in table.spare for column in columns if column[0] == head]
    gap = 2
    while width is not None and _width(columns, gap) > width and (gap > 1 or spare):
        if gap > 1:
            gap -= 1
        else:
            columns.remove(spare.pop(0))

    widths = [max(map(len, column)) for column in columns]
    for name, *others in zip(*columns, strict=True):
        cells = [name.ljust(widths[0]), *(cell.rjust(wide) for cell, wide in zip(others, widths[1:], strict=True))]
        yield (" " * gap).join(cells).rstrip()


def _width(columns: Sequence[Sequence[str]], gap: int) -> int:
    """Return how wide the columns are, so far apart."""
    return sum(max(map(len, column)) for column in columns) + gap * (len(columns) - 1)
