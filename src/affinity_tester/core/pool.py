"""The backend pool: what it is at a moment, how two moments differ, and what is known of it over a run.

The pool is the set of (pod, address, ready, serving, terminating) over the Service's EndpointSlices of one port and
address family, with the Service's spec. Node events, repacked slices and hints do not change it (design, section 4).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

LAG_NS = 2_000_000_000
"""How late the news of a running watch may be; one that lags more behind a list is not trusted any more."""


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One backend, as the EndpointSlices have it."""

    uid: str
    """The pod's uid; its address where the slice names no pod."""
    pod: str
    """The pod's name; empty where the slice names none."""
    address: str
    node: str = ""
    """For people; not part of what makes the pool differ."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False

    @property
    def label(self) -> str:
        """How people call it."""
        return f'pod "{self.pod}"' if self.pod else f"endpoint {self.address}"


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """The pool at one moment."""

    endpoints: frozenset[Endpoint]
    spec: tuple[tuple[str, str], ...] = ()
    """What of the Service's spec steers flows, as (field, value) in order; empty when the Service is not known."""

    def of_pod(self, name: str) -> Endpoint | None:
        """The endpoint of a pod's name."""
        return next((endpoint for endpoint in self.endpoints if endpoint.pod == name), None)

    @property
    def ready_count(self) -> int:
        """Endpoints that new flows may go to."""
        return sum(endpoint.ready for endpoint in self.endpoints)


def differences(before: PoolSnapshot, after: PoolSnapshot) -> tuple[str, ...]:
    """What makes two pools differ, in words and a stable order; empty when they are the same pool."""
    # Of thousands of endpoints few differ; the rest are the same objects.
    old = {(e.uid, e.address): e for e in before.endpoints - after.endpoints}
    new = {(e.uid, e.address): e for e in after.endpoints - before.endpoints}
    said = [f"{old[key].label} left the pool" for key in sorted(old.keys() - new.keys())]
    joined = [new[key] for key in sorted(new.keys() - old.keys())]
    said += [f"{endpoint.label} joined the pool" + ("" if endpoint.ready else ", not ready") for endpoint in joined]
    for key in sorted(old.keys() & new.keys()):
        was, now = old[key], new[key]
        if now.terminating and not was.terminating:
            said.append(f"{now.label} is terminating" + (", still serving" if now.serving else ""))
        elif was.ready != now.ready:
            said.append(f"{now.label} became {'ready' if now.ready else 'not ready'}")
        elif was.serving != now.serving:
            said.append(f"{now.label} {'serves' if now.serving else 'no longer serves'}")
        elif was.terminating != now.terminating:
            said.append(f"{now.label} is no longer terminating")
    old_spec, new_spec = dict(before.spec), dict(after.spec)
    said += [
        f"the Service's {name} changed {old_spec.get(name, 'none')} -> {new_spec.get(name, 'none')}"
        for name in sorted(old_spec.keys() | new_spec.keys())
        if old_spec.get(name) != new_spec.get(name)
    ]
    return tuple(said)


@dataclass(frozen=True, slots=True)
class PoolChange:
    """The pool differed after it from before it."""

    from_ns: int
    """It was so at this time at the earliest..."""
    to_ns: int
    """...and at this time at the latest; the two are equal where a running watch told it..."""
    what: tuple[str, ...]
    late_ns: int = 0
    """...which may be late: so much earlier it may have been so. 0: a list shows it."""


