from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.events import RepliedProbe
from affinity_tester.core.identity import Identity
from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, SPAN_LIMIT_NS, ProbeRing


@pytest.mark.parametrize(
    ("usual", "capacities"),
    [
        (0, [32, 42, 56, 74, 98, 130]),
        (100, [100, 133, 177]),
    ],
)
def test_it_has_room_for_what_is_usual_and_grows_by_a_third(usual: int, capacities: list[int]) -> None:
    ring = ProbeRing(usual)
    seen = [ring.capacity]
    for seq in range(capacities[-2] + 1):
        assert ring.append(seq * 1_000) == seq
        ring.widen(seq)
        ring.states[seq % ring.capacity] = seq << CODE_SHIFT
        if ring.capacity != seen[-1]:
            seen.append(ring.capacity)
    assert seen == capacities
    assert [ring.state(seq) >> CODE_SHIFT for seq in range(ring.next)] == list(range(ring.next))
    assert [ring.sent_ns(seq) // 16 for seq in range(ring.next)] == [seq * 1_000 // 16 for seq in range(ring.next)]


def test_a_cell_takes_a_byte_until_a_code_needs_two_and_then_four() -> None:
    ring = ProbeRing()
    flags = LOST | ELSEWHERE
    for code, size in ((0x3F, 1), (0x40, 2), (0x3FFF, 2), (0x4000, 4), (0x3FFF_FFFF, 4)):
        ring.widen(code)
        assert ring.states.itemsize == size
        seq = ring.append(0)
        ring.states[seq] = code << CODE_SHIFT | flags
    assert [ring.state(seq) for seq in range(5)] == [0xFF, 0x103, 0xFFFF, 0x1_0003, 0xFFFF_FFFF]
    ring = ProbeRing()
    ring.widen(0x4000)  # at once
    assert ring.states.itemsize == 4


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 1, 2])), min_size=1))
def test_it_keeps_what_it_was_given_however_its_ring_turns(behind: int, probes: list[tuple[int, int]]) -> None:
    ring = ProbeRing()
    sent: list[int] = []
    states: list[int] = []
    now_ns = 0
    for wait, state in [(1, 1)] * behind + probes:
        now_ns += 16 * wait
        seq = ring.append(now_ns)
        ring.states[seq % ring.capacity] = state
        sent.append(now_ns)
        states.append(state)
        if behind and ring.next > behind:
            ring.base = ring.next - behind
    kept = range(ring.base, ring.next)
    assert [ring.sent_ns(seq) for seq in kept] == [sent[seq] for seq in kept]
    assert [ring.state(seq) for seq in kept] == [states[seq] for seq in kept]
    for horizon_ns in {now_ns, now_ns - 16, now_ns // 2, sent[ring.base] - 1}:
        assert ring.first_after(horizon_ns) == next((seq for seq in kept if sent[seq] > horizon_ns), ring.next)
    for first in kept:
        for end in range(first + 1, ring.next + 1):
            is_uniform = len(set(states[first:end])) == 1
            assert ring.uniform_state(first, end) == (states[first] if is_uniform else None)


def ring_of(*states: int) -> ProbeRing:
    """A ring of probes with these states, sent each 160 ns."""
    ring = ProbeRing()
    for state in states:
        ring.states[ring.append(160 * ring.next)] = state
    return ring


def test_a_probe_is_pending_until_it_is_lost_or_answered_from_the_right_source() -> None:
    code = 1 << CODE_SHIFT
    ring = ring_of(0, LOST, code, code | LOST, code | ELSEWHERE, code | ELSEWHERE | LOST)
    assert [ring.is_pending(seq) for seq in range(6)] == [True, False, False, False, True, False]
    assert [ring.is_answered(seq) for seq in range(6)] == [False, False, True, False, False, False]


def test_a_send_time_is_known_to_16_ns_below_for_as_long_as_it_is_unambiguous() -> None:
    ring = ProbeRing()
    ring.append(1_007)
    ring.append(SPAN_LIMIT_NS + 991)
    assert [ring.sent_ns(seq) for seq in range(2)] == [992, SPAN_LIMIT_NS + 976]
    ring.append(SPAN_LIMIT_NS + 1_008)  # now the first one is too old
    assert [ring.sent_ns(seq) for seq in range(3)] == [SPAN_LIMIT_NS + 992, SPAN_LIMIT_NS + 976, SPAN_LIMIT_NS + 1_008]


def test_first_after_is_the_first_probe_sent_later_than_the_horizon() -> None:
    ring = ring_of(0, 0, 0, 0)
    assert [ring.first_after(ns) for ns in (0, 159, 160, 320, 479, 480, 999)] == [1, 1, 2, 3, 3, 4, 4]
    ring.base = 2
    assert ring.first_after(0) == 2


def test_a_probe_is_between_replies_of_one_identity_whatever_unanswered_ones_lie_around_it() -> None:
    one, two = 1 << CODE_SHIFT, 2 << CODE_SHIFT
    ring = ring_of(one, LOST, 0, 0, one | LOST, two | ELSEWHERE, 0)
    assert ring.is_between(2, 1)
    assert ring.is_between(1, 1)
    assert not ring.is_between(2, 2)
    assert not ring.is_between(0, 1)  # nothing before it
    assert not ring.is_between(4, 1)  # another one after it
    assert not ring.is_between(5, 1)  # nothing after it
    assert not ring.is_between(6, 2)
    ring.base = 1
    assert not ring.is_between(2, 1)  # the one before it is forgotten


def test_a_replied_probe_has_the_identity_of_its_code() -> None:
    ring = ring_of(0, 0)
    a, b = Identity(pod="a"), Identity(pod="b")
    assert (ring.code_of(a), ring.add_identity(a), ring.add_identity(b)) == (0, 1, 2)
    ring.states[1] = 2 << CODE_SHIFT | LOST
    assert (ring.code_of(a), ring.code_of(b)) == (1, 2)
    assert ring.replied_probe(1) == RepliedProbe(1, 160, b)


def test_identities_are_looked_up_from_the_eighth_on() -> None:
    ring = ring_of(0)
    who = [Identity(pod=str(n)) for n in range(10)]
    for index, each in enumerate(who):
        assert ring.code_of(each) == 0
        assert ring.add_identity(each) == index + 1
        assert (ring.codes is not None) == (index >= 7)
    assert [ring.code_of(each) for each in who] == list(range(1, 11))
    assert [ring.identity(code << CODE_SHIFT) for code in range(1, 11)] == who
    assert ring.codes == {each: index + 1 for index, each in enumerate(who)}


def test_codes_are_worth_freeing_where_they_are_eight_more_than_twice_the_probes() -> None:
    ring = ring_of(0, 0)
    ring.base = 1
    for n in range(9):
        ring.add_identity(Identity(pod=str(n)))
    assert not ring.has_unused_codes  # none, and nine
    ring.add_identity(Identity(pod="9"))
    assert ring.has_unused_codes


def test_the_codes_that_stay_close_ranks_and_the_states_keep_their_flags() -> None:
    ring = ring_of(2 << CODE_SHIFT, 3 << CODE_SHIFT | LOST, 0, LOST, 5 << CODE_SHIFT | ELSEWHERE | LOST)
    who = [Identity(pod=str(n)) for n in range(6)]
    for each in who:
        ring.add_identity(each)
    ring.base = 1  # nobody kept has the second code
    assert ring.compact(6) == {0: 0, 3: 1, 5: 2, 6: 3}
    assert ring.identities == (None, who[2], who[4], who[5])
    assert ring.codes is None
    assert [ring.state(seq) for seq in range(1, 5)] == [
        1 << CODE_SHIFT | LOST,
        0,
        LOST,
        2 << CODE_SHIFT | ELSEWHERE | LOST,
    ]
