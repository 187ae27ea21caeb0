"""The log's form and its stream: structlog's processors make of an event a line of text or a JSON object.

An event passes a chain of processors: the run's clock makes its time, its level is added, and the last one renders the
line (coloured by colorama) or the object. Nothing global is configured: `configure` returns a log that owns its processors
and its stream, so that a test, the demo and the server can each have theirs. What is logged comes from `console`,
`jsonlog` and `server_log`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Protocol, TextIO

import colorama
import structlog
from colorama import Fore, Style
from structlog.typing import EventDict

from affinity_tester.errors import AffinityTesterError
from affinity_tester.report.clock import RunClock
from affinity_tester.report.text import printable
from affinity_tester.report.wrapping import wrapped

LogFormat = Literal["console", "json"]
Level = Literal["debug", "info", "event", "warn", "error"]
"""`event`, what the cluster or the lab did, is of the console's form alone: no reader of JSON logs knows it."""

StatsMode = Literal["auto", "session", "total"]
"""Statistics of each session, of all together, or as their number asks."""

_TAGS: dict[str, str] = {level: f"[{level}]".ljust(7) for level in ("debug", "info", "event", "warn", "error")}


Verbosity = Literal["quiet", "usual", "verbose"]
"""Only what is red and the summary; what people ask for; what happens to each session too."""


class OutputClosed(AffinityTesterError):  # noqa: N818 - it says what happened; nobody made an error
    """The log's reader has gone (`| head`), or its disk is full: stop the run, and write nothing more to that stream.

    Everything written to the stream after it has been raised once goes nowhere.
    """


class Stream(Protocol):
    """The part of a text stream that a log needs."""

    def write(self, text: str, /) -> object:
        """Take text; it may wait until `flush`."""

    def flush(self) -> None:
        """Hand on what was written."""

    def fileno(self) -> int:
        """Return the descriptor below."""


class Colour(StrEnum):
    """The colour of a line, named for what the line tells."""

    STATISTICS = ""
    """The terminal's own foreground: ANSI white is invisible on a light background."""
    CHANGE = Fore.RED
    CLUSTER = Fore.CYAN
    QUIET = Style.DIM
    WARNING = Fore.YELLOW
    VIOLATION = Style.BRIGHT + Fore.RED
    GOOD = Style.BRIGHT + Fore.GREEN
    DOUBTFUL = Fore.YELLOW
    """Not bold: many terminals make bold yellow a bright one, which is invisible on a light background."""


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether to colour: NO_COLOR says no, then FORCE_COLOR yes, else the stream must be a terminal (no-color.org)."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environ.get("TERM") != "dumb"


def tolerate_any_text(stream: io.TextIOWrapper) -> None:
    """Escape what the stream's encoding lacks: a pod's name must not end the run."""
    stream.reconfigure(errors="backslashreplace")


class Log:
    """A log of one form on one stream: a structlog logger of its own, and the stream below it.

    Every call may raise `OutputClosed`.
    """

    def __init__(self, output: _Output, logger: Any) -> None:
        self._output = output
        self._logger = logger

    def bind(self, clock: RunClock, **fields: object) -> Log:
        """Return this log with the clock of a run, which every line needs, and with fields of all its JSON lines."""
        return Log(self._output, self._logger.bind(clock=clock, **fields))

    def line(self, level: Level, event: str, *, at_ns: int, colour: Colour = Colour.STATISTICS, **data: object) -> None:
        """Log what was so at `at_ns` of the run's clock; the line may wait in the stream's buffer until `flush`.

        `event` is the line's text; in JSON it is the dotted name, and `data` shows.
        """
        getattr(self._logger, level)(event, at_ns=at_ns, colour=colour, **data)

    @property
    def width(self) -> int | None:
        """Return the columns of the terminal that the lines go to; None where they go elsewhere."""
        return self._output.size[0]

    @property
    def height(self) -> int | None:
        """Return the rows of that terminal; None where there is none."""
        return self._output.size[1]

    def text(self, text: str, colour: Colour | None = None, *, whole: bool = False) -> None:
        """Write a line of the console form that has neither time nor level, such as a table's.

        `whole`: a line to copy, such as a command, which no terminal is too narrow for.
        """
        self._output.write(printable(text), colour, whole=whole)

    def flush(self) -> None:
        """Flush the stream."""
        self._output.flush()


