"""A comparison in text, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime

from affinity_tester.core.comparison.results import Comparison, Direction, HeldChange, Row, Side
from affinity_tester.core.experiment.results import Held
from affinity_tester.report.comparison_words import (
    detail_text,
    difference_text,
    figure_text,
    heading,
    result_text,
    subject,
    verdict_text,
)
from affinity_tester.report.logging import Colour
from affinity_tester.report.summary import SummaryLine
from affinity_tester.report.text import printable
from affinity_tester.report.wrapping import joined_values, parted_values
from affinity_tester.units import NS_PER_S, format_percent, format_span, plural

MOST_CELLS = 3
"""So many cells that are alike are named; of more their number is told."""

WIDTH = 100
"""Columns at most; a narrower terminal gets less."""

_DEEP = " " * 6
"""The indentation of figures."""

_COLOURS = {Direction.WORSE: Colour.VIOLATION, Direction.BETTER: Colour.GOOD}


def text_lines(comparison: Comparison, width: int = WIDTH) -> list[SummaryLine]:
    """Return what differs besides, what got worse and better, what is the same and how surely, and the result."""
    lines: list[SummaryLine] = [
        (f"BEFORE {side_text(comparison.before)}", None),
        (f"AFTER  {side_text(comparison.after)}", None),
    ]
    if comparison.differences:
        lines += [("", None), ("what else differs", None)]
    for difference in comparison.differences:
        lines.append((f"  {difference_text(difference)}", Colour.WARNING if difference.unfair else None))
    lines += _lacking(comparison, width)
    lines += _requirements(comparison, width)
    for direction in Direction:
        lines += _rows(direction, [row for row in comparison.rows if row.direction is direction], width)

    colour = Colour.VIOLATION if comparison.is_worse else Colour.GOOD if comparison.compared else Colour.DOUBTFUL
    lines += [("", None), (result_text(comparison), colour)]
    return lines + [(part, None) for text in how_to_read(comparison) for part in _wrapped(text, "", width, hanging="")]


def side_text(side: Side) -> str:
    """Return `2026-11-25 17:32 UTC, 24 sessions, 12 min, PASS: 192.0.2.1`."""
    started = datetime.fromtimestamp(side.started_wall_ns / NS_PER_S, UTC)
    parts = [f"{started:%Y-%m-%d %H:%M} UTC", plural(side.sessions, "session")]
    if side.lasted_ns is not None:
        parts.append(format_span(side.lasted_ns))
    if side.verdict:
        parts.append(side.verdict)
    return f"{', '.join(parts)}: {printable(side.what)}"


def how_to_read(comparison: Comparison) -> Iterator[str]:
    """Yield what the figures mean."""
    if not comparison.compared:
        return
    sure, doubt = format_percent(comparison.confidence), format_percent(1 - comparison.confidence)
    yield (
        f"Chance: how often so large a difference, or a larger one, comes where nothing has changed. What counts is chosen "
        f"so that all comparisons together err in {doubt} at the most. Intervals are exact ones of {sure}."
    )
    yield f"Would have shown: what AFTER would have had to be to be called worse, with {sure} confidence."
    if comparison.kind == "runs":
        yield "Incidents are counted, not their sessions: one cause hits many. Losses and times are ranked by periods."
    else:
        yield (
            "Sessions count as independent draws; what one action does to several at once is one draw: "
            "repeat an experiment before you rely on a difference."
        )


def held_text(change: HeldChange) -> str:
    """Return `pod-delete (Cluster, None): held -> broken: 1 of 24 moved; whether that is new cannot be told`."""
    reasons = "; ".join(map(printable, change.reasons))
    text = f"{printable(change.where)}: {change.before} -> {change.after}" + (f": {reasons}" if reasons else "")
    if change.proved or Held.UNKNOWN in (change.before, change.after):
        return text
    if change.after is Held.NO:
        return f"{text} (broken now; whether that is new cannot be told from so few)"
    return f"{text} (broken before; whether it is mended cannot be told from so few)"


def lacking(comparison: Comparison) -> Iterator[str]:
    """Yield what stands on one side alone, or did not go to its end."""
    for which, names in (("BEFORE", comparison.only_before), ("AFTER", comparison.only_after)):
        if names:
            yield f"only in {which}: {', '.join(map(printable, names))}"
    for name, why in comparison.not_run:
        yield f"{name} did not go to its end: {printable(why)}"


def requirements(comparison: Comparison) -> Iterator[tuple[str, Colour | None]]:
    """Yield what became of requirements, and the names that came and went."""
    for change in comparison.held:
        is_new = change.proved and change.after is Held.NO
        yield held_text(change), Colour.VIOLATION if is_new else Colour.WARNING if change.after is Held.NO else None
    if verdict := verdict_text(comparison):
        yield verdict, Colour.WARNING
    if comparison.still_broken:
        yield f"broken before and now: {', '.join(map(printable, comparison.still_broken))}", Colour.WARNING
    for which, pairs in (("AFTER", comparison.appeared), ("BEFORE", comparison.vanished)):
        for where, name in pairs:
            yield f"seen in {which} alone, {printable(where)}: {printable(name)}", None


def alike(rows: list[Row]) -> list[list[Row]]:
    """Return rows in groups that say the same of different cells."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        said = subject(row), figure_text(row.before), figure_text(row.after), detail_text(row)
        groups.setdefault(said, []).append(row)
    return list(groups.values())


def where_text(rows: list[Row]) -> str:
    """Return the cells of rows that are alike, or how many they are; empty for a run."""
    if not rows[0].where:
        return ""
    if len(rows) > MOST_CELLS:
        return f"{len(rows)} cells"
    return ", ".join(printable(row.where) for row in rows)


def _lacking(comparison: Comparison, width: int) -> list[SummaryLine]:
    lines: list[SummaryLine] = [
        (part, Colour.WARNING) for text in lacking(comparison) for part in _wrapped(text, "  ", width)
    ]
    return [("", None), ("not in both", None), *lines] if lines else []


def _requirements(comparison: Comparison, width: int) -> list[SummaryLine]:
    lines: list[SummaryLine] = [
        (part, colour) for text, colour in requirements(comparison) for part in _wrapped(text, "  ", width)
    ]
    return [("", None), ("verdict, requirements and names", None), *lines] if lines else []


def _rows(direction: Direction, rows: list[Row], width: int) -> list[SummaryLine]:
    lines: list[SummaryLine] = []
    for group in alike(rows):
        row, where = group[0], where_text(group)
        lines.append((f"  {f'{where}: ' if where else ''}{subject(row)}", _COLOURS.get(direction)))
        figures, detail = f"{figure_text(row.before)} -> {figure_text(row.after)}", detail_text(row)
        fits = len(_DEEP) + len(figures) + 2 + len(detail) <= width
        parts = [f"{figures}; {detail}"] if fits else [figures, detail]
        lines += [(line, None) for part in parts for line in _wrapped(part, _DEEP, width)]
    return [("", None), (heading(direction), _COLOURS.get(direction)), *lines] if lines else []


def _wrapped(text: str, indent: str, width: int, hanging: str = "  ") -> list[str]:
    parts = textwrap.wrap(joined_values(text), width, initial_indent=indent, subsequent_indent=f"{indent}{hanging}")
    return [parted_values(part) for part in parts]
