"""Gives a run's events to the log and to the run record, and keeps their errors from the run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TextIO

from affinity_tester import __version__
from affinity_tester.core.events import Event, Verdict
from affinity_tester.core.pulse import Pulse
from affinity_tester.report.background_writer import BackgroundWriter
from affinity_tester.report.console import ConsoleReport
from affinity_tester.report.jsonlog import JsonReport
from affinity_tester.report.logging import (
    LogFormat,
    OutputClosed,
    StatsMode,
    Verbosity,
    configure,
    output_closed,
    tolerate_any_text,
    wants_colour,
)
from affinity_tester.report.recorder import STALL_TIMEOUT_S, RecordWriter, SparedRecord
from affinity_tester.report.status_line import StatusLine
from affinity_tester.report.terminal import TerminalWriter
from affinity_tester.units import plural


def write_in_background(stream: TextIO, *, live: bool = False) -> BackgroundWriter | None:
    """Return a writer for a log's stream that makes nobody wait; None for a stream in memory, which needs none.

    `live` asks for one with a status line, where the stream is a terminal.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return None
    tolerate_any_text(stream)
    return TerminalWriter(stream) if live and stream.isatty() else BackgroundWriter(stream)


def has_status_line(environ: Mapping[str, str]) -> bool:
    """Return whether a terminal of this environment can erase a line."""
    return environ.get("TERM", "dumb") != "dumb"


def drain(background: BackgroundWriter) -> None:
    """Wait until everything is written. Raises `OutputClosed`."""
    try:
        background.drain()
    except (OSError, ValueError) as error:
        raise output_closed(background) from error


class Reporter:
    """Takes every event of a run, in order, `RunStarted` first.

    Its methods raise `OutputClosed` at most once, when whoever reads the log has gone: stop the run and exit quietly.
    Events after that still reach the record. A record that can't be written any more costs one line of the
    log, never the run.
    """

    def __init__(
        self,
        shown: ConsoleReport | JsonReport,
        record: RecordWriter | None = None,
        background: BackgroundWriter | None = None,
        status: StatusLine | None = None,
    ) -> None:
        """Show events by `shown`, and record them. `close` drains `background`, the stream below `shown`, if it has one.

        `status` is shown below the log where `background` writes to a terminal.
        """
        self._shown: ConsoleReport | JsonReport | None = shown
        self._record = SparedRecord(record)
        self._background = background
        self._status = status or StatusLine(None)
        self._warned_of_gap = False

    @classmethod
    def open(
        cls,
        *,
        log_format: LogFormat,
        stats: StatsMode = "auto",
        verbosity: Verbosity = "usual",
        record: str | Path | None = None,
        stream: TextIO,
        environ: Mapping[str, str],
        live: bool = False,
        duration_ns: int | None = None,
    ) -> Self:
        """Return a reporter on a stream, coloured as stream and environment ask, with a record if `record` names a file.

        `live` draws a status line below the log where the stream is a terminal; `duration_ns` is how long the run sends.
        Raises `UserError` when that file can't be written.
        """
        writer = None if record is None else RecordWriter(record, version=__version__)
        background = write_in_background(stream, live=live and log_format == "console" and has_status_line(environ))
        log = configure(format=log_format, stream=background or stream, colour=wants_colour(stream, environ))
        shown: ConsoleReport | JsonReport = ConsoleReport(log, stats=stats, verbosity=verbosity)
        if log_format == "json":
            shown = JsonReport(log, stats=stats, quiet=verbosity == "quiet")
        return cls(shown, writer, background, StatusLine(duration_ns))

    def emit(self, event: Event) -> None:
        """Record the event, then show it."""
        error = self._record.attempt(lambda record: record.write(event))
        self._status.emit(event)
        if isinstance(event, Verdict) and isinstance(self._background, TerminalWriter):
            self._background.set_status("")  # the summary is the last on the screen
        self._show(lambda shown: shown.emit(event))
        self._warn_record_error(error)

    def advance(self, now_ns: int) -> None:
        """Show what was held back long enough, and flush the record once a second, so that a killed run leaves its events."""
        self._show(lambda shown: shown.advance(now_ns))
        self._draw(now_ns)
        self._warn_record_error(self._record.attempt(lambda record: record.advance(now_ns)))

    def beat(self, pulse: Pulse) -> None:
        """Take in what the sessions are at."""
        self._status.beat(pulse)

    def show_progress(self, now_ns: int) -> None:
        """Write how the run stands so far, and go on; what the reader's end raises is left to the next event."""
        with contextlib.suppress(OutputClosed):
            self._show(lambda shown: shown.show_progress(self._status.summary(now_ns, shown.width), now_ns))

    def warn(self, text: str) -> None:
        """Write a warning that is no event's; what the reader's end raises is left to the next event."""
        with contextlib.suppress(OutputClosed):
            self._show(lambda shown: shown.warn(text))

    def _draw(self, now_ns: int) -> None:
        if isinstance(self._background, TerminalWriter):
            self._background.set_status(self._status.text(now_ns, self._background.width))

    def close(self) -> None:
        """Close the record, and show what still waits."""
        record = self._record.take()
        shown, self._shown = self._shown, None
        for line in [] if record is None else self._closed(record):
            if shown is not None:
                shown.warn(line)
        if shown is not None:
            shown.close()
            if self._background is not None:
                drain(self._background)

    @staticmethod
    def _closed(record: RecordWriter) -> list[str]:
        """Close the record, and return the warnings about it."""
        try:
            whole = record.close()
        except OSError as error:
            return [f"the record lacks its end: {error.strerror}"]

        lines = (
            [] if whole else [f"the record lacks its end: whoever reads it took nothing for {STALL_TIMEOUT_S:.0f} s"]
        )
        if record.left_out:
            were = plural(record.left_out, "event was", "events were")
            lines.append(f"the record is incomplete: {were} not written, since nobody took them in time")
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn_record_error(self, error: OSError | None) -> None:
        if error is not None:
            self._show(lambda shown: shown.warn(f"the record ends here, the run goes on: {error.strerror}"))
        writer = self._record.writer
        if writer is not None and writer.left_out and not self._warned_of_gap:
            self._warned_of_gap = True
            lacks = "the record lacks events from here on, the run goes on: whoever reads it does not take them"
            self._show(lambda shown: shown.warn(lacks))

    def _show(self, work: Callable[[ConsoleReport | JsonReport], None]) -> None:
        if self._shown is not None:
            try:
                work(self._shown)
            except OutputClosed:
                self._shown = None
                raise
