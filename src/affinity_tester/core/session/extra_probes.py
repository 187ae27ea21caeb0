"""Extra probes: what a session with a long interval sends outside its schedule when it is not answered.

An outage is told after 5 s of silence. At intervals of more than a second a session has then sent too few probes to tell a
dead flow from a lost packet, so it sends some more, until it is answered or in an outage.
"""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.units import NS_PER_MS, NS_PER_S

LONG_INTERVAL_NS = NS_PER_S
"""Up to this interval the schedule itself sends enough probes."""

FIRST_AFTER_NS = 2 * NS_PER_S
"""The first extra probe is sent after so long without an answer."""

SPACING_NS = 750 * NS_PER_MS
"""Time between two extra probes of a silence: the fifth is sent when the silence is 5 s old."""

MAX_PER_SILENCE = 5
"""Extra probes of a session in one silence."""

MAX_PER_S = 2_000
"""Extra probes of all sessions in a second: a path that lost all sessions at once must not be flooded when it comes back."""

_BURST = MAX_PER_S // 4
"""Extra probes in one sweep: the client sweeps four times a second."""


class ExtraProbes:
    """Choose the sessions that send an extra probe, from who is unanswered at each sweep of the client."""

    __slots__ = ("_silences", "_swept_ns")

    def __init__(self) -> None:
        """Start with no session in a silence."""
        self._silences: dict[str, tuple[int, int, int]] = {}
        """By session: when its silence began, how many extra probes it has sent in it, and when the next is due."""
        self._swept_ns = 0

    def due(self, now_ns: int, unanswered: Iterable[tuple[str, int]], resumed_ns: int = 0) -> list[str]:
        """Return the sessions that send an extra probe now, those that have waited longest first.

        `unanswered` are all sessions not in an outage whose newest probes are not replied to: (name, when the first of these
        was sent). The client last resumed at `resumed_ns` after a standstill: a silence counts from there on.
        """
        silences: dict[str, tuple[int, int, int]] = {}
        ready: list[tuple[int, str]] = []
        for name, since_ns in unanswered:
            known = self._silences.get(name)
            if known is None or known[0] != since_ns:
                known = since_ns, 0, since_ns + FIRST_AFTER_NS

            _, count, due_ns = known
            due_ns = max(due_ns, resumed_ns + FIRST_AFTER_NS)
            silences[name] = since_ns, count, due_ns
            if due_ns <= now_ns and count < MAX_PER_SILENCE:
                ready.append((due_ns, name))
        self._silences = silences

        room = min(_BURST, MAX_PER_S * (now_ns - self._swept_ns) // NS_PER_S)
        self._swept_ns = now_ns
        chosen = [name for _, name in sorted(ready)[:room]]

        for name in chosen:
            since_ns, count, due_ns = silences[name]
            # A sweep comes somewhat late, which must not add up. A session that had to wait for others does not catch up.
            silences[name] = since_ns, count + 1, max(due_ns + SPACING_NS, now_ns + SPACING_NS * 2 // 3)
        return chosen
