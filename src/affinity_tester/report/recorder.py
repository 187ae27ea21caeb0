"""Writes the run record: beside the run, whatever the disk or the reader of a pipe does (`record` says what is in it)."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

from affinity_tester.core.events import Event, SessionEvent
from affinity_tester.errors import UserError
from affinity_tester.report.background_writer import BackgroundFile
from affinity_tester.report.event_json import encode
from affinity_tester.report.record import ENDED, FORMAT, LEFT_OUT, MARK
from affinity_tester.units import NS_PER_S

_FLUSH_EVERY_NS = NS_PER_S
"""A killed run loses at most this much of its record."""

MOST_WAITING = 1 << 26
"""Bytes kept for a reader that stalls: what 1,000 sessions tell in an hour."""

STALL_TIMEOUT_S = 10.0
"""How long the end of a run waits for a reader that takes nothing."""

READER_S = 2.0
"""A pipe's reader, which the same shell line may just be starting, may come so late."""

READER_CHECK_S = 0.05

_TAIL = 1 << 16
"""Bytes of a file's end in which a line begins."""

_OPEN = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def _encoded(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


class RecordWriter:
    """Writes events to a file as they come, in batches, beside the run: a slow disk or reader holds nobody up.

    What a reader of a pipe does not take for long is left out, with a line in the record that says how much. All that
    writes may raise `OSError` (the disk is full); the file then ends with a line that says so, as far as it can be written.
    """

    def __init__(self, path: str | Path, *, version: str, most: int = MOST_WAITING) -> None:
        """Create or replace the file. Raises `UserError` when that can't be done.

        The file of a run that never starts, which writes no event, is not left behind.
        """
        self._path = Path(path)
        self._header = {"record": MARK, "format": FORMAT, "version": version}
        self._most = most
        self._made = not os.path.lexists(path)
        self._fd = self._opened()
        self._plain = BackgroundFile(self._fd)
        self._file: BackgroundFile | gzip.GzipFile = self._plain
        self._closed = False
        self._waiting_ns: int | None = None
        """Since when something waits to be flushed; None while nothing does."""
        self._begun = False
        self._gap = 0
        """Events left out since the last one that was written."""
        self.left_out = 0
        """Events that were not written since the reader had not taken those before."""

    def write(self, event: Event) -> None:
        """Add an event; a fact of the run is handed to the file at once, a session's after a second."""
        if not self._begun:
            self._begin()
        if self._plain.waiting > self._most:
            self._gap += 1
            self.left_out += 1
            return

        self._close_gap()
        self._line(encode(event))

        if self._waiting_ns is None:
            self._waiting_ns = event.at_ns
        if not isinstance(event, SessionEvent):
            self._flush()
        else:
            self.advance(event.at_ns)

    def advance(self, now_ns: int) -> None:
        """Flush what has waited for a second. May raise the `OSError` that the file met since the last call."""
        if self._waiting_ns is not None and now_ns - self._waiting_ns >= _FLUSH_EVERY_NS:
            self._flush()
        self._plain.check()

    def close(self) -> bool:
        """Write what waits and close the file; once more is harmless. May raise `OSError`.

        False when whoever reads it took nothing for `STALL_TIMEOUT_S`: then it lacks its end.
        """
        if self._closed:
            return True
        self._closed = True

        if not self._begun:
            self._discard()
            return True

        try:
            self._close_gap()
            if isinstance(self._file, gzip.GzipFile):
                self._file.close()
            whole = self._plain.drain(STALL_TIMEOUT_S)
        except OSError as error:
            self._end(error)
            raise
        if whole:  # else the thread still writes to it
            os.close(self._fd)
        return whole

    def give_up(self, error: OSError) -> None:
        """End the file after an error with a line that says so, where there is still room for it, and close it."""
        if not self._closed:
            self._closed = True
            self._end(error)

    def _end(self, error: OSError) -> None:
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(self._fd).st_mode) and self._file is self._plain:
                self._end_with({"record": ENDED, "why": error.strerror})
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> int:
        """Open the file, and write to it once, so that a full disk is found before the run; return its descriptor."""
        try:
            fd = self._open()
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.ftruncate(fd, 0)
                    os.write(fd, _encoded(self._header))
                    os.ftruncate(fd, 0)
                    os.lseek(fd, 0, os.SEEK_SET)
                elif hasattr(os, "set_blocking"):
                    os.set_blocking(fd, True)
            except OSError:
                os.close(fd)
                self._discard_file()
                raise
        except OSError as error:
            raise UserError(
                f"cannot write the record {self._path}: {error.strerror}; name a file that can be written"
            ) from error
        return fd

    def _open(self) -> int:
        """Open the file without blocking; a pipe has `READER_S` to get its reader. Raises `OSError` and `UserError`."""
        for _ in range(1 + int(READER_S / READER_CHECK_S)):
            try:
                return os.open(self._path, _OPEN, 0o666)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            time.sleep(READER_CHECK_S)
        raise UserError(f"nobody reads the pipe --record {self._path}: start its reader first, or name a file")

    def _begin(self) -> None:
        self._begun = True
        if self._path.suffix == ".gz":
            self._file = gzip.GzipFile(fileobj=cast("Any", self._plain), mode="wb")
        self._line(self._header)

    def _discard(self) -> None:
        self._plain.drain()
        os.close(self._fd)
        self._discard_file()

    def _discard_file(self) -> None:
        """Remove the file if this run made it; an empty one that was there before stays."""
        with contextlib.suppress(OSError):
            if self._made and self._path.is_file():
                self._path.unlink()

    def _close_gap(self) -> None:
        """Write a line for what was left out here, if anything was."""
        if self._gap:
            self._line({"record": LEFT_OUT, "events": self._gap})
            self._gap = 0

    def _end_with(self, line: dict[str, Any]) -> None:
        """Replace the last lines of the file by this one, which is shorter: a full disk has room for nothing longer."""
        data = _encoded(line)
        size = os.fstat(self._fd).st_size
        at = max(0, size - _TAIL)

        with self._path.open("rb") as file:
            file.seek(at)
            tail = file.read(_TAIL)
        cut = tail.rfind(b"\n", 0, max(0, len(tail) - len(data)))
        if cut < 0:
            return  # one line longer than that, or hardly anything: it breaks off, which is told when it is read

        at += cut + 1
        os.ftruncate(self._fd, at)
        os.lseek(self._fd, at, os.SEEK_SET)
        os.write(self._fd, data)

    def _flush(self) -> None:
        self._waiting_ns = None
        self._file.flush()

    def _line(self, data: dict[str, Any]) -> None:
        self._file.write(_encoded(data))


class SparedRecord:
    """A record, if there is one, whose first error ends it and nothing else: the run that it is of goes on."""

    def __init__(self, writer: RecordWriter | None) -> None:
        """Write by this; None: nothing is recorded."""
        self.writer = writer
        """None too after an error, and after `take`."""

    def attempt(self, work: Callable[[RecordWriter], object]) -> OSError | None:
        """Work on the record. The first error ends it, and is returned."""
        if self.writer is None:
            return None
        writer = self.writer
        try:
            work(writer)
        except OSError as error:
            self.writer = None
            writer.give_up(error)
            return error
        return None

    def take(self) -> RecordWriter | None:
        """Return the writer, which is the caller's to close; nothing is recorded any more."""
        writer, self.writer = self.writer, None
        return writer
