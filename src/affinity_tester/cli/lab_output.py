"""Shows what `demo` and `lab` do: the client's log as always, and after it the table injected / seen / named."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Self

from affinity_tester import __version__
from affinity_tester.app.lab_run import LabResult
from affinity_tester.core.events import Certainty, Event, Outcome, RunStarted
from affinity_tester.core.pulse import Pulse
from affinity_tester.lab.compare import Row
from affinity_tester.report.clock import RunClock
from affinity_tester.report.console import ConsoleReport
from affinity_tester.report.jsonlog import JsonReport
from affinity_tester.report.logging import Colour, Level, LogFormat, configure, wants_colour
from affinity_tester.report.recorder import RecordWriter
from affinity_tester.report.reporter import Reporter, has_status_line, write_in_background
from affinity_tester.report.status_line import StatusLine

LAB = "lab"
"""The command for which the diagnoses must be right too; a demo's plan may put faults so close that they are one incident."""


class LabOutput:
    """Writes to stdout from a thread: a slow reader must not make the client late.

    A context manager, whose end waits until all is written. Every call, and the end, may raise `OutputClosed`.
    """

    def __init__(
        self,
        log_format: LogFormat,
        *,
        record: Path | None = None,
        live: bool = False,
        duration_ns: int | None = None,
        faults: int = 0,
    ) -> None:
        """Write lines for people, or JSON, and record the run if `record` names a file.

        `live` asks for a status line on a terminal; the run sends for `duration_ns` and so many faults are injected.
        Raises `UserError` where the record cannot be written.
        """
        self._json = log_format == "json"
        self._record = record
        writer = None if record is None else RecordWriter(record, version=__version__)
        live = live and not self._json and has_status_line(os.environ)
        background = write_in_background(sys.stdout, live=live)
        stream = background or sys.stdout
        self._log = configure(format=log_format, stream=stream, colour=wants_colour(sys.stdout, os.environ))
        report = JsonReport(self._log) if self._json else ConsoleReport(self._log)
        self._reporter = Reporter(report, writer, background, StatusLine(duration_ns, faults=faults))
        self._started = False
        self._last_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reporter.close()

    def beat(self, pulse: Pulse) -> None:
        """Take in what the sessions are at."""
        self._reporter.beat(pulse)

    def advance(self, now_ns: int) -> None:
        """Show what was held back and is due by now."""
        self._reporter.advance(now_ns)

    def show_progress(self, now_ns: int) -> None:
        """Write how the run stands, and go on."""
        self._reporter.show_progress(now_ns)

    def emit(self, event: Event) -> None:
        """Show an event of the run."""
        if isinstance(event, RunStarted):
            self._log = self._log.bind(RunClock.of(event), **({"run": event.run_id} if self._json else {}))
            self._started = True
        self._last_ns = event.at_ns
        self._reporter.emit(event)

    def show_result(self, result: LabResult, seed: int, command: str, *, interrupted: bool) -> None:
        """Show what was injected, what was seen, and what it was named."""
        if not self._json:
            for text, colour in table(result, seed, command, interrupted=interrupted):
                self._log.text(text, colour)
            if self._record is not None and self._started:
                self._log.text(see_it(self._record), whole=True)
        elif self._started:
            names = {each.number: each.words for each in result.named}
            for row in result.findings.rows:
                name = names.get(row.number, "nothing")
                word, _ = _outcome(row, interrupted=interrupted)
                said = "; ".join([f"{row.fault}: {word}", *row.problems])
                bad: Level = "warn" if interrupted else "error"
                self._log.line(
                    bad if row.problems else "info",
                    "lab.fault",
                    at_ns=self._last_ns,
                    message=said,
                    **asdict(row),
                    named=name,
                )
            self._log.line(
                "info" if result.findings.passed else "error",
                "lab.findings",
                at_ns=self._last_ns,
                message=list(table(result, seed, command, interrupted=interrupted))[-1][0],
                passed=result.findings.passed,
                seed=seed,
                interrupted=interrupted,
                unexpected=result.findings.unexpected,
                misnamed=result.diagnosis_errors,
            )
        self._log.flush()


def table(result: LabResult, seed: int, command: str, *, interrupted: bool) -> Iterator[tuple[str, Colour | None]]:
    """Yield the table injected / seen / named, line by line with its colour, and under it the result.

    Where the client's own verdict is FAIL, the last line says that this is no failure of the command.
    """
    findings = result.findings
    names = {each.number: each for each in result.named}

    yield "", None
    yield f"injected / seen / named (seed {seed})", None
    for row in findings.rows:
        word, colour = _outcome(row, interrupted=interrupted)
        yield f"{row.number:>3}  {row.fault}: {word}", colour
        if interrupted and not row.injected_at_all:
            yield f"     expected  {row.expected}", None
            continue
        yield f"     injected  {row.injected}", None
        yield f"     expected  {row.expected}", None
        yield f"     seen      {row.seen}", None
        if row.number in names:
            named = names[row.number].words.replace(Certainty.CANNOT_TELL, "cause unknown")
            yield f"     named     {named}", None
        for problem in row.problems:
            yield f"     problem   {problem}", colour

    yield f"     nothing else: {'NOT OK' if findings.unexpected else 'ok'}", _good(not findings.unexpected)
    for problem in findings.unexpected:
        yield f"     problem   {problem}", Colour.VIOLATION
    errors = result.diagnosis_errors if command == LAB else ()
    for problem in errors:
        yield f"     problem   {problem}", Colour.VIOLATION

    if interrupted:
        end = f"{command} interrupted: what it was cut short of is no failure, and nothing is proved by the rest"
        yield end, Colour.DOUBTFUL
    elif findings.passed and errors:
        yield f"{command} NOT OK: a fault was not named as it should be", Colour.VIOLATION
    elif findings.passed:
        failed = result.verdict.outcome is Outcome.FAIL
        aside = " (the client's FAIL above is what the faults are for)" if failed else ""
        yield (
            f"{command} ok: every fault was seen, each by the right sessions, and nothing else was flagged{aside}",
            Colour.GOOD,
        )
    else:
        yield f"{command} NOT OK: what was injected and what was seen do not agree", Colour.VIOLATION


def see_it(record: Path) -> str:
    """Return the line that shows a record's report, for a shell to paste it into."""
    page = record.with_name(record.name.removesuffix(".gz").removesuffix(".jsonl") + ".html")
    arguments = f"report --format html --output {shlex.quote(str(page))} {shlex.quote(str(record))}"
    return f"to see it in a browser: {_program()} {arguments}"


def _program() -> str:
    """Return how this program is called in this shell: its name, where the PATH leads to it, else as it was called."""
    called = Path(sys.argv[0])
    found = shutil.which(called.name)
    if found is not None and Path(found).resolve() == called.resolve():
        return called.name
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m affinity_tester"
    return shlex.quote(str(called))


def _outcome(row: Row, *, interrupted: bool) -> tuple[str, Colour]:
    """Return a row's word and its colour; what Ctrl-C cut short is not the fault of anything."""
    if not row.problems:
        return "ok", Colour.GOOD
    if not interrupted:
        return "NOT OK", Colour.VIOLATION
    return "cut short" if row.injected_at_all else "skipped", Colour.DOUBTFUL


def _good(good: bool) -> Colour:
    return Colour.GOOD if good else Colour.VIOLATION
