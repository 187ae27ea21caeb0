"""Documents whose parts between marks are generated, and whose rest is written by hand.

A part stands between the lines `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_BEGIN = re.compile(r"<!-- generated: (.+) -->")
_END = "<!-- end -->"


class MarkError(Exception):
    """A document's marks and the parts that are generated for it do not match."""


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """Return the document with each generated part replaced by the block of its name.

    Raises `MarkError` unless every block has its marks, once, and every mark its block.
    """
    lines: list[str] = []
    found: list[str] = []
    inside = False

    for line in text.splitlines():
        mark = _BEGIN.fullmatch(line)
        if mark:
            name = mark[1]
            if inside or name in found or name not in blocks:
                raise MarkError(
                    f"the mark {line} is inside of another, is there twice, or names nothing that is generated"
                )
            inside = True
            found.append(name)
            lines += [line, "", blocks[name].strip("\n"), ""]
        elif line == _END:
            if not inside:
                raise MarkError(f"{_END} without a beginning")
            inside = False
        if not inside:
            lines.append(line)

    if inside:
        raise MarkError(f"the mark of {found[-1]!r} has no {_END}")
    missing = [name for name in blocks if name not in found]
    if missing:
        raise MarkError("add the marks '<!-- generated: NAME -->' and '<!-- end -->' for: " + ", ".join(missing))
    return "\n".join(lines) + "\n"
