"""The log for people: which events become lines, when, and how many of them (README.md#read-the-log)."""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import replace

from affinity_tester.core import events as ev
from affinity_tester.report.clock import RunClock
from affinity_tester.report.detail_lines import detail_lines
from affinity_tester.report.first_answers import FirstAnswers
from affinity_tester.report.fold import judgement_kind
from affinity_tester.report.line_limit import LineLimiter
from affinity_tester.report.lines import (
    Line,
    alike_lines,
    blackout_line,
    change_lines,
    fault_line,
    pool_lines,
    run_lines,
    seen_again_line,
    session_line,
    session_lines,
    total_line,
    warning,
)
from affinity_tester.report.logging import Colour, Level, Log, StatsMode, Verbosity
from affinity_tester.report.results import RunResults
from affinity_tester.report.summary import SummaryLine, summary, verdict_again
from affinity_tester.settings import MAX_SESSION_LINES
from affinity_tester.units import NS_PER_S, plural

FAULT_NS = NS_PER_S
"""A fault of this machine waits for so long for more sessions that meet it, since it is one line for all of them."""

LATE_NEWS_NS = 6 * NS_PER_S
"""Lists are 5 s apart: where a change of the pool is less well dated than that, its line says since when it may be so."""

ALIKE_NS = NS_PER_S
"""A judgement waits for so long for others like it, since they are one line."""

FAR_NS = NS_PER_S
"""An event that is written so long after it happened has its own time in its line."""

CANARY_QUIET_NS = 10 * NS_PER_S
"""A canary that fares as another did so short a time before has no line of its own: there are four a second."""

_MAX_CANARY_PODS = 256
"""Pods remembered for that."""

ICMP_LINES = 3
"""So many sessions say that they heard the same ICMP error; mostly it has one cause."""

_INDENT = " " * 4

_AFTER_JUDGEMENTS = (
    ev.IncidentClosed
    | ev.IncidentOngoing
    | ev.SendingStopped
    | ev.Settling
    | ev.RunDiagnosed
    | ev.RunSummary
    | ev.Verdict
)
"""Events whose lines rest on judgements, which therefore stand before them."""

_NUMBERS = re.compile("[0-9]+")
"""What may differ between faults that share a line, such as how many replies were dropped."""


