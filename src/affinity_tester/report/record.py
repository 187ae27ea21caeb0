"""The run record: every event of a run, lossless, as JSON lines, so that a run can be shown and judged again.

The first line is `{"record": "affinity-tester", "format": 2, "version": "<tool>"}`; each further line is one event, by
the name of its class and its fields. Bytes are hex, enumerations their values, tuples and sets lists, named tuples and
dataclasses objects; times stay integer nanoseconds. A path that ends in `.gz` is compressed.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, Self, cast

from affinity_tester.core.events import Event, SessionEvent
from affinity_tester.errors import UserError
from affinity_tester.report.codec import CodecError, decode, encode
from affinity_tester.settings import NS_PER_S

FORMAT = 2
"""Raised when a record can no longer be read by an older tool, or an older record by this one."""

_FLUSH_EVERY_NS = NS_PER_S
"""A killed run loses at most this much of its record."""

_HEADER_LIMIT = 1_000
"""Bytes looked at to tell whether a file is a record at all."""


class RecordWriter:
    """Writes events to a file as they come, in batches. All that writes may raise `OSError` (the disk is full)."""

    def __init__(self, path: str | Path, *, version: str) -> None:
        """Create or replace the file. Raises `UserError` when that can't be done."""
        try:
            self._file = _open(path, "wb")
            self._line({"record": "affinity-tester", "format": FORMAT, "version": version})
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write the record {path}: {error.strerror}; name a file that can be written"
            ) from error
        self._waiting_ns: int | None = None
        """Since when something waits to be in the file."""

    def write(self, event: Event) -> None:
        """Add an event; a fact of the run is in the file at once, a session's after a second."""
        self._line(encode(event))
        if self._waiting_ns is None:
            self._waiting_ns = event.at_ns
        if not isinstance(event, SessionEvent):
            self._flush()
        else:
            self.advance(event.at_ns)

    def advance(self, now_ns: int) -> None:
        """Time passed. May raise `OSError`."""
        if self._waiting_ns is not None and now_ns - self._waiting_ns >= _FLUSH_EVERY_NS:
            self._flush()

    def _flush(self) -> None:
        self._waiting_ns = None
        self._file.flush()

    def close(self) -> None:
        """Write what waits and close the file; once more is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, data: dict[str, Any]) -> None:
        self._file.write(json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n")


def read_record(path: str | Path, *, on_truncated: Callable[[str], None]) -> Iterator[Event]:
    """Yield the events of a record.

    Raises `UserError`, naming the line, for a file that can't be read, is no record, or is damaged. A last line that was
    cut off (the run was killed) is left out, and `on_truncated` is called with a sentence that says so.
    """
    number = 0
    try:
        with _open(path, "rb") as file:
            number = 1
            _check_header(path, file.readline(_HEADER_LIMIT))
            for number, line in enumerate(file, start=2):
                try:
                    event = decode(json.loads(line), Event)
                except (CodecError, ValueError, RecursionError) as error:
                    if line.endswith(b"\n"):
                        raise _damaged(path, number, error) from error
                    on_truncated(f"the record {path} breaks off in line {number}: the run was killed while it wrote")
                    return
                yield event
    except EOFError:
        on_truncated(f"the record {path} breaks off after line {number}: the run was killed while it wrote")
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _damaged(path, number, error) from error
    except OSError as error:
        raise UserError(f"cannot read the record {path}: {error.strerror}") from error


def _open(path: str | Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, mode) if str(path).endswith(".gz") else Path(path).open(mode))


def _check_header(path: str | Path, line: bytes) -> None:
    try:
        header = json.loads(line)
        is_record = header["record"] == "affinity-tester"
        written = header["format"]
    except (ValueError, TypeError, KeyError, RecursionError):
        is_record, written = False, None
    if not is_record:
        raise UserError(f"{path} is not a run record; `affinity-tester client --record FILE` writes one")
    if written != FORMAT:
        made_by = header.get("version")
        raise UserError(
            f"the record {path} has format {written!r}, made by affinity-tester {made_by!r}; this one reads format {FORMAT}"
        )


def _damaged(path: str | Path, number: int, error: Exception) -> UserError:
    return UserError(f"the record {path} is damaged in line {number}: {error}")
