"""Random histories of an honest API, a pool, a client and its changes, with the truth of each: what no client knows.

The API answers every list with the pool as it was at one moment between the asking and the answer, and a watch with every
change, in order. Both may be late by any time, and stall together or each for itself. The client may stand still (suspended,
or asleep with its machine): nothing is heard or asked then. What the client makes of it follows docs/judging.md,
written here once more and apart from `cluster`: a change with version r that is heard at h happened in
(asked(A), min(first page of B heard, h)], A the newest list with a version below r, B one with r or above.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from dataclasses import dataclass, field

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeSeen,
    Event,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RepliedProbe,
    RunEnded,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.pool import Endpoint, PoolSnapshot

MS = 1_000_000
S = 1_000 * MS
SETTLE = 10 * S
WINDOW = 30 * S
END = 140 * S
LIST_EVERY = SETTLE // 2
PATIENCE = 2 * S
LOCAL = TransportAddress("127.0.0.1", 40312)


@dataclass(frozen=True, slots=True)
class Pace:
    """How late things are in a history."""

    delay: int
    """The usual delay of an answer or of news, at most."""
    stall: int
    """The longest stall; 0: none."""
    still: int
    """The longest time for which the client stands still; 0: never."""


@dataclass(slots=True)
class History:
    """One run: what the client was told, and the truth."""

    events: list[Event] = field(default_factory=list)
    changed_ns: list[int] = field(default_factory=list)
    """When the pool truly changed."""
    changes: dict[int, Change] = field(default_factory=dict)

    def near(self, change: Change) -> bool:
        """Whether the pool truly changed within reach of a session's change."""
        from_ns, to_ns = change.before.sent_ns - SETTLE, change.seen_ns + SETTLE
        return any(from_ns <= at_ns <= to_ns for at_ns in self.changed_ns)


@dataclass(slots=True)
class _Listed:
    version: int
    asked: int
    heard: int


class _World:
    """The truth and the delays of one history."""

    def __init__(self, rng: random.Random, pace: Pace) -> None:
        self.rng, self.pace = rng, pace
        times = sorted(rng.sample(range(5 * S, END - 10 * S), rng.randrange(0, 5)))
        self.snapshots = [_pool(rng, None)]
        for _ in times:
            self.snapshots.append(_pool(rng, self.snapshots[-1]))
        self.changed = times
        self.stalls = self._spans(pace.stall, 2)
        self.still = self._spans(pace.still, 1)

    def _spans(self, longest: int, most: int) -> list[tuple[int, int]]:
        found = []
        for _ in range(self.rng.randrange(0, most + 1) if longest else 0):
            begin = self.rng.randrange(END)
            found.append((begin, begin + self.rng.randrange(1, longest)))
        return found

    def version(self, at: int) -> int:
        return bisect_right(self.changed, at)

    def up(self, at: int) -> int:
        """When the client can hear or ask what comes at this time."""
        for begin, end in sorted(self.still):
            if begin <= at < end:
                at = end
        return at

    def answered(self, at: int) -> int:
        """When the API server goes on with what comes at this time."""
        for begin, end in sorted(self.stalls):
            if begin <= at < end and self.rng.random() < 0.9:
                at = end
        return at

    def delay(self) -> int:
        return self.rng.randrange(self.pace.delay)

    def listed(self, asked: int) -> _Listed:
        """A list: its snapshot is of any moment between the asking and the answer, the stall before or after it."""
        taken = self.answered(asked + self.delay()) if self.rng.random() < 0.5 else asked + self.delay()
        heard = self.up(self.answered(taken + self.delay()))
        return _Listed(self.version(taken), asked, heard)

    def told(self) -> list[int]:
        """When the watch tells each change, in order."""
        heard, last = [], 0
        for at in self.changed:
            last = max(last, self.up(self.answered(at + self.delay())))
            heard.append(last)
        return heard


def _pool(rng: random.Random, before: PoolSnapshot | None) -> PoolSnapshot:
    while True:
        # At first all are there: a pod that was never in the pool would mean that another pool is watched.
        pods = {name: rng.random() < 0.8 for name in "abcd" if before is None or rng.random() < 0.7}
        endpoints = frozenset(Endpoint(f"uid-{n}", n, f"10.0.0.{ord(n)}", ready=r, serving=r) for n, r in pods.items())
        if before is None or endpoints != before.endpoints:
            return PoolSnapshot(endpoints)


