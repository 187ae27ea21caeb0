"""The log's form: structlog's processors to one line of text (coloured by colorama) or one JSON object, and its stream.

Nothing global is configured: `configure` returns a logger that owns its processors and its stream, so that a test, the
demo and the server can each have theirs. What is logged comes from `console`, `jsonlog` and `server_log`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Literal, Protocol, TextIO

import colorama
import structlog
from colorama import Fore, Style

from affinity_tester.errors import AffinityTesterError
from affinity_tester.report.text import printable

LogFormat = Literal["console", "json"]
Level = Literal["info", "event", "warn", "error"]

_TAGS: dict[str, str] = {level: f"[{level}]".ljust(7) for level in ("info", "event", "warn", "error")}


class OutputClosed(AffinityTesterError):  # noqa: N818 - it says what happened; nobody made an error
    """Whoever read the log has gone (`| head`), or its disk is full: stop the run, say nothing more on that stream.

    Everything written to the stream after it has been raised once goes nowhere.
    """


class Stream(Protocol):
    """What a log writes to."""

    def write(self, text: str, /) -> object:
        """Take text; it may wait until `flush`."""

    def flush(self) -> None:
        """Hand it on."""

    def fileno(self) -> int:
        """Tell the descriptor below."""


class Colour(StrEnum):
    """What a line is, as a colour."""

    STATISTICS = Fore.WHITE
    CHANGE = Fore.RED
    CLUSTER = Fore.CYAN
    QUIET = Style.DIM
    WARNING = Fore.YELLOW
    VIOLATION = Style.BRIGHT + Fore.RED
    GOOD = Style.BRIGHT + Fore.GREEN
    DOUBTFUL = Style.BRIGHT + Fore.YELLOW


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to colour: NO_COLOR says no, then FORCE_COLOR yes, else the stream must be a terminal (no-color.org)."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environ.get("TERM") != "dumb"


def tolerate_any_text(stream: io.TextIOWrapper) -> None:
    """A pod name that the terminal's encoding lacks must not end the run."""
    stream.reconfigure(errors="backslashreplace")


class Log(structlog.BoundLoggerBase):
    """What the report writes to; every call may raise `OutputClosed`."""

    def line(self, level: Level, event: str, *, time: str, colour: Colour = Colour.STATISTICS, **data: object) -> None:
        """Log one line; it may wait in the stream's buffer until `flush`.

        `time` is ready for the format (time of day, or RFC 3339). In JSON `event` is the dotted name, and `data` shows.
        """
        self._proxy_to_logger("write", event, level=level, time=time, colour=colour, **data)

    def text(self, text: str, colour: Colour | None = None) -> None:
        """Write a line of the console form that has neither time nor level (the summary's tables)."""
        self._logger.write(printable(text), colour)

    def flush(self) -> None:
        """Hand what was logged to whoever reads it."""
        self._logger.flush()


def configure(*, format: LogFormat, stream: Stream, colour: bool) -> Log:  # noqa: A002 - the option's own name
    """Build a logger of this form on this stream; `colour` counts for the console form alone."""
    as_json: list[Any] = [_json_fields, structlog.processors.JSONRenderer(serializer=_dumps)]
    as_text: list[Any] = [_console_line]
    sink = _Sink(stream, colour=colour and format == "console")
    return Log(sink, as_json if format == "json" else as_text, {})


class _Sink:
    """The stream under the logger: colours, and turns each way in which a stream can end into `OutputClosed`."""

    def __init__(self, stream: Stream, *, colour: bool) -> None:
        self._stream = stream
        self._colour = colour
        if colour:
            colorama.just_fix_windows_console()
        if isinstance(stream, io.TextIOWrapper):
            tolerate_any_text(stream)
        with contextlib.suppress(OSError, ValueError):
            # Another program on the same terminal may have left it non-blocking: a full pipe would then lose lines.
            os.set_blocking(stream.fileno(), True)

    def write(self, line: str, colour: Colour | None = None) -> None:
        if self._colour and colour is not None:
            line = f"{colour.value}{line}{Style.RESET_ALL}"
        try:
            self._stream.write(line + "\n")
        except (OSError, ValueError) as error:
            raise output_closed(self._stream) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise output_closed(self._stream) from error


def output_closed(stream: Stream) -> OutputClosed:
    """Point the stream to nowhere, so that what waits in its buffer does not fail again when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return OutputClosed("the output was closed")


def _console_line(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[str, Colour], dict[str, Any]]:
    """The last processor for people: `HH:MM:SS.mmm [level] text`."""
    return (f"{event['time']} {_TAGS[event['level']]} {printable(event['event'])}", event["colour"]), {}


def _json_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor for machines: no colour, and what every line has comes first."""
    del event["colour"]
    return {"time": event.pop("time"), "level": event.pop("level"), "event": event.pop("event"), **event}


def _dumps(event: object, **_: object) -> str:
    """ASCII, so that any reader's encoding will do; what is not finite is a bug and raises."""
    return json.dumps(event, allow_nan=False, separators=(",", ":"))