class ConsoleReport:
    """Writes a run's events as lines, and its summary when the verdict comes.

    `RunStarted` must come first; another event before it raises `ValueError`. Every call may raise `OutputClosed`.
    """

    def __init__(self, log: Log, *, stats: StatsMode = "auto", verbosity: Verbosity = "usual") -> None:
        self._log = log
        self._verbosity = verbosity
        self._stats = stats
        self._clock: RunClock | None = None
        self._started_ns = 0
        self._date = ""
        self._per_session = True
        self._told_ns = 0
        """The latest time of any event so far, which is that of the next line: a log's times never run backwards."""
        self._second: int | None = None
        """The second of the last line, on the local wall."""
        self._written_ns = 0
        """The time of the last line."""
        self._faults: dict[tuple[str, str], list[ev.ClientFault]] = {}
        """Faults of this machine that wait for more sessions, by their kind and their text without numbers."""
        self._judged: dict[tuple[str, ...], list[ev.CaseJudged]] = {}
        """Judgements that wait for others like them."""
        self._limiter = LineLimiter()
        self._results = RunResults()
        self._period: list[ev.SessionStats] = []
        self._pool_known = False
        self._dark = False
        """True while nobody is answered."""
        self._api_ns: deque[tuple[int, int]] = deque(maxlen=64)
        """The last times at which the API server was asked, and at which it answered."""
        self._blind_ns: int | None = None
        self._nodes: dict[str, str] = {}
        self._icmp: Counter[tuple[str, str | None]] = Counter()
        self._canaries: dict[tuple[str | None, bool], int] = {}
        """When a canary was last answered by each pod (None: not answered), from a fresh port or one after a pause."""
        self._first_answers: FirstAnswers | None = None

    def emit(self, event: ev.Event) -> None:
        """Write the lines of this event; many have none."""
        if isinstance(event, ev.RunStarted):
            self._clock = RunClock.of(event)
            self._log = self._log.bind(self._clock)
            self._started_ns = event.at_ns
            self._date = self._clock.date(event.at_ns)
            self._first_answers = FirstAnswers(event.sessions)
            self._per_session = self._stats == "session" or (
                self._stats == "auto" and event.sessions <= MAX_SESSION_LINES
            )

        if self._clock is None:
            raise ValueError(f"{type(event).__name__} came before RunStarted")

        self._results.add(event)
        self._told_ns = max(self._told_ns, event.at_ns, self._started_ns)
        if self._faults:
            self._write_faults(self._clock, ended=isinstance(event, ev.RunSummary | ev.Verdict))
        if self._judged:
            self._write_judged(self._clock, ended=isinstance(event, _AFTER_JUDGEMENTS))

        if isinstance(event, ev.FirstAnswer) and self._first_answers is not None and self._first_answers.add(event):
            self._write_first_answers(self._first_answers, self._clock)

        lines = self._lines(event, self._clock)
        if lines:
            self._write_lines(lines, max(event.at_ns, self._started_ns), self._clock)

        if isinstance(event, ev.Verdict):
            self._write_left_out(self._limiter.drain(), self._clock)
            self._write_summary(summary(self._results, self._log.width))
            self._log.flush()

    def advance(self, now_ns: int) -> None:
        """Write what has waited long enough for more of its kind."""
        if self._clock is None:
            return
        if self._faults or self._judged:
            self._told_ns = max(self._told_ns, now_ns)
            self._write_faults(self._clock)
            self._write_judged(self._clock)
        if self._first_answers is not None and self._first_answers.is_due(now_ns):
            self._told_ns = max(self._told_ns, now_ns)
            self._write_first_answers(self._first_answers, self._clock)

    @property
    def width(self) -> int | None:
        """Return the columns that a line of `show_progress` has on a terminal; None for a log that is none."""
        return None if self._log.width is None else self._log.width - len(_INDENT)

    def show_progress(self, lines: list[SummaryLine], now_ns: int) -> None:
        """Write how the run stands at this time."""
        if self._clock is None:
            return
        self._told_ns = max(self._told_ns, now_ns)
        self._write(Line(lines[0][0]), self._clock)
        for text, colour in lines[1:]:
            self._log.text(f"{_INDENT}{text}", colour)
        self._log.flush()

    def warn(self, text: str) -> None:
        """Write a line of the report's own: the record's disk is full, say."""
        if self._clock is not None:
            self._write(warning(text), self._clock)
            self._log.flush()

    def close(self) -> None:
        """Write what still waits."""
        if self._clock is not None:
            self._write_faults(self._clock, ended=True)
            self._write_judged(self._clock, ended=True)
            self._write_left_out(self._limiter.drain(), self._clock)
            self._log.flush()

    def _write_lines(self, lines: list[Line], at_ns: int, clock: RunClock) -> None:
        """Write the lines of something that happened at `at_ns`."""
        if self._verbosity == "quiet":
            lines = [line for line in lines if line.level == "error"]
        if not lines:
            return
        self._turn(clock)

        told = f" (at {clock.time_of_day(at_ns)})" if self._told_ns - at_ns >= FAR_NS else ""
        for line in lines:
            if line.category is None or self._limiter.allow(line.category):
                self._write(replace(line, text=line.text + told) if told else line, clock)
        self._log.flush()

    def _write_first_answers(self, answers: FirstAnswers, clock: RunClock) -> None:
        """Say once how many sessions were answered at first, by how many."""
        self._first_answers = None
        self._write_lines([answers.line()], self._told_ns, clock)

    def _write_faults(self, clock: RunClock, *, ended: bool = False) -> None:
        """Write the faults of this machine that have waited long enough, each once for all its sessions."""
        for alike, faults in list(self._faults.items()):
            if ended or self._told_ns - faults[0].at_ns >= FAULT_NS:
                del self._faults[alike]
                self._write_lines([fault_line(faults)], self._told_ns, clock)

    def _write_judged(self, clock: RunClock, *, ended: bool = False) -> None:
        """Write the judgements that have waited long enough, those that are alike as one line, in the order of the first."""
        oldest_ns = next(iter(self._judged.values()))[0].at_ns if self._judged else self._told_ns
        if not ended and self._told_ns - oldest_ns < ALIKE_NS:
            return
        judged, self._judged = self._judged, {}
        now_ns = self._told_ns
        for events in judged.values():
            # As of when it was judged, unless a line of later was written meanwhile.
            self._told_ns = max(self._written_ns, self._started_ns, events[-1].at_ns)
            self._write_lines(alike_lines(events, clock), self._told_ns, clock)
        self._told_ns = now_ns

    def _turn(self, clock: RunClock) -> None:
        """Finish the last second, and the last day, if this line begins a new one."""
        second = clock.local_ms(self._told_ns) // 1_000
        if second == self._second:
            return
        self._second = second

        self._write_left_out(self._limiter.start_second(second), clock)

        date = clock.date(self._told_ns)
        if date > self._date:
            self._date = date
            self._write(Line(f"{date} {clock.utc_offset}"), clock)

    def _write_left_out(self, hidden: list[tuple[str, int]], clock: RunClock) -> None:
        """Write for each category how many lines of the last second were left out."""
        for category, count in hidden:
            one = f"{category[:-3]}y" if category.endswith("ies") else category[:-1]
            text = f"… and {plural(count, f'more {one}', f'more {category}')} in this second"
            level: Level = "error" if category == "red lines" else "info"
            colour = Colour.CHANGE if category == "red lines" else Colour.QUIET
            # At the time of the last line: "this second" is that one's, and may be over.
            self._log.line(level, text, at_ns=self._written_ns, colour=colour)

    def _write_summary(self, lines: list[SummaryLine]) -> None:
        """Write the summary, and its verdict again where a terminal has not the rows to show both ends of it."""
        for text, colour in lines + verdict_again(lines, self._results.verdict, self._log.height):
            self._log.text(text, colour)

    def _write(self, line: Line, clock: RunClock) -> None:
        self._written_ns = self._told_ns
        self._log.line(line.level, line.text, at_ns=self._told_ns, colour=line.colour)

    def _lines(self, event: ev.Event, clock: RunClock) -> list[Line]:
        verbose = self._verbosity == "verbose"
        match event:
            case ev.SessionStats():
                if self._per_session:
                    return [Line(session_line(event))]
                self._period.append(event)
                return []
            case ev.StatsTick():
                period, self._period = self._period, []
                return [] if self._per_session else [Line(total_line(event, period))]
            case ev.PoolObserved():
                first, self._pool_known = not self._pool_known, True
                lines = pool_lines(event, first=first)
                if not first and event.until_ns - event.since_ns > LATE_NEWS_NS:
                    since = f", at some time since {clock.time_of_day(event.since_ns)}"
                    lines = [replace(line, text=line.text + since) for line in lines]
                return [*self._seen_again(event), *lines]
            case ev.ApiServerAnswered(at_ns=at_ns, asked_ns=asked_ns):
                self._api_ns.append((asked_ns, at_ns))
                return []
            case ev.PoolConfirmed(at_ns=at_ns, asked_ns=asked_ns):
                self._api_ns.append((asked_ns, at_ns))
                return self._seen_again(event)
            case ev.BlackoutStarted():
                self._dark = True
                return run_lines(event, clock)
            case ev.BlackoutEnded():
                self._dark = False
                return [blackout_line(event, self._api_answered(event.since_ns, event.until_ns))]
            case ev.CanaryResult(identity=None) if self._dark and not verbose:
                return []  # one line tells of all of them when it is over
            case ev.CanaryResult():
                return session_lines(event, clock) if self._is_new_canary(event) else []
            case ev.PoolUnobserved(at_ns=at_ns):
                self._blind_ns = at_ns
                return run_lines(event, clock)
            case ev.ChangeSeen() | ev.ChangeRevised() | ev.ChangeWithdrawn():
                return change_lines(event, self._nodes)
            case ev.NodeAddresses(names=names):
                self._nodes = dict(names)
                return []
            case ev.NetworkError(error=error, offender=offender):
                self._icmp[error, offender] += 1
                return _first_icmp_lines(event, clock, self._icmp[error, offender])
            case ev.ClientFault(fault=fault, detail=detail) if fault is not ev.ClientFaultKind.EXHAUSTED:
                self._faults.setdefault((fault, _NUMBERS.sub("", detail)), []).append(event)
                return []
            case ev.CaseJudged():
                self._judged.setdefault(judgement_kind(event), []).append(event)
                return []
            case ev.SessionEvent():
                return session_lines(event, clock) or (detail_lines(event) if verbose else [])
            case _:
                return run_lines(event, clock)

    def _is_new_canary(self, event: ev.CanaryResult) -> bool:
        """True if no canary was answered alike of late; the diagnosis counts them all."""
        who = None if event.identity is None else event.identity.pod
        last_ns = self._canaries.get((who, event.pause_ns > 0))
        if len(self._canaries) >= _MAX_CANARY_PODS:
            self._canaries.clear()
        self._canaries[who, event.pause_ns > 0] = event.at_ns
        return last_ns is None or event.at_ns - last_ns > CANARY_QUIET_NS

    def _api_answered(self, from_ns: int, to_ns: int) -> bool | None:
        """Return whether the API server was asked and answered within these times; None if it is never asked."""
        return any(from_ns <= asked_ns and at_ns < to_ns for asked_ns, at_ns in self._api_ns) if self._api_ns else None

    def _seen_again(self, event: ev.PoolObserved | ev.PoolConfirmed) -> list[Line]:
        blind_ns, self._blind_ns = self._blind_ns, None
        return [] if blind_ns is None else [seen_again_line(event, blind_ns)]


def _first_icmp_lines(event: ev.NetworkError, clock: RunClock, nth: int) -> list[Line]:
    if nth > ICMP_LINES:
        return []
    more = [warning(f"more sessions may hear {event.error}; the summary counts them")] if nth == ICMP_LINES else []
    return [*session_lines(event, clock), *more]
