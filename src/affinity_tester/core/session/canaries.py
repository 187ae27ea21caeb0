"""Which silent session gets a canary, and when: a few for each silence, however many sessions it takes.

A canary asks the session's target from a fresh source port. Answered, the target lives and only the old flows are dead;
unanswered, the path or the target is (docs/judging.md#canaries). The rules:

- Sessions whose silences began close together are silent for one reason: they are one group.
- A group gets a canary when it has been silent for 2 s, then one each 2 s, each about another session while there is one.
- Of the 40 of a group the last are spaced out: a change of the pool may come minutes later, and what is silent still is then
  judged by canaries sent after it.
- No more than five a second: a target in trouble is not to be stormed.
- A group is forgotten when none of its sessions is silent any more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from affinity_tester.units import NS_PER_S

SILENCE_NS = 2 * NS_PER_S
"""A session unanswered for so long is silent."""

AGAIN_NS = 2 * NS_PER_S
"""Between two canaries of a group."""

MOST = 40
"""Canaries of a group."""

STEADY = 25
"""So many of them are sent at the same distance, each further one at a longer one."""

LONGER = 1.3
"""By so much each; so the 15 last ones reach over seven more minutes."""

JOIN_NS = NS_PER_S
"""Silences that begin within so long of each other are of one group, as incidents are."""

SPAN_NS = 60 * NS_PER_S
"""No group's silences begin further apart: a storm is cut there too, and what comes later has canaries of its own."""

RATE = 5
"""Canaries in any one second, of all groups."""


class _Group:
    """Sessions that fell silent together."""

    __slots__ = ("about", "from_ns", "next_ns", "sent", "to_ns")

    def __init__(self, since_ns: int) -> None:
        self.from_ns = self.to_ns = since_ns
        """When the first and the last of its silences began."""
        self.next_ns = since_ns + SILENCE_NS
        self.sent = 0
        self.about: Counter[str] = Counter()
        """How many canaries each session had."""

    def count(self, about: str, now_ns: int) -> None:
        """One is sent now."""
        self.sent += 1
        self.about[about] += 1
        gap_ns = round(AGAIN_NS * LONGER ** max(0, self.sent - STEADY + 1))
        # Sweeps come somewhat late; that does not add up, but one that comes a whole gap late is not made up for.
        late_ns = now_ns - self.next_ns
        self.next_ns = now_ns + gap_ns - (late_ns if late_ns < gap_ns else 0)


class CanaryPlan:
    """Told who is silent four times a second or so, it says whose canary is due."""

    __slots__ = ("_groups", "_members", "_reach_ns", "_recent_ns", "_span_ns")

    def __init__(self, interval_ns: int) -> None:
        """`interval_ns`: a session's silence began at most so long before its first unanswered probe."""
        self._reach_ns = JOIN_NS + interval_ns
        self._span_ns = SPAN_NS + interval_ns
        self._groups: list[_Group] = []
        self._members: dict[str, tuple[int, _Group]] = {}
        """Since when a session is silent, and with whom."""
        self._recent_ns: deque[int] = deque(maxlen=RATE)

    def due(self, now_ns: int, unanswered: Iterable[tuple[str, int]], resumed_ns: int = 0) -> list[str]:
        """The sessions whose canary is to be sent now.

        `unanswered` are all sessions whose newest probes are not replied to: (name, when the first of these was sent). The
        client last went on at `resumed_ns` after it had stood still: a silence counts from there on.
        """
        members: dict[str, tuple[int, _Group]] = {}
        new: list[tuple[int, str]] = []
        for name, since_ns in unanswered:
            known = self._members.get(name)
            if known is not None and known[0] == since_ns:
                members[name] = known
            elif now_ns - max(since_ns, resumed_ns) >= SILENCE_NS:
                new.append((since_ns, name))
        for since_ns, name in sorted(new):
            members[name] = since_ns, self._group(since_ns)
        self._members = members
        living = {id(group) for _, group in members.values()}
        self._groups = [group for group in self._groups if id(group) in living]
        for group in self._groups:
            group.next_ns = max(group.next_ns, resumed_ns + SILENCE_NS)
        ready = [group for group in self._groups if group.next_ns <= now_ns and group.sent < MOST]
        return [self._choose(group, now_ns) for group in sorted(ready, key=_next_ns) if self._may_send(now_ns)]

    def _group(self, since_ns: int) -> _Group:
        """The group of a silence that began then."""
        for group in self._groups:
            from_ns, to_ns = min(group.from_ns, since_ns), max(group.to_ns, since_ns)
            near = group.from_ns - self._reach_ns <= since_ns <= group.to_ns + self._reach_ns
            if near and to_ns - from_ns <= self._span_ns:
                group.from_ns, group.to_ns = from_ns, to_ns
                return group
        group = _Group(since_ns)
        self._groups.append(group)
        return group

    def _may_send(self, now_ns: int) -> bool:
        recent_ns = self._recent_ns
        if len(recent_ns) == RATE and now_ns - recent_ns[0] < NS_PER_S:
            return False
        recent_ns.append(now_ns)
        return True

    def _choose(self, group: _Group, now_ns: int) -> str:
        """The session that had the fewest so far."""
        names = [name for name, (_, its) in self._members.items() if its is group]
        name = min(names, key=group.about.__getitem__)
        group.count(name, now_ns)
        return name


def _next_ns(group: _Group) -> int:
    return group.next_ns
