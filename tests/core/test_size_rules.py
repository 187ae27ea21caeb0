"""Small test probes beside the canaries tell that it is the size, where all probes of a run have one."""

from __future__ import annotations

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis import RunHistory, diagnose_run
from affinity_tester.core.events import (
    CanaryResult,
    Certainty,
    Counts,
    Losses,
    RttStats,
    RunStarted,
    RunSummary,
    SmallProbeResult,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules

S = 1_000_000_000
TARGET = TransportAddress("203.0.113.7", 3478)
POD = Identity(TransportAddress("10.0.0.1", 4000), "p1", "n1", b"p1      ")


def named(small: list[Identity | None], large: list[Identity | None], size: int = 1400) -> list[tuple[str, Certainty]]:
    """Return what is said of a run in which half of the probes were lost, with these answers to test probes."""
    history = RunHistory(Rules())
    history.feed(RunStarted(0, 0, 0, "0", TARGET, "x", 4, S // 10, 2 * S, size, connected=False, lost_guarantees=()))
    for number, (light, heavy) in enumerate(zip(small, large, strict=True), start=1):
        sent_ns = 2 * S * number
        history.feed(SmallProbeResult(sent_ns + 1, "CLIENT-1", sent_ns, light, 288))
        history.feed(CanaryResult(sent_ns + 2 * S, "CLIENT-1", sent_ns, heavy))
    total = Counts(sent=400, answered=200, lost=200)
    history.feed(RunSummary(40 * S, 40 * S, total, Losses(), RttStats(), (), 0))
    return [(each.name, each.certainty) for each in diagnose_run(history)]


@pytest.mark.parametrize(
    ("pairs", "certainty"), [(3, Certainty.POSSIBLE), (4, Certainty.LIKELY), (9, Certainty.LIKELY)]
)
def test_small_ones_that_pass_tell_where_enough_of_full_size_do_not(pairs: int, certainty: Certainty) -> None:
    assert named([POD] * pairs, [None] * pairs) == [("mtu", certainty)]


def test_it_is_not_the_size_where_one_of_full_size_passes() -> None:
    assert named([POD] * 9, [None] * 8 + [POD]) == []


def test_where_small_ones_are_lost_too_it_may_be_anything() -> None:
    assert named([POD] * 8 + [None], [None] * 9) == [("mtu", Certainty.POSSIBLE)]
    assert named([Identity()] * 4, [None] * 4) == [("mtu", Certainty.LIKELY)]


def test_without_test_probes_only_the_size_is_known() -> None:
    assert named([], []) == [("mtu", Certainty.POSSIBLE)]
    assert named([], [], size=1200) == []