def configure(*, format: LogFormat, stream: Stream, colour: bool) -> Log:  # noqa: A002 - the option's own name
    """Return a log of this form on this stream; `colour` counts for the console form alone."""
    output = _Output(stream, colour=colour and format == "console", wraps=format == "console")
    chain = _JSON_CHAIN if format == "json" else _CONSOLE_CHAIN
    # `bind` makes the logger that structlog would else assemble anew for every line.
    return Log(output, structlog.wrap_logger(output, chain, structlog.BoundLogger, dict).bind())


class _Output:
    """The logger that structlog wraps: writes lines, and turns each way in which a stream can end into `OutputClosed`."""

    def __init__(self, stream: Stream, *, colour: bool, wraps: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._terminal = _terminal_of(stream) if wraps else None

        if colour:
            colorama.just_fix_windows_console()
        if isinstance(stream, io.TextIOWrapper):
            tolerate_any_text(stream)
        with contextlib.suppress(OSError, ValueError):
            # Another program on the same terminal may have left it non-blocking: a full pipe would then lose lines.
            os.set_blocking(stream.fileno(), True)

    @property
    def size(self) -> tuple[int | None, int | None]:
        """The terminal's columns and rows as of now; None for no terminal, or one that does not tell."""
        if self._terminal is not None:
            with contextlib.suppress(OSError):  # it was closed
                columns, rows = os.get_terminal_size(self._terminal)
                return columns or None, rows or None
        return None, None

    def write(self, line: str, colour: Colour | None = None, *, whole: bool = False) -> None:
        if not whole and self._terminal is not None:
            line = wrapped(line, self.size[0])
        if self._colour and colour:  # the terminal's own needs no code
            line = f"{colour.value}{line}{Style.RESET_ALL}"
        try:
            self._stream.write(line + "\n")
        except (OSError, ValueError) as error:
            raise output_closed(self._stream) from error

    debug = info = event = warn = error = write
    """structlog calls the method that is named like the level."""

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise output_closed(self._stream) from error


def _terminal_of(stream: Stream) -> int | None:
    """Return the descriptor of the terminal that a stream writes to; None where that is none."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = stream.fileno()
        return descriptor if os.isatty(descriptor) else None
    return None


def output_closed(stream: Stream) -> OutputClosed:
    """Point the stream to nowhere, so that what waits in its buffer does not fail again when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return OutputClosed("the output was closed")


# The processors, in the order in which an event passes them: when, how important, and the form.


def _add_time_of_day(_logger: object, _level: str, event: EventDict) -> EventDict:
    """Replace the run's time by the time of day."""
    event["time"] = event.pop("clock").time_of_day(event.pop("at_ns"))
    return event


def _add_rfc3339_time(_logger: object, _level: str, event: EventDict) -> EventDict:
    """Replace the run's time by an RFC 3339 time."""
    event["time"] = event.pop("clock").rfc3339(event.pop("at_ns"))
    return event


def _add_level(_logger: object, level: str, event: EventDict) -> EventDict:
    """Add the level. structlog's own processor writes `warning`, where the readers of this log know `warn`."""
    event["level"] = level
    return event


def _render_line(_logger: object, level: str, event: EventDict) -> tuple[tuple[str, Colour], dict[str, Any]]:
    """Return `HH:MM:SS.mmm [level] text` and its colour, which are the arguments of `_Output.write`."""
    return (f"{event['time']} {_TAGS[level]} {printable(event['event'])}", event["colour"]), {}


def _order_fields(_logger: object, _level: str, event: EventDict) -> EventDict:
    """Put first what every line has, and drop the colour."""
    del event["colour"]
    return {**{key: event.pop(key) for key in _FIRST if key in event}, **event}


_FIRST = ("time", "level", "event", "message", "run")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""ASCII, so that any reader's encoding will do; a number that is not finite is a bug and raises."""

_render_json = structlog.processors.JSONRenderer(serializer=lambda event, **_: _encode(event))

_CONSOLE_CHAIN = (_add_time_of_day, _add_level, _render_line)
_JSON_CHAIN = (_add_rfc3339_time, _add_level, _order_fields, _render_json)
