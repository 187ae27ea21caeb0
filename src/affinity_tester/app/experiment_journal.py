"""The journal of experiments: each step as a JSON line, written before the next one begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from affinity_tester.errors import UserError


class Journal:
    """Appends lines `{"at": ..., "step": ..., ...}` to a file, and gives each to `show`.

    A line is in the file when `write` returns, whatever becomes of the process then. A disk that fills up ends the
    file, not the experiment: what has been changed must still be undone.
    """

    def __init__(self, path: Path | None, show: Callable[[dict[str, Any]], None] = lambda _line: None) -> None:
        """Open or create the file; None: there is none. Raises `UserError` where it cannot be written."""
        self._show = show
        self._fd: int | None = None
        self.failure = ""
        """Why the file ends early; empty while it does not."""
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            except OSError as error:
                raise UserError(
                    f"cannot write the journal {path}: {error.strerror}; name a directory that can be written"
                ) from error

    def write(self, step: str, **fields: Any) -> None:
        """Add a line: what kind of step, and its fields as JSON values."""
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "step": step,
            **fields,
        }
        if self._fd is not None and not self.failure:
            try:
                os.write(self._fd, json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")
            except OSError as error:
                self.failure = error.strerror or str(error)
        self._show(line)

    def close(self) -> None:
        """Close the file; once more is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
