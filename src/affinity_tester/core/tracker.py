"""One session's probes: what was sent, answered, lost, and what changed. All transitions of a session are in this file.

Rules (docs/judging.md#sessions), which hold after every call:

1. `sent == answered + lost + pending`. The first copy of a reply is the answer; the caller feeds replies in the order of
   their kernel receive times.
2. A probe becomes lost only by `expire(read_empty_ns)`: the caller read the socket empty at that time, past the deadline.
   (A reply that is itself past the deadline makes its probe lost first.) A reply to a lost probe is late; the probe stays
   lost. A second reply is a duplicate. An answer older than the newest answered is reordered (RFC 4737 section 3.3:
   compared with the maximum); late and duplicate replies are never also reordered.
3. A change is told for each pair of replied probes (late ones too) that follow each other in send order and differ. Each
   kind is compared between successive replies that carry it: what a reply lacks is unknown, neither a change nor a veil
   before one. Kinds that differ over the same pair are one change.
4. The order of arrival does not matter: a reply inside a told pair revises that change and, when it differs from both
   ends, adds one. The final set equals that of an oracle that sees all replies in send order.
5. A reply from elsewhere (a wrong source, or one that arrived at another session) is authentic and answers nothing: its
   probe stays pending until the proper reply comes, or it is lost; no outage ends by it. What it says of the server takes
   part in the changes, in send order as any reply's; the reflexive address that it carries is that of no path of ours,
   and does not. When the proper reply comes too, the address is taken from that one, and the rest from the first.
6. Probes are kept for 60 s after they were sent (memory is bounded by that); of what is older only the newest reply that
   carries each kind is remembered, so a change over a longer silence is still told. Older replies are counted as stale.
7. An illegal call raises `TrackerError` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from affinity_tester.core.events import (
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    DuplicateDiffers,
    Event,
    FirstAnswer,
    LateReply,
    LossDirected,
    Losses,
    OutageEnded,
    OutageStarted,
    ProbesLost,
    Sighting,
)
from affinity_tester.core.history import CODE_SHIFT, ELSEWHERE, LOST, PENDING, History
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.core.spans import LossDirections
from affinity_tester.core.stats import RttHistogram
from affinity_tester.errors import TrackerError

HISTORY_NS = 60 * 1_000_000_000
"""How long a probe is kept: two affinity windows, and far beyond any late reply."""

PRUNE_NS = 1_000_000_000
"""Old probes are forgotten in batches of a second, which keeps it off the path of every send."""

MAX_PROBES = 1 << 32
"""Sequence numbers have 32 bits (docs/protocol.md); a session ends there."""

_FEW_CODES = 8
"""Most sessions meet one or two identities; a dictionary for each would be a tenth of a session's memory."""

_KINDS = tuple(Kind)

_NO_CHANGES: dict[tuple[int, int], Change] = {}
"""Shared by the sessions that never changed, and never written to: an empty dictionary for each costs 64 bytes."""

_NO_COUNTS = (0,) * len(_KINDS)


class _Anchor(NamedTuple):
    """The newest forgotten reply of a sort."""

    sighting: Sighting
    pause_ns: int
    """The longest pause between sends from it up to the oldest kept probe."""


_NO_ANCHORS: tuple[_Anchor | None, ...] = (None,) * (len(_KINDS) + 1)


