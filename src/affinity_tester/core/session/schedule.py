"""When each session's next probe is due.

Probes are isochronous and the sessions' phases are spread evenly over the interval. A slot that is missed by more than one
interval is skipped and counted, never sent in a burst.
"""

from __future__ import annotations

from collections.abc import Sequence

_SKIP_ROUNDS = 60
"""From so many rounds late on, whole rounds are skipped at once."""


class Schedule:
    """One sequence of slots for all sessions: slot g belongs to session g mod N and is due at start + g x interval / N.

    So a session's slot k is always due at its phase + k x interval (no drift), the phases are spread evenly over one
    interval, and one timer drives all sessions.
    """

    __slots__ = ("_all_started", "_interval_ns", "_sessions", "_slot", "_start_rounds", "start_ns")

    def __init__(self, start_ns: int, interval_ns: int, sessions: int, start_spacing_ns: int = 0) -> None:
        """Start at `start_ns`, with one probe of each session every `interval_ns`. Raise `ValueError` for less than 1.

        Two sessions start at least `start_spacing_ns` apart. Where one interval is too short for all of them, they start
        over R intervals: session s in round s mod R. Slots before a session's first are left out.
        """
        if interval_ns < 1 or sessions < 1:
            raise ValueError("interval and sessions are at least 1")
        self._start_rounds = max(1, -(-sessions * start_spacing_ns // interval_ns))
        self._all_started = (self._start_rounds - 1) * sessions
        """From this slot on every session has started."""
        self.start_ns = start_ns
        self._interval_ns = interval_ns
        self._sessions = sessions
        self._slot = 0

    @property
    def next_due_ns(self) -> int:
        """When the next slot is due."""
        return self.start_ns + self._slot * self._interval_ns // self._sessions

    def take(self, now_ns: int) -> tuple[Sequence[int], Sequence[int]]:
        """Take all slots that are due, as (missed, timely); slot g belongs to session g mod N.

        A slot is missed when it is more than one interval late. The caller skips it and counts a timer miss.
        """
        slot, sessions = self._slot, self._sessions

        # due(g) <= t exactly when g x interval < (t - start + 1) x N, because `next_due_ns` rounds down.
        passed_ns = (now_ns - self.start_ns + 1) * sessions
        end = max(slot, -(-passed_ns // self._interval_ns))
        timely = max(slot, -(-(passed_ns - (self._interval_ns + 1) * sessions) // self._interval_ns))
        self._slot = end

        if slot >= self._all_started:
            return range(slot, timely), range(timely, end)
        return self._of_started(slot, timely), self._of_started(timely, end)

    def _of_started(self, slot: int, end: int) -> list[int]:
        """Return the slots from `slot` to before `end`, without those of sessions that start in a later round."""
        sessions, rounds = self._sessions, self._start_rounds
        return [each for each in range(slot, end) if each % sessions % rounds <= each // sessions]

    def skip_rounds(self, now_ns: int) -> int:
        """Skip the whole rounds that were missed while the process was stopped; return how many.

        Each is one timer miss for every session. Fewer than 60 rounds are left to `take`; taking the slots of a long stop
        one by one would itself take long.
        """
        rounds = (now_ns - self.next_due_ns) // self._interval_ns
        if rounds < _SKIP_ROUNDS:
            return 0
        self._slot += rounds * self._sessions
        return rounds
