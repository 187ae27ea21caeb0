"""The tracker by example and by property: a naive oracle that sees every reply in send order says the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
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
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.session.probe_ring import SPAN_LIMIT_NS
from affinity_tester.core.session.tracker import HISTORY_NS, MAX_PROBES, SessionTracker
from affinity_tester.errors import TrackerError

MS = 1_000_000
S = 1_000 * MS
THRESHOLD = 2 * S
UNIT = 16  # a send time is kept in units of 16 ns


def identity(pod: str | None, port: int | None = 40312, ip: str = "10.240.0.4", node: str | None = "n1") -> Identity:
    reflexive = None if port is None else TransportAddress(ip, port)
    return Identity(reflexive, pod, node if pod else None, pod.encode() if pod else None, "affinity-tester/0")


A = identity("a")
B = identity("b")
A_MOVED = identity("a", 50000)
BARE = identity(None)
BARE_MOVED = identity(None, 50000)


class Harness:
    """A tracker whose events are kept, and time in slots of 100 ms."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        """But for the first answer."""
        self.first: list[FirstAnswer] = []
        self.tracker = SessionTracker("CLIENT-1", THRESHOLD, self._keep)

    def _keep(self, event: Event) -> None:
        if isinstance(event, FirstAnswer):
            self.first.append(event)
        else:
            self.events.append(event)

    def send(self, count: int, start_ns: int = 0, step_ns: int = 100 * MS) -> None:
        for index in range(count):
            self.tracker.sent(start_ns + index * step_ns)

    def reply(self, seq: int, who: Identity, count: int | None = None, after_ns: int = 10 * MS) -> None:
        self.tracker.replied(seq, who, count, self.tracker._ring.sent_ns(seq) + after_ns)

    def stray(self, seq: int, who: Identity, after_ns: int = 10 * MS) -> int | None:
        """A reply from elsewhere."""
        return self.tracker.replied_elsewhere(seq, who, self.tracker._ring.sent_ns(seq) + after_ns)

    @property
    def told(self) -> dict[int, Change]:
        """The final set of changes, replayed from the events alone."""
        changes: dict[int, Change] = {}
        for event in self.events:
            match event:
                case ChangeSeen(change=change):
                    assert change.number not in changes
                    changes[change.number] = change
                case ChangeRevised(change=change, was=was):
                    assert changes[change.number] == was
                    changes[change.number] = change
                case ChangeWithdrawn(change=change, into=into):
                    assert changes.pop(change.number) == change
                    assert into in changes
        return changes

    def pairs(self) -> list[tuple[int, int, tuple[Kind, ...]]]:
        return sorted((c.before.seq, c.after.seq, c.kinds) for c in self.told.values())


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_a_steady_session_changes_nothing(harness: Harness) -> None:
    harness.send(3)
    for seq in range(3):
        harness.reply(seq, A, seq + 1)
    tracker = harness.tracker
    assert (tracker.sent_count, tracker.answered, tracker.lost, tracker.pending, tracker.pairs) == (3, 3, 0, 0, 2)
    assert harness.events == []
    assert harness.first == [FirstAnswer(10 * MS, "CLIENT-1", 0, A)]
    assert tracker.serving == A
    assert tracker.deadline_ns is None
    assert tracker.unanswered() is None


def test_a_change_carries_both_probes_and_the_kinds_in_their_order(harness: Harness) -> None:
    harness.send(2)
    harness.reply(0, A)
    harness.reply(1, identity("b", 61022, "10.240.0.7", "n2"))
    before = RepliedProbe(0, 0, A)
    after = RepliedProbe(1, 100 * MS, identity("b", 61022, "10.240.0.7", "n2"))
    kinds = (Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT, Kind.POD, Kind.NODE, Kind.INSTANCE)
    assert harness.events == [
        ChangeSeen(110 * MS, "CLIENT-1", Change(1, kinds, before, after, 110 * MS, 100 * MS, 110 * MS))
    ]
    assert harness.tracker.kind_counts == tuple(int(kind in kinds) for kind in Kind)
    assert harness.tracker.longest_gap_ns == 110 * MS
    assert harness.tracker.changes == 1


def test_a_change_with_pending_probes_inside_settles_at_their_deadline(harness: Harness) -> None:
    harness.send(5)
    harness.reply(0, A)
    harness.reply(4, B)
    (change,) = harness.told.values()
    assert change.settled_ns == 300 * MS + THRESHOLD
    assert change.longest_pause_ns == 100 * MS


def test_an_old_reply_from_the_old_pod_is_no_change_back(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(2, B)
    harness.reply(1, A)
    assert harness.pairs() == [(1, 2, (Kind.POD, Kind.INSTANCE))]
    assert [type(event) for event in harness.events] == [ChangeSeen, ChangeRevised]
    assert harness.tracker.reordered == 1


def test_a_reply_that_differs_from_both_ends_adds_a_change(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(2, B)
    harness.reply(1, identity("c"))
    assert [(b, a) for b, a, _ in harness.pairs()] == [(0, 1), (1, 2)]
    assert sorted(harness.told) == [1, 2]


def test_a_reply_between_equals_makes_two(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(2, A)
    harness.reply(1, B)
    assert [(b, a) for b, a, _ in harness.pairs()] == [(0, 1), (1, 2)]
    assert harness.tracker.changes == 2


def test_an_old_reply_between_equals_that_is_like_them_changes_nothing(harness: Harness) -> None:
    harness.send(3)
    for seq in (0, 2, 1):
        harness.reply(seq, A)
    assert harness.events == []
    assert harness.tracker.reordered == 1


def test_a_bare_reply_is_no_veil_before_a_change_of_pod(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(1, BARE)
    harness.reply(2, B)
    assert harness.pairs() == [(0, 2, (Kind.POD, Kind.INSTANCE))]


def test_a_bare_reply_splits_a_change_by_kind(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(2, identity("b", 50000))
    harness.reply(1, BARE)
    assert harness.pairs() == [(0, 2, (Kind.POD, Kind.INSTANCE)), (1, 2, (Kind.REFLEXIVE_PORT,))]


def test_two_changes_that_a_late_reply_merges_become_one(harness: Harness) -> None:
    harness.send(4)
    harness.reply(0, A)
    harness.reply(1, BARE)
    harness.reply(3, identity("b", 50000))
    assert len(harness.told) == 2
    harness.reply(2, A)
    assert harness.pairs() == [(2, 3, (Kind.REFLEXIVE_PORT, Kind.POD, Kind.INSTANCE))]
    assert isinstance(harness.events[-1], ChangeWithdrawn)
    assert harness.tracker.changes == 1
    assert harness.tracker.kind_counts == (0, 1, 1, 0, 1, 0)


def test_software_counts_only_where_no_pod_is_named(harness: Harness) -> None:
    harness.send(2)
    address = TransportAddress("10.240.0.4", 1)
    harness.reply(0, Identity(address, software="Coturn-4.6"))
    harness.reply(1, Identity(address, software="Coturn-4.7"))
    assert harness.pairs() == [(0, 1, (Kind.SOFTWARE,))]


def test_a_probe_is_lost_only_when_the_socket_was_read_empty_past_its_deadline(harness: Harness) -> None:
    harness.send(3)
    assert harness.tracker.deadline_ns == THRESHOLD
    harness.tracker.expire(THRESHOLD)
    assert harness.tracker.lost == 0
    harness.reply(1, A)
    harness.tracker.expire(THRESHOLD + 250 * MS)
    assert harness.events == [
        ProbesLost(THRESHOLD + 250 * MS, "CLIENT-1", 0, 1, 0, 0),
        ProbesLost(THRESHOLD + 250 * MS, "CLIENT-1", 2, 1, 200 * MS - 200 * MS % UNIT, 200 * MS - 200 * MS % UNIT),
    ]
    assert (harness.tracker.answered, harness.tracker.lost, harness.tracker.pending) == (1, 2, 0)


def test_losses_in_a_row_are_one_event(harness: Harness) -> None:
    harness.send(3)
    harness.tracker.expire(10 * S)
    assert harness.events == [ProbesLost(10 * S, "CLIENT-1", 0, 3, 0, 200 * MS)]


def test_a_late_reply_leaves_its_probe_lost_and_still_tells_a_change(harness: Harness) -> None:
    harness.send(2)
    harness.reply(0, A)
    harness.tracker.expire(10 * S)
    harness.reply(1, B, after_ns=10 * S)
    tracker = harness.tracker
    assert (tracker.answered, tracker.lost, tracker.late, tracker.reordered) == (1, 1, 1, 0)
    assert harness.events[1] == LateReply(10_100 * MS, "CLIENT-1", 1, 10 * S)
    assert len(harness.told) == 1


def test_a_reply_past_its_deadline_is_late_even_before_its_probe_is_declared_lost(harness: Harness) -> None:
    harness.send(3)
    harness.reply(1, A, after_ns=THRESHOLD + 1 * MS)
    tracker = harness.tracker
    assert (tracker.lost, tracker.late, tracker.pending) == (1, 1, 2)
    harness.reply(0, A)
    harness.reply(2, A)
    assert (tracker.answered, tracker.reordered, tracker.pending) == (2, 0, 0)
    assert tracker.losses() == Losses(unknown=1)


def test_a_duplicate_is_counted_and_one_that_differs_is_evidence(harness: Harness) -> None:
    harness.send(1)
    harness.reply(0, A)
    harness.reply(0, A)
    harness.reply(0, Identity(*A))
    harness.reply(0, B)
    assert harness.events == [ConflictingDuplicate(10 * MS, "CLIENT-1", 0, A, B)]
    assert (harness.tracker.answered, harness.tracker.duplicate, harness.tracker.changes) == (1, 3, 0)


def test_time_that_seems_to_run_backwards_is_a_round_trip_of_nothing(harness: Harness) -> None:
    harness.send(1, start_ns=S)
    harness.reply(0, A, after_ns=-5 * MS)
    assert harness.tracker.rtt.stats().max_ns == 0


@pytest.mark.parametrize(
    ("count_at_end", "losses"),
    [(2, Losses(up=2)), (4, Losses(down=2)), (3, Losses(up=1, down=1)), (7, Losses(unknown=2)), (1, Losses(unknown=2))],
)
def test_received_count_tells_the_direction_of_a_loss(harness: Harness, count_at_end: int, losses: Losses) -> None:
    harness.send(4)
    harness.reply(0, A, 1)
    harness.reply(3, A, count_at_end)
    harness.tracker.expire(10 * S)
    assert harness.tracker.losses() == losses
    told = [(e.first_seq, e.last_seq, e.up, e.down) for e in harness.events if isinstance(e, LossDirection)]
    assert told == ([] if losses.unknown else [(1, 2, losses.up, losses.down)])


def test_a_gap_is_directed_when_the_next_answer_closes_it_however_late_that_comes(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A, 1)
    harness.tracker.expire(10 * S)
    harness.send(1, start_ns=11 * S)
    harness.reply(3, A, 3)
    assert harness.events[-1] == LossDirection(11_010 * MS, "CLIENT-1", 1, 2, up=1, down=1)
    assert harness.tracker.losses() == Losses(up=1, down=1)


def test_a_loss_has_no_direction_after_a_duplicate_across_spans_or_without_counts(harness: Harness) -> None:
    harness.send(12)
    harness.reply(0, A, 1)
    harness.reply(0, A, 2)
    harness.reply(2, A, 2)  # 1 lost: a duplicate was seen in the span
    harness.reply(4, B, 1)  # 3 lost between two spans
    harness.reply(6, B, None)  # 5 lost: no count
    harness.reply(8, B, 4)  # 7 lost before a new span
    harness.reply(8, B, 4)
    harness.reply(10, identity("b", 50000), 1)
    harness.reply(4, B, 1)  # a duplicate of a closed span taints nothing
    harness.reply(11, identity("b", 50000), 2)
    harness.tracker.expire(20 * S)
    assert harness.tracker.lost == 5
    assert harness.tracker.losses() == Losses(unknown=5)


def test_an_unsettled_loss_is_unknown_as_yet(harness: Harness) -> None:
    harness.send(3)
    harness.reply(2, A, 1, after_ns=THRESHOLD + MS)
    assert harness.tracker.losses() == Losses(unknown=1)


def test_the_tail_that_was_not_replied_to_has_a_length(harness: Harness) -> None:
    harness.send(10)
    assert harness.tracker.unanswered_ns == 900 * MS
    harness.reply(4, A)
    assert harness.tracker.unanswered_ns == pytest.approx(400 * MS, abs=UNIT)
    harness.reply(9, A)
    assert harness.tracker.unanswered_ns == 0


def test_an_outage_ends_with_the_first_newer_reply(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(60)
    harness.reply(0, A)
    tracker.start_outage(6 * S)
    assert tracker.in_outage
    harness.reply(58, B)
    harness.reply(59, B)
    assert not tracker.in_outage
    started, ended = (event for event in harness.events if isinstance(event, (OutageStarted, OutageEnded)))
    assert started == OutageStarted(
        6 * S, "CLIENT-1", 1, 100 * MS, RepliedProbe(0, 0, A), 100 * MS, own_drops=0, probes=59
    )
    assert ended == OutageEnded(5810 * MS, "CLIENT-1", 1, 100 * MS, 57, RepliedProbe(58, 5800 * MS, B))


def test_an_outage_from_the_start_has_no_last_answer_and_one_after_a_long_silence_has(harness: Harness) -> None:
    harness.send(1)
    harness.tracker.start_outage(6 * S)
    assert harness.events == [OutageStarted(6 * S, "CLIENT-1", 0, 0, None, longest_pause_ns=0, own_drops=0, probes=1)]
    other = Harness()
    other.send(1)
    other.reply(0, A)
    for index in range(800):
        other.tracker.expire(S + index * 100 * MS)
        other.tracker.sent(S + index * 100 * MS)
    other.tracker.start_outage(80 * S, own_drops=3)
    started = other.events[-1]
    assert isinstance(started, OutageStarted)
    assert started.last == RepliedProbe(0, 0, A)
    assert (started.since_seq, started.since_ns) == (1, S)  # long forgotten, and still when it began
    assert (started.longest_pause_ns, started.own_drops) == (S, 3)


def test_an_outage_tells_the_longest_pause_since_the_last_reply(harness: Harness) -> None:
    for now in (0, 40 * S, 41 * S, 51 * S, 52 * S):
        harness.tracker.expire(now)
        harness.tracker.sent(now)
        if now == 40 * S:
            harness.reply(1, A)
    harness.tracker.start_outage(60 * S)
    started = harness.events[-1]
    assert isinstance(started, OutageStarted)
    assert started.longest_pause_ns == pytest.approx(10 * S, abs=UNIT)  # that before the reply is none of it


def test_a_late_reply_before_q_does_not_move_the_time_at_which_q_was_seen(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.reply(2, B)
    harness.tracker.expire(10 * S)
    harness.reply(1, A, after_ns=40 * S)
    (change,) = harness.told.values()
    assert (change.before.seq, change.after.seq, change.seen_ns) == (1, 2, 210 * MS)


def test_a_change_over_a_silence_longer_than_the_kept_history_is_told(harness: Harness) -> None:
    harness.send(2, step_ns=0)
    harness.reply(0, A)
    harness.reply(1, A)
    harness.send(10, start_ns=S)
    for index in range(1500):
        harness.tracker.expire(40 * S + index * 100 * MS)
        harness.tracker.sent(40 * S + index * 100 * MS)
    harness.reply(harness.tracker.sent_count - 1, B)
    (change,) = harness.told.values()
    assert change.before == RepliedProbe(1, 0, A)
    assert change.longest_pause_ns == pytest.approx(40 * S - 1900 * MS, abs=UNIT)


def test_a_steady_session_is_remembered_by_its_last_reply(harness: Harness) -> None:
    for second in range(130):
        harness.tracker.sent(second * S)
        harness.reply(second, A)
    harness.tracker.sent(300 * S)
    harness.reply(130, B)
    (change,) = harness.told.values()
    assert change.before == RepliedProbe(129, 129 * S, A)
    assert change.longest_pause_ns == 171 * S


def test_kinds_are_remembered_apart_beyond_the_kept_history(harness: Harness) -> None:
    harness.send(4)
    harness.reply(0, A)
    harness.reply(1, A_MOVED)
    harness.reply(3, BARE_MOVED)
    harness.tracker.expire(100 * S)
    harness.tracker.sent(100 * S)
    harness.tracker.sent(101 * S)
    harness.reply(4, B)
    pod, port = (c for c in harness.told.values() if c.after.seq == 4)
    if pod.kinds == (Kind.REFLEXIVE_PORT,):
        pod, port = port, pod
    assert (pod.before.seq, pod.kinds) == (1, (Kind.POD, Kind.INSTANCE))
    assert (port.before.seq, port.kinds) == (3, (Kind.REFLEXIVE_PORT,))
    assert pod.longest_pause_ns == port.longest_pause_ns == pytest.approx(100 * S - 300 * MS, abs=UNIT)


def test_replies_older_than_the_kept_history_are_stale(harness: Harness) -> None:
    harness.send(1)
    harness.tracker.expire(10 * S)
    harness.tracker.sent(HISTORY_NS + 2 * S)
    harness.tracker.replied(0, A, None, HISTORY_NS + 2 * S)
    assert (harness.tracker.stale, harness.tracker.late) == (1, 0)


def test_an_illegal_call_raises_and_changes_nothing(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(1, start_ns=S)
    with pytest.raises(TrackerError, match="before the one before"):
        tracker.sent(0)
    with pytest.raises(TrackerError, match="not sent"):
        tracker.replied(1, A, None, S)
    with pytest.raises(TrackerError, match="expire it first"):
        tracker.sent(2 * S + HISTORY_NS)
    with pytest.raises(TrackerError, match="at most the kept history"):
        SessionTracker("CLIENT-1", HISTORY_NS + 1, harness.events.append)
    assert (tracker.sent_count, tracker.answered, tracker.pending) == (1, 0, 1)
    harness.reply(0, A)
    with pytest.raises(TrackerError, match="unanswered probe"):
        tracker.start_outage(6 * S)
    assert harness.events == []


def test_a_session_ends_with_its_sequence_numbers(harness: Harness) -> None:
    ring = harness.tracker._ring
    ring.base = ring.next = harness.tracker._settled = MAX_PROBES - 1
    assert harness.tracker.sent(S) == MAX_PROBES - 1
    with pytest.raises(TrackerError, match="used all"):
        harness.tracker.sent(2 * S)


def test_memory_stays_bounded_however_long_it_runs(harness: Harness) -> None:
    rng = random.Random(7)
    tracker = harness.tracker
    sizes = set()
    for index in range(8_000):
        now = index * 100 * MS
        tracker.expire(now)
        seq = tracker.sent(now)
        if rng.random() < 0.9:
            harness.reply(seq, identity(f"pod-{rng.randrange(10**6)}", rng.randrange(65536)))
        if index > 2_000:
            sizes.add(
                (tracker._ring.capacity, len(tracker._ring.identities) <= 1300, len(tracker._changes.kept) <= 611)
            )
    assert len(sizes) == 1
    assert tracker._ring.capacity * 100 * MS < 2 * SPAN_LIMIT_NS
    assert len(tracker._waiting_counts) <= 20  # answers behind a probe that is still pending
    assert tracker.sent_count == tracker.answered + tracker.lost + tracker.pending


def test_few_identities_are_looked_through_and_many_are_looked_up(harness: Harness) -> None:
    tracker = harness.tracker
    for index in range(60):
        now = index * 10 * S
        tracker.expire(now)
        tracker.sent(now)
        harness.reply(index, identity(f"pod-{index}"))
    assert len(tracker._ring.identities) <= 2 * 7 + 9  # six or seven probes are kept
    assert tracker.changes == 59
    harness.send(30, start_ns=600 * S, step_ns=MS)
    for seq in range(60, 90):
        harness.reply(seq, identity(f"other-{seq}"))
    assert tracker._ring.codes is not None
    assert tracker.changes == 89


def test_a_new_identity_in_every_reply_ends_nothing_however_many_come_within_the_kept_history(
    harness: Harness,
) -> None:
    tracker = harness.tracker
    few = None
    for seq in range(35_000):  # 70 s
        now = seq * 2 * MS
        if seq % 500 == 0:
            tracker.expire(now)
        tracker.sent(now)
        tracker.replied(seq, A._replace(reflexive=TransportAddress("10.240.0.4", seq)), None, now + MS)
        if seq == 20:
            few = tracker._ring.identities
        if seq == 1_000:
            assert tracker._ring.identities is few  # one more costs no copy of those that are there
    assert (tracker.answered, tracker.changes) == (35_000, 34_999)
    assert tracker._ring.states.itemsize == 4
    assert len(tracker._ring.identities) <= 2 * (tracker._ring.next - tracker._ring.base) + 9
    numbers = [event.change.after.identity.reflexive for event in harness.events if isinstance(event, ChangeSeen)]
    assert numbers == [TransportAddress("10.240.0.4", seq) for seq in range(1, 35_000)]


# --- replies from elsewhere ------------------------------------------------------------------------------------------


def test_a_reply_from_elsewhere_answers_nothing_and_names_the_server(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(3)
    harness.reply(0, A)
    assert harness.stray(1, identity("b", 50000)) == 100 * MS
    harness.reply(2, A)
    assert (tracker.answered, tracker.pending, tracker.lost, tracker.pairs) == (2, 1, 0, 2)
    assert harness.pairs() == [(0, 1, (Kind.POD, Kind.INSTANCE)), (1, 2, (Kind.POD, Kind.INSTANCE))]
    assert harness.told[1].after.identity == identity("b", None)
    assert tracker.rtt.count == 2
    assert tracker.serving is A
    assert tracker.deadline_ns == 100 * MS + THRESHOLD
    tracker.expire(10 * S)
    assert (tracker.answered, tracker.pending, tracker.lost, tracker.pairs) == (2, 0, 1, 2)
    assert tracker.losses() == Losses(down=1)


def test_the_proper_reply_answers_and_gives_the_address(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(4)
    harness.reply(0, A)
    harness.reply(3, A_MOVED)
    harness.stray(1, B)
    harness.reply(1, A_MOVED)
    assert harness.pairs() == [
        (0, 1, (Kind.REFLEXIVE_PORT, Kind.POD, Kind.INSTANCE)),
        (1, 3, (Kind.POD, Kind.INSTANCE)),
    ]
    first = harness.told[2]
    assert first.after.identity == identity("b", 50000)
    assert [type(event) for event in harness.events] == [
        ChangeSeen,  # 0-3, by the port
        ChangeSeen,  # 0-1, by the pod
        ChangeSeen,  # 1-3, likewise
        ConflictingDuplicate,
        ChangeRevised,  # 0-1 has the port too
        ChangeWithdrawn,  # so 0-3 is part of it
    ]
    assert (tracker.answered, tracker.pending, tracker.duplicate, tracker.pairs) == (3, 1, 0, 2)
    harness.reply(1, A_MOVED)
    assert tracker.duplicate == 1


def test_an_outage_is_not_ended_from_elsewhere_and_counts_from_the_last_proper_reply(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(60)
    harness.reply(0, A)
    harness.stray(1, A)
    assert tracker.unanswered() == (1, 100 * MS)
    assert (tracker.reached, tracker.newest_replied) == (0, 1)
    tracker.start_outage(6 * S)
    harness.stray(58, A)
    harness.stray(30, A)
    assert tracker.in_outage
    assert harness.events == [OutageStarted(6 * S, "CLIENT-1", 1, 100 * MS, RepliedProbe(0, 0, A), 100 * MS, probes=59)]
    harness.reply(57, A)
    assert not tracker.in_outage
    assert (tracker.reached, tracker.newest_replied) == (57, 58)
    harness.reply(58, A)
    assert (tracker.reached, tracker.newest_replied, tracker.changes) == (58, 58, 0)


def test_replies_from_elsewhere_alone_are_no_answer_however_long_they_come(harness: Harness) -> None:
    tracker = harness.tracker
    for seq in range(800):
        now = seq * 100 * MS
        tracker.expire(now)
        tracker.sent(now)
        if seq == 2:
            harness.reply(seq, A)
        elif seq % 3:
            harness.stray(seq, B if seq % 9 == 1 else A)
    tracker.start_outage(80 * S)
    started = harness.events[-1]
    assert isinstance(started, OutageStarted)
    assert started.last == RepliedProbe(2, 200 * MS - 200 * MS % UNIT, A)
    assert (started.since_seq, started.longest_pause_ns) == (3, pytest.approx(100 * MS, abs=UNIT))
    assert len(harness.first) == 1
    assert tracker.serving is A
    assert tracker.changes == 2 * sum(seq % 9 == 1 for seq in range(800)) - 1  # the very first one came from B


def test_a_session_answered_from_elsewhere_first_has_its_first_answer_later(harness: Harness) -> None:
    harness.send(2)
    harness.stray(0, A)
    assert harness.tracker.serving is None
    assert harness.first == []
    harness.reply(1, A)
    assert harness.first == [FirstAnswer(110 * MS, "CLIENT-1", 1, A)]
    assert harness.events == []


def test_a_reply_from_elsewhere_to_an_answered_probe_is_evidence(harness: Harness) -> None:
    harness.send(1)
    harness.reply(0, A)
    harness.stray(0, A_MOVED)
    harness.stray(0, B)
    tracker = harness.tracker
    assert harness.events == [ConflictingDuplicate(10 * MS, "CLIENT-1", 0, A, identity("b", None))]
    assert (tracker.answered, tracker.duplicate, tracker.pairs) == (1, 0, 0)


def test_a_late_reply_to_a_probe_replied_to_from_elsewhere_is_late(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(1)
    harness.stray(0, A)
    harness.reply(0, A, after_ns=THRESHOLD + MS)
    assert (tracker.answered, tracker.lost, tracker.late, tracker.pending) == (0, 1, 1, 0)


def test_a_probe_replied_to_from_elsewhere_was_never_lost_on_the_way_up(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(7)
    for seq, count in ((0, 1), (2, 2), (4, 3), (6, 4)):
        harness.reply(seq, A, count)
    harness.stray(1, B)
    harness.stray(5, A)
    tracker.expire(THRESHOLD + 350 * MS)
    assert tracker.losses() == Losses(down=1, up=1)  # 3 is between two replies of one span
    tracker.expire(10 * S)
    assert tracker.losses() == Losses(down=2, up=1)
    harness.stray(3, A, after_ns=20 * S)  # too late for what is told of a span that has ended
    assert tracker.losses() == Losses(down=2, up=1)


def test_a_reply_from_elsewhere_after_the_loss_leaves_its_direction_unknown(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A, 1)
    harness.reply(2, A, 2)
    harness.tracker.expire(10 * S)
    assert harness.tracker.losses() == Losses(up=1)
    harness.stray(1, B, after_ns=10 * S)
    assert harness.tracker.losses() == Losses(unknown=1)


def test_a_reply_from_elsewhere_to_a_forgotten_probe_is_stale_and_to_none_is_refused(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(1)
    tracker.expire(10 * S)
    tracker.sent(HISTORY_NS + 2 * S)
    assert tracker.replied_elsewhere(0, A, HISTORY_NS + 2 * S) is None
    assert tracker.stale == 1
    with pytest.raises(TrackerError, match="not sent"):
        tracker.replied_elsewhere(2, A, HISTORY_NS + 2 * S)


# --- the oracle ------------------------------------------------------------------------------------------------------


class Copy(NamedTuple):
    """One reply to a probe."""

    delay_ms: int
    elsewhere: Identity | None
    """Who answered, where it came from elsewhere; None: the probe's own."""


