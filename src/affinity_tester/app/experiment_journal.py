"""The journal of experiments: each step as a JSON line, written before the next one begins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from affinity_tester.cluster.actions.base import Step
from affinity_tester.core.experiment.results import ExperimentResult
from affinity_tester.errors import UserError
from affinity_tester.report.experiment_words import held_of

JOURNAL = "journal.jsonl"
"""The journal's name beside the records."""


def now_text() -> str:
    """Return the wall clock as an RFC 3339 time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
            "at": now_text(),
            "step": step,
            **fields,
        }
        if self._fd is not None and not self.failure:
            try:
                os.write(self._fd, json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")
            except OSError as error:
                self.failure = error.strerror or str(error)
        self._show(line)

    def write_step(self, step: Step, **where: str) -> None:
        """Add what an action tells; `where` is the experiment and its phase, if it belongs to one."""
        reason = {"reason": step.reason} if step.reason else {}
        calls = [str(call) for call in step.calls]
        self.write(step.state.value, **where, text=step.text, undo=step.undo, calls=calls, **reason)

    def write_result(self, result: ExperimentResult) -> None:
        """Add what an experiment came to."""
        failure = {"failure": result.failure} if result.failure else {}
        services = [
            {
                "service": cell.service,
                "policy": cell.policy,
                "affinity": cell.affinity,
                "held": cell.outcome.held.value,
                "reasons": cell.outcome.reasons,
                "claim": cell.outcome.claim,
            }
            for cell in result.cells
        ]
        self.write("judged", experiment=result.name, held=held_of(result).value, services=services, **failure)

    def close(self) -> None:
        """Close the file; once more is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def journal_path(directory: Path | None) -> Path | None:
    """Make the directory if need be, and return the journal's path. Raises `UserError`."""
    if directory is None:
        return None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the directory --record {directory}: {error.strerror}; name another") from error
    if any(directory.iterdir()):
        raise UserError(f"--record {directory} has files in it already: name another directory, or move them away")
    return directory / JOURNAL


def record_path(directory: Path | None, name: str, service: str) -> Path | None:
    """Return where a run is recorded: <experiment>.jsonl.gz, in a matrix <experiment>.<service>.jsonl.gz."""
    if directory is None:
        return None
    return directory / f"{name}{f'.{service}' if service else ''}.jsonl.gz"
