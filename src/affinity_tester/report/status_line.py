"""The line at the bottom of a terminal that says how a run stands: how long, who answers, what is lost, what was judged."""

from __future__ import annotations

from affinity_tester.core import events as ev
from affinity_tester.core.judging.tally import Tally
from affinity_tester.core.judging.verdict import MIN_PAIRS
from affinity_tester.core.pulse import Pulse
from affinity_tester.report.groups import group_tables
from affinity_tester.report.summary import SummaryLine, health, judgements
from affinity_tester.report.table import aligned
from affinity_tester.report.text import milliseconds, percent
from affinity_tester.units import NS_PER_S, format_span, plural


class StatusLine:
    """Takes every event and every pulse of a run; `text` is the line. It never says PASS: that is the verdict's word."""

    def __init__(self, duration_ns: int | None, *, faults: int = 0) -> None:
        """`duration_ns` is how long the run is to send; None: until it is stopped. A lab injects so many faults in it."""
        self._faults = faults
        self._injected = 0
        self._duration_ns = duration_ns
        self._started_ns: int | None = None
        self._stopped_ns: int | None = None
        self._sessions = 0
        self._tally = Tally()
        self._pulse: Pulse | None = None
        self._open = 0
        self._nodes: dict[str, str] = {}
        self._over = False

    def emit(self, event: ev.Event) -> None:
        """Take in what the line tells of an event."""
        match event:
            case ev.RunStarted():
                self._started_ns, self._sessions = event.at_ns, event.sessions
            case ev.CaseJudged():
                self._tally.add(event)
            case ev.ChangeWithdrawn():
                self._tally.withdraw(event)
            case ev.FaultInjected():
                self._injected += 1
            case ev.SendingStopped():
                self._stopped_ns = event.at_ns
            case ev.Settling(open_count=count):
                self._open = count
            case ev.NodeAddresses(names=names):
                self._nodes = dict(names)
            case ev.RunEnded():
                self._over = True

    def beat(self, pulse: Pulse) -> None:
        """Take in a pulse."""
        self._pulse = pulse

    def text(self, now_ns: int) -> str:
        """Return the line; empty before the run's start and after its end."""
        if self._started_ns is None or self._over:
            return ""
        if self._stopped_ns is not None:
            waits = f"waiting for {plural(self._open, 'judgement')}" if self._open else "waiting for the last replies"
            return " | ".join([f"sending stopped, {waits}", *self._judged()])
        return " | ".join([self._elapsed(now_ns - self._started_ns), *self._answered(), *self._judged()])

    def summary(self, now_ns: int) -> list[SummaryLine]:
        """Return the run so far in lines: the status, what was judged, and who serves."""
        lines: list[SummaryLine] = [(f"so far: {self.text(now_ns) or 'the run has not begun, or is over'}", None)]
        lines += judgements(self._tally)
        if self._pulse is not None:
            total = self._pulse.total
            lost = f"{total.lost:,} lost ({percent(total.lost, total.sent)})"
            lines.append((f"{plural(total.sent, 'probe')} sent, {total.answered:,} answered, {lost}", None))
            lines += health(total)
            for table in group_tables(self._pulse.groups, self._nodes):
                lines += [(table.caption, None), *((line, None) for line in aligned(table))]
        return lines

    def _elapsed(self, run_ns: int) -> str:
        run_ns = run_ns // NS_PER_S * NS_PER_S
        of = f" of {format_span(self._duration_ns)}" if self._duration_ns is not None else ""
        faults = f", {self._injected:,} of {plural(self._faults, 'fault')} injected" if self._faults else ""
        return f"{format_span(run_ns)}{of}{faults}"

    def _answered(self) -> list[str]:
        pulse = self._pulse
        if pulse is None:
            return [plural(self._sessions, "session")]
        if not pulse.total.answered:
            return [f"{plural(self._sessions, 'session')}, none answered yet"]

        silent = f", {pulse.silent:,} silent" if pulse.silent else ""
        pods = sum(g.kind is ev.GroupKind.POD and g.name is not None and g.sessions > 0 for g in pulse.groups)
        time = f", p99 {milliseconds(pulse.p99_ns)} ms" if pulse.p99_ns is not None else ""
        return [
            f"{self._sessions - pulse.silent:,} of {plural(self._sessions, 'session')} answered{silent}",
            *([plural(pods, "pod")] if pods else []),
            f"{percent(pulse.recent_lost, pulse.recent_sent)} lost{time}",
        ]

    def _judged(self) -> list[str]:
        count = {judgement: self._tally.cases(judgement) for judgement in ev.Judgement}
        told = [plural(count[ev.Judgement.VIOLATION], "violation")]
        told += [
            f"{count[judgement]:,} {judgement}"
            for judgement in (ev.Judgement.EXPLAINED, ev.Judgement.UNKNOWN, ev.Judgement.POD_SILENT)
            if count[judgement]
        ]
        if self._pulse is not None and self._pulse.total.pairs < MIN_PAIRS and not count[ev.Judgement.VIOLATION]:
            told.append(f"a verdict needs {MIN_PAIRS - self._pulse.total.pairs:,} more pairs")
        return [", ".join(told)]
