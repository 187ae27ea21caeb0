"""The type of `--dscp`: a DiffServ codepoint by its name or its number."""

from __future__ import annotations

from typing import Any

import click

NAMES: dict[str, int] = {
    "BE": 0,
    "DF": 0,
    "LE": 1,
    **{f"CS{cls}": 8 * cls for cls in range(8)},
    **{f"AF{cls}{drop}": 8 * cls + 2 * drop for cls in range(1, 5) for drop in range(1, 4)},
    "VA": 44,
    "EF": 46,
}
"""RFC 2474 (DF, and best effort as people call it; CS), 2597 (AF), 3246 (EF), 5865 (VA), 8622 (LE)."""

MAX = 63
"""Six bits."""


class Dscp(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4 alone
    """A name such as EF, AF41 or CS5, or a number."""

    name = "dscp"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it."""
        text = str(value).strip().upper()
        if text in NAMES:
            return NAMES[text]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX)) and int(text) <= MAX):
            self.fail(f"{str(value)!r} is no DSCP: take a name (EF, AF41, CS5) or a number from 0 to {MAX}", param, ctx)
        return int(text)