@dataclass(frozen=True)
class Probe:
    gap_ms: int
    who: Identity
    copies: tuple[Copy, ...]

    @property
    def arrivals(self) -> list[Copy]:
        """The copies in the order in which they arrive."""
        return sorted(self.copies, key=lambda copy: copy.delay_ms)

    @property
    def proper_ms(self) -> list[int]:
        """When the replies from the right source arrive."""
        return [copy.delay_ms for copy in self.arrivals if copy.elsewhere is None]

    def shows(self, came: list[Identity | None]) -> Identity:
        """What replies tell of who answered: the names of the first, the address of the first from the right source."""
        return (came[0] or self.who)._replace(reflexive=self.who.reflexive if None in came else None)


WHO = st.sampled_from([A, A, A, B, A_MOVED, BARE, BARE_MOVED, identity("c", 50000), identity("a", None), Identity()])
COPIES = st.lists(
    st.builds(
        Copy,
        st.sampled_from([1, 60, 150, 400, 1_999, 2_000, 2_001, 2_500, 9_000]),
        st.none() | st.none() | st.sampled_from([A, B, BARE, identity("c", 50000), Identity(software="x")]),
    ),
    max_size=3,
)
PROBES = st.lists(
    st.builds(
        Probe,
        gap_ms=st.sampled_from([0, 1, 50, 100, 100, 100, 900, 3_000]),
        who=WHO,
        copies=COPIES.map(tuple),
    ),
    max_size=12,
)


