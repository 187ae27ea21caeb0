"""The silences that are tried, and how a round is laid out."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.idle.grid import (
    MAX_SAMPLES,
    MIN_DISTANCE,
    OVERHEAD_NS,
    RATIO,
    REFINED,
    SHORTEST_NS,
    SPACING_NS,
    grid,
    plan_round,
    refine,
    round_ns,
    steps_of,
)
from affinity_tester.core.idle.model import Direction, FlowState, Step
from affinity_tester.core.idle.settings import IdleSettings

S = 1_000_000_000
MIN = 60 * S
STEP = Step(Direction.CLIENT, FlowState.STREAM, 5 * S)


def test_ten_minutes_are_thirty_steps() -> None:
    steps = grid(10 * MIN)
    assert len(steps) == 30
    assert [step / S for step in steps[:4]] == [1, 1.25, 1.56, 1.95]
    assert [step / S for step in steps[-2:]] == [517, 600]


def test_the_longest_is_a_step_and_has_none_close_before_it() -> None:
    assert grid(SHORTEST_NS) == (SHORTEST_NS,)
    assert grid(2 * S) == (S, 1_250_000_000, 1_560_000_000, 2 * S)
    assert grid(1_050_000_000) == (1_050_000_000,)
    assert grid(1_050_000_001) == (S, 1_050_000_001)


@given(st.integers(SHORTEST_NS, 60 * MIN))
def test_steps_grow_by_no_more_than_the_ratio(longest_ns: int) -> None:
    steps = grid(longest_ns)
    assert steps[0] == SHORTEST_NS or longest_ns <= SHORTEST_NS * MIN_DISTANCE
    assert steps[-1] == longest_ns
    for shorter, longer in itertools.pairwise(steps):
        assert MIN_DISTANCE * 0.99 < longer / shorter < RATIO * MIN_DISTANCE * 1.01


def test_less_than_the_shortest_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than the shortest"):
        grid(SHORTEST_NS - 1)


@given(st.integers(S, 30 * MIN))
def test_finer_steps_lie_between_and_are_even(kept_ns: int) -> None:
    lost_ns = round(kept_ns * RATIO)
    steps = refine(kept_ns, lost_ns)
    assert len(steps) == REFINED
    for shorter, longer in itertools.pairwise((kept_ns, *steps, lost_ns)):
        assert 1.03 < longer / shorter < 1.06


@given(st.integers(S, 60 * MIN), st.integers(0, MIN))
def test_finer_steps_are_longer_than_what_was_kept_and_shorter_than_what_was_lost(kept_ns: int, more_ns: int) -> None:
    lost_ns = kept_ns + more_ns
    steps = refine(kept_ns, lost_ns)
    assert all(kept_ns < step < lost_ns for step in steps)
    assert list(steps) == sorted(set(steps))


def test_between_what_lies_close_there_are_fewer_steps() -> None:
    assert refine(S, 1_020_000_000) == (1_010_000_000,)
    assert refine(S, S) == ()


def test_each_silence_is_tried_in_each_state_and_direction() -> None:
    steps = steps_of((S, 2 * S), tuple(Direction))
    assert len(steps) == len(set(steps)) == 2 * 2 * 2


def test_steps_take_turns_and_start_apart() -> None:
    other = Step(Direction.CLIENT, FlowState.ONE_EXCHANGE, S)
    planned = plan_round([(STEP, 3), (other, 1)])
    assert [each.step for each in planned] == [STEP, other, STEP, STEP]
    assert [each.start_ns for each in planned] == [0, SPACING_NS, 2 * SPACING_NS, 3 * SPACING_NS]
    assert round_ns(planned) == 3 * SPACING_NS + 5 * S + OVERHEAD_NS


def test_a_round_of_nothing_is_empty() -> None:
    assert plan_round([]) == ()
    assert round_ns(()) == OVERHEAD_NS


def test_the_default_round_has_all_its_samples() -> None:
    wanted = [(step, 20) for step in steps_of(grid(10 * MIN), (Direction.CLIENT,))]
    assert Counter(each.step for each in plan_round(wanted)) == dict(wanted)


def test_the_default_samples_in_both_directions_fit_into_one_process() -> None:
    settings = IdleSettings()
    steps = steps_of(grid(settings.longest_ns), tuple(Direction))
    assert settings.directions == (Direction.CLIENT,)
    assert len(steps) * settings.samples == 2_400 < MAX_SAMPLES


def test_more_samples_than_sockets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"20,001 samples are more than 20,000"):
        plan_round([(STEP, MAX_SAMPLES + 1)])
    assert len(plan_round([(STEP, MAX_SAMPLES)])) == MAX_SAMPLES


def test_the_default_settings_fit_into_what_may_be_open_at_a_time() -> None:
    settings = IdleSettings()
    steps = steps_of(grid(settings.longest_ns), settings.directions)
    assert len(steps) * settings.samples <= MAX_SAMPLES
    assert max(step.silence_ns for step in steps) == settings.longest_ns
