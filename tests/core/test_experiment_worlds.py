"""What an experiment came to, against worlds that know it: no false red, and none missed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_tester.core.experiment.results import Held
from experiment_worlds import World
from trials import HISTORIES

pytestmark = pytest.mark.worlds

NAMES = (
    "baseline",
    "pod-delete",
    "pod-kill",
    "scale-up",
    "scale-down",
    "rollout",
    "not-ready",
    "policy-flip",
    "command",
)


def random_world(seed: int, *, nat: bool = False) -> World:
    rng = random.Random(seed)
    return World(
        seed,
        rng.choice(NAMES),
        policy=rng.choice(["Cluster", "Local"]),
        via=rng.choice(["load-balancer", "node-port"]),
        rogue=rng.choice([0, 0, 1, 2]),
        stuck=rng.random() < 0.15 and not nat,  # fewer than 8 that are answered show no NAT
        another=rng.random() < 0.2,
        early=rng.random() < 0.2,
        nat=nat,
        sessions=12 if nat else rng.choice([3, 6, 12, 24]),
        loss=rng.choice([0, 0.01, 0.05]),
    )


@settings(max_examples=HISTORIES, deadline=None)
@given(st.integers(0, 2**32))
def test_an_experiment_finds_who_moved_needlessly(seed: int) -> None:
    world = random_world(seed)
    outcome, needless = world.outcome, world.moved_needlessly
    if world.not_steady:  # probes that are lost by chance may be a silence
        assert outcome.held is Held.UNKNOWN
        return
    assert outcome.least is not None
    assert set(outcome.least) == world.had_to
    assert set(outcome.beyond) <= needless
    # The needless move of one that had to move anyway may hide beside the other.
    assert needless - world.had_to <= set(outcome.beyond) | set(outcome.excused)
    if not needless and not world.left_behind:
        assert outcome.held is not Held.NO
    if needless & set(outcome.beyond) or world.left_behind - set(outcome.excused):
        assert outcome.held is Held.NO


@settings(max_examples=HISTORIES, deadline=None)
@given(st.integers(0, 2**32))
def test_a_client_nat_that_maps_all_flows_anew_breaks_no_requirement(seed: int) -> None:
    world = random_world(seed, nat=True)
    assert set(world.outcome.beyond) <= world.moved_needlessly