class SessionTracker:
    """The state of one session. Events go to `emit` as they happen; times are monotonic nanoseconds."""

    __slots__ = (
        "_anchors",
        "_change_count",
        "_changes",
        "_codes",
        "_counts",
        "_elsewhere",
        "_emit",
        "_first_unanswered",
        "_gap_ns",
        "_head_code",
        "_history",
        "_identities",
        "_last_number",
        "_losses",
        "_newest_answered",
        "_outage",
        "_prune_at_ns",
        "_reached_code",
        "_settled",
        "_strayed",
        "answered",
        "duplicate",
        "kind_counts",
        "late",
        "loss_threshold_ns",
        "lost",
        "pending",
        "reached",
        "reordered",
        "rtt",
        "sent_count",
        "session",
        "stale",
    )

    def __init__(
        self, session: str, loss_threshold_ns: int, emit: Callable[[Event], None], *, usual_probes: int = 0
    ) -> None:
        """Track the session of this name; the loss threshold is in nanoseconds, at most the kept history.

        `usual_probes`, where it is known, is how many are kept at a time.
        """
        if not 0 < loss_threshold_ns <= HISTORY_NS:
            raise TrackerError("the loss threshold is more than 0 and at most the kept history (60 s)")
        self.session = session
        self.loss_threshold_ns = loss_threshold_ns
        self._emit = emit
        self._history = History(usual_probes)
        self.sent_count = 0
        """Probes sent, which is also the next sequence number."""
        self.pending = 0
        """Probes that are neither answered nor lost."""
        self._prune_at_ns = 0
        self.answered = self.lost = self.late = self.duplicate = self.reordered = self.stale = 0
        self.kind_counts = _NO_COUNTS
        """Changes of each kind in the final set so far, in the order of `Kind`."""
        self.rtt = RttHistogram()
        self._losses = LossDirections()
        self._counts: dict[int, int | None] | None = None
        """RECEIVED-COUNT of answers that wait for an older probe to settle."""
        self._settled = 0
        """Every probe below is answered or lost."""
        self._newest_answered = -1
        self._identities: tuple[Identity | None, ...] | list[Identity | None] = (None,)
        """By code; 0 is none. A list once there are many."""
        self._codes: dict[Identity, int] | None = None
        """Codes by identity, once there are more than a few to look through."""
        self.reached = -1
        """The newest probe that was replied to from the right source, by send order; -1 before the first."""
        self._reached_code = 0
        self._strayed = -1
        """The newest probe that was replied to from elsewhere, by send order; -1 before the first."""
        self._elsewhere = 0
        """Probes that were replied to from elsewhere only."""
        self._head_code = 0
        """The newest reply's by send order; 0 when that came from elsewhere, so that the next one is looked at closely."""
        self._anchors = _NO_ANCHORS
        """By kind, in their order; then that of any reply from the right source."""
        self._changes = _NO_CHANGES
        """By pair, while a probe between its ends could still be replied to."""
        self._change_count = 0
        self._last_number = 0
        self._gap_ns = 0
        self._outage: OutageStarted | None = None
        self._first_unanswered: tuple[int, int] | None = None
        """What `unanswered` says, once that probe is forgotten."""

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def deadline_ns(self) -> int | None:
        """When the oldest pending probe is to be lost; None when nothing is pending."""
        if self.pending == 0:
            return None
        return self._history.sent_ns(self._settled) + self.loss_threshold_ns

    @property
    def head(self) -> int:
        """The newest replied probe, by send order; -1 before the first."""
        return max(self.reached, self._strayed)

    @property
    def serving(self) -> Identity | None:
        """The identity in the newest reply from the right source, by send order."""
        return self._identities[self._reached_code]

    @property
    def changes(self) -> int:
        """Changes told and not withdrawn."""
        return self._change_count

    @property
    def pairs(self) -> int:
        """Pairs of probes compared: each replied one with the one before it."""
        return max(0, self.answered + self.late + self._elsewhere - 1)

    @property
    def longest_gap_ns(self) -> int:
        """The longest time from sent(P) until the change was seen, over all changes; 0 without one."""
        return max([self._gap_ns, *(c.seen_ns - c.before.sent_ns for c in self._changes.values())])

    @property
    def in_outage(self) -> bool:
        """Whether an outage was started and no reply has ended it."""
        return self._outage is not None

    def losses(self) -> Losses:
        """Lost probes by direction; one that an older pending probe keeps from being settled is unknown as yet."""
        settled = self._losses.losses()
        return replace(settled, unknown=settled.unknown + self.lost - settled.total)

    def unanswered(self) -> tuple[int, int] | None:
        """The first probe after the newest one replied to from the right source: (sequence number, sent_ns), or None."""
        history = self._history
        seq = self.reached + 1
        if seq < history.base:
            return self._first_unanswered
        return (seq, history.sent_ns(seq)) if seq < history.next else None

    @property
    def reached_ns(self) -> int | None:
        """When the newest probe was sent that was replied to from where it went to; None where none is kept."""
        history = self._history
        return history.sent_ns(self.reached) if self.reached >= history.base else None

    def answered_again_ns(self) -> int | None:
        """When the first of the newest probes was sent that were replied to in a row, in time and from the right source.

        None where the newest reply was late: what waited is answered now, and nothing was while it waited.
        """
        history = self._history
        first = self.reached + 1
        while first > history.base and history.is_answered(first - 1):
            first -= 1
        return history.sent_ns(first) if first <= self.reached else None

    def sent_before_ns(self, at_ns: int) -> int | None:
        """When the newest probe of `at_ns` or before was sent that was not replied to; None where none is kept."""
        history = self._history
        seq = history.first_after(at_ns) - 1
        return history.sent_ns(seq) if seq >= max(history.base, self.reached + 1) else None

    def sent_between(self, from_ns: int, to_ns: int) -> int:
        """How many kept probes were sent from `from_ns` on and before `to_ns`."""
        history = self._history
        return history.first_after(to_ns - 1) - history.first_after(from_ns - 1)

    @property
    def unanswered_ns(self) -> int:
        """From the first probe that `unanswered` tells until the last probe; 0 without one."""
        since = self.unanswered()
        return 0 if since is None else self._history.last_sent_ns - since[1]

    # --- what happens ----------------------------------------------------------------------------------------------

    def sent(self, now_ns: int) -> int:
        """Record that the next probe was sent now; returns its sequence number.

        Raises `TrackerError` when time runs backwards, when the sequence numbers are used up, or when a pending probe is so
        old that it would be forgotten (call `expire` first).
        """
        history = self._history
        seq = history.next
        if now_ns < history.last_sent_ns:
            raise TrackerError("a probe is sent before the one before it")
        if seq >= MAX_PROBES:
            raise TrackerError("the session has used all its sequence numbers")
        if now_ns >= self._prune_at_ns:
            self._prune(now_ns)
        history.append(now_ns)
        self.sent_count = history.next
        self.pending += 1
        return seq

    def replied(self, seq: int, identity: Identity, count: int | None, received_ns: int) -> None:
        """Record a reply: to which probe, what it says, its RECEIVED-COUNT, and its kernel receive time.

        Raises `TrackerError` when that probe was never sent.
        """
        history = self._history
        if not 0 <= seq < history.next:
            raise TrackerError(f"a reply to probe {seq}, which was not sent")
        if seq < history.base:
            self.stale += 1
            return
        slot = seq % history.capacity
        cell = history.cells[slot]
        if cell > LOST:
            if not cell & ELSEWHERE:
                self._replied_again(seq, cell, identity, received_ns)
                return
            identity = self._replied_at_last(seq, cell, identity, received_ns)
            cell &= LOST
            count = None  # of several servers: it ends the span
        rtt_ns = received_ns - (history.last_sent_ns if seq + 1 == history.next else history.sent_ns(seq))
        if rtt_ns < 0:  # the conversion between the clocks; nothing is received before it was sent
            received_ns -= rtt_ns
            rtt_ns = 0
        code = self._head_code
        if identity is not self._identities[code]:
            code = self._code(identity)
        if cell == PENDING and rtt_ns > self.loss_threshold_ns:
            self._lose(seq, seq + 1, received_ns)
            cell = LOST
        history.cells[slot] = cell | code << CODE_SHIFT
        if cell == LOST:
            self.late += 1
            self._emit(LateReply(received_ns, self.session, seq, rtt_ns))
            self._settle(received_ns)
        else:
            self.answered += 1
            self.pending -= 1
            self.rtt.add(seq, rtt_ns)
            if seq > self._newest_answered:
                self._newest_answered = seq
            else:
                self.reordered += 1
            if seq == self._settled:
                gap = self._losses.answered(seq, identity, count)
                if gap is not None:
                    self._emit(LossDirected(received_ns, self.session, *gap))
                self._settled = history.next
                if seq + 1 < history.next:
                    self._settled = seq + 1
                    self._settle(received_ns)
            else:
                if self._counts is None:
                    self._counts = {}
                self._counts[seq] = count
        reached = self.reached
        if reached < 0:
            self._emit(FirstAnswer(received_ns, self.session, seq, identity))
        if seq > reached:
            if self._outage is not None:
                self._end_outage(self._outage, seq, identity, received_ns)
            if code != self._head_code:
                self._reached_code = code
                if seq >= self._strayed:
                    self._head_code = code
                self._link(seq, identity, received_ns)
            self.reached = seq
        elif not self._between_equals(seq, code):
            self._link(seq, identity, received_ns)

    def replied_elsewhere(self, seq: int, identity: Identity, received_ns: int) -> int | None:
        """Record a reply that came from a wrong source, or arrived at another session (rule 5).

        Returns when its probe was sent; None when that is forgotten. Raises `TrackerError` when it was never sent.
        """
        history = self._history
        if not 0 <= seq < history.next:
            raise TrackerError(f"a reply to probe {seq}, which was not sent")
        if seq < history.base:
            self.stale += 1
            return None
        identity = identity._replace(reflexive=None)
        cell = history.cell(seq)
        if cell > LOST:
            self._losses.taint(seq)
            self._differs(seq, self._identity(cell), identity, received_ns)
        else:
            code = self._code(identity)
            history.cells[seq % history.capacity] = cell | ELSEWHERE | code << CODE_SHIFT
            self._elsewhere += 1
            if seq > self.reached:
                self._head_code = 0
            self._strayed = max(self._strayed, seq)
            if not self._between_equals(seq, code):
                self._link(seq, identity, received_ns)
            if seq < self._settled:
                self._losses.taint(seq)
        return history.sent_ns(seq)

    def expire(self, read_empty_ns: int) -> None:
        """Lose every pending probe whose deadline is before `read_empty_ns`, when the socket was read empty."""
        history = self._history
        horizon_ns = read_empty_ns - self.loss_threshold_ns
        seq = first = self._settled
        while seq < history.next and history.sent_ns(seq) < horizon_ns:
            if not history.is_pending(seq):
                self._lose(first, seq, read_empty_ns)
                first = seq + 1
            seq += 1
        self._lose(first, seq, read_empty_ns)
        self._settle(read_empty_ns)

    def start_outage(self, now_ns: int, *, own_drops: int = 0, others_answered: bool = True) -> None:
        """Tell that the session has been unanswered too long; the next newer reply from the right source ends it.

        `own_drops` is how many replies this session's full socket buffer has dropped since its last one;
        `others_answered`: other sessions are answered, and not canaries alone. Raises `TrackerError` in an outage, or when
        no probe is unanswered.
        """
        since = self.unanswered()
        if self._outage is not None or since is None:
            raise TrackerError("an outage starts once, with an unanswered probe")
        history, reached, anchor = self._history, self.reached, self._anchors[-1]
        last: Sighting | None = None
        if reached >= history.base:
            last = self._sighting(reached)
        elif anchor is not None:
            last = anchor.sighting
        pause_ns = 0 if last is None else self._longest_pause_ns(last.seq, history.next - 1)
        probes = self.sent_count - since[0]
        self._outage = OutageStarted(
            now_ns, self.session, *since, last, pause_ns, own_drops, probes, others_answered=others_answered
        )
        self._emit(self._outage)

    # --- how -------------------------------------------------------------------------------------------------------

    def _replied_again(self, seq: int, cell: int, identity: Identity, received_ns: int) -> None:
        """A duplicate: counted, and evidence when it differs."""
        self.duplicate += 1
        self._losses.taint(seq)
        self._differs(seq, self._identity(cell), identity, received_ns)

    def _replied_at_last(self, seq: int, cell: int, identity: Identity, received_ns: int) -> Identity:
        """The proper reply to a probe that was replied to from elsewhere; returns what the two say together (rule 5)."""
        first = self._identity(cell)
        self._elsewhere -= 1
        self._losses.taint(seq)
        self._differs(seq, first, identity, received_ns)
        return first._replace(reflexive=identity.reflexive)

    def _differs(self, seq: int, first: Identity, second: Identity, received_ns: int) -> None:
        """Tell when two replies to one probe differ: evidence, not a change."""
        if first is not second and differing(first, second):
            self._emit(DuplicateDiffers(received_ns, self.session, seq, first, second))

    def _lose(self, first: int, end: int, now_ns: int) -> None:
        """Make the pending probes first..end-1 lost."""
        if first == end:
            return
        history = self._history
        for seq in range(first, end):
            history.cells[seq % history.capacity] |= LOST
        self.lost += end - first
        self.pending -= end - first
        self._emit(
            ProbesLost(now_ns, self.session, first, end - first, history.sent_ns(first), history.sent_ns(end - 1))
        )

    def _settle(self, now_ns: int) -> None:
        """Hand every probe that is answered or lost, with all before it, to the loss directions."""
        history = self._history
        seq = self._settled
        while seq < history.next:
            cell = history.cells[seq % history.capacity]
            if cell == PENDING or cell & (LOST | ELSEWHERE) == ELSEWHERE:
                break
            if cell & ELSEWHERE:
                self._losses.elsewhere()
            elif cell & LOST:
                self._losses.lost()
            else:
                assert self._counts is not None, "an answer out of order left its count"
                gap = self._losses.answered(seq, self._identity(cell), self._counts.pop(seq))
                if gap is not None:
                    self._emit(LossDirected(now_ns, self.session, *gap))
            seq += 1
        self._settled = seq

    def _end_outage(self, outage: OutageStarted, seq: int, identity: Identity, received_ns: int) -> None:
        self._outage = None
        first = Sighting(seq, self._history.sent_ns(seq), identity)
        # Where the reply is late, what was sent meanwhile waited with it: nothing of it was answered before.
        is_late = received_ns - first.sent_ns > self.loss_threshold_ns
        probes = (self.sent_count if is_late else seq) - outage.since_seq
        self._emit(OutageEnded(received_ns, self.session, outage.since_seq, outage.since_ns, probes, first))

    def _between_equals(self, seq: int, code: int) -> bool:
        """Whether the replied neighbours of an older probe have its own identity: then nothing changes."""
        history = self._history
        for neighbours in (range(seq - 1, history.base - 1, -1), range(seq + 1, history.next)):
            near = next((c for n in neighbours if (c := history.cell(n) >> CODE_SHIFT)), 0)
            if near != code:
                return False
        return True

    def _link(self, seq: int, identity: Identity, now_ns: int) -> None:
        """Put a replied probe between its neighbours of each kind: tell, revise or withdraw changes (rules 3 and 4).

        Of a probe that is there already, with fewer kinds, only the new ones make a difference.
        """
        here = self._sighting(seq)
        ends: dict[int, Sighting] = {seq: here}
        broken: dict[tuple[int, int], list[Kind]] = {}
        made: dict[tuple[int, int], list[Kind]] = {}
        for kind in _KINDS:
            value = identity.value(kind)
            if value is None:
                continue
            left = self._left(seq, kind)
            right = self._right(seq, kind)
            if left is not None:
                ends[left.seq] = left
                if left.identity.value(kind) != value and not self._is_told((left.seq, seq), kind):
                    made.setdefault((left.seq, seq), []).append(kind)
            if right is not None:
                ends[right.seq] = right
                if right.identity.value(kind) != value and not self._is_told((seq, right.seq), kind):
                    made.setdefault((seq, right.seq), []).append(kind)
                if left is not None and self._is_told((left.seq, right.seq), kind):
                    broken.setdefault((left.seq, right.seq), []).append(kind)
        if broken or made:
            self._tell(broken, made, ends, now_ns)

    def _is_told(self, pair: tuple[int, int], kind: Kind) -> bool:
        """Whether a change over this pair has this kind."""
        change = self._changes.get(pair)
        return change is not None and kind in change.kinds

    def _tell(
        self,
        broken: dict[tuple[int, int], list[Kind]],
        made: dict[tuple[int, int], list[Kind]],
        ends: dict[int, Sighting],
        now_ns: int,
    ) -> None:
        """Replace the broken pairs by the made ones; a broken change goes on as the first made one that shares a kind."""
        for pair in sorted(made.keys() & self._changes.keys()):  # kinds that a reply from elsewhere did not carry
            was, kinds = self._changes[pair], made.pop(pair)
            wider = tuple(kind for kind in _KINDS if kind in was.kinds or kind in kinds)
            self._put(pair, replace(was, kinds=wider, before=ends[pair[0]], after=ends[pair[1]]), was, now_ns)
        homeless: list[Change] = []
        for pair, kinds in sorted(broken.items()):
            was = self._changes.pop(pair)
            rest = tuple(kind for kind in was.kinds if kind not in kinds)
            if rest:  # kinds that the new reply does not carry stay with the wider pair
                self._put(pair, replace(was, kinds=rest), was, now_ns)
                continue
            heir = next((p for p, k in sorted(made.items()) if not set(k).isdisjoint(was.kinds)), None)
            if heir is None:
                homeless.append(was)
            else:
                change = self._change(was.number, heir, made.pop(heir), ends, now_ns)
                if change.after.seq == was.after.seq:  # what came late is not Q: the reply of Q came when it came
                    change = replace(change, seen_ns=was.seen_ns)
                self._put(heir, change, was, now_ns)
        for pair, kinds in sorted(made.items()):
            self._change_count += 1
            self._last_number += 1
            self._put(pair, self._change(self._last_number, pair, kinds, ends, now_ns), None, now_ns)
        for was in homeless:
            heir_change = next(
                c
                for p, c in self._changes.items()
                if not set(c.kinds).isdisjoint(was.kinds) and was.before.seq <= p[0] and p[1] <= was.after.seq
            )
            self._change_count -= 1
            self._count_kinds(was, -1)
            self._emit(ChangeWithdrawn(now_ns, self.session, was, heir_change.number))

    def _put(self, pair: tuple[int, int], change: Change, was: Change | None, now_ns: int) -> None:
        if self._changes is _NO_CHANGES:
            self._changes = {}
        self._changes[pair] = change
        self._count_kinds(change, 1)
        if was is None:
            self._emit(ChangeSeen(now_ns, self.session, change))
        else:
            self._count_kinds(was, -1)
            self._emit(ChangeRevised(now_ns, self.session, change, was))

    def _count_kinds(self, change: Change, step: int) -> None:
        counts = zip(_KINDS, self.kind_counts, strict=True)
        self.kind_counts = tuple(count + step * (kind in change.kinds) for kind, count in counts)

    def _change(
        self, number: int, pair: tuple[int, int], kinds: list[Kind], ends: dict[int, Sighting], now_ns: int
    ) -> Change:
        before, after = ends[pair[0]], ends[pair[1]]
        history = self._history
        inside = range(after.seq - 1, max(before.seq, history.base - 1), -1)
        newest_pending = next(filter(history.is_pending, inside), None)
        settled_ns = now_ns
        if newest_pending is not None:
            settled_ns = max(now_ns, history.sent_ns(newest_pending) + self.loss_threshold_ns)
        return Change(
            number, tuple(kinds), before, after, now_ns, self._longest_pause_ns(before.seq, after.seq), settled_ns
        )

    def _longest_pause_ns(self, first: int, last: int) -> int:
        """The longest pause between consecutive sends from one replied probe to a later one."""
        history = self._history
        longest = 0
        if first < history.base:
            longest = max(a.pause_ns for a in self._anchors if a is not None and a.sighting.seq == first)
            first = history.base
        sent_ns = history.sent_ns(first)
        for seq in range(first + 1, last + 1):
            next_ns = history.sent_ns(seq)
            longest = max(longest, next_ns - sent_ns)
            sent_ns = next_ns
        return longest

    def _left(self, seq: int, kind: Kind) -> Sighting | None:
        """The nearest replied probe before `seq` whose reply carries this kind, forgotten ones included."""
        near = self._nearest(range(seq - 1, self._history.base - 1, -1), kind)
        if near is None and (anchor := self._anchors[_KINDS.index(kind)]) is not None:
            return anchor.sighting
        return near

    def _right(self, seq: int, kind: Kind) -> Sighting | None:
        """The nearest replied probe after `seq` whose reply carries this kind."""
        return self._nearest(range(seq + 1, self.head + 1), kind)

    def _nearest(self, seqs: range, kind: Kind) -> Sighting | None:
        history = self._history
        for seq in seqs:
            cell = history.cells[seq % history.capacity]
            if cell > LOST and self._identity(cell).value(kind) is not None:
                return self._sighting(seq)
        return None

    def _sighting(self, seq: int) -> Sighting:
        return Sighting(seq, self._history.sent_ns(seq), self._identity(self._history.cell(seq)))

    def _identity(self, cell: int) -> Identity:
        identity = self._identities[cell >> CODE_SHIFT]
        assert identity is not None
        return identity

    # --- forgetting ------------------------------------------------------------------------------------------------

    def _prune(self, now_ns: int) -> None:
        """Forget the probes sent more than the kept history ago, but for the newest replies (rule 5)."""
        history = self._history
        horizon_ns = now_ns - HISTORY_NS
        seq = history.base
        if seq < history.next and history.sent_ns(seq) <= horizon_ns:
            settled = self._settled
            if settled < history.next and history.sent_ns(settled) <= horizon_ns:
                raise TrackerError("a pending probe is older than the kept history: expire it first")
            self._forget(horizon_ns, now_ns)
        self._prune_at_ns = now_ns + PRUNE_NS

    def _forget(self, horizon_ns: int, now_ns: int) -> None:
        history = self._history
        end = history.first_after(horizon_ns)
        after_ns = history.sent_ns(end) if end < history.next else now_ns
        cell = history.alike(history.base, end)
        newest = None if cell is None or cell & ELSEWHERE else self._identities[cell >> CODE_SHIFT]
        if cell is None or newest is None or not self._stands_for_all(newest):
            self._forget_each(end, after_ns)
        else:  # as nearly always: all were answered alike, so the last of them stands for all that is forgotten
            sent_ns = history.sent_ns(end - 1)
            self._anchor(cell, Sighting(end - 1, sent_ns, newest), after_ns - sent_ns, 0)
        first = self.reached + 1
        if history.base <= first < end:
            self._first_unanswered = (first, history.sent_ns(first))
        history.base = end
        for pair in [pair for pair in self._changes if pair[1] < end]:
            change = self._changes.pop(pair)
            self._gap_ns = max(self._gap_ns, change.seen_ns - change.before.sent_ns)

    def _stands_for_all(self, identity: Identity) -> bool:
        """Whether a reply of this identity carries every kind that is remembered of older ones."""
        anchors = self._anchors
        last = anchors[-1]
        if (
            last is not None
            and last.sighting.identity is identity
            and anchors.count(last) + anchors.count(None) == len(anchors)
        ):
            return True  # nothing else is remembered
        anchored = (kind for kind, anchor in zip(_KINDS, anchors, strict=False) if anchor is not None)
        return all(identity.value(kind) is not None for kind in anchored)

    def _forget_each(self, end: int, after_ns: int) -> None:
        """Forget the probes below `end` one by one; the probe `end`, or what time it is, comes at `after_ns`."""
        history = self._history
        sent_ns = history.sent_ns(history.base)
        newest: Sighting | None = None
        newest_cell = 0
        pause_ns = longest_ns = 0
        for seq in range(history.base, end):
            next_ns = history.sent_ns(seq + 1) if seq + 1 < end else after_ns
            cell = history.cell(seq)
            if cell > LOST:
                if (cell ^ newest_cell) & ~LOST:
                    self._anchor(newest_cell, newest, pause_ns, longest_ns)
                    longest_ns = 0
                newest_cell, pause_ns = cell, 0
                newest = self._sighting(seq)
            pause_ns = max(pause_ns, next_ns - sent_ns)
            longest_ns = max(longest_ns, next_ns - sent_ns)
            sent_ns = next_ns
        self._anchor(newest_cell, newest, pause_ns, longest_ns)

    def _anchor(self, cell: int, newest: Sighting | None, pause_ns: int, longest_ns: int) -> None:
        """Remember a forgotten reply for what it carries; the other anchors stay, and their pause goes on."""
        anchor, carried = None, [False] * len(self._anchors)
        if newest is not None:
            anchor = _Anchor(newest, pause_ns)
            carried = [*(newest.identity.value(kind) is not None for kind in _KINDS), not cell & ELSEWHERE]
        self._anchors = tuple(
            anchor if is_carried else old and old._replace(pause_ns=max(old.pause_ns, longest_ns))
            for is_carried, old in zip(carried, self._anchors, strict=True)
        )

    def _code(self, identity: Identity) -> int:
        """The code of an identity, a new one if it has none; codes that no kept probe uses are freed now and then."""
        identities, codes = self._identities, self._codes
        if codes is not None:
            code = codes.get(identity, 0)
        elif identity in identities:
            code = identities.index(identity)
        else:
            code = 0
        if code:
            return code
        history = self._history
        if len(identities) > 2 * (history.next - history.base) + _FEW_CODES:
            self._free_codes()
            identities = self._identities
        code = len(identities)
        history.make_room(code)
        if isinstance(identities, list) and self._codes is not None:
            identities.append(identity)
            self._codes[identity] = code
        else:
            self._keep_identities((*identities, identity))
        return code

    def _keep_identities(self, identities: tuple[Identity | None, ...]) -> None:
        """Keep these, in the order of their codes; a new one then costs the same however many there are."""
        if len(identities) <= _FEW_CODES:
            self._identities, self._codes = identities, None
        else:
            self._identities = list(identities)
            self._codes = {identity: code for code, identity in enumerate(identities) if identity is not None}

    def _free_codes(self) -> None:
        history = self._history
        old = self._identities
        used = {history.cell(seq) >> CODE_SHIFT for seq in range(history.base, history.next)}
        kept = sorted(used | {self._reached_code, 0})
        new = {code: index for index, code in enumerate(kept)}
        self._keep_identities(tuple(old[code] for code in kept))
        for seq in range(history.base, history.next):
            slot = seq % history.capacity
            cell = history.cells[slot]
            history.cells[slot] = cell & (LOST | ELSEWHERE) | new[cell >> CODE_SHIFT] << CODE_SHIFT
        self._reached_code = new[self._reached_code]
        self._head_code = new[self._head_code]
