"""A recorded run judged again: by its own rules the same, by others otherwise, and a killed one to its end."""

from __future__ import annotations

from dataclasses import replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    Change,
    ChangeSeen,
    Counts,
    Event,
    FirstAnswer,
    Judgement,
    Outcome,
    PoolConfirmed,
    PoolObserved,
    RepliedProbe,
    RunEnded,
    RunStarted,
    StatsTick,
    Verdict,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.reasons import PoolChanged
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.judging.tally import Tally
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from affinity_tester.core.replay import judge_again
from pools import ComparingAnalysis, is_judged

MS = 1_000_000
S = 1_000 * MS
HERE = TransportAddress("127.0.0.1", 40312)
RULES = Rules(settle_ns=5 * S, affinity_window_ns=20 * S, max_loss=0.5, fail_on_avoidable=True)
STARTED = RunStarted(0, 0, 0, "0", HERE, "x", 1, 100 * MS, 2 * S, 288, connected=False, lost_guarantees=(), rules=RULES)
CHANGE = Change(
    1,
    (Kind.POD,),
    RepliedProbe(1, 20 * S, Identity(HERE, "a")),
    RepliedProbe(2, 45 * S, Identity(HERE, "b")),
    45 * S,
    25 * S,
    45 * S,
)

OBSERVED: list[Event] = [
    FirstAnswer(1 * S, "CLIENT-1", 0, Identity(HERE, "a")),
    ChangeSeen(45 * S, "CLIENT-1", CHANGE),
    StatsTick(60 * S, 1, Counts(), Counts(sent=600, answered=600, pairs=599)),
]


def live(*observed: Event) -> list[Event]:
    """What the client would have recorded."""
    analysis = ComparingAnalysis(RULES)
    events: list[Event] = []
    for event in (STARTED, *observed):
        events += [event, *analysis.feed(event)]
    return events


def classes(events: list[Event]) -> list[Judgement]:
    return [event.judgement for event in events if is_judged(event, Change)]


def test_by_its_own_rules_a_record_is_judged_as_the_run_was() -> None:
    recorded = live(*OBSERVED, RunEnded(60 * S, aborted=False))
    assert classes(recorded) == [Judgement.IDLE]
    assert list(judge_again(recorded)) == recorded


def test_other_rules_judge_otherwise() -> None:
    recorded = live(*OBSERVED, RunEnded(60 * S, aborted=False))
    again = list(judge_again(recorded, lambda rules: replace(rules, affinity_window_ns=30 * S)))
    assert classes(again) == [Judgement.VIOLATION]
    assert again[-1] == Verdict(60 * S, Outcome.FAIL, ("1 violation",), "", 1, 599, 60 * S)


def test_a_killed_run_is_ended_where_its_record_breaks_off() -> None:
    recorded = live(*OBSERVED)
    again = list(judge_again(recorded))
    assert again[: len(recorded)] == recorded
    ended = next(event for event in again if isinstance(event, RunEnded))
    assert ended == RunEnded(60 * S, aborted=True)
    assert isinstance(again[-1], Verdict)
    assert again[-1].outcome is Outcome.PASS


def test_a_record_without_a_start_is_judged_by_the_usual_rules_and_an_empty_one_by_none() -> None:
    assert classes(list(judge_again(OBSERVED))) == [Judgement.VIOLATION]
    assert list(judge_again([])) == []


def test_a_run_that_was_killed_at_its_start_gets_a_verdict() -> None:
    verdict = list(judge_again([STARTED]))[-1]
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_the_newest_judgements_can_be_replaced_and_older_ones_count_for_good() -> None:
    analysis = ComparingAnalysis(Rules())
    analysis._tally = Tally(limit=50)
    for number in range(60):
        analysis.feed(ChangeSeen(45 * S, "CLIENT-1", replace(CHANGE, number=number, longest_pause_ns=0)))
    assert len(analysis._tally._newest) == 50
    verdict = analysis.feed(RunEnded(60 * S, aborted=False))[-1]
    assert isinstance(verdict, Verdict)
    assert verdict.violations == 60


def test_what_a_record_has_after_the_end_of_its_run_counts_for_nothing() -> None:
    recorded = live(*OBSERVED, RunEnded(60 * S, aborted=False))
    assert list(judge_again([*recorded, PoolConfirmed(61 * S, 61 * S)])) == recorded


def test_where_a_record_lacks_a_snapshot_the_pool_is_compared_with_the_one_before() -> None:
    """The first of two changes was left out: what it took away is missing from the second's own list of changes."""
    a, b, c = (Endpoint(f"uid-{pod}", pod, "10.0.0.1") for pod in "abc")
    first = PoolObserved(0, 0, 0, PoolSnapshot(frozenset({a, b})), 0)
    joined = (EndpointChange(EndpointAction.JOINED, c),)
    last = PoolObserved(44 * S, 43 * S, 44 * S, PoolSnapshot(frozenset({b, c})), 44 * S, joined)
    again = list(judge_again([STARTED, first, last, *OBSERVED[1:2], PoolConfirmed(60 * S, 60 * S)]))
    assert (
        PoolChanged(EndpointChange(EndpointAction.LEFT, a), -S)
        in next(e for e in again if is_judged(e, Change)).reasons
    )


def test_a_change_whose_session_has_no_first_answer_on_record_is_judged_all_the_same() -> None:
    lacking = [
        event for event in live(*OBSERVED, RunEnded(60 * S, aborted=False)) if not isinstance(event, FirstAnswer)
    ]
    assert classes(list(judge_again(lacking))) == [Judgement.IDLE]
