"""The line at the bottom of a terminal that says how a run stands: how long, who answers, what is lost, what was judged."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from affinity_tester.core import events as ev
from affinity_tester.core.judging.tally import Tally
from affinity_tester.core.judging.verdict import MIN_PAIRS
from affinity_tester.core.pulse import RECENT_NS, Pulse
from affinity_tester.report.clock import RunClock
from affinity_tester.report.groups import group_tables
from affinity_tester.report.logging import Colour
from affinity_tester.report.summary import SummaryLine, health, judgements
from affinity_tester.report.table import aligned
from affinity_tester.report.text import milliseconds, percent, served_by
from affinity_tester.units import NS_PER_S, format_span, plural

MOST_NAMED = 10
"""So many sessions with violations are named when a signal asks, those of the newest first."""

_GIVE_UP = (
    *("judged", "pods", "judged", "elapsed", "lost", "judged", "answered"),
    *("lost", "answered", "elapsed", "judged", "answered", "lost"),
)
"""On a narrow terminal parts become shorter in this order, until the line fits: who is broken and since when goes last."""


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
        self._clock: RunClock | None = None
        self._not_judged: set[tuple[str, int]] = set()
        """Changes that wait for their judgement."""
        self._broken: dict[str, int] = {}
        """Of each session with a violation, when its last one was."""
        self._ever_answered = 0
        """Sessions that had an answer."""
        self._first_pods: set[str] = set()
        """Who answered first: the pulse's groups come with the first statistics."""
        self._nodes: dict[str, str] = {}
        """Node names by InternalIP, of nodes that are gone too: the tables are of the whole run."""
        self._counted_ns: int | None = None
        """When the last statistics were, as of which the pulse's groups are."""
        self._over = False

    def emit(self, event: ev.Event) -> None:
        """Take in what the line tells of an event."""
        match event:
            case ev.RunStarted():
                self._started_ns, self._sessions = event.at_ns, event.sessions
                self._clock = RunClock.of(event)
            case ev.FirstAnswer(identity=identity):
                self._ever_answered += 1
                if identity.pod is not None:
                    self._first_pods.add(identity.pod)
            case ev.ChangeSeen():
                self._not_judged.add((event.session, event.change.number))
            case ev.CaseJudged():
                self._judge(event)
            case ev.ChangeWithdrawn():
                self._tally.withdraw(event)
                self._not_judged.discard((event.session, event.change.number))
            case ev.FaultInjected():
                self._injected += 1
            case ev.SendingStopped():
                self._stopped_ns = event.at_ns
            case ev.Settling(open_count=count):
                self._open = count
            case ev.StatsTick(at_ns=at_ns):
                self._counted_ns = at_ns
            case ev.NodeAddresses(names=names):
                self._nodes |= names
            case ev.RunEnded():
                self._over = True

    def beat(self, pulse: Pulse) -> None:
        """Take in a pulse."""
        self._pulse = pulse

    def text(self, now_ns: int, width: int | None = None) -> str:
        """Return the line; empty before the run's start and after its end. `width`: the columns it should fit into."""
        if self._started_ns is None or self._over:
            return ""
        if self._stopped_ns is not None:
            waits = f"waiting for {plural(self._open, 'judgement')}" if self._open else "waiting for the last replies"
            parts = {"elapsed": [f"sending stopped, {waits}", waits], "judged": self._judged()}
        else:
            parts = {"elapsed": self._elapsed(now_ns - self._started_ns), **self._answered(), "judged": self._judged()}
        return _fit(parts, width)

    def summary(self, now_ns: int, width: int | None = None) -> list[SummaryLine]:
        """Return the run so far in lines: the status, what was judged, who is broken since when, and who serves.

        `width` is how many columns there are; None: as many as it takes.
        """
        lines: list[SummaryLine] = [(f"so far: {self.text(now_ns) or 'the run has not begun, or is over'}", None)]
        lines += judgements(self._tally)
        lines += self._broken_sessions()
        if self._pulse is not None:
            total = self._pulse.total
            lines += self._silences(self._pulse)
            lost = f"{total.lost:,} lost ({percent(total.lost, total.sent)})"
            lines.append((f"{plural(total.sent, 'probe')} sent, {total.answered:,} answered, {lost}", None))
            lines += health(total, ended=False)
            lines += self._tables(self._pulse, width)
        return lines

    def _tables(self, pulse: Pulse, width: int | None) -> list[SummaryLine]:
        """Return who serves, as of the last statistics, which is said: the counts above are newer."""
        if self._counted_ns is None:
            return [("by pod, node and reflexive IP: from the first statistics on", None)]
        lines: list[SummaryLine] = []
        for table in group_tables(pulse.groups, self._nodes):
            lines.append((f"{table.caption}, as of {self._time(self._counted_ns)}", None))
            lines += [(line, None) for line in aligned(table, width)]
        return lines

    def _judge(self, event: ev.CaseJudged) -> None:
        self._tally.add(event)
        match event.case:
            case ev.Change(number=number, after=after):
                self._not_judged.discard((event.session, number))
                at_ns = after.sent_ns
            case ev.OutageCase(since_ns=since_ns):
                at_ns = since_ns
            case _:
                at_ns = event.at_ns
        if event.judgement is ev.Judgement.VIOLATION:
            self._broken[event.session] = max(at_ns, self._broken.get(event.session, at_ns))

    def _time(self, at_ns: int) -> str:
        """Return the time of day to the second."""
        assert self._clock is not None, "the run has started"
        return self._clock.time_of_day(at_ns).partition(".")[0]

    def _elapsed(self, run_ns: int) -> list[str]:
        told = format_span(run_ns // NS_PER_S * NS_PER_S)
        of = f" of {format_span(self._duration_ns)}" if self._duration_ns is not None else ""
        faults = f", {self._injected:,} of {plural(self._faults, 'fault')} injected" if self._faults else ""
        return [f"{told}{of}{faults}", f"{told}{of}", told]

    def _answered(self) -> dict[str, list[str]]:
        """Return who is answered, by how many pods, and what was lost of late."""
        pulse, sessions = self._pulse, plural(self._sessions, "session")
        if pulse is None:
            return {"answered": [sessions]}
        if not pulse.total.answered:
            return {"answered": [f"{sessions}, none answered yet", "none answered yet"]}

        groups = [group for group in pulse.groups if group.kind is ev.GroupKind.POD]
        pods = sum(group.name is not None and group.sessions > 0 for group in groups)
        pods = pods if groups else len(self._first_pods)
        lost = f"{percent(pulse.recent_lost, pulse.recent_sent)} lost"
        recent = format_span(RECENT_NS)
        time = f", p99 {milliseconds(pulse.p99_ns)} ms" if pulse.p99_ns is not None else ""
        return {
            "answered": self._silent(pulse) or self._all_answered(),
            "pods": [plural(pods, "pod"), ""] if pods else [],
            "lost": [f"{lost} in {recent}{time}", f"{lost} in {recent}", lost, ""],
        }

    def _all_answered(self) -> list[str]:
        """Return how many are answered while none is silent for a loss threshold: some may wait for their first answer."""
        waiting = max(0, self._sessions - self._ever_answered)
        answered = f"{self._sessions - waiting:,} of {plural(self._sessions, 'session')} answered"
        return (
            [f"{answered}, {waiting:,} not yet", f"{waiting:,} not answered yet"]
            if waiting
            else [answered, "all answered"]
        )

    def _silent(self, pulse: Pulse) -> list[str]:
        """Return who is silent, and since when; nothing where nobody is."""
        if not pulse.silent:
            return []
        answered = f"{self._sessions - pulse.silent:,} of {self._sessions:,}"
        silent = f"{'all ' if pulse.silent == self._sessions > 1 else ''}{pulse.silent:,} silent"
        if not pulse.silences:
            return [f"{answered} sessions answered, {silent}", silent]
        longest = pulse.silences[0]
        since = f"since {self._time(longest.since_ns)}"
        first = longest.session if pulse.silent == 1 else f"first {longest.session}"
        return [
            f"{answered} sessions answered, {silent} {since} ({first})",
            f"{answered} answered, {silent} {since}",
            f"{silent} {since}",
            silent,
        ]

    def _judged(self) -> list[str]:
        count = {judgement: self._tally.cases(judgement) for judgement in ev.Judgement}
        violations = plural(count[ev.Judgement.VIOLATION], "violation")
        others = [
            f"{count[judgement]:,} {judgement}"
            for judgement in (ev.Judgement.EXPLAINED, ev.Judgement.UNKNOWN, ev.Judgement.POD_SILENT)
            if count[judgement]
        ]
        waits = [f"{len(self._not_judged):,} not judged yet"] if self._not_judged else []
        if count[ev.Judgement.VIOLATION]:
            newest, at_ns = max(self._broken.items(), key=itemgetter(1))
            last = f"last at {self._time(at_ns)}"
            of = f"{violations} of {plural(len(self._broken), 'session')}"
            all_of_it = [[of, f"{last} ({newest})", *others, *waits], [of, last, *others, *waits]]
            forms = [*all_of_it, [violations, last, *others], [violations, last], [violations]]
        else:
            missing = MIN_PAIRS - self._pulse.total.pairs if self._pulse is not None else 0
            needs = [f"a verdict needs {missing:,} more pairs"] if missing > 0 else []
            doubts = [
                f"{count[judgement]:,} {judgement}"
                for judgement in (ev.Judgement.UNKNOWN, ev.Judgement.POD_SILENT)
                if count[judgement]
            ]
            shorter = [violations, *doubts, *(waits or [f"needs {missing:,} more pairs"] * bool(needs))]
            longest = [violations, *others, *waits, *needs]
            forms = [longest, longest, shorter, [violations, *(doubts or waits)], [violations]]
        return [", ".join(form) for form in forms]

    def _broken_sessions(self) -> list[SummaryLine]:
        """Return which sessions had violations, and when the last was."""
        if not self._tally.cases(ev.Judgement.VIOLATION):
            return []
        newest = sorted(self._broken.items(), key=lambda each: -each[1])
        named = ", ".join(f"{session} (last at {self._time(at_ns)})" for session, at_ns in newest[:MOST_NAMED])
        more = len(newest) - MOST_NAMED
        rest = f", and {more:,} more" if more > 0 else ""
        return [(f"violations of {plural(len(newest), 'session')}: {named}{rest}", Colour.VIOLATION)]

    def _silences(self, pulse: Pulse) -> list[SummaryLine]:
        """Return which sessions are silent, since when, and who answered them last."""
        lines: list[SummaryLine] = []
        if pulse.silences and pulse.silent == self._sessions > 1:
            since = self._time(pulse.silences[0].since_ns)
            return [(f"silent: all {self._sessions:,} sessions, the first since {since}", Colour.CHANGE)]
        for silence in pulse.silences:
            last = f"last answered by {served_by(silence.served)}" if silence.served is not None else "never answered"
            lines.append((f"silent: {silence.session} since {self._time(silence.since_ns)}, {last}", Colour.CHANGE))
        more = pulse.silent - len(pulse.silences)
        return [*lines, (f"… and {more:,} more are silent", Colour.CHANGE)] if more > 0 and lines else lines


def _fit(parts: dict[str, list[str]], width: int | None) -> str:
    """Return the parts, each in its longest form, or as short as the width asks."""
    shortened = dict.fromkeys(parts, 0)

    def line() -> str:
        return " | ".join(filter(None, (_form(forms, shortened[name]) for name, forms in parts.items())))

    for name in _GIVE_UP:
        if width is None or len(line()) <= width:
            break
        if name in parts:
            shortened[name] += 1
    return line()


def _form(forms: Sequence[str], shortened: int) -> str:
    """Return a part's form that was shortened so often; the last where there is none shorter."""
    return forms[min(shortened, len(forms) - 1)] if forms else ""