class PoolTimeline:
    """What is known of the pool over a run: snapshots, changes, gaps in which nothing was known, and how far it reaches."""

    def __init__(self) -> None:
        """Nothing is known before the first snapshot."""
        self.first_ns: int | None = None
        """When the first snapshot was made; None before it."""
        self._newest: PoolSnapshot | None = None
        self._serving: dict[str, list[tuple[int, bool]]] = {}
        """By pod: since when it serves, or does not. Whole snapshots of a large pool would add up to gigabytes."""
        self.changes: list[PoolChange] = []
        self.gaps: list[tuple[int, int]] = []
        """Closed gaps as (from_ns, to_ns)."""
        self._open_gap_ns: int | None = None
        self.news = 0
        """How often anything was learnt of the pool, or of what is not known of it."""
        self.confirmed_ns: int | None = None
        """When the newest consistent list was made: all up to here that is not in a gap is known; None before the first."""

    @property
    def watched(self) -> bool:
        """Whether there ever was a snapshot."""
        return self._newest is not None

    @property
    def observing(self) -> bool:
        """Whether the pool is watched now: there was a snapshot, and no gap since."""
        return self.watched and self._open_gap_ns is None

    def observed(self, at_ns: int, since_ns: int, snapshot: PoolSnapshot, *, listed: bool) -> PoolChange | None:
        """Take in a snapshot; returns how it differs from the one before, if it does.

        `listed`: a consistent list made at `at_ns`. A watch may be late: it tells what changed, not that nothing else did.
        """
        self.news += 1
        change = None
        before = self._newest
        if before is None:
            self.first_ns = at_ns
        else:
            what = differences(before, snapshot)
            if what:
                from_ns = min(since_ns, at_ns)
                # The newest list showed the pool without it.
                late_ns = 0 if listed else max(0, min(LAG_NS, from_ns - (self.confirmed_ns or 0)))
                change = PoolChange(from_ns, at_ns, what, late_ns)
                self.changes.append(change)
        if self._open_gap_ns is not None:
            # A gap that the watch resumed over without missing anything (since_ns before it) is no gap.
            self.gaps.append((self._open_gap_ns, at_ns))
            self._open_gap_ns = None
        self._note_serving(
            min(since_ns, at_ns), at_ns, frozenset() if before is None else before.endpoints, snapshot.endpoints
        )
        self._newest = snapshot
        if listed:
            self._confirm(at_ns)
        return change

    def _note_serving(self, since_ns: int, at_ns: int, before: frozenset[Endpoint], after: frozenset[Endpoint]) -> None:
        """Keep what changed of who serves. A pod with several endpoints serves while one of them does.

        What stopped may have stopped at `since_ns`; a pod of the same name and another uid replaced one that stopped.
        """
        serves = dict.fromkeys((endpoint.pod for endpoint in before - after), False)
        for endpoint in after - before:
            serves[endpoint.pod] = serves.get(endpoint.pod, False) or endpoint.serving
        if not serves:
            return
        for endpoint in after & before:  # what stayed of a pod that has several
            if endpoint.pod in serves and endpoint.serving:
                serves[endpoint.pod] = True
        for pod, now in serves.items():
            history = self._serving.setdefault(pod, [])
            was = bool(history) and history[-1][1]
            uids = {endpoint.uid for endpoint in before if endpoint.pod == pod}
            if was and (not now or uids.isdisjoint(endpoint.uid for endpoint in after if endpoint.pod == pod)):
                history.append((max(since_ns, history[-1][0]), False))
                was = False
            if now != was or not history:
                history.append((at_ns, now))

    def confirmed(self, at_ns: int) -> None:
        """Nothing was missed until `at_ns`; an open gap is closed as if it had not been."""
        self.news += 1
        self._open_gap_ns = None
        self._confirm(at_ns)

    def unobserved(self, since_ns: int) -> None:
        """From `since_ns` on nothing is known, until the next snapshot."""
        self.news += 1
        if self._open_gap_ns is None:
            self._open_gap_ns = since_ns

    def _confirm(self, at_ns: int) -> None:
        if self.watched and (self.confirmed_ns is None or at_ns > self.confirmed_ns):
            self.confirmed_ns = at_ns

    def ever_had(self, pod: str) -> bool:
        """Whether a pod of this name was ever in the pool; the name is empty for endpoints that name no pod."""
        return pod in self._serving

    def change_within(self, from_ns: int, to_ns: int) -> PoolChange | None:
        """The change that surely lies within these times and is nearest to their end; None without one."""
        return next((c for c in self._reaching(from_ns) if from_ns <= c.from_ns and c.to_ns <= to_ns), None)

    def change_perhaps_within(self, from_ns: int, to_ns: int) -> PoolChange | None:
        """A change that may lie within these times, since it is not known when exactly it happened."""
        return next((c for c in self._reaching(from_ns) if c.from_ns - c.late_ns <= to_ns), None)

    def _reaching(self, from_ns: int) -> Iterator[PoolChange]:
        """The changes that were not over before `from_ns`, newest first: their ends are in order."""
        return takewhile(lambda change: change.to_ns >= from_ns, reversed(self.changes))

    def gap_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """A part of these times in which nothing was known: also what is before the first snapshot."""
        blind = self.blind_within(from_ns, to_ns)
        if blind is None and self.first_ns is not None and from_ns < min(self.first_ns, to_ns):
            return from_ns, self.first_ns
        return blind

    def blind_within(self, from_ns: int, to_ns: int) -> tuple[int, int] | None:
        """A part of these times in which the watch was interrupted."""
        blind = list(self.gaps)
        if self._open_gap_ns is not None:
            blind.append((self._open_gap_ns, max(to_ns, self._open_gap_ns)))
        return next(((a, b) for a, b in blind if max(a, from_ns) < min(b, to_ns)), None)

    def serving_throughout(self, pod: str, from_ns: int, to_ns: int) -> bool:
        """Whether a pod served at `from_ns` (or when it was first seen, if that is later), and did not stop until `to_ns`."""
        history = self._serving.get(pod, [])
        before = bisect_right(history, from_ns, key=lambda entry: entry[0])
        held = history[max(0, before - 1) : bisect_right(history, to_ns, key=lambda entry: entry[0])]
        return bool(held) and all(serves for _, serves in held)

    def still_ns(self, from_ns: int, to_ns: int, settle_ns: int) -> int:
        """How much of these times is farther than `settle_ns` from any change, and in no gap."""
        busy = [(change.from_ns - settle_ns, change.to_ns + settle_ns) for change in self.changes]
        busy += self.gaps
        if self.first_ns is not None:
            busy.append((from_ns, self.first_ns))
        if self._open_gap_ns is not None:
            busy.append((self._open_gap_ns, to_ns))
        still = 0
        at_ns = from_ns
        for start_ns, end_ns in sorted(busy):
            still += max(0, min(start_ns, to_ns) - at_ns)
            at_ns = max(at_ns, end_ns)
        return still + max(0, to_ns - at_ns)
