"""The hash over nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.lab.rendezvous import draw, weight_to_win, winner

NODES = {"a": 1.0, "b": 1.0, "c": 2.0}


@given(st.integers(), st.text(max_size=5))
def test_a_draw_lies_strictly_between_0_and_1_and_depends_on_its_key_alone(seed: int, key: str) -> None:
    assert 0 < draw(seed, key) < 1
    assert draw(seed, key) == draw(seed, key)


def test_flows_spread_by_weight() -> None:
    counts = dict.fromkeys(NODES, 0)
    for flow in range(4000):
        node = winner(NODES, 1, flow)
        assert node is not None
        counts[node] += 1
    assert {node: round(count / 1000) for node, count in counts.items()} == {"a": 1, "b": 1, "c": 2}


def test_no_node_no_winner() -> None:
    assert winner({}, 1, 1) is None


@pytest.mark.parametrize("share", [0, 1, 7, 20])
def test_the_newcomers_weight_takes_the_share_asked_for(share: int) -> None:
    flows = range(20)
    weight = weight_to_win("new", NODES, 1, flows, share)
    assert sum(winner({**NODES, "new": weight}, 1, flow) == "new" for flow in flows) == share


def test_without_flows_any_weight_will_do() -> None:
    assert weight_to_win("new", NODES, 1, [], 0) == 1.0


@pytest.mark.parametrize("share", [-1, 3])
def test_more_than_there_are_cannot_move(share: int) -> None:
    with pytest.raises(ValueError, match=f"{share} of 2 flows cannot move"):
        weight_to_win("new", NODES, 1, [1, 2], share)
