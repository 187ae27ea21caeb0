"""Writers that never make the run wait: a pager, a stopped terminal, a slow pipe or disk must not stop the probes.

A thread writes what it is given, as fast as the reader takes it. A log keeps only so much for a reader that stalls, leaves
out the rest, and says in a line how much that was. A record's writer (`recorder`) decides itself what it leaves out.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Generic, TextIO, TypeVar

from affinity_tester.units import plural

MOST_CHARACTERS = 1 << 22
"""Kept for a reader that stalls: some 40,000 lines. The record, if there is one, has everything anyway."""

_Piece = TypeVar("_Piece", str, bytes)


def left_out_line(lines: int) -> str:
    """Return the line that stands for lines that were left out."""
    return f"… {plural(lines, 'line was', 'lines were')} left out: whoever reads this did not take them\n"


class _Background(ABC, Generic[_Piece]):
    """Keeps pieces of text or bytes until its thread has written them."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._pieces: list[_Piece] = []
        self._size = 0
        self._taken = 0
        """How often something was written: it stays the same while a reader takes nothing."""
        self._busy = False
        self._ended = False
        self._error: OSError | ValueError | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return how many characters or bytes are kept, those being written included."""
        return self._size

    def flush(self) -> None:
        """Let the thread write what is kept. Raises the `OSError` or `ValueError` that an earlier piece met."""
        with self._changed:
            self.check()
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the error that an earlier piece met, if there was one."""
        if self._error is not None:
            raise self._error

    def drain(self, stall_timeout_s: float | None = None, within_s: float = math.inf) -> bool:
        """Wait until the reader has taken everything (Ctrl-C ends that); the stream is the caller's again.

        False when it took nothing for `stall_timeout_s`, or not all `within_s`: what is left then stays with the thread.
        Raises what `flush` does.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()

            taken, since = self._taken, monotonic()
            end = since + within_s
            while (self._pieces or self._busy) and self._error is None:
                self._changed.wait(min(0.1, within_s))
                if monotonic() > end:
                    return False
                if self._taken != taken:
                    taken, since = self._taken, monotonic()
                elif stall_timeout_s is not None and monotonic() - since > stall_timeout_s:
                    return False

        self._thread.join(0.5)
        self.check()
        return True

    def _keep(self, piece: _Piece) -> None:
        """Keep a piece for the thread; the caller holds the lock."""
        self.check()
        self._pieces.append(piece)
        self._size += len(piece)

    @abstractmethod
    def _hand_on(self, pieces: list[_Piece]) -> None:
        """Write the pieces. Runs in the thread."""

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._ended:
                    self._changed.wait()
                if not self._pieces:
                    return
                pieces, self._pieces = self._pieces, []
                self._busy = True

            # Outside the lock: the run must be able to add lines while a slow reader holds this thread up.
            try:
                self._hand_on(pieces)
            except (OSError, ValueError) as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return

            with self._changed:
                self._size = sum(map(len, self._pieces))
                self._taken += 1
                self._busy = False
                self._changed.notify_all()


class BackgroundWriter(_Background[str]):
    """Writes lines from a thread, with as much of `TextIO` as a log needs: `write` and `flush` return at once.

    They raise the `OSError` or `ValueError` that an earlier line met. `drain` waits for the reader.
    """

    def __init__(
        self, stream: TextIO, most: int = MOST_CHARACTERS, tell_left_out: Callable[[int], str] = left_out_line
    ) -> None:
        """Write to `stream`, which nobody else writes to until `drain`; `tell_left_out` words a number of lines."""
        self._stream = stream
        self._tell_left_out = tell_left_out
        self._most = most
        self._left_out = 0
        super().__init__("log")

    def write(self, text: str) -> None:
        """Keep a line for the thread."""
        with self._changed:
            if self._error is None and self._size + len(text) > self._most:
                self._left_out += 1
            else:
                self._keep(text)

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        return self._stream.fileno()

    def drain(self, stall_timeout_s: float | None = None, within_s: float = math.inf) -> bool:
        """Wait as `_Background` does, after telling what was left out last."""
        with self._changed:
            if self._left_out and not self._pieces and self._error is None:
                self._keep("")
        return super().drain(stall_timeout_s, within_s)

    def _take(self, pieces: list[str]) -> str:
        """Return the pieces as one text, with the line that tells of what was left out since the last time."""
        with self._changed:
            left_out, self._left_out = self._left_out, 0
        return "".join(pieces) + (self._tell_left_out(left_out) if left_out else "")

    def _hand_on(self, pieces: list[str]) -> None:
        self._stream.write(self._take(pieces))
        self._stream.flush()


class BackgroundFile(_Background[bytes]):
    """Writes bytes to a file from a thread: `write` and `flush` return at once, and nothing is left out."""

    def __init__(self, fd: int) -> None:
        """Write to this descriptor, which is closed by `close`."""
        self._fd = fd
        self.written = 0
        """Bytes that are in the file."""
        super().__init__("record")

    def write(self, data: bytes) -> int:
        """Keep bytes for the thread. Raises the `OSError` that an earlier piece met."""
        with self._changed:
            self._keep(bytes(data))
        return len(data)

    def _hand_on(self, pieces: list[bytes]) -> None:
        left = memoryview(b"".join(pieces))
        while left:
            count = os.write(self._fd, left)
            self.written += count
            self._taken += 1  # a reader that is slow takes something all the same
            left = left[count:]
