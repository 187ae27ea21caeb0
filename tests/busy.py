"""A pytest plugin: a test whose client the machine made late is repeated, by the rule of `lab --all`, and named in the end.

A run in which the client could not send on time proves nothing of what it was to show. A test marked `busy` shows its runs
to `look_at` before it asserts anything. If it then fails, and a run itself said that the client was the cause (more slots
missed than a verdict allows, or `self-inflicted`), it is run again, `MAX_REPEATED` times at most; what it asserts stays.
A test in namespaces (`root`) that failed while others ran beside it is run again once in any case: they delay its servers,
too. A repetition runs alone, one client at a time, while other workers wait, and, where the system allows it (Linux, to
root), in real time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from affinity_tester.app.lab_matrix import MAX_REPEATED
from affinity_tester.app.lab_run import SELF_INFLICTED
from affinity_tester.core.events import Counts, Event, IncidentClosed, RunDiagnosed, RunSummary
from affinity_tester.core.judging.verdict import MAX_TIMER_MISSES

_MISSES = re.compile(r"[\d,]+ probes? skipped \((?P<percent>\S+) %\)")
"""In a run's summary."""

_LAB = "the machine was too busy for the client to send on time"
"""Of `lab --all`, which repeats by itself."""

_PROPERTY = "repeated: the machine was too busy"

_ROOM = Path(__file__)
_DOOR = Path(__file__).parent
"""What the workers lock, by flock(2), which changes nothing of a file: tests run in the room, many together or one alone;
who waits to be alone keeps the door shut, so that the room empties."""

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

_repeating = False

_evidence: list[str] = []
"""What the runs of the current test say of their client."""


def look_at(log: str) -> None:
    """Take note of what a run's log, of either form, says of its client."""
    _evidence.extend(_of_text(log))


def look_at_events(events: Iterable[Event]) -> None:
    """The same for a run's events."""
    for event in events:
        match event:
            case RunSummary(total=total):
                look_at_counts(total)
            case IncidentClosed(incident=incident):
                _named(each.name for each in incident.diagnoses)
            case RunDiagnosed(diagnoses=diagnoses):
                _named(each.name for each in diagnoses)


def look_at_counts(total: Counts) -> None:
    """The same for what a run counted."""
    _share(total.timer_misses, total.sent + total.send_errors)


def _of_text(log: str) -> Iterator[str]:
    for line in log.splitlines():
        if line.startswith("{"):
            try:
                told = json.loads(line)
            except ValueError:  # of a run that was killed
                continue
            if told["event"] == "run.summary":
                total = told["total"]
                _share(total["timer_misses"], total["sent"] + total["send_errors"])
            elif told["event"] in ("run.incident", "run.diagnosed"):
                found = told["incident"] if told["event"] == "run.incident" else told
                _named(each["name"] for each in found["diagnoses"])
        elif (misses := _MISSES.search(line)) and float(misses["percent"]) > 100 * MAX_TIMER_MISSES:
            yield misses[0]
        elif SELF_INFLICTED in line:
            yield SELF_INFLICTED
        elif _LAB in line:
            yield _LAB


def _share(misses: int, tried: int) -> None:
    if misses > MAX_TIMER_MISSES * (tried + misses):
        _evidence.append(f"{misses:,} of {tried + misses:,} slots missed")


def _named(names: Iterable[str]) -> None:
    _evidence.extend(name for name in names if name == SELF_INFLICTED)


def clients_at_a_time() -> int:
    """Return how many clients a test may run at once: to start one takes a core for a third of a second."""
    return 1 if _repeating else 2


@contextmanager
def _room(sharing: int, limit_s: float) -> Iterator[None]:
    """Hold the room, with others (LOCK_SH) or alone (LOCK_EX). The test's time, pytest-timeout's, begins inside."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    with ExitStack() as room:
        with _locked(_DOOR, fcntl.LOCK_EX):
            room.enter_context(_locked(_ROOM, sharing))
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        yield


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a process that was forked, too, which has it as well
    finally:
        os.close(descriptor)


@contextmanager
def _again(limit_s: float) -> Iterator[None]:
    """Repeat a test: alone, and before other processes."""
    global _repeating  # noqa: PLW0603 - asked for by what starts a test's clients
    with _room(fcntl.LOCK_EX, limit_s), _first():
        _repeating = True
        try:
            yield
        finally:
            _repeating = False


@contextmanager
def _first() -> Iterator[None]:
    """Let this thread, and the processes that it starts, go before others (sched(7), SCHED_RR)."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers",
        "busy: holds a client to its time; is run apart from what keeps a machine busy, and repeated when its own runs say"
        " that the machine made the client late",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a marked test, again while it fails and its own runs excuse it."""
    if item.get_closest_marker("busy") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    spoilt: list[str] = []
    limit_s, _ = signal.getitimer(signal.ITIMER_REAL)
    while True:
        _evidence.clear()
        with _again(limit_s) if spoilt else _room(fcntl.LOCK_SH, limit_s):
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        excuse = _evidence[0] if _evidence else _beside(item, spoilt)
        if not failed or excuse is None or len(spoilt) == MAX_REPEATED:
            break
        spoilt.append(excuse)
    for report in reports:
        if spoilt and report.when == "call":
            report.user_properties.append((_PROPERTY, "; ".join(spoilt)))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _beside(item: pytest.Item, spoilt: list[str]) -> str | None:
    """Return the excuse of a test in namespaces that failed once, if other workers run tests, too (pytest-xdist)."""
    excused = not spoilt and _WORKERS > 1 and item.get_closest_marker("root") is not None
    return "other tests ran beside it" if excused else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what was repeated, and why."""
    repeated = [
        f"{report.nodeid}: {why}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
        for name, why in report.user_properties
        if name == _PROPERTY
    ]
    if repeated:
        terminalreporter.section(_PROPERTY)
        for line in repeated:
            terminalreporter.line(line)
