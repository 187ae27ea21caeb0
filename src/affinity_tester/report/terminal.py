"""A log on a terminal with a status line below it, which is erased before lines are written and drawn again after them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

from affinity_tester.report.background_writer import BackgroundWriter

if TYPE_CHECKING:
    from rich.console import Console

_ERASE_BELOW = "\x1b[J"
"""Erases from the cursor to the end of the screen (ECMA-48, ED)."""


class TerminalWriter(BackgroundWriter):
    """A `BackgroundWriter` with a status line. Its thread draws everything, so that no terminal can stop the run."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a terminal, which nobody else writes to until `drain`."""
        # It takes 0.1 s to import, and is wanted on a terminal alone.
        from rich.console import Console  # noqa: PLC0415

        # rich takes COLUMNS for the width, which stays as it was when the terminal becomes narrower.
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._console: Console = Console(file=stream, force_terminal=True, highlight=False, _environ=environ)
        self._status = ""
        self._is_drawn = False
        super().__init__(stream)

    @property
    def width(self) -> int:
        """Return the terminal's columns as of now."""
        return self._console.width

    def set_status(self, text: str) -> None:
        """Draw this line below all others, cut to the terminal's width; empty: none."""
        with self._changed:
            if text == self._status or self._error is not None:
                return
            self._status = text
            if not self._pieces:
                self._keep("")  # for the thread to have something to do
                self._changed.notify_all()

    def drain(self, stall_timeout_s: float | None = None, within_s: float = float("inf")) -> bool:
        """Wait as `BackgroundWriter` does; the status line is gone then."""
        if self._error is None:
            self.set_status("")
        return super().drain(stall_timeout_s, within_s)

    def _hand_on(self, pieces: list[str]) -> None:
        from rich.control import Control  # noqa: PLC0415 - as above
        from rich.segment import ControlType  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        lines, status = self._take(pieces), self._status
        console, start_of_line = self._console, Control(ControlType.CARRIAGE_RETURN)
        with console:  # one write
            if self._is_drawn:
                console.control(start_of_line)
                console.out(_ERASE_BELOW, end="", highlight=False)
            if lines:
                console.out(lines, end="", highlight=False)
            if status:
                console.print(Text(status, style="reverse"), no_wrap=True, overflow="ellipsis", end="")
                # The cursor waits at the line's start. A terminal that becomes narrower breaks the line into rows, and takes
                # the cursor along: from its end, only the last of the rows would be erased.
                console.control(start_of_line)
            self._is_drawn = bool(status)
