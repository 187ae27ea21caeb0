"""The pool over a run: its changes, when each may have happened, and when nothing is known of it.

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
    """The pool changed, at some moment in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int
    changes: tuple[EndpointChange, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The time in which something happened: at some moment in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class _Serving:
    """A pod began or stopped to serve, at some moment in (from_ns, to_ns]."""

    from_ns: int
    to_ns: int
    serves: bool
    left: bool = False
    """True if it left the pool: what serves under its name later is another pod."""


class PoolTimeline:
    """Keep what is known of the pool: its changes, the gaps in which nothing was known, and up to when it is confirmed."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.first_ns: int | None = None
        """When the first list was heard, from which on the pool is known; None before it."""
        self._newest: PoolSnapshot | None = None
        """The newest snapshot."""
        self._serving: dict[str, list[_Serving]] = {}
        """By pod, when it began and stopped to serve, in order. All snapshots of a large pool would add up to gigabytes."""
        self._emptied: list[tuple[Span, Span | None]] = []
        """When the last ready endpoint was gone, and when one was ready again; None: not yet."""
        self.changes: list[PoolChange] = []
        """In the order of their `to_ns`."""
        self.gaps: list[tuple[int, int]] = []
        """Closed gaps as (from_ns, to_ns)."""
        self._open_gap_ns: int | None = None
        """When the gap began that lasts; None: the pool is observed, or was not yet."""
        self.revision = 0
        """Counts what was learnt: while it is the same, nothing that the timeline answers has changed."""
        self.confirmed_ns: int | None = None
        """When the newest consistent list was asked for: up to here all is known but for the gaps. None before the first."""

    @property
    def watched(self) -> bool:
        """True once there was a snapshot."""
        return self._newest is not None

    @property
    def observing(self) -> bool:
        """True while the pool is watched: there was a snapshot, and there is no open gap."""
        return self.watched and self._open_gap_ns is None

    @property
    def snapshot(self) -> PoolSnapshot | None:
        """The newest snapshot; None before the first."""
        return self._newest

    def observed(
        self,
        since_ns: int,
        until_ns: int,
        snapshot: PoolSnapshot,
        changes: tuple[EndpointChange, ...],
        asked_ns: int | None = None,
    ) -> PoolChange | None:
        """Take in `PoolObserved`, and return the change of the pool; None where it is the same as before."""
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
        """Keep which pods began or stopped to serve. A pod with several endpoints serves while one of them does.

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
        """Keep when the last ready endpoint was gone, and when one was ready again."""
        was, now = before is None or before.ready_count > 0, after.ready_count > 0
        if was and not now:
            self._emptied.append((Span(since_ns, until_ns), None))
        elif now and not was:
            self._emptied[-1] = (self._emptied[-1][0], Span(since_ns, until_ns))

    def confirmed(self, asked_ns: int) -> None:
        """Take in that nothing before `asked_ns` was missed; an open gap is dropped."""
        self.revision += 1
        self._open_gap_ns = None
        self._confirm(asked_ns)

    def unobserved(self, since_ns: int) -> None:
        """Begin a gap: from `since_ns` on nothing is known, until the next list."""
        self.revision += 1
        if self._open_gap_ns is None:
            self._open_gap_ns = since_ns

    def _confirm(self, asked_ns: int) -> None:
        if self.watched and (self.confirmed_ns is None or asked_ns > self.confirmed_ns):
            self.confirmed_ns = asked_ns

    def confirmed_after(self, at_ns: int) -> bool:
        """Return whether a consistent list was asked for later than this, so that what happened until then is known."""
        return self.confirmed_ns is not None and self.confirmed_ns > at_ns

    # --- changes -------------------------------------------------------------------------------------------------------

    def surely_within(self, from_ns: int, to_ns: int) -> Iterator[PoolChange]:
        """Return the changes that surely happened within these times, the newest first."""
        return (c for c in self._reaching(from_ns) if from_ns <= c.from_ns and c.to_ns <= to_ns)

    def perhaps_within(self, from_ns: int, to_ns: int) -> Iterator[PoolChange]:
        """Return the changes that may have happened within these times, with those that surely did, the newest first."""
        return (c for c in self._reaching(from_ns) if c.from_ns < to_ns or c.to_ns <= to_ns)

    def _reaching(self, from_ns: int) -> Iterator[PoolChange]:
        """Return the changes that may have happened at `from_ns` or later, newest first: their ends are in order."""
        return takewhile(lambda change: change.to_ns >= from_ns, reversed(self.changes))

    def gap_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """Return a part of these times in which nothing was known, before the first snapshot too; None: there is none."""
        gap = self.unobserved_within(from_ns, to_ns)
        if gap is None and self.first_ns is not None and from_ns < min(self.first_ns, to_ns):
            return from_ns, self.first_ns
        return gap

    def unobserved_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """Return a part of these times in which the watch was interrupted; None: there is none."""
        gaps = list(self.gaps)
        if self._open_gap_ns is not None:
            gaps.append((self._open_gap_ns, max(to_ns, self._open_gap_ns)))
        return next(((a, b) for a, b in gaps if max(a, from_ns) < min(b, to_ns)), None)

    # --- pods ----------------------------------------------------------------------------------------------------------

    def has_seen(self, pod: str) -> bool:
        """Return whether a pod of this name was ever in the pool; the name is empty for endpoints that name no pod."""
        return pod in self._serving

    def serves(self, pod: str) -> bool:
        """Return whether a pod serves by the newest snapshot."""
        history = self._serving.get(pod)
        return history is not None and history[-1].serves

    def stopped(self, pod: str) -> Span | None:
        """Return when a pod last left the pool or stopped serving; None: never. It may serve again by now (`serves`)."""
        history = self._serving.get(pod, [])
        return next((Span(entry.from_ns, entry.to_ns) for entry in reversed(history) if not entry.serves), None)

    def left(self, pod: str) -> Span | None:
        """Return when a pod last left the pool; None: never. What has its name since is another pod."""
        history = self._serving.get(pod, [])
        return next((Span(entry.from_ns, entry.to_ns) for entry in reversed(history) if entry.left), None)

    def serving_throughout(self, pod: str, from_ns: int, to_ns: int) -> bool | None:
        """Return whether a pod served at `from_ns`, or when it was first seen if that is later, and until `to_ns`.

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
        """Return whether no endpoint was ready at some time in these, and when one was ready again; None: one always was.

        The first value is False where it is not sure; the second is None where no endpoint is ready yet.
        """
        for emptied, refilled in reversed(self._emptied):
            if emptied.from_ns >= to_ns or (refilled is not None and refilled.to_ns <= from_ns):
                continue
            surely = emptied.to_ns <= to_ns and (refilled is None or refilled.from_ns >= from_ns)
            return surely, refilled
        return None

    def stable_ns(self, from_ns: int, to_ns: int, settle_ns: int, cut: Iterable[tuple[int, int]] = ()) -> int:
        """Return how much of these times is farther than `settle_ns` from any change, in no gap, and in no span of `cut`."""
        busy = [(change.from_ns - settle_ns, change.to_ns + settle_ns) for change in self.changes]
        busy += [*self.gaps, *cut]
        if self.first_ns is not None:
            busy.append((from_ns, self.first_ns))
        if self._open_gap_ns is not None:
            busy.append((self._open_gap_ns, to_ns))
        return without(from_ns, to_ns, busy)


def _uids(endpoints: Iterable[Endpoint], pods: Container[str]) -> dict[str, set[str]]:
    """Return the uids of these pods' endpoints, by pod."""
    found: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.pod in pods:
            found.setdefault(endpoint.pod, set()).add(endpoint.uid)
    return found


def without(from_ns: int, to_ns: int, cut: Iterable[tuple[int, int]]) -> int:
    """Return how much of these times lies in no span of `cut`; these may overlap."""
    left = 0
    at_ns = from_ns
    for start_ns, end_ns in sorted(cut):
        left += max(0, min(start_ns, to_ns) - at_ns)
        at_ns = max(at_ns, end_ns)
    return left + max(0, to_ns - at_ns)
