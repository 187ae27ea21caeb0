"""A text stream that never makes the run wait: a pager, a stopped terminal or a slow pipe must not stop the probes.

Lines go to a thread, which writes them as fast as the reader takes them. What the reader does not take for very long is
left out, and a line says how much.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import TextIO

from affinity_tester.report import words

MOST_CHARACTERS = 1 << 22
"""Kept for a reader that stalls: some 40,000 lines. The record, if there is one, has everything anyway."""


def left_out_line(lines: int) -> str:
    """What tells people of lines that were left out."""
    return f"… {words.plural(lines, 'line was', 'lines were')} left out: whoever reads this did not take them\n"


class PatientStream:
    """As much of `TextIO` as a log needs: `write` and `flush` return at once.

    `write` and `flush` raise the `OSError` or `ValueError` that an earlier line met. `drain` waits for the reader.
    """

    def __init__(
        self, stream: TextIO, most: int = MOST_CHARACTERS, tell_left_out: Callable[[int], str] = left_out_line
    ) -> None:
        """Write to `stream`, which nobody else writes to until `drain`; `tell_left_out` words a number of lines."""
        self._stream = stream
        self._tell_left_out = tell_left_out
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[str] = []
        self._size = 0
        self._left_out = 0
        self._busy = False
        self._ended = False
        self._error: OSError | ValueError | None = None
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Keep a line for the thread."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if self._size + len(text) > self._most:
                self._left_out += 1
                return
            self._waiting.append(text)
            self._size += len(text)

    def flush(self) -> None:
        """Let the thread write what is kept."""
        with self._changed:
            if self._error is not None:
                raise self._error
            self._changed.notify_all()

    def fileno(self) -> int:
        """The descriptor of the stream below."""
        return self._stream.fileno()

    def drain(self, within_s: float = math.inf) -> bool:
        """Wait until the reader has taken everything (Ctrl-C ends that); the stream is the caller's again.

        False when the reader has not within that time: the stream stays the thread's. Raises what `write` does.
        """
        deadline_s = time.monotonic() + within_s
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            while (
                (self._waiting or self._left_out or self._busy)
                and self._error is None
                and time.monotonic() < deadline_s
            ):
                self._changed.wait(min(0.5, within_s))
            is_taken = not (self._waiting or self._left_out or self._busy)
        if is_taken or self._error is not None:
            self._thread.join(0.5)
        if self._error is not None:
            raise self._error
        return is_taken

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._left_out or self._ended):
                    self._changed.wait()
                if not (self._waiting or self._left_out):
                    return
                lines, self._waiting = self._waiting, []
                left_out, self._left_out = self._left_out, 0
                self._busy = True
            try:
                self._stream.write("".join(lines))
                if left_out:
                    self._stream.write(self._tell_left_out(left_out))
                self._stream.flush()
            except (OSError, ValueError) as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._size = sum(map(len, self._waiting))
                self._busy = False
                self._changed.notify_all()
