"""Tells about once a second what the sessions are at, at a cost that does not grow with their number."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from heapq import nsmallest
from operator import itemgetter, sub

from affinity_tester.core.events import Counts
from affinity_tester.core.pulse import MOST_SILENCES, Pulse, Silence
from affinity_tester.core.session.breakdown import Breakdown
from affinity_tester.core.session.rtt import percentile_ns
from affinity_tester.net.session import Session, counters
from affinity_tester.units import NS_PER_S

PULSE_NS = NS_PER_S
"""Between two pulses."""

RECENT_NS = 5 * NS_PER_S
"""The time that counts as recent."""

SESSIONS_A_TURN = 250
"""Sessions that are looked at in one sweep: half a millisecond. Of 10,000, each has its turn every 10 s."""


class PulseSampler:
    """Keeps a running total over all sessions, looking at some of them in each sweep."""

    def __init__(
        self, sessions: Sequence[Session], breakdown: Breakdown, loss_threshold_ns: int, tell: Callable[[Pulse], None]
    ) -> None:
        """Tell each pulse to `tell`."""
        self._sessions = sessions
        self._breakdown = breakdown
        self._loss_threshold_ns = loss_threshold_ns
        self._tell = tell
        self._turn = 0
        self._seen = [(0,) * len(Counts.__slots__)] * len(sessions)
        """Of each session, its counters when it had its last turn."""
        self._total = [0] * len(Counts.__slots__)
        self._silent: dict[int, int] = {}
        """Of each silent session, by its place, since when (ns)."""
        self._rtt_sums = array("Q", bytes(8 * len(sessions)))
        self._rtt_sum_ns = 0
        self._next_ns = 0
        self._recent: deque[tuple[int, int, int, array[int]]] = deque()
        """(at_ns, sent, lost, answers by length) of the last pulses."""

    def sweep(self, now_ns: int) -> None:
        """Look at the sessions whose turn it is, and tell a pulse if one is due."""
        for place in range(self._turn, min(self._turn + SESSIONS_A_TURN, len(self._sessions))):
            session = self._sessions[place]
            now, before = counters(session), self._seen[place]
            if now != before:
                self._total = [whole + new - old for whole, new, old in zip(self._total, now, before, strict=True)]
                self._seen[place] = now
                rtt_sum_ns = session.tracker.rtt.sum_ns
                self._rtt_sum_ns += rtt_sum_ns - self._rtt_sums[place]
                self._rtt_sums[place] = rtt_sum_ns
            unanswered = session.tracker.unanswered()
            if unanswered is not None and now_ns - unanswered[1] >= self._loss_threshold_ns:
                self._silent[place] = unanswered[1]
            else:
                self._silent.pop(place, None)

        self._turn += SESSIONS_A_TURN
        if self._turn >= len(self._sessions):
            self._turn = 0
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + PULSE_NS
            self._emit(now_ns)

    def _emit(self, now_ns: int) -> None:
        total = Counts(*self._total)
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
                rtt_sum_ns=self._rtt_sum_ns,
                groups=self._breakdown.total(),
            )
        )

    def _silences(self) -> tuple[Silence, ...]:
        """Return the longest silences, the longest first."""
        longest = nsmallest(MOST_SILENCES, self._silent.items(), key=itemgetter(1))
        sessions = self._sessions
        return tuple(Silence(sessions[at].name, since_ns, sessions[at].tracker.serving) for at, since_ns in longest)
