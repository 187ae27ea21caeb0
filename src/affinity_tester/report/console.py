"""The log for people: which events become lines, in what words and colour (design, section 6)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Literal

from affinity_tester.core import events as ev
from affinity_tester.report import words
from affinity_tester.report.clock import RunClock
from affinity_tester.report.fold import Fold
from affinity_tester.report.logging import Level, Log, Tint
from affinity_tester.report.results import RunResults
from affinity_tester.report.summary import summary
from affinity_tester.settings import format_duration

StatsMode = Literal["auto", "session", "total"]

MOST_SESSION_LINES = 20
"""`--stats auto`: up to so many sessions have a line each, a screenful."""

WORST_NAMED = 3

_WHEN_NOTHING_ANSWERS = (
    "check the address and the port, that the Service has ready endpoints, that firewalls let UDP pass both ways, "
    "and that AFFINITY_KEY is the same on both sides"
)

_ICMP = {
    "ECONNREFUSED": "port unreachable: nothing listens there",
    "EHOSTUNREACH": "host unreachable",
    "ENETUNREACH": "network unreachable",
    "EMSGSIZE": "packet too big",
    "EACCES": "administratively prohibited",
}

_JUDGED: dict[ev.Judgement, tuple[Level, Tint, str]] = {
    ev.Judgement.VIOLATION: ("error", Tint.VIOLATION, "red lines"),
    ev.Judgement.UNKNOWN: ("warn", Tint.WARNING, "judgements"),
    ev.Judgement.IDLE: ("info", Tint.QUIET, "judgements"),
    ev.Judgement.EXPLAINED: ("info", Tint.QUIET, "judgements"),
    ev.Judgement.POD_RESTART: ("info", Tint.QUIET, "judgements"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log before it has a time."""

    text: str
    level: Level = "info"
    tint: Tint = Tint.STATISTICS
    sort: str | None = None
    """What it is counted as when there are too many in one second; None: always shown."""


def _red(text: str) -> Line:
    return Line(text, "error", Tint.CHANGE, "red lines")


def _warning(text: str) -> Line:
    return Line(text, "warn", Tint.WARNING, "warnings")


