"""What stays of forgotten probes, by example: the newest reply of each kind, and the longest pause since."""

from __future__ import annotations

from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import RepliedProbe
from affinity_tester.core.identity import Identity
from affinity_tester.core.session.last_known import NO_REPLIES, LastKnown, LastReplies, forget
from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, ProbeRing

S = 1_000_000_000

FULL = Identity(TransportAddress("10.240.0.4", 40312), "a", "n1", b"a", "affinity-tester/0")
"""Carries all kinds but the software, which counts only where no pod is named."""
BARE = Identity(TransportAddress("10.240.0.4", 40312))
UNSEEN = Identity(None, "a")
FOREIGN = Identity(software="coturn")


class Probe(NamedTuple):
    """A kept probe: when it was sent, who replied to it, and the flags of its state."""

    sent_s: int
    who: Identity | None = None
    flags: int = 0


def keep(ring: ProbeRing, *probes: Probe) -> None:
    for probe in probes:
        code = 0 if probe.who is None else ring.code_of(probe.who) or ring.add_identity(probe.who)
        ring.states[ring.append(probe.sent_s * S)] = code << CODE_SHIFT | probe.flags


def forget_all(known: LastReplies, ring: ProbeRing, *probes: Probe, after_s: int) -> LastReplies:
    """Keep these probes and forget them all; what comes after them comes at `after_s`."""
    keep(ring, *probes)
    known = forget(known, ring, ring.next, after_s * S)
    ring.base = ring.next
    return known


def last(seq: int, sent_s: int, who: Identity, pause_s: int) -> LastKnown:
    return LastKnown(RepliedProbe(seq, sent_s * S, who), pause_s * S)


def test_of_replies_that_are_all_alike_the_newest_is_remembered_with_the_pause_after_it() -> None:
    known = forget_all(NO_REPLIES, ProbeRing(), Probe(0, FULL), Probe(9, FULL), Probe(10, FULL), after_s=13)
    newest = last(2, 10, FULL, 3)
    assert known == (newest, newest, newest, newest, newest, None, newest)


def test_what_is_not_forgotten_is_not_remembered() -> None:
    ring = ProbeRing()
    keep(ring, Probe(0, FULL), Probe(4, FULL), Probe(5, BARE))
    first = last(0, 0, FULL, 4)
    assert forget(NO_REPLIES, ring, 1, 4 * S) == (first, first, first, first, first, None, first)


def test_a_kind_that_newer_replies_lack_keeps_its_older_reply_and_the_longest_pause_of_all_since() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(0, FULL), Probe(1, FULL), after_s=2)
    known = forget_all(known, ring, Probe(2, BARE), Probe(3, BARE), Probe(13, BARE), after_s=14)
    bare, full = last(4, 13, BARE, 1), last(1, 1, FULL, 10)
    assert known == (bare, bare, full, full, full, None, bare)

    known = forget_all(known, ring, Probe(14, BARE), Probe(34, BARE), after_s=36)  # the same once more
    bare, full = last(6, 34, BARE, 2), last(1, 1, FULL, 20)
    assert known == (bare, bare, full, full, full, None, bare)

    known = forget_all(known, ring, Probe(36, BARE), Probe(37, BARE), after_s=38)  # a shorter pause shortens nothing
    bare, full = last(8, 37, BARE, 1), last(1, 1, FULL, 20)
    assert known == (bare, bare, full, full, full, None, bare)


def test_replies_that_carry_none_of_the_kinds_known_before_leave_those_with_the_longest_pause_since() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(0, UNSEEN), after_s=1)
    known = forget_all(known, ring, Probe(1, BARE), Probe(6, BARE), after_s=7)
    bare, unseen = last(2, 6, BARE, 1), last(0, 0, UNSEEN, 5)
    assert known == (bare, bare, unseen, None, None, None, bare)


def test_replies_that_carry_only_a_new_kind_leave_those_known_before_with_the_longest_pause_since() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(0, FULL), after_s=1)
    known = forget_all(known, ring, Probe(1, FOREIGN), Probe(6, FOREIGN), after_s=7)
    foreign, full = last(2, 6, FOREIGN, 1), last(0, 0, FULL, 5)
    assert known == (full, full, full, full, full, foreign, foreign)


def test_each_of_several_replies_is_remembered_for_what_the_newer_ones_lack() -> None:
    known = forget_all(
        NO_REPLIES, ProbeRing(), Probe(0, FULL), Probe(1, UNSEEN), Probe(6, BARE), Probe(8, BARE), after_s=12
    )
    full, unseen, bare = last(0, 0, FULL, 5), last(1, 1, UNSEEN, 5), last(3, 8, BARE, 4)
    assert known == (bare, bare, unseen, full, full, None, bare)


def test_unanswered_probes_lengthen_no_pause_beyond_that_between_two_sends() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(0, FULL), Probe(2, flags=LOST), Probe(5, flags=LOST), after_s=6)
    full = last(0, 0, FULL, 3)
    assert known == (full, full, full, full, full, None, full)

    known = forget_all(known, ring, Probe(6, flags=LOST), Probe(10, flags=LOST), after_s=12)
    full = last(0, 0, FULL, 4)
    assert known == (full, full, full, full, full, None, full)


def test_probes_sent_at_once_have_no_pause_between_them() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(1, flags=LOST), Probe(1, FULL), Probe(1, BARE), after_s=1)
    bare, full = last(2, 1, BARE, 0), last(1, 1, FULL, 0)
    assert known == (bare, bare, full, full, full, None, bare)

    known = forget_all(known, ring, Probe(1, flags=LOST), Probe(1, flags=LOST), after_s=1)
    assert known == (bare, bare, full, full, full, None, bare)


def test_a_late_reply_is_remembered_like_any() -> None:
    known = forget_all(NO_REPLIES, ProbeRing(), Probe(0, FULL), Probe(3, FULL, LOST), after_s=4)
    full = last(1, 3, FULL, 1)
    assert known == (full, full, full, full, full, None, full)


def test_a_reply_from_elsewhere_is_remembered_for_its_kinds_and_not_as_the_last_from_the_right_source() -> None:
    stray = Identity(None, "b", "n2", b"b")
    known = forget_all(
        NO_REPLIES, ProbeRing(), Probe(0, FULL), Probe(2, stray, ELSEWHERE), Probe(5, stray, ELSEWHERE), after_s=6
    )
    full, other = last(0, 0, FULL, 3), last(2, 5, stray, 1)
    assert known == (full, full, other, other, other, None, full)


def test_the_same_reply_from_elsewhere_and_then_from_the_right_source_is_remembered_as_either() -> None:
    ring = ProbeRing()
    known = forget_all(NO_REPLIES, ring, Probe(0, UNSEEN), Probe(2, UNSEEN, ELSEWHERE), after_s=3)
    assert (known[2], known[-1]) == (last(1, 2, UNSEEN, 1), last(0, 0, UNSEEN, 2))

    known = forget_all(known, ring, Probe(3, UNSEEN, ELSEWHERE), Probe(9, UNSEEN, ELSEWHERE), after_s=10)
    assert (known[2], known[-1]) == (last(3, 9, UNSEEN, 1), last(0, 0, UNSEEN, 6))
