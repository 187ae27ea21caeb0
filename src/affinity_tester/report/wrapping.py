"""Breaks lines that are wider than the terminal at words, under the text where they began."""

from __future__ import annotations

import re
import textwrap

_OPENING = re.compile(r"(?:\d\d:\d\d:\d\d\.\d{3} \[\w+\] +)? *")
"""The time and level of a line of the log, and its indent."""

_SESSION = re.compile(r"CLIENT-\d+ ")

_VALUE = re.compile(r"(?<=\d) (?=(?:ns|us|ms|s|min|h|d)\b|%)")
"""The space between a number and its unit, at which no line is broken."""

_KEPT = "\N{NO-BREAK SPACE}"

_HANGING = 2
"""Columns by which the rest of a line is indented further than its beginning."""

_NARROWEST = 20
"""Text in fewer columns than these would be harder to read than what the terminal makes of it."""


def wrapped(line: str, width: int | None) -> str:
    """Return the line in several that fit into so many columns; unchanged where it fits or is nobody's terminal (None).

    What tells of one session stays in one line, broken by the terminal alone: it is what people search for and copy.
    """
    if width is None or len(line) <= width:
        return line
    opening = _OPENING.match(line)
    indent = opening.end() if opening is not None else 0
    if width - indent - _HANGING < _NARROWEST or _SESSION.match(line, indent):
        return line
    further = " " * (indent + _HANGING)
    told = textwrap.wrap(
        joined_values(line[indent:]),
        width,
        initial_indent=line[:indent],
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return parted_values("\n".join(told))


def joined_values(text: str) -> str:
    """Return text in which no line can be broken between a number and its unit."""
    return _VALUE.sub(_KEPT, text)


def parted_values(text: str) -> str:
    """Return what `joined_values` joined as it was."""
    return text.replace(_KEPT, " ")
