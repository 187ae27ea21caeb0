"""The promises of judging held against an oracle that knows the truth, over random histories of an honest API."""

from __future__ import annotations

from collections import Counter

import pytest
from histories import MS, History, Pace, S, history
from lives import Life

from affinity_tester.core.events import Change, Judgement
from affinity_tester.core.judging.rules import Rules
from pools import ComparingAnalysis, judged_cases
from trials import HISTORIES

pytestmark = pytest.mark.worlds


PROMPT = Pace(delay=100 * MS, stall=0, still=0)
LATE = Pace(delay=3 * S, stall=20 * S, still=0)
STANDING_STILL = Pace(delay=500 * MS, stall=15 * S, still=45 * S)


def classes(run: History) -> dict[int, Judgement]:
    """The last judgement of each change."""
    analysis = ComparingAnalysis(Rules())
    told = [event for each in run.events for event in analysis.feed(each)]
    return {case.number: event.judgement for case, event in judged_cases(told, Change)}


def counted(pace: Pace, first: int) -> Counter[tuple[Judgement, bool]]:
    """How many changes got which class, by whether the pool truly changed within their reach."""
    found: Counter[tuple[Judgement, bool]] = Counter()
    for seed in range(first, first + HISTORIES // 3):
        run = history(seed, pace)
        given = classes(run)
        assert sorted(given) == sorted(run.changes), seed
        for number, judgement in given.items():
            near = run.near(run.changes[number])
            assert (judgement, near) != (Judgement.VIOLATION, True), f"false violation, seed {seed}"
            assert (judgement, near) != (Judgement.EXPLAINED, False), f"false explanation, seed {seed}"
            found[judgement, near] += 1
    return found


@pytest.mark.parametrize("pace", [PROMPT, LATE, STANDING_STILL], ids=["prompt", "late", "standing still"])
def test_no_class_is_false_however_late_the_news(pace: Pace) -> None:
    found = counted(pace, hash(pace) % 1_000_003)
    if HISTORIES > 3_000:
        print(pace, {f"{judgement} {near}": count for (judgement, near), count in sorted(found.items())})  # noqa: T201
    assert found[Judgement.VIOLATION, False] > 0
    assert found[Judgement.EXPLAINED, True] > 0
    unknown = found[Judgement.UNKNOWN, True] + found[Judgement.UNKNOWN, False]
    if pace is PROMPT:  # rare: only where a change lies within a list's interval of the reach's end
        assert unknown < 0.2 * found.total()


FAULTS = [
    ("break",),
    ("hang",),
    ("delete",),
    ("stale",),
    ("node",),
    ("hang", "break"),
    ("join", "break"),
    ("delete", "delete", "join"),
    ("node", "break"),
    ("stale", "hang"),
    ("freeze",),
    ("freeze", "join"),
    ("freeze", "hang"),
]


PROMISED = [(faults, False) for faults in FAULTS if not {"delete", "stale", "node"} & set(faults)]
"""Without a watch the operator promises a pool that stands still."""


@pytest.mark.parametrize(("faults", "watched"), [*((faults, True) for faults in FAULTS), *PROMISED])
def test_no_outage_of_a_dead_pod_or_a_changed_pool_is_a_violation(faults: tuple[str, ...], watched: bool) -> None:
    final: Counter[Judgement] = Counter()
    for seed in range(HISTORIES // 50):
        life = Life(seed, watched=watched, local=seed % 3 == 0, faults=faults)
        final.update({(e.session, e.case): e.judgement for e in life.told}.values())
    if faults == ("break",):
        assert final[Judgement.VIOLATION] >= 0.9 * final.total() > 0
    if faults == ("hang",):
        assert final[Judgement.POD_SILENT] >= 0.5 * final.total() > 0
        assert not final[Judgement.VIOLATION]
    if faults == ("stale",):
        assert final[Judgement.VIOLATION] > 0
