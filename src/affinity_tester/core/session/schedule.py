"""When each session's probes are due: at even distances, phases spread evenly, a late slot skipped and counted, no bursts."""

from __future__ import annotations

from collections.abc import Sequence

_LONG_STOP_ROUNDS = 60
"""From so many late rounds on, they are skipped together."""


class Schedule:
    """One sequence of slots for all sessions: slot g is session g mod N, due at start + g x interval / N.

    So slot k of a session is due at its phase + k x interval (no drift), the phases are spread evenly over one interval,
    and one timer drives all sessions.
    """

    __slots__ = ("_all_started", "_interval_ns", "_sessions", "_slot", "_start_rounds", "start_ns")

    def __init__(self, start_ns: int, interval_ns: int, sessions: int, begin_ns: int = 0) -> None:
        """Start at `start_ns` with an interval (of one session) in nanoseconds; both counts are at least 1.

        Where one interval is too short for all sessions to start `begin_ns` apart, they start over several: session s in
        round s mod R. A slot before its session's first is nobody's.
        """
        if interval_ns < 1 or sessions < 1:
            raise ValueError("interval and sessions are at least 1")
        self._start_rounds = max(1, -(-sessions * begin_ns // interval_ns))
        self._all_started = (self._start_rounds - 1) * sessions
        """From this slot on every session sends."""
        self.start_ns = start_ns
        self._interval_ns = interval_ns
        self._sessions = sessions
        self._slot = 0

    @property
    def next_due_ns(self) -> int:
        """When the next slot is due."""
        return self.start_ns + self._slot * self._interval_ns // self._sessions

    def take(self, now_ns: int) -> tuple[Sequence[int], Sequence[int]]:
        """Take the slots that are due and return them, as (missed, timely): slot g is session g mod N's.

        A slot is missed when it is more than one interval late. The caller skips it and counts a timer miss.
        """
        slot, sessions = self._slot, self._sessions
        # due(g) <= t exactly when g x interval < (t - start + 1) x N, by the rounding of `next_due_ns`.
        passed_ns = (now_ns - self.start_ns + 1) * sessions
        end = max(slot, -(-passed_ns // self._interval_ns))
        timely = max(slot, -(-(passed_ns - (self._interval_ns + 1) * sessions) // self._interval_ns))
        self._slot = end

        if slot >= self._all_started:
            return range(slot, timely), range(timely, end)
        return self._of_started(slot, timely), self._of_started(timely, end)

    def _of_started(self, slot: int, end: int) -> list[int]:
        """Return these slots, but for those of sessions that start in a later round."""
        sessions, rounds = self._sessions, self._start_rounds
        return [each for each in range(slot, end) if each % sessions % rounds <= each // sessions]

    def skip_rounds(self, now_ns: int) -> int:
        """After a long stop of the process, skip whole rounds at once and return how many: one timer miss a session each.

        Taking a long stop's slots one by one would itself take long. Rounds less than 60 intervals late are left to `take`.
        """
        rounds = (now_ns - self.next_due_ns) // self._interval_ns
        if rounds < _LONG_STOP_ROUNDS:
            return 0
        self._slot += rounds * self._sessions
        return rounds
