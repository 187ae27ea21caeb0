"""Probes in doubt: what a session with a long interval sends outside its schedule when it is not answered.

An outage is told after 5 s of silence. At intervals of more than a second a session has then sent too few probes to tell a
dead flow from a lost packet, so it asks some more, until it is answered or in an outage.
"""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.units import NS_PER_MS, NS_PER_S

LONG_NS = NS_PER_S
"""Up to this interval the schedule itself sends enough."""

FIRST_NS = 2 * NS_PER_S
"""After so long without an answer the first is sent."""

APART_NS = 750 * NS_PER_MS
"""Then one each: the fifth is sent when the silence is 5 s old."""

MOST = 5
"""In one silence."""

RATE = 2_000
"""A second, of all sessions together: whom the path lost at once must not flood it when it comes back."""

_BURST = RATE // 4


class ExtraProbes:
    """Told who is silent four times a second or so, it says who sends a probe more."""

    __slots__ = ("_asked", "_looked_ns")

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, int, int]] = {}
        """Since when a session is silent, how many it has sent for that, and when the next is due."""
        self._looked_ns = 0

    def due(self, now_ns: int, unanswered: Iterable[tuple[str, int]], resumed_ns: int = 0) -> list[str]:
        """The sessions that send one now, those that have waited longest first.

        `unanswered` are all sessions not in an outage whose newest probes are not replied to: (name, when the first of these
        was sent). The client last went on at `resumed_ns` after it had stood still: a silence counts from there on.
        """
        asked: dict[str, tuple[int, int, int]] = {}
        ready: list[tuple[int, str]] = []
        for name, since_ns in unanswered:
            known = self._asked.get(name)
            if known is None or known[0] != since_ns:
                known = since_ns, 0, since_ns + FIRST_NS
            _, count, due_ns = known
            due_ns = max(due_ns, resumed_ns + FIRST_NS)
            asked[name] = since_ns, count, due_ns
            if due_ns <= now_ns and count < MOST:
                ready.append((due_ns, name))
        self._asked = asked

        room = min(_BURST, RATE * (now_ns - self._looked_ns) // NS_PER_S)
        self._looked_ns = now_ns
        chosen = [name for _, name in sorted(ready)[:room]]
        for name in chosen:
            since_ns, count, due_ns = asked[name]
            # Sweeps come somewhat late, which does not add up; who had to wait for others does not make up for it.
            asked[name] = since_ns, count + 1, max(due_ns + APART_NS, now_ns + APART_NS * 2 // 3)
        return chosen
