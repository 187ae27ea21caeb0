"""Simulated worlds: what is the same is seldom called worse, and what is worse is found."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from affinity_tester.core.comparison.experiments import compare_experiments
from affinity_tester.core.comparison.results import Comparison, Direction, Measure
from affinity_tester.core.comparison.runs import compare_runs
from affinity_tester.core.experiment.results import CellOutcome, ExperimentReport
from comparing import World, outcome, report, result
from trials import HISTORIES

pytestmark = pytest.mark.worlds

PAIRS = max(60, HISTORIES * 2 // 3)
"""1,000 by default."""


@pytest.fixture(autouse=True)
def _no_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what would have shown: it takes most of the time, and decides nothing."""
    monkeypatch.setattr("affinity_tester.core.comparison.weigh.least_shift", lambda *_: None)


def most(pairs: int, rate: float = 0.05) -> float:
    """Return how many of so many pairs may err: the rate, and three standard deviations more."""
    return pairs * rate + 3 * (pairs * rate * (1 - rate)) ** 0.5


def worse(comparison: Comparison) -> set[Measure]:
    return {row.measure for row in comparison.rows if row.direction is Direction.WORSE}


SAME = {
    "quiet": World(incidents_per_hour=0, loss=0),
    "busy": World(),
    "short and long": World(periods=20, incidents_per_hour=60),
    "bursts and drift": World(loss=0.01, burst=100, rtt_drift=0.8),
    "slow drift": World(rtt_drift=0.97),
}


@pytest.mark.parametrize("name", SAME)
def test_calls_runs_of_one_world_worse_in_one_of_twenty_at_the_most(name: str) -> None:
    random, seen, pairs = Random(1), Counter[Measure](), PAIRS // 4
    world = SAME[name]
    other = World(**{**vars(world), "periods": 60})
    erred = 0
    for _ in range(pairs):
        found = worse(compare_runs(world.run(random), other.run(random), 0.95))
        erred += bool(found)
        seen.update(found)
    assert erred <= most(pairs), seen


WORSE = [
    (World(incidents_per_hour=0), World(incidents_per_hour=90), Measure.VIOLATIONS),
    (World(loss=0), World(loss=0.02), Measure.LOSS),
    (World(), World(rtt_ns=4e6), Measure.RTT_MEDIAN),
    (World(), World(rtt_ns=12e6), Measure.RTT_P99),
    (World(rtt_drift=0.6), World(rtt_drift=0.6, rtt_ns=5e6), Measure.RTT_MEDIAN),
]


@pytest.mark.parametrize(("before", "after", "measure"), WORSE)
def test_finds_what_is_worse_and_calls_it_better_the_other_way_round(
    before: World, after: World, measure: Measure
) -> None:
    random, pairs = Random(2), max(20, PAIRS // 50)
    found = 0
    for _ in range(pairs):
        one, other = before.run(random), after.run(random)
        found += measure in worse(compare_runs(one, other, 0.95))
        back = {row.measure for row in compare_runs(other, one, 0.95).rows if row.direction is Direction.BETTER}
        assert (measure in back) == (measure in worse(compare_runs(one, other, 0.95)))
    assert found >= 0.8 * pairs


EXPERIMENTS = ("baseline", "pod-delete", "scale-up", "rollout")


def drawn(random: Random, beyond: float, blackout_s: float = 1.0) -> CellOutcome:
    """Return a cell whose sessions move beyond the least at this rate, and of which some lose probes."""
    hit = sum(random.random() < beyond for _ in range(20))
    lost = sorted(round(random.expovariate(1 / blackout_s) * 1e9) for _ in range(random.randint(0, 7)))
    return outcome(beyond=hit, lasted_ns=tuple(lost), still_silent=int(random.random() < 0.05))


def matrix(random: Random, beyond: float, blackout_s: float = 1.0) -> ExperimentReport:
    return report(*(result(name, [drawn(random, beyond, blackout_s) for _ in range(4)]) for name in EXPERIMENTS))


@pytest.mark.parametrize("beyond", [0.0, 0.02, 0.3])
def test_calls_matrices_of_one_world_worse_in_one_of_twenty_at_the_most(beyond: float) -> None:
    random, seen, pairs = Random(3), Counter[Measure](), PAIRS // 3
    erred = 0
    for _ in range(pairs):
        found = worse(compare_experiments(matrix(random, beyond), matrix(random, beyond), 0.95))
        erred += bool(found)
        seen.update(found)
    assert erred <= most(pairs), seen


def test_finds_in_all_cells_together_what_each_is_too_small_for() -> None:
    random, pairs, found = Random(4), max(20, PAIRS // 50), 0
    for _ in range(pairs):
        found += Measure.BEYOND_IN_ALL in worse(compare_experiments(matrix(random, 0.01), matrix(random, 0.12), 0.95))
    assert found >= 0.8 * pairs