class ConsoleReport:
    """Writes a run's events as lines, and its summary when the verdict comes.

    `RunStarted` must come first; another event before it raises `ValueError`. Every call may raise `OutputClosed`.
    """

    def __init__(self, log: Log, *, stats: StatsMode = "auto") -> None:
        self._log = log
        self._stats = stats
        self._clock: RunClock | None = None
        self._date = ""
        self._per_session = True
        self._last_at_ns = 0
        self._fold = Fold()
        self._results = RunResults()
        self._period: list[ev.SessionStats] = []

    def emit(self, event: ev.Event) -> None:
        """Write what this event gives to say: often nothing."""
        if isinstance(event, ev.RunStarted):
            self._clock = RunClock.of(event)
            self._date = self._clock.date(event.at_ns)
            self._per_session = self._stats == "session" or (
                self._stats == "auto" and event.sessions <= MOST_SESSION_LINES
            )
        if self._clock is None:
            raise ValueError(f"{type(event).__name__} came before RunStarted")
        self._results.add(event)
        lines = self._lines(event, self._clock)
        if lines:
            self._turn(event.at_ns, self._clock)
            for line in lines:
                if line.sort is None or self._fold.admits(line.sort):
                    self._write(line, event.at_ns, self._clock)
            self._last_at_ns = event.at_ns
        if isinstance(event, ev.Verdict):
            self._tell_folded(self._fold.drain(), self._clock)
            for text, tint in summary(self._results):
                self._log.text(text, tint)
        if lines:
            self._log.flush()

    def warn(self, text: str) -> None:
        """Write a line of the report's own, at the time of the last event: the record's disk is full, say."""
        if self._clock is not None:
            self._write(_warning(text), self._last_at_ns, self._clock)
            self._log.flush()

    def close(self) -> None:
        """Tell what is still folded."""
        if self._clock is not None:
            self._tell_folded(self._fold.drain(), self._clock)
            self._log.flush()

    def _turn(self, at_ns: int, clock: RunClock) -> None:
        """Close the second before, and the day before, if this line begins a new one."""
        self._tell_folded(self._fold.turn(clock.local_ms(at_ns) // 1_000), clock)
        date = clock.date(at_ns)
        if date > self._date:
            self._date = date
            self._write(Line(f"{date} {clock.utc_offset}"), at_ns, clock)

    def _tell_folded(self, hidden: list[tuple[str, int]], clock: RunClock) -> None:
        for sort, count in hidden:
            text = f"… and {count:,} more {sort} in this second"
            line = Line(text, "error", Tint.CHANGE) if sort == "red lines" else Line(text, tint=Tint.QUIET)
            self._write(line, self._last_at_ns, clock)

    def _write(self, line: Line, at_ns: int, clock: RunClock) -> None:
        self._log.line(line.level, line.text, time=clock.time_of_day(at_ns), tint=line.tint)

    def _lines(self, event: ev.Event, clock: RunClock) -> list[Line]:
        match event:
            case ev.SessionStats():
                if self._per_session:
                    return [Line(session_line(event))]
                self._period.append(event)
                return []
            case ev.StatsTick():
                period, self._period = self._period, []
                return [] if self._per_session else [Line(total_line(event, period))]
            case ev.ChangeSeen() | ev.ChangeRevised():
                return _change(event)
            case ev.ChangeJudged():
                when = f"changed {clock.time_of_day(event.change.seen_ns)}"
                return _judged(event, when)
            case ev.OutageJudged():
                return _judged(event, f"unanswered since {clock.time_of_day(event.since_ns)}")
            case ev.SessionEvent():
                return _session(event, clock)
            case _:
                return _run(event, clock)


def session_line(event: ev.SessionStats) -> str:
    """The familiar line of one session: counts since its previous line."""
    delta, serving = event.delta, event.serving
    if serving is None:
        answered = "no answer yet"
    elif delta.answered == 0:
        answered = f"no answer, last served by {words.served_by(serving)}"
    else:
        answered = f"served by {words.served_by(serving)}"
    return (
        f"{event.session} sent {delta.sent} messages of which {delta.lost} message(s) lost, "
        f"{answered}{words.period(delta)}"
    )


def total_line(tick: ev.StatsTick, period: list[ev.SessionStats]) -> str:
    """One line for all sessions of a period, with the worst of them named: most lost first, then most changes."""
    delta = tick.delta
    pods = {session.serving.pod for session in period if session.serving and session.serving.pod is not None}
    silent = sum(session.delta.sent > 0 and session.delta.answered == 0 for session in period)
    parts = [f"{len(period)} sessions sent {delta.sent:,} messages of which {delta.lost:,} message(s) lost"]
    if pods:
        parts.append(f"served by {words.plural(len(pods), 'pod')}")
    if silent:
        parts.append(f"{words.plural(silent, 'session')} without an answer")
    if delta.changes:
        parts.append(f"{delta.changes:,} change(s)")
    bad = [session for session in period if session.delta.lost or session.delta.changes]
    worst = heapq.nlargest(WORST_NAMED, bad, key=lambda session: (session.delta.lost, session.delta.changes))
    named = ", ".join(f"{s.session} ({s.delta.lost:,} lost, {s.delta.changes:,} change(s))" for s in worst)
    return ", ".join(parts) + words.period(delta) + (f"; worst: {named}" if named else "")


def _change(event: ev.ChangeSeen | ev.ChangeRevised) -> list[Line]:
    facts = words.change_facts(event.change)
    if isinstance(event, ev.ChangeRevised):
        if facts == words.change_facts(event.was):
            return []  # the same words, only nearer to the moment: nothing a reader would do otherwise
        told = "; ".join(facts)
        return [
            Line(
                f"    revised: {told} ({event.session}, a late reply came between)", tint=Tint.QUIET, sort="judgements"
            )
        ]
    lines = [_red(f"{event.session} {fact}") for fact in facts]
    if words.is_restart(event.change):
        lines[-1] = _warning(f"{event.session} {facts[-1]}")
    return lines


def _judged(event: ev.ChangeJudged | ev.OutageJudged, when: str) -> list[Line]:
    level, tint, sort = _JUDGED[event.judgement]
    if event.judgement is ev.Judgement.POD_RESTART and not event.reasons:
        return []  # the line of the restart said it
    why = ": " + "; ".join(words.printable(reason) for reason in event.reasons) if event.reasons else ""
    avoidable = "" if event.avoidable is None else ", avoidable" if event.avoidable else ", unavoidable"
    return [Line(f"    {event.judgement}{why}{avoidable} ({event.session}, {when})", level, tint, sort)]


def _session(event: ev.SessionEvent, clock: RunClock) -> list[Line]:
    name = event.session
    match event:
        case ev.OutageStarted(at_ns=at_ns, since_ns=since_ns, last=None):
            return [_red(f"{name} never answered, for {format_duration(at_ns - since_ns)} now, while others are")]
        case ev.OutageStarted(at_ns=at_ns, since_ns=since_ns, last=ev.Sighting(identity=identity)):
            silent = f"unanswered since {clock.time_of_day(since_ns)} ({format_duration(at_ns - since_ns)})"
            return [_red(f"{name} {silent}, while others are answered; last served by {words.served_by(identity)}")]
        case ev.OutageEnded():
            gap = format_duration(event.at_ns - event.since_ns)
            probes = words.plural(event.probes, "probe")
            return [_red(f"{name} answered again after {gap} ({probes}), by {words.served_by(event.first.identity)}")]
        case ev.WrongSource():
            return [_red(f"{name} answered from the wrong source {event.source}, probes go to {event.expected}")]
        case ev.DuplicateDiffers():
            first, second = words.served_by(event.first), words.served_by(event.second)
            if first == second:
                first, second = f"x_address {event.first.reflexive}", f"x_address {event.second.reflexive}"
            return [_warning(f"{name} probe {event.seq} was answered twice and differently: {first}, then {second}")]
        case ev.NetworkError():
            meaning = f" ({_ICMP[event.error]})" if event.error in _ICMP else ""
            sender = f" from {words.printable(event.offender)}" if event.offender is not None else ""
            return [_warning(f"{name} heard ICMP error {words.printable(event.error)}{meaning}{sender}")]
        case ev.ClientFault():
            fault = f"{words.printable(event.fault)}: {words.printable(event.detail)}"
            return [_warning(f"{name} the client's own fault, not the network's: {fault}")]
        case ev.SessionExhausted():
            return [_warning(f"{name} ended: it sent all the 4,294,967,296 probes that a session has numbers for")]
    return []


def _run(event: ev.Event, clock: RunClock) -> list[Line]:
    match event:
        case ev.RunStarted():
            return _started(event, clock)
        case ev.ForeignServer():
            who = words.quoted(event.software) if event.software is not None else "a server"
            return [_warning(f"answered by {who}, which names no pod: only x_address and SOFTWARE are tracked")]
        case ev.NothingAnswered():
            return [
                _warning(f"no session is answered after {format_duration(event.waited_ns)}: {_WHEN_NOTHING_ANSWERS}")
            ]
        case ev.Injected():
            return [Line(f"injected: {words.printable(event.text)}", "event", Tint.CLUSTER)]
        case ev.SendingStopped():
            return [Line("sending stopped; the last replies may still come, then the last judgements")]
        case ev.RunEnded(aborted=True):
            return [_warning("stopped at once: judgements still open are unknown")]
    return []


def _started(event: ev.RunStarted, clock: RunClock) -> list[Line]:
    address, name = str(event.target), words.printable(event.target_name)
    target = address if name in (address, event.target.ip) else f"{address} ({name}, resolved once)"
    sockets = ", on connected sockets" if event.connected else ""
    probes = (
        f"{words.plural(event.sessions, 'session')} to {target}: "
        f"a probe of {event.request_size} bytes every {format_duration(event.interval_ns)} each{sockets}, "
        f"lost after {format_duration(event.loss_threshold_ns)}"
    )
    opening = f"{clock.date(event.at_ns)} {clock.utc_offset}, affinity-tester {words.printable(event.version)}"
    guarantees = [_warning(f"not on this platform: {words.printable(lost)}") for lost in event.lost_guarantees]
    return [Line(opening), Line(probes), *guarantees]