def oracle_changes(replied: list[tuple[int, Identity]]) -> list[tuple[int, int, tuple[Kind, ...]]]:
    pairs: dict[tuple[int, int], list[Kind]] = {}
    for kind in Kind:
        carrying = [(seq, who) for seq, who in replied if who.value(kind) is not None]
        for (p, before), (q, after) in pairwise(carrying):
            if before.value(kind) != after.value(kind):
                pairs.setdefault((p, q), []).append(kind)
    return sorted((p, q, tuple(kinds)) for (p, q), kinds in pairs.items())


def own(*delays_ms: int) -> tuple[Copy, ...]:
    return tuple(Copy(delay, None) for delay in delays_ms)


@pytest.mark.worlds
@settings(max_examples=400)
@given(PROBES, st.lists(st.integers(0, 40_000), max_size=4))
@example(
    [Probe(0, A, own(60)), Probe(1, BARE, own(1)), Probe(1, A, own(400)), Probe(1, identity("c", 50000), own(1))], []
)
def test_the_final_set_is_that_of_an_oracle_whatever_the_order_of_arrival(
    probes: list[Probe], reads_ms: list[int]
) -> None:
    harness = Harness()
    tracker = harness.tracker
    agenda: list[tuple[int, int, int, Identity | None]] = []  # (time; 0 = read empty, 1 = reply, 2 = send; probe; who)
    now = 0
    for seq, probe in enumerate(probes):
        now += probe.gap_ms * MS
        agenda.append((now, 2, seq, None))
        agenda += [(now + copy.delay_ms * MS, 1, seq, copy.elsewhere) for copy in probe.arrivals]
    agenda += [(at * MS, 0, -1, None) for at in reads_ms]
    came: dict[int, list[Identity | None]] = {}
    replied: list[tuple[int, Identity]] = []
    for at, what, seq, elsewhere in sorted(agenda, key=lambda item: (item[0], -item[1])):
        if what == 2:
            assert tracker.sent(at) == seq
        elif what == 0:
            tracker.expire(at)
        elif elsewhere is not None:
            assert tracker.replied_elsewhere(seq, elsewhere, at) == tracker._ring.sent_ns(seq)
        else:
            tracker.replied(seq, probes[seq].who, None, at)
        if what == 1:
            came.setdefault(seq, []).append(elsewhere)
        replied = [(seq, probes[seq].shows(came[seq])) for seq in sorted(came)]
        assert harness.pairs() == oracle_changes(replied)
        assert tracker.pairs == max(0, len(replied) - 1)
        assert tracker.sent_count == tracker.answered + tracker.lost + tracker.pending
    tracker.expire(now + 100 * S)

    proper = {seq: probe.proper_ms[0] for seq, probe in enumerate(probes) if probe.proper_ms}
    answered = {seq for seq, delay in proper.items() if delay <= 2_000}
    assert tracker.answered == len(answered)
    assert tracker.lost == len(probes) - len(answered)
    assert tracker.late == len(proper) - len(answered)
    assert tracker.duplicate == sum(len(p.proper_ms) - 1 for p in probes if p.proper_ms)
    assert tracker.pending == 0
    assert (tracker.newest_replied, tracker.reached) == (max([-1, *dict(replied)]), max([-1, *proper]))
    assert tracker.serving == (dict(replied)[tracker.reached] if proper else None)
    assert len(harness.first) == min(1, len(proper))
    assert tracker.changes == len(harness.told)
    for kind in Kind:
        assert tracker.kind_counts[[*Kind].index(kind)] == sum(kind in c.kinds for c in harness.told.values())
    for change in harness.told.values():
        times = [0]
        for probe in probes:
            times.append(times[-1] + probe.gap_ms * MS)
        sends = times[1:]
        between = sends[change.before.seq : change.after.seq + 1]
        expected = max(b - a for a, b in pairwise(between))
        assert change.longest_pause_ns == pytest.approx(expected, abs=UNIT)
        assert change.before.sent_ns == pytest.approx(between[0], abs=UNIT)
        assert change.settled_ns >= change.seen_ns
        for kind in change.kinds:  # what is told of a change stands in its sightings
            assert change.before.identity.value(kind) != change.after.identity.value(kind)
    assert tracker.losses().total == tracker.lost
    assert tracker.rtt.count == len(answered)


