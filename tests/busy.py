"""A pytest plugin: a test whose client the machine made late is repeated, by the rule of `lab --all`, and named in the end.

A run in which the client could not send on time proves nothing of what it was to show. A test marked `busy` shows its runs
to `look_at` before it asserts anything. If it then fails, and a run itself said that the client was the cause (more slots
missed than a verdict allows, or `self-inflicted`), it is run again, `MAX_REPEATED` times at most; what it asserts stays.
Where the system allows it (Linux, to root) a repetition is run in real time, before other processes, whatever they do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress

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
    while True:
        _evidence.clear()
        with _first() if spoilt else nullcontext():
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
    """Return the excuse of a test in namespaces that failed once: what runs beside it delays its servers, too."""
    return None if spoilt or item.get_closest_marker("root") is None else "other tests ran beside it"


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
