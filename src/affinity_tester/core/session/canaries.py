"""Which silent session gets a canary, and when: a few for each silence, however many sessions it takes.

A canary asks the session's target from a fresh source port. If it is answered, the target lives and only the old flows are
dead; if it is not, the path or the target is dead (docs/judging.md#canaries). The rules:

- Sessions whose silences began close together are silent for one reason: they form one group. Groups end where incidents do
  (core.open_incident): a second of quiet ends one, and a storm is cut; what comes later has canaries of its own.
- A group gets 40 canaries as soon as it has been silent for 2 s, one each sweep of the client, each for another session while
  there is one. So many exclude, at 95 %, that the source port decides, where 1 of 14 sessions or more is silent.
- Later ones come each 2 s, and are then spaced out: a change of the pool may come minutes later, and what is silent still is
  then judged by canaries sent after it.
- No more than five are sent in a second: a target in trouble must not be flooded.
- A group is forgotten when none of its sessions is silent any more.
- Up to `MAX_REPEATS` canaries of the run that were not answered are repeated after a pause, from the same port: an entry of
  a flow table would have ended in it, and a path that the port is hashed to has not.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from affinity_tester.core.open_incident import CUT_NS, NEAR_NS
from affinity_tester.units import NS_PER_MS, NS_PER_S

SILENCE_NS = 2 * NS_PER_S
"""A session that is unanswered for so long is silent: its flow is blackholed, not unlucky."""

MAX_QUICK = 40
"""Canaries of a group that show what is dead: the first ones."""

QUICK_SPACING_NS = 200 * NS_PER_MS
"""Time between two of these."""

SPACING_NS = 2 * NS_PER_S
"""Time between two canaries after these."""

EVENLY_SPACED = 20
"""So many of them are `SPACING_NS` apart, up to 50 s of silence; from then on each gap is longer than the one before."""

MAX_LATER = 35
"""How many there are."""

MAX_PER_GROUP = MAX_QUICK + MAX_LATER
"""Canaries of a group."""

GAP_GROWTH = 1.3
"""The factor from one such gap to the next: the last 15 canaries reach over seven more minutes."""

MAX_PER_S = 5
"""Canaries of all groups in any one second."""

REPEAT_AFTER_NS = 35 * NS_PER_S
"""The pause before an unanswered canary is repeated: a flow that was never answered is forgotten after 30 s
(nf_conntrack_udp_timeout)."""

MAX_REPEATS = 4
"""Unanswered canaries whose ports are kept for that, at any one time."""


class _Group:
    """Sessions that became silent together."""

    __slots__ = ("by_session", "from_ns", "next_ns", "sent", "to_ns")

    def __init__(self, since_ns: int) -> None:
        self.from_ns = self.to_ns = since_ns
        """When the first and the last of its silences began."""
        self.next_ns = since_ns + SILENCE_NS
        """When its next canary is due."""
        self.sent = 0
        self.by_session: Counter[str] = Counter()
        """How many canaries each session had."""

    def count(self, session: str, now_ns: int) -> None:
        """Count a canary that is sent now for this session, and set the time of the next."""
        self.sent += 1
        self.by_session[session] += 1

        gap_ns = QUICK_SPACING_NS
        if self.sent >= MAX_QUICK:
            gap_ns = round(SPACING_NS * GAP_GROWTH ** max(0, self.sent - MAX_QUICK - EVENLY_SPACED + 1))
        # A sweep comes somewhat late, which must not add up; a delay of a whole gap is not made up for.
        late_ns = now_ns - self.next_ns
        self.next_ns = now_ns + gap_ns - (late_ns if late_ns < gap_ns else 0)


class CanaryPlan:
    """Choose the sessions that get a canary, from who is unanswered at each sweep of the client."""

    __slots__ = ("_groups", "_max_span_ns", "_members", "_reach_ns", "_recent_ns")

    def __init__(self, interval_ns: int) -> None:
        """Start with no group; a session's silence began at most `interval_ns` before its first unanswered probe."""
        self._reach_ns = NEAR_NS + interval_ns
        self._max_span_ns = CUT_NS + interval_ns
        self._groups: list[_Group] = []
        self._members: dict[str, tuple[int, _Group]] = {}
        """By silent session: when its silence began, and its group."""
        self._recent_ns: deque[int] = deque(maxlen=MAX_PER_S)
        """When the newest canaries were sent."""

    def due(self, now_ns: int, unanswered: Iterable[tuple[str, int]], resumed_ns: int = 0) -> list[str]:
        """Return the sessions that get a canary now.

        `unanswered` are all sessions whose newest probes are not replied to: (name, when the first of these was sent). The
        client last resumed at `resumed_ns` after a standstill: a silence counts from there on.
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
            members[name] = since_ns, self._group_of(since_ns)
        self._members = members

        living = {id(group) for _, group in members.values()}
        self._groups = [group for group in self._groups if id(group) in living]
        for group in self._groups:
            group.next_ns = max(group.next_ns, resumed_ns + SILENCE_NS)

        ready = [group for group in self._groups if group.next_ns <= now_ns and group.sent < MAX_PER_GROUP]
        return [self._next_session(group, now_ns) for group in sorted(ready, key=_next_ns) if self._may_send(now_ns)]

    def _group_of(self, since_ns: int) -> _Group:
        """Return the group of a silence that began then, a new one where none is near."""
        for group in self._groups:
            from_ns, to_ns = min(group.from_ns, since_ns), max(group.to_ns, since_ns)
            is_near = group.from_ns - self._reach_ns <= since_ns <= group.to_ns + self._reach_ns
            if is_near and to_ns - from_ns <= self._max_span_ns:
                group.from_ns, group.to_ns = from_ns, to_ns
                return group

        group = _Group(since_ns)
        self._groups.append(group)
        return group

    def _may_send(self, now_ns: int) -> bool:
        """Return whether the rate allows one more canary, and count it if so."""
        recent_ns = self._recent_ns
        if len(recent_ns) == MAX_PER_S and now_ns - recent_ns[0] < NS_PER_S:
            return False
        recent_ns.append(now_ns)
        return True

    def _next_session(self, group: _Group, now_ns: int) -> str:
        """Return the session of the group that had the fewest canaries so far, and count one for it."""
        names = [name for name, (_, its) in self._members.items() if its is group]
        name = min(names, key=group.by_session.__getitem__)
        group.count(name, now_ns)
        return name


def _next_ns(group: _Group) -> int:
    return group.next_ns
