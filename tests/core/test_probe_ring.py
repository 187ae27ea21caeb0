from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, ProbeRing


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