def test_answered_again_looks_back_over_all_that_was_replied_to_in_a_row() -> None:
    tracker = SessionTracker("CLIENT-1", 2 * S, lambda _event: None)
    for seq in range(6):
        tracker.sent(seq * S)
        if seq not in {1, 2}:
            tracker.replied(seq, Identity(pod="a"), None, seq * S + MS)
    assert tracker.answered_again_ns() == 3 * S
    tracker.sent(10 * S)
    tracker.replied(6, Identity(pod="a"), None, 13 * S)
    assert tracker.answered_again_ns() is None  # late: while it waited, nothing was answered


def test_answered_again_is_the_newest_probe_where_it_alone_was_replied_to(harness: Harness) -> None:
    harness.send(3, step_ns=S)
    assert harness.tracker.answered_again_ns() is None
    harness.reply(2, A)
    assert harness.tracker.answered_again_ns() == 2 * S


def test_sent_before_looks_among_the_probes_after_the_newest_reply(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(6, step_ns=S)
    harness.reply(2, A)
    assert tracker.sent_before_ns(10 * S) == 5 * S
    assert tracker.sent_before_ns(4 * S) == 4 * S
    assert tracker.sent_before_ns(4 * S - 1) == 3 * S
    assert tracker.sent_before_ns(3 * S) == 3 * S
    assert tracker.sent_before_ns(3 * S - 1) is None


def test_sent_before_knows_no_forgotten_probe(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(2)
    tracker.expire(70 * S)
    tracker.sent(70 * S)
    assert tracker.sent_before_ns(69 * S) is None
    assert tracker.sent_before_ns(70 * S) == 70 * S


def test_sent_between_counts_its_first_moment_and_not_its_last(harness: Harness) -> None:
    harness.send(5, step_ns=S)
    tracker = harness.tracker
    assert tracker.sent_between(S, 3 * S) == 2
    assert tracker.sent_between(S, 3 * S + 1) == 3
    assert tracker.sent_between(S + 1, 3 * S) == 1
    assert tracker.sent_between(S, S) == 0


def test_every_stale_reply_from_elsewhere_is_counted(harness: Harness) -> None:
    harness.send(1)
    harness.tracker.expire(10 * S)
    harness.tracker.sent(HISTORY_NS + 2 * S)
    for _ in range(2):
        assert harness.tracker.replied_elsewhere(0, A, HISTORY_NS + 2 * S) is None
    assert harness.tracker.stale == 2


def test_a_second_reply_from_elsewhere_leaves_the_losses_of_its_span_without_direction(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A, 1)
    harness.reply(2, A, 2)
    harness.tracker.expire(10 * S)
    assert harness.tracker.losses() == Losses(up=1)
    harness.stray(0, A)
    assert harness.tracker.losses() == Losses(unknown=1)


def test_a_probe_that_gets_both_replies_leaves_the_losses_before_it_without_direction(harness: Harness) -> None:
    harness.send(4)
    harness.reply(0, A, 1)
    harness.reply(2, A, 2)
    harness.tracker.expire(THRESHOLD + 150 * MS)
    harness.stray(3, A)
    assert harness.tracker.losses() == Losses(up=1)  # 3 may yet be lost, and then the counts before it hold
    harness.reply(3, A, 3)
    assert harness.tracker.losses() == Losses(unknown=1)


def test_the_proper_reply_is_evidence_where_it_differs_from_that_from_elsewhere(harness: Harness) -> None:
    harness.send(2)
    harness.stray(1, B)
    harness.reply(1, A, after_ns=20 * MS)
    assert harness.events == [ConflictingDuplicate(120 * MS, "CLIENT-1", 1, identity("b", None), A)]


def test_an_outage_tells_whether_other_sessions_are_answered(harness: Harness) -> None:
    harness.send(1)
    harness.tracker.start_outage(6 * S, others_answered=False)
    assert harness.events == [OutageStarted(6 * S, "CLIENT-1", 0, 0, None, probes=1, others_answered=False)]
    with pytest.raises(TrackerError, match=r"^an outage starts once, with an unanswered probe$"):
        harness.tracker.start_outage(7 * S)


def test_the_pause_before_the_newest_probe_is_one_of_the_outage(harness: Harness) -> None:
    for now_ns in (0, 100 * MS, 6 * S):
        harness.tracker.sent(now_ns)
    harness.reply(0, A)
    harness.tracker.start_outage(7 * S)
    assert harness.events == [
        OutageStarted(7 * S, "CLIENT-1", 1, 100 * MS, RepliedProbe(0, 0, A), 5_900 * MS, probes=2)
    ]


def test_no_pause_from_before_its_last_reply_is_one_of_the_outage(harness: Harness) -> None:
    harness.send(1)
    harness.send(31, start_ns=10 * S)  # as many as there is room for: the next would take the place of the first
    harness.reply(20, A)
    harness.tracker.start_outage(20 * S)
    assert harness.events == [
        OutageStarted(20 * S, "CLIENT-1", 21, 12 * S, RepliedProbe(20, 11_900 * MS, A), 100 * MS, probes=11)
    ]


@pytest.mark.parametrize(("after_ns", "probes"), [(THRESHOLD, 57), (THRESHOLD + UNIT, 59)])
def test_an_outage_that_a_late_reply_ends_has_all_probes_sent_meanwhile(
    harness: Harness, after_ns: int, probes: int
) -> None:
    harness.send(60)
    harness.reply(0, A)
    harness.tracker.start_outage(6 * S)
    harness.reply(58, A, after_ns=after_ns)
    assert [event for event in harness.events if isinstance(event, OutageEnded)] == [
        OutageEnded(5_800 * MS + after_ns, "CLIENT-1", 1, 100 * MS, probes, RepliedProbe(58, 5_800 * MS, A))
    ]


# --- changes, event by event -----------------------------------------------------------------------------------------


PORT, POD, INSTANCE = Kind.REFLEXIVE_PORT, Kind.POD, Kind.INSTANCE
B_STRAY = identity("b", None)
B_MOVED = identity("b", 50000)


def test_the_proper_reply_adds_its_kinds_to_the_changes_on_either_side(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.stray(1, B)
    harness.reply(2, A)
    harness.reply(1, B_MOVED, after_ns=130 * MS)
    p, stray, q, r = (
        RepliedProbe(0, 0, A),
        RepliedProbe(1, 100 * MS, B_STRAY),
        RepliedProbe(1, 100 * MS, B_MOVED),
        RepliedProbe(2, 200 * MS, A),
    )
    first = Change(1, (POD, INSTANCE), p, stray, 110 * MS, 100 * MS, 110 * MS)
    second = Change(2, (POD, INSTANCE), stray, r, 210 * MS, 100 * MS, 210 * MS)
    wider = Change(1, (PORT, POD, INSTANCE), p, q, 110 * MS, 100 * MS, 110 * MS)
    wider_too = Change(2, (PORT, POD, INSTANCE), q, r, 210 * MS, 100 * MS, 210 * MS)
    assert harness.events == [
        ChangeSeen(110 * MS, "CLIENT-1", first),
        ChangeSeen(210 * MS, "CLIENT-1", second),
        ChangeRevised(230 * MS, "CLIENT-1", wider, first),
        ChangeRevised(230 * MS, "CLIENT-1", wider_too, second),
    ]
    assert harness.tracker.kind_counts == (0, 2, 2, 0, 2, 0)


def test_a_change_that_lost_a_kind_to_a_bare_reply_keeps_its_number_when_the_rest_moves_too(harness: Harness) -> None:
    harness.send(4)
    harness.reply(0, A)
    harness.reply(3, B_MOVED)
    harness.reply(1, BARE_MOVED, after_ns=400 * MS)
    harness.reply(2, B_MOVED, after_ns=400 * MS)
    p, q = RepliedProbe(0, 0, A), RepliedProbe(3, 300 * MS, B_MOVED)
    bare, early = RepliedProbe(1, 100 * MS, BARE_MOVED), RepliedProbe(2, 200 * MS, B_MOVED)
    whole = Change(1, (PORT, POD, INSTANCE), p, q, 310 * MS, 100 * MS, 200 * MS + THRESHOLD)
    rest = Change(1, (POD, INSTANCE), p, q, 310 * MS, 100 * MS, 200 * MS + THRESHOLD)
    port = Change(2, (PORT,), p, bare, 500 * MS, 100 * MS, 500 * MS)
    moved = Change(1, (POD, INSTANCE), p, early, 600 * MS, 100 * MS, 600 * MS)
    assert harness.events == [
        ChangeSeen(310 * MS, "CLIENT-1", whole),
        ChangeRevised(500 * MS, "CLIENT-1", rest, whole),
        ChangeSeen(500 * MS, "CLIENT-1", port),
        ChangeRevised(600 * MS, "CLIENT-1", moved, rest),
    ]
    assert harness.tracker.kind_counts == (0, 1, 1, 0, 1, 0)
    assert harness.tracker.changes == 2


@pytest.mark.parametrize(("port", "into"), [(40313, 4), (50000, 5)])
def test_a_change_is_withdrawn_in_favour_of_the_one_within_it_that_took_its_kind(
    harness: Harness, port: int, into: int
) -> None:
    harness.send(7)
    harness.reply(4, identity("a", 40313))
    harness.reply(5, identity("a", 40314))  # 1: another change of the port, after it
    harness.reply(1, A_MOVED)  # 2: 1-4, by the port
    harness.reply(0, A)  # 3: 0-1, one before it
    # 4: 1-2 and 5: 2-4, by the pod
    harness.stray(2, B)
    harness.reply(2, identity("b", port), after_ns=500 * MS)
    withdrawn = harness.events[-1]
    assert isinstance(withdrawn, ChangeWithdrawn)
    assert (withdrawn.at_ns, withdrawn.session, withdrawn.into) == (700 * MS, "CLIENT-1", into)
    assert (withdrawn.change.number, withdrawn.change.kinds) == (2, (PORT,))
    assert harness.pairs() == [
        (0, 1, (PORT,)),
        (1, 2, (PORT, POD, INSTANCE) if port == 40313 else (POD, INSTANCE)),
        (2, 4, (POD, INSTANCE) if port == 40313 else (PORT, POD, INSTANCE)),
        (4, 5, (PORT,)),
    ]
    assert harness.tracker.kind_counts == (0, 3, 2, 0, 2, 0)
    assert harness.tracker.changes == 4


def test_a_change_is_revised_as_long_as_its_later_probe_is_kept(harness: Harness) -> None:
    tracker = harness.tracker
    tracker.sent(0)
    harness.reply(0, A)
    tracker.sent(2 * S)
    harness.stray(1, B)
    tracker.expire(61 * S)
    tracker.sent(61 * S)  # the first one is forgotten
    harness.reply(1, B_MOVED, after_ns=59 * S)
    assert harness.pairs() == [(0, 1, (PORT, POD, INSTANCE))]
    assert tracker.changes == 1


def test_the_longest_gap_is_known_after_its_change_is_forgotten(harness: Harness) -> None:
    tracker = harness.tracker
    for seq, (now_ns, who) in enumerate([(S, A), (4 * S, B), (6 * S, A)]):
        tracker.sent(now_ns)
        harness.reply(seq, who)
    assert tracker.longest_gap_ns == 3_010 * MS
    tracker.sent(64 * S)  # forgets the first two
    assert tracker.longest_gap_ns == 3_010 * MS
    tracker.sent(67 * S)  # and the change that had the shorter gap
    assert tracker.longest_gap_ns == 3_010 * MS
    assert tracker._changes.kept == {}


def test_a_later_and_longer_gap_is_the_longest_when_both_are_forgotten(harness: Harness) -> None:
    tracker = harness.tracker
    for seq, (now_ns, who) in enumerate([(S, A), (2 * S, B), (6 * S, A)]):
        tracker.sent(now_ns)
        harness.reply(seq, who)
    tracker.sent(70 * S)
    assert tracker._changes.kept == {}
    assert tracker.longest_gap_ns == 4_010 * MS


def test_a_reply_that_breaks_two_changes_leaves_one_what_it_lacks_and_moves_the_other(harness: Harness) -> None:
    harness.send(6)
    harness.reply(0, A)
    harness.reply(1, BARE_MOVED)
    harness.reply(5, identity("b", 50001))
    assert harness.pairs() == [(0, 1, (PORT,)), (0, 5, (POD, INSTANCE)), (1, 5, (PORT,))]
    harness.reply(3, Identity(TransportAddress("10.240.0.4", 50001), "b"), after_ns=500 * MS)
    assert {number: (c.before.seq, c.after.seq, c.kinds) for number, c in harness.told.items()} == {
        1: (0, 1, (PORT,)),
        2: (0, 5, (INSTANCE,)),
        3: (1, 3, (PORT,)),
        4: (0, 3, (POD,)),
    }
    assert [event.at_ns for event in harness.events[-3:]] == [800 * MS] * 3


# --- bounds and counts -----------------------------------------------------------------------------------------------


def test_every_reply_is_counted_as_what_it_is(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(5)
    for seq in (4, 3, 2):
        harness.reply(seq, A)
    assert (tracker.answered, tracker.reordered) == (3, 2)
    for _ in range(2):
        harness.reply(4, A)
    tracker.expire(10 * S)
    for seq in (0, 1):
        harness.reply(seq, A, after_ns=20 * S)
    assert (tracker.answered, tracker.reordered, tracker.duplicate, tracker.late) == (3, 2, 2, 2)
    assert (tracker.sent_count, tracker.lost, tracker.pending, tracker.pairs) == (5, 2, 0, 4)
    tracker.sent(70 * S)
    for seq in (0, 4):
        tracker.replied(seq, A, None, 70 * S)
    assert (tracker.stale, tracker.late, tracker.duplicate) == (2, 2, 2)


def test_the_first_answer_to_the_first_probe_is_in_order(harness: Harness) -> None:
    harness.send(1)
    harness.reply(0, A)
    assert (harness.tracker.reordered, harness.tracker.newest_replied, harness.tracker.reached_ns) == (0, 0, 0)


def test_an_illegal_call_says_what_is_wrong(harness: Harness) -> None:
    tracker = harness.tracker
    for threshold in (0, HISTORY_NS + 1):
        with pytest.raises(
            TrackerError, match=r"^the loss threshold is more than 0 and at most the kept history \(60 s\)$"
        ):
            SessionTracker("CLIENT-1", threshold, harness.events.append)
    assert SessionTracker("CLIENT-1", HISTORY_NS, harness.events.append).loss_threshold_ns == 60 * S
    tracker.sent(S)
    with pytest.raises(TrackerError, match=r"^a probe is sent before the one before it$"):
        tracker.sent(S - 1)
    for seq in (-1, 1):
        with pytest.raises(TrackerError, match=f"^a reply to probe {seq}, which was not sent$"):
            tracker.replied(seq, A, None, S)
        with pytest.raises(TrackerError, match=f"^a reply to probe {seq}, which was not sent$"):
            tracker.replied_elsewhere(seq, A, S)
    with pytest.raises(TrackerError, match=r"^a pending probe is older than the kept history: expire it first$"):
        tracker.sent(61 * S)
    tracker._ring.next = MAX_PROBES
    with pytest.raises(TrackerError, match=r"^the session has used all its sequence numbers$"):
        tracker.sent(S)


def test_two_probes_may_be_sent_at_once(harness: Harness) -> None:
    assert (harness.tracker.sent(S), harness.tracker.sent(S)) == (0, 1)


@pytest.mark.parametrize(("after_ns", "answered", "late"), [(THRESHOLD, 1, 0), (THRESHOLD + 1, 0, 1)])
def test_a_reply_at_the_deadline_is_in_time(harness: Harness, after_ns: int, answered: int, late: int) -> None:
    harness.send(1)
    harness.reply(0, A, after_ns=after_ns)
    assert (harness.tracker.answered, harness.tracker.late) == (answered, late)


def test_a_probe_is_kept_for_60_s_and_forgotten_within_a_second_more(harness: Harness) -> None:
    tracker = harness.tracker
    tracker.sent(0)
    harness.reply(0, A)
    tracker.sent(59_900 * MS)  # looks for what is to be forgotten, and will not again for a second
    tracker.replied(0, A, None, 59_900 * MS)
    tracker.sent(60_800 * MS)
    tracker.replied(0, A, None, 60_800 * MS)
    assert (tracker.duplicate, tracker.stale) == (2, 0)
    tracker.sent(60_900 * MS)
    tracker.replied(0, A, None, 60_900 * MS)
    assert (tracker.duplicate, tracker.stale) == (2, 1)


@pytest.mark.parametrize(("now_ns", "stale"), [(60 * S - UNIT, 0), (60 * S, 1)])
def test_a_probe_sent_exactly_60_s_ago_is_forgotten(harness: Harness, now_ns: int, stale: int) -> None:
    harness.tracker.sent(0)
    harness.reply(0, A)
    harness.tracker.sent(now_ns)
    harness.tracker.replied(0, A, None, now_ns)
    assert (harness.tracker.stale, harness.tracker.duplicate) == (stale, 1 - stale)


def test_there_is_room_for_the_usual_probes_from_the_start() -> None:
    tracker = SessionTracker("CLIENT-1", THRESHOLD, lambda _event: None, usual_probes=100)
    assert tracker._ring.capacity == 100


def test_unanswered_time_is_that_between_the_first_and_the_last_unanswered_probe(harness: Harness) -> None:
    harness.send(4, step_ns=S)
    assert harness.tracker.unanswered_ns == 3 * S
    harness.reply(1, A)
    assert harness.tracker.unanswered_ns == S
    harness.reply(3, A)
    assert harness.tracker.unanswered_ns == 0
    assert harness.tracker.unanswered() is None


def test_losses_in_one_read_are_told_by_stretches(harness: Harness) -> None:
    harness.send(7)
    harness.reply(2, A)
    harness.reply(5, A)
    harness.tracker.expire(10 * S)
    assert harness.events == [
        ProbesLost(10 * S, "CLIENT-1", 0, 2, 0, 100 * MS),
        ProbesLost(10 * S, "CLIENT-1", 3, 2, 300 * MS, 400 * MS),
        ProbesLost(10 * S, "CLIENT-1", 6, 1, 600 * MS, 600 * MS),
    ]
    assert (harness.tracker.lost, harness.tracker.pending) == (5, 0)
    assert harness.tracker.deadline_ns is None


def test_a_change_since_a_forgotten_reply_settles_with_the_oldest_kept_probe(harness: Harness) -> None:
    tracker = harness.tracker
    tracker.sent(0)
    harness.reply(0, A)
    tracker.sent(59_500 * MS)
    tracker.sent(60_500 * MS)  # the first one is forgotten
    harness.reply(2, B)
    before, after = RepliedProbe(0, 0, A), RepliedProbe(2, 60_500 * MS, B)
    change = Change(1, (POD, INSTANCE), before, after, 60_510 * MS, 59_500 * MS, 61_500 * MS)
    assert harness.events == [ChangeSeen(60_510 * MS, "CLIENT-1", change)]


def test_a_change_between_two_probes_sent_at_once_has_no_pause(harness: Harness) -> None:
    harness.send(2, step_ns=0)
    harness.reply(0, A)
    harness.reply(1, B)
    (change,) = harness.told.values()
    assert change.longest_pause_ns == 0


def test_a_change_settles_with_the_newest_pending_probe_though_one_after_it_was_answered(harness: Harness) -> None:
    harness.send(4)
    harness.reply(0, A)
    harness.reply(2, BARE)
    harness.reply(3, B)
    (change,) = harness.told.values()
    assert (change.before.seq, change.after.seq, change.settled_ns) == (0, 3, 100 * MS + THRESHOLD)


def test_a_change_since_a_forgotten_reply_does_not_wait_for_a_newer_probe_in_a_full_ring(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(2, step_ns=0)
    harness.reply(0, A)
    tracker.expire(10 * S)
    harness.send(31, start_ns=62 * S, step_ns=0)  # 0 and 1 are forgotten
    tracker.expire(65 * S)
    tracker.sent(65 * S)  # takes the place of 1, as there is room for 32
    tracker.replied(32, B, None, 66 * S)
    (change,) = harness.told.values()
    assert (change.before.seq, change.after.seq, change.settled_ns) == (0, 32, 66 * S)
    assert tracker._ring.capacity == 32


def test_the_proper_reply_that_adds_no_kind_revises_nothing(harness: Harness) -> None:
    harness.send(3)
    harness.reply(0, A)
    harness.stray(1, B)
    harness.reply(2, A)
    harness.reply(1, B)
    assert [type(event) for event in harness.events] == [ChangeSeen, ChangeSeen]
    assert harness.pairs() == [(0, 1, (POD, INSTANCE)), (1, 2, (POD, INSTANCE))]


def test_a_session_without_a_change_has_no_gap_and_one_at_once_has_none_either(harness: Harness) -> None:
    assert harness.tracker.longest_gap_ns == 0
    harness.send(2, step_ns=0)
    harness.reply(0, A, after_ns=0)
    harness.reply(1, B, after_ns=0)
    assert harness.tracker.longest_gap_ns == 0
    assert harness.tracker.changes == 1


def test_an_identity_that_comes_again_is_kept_once(harness: Harness) -> None:
    harness.send(4)
    for seq, who in enumerate((A, B, A, B)):
        harness.reply(seq, who)
    assert harness.tracker._ring.identities == (None, A, B)


def test_who_serves_is_known_after_an_older_reply_frees_the_codes_that_are_out_of_use(harness: Harness) -> None:
    tracker = harness.tracker
    harness.send(30)
    for seq in range(30):
        harness.reply(seq, identity(f"p{seq}"))
    last = tracker.serving
    assert last == identity("p29")
    harness.send(3, start_ns=70 * S)  # the 30 are forgotten
    harness.reply(31, last)
    harness.reply(30, A)
    assert tracker._ring.identities == (None, last, A)
    assert tracker.serving is last
    harness.reply(32, last)
    assert tracker.serving is last
    assert harness.pairs()[-2:] == [(29, 30, (POD, INSTANCE)), (30, 31, (POD, INSTANCE))]


def test_the_round_trip_of_the_newest_probe_is_exact(harness: Harness) -> None:
    tracker = harness.tracker
    tracker.sent(7)
    tracker.replied(0, A, None, 7 + THRESHOLD)
    assert (tracker.answered, tracker.late) == (1, 0)
    tracker.sent(S + 7)
    tracker.replied(1, A, None, S + 7 + THRESHOLD + 1)
    assert harness.events[-1] == LateReply(S + 7 + THRESHOLD + 1, "CLIENT-1", 1, THRESHOLD + 1)
