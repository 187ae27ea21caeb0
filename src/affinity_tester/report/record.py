"""The run record: every event of a run, lossless, as JSON lines, so that a run can be shown and judged again.

The first line is `{"record": "affinity-tester", "format": 3, "version": "<tool>"}`; each further line is one event, by
the name of its class and its fields. Bytes are hex, enumerations their values, tuples and sets lists, named tuples and
dataclasses objects; times stay integer nanoseconds. A path that ends in `.gz` is compressed when it is written; what is
read is told by its first bytes. Two further lines are about the record itself:

    {"record": "left out", "events": <number>}   events that are missing here: nobody took what was written
    {"record": "ended", "why": "<text>"}         the last line, where the file could not be written any more
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from affinity_tester.core.events import Event
from affinity_tester.errors import UserError
from affinity_tester.report.event_json import CodecError, decode
from affinity_tester.units import plural

FORMAT = 3
"""Raised when a record can no longer be read by an older tool, or an older record by this one."""

MARK, LEFT_OUT, ENDED = "affinity-tester", "left out", "ended"
"""What `record` is in the lines that are no events."""

LONGEST_LINE = 1 << 25
"""Bytes: a hundred times what the pool of a big cluster takes. A longer line is damage, and is not read into memory."""

HEADER_LIMIT = 1_000
"""Bytes looked at to tell whether a file is a record at all."""

_GZIP = b"\x1f\x8b"


def read_record(source: str | Path | None, *, on_truncated: Callable[[str], None]) -> Iterator[Event]:
    """Yield the events of a record, a file or (None) what comes from standard input.

    Raises `UserError`, naming the line, for a file that can't be read, is no record, or is damaged. What a record lacks
    is left out, and `on_truncated` is called with a sentence that says so: its end (the run was killed, the disk was
    full), or what its reader did not take.
    """
    with open_input(source) as file:
        yield from read_events(name_of(source), file, on_truncated=on_truncated)


def name_of(source: str | Path | None) -> str | Path:
    """Return how a file or (None) standard input is called in errors."""
    return "(standard input)" if source is None else source


@contextlib.contextmanager
def open_input(source: str | Path | None) -> Iterator[IO[bytes]]:
    """Open a file or (None) standard input, and unpack what is packed. Raises `UserError` where it can't be read."""
    try:
        with _open(source) as plain:
            packed = plain.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=plain)) if packed else plain
    except OSError as error:
        raise UserError(f"cannot read the record {name_of(source)}: {error.strerror}") from error


def read_events(
    path: str | Path, file: IO[bytes], first: bytes | None = None, *, on_truncated: Callable[[str], None]
) -> Iterator[Event]:
    """Yield the events of an open record, as `read_record` does; `first` is its first line, where that was read already."""
    number = 1
    try:
        _check_header(path, file.readline(HEADER_LIMIT) if first is None else first)

        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"the record {path} is damaged in line {number}: it has more than {LONGEST_LINE >> 20} MiB"
                )
            try:
                data = json.loads(line)
                if isinstance(data, dict) and "record" in data:
                    if _ends(path, number, data, on_truncated):
                        return
                    continue
                event = decode(data, Event)
            except (CodecError, ValueError, RecursionError) as error:
                if line.endswith(b"\n"):
                    raise _damaged(path, number, error) from error
                on_truncated(_breaks_off(path, f"in line {number}"))
                return
            yield event
    except EOFError:
        on_truncated(_breaks_off(path, f"after line {number}"))
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, number, error) from error


def _open(source: str | Path | None) -> contextlib.AbstractContextManager[io.BufferedReader]:
    """Open the file; standard input stays open."""
    if source is None:
        return contextlib.nullcontext(cast("io.BufferedReader", sys.stdin.buffer))
    return Path(source).open("rb")


def is_record(first: bytes) -> bool:
    """True if a file with this first line is a run record, of whatever format."""
    return _header(first) is not None


def _header(line: bytes) -> dict[str, Any] | None:
    try:
        header = json.loads(line)
        return header if header["record"] == MARK and "format" in header else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _check_header(path: str | Path, line: bytes) -> None:
    header = _header(line)
    if header is None:
        raise UserError(f"{path} is not a run record; {_what_instead(line)}")
    written = header["format"]
    if written != FORMAT:
        raise UserError(
            f"the record {path} has format {written!r} (affinity-tester {header.get('version')!r}), and this program reads "
            f"format {FORMAT}: show it with the program that wrote it, or record the run again"
        )


def _what_instead(line: bytes) -> str:
    """Return what to do with a file that begins with this line and is no run record."""
    if line.startswith(b'{"at":') and b'"step":' in line:
        return "it is the journal of experiments, and the records of their runs stand beside it (NAME.jsonl.gz)"
    if line.strip() == b"{":
        return "if it is what `affinity-tester experiment --output` wrote, `affinity-tester compare` reads it"
    return "`affinity-tester client --record FILE` writes one"


def _ends(path: str | Path, number: int, data: dict[str, Any], on_truncated: Callable[[str], None]) -> bool:
    """Return whether this line, which is about the record itself, is its last. Raises `CodecError` and `UserError`."""
    match data:
        case {"record": "left out", "events": int(events)}:
            missing = f"{plural(events, 'event is', 'events are')} missing"
            on_truncated(f"the record {path} is incomplete: {missing} before line {number}, nobody took them in time")
            return False
        case {"record": "ended", "why": str(why)}:
            on_truncated(f"the record {path} ends in line {number}, before its run: {why:.200}")
            return True
        case {"record": "affinity-tester"}:
            raise UserError(
                f"the record {path} holds more than one run, the second from line {number} on: split it there"
                f" (head -n {number - 1}, tail -n +{number})"
            )
    raise CodecError("it is no event, and nothing known about the record")


def _breaks_off(path: str | Path, where: str) -> str:
    return f"the record {path} breaks off {where}: the run was killed while it wrote, or its disk was full"


def _damaged(path: str | Path, number: int, error: Exception) -> UserError:
    what = "its brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)
    return UserError(f"the record {path} is damaged in line {number}: {what}")
