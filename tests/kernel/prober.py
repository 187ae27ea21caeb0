"""The installed client at work in a lab: paced by what it tells, read from its record after its end."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self

import busy
from affinity_tester.core.events import Event
from affinity_tester.report.record import read_record

_ENDS_WITHIN_S = 30


class LabError(Exception):
    """A command of the lab failed; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Run:
    """A client's run, after its end."""

    events: tuple[Event, ...]
    """Its record."""
    exit_code: int


class Client:
    """`affinity-tester client` at work; leaving the `with` block ends it whatever happened."""

    def __init__(self, argv: Sequence[str], record: Path, sessions: int) -> None:
        self._record = record
        self._sessions = sessions
        self._sent = 0
        self._errors = record.with_suffix(".stderr")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True)
        # Read at once, whatever the test waits for: a full pipe would hold the client up.
        self._told: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._reader = Thread(target=self._listen)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.put(json.loads(line))
        self._told.put(None)

    def rounds(self, count: int) -> None:
        """Return when each session has sent about so many probes more; the client's own statistics tell."""
        until = self._sent + count * self._sessions
        while self._sent < until:
            self.until("run.stats")

    def until(self, wanted: str) -> dict[str, Any]:
        """The next event of this name that the client tells."""
        while (told := self._told.get()) is not None:
            if told["event"] == "run.stats":
                self._sent = told["total"]["sent"]
            if told["event"] == wanted:
                return told
        raise LabError(f"the client ended before {wanted}: {self._errors.read_text()}")

    def stop(self) -> Run:
        """End it as a person does with Ctrl-C, and read its record."""
        self._process.send_signal(signal.SIGINT)
        return self.finished()

    def finished(self) -> Run:
        """Wait for its end, and read its record."""
        self._process.wait(timeout=_ENDS_WITHIN_S)
        assert self._errors.read_text() == ""
        events = tuple(read_record(self._record, on_truncated=_refuse))
        busy.look_at_events(events)
        return Run(events, self._process.returncode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _refuse(text: str) -> None:
    raise LabError(text)
