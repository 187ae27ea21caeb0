"""The client's statistics: counts at each interval, and the summaries at the end of a run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from operator import and_, eq, gt, sub

from affinity_tester import clock
from affinity_tester.core.events import (
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    Counts,
    Event,
    FirstAnswer,
    GroupCounts,
    Losses,
    ProbesLost,
    RunSummary,
    SessionStats,
    StatsTick,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.breakdown import Breakdown
from affinity_tester.core.session.rtt import RttHistogram
from affinity_tester.net.session import Session, counters
from affinity_tester.settings import MAX_SESSION_LINES, WORST_SESSIONS

_SENT, _ANSWERED, _LOST, _CHANGES = map(Counts.__slots__.index, ("sent", "answered", "lost", "changes"))


class IntervalStats:
    """Emits the statistics of all sessions at each interval.

    Counts are kept in columns, one array for each counter with a value for each session, so that 10,000 sessions are added
    up between two probes.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        emit: Callable[[Event], None],
        *,
        start_ns: int,
        interval_ns: int,
        per_session_stats: bool,
    ) -> None:
        """The first statistics are due one interval after `start_ns`. `per_session_stats` includes all, however many."""
        self._sessions = sessions
        self._emit = emit
        self._interval_ns = interval_ns
        self._next_ns = start_ns + interval_ns
        self._only_worst = not per_session_stats and len(sessions) > MAX_SESSION_LINES
        self._reported = [array("Q", bytes(8 * len(sessions))) for _ in Counts.__slots__]
        """The columns of the last statistics."""
        self.breakdown = Breakdown(len(sessions))
        """Counts by who serves."""
        self._places = {session.name: place for place, session in enumerate(sessions)}

    def observe(self, event: Event) -> None:
        """Take note of who serves a session, and of where probes are lost."""
        match event:
            case FirstAnswer(at_ns=at_ns, session=name, seq=seq, identity=identity):
                self._served(name, identity, seq, at_ns)
            case ChangeSeen(session=name, change=change) if name in self._places:
                self.breakdown.changed(self._places[name], change.before.sent_ns)
                self._served(name, change.after.identity, change.after.seq, change.after.sent_ns)
            case ChangeRevised(session=name, change=change, was=was) if name in self._places:
                self.breakdown.changed(self._places[name], was.before.sent_ns, -1)
                self.breakdown.changed(self._places[name], change.before.sent_ns)
            case ChangeWithdrawn(session=name, change=change) if name in self._places:
                self.breakdown.changed(self._places[name], change.before.sent_ns, -1)
            case ProbesLost(session=name, first_sent_ns=sent_ns, count=count) if name in self._places:
                self.breakdown.lost(self._places[name], sent_ns, count)

    def _served(self, name: str, identity: Identity, seq: int, sent_ns: int) -> None:
        """Count a session for the one whose reply to probe `seq` was just read, unless a newer one was replied to before."""
        place = self._places.get(name)
        if place is None:
            return
        tracker = self._sessions[place].tracker
        if seq < tracker.reached:
            return
        counted = tracker.rtt.is_newest(seq)
        times = self.breakdown.served(
            place, identity, sent_ns, sent=tracker.sent_count - counted, answered=tracker.answered - counted
        )
        tracker.rtt.share(times, seq)

    def emit_if_due(self, now_ns: int) -> None:
        """Emit the statistics if their time has come; an interval that was missed is skipped."""
        if now_ns < self._next_ns:
            return
        self._next_ns += self._interval_ns * ((now_ns - self._next_ns) // self._interval_ns + 1)

        # Where probes were lost, read the drop count now, so that the statistics have the drops along with the losses.
        sessions = self._sessions
        for session, lost in zip(sessions, self._reported[_LOST], strict=True):
            if session.tracker.lost != lost:
                session.check_drops()

        columns = [array("Q", column) for column in zip(*map(counters, sessions), strict=True)]
        earlier, self._reported = self._reported, columns

        for at in self._worst(columns, earlier) if self._only_worst else range(len(sessions)):
            counts = Counts(*(column[at] for column in columns))
            delta = counts - Counts(*(column[at] for column in earlier))
            self._emit(SessionStats(now_ns, sessions[at].name, delta, counts, sessions[at].tracker.serving))

        total = Counts(*map(sum, columns))
        delta = total - Counts(*map(sum, earlier))
        period = self.breakdown.take(now_ns, columns[_SENT], columns[_ANSWERED])
        silent = _silent(columns, earlier)
        self._emit(StatsTick(now_ns, len(sessions), delta, total, period.groups, silent, period.p50_ns, period.p99_ns))

    def groups(self, now_ns: int) -> tuple[GroupCounts, ...]:
        """Return the whole run by pod, node and reflexive IP, as it ends now."""
        trackers = [session.tracker for session in self._sessions]
        self.breakdown.take(now_ns, [tracker.sent_count for tracker in trackers], [t.answered for t in trackers])
        return self.breakdown.total()

    @staticmethod
    def _worst(columns: Sequence[array[int]], earlier: Sequence[array[int]]) -> list[int]:
        """Return the indexes of the sessions that lost or changed most since the last statistics, the worst first."""
        lost = map(sub, columns[_LOST], earlier[_LOST])
        changes = map(sub, columns[_CHANGES], earlier[_CHANGES])
        ranked = sorted((-more, -changed, at) for at, (more, changed) in enumerate(zip(lost, changes, strict=True)))
        return [at for more, changed, at in ranked[:WORST_SESSIONS] if more or changed]


def _silent(columns: Sequence[array[int]], earlier: Sequence[array[int]]) -> int:
    """Return how many sessions sent probes and got no answer between two statistics."""
    sent = map(gt, columns[_SENT], earlier[_SENT])
    unanswered = map(eq, columns[_ANSWERED], earlier[_ANSWERED])
    return sum(map(and_, sent, unanswered))


def emit_summaries(
    sessions: Iterable[Session], stats: IntervalStats, emit: Callable[[Event], None], sending_ns: int
) -> None:
    """Emit the summary of each session and of the run, which sent probes for `sending_ns`."""
    now_ns = clock.now_ns()
    total, losses, kinds, gap_ns = Counts(), Losses(), dict.fromkeys(Kind, 0), 0
    rtts = []

    for session in sessions:
        session.read_until_empty()  # datagrams after the last answer count too: duplicates, and forged replies
        session.expire()
        session.check_drops()

        summary = session.summary(now_ns)
        emit(summary)
        total += summary.total
        losses += summary.losses
        gap_ns = max(gap_ns, summary.longest_gap_ns)
        for kind, count in summary.kinds:
            kinds[kind] += count
        rtts.append(session.tracker.rtt)

    rtt = RttHistogram.merged(rtts).stats()
    changed = tuple((kind, count) for kind, count in kinds.items() if count)
    emit(RunSummary(now_ns, sending_ns, total, losses, rtt, changed, gap_ns, stats.groups(now_ns)))
