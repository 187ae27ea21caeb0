from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.session.probe_ring import CODE_SHIFT, ELSEWHERE, LOST, History


@pytest.mark.parametrize(
    ("usual", "capacities"),
    [
        (0, [32, 42, 56, 74, 98, 130]),
        (100, [100, 133, 177]),
    ],
)
def test_it_has_room_for_what_is_usual_and_grows_by_a_third(usual: int, capacities: list[int]) -> None:
    history = History(usual)
    seen = [history.capacity]
    for seq in range(capacities[-2] + 1):
        assert history.append(seq * 1_000) == seq
        history.make_room(seq)
        history.cells[seq % history.capacity] = seq << CODE_SHIFT
        if history.capacity != seen[-1]:
            seen.append(history.capacity)
    assert seen == capacities
    assert [history.cell(seq) >> CODE_SHIFT for seq in range(history.next)] == list(range(history.next))
    assert [history.sent_ns(seq) // 16 for seq in range(history.next)] == [
        seq * 1_000 // 16 for seq in range(history.next)
    ]


def test_a_cell_takes_a_byte_until_a_code_needs_two_and_then_four() -> None:
    history = History()
    flags = LOST | ELSEWHERE
    for code, size in ((0x3F, 1), (0x40, 2), (0x3FFF, 2), (0x4000, 4), (0x3FFF_FFFF, 4)):
        history.make_room(code)
        assert history.cells.itemsize == size
        seq = history.append(0)
        history.cells[seq] = code << CODE_SHIFT | flags
    assert [history.cell(seq) for seq in range(5)] == [0xFF, 0x103, 0xFFFF, 0x1_0003, 0xFFFF_FFFF]
    history = History()
    history.make_room(0x4000)  # at once
    assert history.cells.itemsize == 4


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 1, 2])), min_size=1))
def test_it_keeps_what_it_was_given_however_its_ring_turns(behind: int, probes: list[tuple[int, int]]) -> None:
    history = History()
    sent: list[int] = []
    cells: list[int] = []
    now_ns = 0
    for wait, cell in [(1, 1)] * behind + probes:
        now_ns += 16 * wait
        seq = history.append(now_ns)
        history.cells[seq % history.capacity] = cell
        sent.append(now_ns)
        cells.append(cell)
        if behind and history.next > behind:
            history.base = history.next - behind
    kept = range(history.base, history.next)
    assert [history.sent_ns(seq) for seq in kept] == [sent[seq] for seq in kept]
    assert [history.cell(seq) for seq in kept] == [cells[seq] for seq in kept]
    for horizon_ns in {now_ns, now_ns - 16, now_ns // 2, sent[history.base] - 1}:
        assert history.first_after(horizon_ns) == next((seq for seq in kept if sent[seq] > horizon_ns), history.next)
    for first in kept:
        for end in range(first + 1, history.next + 1):
            alike = len(set(cells[first:end])) == 1
            assert history.alike(first, end) == (cells[first] if alike else None)
