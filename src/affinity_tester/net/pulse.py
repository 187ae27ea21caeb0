"""Tells about once a second what the sessions are at, at a cost that does not grow with their number."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from heapq import nsmallest
from operator import itemgetter, sub

from affinity_tester.core.events import Counts
from affinity_tester.core.pulse import MOST_SILENCES, RECENT_NS, Pulse, Silence
from affinity_tester.core.session.breakdown import Breakdown
from affinity_tester.core.session.rtt import percentile_ns
from affinity_tester.net.session import Session, counters
from affinity_tester.units import NS_PER_S

PULSE_NS = NS_PER_S
"""Between two pulses."""

SESSIONS_A_TURN = 250
"""Sessions that are looked at in one sweep: half a millisecond. Of 10,000, each has its turn every 10 s."""


class PulseSampler:
    """Keeps a running total over all sessions, looking at some of them in each sweep, at most once between two pulses."""

    def __init__(
        self, sessions: Sequence[Session], breakdown: Breakdown, loss_threshold_ns: int, tell: Callable[[Pulse], None]
    ) -> None:
        """Tell each pulse to `tell`."""
        self._sessions = sessions
        self._breakdown = breakdown
        self._loss_threshold_ns = loss_threshold_ns
        self._tell = tell
        self._turns = [
            range(at, min(at + SESSIONS_A_TURN, len(sessions))) for at in range(0, len(sessions), SESSIONS_A_TURN)
        ]
        self._turn = 0
        self._seen = [(0,) * len(Counts.__slots__)] * len(self._turns)
        """Of the sessions of each turn, the sums of their counters when they had it last."""
        self._rtt_sums = [0] * len(self._turns)
        self._silent: dict[int, int] = {}
        """Of each silent session, by its place, since when (ns)."""
        self._next_ns = 0
        self._recent: deque[tuple[int, int, int, array[int]]] = deque()
        """(at_ns, sent, lost, answers by length) of the last pulses."""

    def sweep(self, now_ns: int) -> None:
        """Look at the sessions whose turn it is, and tell a pulse if one is due."""
        is_due = now_ns >= self._next_ns
        if is_due or len(self._turns) > 1:
            self._look(self._turn, now_ns)
            self._turn = (self._turn + 1) % len(self._turns)
        if is_due:
            self._next_ns = now_ns + PULSE_NS
            self._emit(now_ns)

    def _look(self, turn: int, now_ns: int) -> None:
        sessions, silent, latest_ns = self._sessions, self._silent, now_ns - self._loss_threshold_ns
        counted, rtt_sum_ns = [], 0
        for place in self._turns[turn]:
            session = sessions[place]
            tracker = session.tracker
            counted.append(counters(session))
            rtt_sum_ns += tracker.rtt.sum_ns
            unanswered = tracker.unanswered()
            if unanswered is not None and unanswered[1] <= latest_ns:
                silent[place] = unanswered[1]
            elif place in silent:
                del silent[place]
        self._seen[turn] = tuple(map(sum, zip(*counted, strict=True)))
        self._rtt_sums[turn] = rtt_sum_ns

    def _emit(self, now_ns: int) -> None:
        total = Counts(*map(sum, zip(*self._seen, strict=True)))
        times = self._breakdown.times()
        while len(self._recent) > 1 and self._recent[1][0] <= now_ns - RECENT_NS:
            self._recent.popleft()
        _, sent, lost, earlier = self._recent[0] if self._recent else (0, 0, 0, array("Q", bytes(8 * len(times))))
        self._recent.append((now_ns, total.sent, total.lost, times))

        p99_ns = percentile_ns(array("q", map(sub, times, earlier)), 99)
        self._tell(
            Pulse(
                at_ns=now_ns,
                total=total,
                silent=len(self._silent),
                silences=self._silences(),
                recent_sent=total.sent - sent,
                recent_lost=total.lost - lost,
                p99_ns=p99_ns,
                times=times,
                rtt_sum_ns=sum(self._rtt_sums),
                groups=self._breakdown.total(),
            )
        )

    def _silences(self) -> tuple[Silence, ...]:
        """Return the longest silences, the longest first."""
        longest = nsmallest(MOST_SILENCES, self._silent.items(), key=itemgetter(1))
        sessions = self._sessions
        return tuple(Silence(sessions[at].name, since_ns, sessions[at].tracker.serving) for at, since_ns in longest)
