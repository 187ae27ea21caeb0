"""Loss alone is no violation, however much there is: at long intervals it makes silences that look like dead flows."""

from __future__ import annotations

import random

import pytest
from diagnosing import MS, S, World
from network_faults import silent

from affinity_tester.core.events import Judgement, OutageCase, OutageStarted
from pools import is_judged


def lossy(share: float, interval: int, seconds: float, *, watched: bool, dead_s: float | None = None) -> World:
    rng = random.Random(6)
    return World(
        watched=watched,
        sessions=24,
        interval=interval,
        seconds=seconds,
        settle=10 * S,
        actions=[] if dead_s is None else [(dead_s, silent(1, 2))],
        is_lost=lambda _world, _session, _seq: rng.random() < share,
    ).run()


def violations(world: World) -> set[str]:
    return {e.session for e in world.events if is_judged(e, OutageCase) and e.judgement is Judgement.VIOLATION}


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize(("share", "interval"), [(0.5, 1000 * MS), (0.6, 500 * MS), (0.3, 2000 * MS)])
def test_loss_alone_is_no_violation(share: float, interval: int, watched: bool) -> None:
    world = lossy(share, interval, 120, watched=watched)
    assert any(isinstance(event, OutageStarted) for event in world.events) or share < 0.5
    assert violations(world) == set()


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize(("share", "interval"), [(0.0, 1000 * MS), (0.05, 1000 * MS), (0.3, 100 * MS)])
def test_a_dead_flow_is_one_for_all_that_loss(share: float, interval: int, watched: bool) -> None:
    world = lossy(share, interval, 60, watched=watched, dead_s=20)
    assert violations(world) == {"CLIENT-1", "CLIENT-2"}
