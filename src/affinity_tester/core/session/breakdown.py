"""Counts and round-trip times by who serves: by pod, by node, and by reflexive IP (which mostly is an ingress node's).

A session belongs to whoever answered its newest replied probe. Probes and answers count for the one who served the session
when they were counted. A lost probe counts for the one who served when it was *sent*: there it was lost, though the loss is
told after the session has moved on. A change counts for the one that the session left.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from operator import add, sub
from typing import NamedTuple

from affinity_tester.core.events import GroupCounts, GroupKind
from affinity_tester.core.identity import Identity
from affinity_tester.core.session.rtt import BUCKETS, percentile_ns
from affinity_tester.units import NS_PER_MIN

MOST_GROUPS = {GroupKind.POD: 200, GroupKind.NODE: 100, GroupKind.REFLEXIVE_IP: 20}
"""So many of a kind have figures of their own; the rest is counted together, as `OTHER`."""

OTHER = "other"

_KEPT_NS = 2 * NS_PER_MIN
"""How long it is remembered who served a session before: longer than any loss is told late (60 s)."""

_Served = tuple[str | None, ...]
"""Pod, node and reflexive IP."""


class _Part:
    """Sessions with the same pod, node and reflexive IP: what was counted since the last statistics."""

    __slots__ = ("answered", "changes", "lost", "names", "sent", "sessions", "times")

    def __init__(self, names: _Served) -> None:
        self.names = names
        self.times = array("Q", bytes(8 * BUCKETS))
        """Answers by length, in the buckets of `RttHistogram`."""
        self.reset()

    def reset(self) -> None:
        self.sessions = self.sent = self.answered = self.lost = self.changes = 0

    @property
    def is_empty(self) -> bool:
        return not (self.sessions or self.sent or self.lost or self.changes)


class _Row:
    """The sum of the parts that share a pod, a node, or a reflexive IP."""

    __slots__ = ("answered", "changes", "lost", "sent", "sessions", "times", "used_ns")

    def __init__(self) -> None:
        self.sessions = self.sent = self.answered = self.lost = self.changes = 0
        self.times = array("Q", bytes(8 * BUCKETS))
        self.used_ns = 0
        """When a session was counted here last."""

    def add(self, part: _Part | _Row) -> None:
        self.sessions += part.sessions
        self.sent += part.sent
        self.answered += part.answered
        self.lost += part.lost
        self.changes += part.changes
        if part.answered:
            self.times = array("Q", map(add, self.times, part.times))

    def counts(self, kind: GroupKind, name: str | None) -> GroupCounts:
        p50_ns, p99_ns = percentile_ns(self.times, 50), percentile_ns(self.times, 99)
        return GroupCounts(kind, name, self.sessions, self.sent, self.answered, self.lost, self.changes, p50_ns, p99_ns)


class Period(NamedTuple):
    """What was counted in one period."""

    groups: tuple[GroupCounts, ...]
    p50_ns: int | None
    """Of all round-trip times; None where nothing was answered."""
    p99_ns: int | None


class Breakdown:
    """Counts the sessions of a run by who serves them. Sessions are known by their place in the run, from 0."""

    def __init__(self, sessions: int) -> None:
        """Start with so many sessions that nobody has answered."""
        self._parts: dict[_Served, _Part] = {}
        nobody = self._part((None, None, None))
        self._serving = [nobody] * sessions
        self._sent = array("Q", bytes(8 * sessions))
        self._answered = array("Q", bytes(8 * sessions))
        """What of each session's counts is in a part already."""
        self._earlier: dict[int, list[tuple[int, _Part]]] = {}
        """Who served a session before: (when the first probe was sent that another one answered, who)."""
        self._rows: dict[GroupKind, dict[str | None, _Row]] = {kind: {} for kind in GroupKind}
        self._times = array("Q", bytes(8 * BUCKETS))
        """All answers until the last `take`, by length."""
        self._total: tuple[GroupCounts, ...] | None = None
        """What `total` returns; None until it is asked for after a `take`."""

    def served(self, session: int, identity: Identity, first_sent_ns: int, *, sent: int, answered: int) -> array[int]:
        """Count this session for `identity` from now on; return the buckets in which its answers are to be counted.

        `first_sent_ns` is when the first probe was sent that this one answered; `sent` and `answered` are the session's
        counts before it. What the reply does not tell stays as it was.
        """
        before = self._serving[session]
        ip = None if identity.reflexive is None else identity.reflexive.ip
        told = zip((identity.pod, identity.node, ip), before.names, strict=True)
        now = self._part(tuple(was if name is None else name for name, was in told))
        if now is before:
            return now.times

        before.sent += sent - self._sent[session]
        before.answered += answered - self._answered[session]
        self._sent[session], self._answered[session] = sent, answered
        self._serving[session] = now
        self._earlier.setdefault(session, []).append((first_sent_ns, before))
        return now.times

    def changed(self, session: int, sent_ns: int, count: int = 1) -> None:
        """Count a change after the probe that was sent at `sent_ns`; -1 takes one back that was withdrawn."""
        self._at(session, sent_ns).changes += count

    def lost(self, session: int, sent_ns: int, count: int) -> None:
        """Count lost probes, the first of them sent at `sent_ns`."""
        self._at(session, sent_ns).lost += count

    def take(self, now_ns: int, sent: Sequence[int], answered: Sequence[int]) -> Period:
        """Return the figures of the time since the last call, given each session's counts so far."""
        for part, more, replied in zip(
            self._serving, map(sub, sent, self._sent), map(sub, answered, self._answered), strict=True
        ):
            part.sessions += 1
            part.sent += more
            part.answered += replied
        self._sent, self._answered = array("Q", sent), array("Q", answered)

        period: dict[GroupKind, dict[str | None, _Row]] = {kind: {} for kind in GroupKind}
        for rows in self._rows.values():
            for row in rows.values():
                row.sessions = 0
        parts = [part for part in self._parts.values() if not part.is_empty]
        for part in parts:  # first of all, so that no row that is in use makes room for another
            for kind, name in zip(GroupKind, part.names, strict=True):
                if part.sessions and name in self._rows[kind]:
                    self._rows[kind][name].used_ns = now_ns

        for part in parts:
            for kind, name in zip(GroupKind, part.names, strict=True):
                row, known_as = self._row(kind, name, now_ns)
                row.add(part)
                if part.sessions:
                    row.used_ns = now_ns
                period[kind].setdefault(known_as, _Row()).add(part)

        whole = self.times()
        times = array("Q", map(sub, whole, self._times))
        self._times = whole
        self._total = None
        self._forget(now_ns)
        return Period(tuple(_counts(period)), percentile_ns(times, 50), percentile_ns(times, 99))

    def times(self) -> array[int]:
        """Return all answers so far by length, in the buckets of `RttHistogram`."""
        times = self._times
        for part in self._parts.values():
            times = array("Q", map(add, times, part.times))
        return times

    def total(self) -> tuple[GroupCounts, ...]:
        """Return the figures of the whole run until the last `take`; sessions are those that were served last."""
        if self._total is None:
            self._total = tuple(_counts(self._rows))
        return self._total

    def _part(self, names: _Served) -> _Part:
        part = self._parts.get(names)
        if part is None:
            part = self._parts[names] = _Part(names)
        return part

    def _at(self, session: int, sent_ns: int) -> _Part:
        """Return the part for whoever served this session when a probe was sent."""
        for until_ns, before in self._earlier.get(session, ()):
            if sent_ns < until_ns:
                # It may have been forgotten meanwhile, since nobody is served by it any more.
                return self._part(before.names)
        return self._serving[session]

    def _row(self, kind: GroupKind, name: str | None, now_ns: int) -> tuple[_Row, str | None]:
        """Return the row of a name, and the name that it goes by: a full table has one row for all that are new."""
        rows = self._rows[kind]
        if name not in rows and len(rows) >= MOST_GROUPS[kind]:
            # Make room: who has served nobody for longest is counted with the others from here on.
            idle = [each for each, row in rows.items() if row.used_ns < now_ns and each != OTHER]
            if idle:
                gone = rows.pop(min(idle, key=lambda each: rows[each].used_ns))
                rows.setdefault(OTHER, _Row()).add(gone)
            else:
                name = OTHER
        return rows.setdefault(name, _Row()), name

    def _forget(self, now_ns: int) -> None:
        """Start a new period, without those who serve nobody any more."""
        serving = set(map(id, self._serving))
        for names, part in list(self._parts.items()):
            part.reset()
            if id(part) in serving:
                part.times[:] = array("Q", bytes(8 * BUCKETS))  # in place: the sessions count in these
            else:
                del self._parts[names]

        for session, earlier in list(self._earlier.items()):
            kept = [(until_ns, part) for until_ns, part in earlier if until_ns > now_ns - _KEPT_NS]
            if kept:
                self._earlier[session] = kept
            else:
                del self._earlier[session]


def _counts(groups: dict[GroupKind, dict[str | None, _Row]]) -> Iterator[GroupCounts]:
    """Yield the figures, of each kind those with most sessions first."""
    for kind, rows in groups.items():
        for name, row in sorted(rows.items(), key=_rank):
            yield row.counts(kind, name)


def _rank(item: tuple[str | None, _Row]) -> tuple[int, bool, str]:
    name, row = item
    return -row.sessions, name is None, name or ""


def groups_of(kind: GroupKind, groups: Iterable[GroupCounts]) -> list[GroupCounts]:
    """Return the figures of one kind."""
    return [group for group in groups if group.kind is kind]
