"""The changes of one session: which replied probes differ from the one before them, told, revised and withdrawn.

The tracker's rules 3 and 4 are kept here: each kind is compared between successive replies that carry it, kinds that differ
over the same pair of probes are one change, and a reply that comes late revises what was told without it. In the end the
set is the one that would have been told had all replies come in send order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from affinity_tester.core.events import Change, ChangeRevised, ChangeSeen, ChangeWithdrawn, Event, RepliedProbe
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.last_known import KINDS, NO_REPLIES, LastKnown, forget
from affinity_tester.core.session.probe_ring import LOST, ProbeRing

Pair = tuple[int, int]
"""The sequence numbers of a change's two probes."""

_NO_CHANGES: dict[Pair, Change] = {}
"""Shared by the sessions that never changed, and never written to: an empty dictionary for each costs 64 bytes."""

_NO_COUNTS = (0,) * len(KINDS)


class ChangeSet:
    """The changes of one session. Events go to `emit` as they happen."""

    __slots__ = (
        "_emit",
        "_forgotten_gap_ns",
        "_last_known",
        "_last_number",
        "_loss_threshold_ns",
        "_ring",
        "_session",
        "count",
        "kept",
        "kind_counts",
    )

    def __init__(self, session: str, loss_threshold_ns: int, ring: ProbeRing, emit: Callable[[Event], None]) -> None:
        """Start without changes; `ring` has the session's kept probes."""
        self._session = session
        self._loss_threshold_ns = loss_threshold_ns
        self._ring = ring
        self._emit = emit
        self.kept = _NO_CHANGES
        """By pair, while a probe between its ends could still be replied to."""
        self.count = 0
        """Changes told and not withdrawn."""
        self.kind_counts = _NO_COUNTS
        """Changes of each kind in the final set so far, in the order of `Kind`."""
        self._last_number = 0
        self._forgotten_gap_ns = 0
        """The longest gap of the changes that are not kept any more."""
        self._last_known = NO_REPLIES

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def longest_gap_ns(self) -> int:
        """The longest time from sent(P) until the change was seen, over all changes; 0 without one."""
        return max([self._forgotten_gap_ns, *(c.seen_ns - c.before.sent_ns for c in self.kept.values())])

    @property
    def last_forgotten(self) -> LastKnown | None:
        """The newest forgotten reply from the right source."""
        return self._last_known[-1]

    def longest_pause_ns(self, first: int, last: int) -> int:
        """Return the longest pause between consecutive sends from one replied probe to a later one."""
        ring = self._ring
        longest = 0
        if first < ring.base:
            longest = max(each.pause_ns for each in self._last_known if each is not None and each.probe.seq == first)
            first = ring.base
        sent_ns = ring.sent_ns(first)
        for seq in range(first + 1, last + 1):
            next_ns = ring.sent_ns(seq)
            longest = max(longest, next_ns - sent_ns)
            sent_ns = next_ns
        return longest

    # --- what happens ------------------------------------------------------------------------------------------------

    def compare_neighbours(self, seq: int, identity: Identity, newest_replied: int, now_ns: int) -> None:
        """Compare a replied probe with its neighbours of each kind; tell, revise or withdraw changes.

        Of a probe that was compared already, with fewer kinds, only the new ones make a difference.
        """
        ends: dict[int, RepliedProbe] = {seq: self._ring.replied_probe(seq)}
        broken: dict[Pair, list[Kind]] = {}
        made: dict[Pair, list[Kind]] = {}
        for kind in KINDS:
            value = identity.value(kind)
            if value is None:
                continue

            before = self._previous(seq, kind)
            if before is not None:
                ends[before.seq] = before
                if before.identity.value(kind) != value and not self._is_told((before.seq, seq), kind):
                    made.setdefault((before.seq, seq), []).append(kind)

            after = self._next(seq, kind, newest_replied)
            if after is not None:
                ends[after.seq] = after
                if after.identity.value(kind) != value and not self._is_told((seq, after.seq), kind):
                    made.setdefault((seq, after.seq), []).append(kind)
                if before is not None and self._is_told((before.seq, after.seq), kind):
                    broken.setdefault((before.seq, after.seq), []).append(kind)

        if broken or made:
            self._update_changes(broken, made, ends, now_ns)

    def forget(self, end: int, after_ns: int) -> None:
        """Forget the probes below `end`; the probe `end`, or the present, comes at `after_ns`."""
        self._last_known = forget(self._last_known, self._ring, end, after_ns)
        for pair in [pair for pair in self.kept if pair[1] < end]:
            change = self.kept.pop(pair)
            self._forgotten_gap_ns = max(self._forgotten_gap_ns, change.seen_ns - change.before.sent_ns)

    # --- how ---------------------------------------------------------------------------------------------------------

    def _update_changes(
        self,
        broken: dict[Pair, list[Kind]],
        made: dict[Pair, list[Kind]],
        ends: dict[int, RepliedProbe],
        now_ns: int,
    ) -> None:
        """Replace the broken pairs by the made ones, each with the kinds that differ over it.

        A broken change lives on, under its number, as the first made pair that shares a kind with it.
        """
        # Kinds that a reply from elsewhere did not carry join the change that it made already.
        for pair in sorted(made.keys() & self.kept.keys()):
            was, kinds = self.kept[pair], made.pop(pair)
            wider = tuple(kind for kind in KINDS if kind in was.kinds or kind in kinds)
            self._store_change(pair, replace(was, kinds=wider, before=ends[pair[0]], after=ends[pair[1]]), was, now_ns)

        orphaned: list[Change] = []
        for pair, kinds in sorted(broken.items()):
            was = self.kept.pop(pair)
            rest = tuple(kind for kind in was.kinds if kind not in kinds)
            if rest:  # kinds that the new reply does not carry stay with the wider pair
                self._store_change(pair, replace(was, kinds=rest), was, now_ns)
                continue

            successor = next((p for p, k in sorted(made.items()) if not set(k).isdisjoint(was.kinds)), None)
            if successor is None:
                orphaned.append(was)
            else:
                change = self._change(was.number, successor, made.pop(successor), ends, now_ns)
                if change.after.seq == was.after.seq:  # what came late is not Q: the reply of Q came when it came
                    change = replace(change, seen_ns=was.seen_ns)
                self._store_change(successor, change, was, now_ns)

        for pair, kinds in sorted(made.items()):
            self.count += 1
            self._last_number += 1
            self._store_change(pair, self._change(self._last_number, pair, kinds, ends, now_ns), None, now_ns)

        # Only now: an orphaned change is withdrawn in favour of one within its pair, which may just have been made.
        for was in orphaned:
            into = next(
                c
                for p, c in self.kept.items()
                if not set(c.kinds).isdisjoint(was.kinds) and was.before.seq <= p[0] and p[1] <= was.after.seq
            )
            self.count -= 1
            self._count_kinds(was, -1)
            self._emit(ChangeWithdrawn(now_ns, self._session, was, into.number))

    def _store_change(self, pair: Pair, change: Change, was: Change | None, now_ns: int) -> None:
        """Keep a change and tell it: as a new one, or as the revision of what it `was`."""
        if self.kept is _NO_CHANGES:
            self.kept = {}
        self.kept[pair] = change
        self._count_kinds(change, 1)
        if was is None:
            self._emit(ChangeSeen(now_ns, self._session, change))
        else:
            self._count_kinds(was, -1)
            self._emit(ChangeRevised(now_ns, self._session, change, was))

    def _count_kinds(self, change: Change, step: int) -> None:
        counts = zip(KINDS, self.kind_counts, strict=True)
        self.kind_counts = tuple(count + step * (kind in change.kinds) for kind, count in counts)

    def _change(self, number: int, pair: Pair, kinds: list[Kind], ends: dict[int, RepliedProbe], now_ns: int) -> Change:
        before, after = ends[pair[0]], ends[pair[1]]
        ring = self._ring

        # A pending probe in between may still be replied to; the change is final when the last of them is lost.
        inside = range(after.seq - 1, max(before.seq, ring.base - 1), -1)
        newest_pending = next(filter(ring.is_pending, inside), None)
        settled_ns = now_ns
        if newest_pending is not None:
            settled_ns = max(now_ns, ring.sent_ns(newest_pending) + self._loss_threshold_ns)

        pause_ns = self.longest_pause_ns(before.seq, after.seq)
        return Change(number, tuple(kinds), before, after, now_ns, pause_ns, settled_ns)

    def _is_told(self, pair: Pair, kind: Kind) -> bool:
        """True if a change over this pair has this kind."""
        change = self.kept.get(pair)
        return change is not None and kind in change.kinds

    def _previous(self, seq: int, kind: Kind) -> RepliedProbe | None:
        """Return the nearest replied probe before `seq` whose reply carries this kind, forgotten ones included."""
        nearest = self._nearest(range(seq - 1, self._ring.base - 1, -1), kind)
        if nearest is None and (last := self._last_known[KINDS.index(kind)]) is not None:
            return last.probe
        return nearest

    def _next(self, seq: int, kind: Kind, newest_replied: int) -> RepliedProbe | None:
        """Return the nearest replied probe after `seq` whose reply carries this kind."""
        return self._nearest(range(seq + 1, newest_replied + 1), kind)

    def _nearest(self, seqs: range, kind: Kind) -> RepliedProbe | None:
        ring = self._ring
        for seq in seqs:
            state = ring.states[seq % ring.capacity]
            if state > LOST and ring.identity(state).value(kind) is not None:
                return ring.replied_probe(seq)
        return None
