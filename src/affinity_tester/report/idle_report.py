"""Tells a measurement of silence: its start, how far it is, and its result, for people or as JSON lines."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TextIO

from affinity_tester import __version__
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.idle.model import Property
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.core.idle.settings import IdleSettings
from affinity_tester.report.background_writer import BackgroundWriter
from affinity_tester.report.clock import RunClock
from affinity_tester.report.idle_json import idle_document, step_data
from affinity_tester.report.idle_text import idle_lines, step_text
from affinity_tester.report.logging import Colour, Log, LogFormat, OutputClosed, configure, wants_colour
from affinity_tester.report.reporter import drain, has_status_line, write_in_background
from affinity_tester.report.terminal import TerminalWriter
from affinity_tester.units import NS_PER_S, format_span, plural


class IdleReport:
    """Writes to one log. Every call may raise `OutputClosed`."""

    def __init__(
        self, log: Log, log_format: LogFormat, background: BackgroundWriter | None, document: Path | None
    ) -> None:
        """`document` is the file that gets the whole result as JSON; None: none does."""
        self._log = log
        self._json = log_format == "json"
        self._background = background
        self._document = document
        self._status = ""

    @classmethod
    def open(
        cls,
        *,
        stream: TextIO,
        log_format: LogFormat,
        environ: Mapping[str, str],
        at_ns: int,
        live: bool = False,
        document: Path | None = None,
    ) -> Self:
        """Write to `stream`; `at_ns` is now on the run's clock."""
        is_live = live and log_format == "console" and has_status_line(environ)
        background = write_in_background(stream, live=is_live)
        log = configure(format=log_format, stream=background or stream, colour=wants_colour(stream, environ))
        offset_s = time.localtime().tm_gmtoff
        clock = RunClock(wall_ns=time.time_ns(), at_ns=at_ns, utc_offset_s=offset_s)
        return cls(log.bind(clock), log_format, background, document)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._background is not None:
            with contextlib.nullcontext() if error is None else contextlib.suppress(OutputClosed):
                drain(self._background)

    def started(self, at_ns: int, target: TransportAddress, settings: IdleSettings) -> None:
        """Tell what is measured."""
        if settings.silences_ns:
            steps = f"silences of {', '.join(format_span(each) for each in settings.silences_ns)}"
        else:
            steps = f"silences of 1 s to {format_span(settings.longest_ns)}"
        text = (
            f"affinity-tester {__version__}: how long may a flow to {target} be silent? {steps}, {settings.samples} samples"
            " of each, every one from a port of its own"
        )
        data = {
            "version": __version__,
            "target": str(target),
            "longest_s": settings.longest_ns / NS_PER_S,
            "samples": settings.samples,
            "directions": [direction.value for direction in settings.directions],
        }
        self._line("info", "idle.started", text, at_ns, data)

    def warn(self, at_ns: int, text: str) -> None:
        """Tell what makes the result doubtful."""
        self._line("warn", "idle.warning", text, at_ns, {})

    def progress(self, now_ns: int, number: int, done: int, planned: int, ends_ns: int) -> None:
        """Draw how far the round of this number is (0: all are over), on a terminal's last line."""
        left = f"{format_span(max(0, ends_ns - now_ns) // NS_PER_S * NS_PER_S)} left at most"
        if number == 0:
            self._status = f"waiting for a list of the pool that shows whether it changed, {left}"
        else:
            which = "finer steps and repetitions" if number > 1 else "first round"
            self._status = f"{which}: {done:,} of {plural(planned, 'sample')} ended, {left}"
        if isinstance(self._background, TerminalWriter):
            self._background.set_status(self._status)

    def show_progress(self, at_ns: int) -> None:
        """Write how far it is as a line, since a signal asked; what the reader's end raises is left to the next line."""
        with contextlib.suppress(OutputClosed):
            self._line("info", "idle.progress", f"so far: {self._status or 'no sample has begun'}", at_ns, {})

    def result(self, at_ns: int, result: IdleResult) -> None:
        """Tell the answer, and write the document."""
        if isinstance(self._background, TerminalWriter):
            self._background.set_status("")
        if self._json:
            for curve in result.curves:
                for step in curve.steps:
                    data = {"direction": curve.direction.value, "state": curve.state.value, **step_data(step)}
                    self._line("info", "idle.step", step_text(step, Property.FLOW), at_ns, data)
            document = idle_document(result)
            self._line("info", "idle.result", "; ".join(document.pop("text")), at_ns, document)
        else:
            for text, colour in idle_lines(result):
                self._log.text(text, colour)
        self._log.flush()
        if self._document is not None:
            self._document.write_text(json.dumps(idle_document(result), indent=2) + "\n", encoding="utf-8")

    def _line(
        self,
        level: Literal["info", "warn"],
        name: str,
        text: str,
        at_ns: int,
        data: Mapping[str, object],
    ) -> None:
        colour = Colour.WARNING if level == "warn" else Colour.STATISTICS
        if self._json:
            self._log.line(level, name, at_ns=at_ns, colour=colour, message=text, **data)
        else:
            self._log.line(level, text, at_ns=at_ns, colour=colour)
        self._log.flush()
