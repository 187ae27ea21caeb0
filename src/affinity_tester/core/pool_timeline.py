"""What is known of the pool over a run: its changes, when each may have happened, and where nothing is known.

When a change happened is an interval: after the newest list that does not show it was asked for, and before anything that
shows it was heard. So a change is surely within some reach, or perhaps, or not (docs/judging.md#dating).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from affinity_tester.core.pool import Endpoint, EndpointChange, PoolSnapshot


@dataclass(frozen=True, slots=True)
class PoolChange:
    """The pool differed after it from before it. It happened in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int
    changes: tuple[EndpointChange, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Something began in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class _Serving:
    """A pod began or stopped to serve, in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int
    serves: bool
    left: bool = False
    """It left the pool: what serves under its name later is another pod."""


class PoolTimeline:
    """What is known of the pool over a run: snapshots, changes, gaps in which nothing was known, and how far it reaches."""

    def __init__(self) -> None:
        """Nothing is known before the first snapshot."""
        self.first_ns: int | None = None
        """From when on the pool is known: the first list was there. None before it."""
        self._newest: PoolSnapshot | None = None
        self._serving: dict[str, list[_Serving]] = {}
        """By pod, in order. Whole snapshots of a large pool would add up to gigabytes."""
        self._emptied: list[tuple[Span, Span | None]] = []
        """When no endpoint was ready any more, and when one was again; None: not yet."""
        self.changes: list[PoolChange] = []
        self.gaps: list[tuple[int, int]] = []
        """Closed gaps as (from_ns, to_ns)."""
        self._open_gap_ns: int | None = None
        self.revision = 0
        """How often anything was learnt of the pool, or of what is not known of it."""
        self.confirmed_ns: int | None = None
        """When the newest consistent list was asked for: all up to here that is in no gap is known; None before the first."""

    @property
    def watched(self) -> bool:
        """Whether there ever was a snapshot."""
        return self._newest is not None

    @property
    def observing(self) -> bool:
        """Whether the pool is watched now: there was a snapshot, and no gap since."""
        return self.watched and self._open_gap_ns is None

    @property
    def snapshot(self) -> PoolSnapshot | None:
        """The pool as it was last told; None before the first."""
        return self._newest

    def observed(
        self,
        since_ns: int,
        until_ns: int,
        snapshot: PoolSnapshot,
        changes: tuple[EndpointChange, ...],
        asked_ns: int | None = None,
    ) -> PoolChange | None:
        """Take in what `PoolObserved` tells; return how the pool differs from the one before, None where it does not."""
        self.revision += 1
        change = None
        before = self._newest
        if self.changes:  # a reader of the changes relies on their order
            until_ns = max(until_ns, self.changes[-1].to_ns)
        if before is None:
            self.first_ns = until_ns
        elif changes:
            change = PoolChange(min(since_ns, until_ns), until_ns, changes)
            self.changes.append(change)
        if self._open_gap_ns is not None and asked_ns is not None:
            from_ns = max(self._open_gap_ns, since_ns)  # what the list does not show happened after `since_ns`
            self.gaps.append((from_ns, max(until_ns, from_ns)))
            self._open_gap_ns = None
        self._note_serving(since_ns, until_ns, frozenset() if before is None else before.endpoints, snapshot.endpoints)
        self._note_ready(since_ns, until_ns, before, snapshot)
        self._newest = snapshot
        if asked_ns is not None:
            self._confirm(asked_ns)
        return change

    def _note_serving(
        self, since_ns: int, until_ns: int, before: frozenset[Endpoint], after: frozenset[Endpoint]
    ) -> None:
        """Keep what changed of who serves. A pod with several endpoints serves while one of them does.

        A pod of the same name and another uid replaced one that stopped.
        """
        serves = dict.fromkeys((endpoint.pod for endpoint in before - after), False)
        for endpoint in after - before:
            serves[endpoint.pod] = serves.get(endpoint.pod, False) or endpoint.serving
        if not serves:
            return
        for endpoint in after & before:  # what stayed of a pod that has several
            if endpoint.pod in serves and endpoint.serving:
                serves[endpoint.pod] = True
        was_uids, now_uids = _uids(before, serves), _uids(after, serves)
        for pod, now in serves.items():
            history = self._serving.setdefault(pod, [])
            serves_yet = bool(history) and history[-1].serves
            left = pod in was_uids and was_uids[pod].isdisjoint(now_uids.get(pod, ()))
            if left or (serves_yet and not now):
                history.append(_Serving(since_ns, until_ns, serves=False, left=left))
                serves_yet = False
            if now != serves_yet or not history:
                history.append(_Serving(since_ns, until_ns, serves=now))

    def _note_ready(self, since_ns: int, until_ns: int, before: PoolSnapshot | None, after: PoolSnapshot) -> None:
        """Keep when no endpoint was ready."""
        was, now = before is None or before.ready_count > 0, after.ready_count > 0
        if was and not now:
            self._emptied.append((Span(since_ns, until_ns), None))
        elif now and not was:
            self._emptied[-1] = (self._emptied[-1][0], Span(since_ns, until_ns))

    def confirmed(self, asked_ns: int) -> None:
        """Nothing that happened before `asked_ns` was missed; an open gap is closed as if it had not been."""
        self.revision += 1
        self._open_gap_ns = None
        self._confirm(asked_ns)

    def unobserved(self, since_ns: int) -> None:
        """From `since_ns` on nothing is known, until the next list."""
        self.revision += 1
        if self._open_gap_ns is None:
            self._open_gap_ns = since_ns

    def _confirm(self, asked_ns: int) -> None:
        if self.watched and (self.confirmed_ns is None or asked_ns > self.confirmed_ns):
            self.confirmed_ns = asked_ns

    def confirmed_after(self, at_ns: int) -> bool:
        """Whether a consistent list was asked for later than this: what happened until then is known."""
        return self.confirmed_ns is not None and self.confirmed_ns > at_ns

    # --- changes -------------------------------------------------------------------------------------------------------

    def surely_within(self, from_ns: int, to_ns: int) -> Iterator[PoolChange]:
        """The changes that surely happened within these times, the newest first."""
        return (c for c in self._reaching(from_ns) if from_ns <= c.from_ns and c.to_ns <= to_ns)

    def perhaps_within(self, from_ns: int, to_ns: int) -> Iterator[PoolChange]:
        """The changes that may have happened within these times, those that surely did among them, the newest first."""
        return (c for c in self._reaching(from_ns) if c.from_ns < to_ns or c.to_ns <= to_ns)

    def _reaching(self, from_ns: int) -> Iterator[PoolChange]:
        """The changes that may have happened at `from_ns` or later, newest first: their ends are in order."""
        return takewhile(lambda change: change.to_ns >= from_ns, reversed(self.changes))

    def gap_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """A part of these times in which nothing was known: also what is before the first snapshot."""
        blind = self.unobserved_within(from_ns, to_ns)
        if blind is None and self.first_ns is not None and from_ns < min(self.first_ns, to_ns):
            return from_ns, self.first_ns
        return blind

    def unobserved_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """A part of these times in which the watch was interrupted."""
        blind = list(self.gaps)
        if self._open_gap_ns is not None:
            blind.append((self._open_gap_ns, max(to_ns, self._open_gap_ns)))
        return next(((a, b) for a, b in blind if max(a, from_ns) < min(b, to_ns)), None)

    # --- pods ----------------------------------------------------------------------------------------------------------

    def has_seen(self, pod: str) -> bool:
        """Whether a pod of this name was ever in the pool; the name is empty for endpoints that name no pod."""
        return pod in self._serving

    def serves(self, pod: str) -> bool:
        """Whether a pod serves, as it was last told."""
        history = self._serving.get(pod)
        return history is not None and history[-1].serves

    def stopped(self, pod: str) -> Span | None:
        """When a pod last left the pool or stopped serving; None: never. It may serve again since (`serves`)."""
        history = self._serving.get(pod, [])
        return next((Span(entry.from_ns, entry.to_ns) for entry in reversed(history) if not entry.serves), None)

    def left(self, pod: str) -> Span | None:
        """When a pod last left the pool; None: never. What is in it under its name since is another one."""
        history = self._serving.get(pod, [])
        return next((Span(entry.from_ns, entry.to_ns) for entry in reversed(history) if entry.left), None)

    def serving_throughout(self, pod: str, from_ns: int, to_ns: int) -> bool | None:
        """Whether a pod served at `from_ns` (or when it was first seen, if that is later), and did not stop until `to_ns`.

        None: it stopped, and may have done so within these times or outside of them.
        """
        history = [entry for entry in self._serving.get(pod, ()) if entry.from_ns < to_ns]
        if not history:
            return False
        begun = [entry for entry in history if entry.to_ns < from_ns]
        within = history[len(begun) :]
        if begun and not begun[-1].serves:
            return False  # it had stopped before
        stops = [entry for entry in within if not entry.serves]
        if not stops:
            return True
        return False if any(from_ns <= entry.from_ns and entry.to_ns <= to_ns for entry in stops) else None

    # --- the pool as a whole ---------------------------------------------------------------------------------------------

    def emptied_within(self, from_ns: int, to_ns: int) -> tuple[bool, Span | None] | None:
        """The newest time in which no endpoint was ready that touches these times; None: there was none.

        Returns whether it surely does, and when an endpoint was ready again (None: not yet).
        """
        for emptied, refilled in reversed(self._emptied):
            if emptied.from_ns >= to_ns or (refilled is not None and refilled.to_ns <= from_ns):
                continue
            surely = emptied.to_ns <= to_ns and (refilled is None or refilled.from_ns >= from_ns)
            return surely, refilled
        return None

    def stable_ns(self, from_ns: int, to_ns: int, settle_ns: int, cut: Iterable[tuple[int, int]] = ()) -> int:
        """How much of these times is farther than `settle_ns` from any change, in no gap, and in none of the spans `cut`."""
        busy = [(change.from_ns - settle_ns, change.to_ns + settle_ns) for change in self.changes]
        busy += [*self.gaps, *cut]
        if self.first_ns is not None:
            busy.append((from_ns, self.first_ns))
        if self._open_gap_ns is not None:
            busy.append((self._open_gap_ns, to_ns))
        return without(from_ns, to_ns, busy)


def _uids(endpoints: Iterable[Endpoint], pods: Container[str]) -> dict[str, set[str]]:
    """Of the endpoints of these pods, by pod."""
    found: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.pod in pods:
            found.setdefault(endpoint.pod, set()).add(endpoint.uid)
    return found


def without(from_ns: int, to_ns: int, cut: Iterable[tuple[int, int]]) -> int:
    """How much of these times lies in none of the spans `cut`, which may overlap."""
    left = 0
    at_ns = from_ns
    for start_ns, end_ns in sorted(cut):
        left += max(0, min(start_ns, to_ns) - at_ns)
        at_ns = max(at_ns, end_ns)
    return left + max(0, to_ns - at_ns)
