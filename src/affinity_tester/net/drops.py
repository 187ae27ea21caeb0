"""What a session's full socket buffer dropped, by when it was noticed, and which lost probes that accounts for.

The kernel counts drops and says no more: not when, and not what it was. So a drop accounts for at most one lost probe,
and only for one that was sent before the drop was noticed: a flood at the client's port excuses no loss in the network of
another time.
"""

from __future__ import annotations

from collections import deque

KEPT = 256
"""So many times are remembered: those of the last minute, as a session's drops are read four times a second at most."""


class Noticed:
    """Drops that were noticed at one time."""

    __slots__ = ("at_ns", "count", "free")

    def __init__(self, at_ns: int, count: int) -> None:
        self.at_ns = at_ns
        self.count = count
        self.free = count
        """How many account for no lost probe yet."""


class Drops:
    """The drops of one session's socket."""

    __slots__ = ("_noticed",)

    def __init__(self) -> None:
        """Start with none."""
        self._noticed: deque[Noticed] = deque(maxlen=KEPT)

    def notice(self, now_ns: int, count: int) -> None:
        """So many more than were known of."""
        self._noticed.append(Noticed(now_ns, count))

    def account_for(self, lost: int, sent_ns: int) -> int:
        """How many of the `lost` probes, sent at `sent_ns` or later, these drops account for; no drop does so twice."""
        left = lost
        for noticed in self._noticed:
            if noticed.at_ns >= sent_ns:
                taken = min(left, noticed.free)
                noticed.free -= taken
                left -= taken
        return lost - left

    def since(self, at_ns: int) -> list[tuple[int, int]]:
        """Those noticed from then on: when, and how many."""
        return [(noticed.at_ns, noticed.count) for noticed in self._noticed if noticed.at_ns >= at_ns]
