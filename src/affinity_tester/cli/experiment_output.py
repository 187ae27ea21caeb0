"""Shows an experiment: its steps as they are made, what each came to, and the report at the end."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import click

from affinity_tester.app.experiment_journal import now_text
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import ExperimentReport, ExperimentResult, Held
from affinity_tester.core.idle.advice import ICE_INTERVAL_NS
from affinity_tester.errors import UserError
from affinity_tester.report.experiment_html import experiment_html
from affinity_tester.report.experiment_json import experiment_document
from affinity_tester.report.experiment_junit import experiment_junit
from affinity_tester.report.experiment_markdown import experiment_markdown
from affinity_tester.report.experiment_text import COLOURS, experiment_lines
from affinity_tester.report.logging import Colour, LogFormat, configure, wants_colour
from affinity_tester.report.reporter import drain, has_status_line, write_in_background
from affinity_tester.report.terminal import TerminalWriter
from affinity_tester.units import format_duration

_FORMS = {
    ".json": lambda report: json.dumps(experiment_document(report), indent=2) + "\n",
    ".md": experiment_markdown,
    ".xml": experiment_junit,
    ".html": experiment_html,
}
"""How a report is written, by the end of the file's name."""

_PHASES = {
    "steady": "steady state: waiting until every session is answered and none changes",
    "action": "action",
    "recovery": "recovery: waiting until what the action changed has settled",
    "rollback": "rollback",
    "judgement": "judgement: the last replies and judgements come in",
}


_SILENCE = f"recovery: fresh flows are silent for {format_duration(ICE_INTERVAL_NS)}"
"""What `idle` does there."""


class OutputFile(click.Path):
    """A file for the report, whose name's end says the form."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check the name's end."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if path.suffix not in _FORMS:
            self.fail(f"{str(path)!r} ends in none of {', '.join(_FORMS)}, which say the form", param, ctx)
        return path


class ExperimentOutput:
    """Writes to standard output from a thread: lines for people, or a JSON object a line.

    A context manager, whose end waits until all is written. Every call, and the end, may raise `OutputClosed`.
    """

    def __init__(self, log_format: LogFormat, *, live: bool = False) -> None:
        """`live` asks for a status line on a terminal."""
        self._json = log_format == "json"
        live = live and not self._json and has_status_line(os.environ)
        self._background = write_in_background(sys.stdout, live=live)
        stream = self._background or sys.stdout
        self._log = configure(format=log_format, stream=stream, colour=wants_colour(sys.stdout, os.environ))
        self._status = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.flush()
        if self._background is not None:
            drain(self._background)

    def status(self, text: str) -> None:
        """Show how it stands in the line at the bottom, if there is one."""
        self._status = text
        if isinstance(self._background, TerminalWriter):
            self._background.set_status(text)

    def show_progress(self) -> None:
        """Write how it stands as a line."""
        text = f"so far: {self._status or 'no experiment is under way'}"
        if self._json:
            self._write_json("info", "progress", text)
        else:
            self._line(text, Colour.STATISTICS)

    def step(self, line: dict[str, Any]) -> None:
        """Show a line of the journal."""
        text, colour = _worded(line)
        if self._json:
            fields = {name: value for name, value in line.items() if name not in ("at", "step")}
            level = {"failed": "error", "broke-off": "warn"}.get(line["step"], "info")
            self._write_json(level, line["step"], text.strip() or line["step"], time=line["at"], **fields)
        elif text:
            self._line(text, colour)

    def result(self, result: ExperimentResult) -> None:
        """Show what one experiment came to, in a line for each Service."""
        if self._json:
            return  # the report at the end has it
        self.status("")
        if not result.cells:
            self._line(f"{result.name}: not done: {result.failure}", Colour.DOUBTFUL)
        for cell in result.cells:
            outcome = cell.outcome
            named = f" ({cell.policy}, {cell.affinity})" if len(result.cells) > 1 else ""
            why = "; ".join(outcome.reasons) or outcome.claim
            self._line(f"{result.name}{named}: {outcome.held.value}: {why}", COLOURS[outcome.held])

    def note(self, text: str) -> None:
        """Show a line that belongs to no step."""
        if self._json:
            self._write_json("info", "note", text)
        else:
            self._log.text(text)
            self._log.flush()

    def warn(self, text: str) -> None:
        """Show a warning: among the JSON lines, else on standard error."""
        if self._json:
            self._write_json("warn", "warning", text)
        else:
            click.echo(f"warning: {text}", err=True)

    def show_report(self, report: ExperimentReport) -> None:
        """Show all that the experiments came to."""
        self.status("")
        if self._json:
            document = experiment_document(report)
            level = {Held.NO.value: "error", Held.UNKNOWN.value: "warn"}.get(document["held"], "info")
            self._write_json(level, "report", document["held"], **document)
            return
        self._log.text("")
        for text, colour in experiment_lines(report, min(100, self._log.width or 100)):
            self._log.text(text, colour)
        self._log.flush()

    def _line(self, text: str, colour: Colour) -> None:
        self._log.text(f"{datetime.now():%H:%M:%S} {text}", colour)
        self._log.flush()

    def _write_json(self, level: str, event: str, message: str, *, time: str = "", **fields: Any) -> None:
        line = {
            "time": time or now_text(),
            "level": level,
            "event": f"experiment.{event}",
            "message": message,
            **fields,
        }
        self._log.text(json.dumps(line, separators=(",", ":")))
        self._log.flush()


def check_writable(path: Path) -> None:
    """Check that a report can be written, before anything is done for it; leave no file. Raises `UserError`."""
    if path.exists() and not path.is_file():
        return  # to open a pipe waits for its reader
    is_new = not path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if is_new:
            path.unlink()
    except OSError as error:
        raise UserError(f"cannot write the report {path}: {error.strerror}; name another file") from error


def write_report(report: ExperimentReport, path: Path) -> None:
    """Write the report in the form that the file's name asks for. Raises `UserError`."""
    try:
        path.write_text(_FORMS[path.suffix](report), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write the report {path}: {error.strerror}; name another file") from error


def _worded(line: dict[str, Any]) -> tuple[str, Colour]:
    """Return a line of the journal for people; empty for one that its next line tells better."""
    match line["step"]:
        case "began":
            return line["text"], Colour.CLUSTER
        case "experiment":
            name = line["experiment"]
            return f"{name} ({line['number']} of {line['of']}): {EXPERIMENTS[name].does}", Colour.CLUSTER
        case "phase":
            is_silence = (line["experiment"], line["phase"]) == ("idle", "recovery")
            return f"  {_SILENCE if is_silence else _PHASES[line['phase']]}", Colour.QUIET
        case "did":
            said = f" ({line['reason']})" if line.get("reason") else ""
            return f"  {'undone' if line['undo'] else 'done'}: {line['text']}{said}", Colour.STATISTICS
        case "failed":
            return f"  failed: {line['text']} ({line.get('reason', 'no reason given')})", Colour.CHANGE
        case "broke-off":
            return f"  broke off: {line['reason']}", Colour.WARNING
        case "rolled-back":
            return f"  {line['text']}", Colour.STATISTICS
        case _:
            return "", Colour.STATISTICS