def history(seed: int, pace: Pace) -> History:
    """The history of this seed."""
    rng = random.Random(seed)
    world = _World(rng, pace)
    found = History(changed_ns=world.changed)
    agenda: list[tuple[int, int, Event]] = []
    _watch(world, agenda)
    for number in range(rng.randrange(1, 4)):
        change = _change(world, number)
        found.changes[number] = change
        agenda.append((change.seen_ns, 1, ChangeSeen(change.seen_ns, "CLIENT-1", change)))
    agenda.sort(key=lambda entry: entry[:2])
    found.events = [event for _, _, event in agenda]
    found.events.append(RunEnded(max(END + 60 * S, agenda[-1][0]), aborted=False))
    return found


def _change(world: _World, number: int) -> Change:
    """A session's change; more often than not one near a change of the pool."""
    rng = world.rng
    near = rng.choice(world.changed) + rng.randrange(-25 * S, 25 * S) if world.changed and rng.random() < 0.7 else None
    at = rng.randrange(20 * S, END - 10 * S) if near is None else min(max(near, 12 * S), END - 10 * S)
    sent, seen = world.up(at), world.up(at + 110 * MS)
    # What was sent before the client stood still is answered after it.
    before = next((begin - 1 for begin, end in world.still if end == sent), sent - 1)
    who = [Identity(LOCAL, rng.choice("abcd")) for _ in range(2)]
    return Change(
        number,
        (Kind.POD,),
        RepliedProbe(1, before, who[0]),
        RepliedProbe(2, sent + 100 * MS, who[1]),
        max(seen, sent + 101 * MS),
        max(100 * MS, sent + 100 * MS - before),
        max(seen, sent + 101 * MS),
    )


def _watch(world: _World, agenda: list[tuple[int, int, Event]]) -> None:
    """What the client learns of the pool."""
    first = _Listed(0, 0, 50 * MS)  # a run begins when the first list is there
    lists = [first]
    asked = first.heard
    while asked < END + 40 * S:
        asked = world.up(asked + LIST_EVERY)
        lists.append(world.listed(asked))
        asked = max(asked, lists[-1].heard)  # one at a time
    heard = [max(at, first.heard) for at in world.told()]
    snapshots = world.snapshots
    agenda.append((first.heard, 0, PoolObserved(first.heard, 0, first.heard, snapshots[first.version], 0)))

    def since(version: int, now: int) -> int:
        return max((each.asked for each in lists if each.version < version and each.heard <= now), default=0)

    told = first.version
    broken_until = 0
    moments = [(at, 0, version) for version, at in enumerate(heard, 1)]
    # Each second list is compared with what the watch told: it confirms, or the watch is begun anew.
    moments += [(each.heard, 1, n) for n, each in enumerate(lists) if n and n % 2 == 0]
    known = 0
    for at, what, index in sorted(moments):
        if what == 0:
            version = index
            if version <= told or at < broken_until:
                continue
            until = min([at, *(each.heard for each in lists if each.version >= version and each.heard <= at)])
            agenda.append((at, 0, PoolObserved(at, since(version, at), until, snapshots[version])))
            told = version
            continue
        listed = lists[index]
        level = max([listed.heard, *(h for v, h in enumerate(heard, 1) if told < v <= listed.version)])
        if level <= listed.heard + PATIENCE:
            agenda.append((level, 2, PoolConfirmed(level, listed.asked)))
        elif listed.version > told:
            # Too late: a gap, told when patience is over, and ended by a new list.
            over = world.up(listed.heard + PATIENCE)
            known = max([each.asked for each in lists if each.version <= told and each.heard <= over], default=0)
            again = world.listed(world.up(over + 1))
            agenda.append((over, 0, PoolUnobserved(over, known, "late")))
            event = PoolObserved(again.heard, known, again.heard, snapshots[again.version], again.asked)
            agenda.append((again.heard, 0, event))
            lists.append(again)
            told, broken_until = again.version, again.heard
