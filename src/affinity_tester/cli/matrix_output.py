"""Shows how far `lab --all` is: its lines as ever and, where the output is a terminal, a status line below them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from typing import Self

import click

from affinity_tester.app.lab_matrix import PlanResult
from affinity_tester.app.signals import ASKING
from affinity_tester.report.reporter import drain, has_status_line, write_in_background
from affinity_tester.report.terminal import TerminalWriter
from affinity_tester.units import NS_PER_S, format_span, plural

TICK_S = 0.5
"""How often the time in the status line goes on: a run takes many of these."""


class MatrixOutput:
    """Writes lines to standard output. A context manager, whose end takes the status line away."""

    def __init__(self, total: int, *, live: bool) -> None:
        """`total` runs are to come; `live` asks for the status line."""
        self._total = total
        self._done = self._bad = 0
        self._began_ns = time.monotonic_ns()
        writer = write_in_background(sys.stdout, live=True) if live and _can_erase() else None
        self._terminal = writer if isinstance(writer, TerminalWriter) else None
        self._over = threading.Event()
        self._is_asked = False
        self._ticker = threading.Thread(target=self._tick, name="status", daemon=True)
        self._on_exit = ExitStack()

    def __enter__(self) -> Self:
        def ask(_number: int, _frame: object) -> None:
            self._is_asked = True  # no more: the interrupted thread may hold the output's lock

        for number in ASKING:
            self._on_exit.callback(signal.signal, number, signal.signal(number, ask))
        self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._on_exit.close()
        self._over.set()
        self._ticker.join()
        if self._terminal is not None:
            drain(self._terminal)

    def line(self, text: str) -> None:
        """Write a line."""
        if self._terminal is None:
            click.echo(text)
        else:
            self._terminal.write(f"{text}\n")
            self._terminal.flush()

    def add(self, result: PlanResult) -> None:
        """Take in a run that is over."""
        self._done += 1
        self._bad += bool(result.problems)
        self._draw()

    def status(self, now_ns: int) -> str:
        """Return the status line: how many runs are over, what is wrong so far, and about how long it still takes."""
        passed_ns = now_ns - self._began_ns
        told = [f"{self._done:,} of {plural(self._total, 'run')}", f"{self._bad:,} not as declared"]
        told.append(format_span(passed_ns // NS_PER_S * NS_PER_S))
        if 0 < self._done < self._total:
            told[-1] += f", about {format_span(passed_ns * (self._total - self._done) // self._done)} to go"
        return " | ".join(told)

    def _draw(self) -> None:
        if self._terminal is not None:
            self._terminal.set_status(self.status(time.monotonic_ns()))

    def _tick(self) -> None:
        """Draw the status line until all is over, and write it as a line when a signal has asked for that."""
        while True:
            self._draw()
            if self._is_asked:
                self._is_asked = False
                self.line(f"so far: {self.status(time.monotonic_ns())}")
            if self._over.wait(TICK_S):
                return


def _can_erase() -> bool:
    return sys.stdout.isatty() and has_status_line(os.environ)
