"""One session's probes: what was sent, answered, lost, and what changed. All transitions of a session are in this file.

Rules (docs/judging.md#sessions), which hold after every call:

1. `sent == answered + lost + pending`. The first copy of a reply is the answer; the caller feeds replies in the order of
   their kernel receive times.
2. A probe becomes lost only by `expire(read_empty_ns)`: the caller read the socket empty at that time, past the deadline.
   (A reply that is itself past the deadline makes its probe lost first.) A reply to a lost probe is late; the probe stays
   lost. A second reply is a duplicate. An answer older than the newest answered is reordered (RFC 4737 section 3.3:
   compared with the maximum); late and duplicate replies are never also reordered.
3. A change is told for each pair of replied probes (late ones too) that follow each other in send order and differ. Each
   kind is compared between successive replies that carry it: what a reply lacks is unknown, so it neither is a change nor
   hides one between the replies around it. Kinds that differ over the same pair are one change.
4. The order of arrival does not matter: a reply inside a told pair revises that change and, when it differs from both
   ends, adds one. The final set equals that of an oracle that sees all replies in send order.
5. A reply from elsewhere (a wrong source, or one that arrived at another session) is authentic and answers nothing: its
   probe stays pending until the proper reply comes, or it is lost; no outage ends by it. What it says of the server takes
   part in the changes, in send order as any reply's; the reflexive address that it carries is that of no path of ours,
   and does not. When the proper reply comes too, the address is taken from that one, and the rest from the first.
6. Probes are kept for 60 s after they were sent (memory is bounded by that); of what is older only the newest reply that
   carries each kind is remembered, so a change over a longer silence is still told. Older replies are counted as stale.
7. An illegal call raises `TrackerError` and changes nothing.

The probes themselves are in `probe_ring`, the changes of rules 3 and 4 in `change_set`, what rule 6 remembers in
`last_known`, and the losses by direction in `loss_direction`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from affinity_tester.core.events import (
    ConflictingDuplicate,
    Event,
    FirstAnswer,
    LateReply,
    LossDirection,
    Losses,
    OutageEnded,
    OutageStarted,
    ProbesLost,
    RepliedProbe,
)
from affinity_tester.core.identity import Identity, differing
from affinity_tester.core.session.change_set import ChangeSet
from affinity_tester.core.session.loss_direction import LossDirections
from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, PENDING, ProbeRing
from affinity_tester.core.session.rtt import RttHistogram
from affinity_tester.errors import TrackerError
from affinity_tester.units import NS_PER_MIN, NS_PER_S

HISTORY_NS = NS_PER_MIN
"""How long a probe is kept: two affinity windows, and far beyond any late reply."""

PRUNE_NS = NS_PER_S
"""Old probes are forgotten in batches of a second, which keeps it off the path of every send."""

MAX_PROBES = 1 << 32
"""Sequence numbers have 32 bits (docs/protocol.md); a session ends there."""


class SessionTracker:
    """The state of one session. Events go to `emit` as they happen; times are monotonic nanoseconds."""

    __slots__ = (
        "_changes",
        "_elsewhere_only",
        "_emit",
        "_first_unanswered",
        "_losses",
        "_newest_answered",
        "_newest_code",
        "_newest_elsewhere",
        "_outage",
        "_prune_at_ns",
        "_reached_code",
        "_ring",
        "_settled",
        "_waiting_counts",
        "answered",
        "duplicate",
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
        self._ring = ProbeRing(usual_probes)
        self._prune_at_ns = 0

        self.sent_count = 0
        """Probes sent, which is also the next sequence number."""
        self.pending = 0
        """Probes that are neither answered nor lost."""
        self.answered = self.lost = self.late = self.duplicate = self.reordered = self.stale = 0
        self.rtt = RttHistogram()

        self._settled = 0
        """Every probe below is answered or lost."""
        self._losses = LossDirections()
        self._waiting_counts: dict[int, int | None] | None = None
        """RECEIVED-COUNT of answers that wait for an older probe to be answered or lost."""

        self._newest_answered = -1
        self.reached = -1
        """The newest probe that was replied to from the right source, by send order; -1 before the first."""
        self._reached_code = 0
        self._newest_elsewhere = -1
        """The newest probe that was replied to from elsewhere, by send order; -1 before the first."""
        self._elsewhere_only = 0
        """Probes that were replied to from elsewhere only."""
        self._newest_code = 0
        """The code of the newest reply by send order; 0 when that came from elsewhere, so that the next one is compared."""
        self._changes = ChangeSet(session, loss_threshold_ns, self._ring, emit)

        self._outage: OutageStarted | None = None
        self._first_unanswered: tuple[int, int] | None = None
        """What `unanswered` returns, once that probe is forgotten."""

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def deadline_ns(self) -> int | None:
        """When the oldest pending probe is to be lost; None when nothing is pending."""
        if self.pending == 0:
            return None
        return self._ring.sent_ns(self._settled) + self.loss_threshold_ns

    @property
    def newest_replied(self) -> int:
        """The newest replied probe, by send order; -1 before the first."""
        return max(self.reached, self._newest_elsewhere)

    @property
    def serving(self) -> Identity | None:
        """The identity in the newest reply from the right source, by send order."""
        return self._ring.identities[self._reached_code]

    @property
    def changes(self) -> int:
        """Changes told and not withdrawn."""
        return self._changes.count

    @property
    def kind_counts(self) -> tuple[int, ...]:
        """Changes of each kind in the final set so far, in the order of `Kind`."""
        return self._changes.kind_counts

    @property
    def pairs(self) -> int:
        """Pairs of probes compared: each replied one with the one before it."""
        return max(0, self.answered + self.late + self._elsewhere_only - 1)

    @property
    def longest_gap_ns(self) -> int:
        """The longest time from sent(P) until the change was seen, over all changes; 0 without one."""
        return self._changes.longest_gap_ns

    @property
    def in_outage(self) -> bool:
        """True if an outage was started and no reply has ended it."""
        return self._outage is not None

    def losses(self) -> Losses:
        """Return the lost probes by direction; one that is newer than a pending probe is unknown as yet."""
        settled = self._losses.losses()
        return replace(settled, unknown=settled.unknown + self.lost - settled.total)

    def unanswered(self) -> tuple[int, int] | None:
        """Return the first probe after the newest one replied to from the right source: (sequence number, sent_ns)."""
        ring = self._ring
        seq = self.reached + 1
        if seq < ring.base:
            return self._first_unanswered
        return (seq, ring.sent_ns(seq)) if seq < ring.next else None

    @property
    def unanswered_ns(self) -> int:
        """From the first probe that `unanswered` returns until the last probe; 0 without one."""
        since = self.unanswered()
        return 0 if since is None else self._ring.last_sent_ns - since[1]

    @property
    def reached_ns(self) -> int | None:
        """When the newest probe was sent that was replied to from the right source; None where none is kept."""
        ring = self._ring
        return ring.sent_ns(self.reached) if self.reached >= ring.base else None

    def answered_again_ns(self) -> int | None:
        """Return when the first of the newest probes was sent that were replied to in a row, in time, from the right source.

        None where the newest reply was late: it ended a wait in which nothing was answered.
        """
        ring = self._ring
        first = self.reached + 1
        while first > ring.base and ring.is_answered(first - 1):
            first -= 1
        return ring.sent_ns(first) if first <= self.reached else None

    def sent_before_ns(self, at_ns: int) -> int | None:
        """Return when the newest unanswered probe of `at_ns` or before was sent; None where none is kept."""
        ring = self._ring
        seq = ring.first_after(at_ns) - 1
        return ring.sent_ns(seq) if seq >= max(ring.base, self.reached + 1) else None

    def sent_between(self, from_ns: int, to_ns: int) -> int:
        """Return how many kept probes were sent from `from_ns` on and before `to_ns`."""
        ring = self._ring
        return ring.first_after(to_ns - 1) - ring.first_after(from_ns - 1)

    # --- what happens ----------------------------------------------------------------------------------------------

    def sent(self, now_ns: int) -> int:
        """Record that the next probe was sent now; return its sequence number.

        Raises `TrackerError` when time runs backwards, when the sequence numbers are used up, or when a pending probe is so
        old that it would be forgotten (call `expire` first).
        """
        ring = self._ring
        seq = ring.next
        if now_ns < ring.last_sent_ns:
            raise TrackerError("a probe is sent before the one before it")
        if seq >= MAX_PROBES:
            raise TrackerError("the session has used all its sequence numbers")
        if now_ns >= self._prune_at_ns:
            self._prune(now_ns)
        ring.append(now_ns)
        self.sent_count = ring.next
        self.pending += 1
        return seq

    def replied(self, seq: int, identity: Identity, count: int | None, received_ns: int) -> None:
        """Record a reply: to which probe, what it says, its RECEIVED-COUNT, and its kernel receive time.

        Raises `TrackerError` when that probe was never sent.
        """
        ring = self._ring
        if not 0 <= seq < ring.next:
            raise TrackerError(f"a reply to probe {seq}, which was not sent")
        if seq < ring.base:
            self.stale += 1
            return

        slot = seq % ring.capacity
        state = ring.states[slot]
        if state > LOST:
            if not state & ELSEWHERE:
                self._replied_again(seq, state, identity, received_ns)
                return
            identity = self._replied_properly(seq, state, identity, received_ns)
            state &= LOST
            count = None  # the other server may have counted the probe too, so the span ends here

        rtt_ns = received_ns - (ring.last_sent_ns if seq + 1 == ring.next else ring.sent_ns(seq))
        if rtt_ns < 0:  # the conversion between the clocks; nothing is received before it was sent
            received_ns -= rtt_ns
            rtt_ns = 0

        # A reply mostly is like the newest one, and the codec then returns the very same object.
        code = self._newest_code
        if identity is not ring.identities[code]:
            code = self._intern(identity)

        if state == PENDING and rtt_ns > self.loss_threshold_ns:
            self._lose(seq, seq + 1, received_ns)
            state = LOST
        ring.states[slot] = state | code << CODE_SHIFT

        if state == LOST:
            self.late += 1
            self._emit(LateReply(received_ns, self.session, seq, rtt_ns))
            self._advance_settled(received_ns)
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
                    self._emit(LossDirection(received_ns, self.session, *gap))
                self._settled = ring.next
                if seq + 1 < ring.next:
                    self._settled = seq + 1
                    self._advance_settled(received_ns)
            else:
                if self._waiting_counts is None:
                    self._waiting_counts = {}
                self._waiting_counts[seq] = count

        reached = self.reached
        if reached < 0:
            self._emit(FirstAnswer(received_ns, self.session, seq, identity))
        if seq > reached:
            if self._outage is not None:
                self._end_outage(self._outage, seq, identity, received_ns)
            if code != self._newest_code:
                self._reached_code = code
                if seq >= self._newest_elsewhere:
                    self._newest_code = code
                self._changes.compare_neighbours(seq, identity, self.newest_replied, received_ns)
            self.reached = seq
        elif not ring.is_between(seq, code):
            self._changes.compare_neighbours(seq, identity, self.newest_replied, received_ns)

    def replied_elsewhere(self, seq: int, identity: Identity, received_ns: int) -> int | None:
        """Record a reply that came from a wrong source, or arrived at another session (rule 5).

        Returns when its probe was sent; None when that is forgotten. Raises `TrackerError` when it was never sent.
        """
        ring = self._ring
        if not 0 <= seq < ring.next:
            raise TrackerError(f"a reply to probe {seq}, which was not sent")
        if seq < ring.base:
            self.stale += 1
            return None

        identity = identity._replace(reflexive=None)
        state = ring.state(seq)
        if state > LOST:
            self._losses.taint(seq)
            self._compare_replies(seq, ring.identity(state), identity, received_ns)
            return ring.sent_ns(seq)

        code = self._intern(identity)
        ring.states[seq % ring.capacity] = state | ELSEWHERE | code << CODE_SHIFT
        self._elsewhere_only += 1
        if seq > self.reached:
            self._newest_code = 0
        self._newest_elsewhere = max(self._newest_elsewhere, seq)
        if not ring.is_between(seq, code):
            self._changes.compare_neighbours(seq, identity, self.newest_replied, received_ns)
        if seq < self._settled:  # it went into the losses as a plain one
            self._losses.taint(seq)
        return ring.sent_ns(seq)

    def expire(self, read_empty_ns: int) -> None:
        """Lose every pending probe whose deadline is before `read_empty_ns`, when the socket was read empty."""
        ring = self._ring
        horizon_ns = read_empty_ns - self.loss_threshold_ns
        seq = first = self._settled
        while seq < ring.next and ring.sent_ns(seq) < horizon_ns:
            if not ring.is_pending(seq):
                self._lose(first, seq, read_empty_ns)
                first = seq + 1
            seq += 1
        self._lose(first, seq, read_empty_ns)
        self._advance_settled(read_empty_ns)

    def start_outage(self, now_ns: int, *, own_drops: int = 0, others_answered: bool = True) -> None:
        """Start an outage: the session is unanswered too long. The next newer reply from the right source ends it.

        `own_drops` is how many replies this session's full socket buffer has dropped since its last one;
        `others_answered`: other sessions are answered, and not canaries alone. Raises `TrackerError` in an outage, or when
        no probe is unanswered.
        """
        since = self.unanswered()
        if self._outage is not None or since is None:
            raise TrackerError("an outage starts once, with an unanswered probe")

        ring, changes = self._ring, self._changes
        last: RepliedProbe | None = None
        if self.reached >= ring.base:
            last = ring.replied_probe(self.reached)
        elif changes.last_forgotten is not None:
            last = changes.last_forgotten.probe
        pause_ns = 0 if last is None else changes.longest_pause_ns(last.seq, ring.next - 1)

        probes = self.sent_count - since[0]
        self._outage = OutageStarted(
            now_ns, self.session, *since, last, pause_ns, own_drops, probes, others_answered=others_answered
        )
        self._emit(self._outage)

    # --- how -------------------------------------------------------------------------------------------------------

    def _replied_again(self, seq: int, state: int, identity: Identity, received_ns: int) -> None:
        """Count a duplicate."""
        self.duplicate += 1
        self._losses.taint(seq)
        self._compare_replies(seq, self._ring.identity(state), identity, received_ns)

    def _replied_properly(self, seq: int, state: int, identity: Identity, received_ns: int) -> Identity:
        """Take the proper reply to a probe that was replied to from elsewhere; return what both say together (rule 5)."""
        first = self._ring.identity(state)
        self._elsewhere_only -= 1
        self._losses.taint(seq)
        self._compare_replies(seq, first, identity, received_ns)
        return first._replace(reflexive=identity.reflexive)

    def _compare_replies(self, seq: int, first: Identity, second: Identity, received_ns: int) -> None:
        """Tell when two replies to one probe differ: evidence, not a change."""
        if first is not second and differing(first, second):
            self._emit(ConflictingDuplicate(received_ns, self.session, seq, first, second))

    def _lose(self, first: int, end: int, now_ns: int) -> None:
        """Make the pending probes first..end-1 lost."""
        if first == end:
            return
        ring = self._ring
        for seq in range(first, end):
            ring.states[seq % ring.capacity] |= LOST
        self.lost += end - first
        self.pending -= end - first
        self._emit(ProbesLost(now_ns, self.session, first, end - first, ring.sent_ns(first), ring.sent_ns(end - 1)))

    def _advance_settled(self, now_ns: int) -> None:
        """Hand every probe that is answered or lost, with all before it, to the loss directions."""
        ring = self._ring
        seq = self._settled
        while seq < ring.next:
            state = ring.states[seq % ring.capacity]
            if state == PENDING or state & (LOST | ELSEWHERE) == ELSEWHERE:
                break
            if state & ELSEWHERE:
                self._losses.elsewhere()
            elif state & LOST:
                self._losses.lost()
            else:
                assert self._waiting_counts is not None, "an answer out of order left its count"
                gap = self._losses.answered(seq, ring.identity(state), self._waiting_counts.pop(seq))
                if gap is not None:
                    self._emit(LossDirection(now_ns, self.session, *gap))
            seq += 1
        self._settled = seq

    def _end_outage(self, outage: OutageStarted, seq: int, identity: Identity, received_ns: int) -> None:
        self._outage = None
        first = RepliedProbe(seq, self._ring.sent_ns(seq), identity)
        # Where the reply is late, what was sent meanwhile waited with it: nothing of it was answered before.
        is_late = received_ns - first.sent_ns > self.loss_threshold_ns
        probes = (self.sent_count if is_late else seq) - outage.since_seq
        self._emit(OutageEnded(received_ns, self.session, outage.since_seq, outage.since_ns, probes, first))

    def _intern(self, identity: Identity) -> int:
        """Return the code of an identity, a new one if it has none; now and then free the codes that are out of use."""
        ring = self._ring
        code = ring.code_of(identity)
        if code:
            return code
        if ring.has_unused_codes:
            new = ring.compact(self._reached_code)
            self._reached_code = new[self._reached_code]
            self._newest_code = new[self._newest_code]
        return ring.add_identity(identity)

    def _prune(self, now_ns: int) -> None:
        """Forget the probes sent more than the kept history ago (rule 6)."""
        ring = self._ring
        horizon_ns = now_ns - HISTORY_NS
        if ring.base < ring.next and ring.sent_ns(ring.base) <= horizon_ns:
            settled = self._settled
            if settled < ring.next and ring.sent_ns(settled) <= horizon_ns:
                raise TrackerError("a pending probe is older than the kept history: expire it first")
            end = ring.first_after(horizon_ns)
            first = self.reached + 1
            if ring.base <= first < end:
                self._first_unanswered = (first, ring.sent_ns(first))
            self._changes.forget(end, ring.sent_ns(end) if end < ring.next else now_ns)
            ring.base = end
        self._prune_at_ns = now_ns + PRUNE_NS
