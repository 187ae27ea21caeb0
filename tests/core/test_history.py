from __future__ import annotations

import pytest

from affinity_tester.core.history import History


@pytest.mark.parametrize(
    ("usual", "capacities"),
    [
        (0, [32, 42, 56, 74, 98, 130]),
        (100, [32, 64, 100, 133]),
        (64, [32, 64, 85, 113]),
        (10, [32, 42, 56, 74, 98, 130]),
    ],
)
def test_it_grows_to_what_is_usual_and_then_by_a_third(usual: int, capacities: list[int]) -> None:
    history = History(usual)
    seen = [history.capacity]
    for seq in range(capacities[-2] + 1):
        assert history.append(seq * 1_000) == seq
        history.cells[seq % history.capacity] = seq
        if history.capacity != seen[-1]:
            seen.append(history.capacity)
    assert seen == capacities
    assert [history.cell(seq) for seq in range(history.next)] == list(range(history.next))
    assert [history.sent_ns(seq) // 16 for seq in range(history.next)] == [
        seq * 1_000 // 16 for seq in range(history.next)
    ]
