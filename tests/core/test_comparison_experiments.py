"""Two reports of experiments: which cells belong together, what is compared, and what is only told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from affinity_tester.core.comparison.experiments import compare_experiments
from affinity_tester.core.comparison.results import (
    Comparison,
    Difference,
    Direction,
    Figure,
    HeldChange,
    Measure,
    Row,
    Side,
    Unit,
    Why,
)
from affinity_tester.core.comparison.weigh import share_figure
from affinity_tester.core.exact import strata_differ
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import CellOutcome, ExperimentReport, Held
from affinity_tester.units import NS_PER_MS, NS_PER_S
from comparing import NAMES, RAN_ON, outcome, report, result

S = NS_PER_S


def one(before: CellOutcome, after: CellOutcome, name: str = "pod-delete") -> Comparison:
    return compare_experiments(report(result(name, [before])), report(result(name, [after])), 0.95)


def row(comparison: Comparison, measure: Measure) -> Row:
    (found,) = (each for each in comparison.rows if each.measure is measure)
    return found


def test_three_of_24_may_be_chance_and_the_requirement_that_broke_is_told() -> None:
    comparison = one(outcome(), outcome(beyond=3))
    beyond = row(comparison, Measure.BEYOND)
    assert (beyond.direction, beyond.p) == (Direction.SAME, pytest.approx(0.2340, abs=1e-4))
    assert comparison.held == (
        HeldChange(
            "pod-delete (Cluster, None)",
            EXPERIMENTS["pod-delete"].requirement,
            Held.YES,
            Held.NO,
            ("3 of 20 moved and need not have",),
            proved=False,
        ),
    )
    assert not comparison.is_worse


def test_ten_of_24_are_a_regression_and_a_mend_the_other_way_round() -> None:
    worse, better = one(outcome(), outcome(beyond=10)), one(outcome(beyond=10), outcome())
    assert row(worse, Measure.BEYOND).direction is Direction.WORSE
    assert worse.is_worse
    assert worse.held[0].proved
    assert row(better, Measure.BEYOND).direction is Direction.BETTER
    assert not better.is_worse
    assert (better.held[0].after, better.held[0].proved) == (Held.YES, True)
    assert better.held[0].reasons == ("10 of 20 moved and need not have",)


def test_says_how_strong_the_same_is() -> None:
    beyond = row(one(outcome(), outcome()), Measure.BEYOND)
    # 5 of 24 come out at p = 4.96 %; so many come with 95 % where 35 % of the sessions would move
    assert (beyond.direction, beyond.p) == (Direction.SAME, 1.0)
    assert beyond.seen_from is not None
    assert beyond.seen_from == pytest.approx(0.39, abs=0.02)
    few = row(one(outcome(sessions=2), outcome(sessions=2)), Measure.BEYOND)
    assert few.seen_from is None


def test_tells_moves_and_losses_and_does_not_test_them() -> None:
    comparison = one(outcome(), outcome(lost=50))
    assert [(each.measure, each.direction, each.why) for each in comparison.rows if each.why] == [
        (Measure.MOVED, Direction.TOLD, Why.DEPENDS_ON_ACTION),
        (Measure.CELL_LOSS, Direction.TOLD, Why.NOT_INDEPENDENT),
    ]
    assert row(comparison, Measure.CELL_LOSS).after.value == 50 / 10_000
    assert row(one(outcome(sent=0), outcome(lost=50)), Measure.CELL_LOSS).before.value is None


def test_does_not_compare_what_was_not_seen() -> None:
    unknown = one(outcome(least=None, beyond=0), outcome())
    assert [(each.measure, each.why) for each in unknown.rows if each.direction is Direction.NOT_COMPARED] == [
        (Measure.MOVED, Why.LEAST_UNKNOWN)
    ]
    unclear = one(outcome(), outcome(unclear=NAMES[:24]))
    assert [(each.measure, each.why) for each in unclear.rows if each.direction is Direction.NOT_COMPARED] == [
        (Measure.MOVED, Why.UNCLEAR)
    ]
    assert row(one(outcome(), outcome(unclear=NAMES[:10])), Measure.BEYOND).after.of == 14
    nobody = one(outcome(), outcome(sessions=0))
    assert [(each.measure, each.why) for each in nobody.rows] == [(Measure.BEYOND, Why.NO_SESSIONS)]
    assert nobody.compared == 0


def test_compares_sessions_that_moved_twice_or_stayed_silent() -> None:
    comparison = one(outcome(), outcome(twice=NAMES[:12], still_silent=11))
    assert row(comparison, Measure.TWICE).direction is Direction.WORSE
    assert row(comparison, Measure.SILENT).direction is Direction.WORSE


def test_compares_blackouts_by_ranks_and_beyond_a_floor() -> None:
    short = tuple(S + index * NS_PER_MS for index in range(8))
    longer = tuple(ns + 300 * NS_PER_MS for ns in short)
    longest = tuple(6 * ns for ns in short)
    assert (
        row(one(outcome(lasted_ns=short), outcome(lasted_ns=longest)), Measure.BLACKOUT_TIME).direction
        is Direction.WORSE
    )
    small = row(one(outcome(lasted_ns=short), outcome(lasted_ns=longer)), Measure.BLACKOUT_TIME)
    assert (small.direction, small.is_small, small.seen_from) == (Direction.SAME, True, None)
    same = row(one(outcome(lasted_ns=short), outcome(lasted_ns=short)), Measure.BLACKOUT_TIME)
    assert same.seen_from == pytest.approx(short[4] + 0.5 * S, rel=0.01)
    for too_few in (short[:3], ()):
        few = row(one(outcome(lasted_ns=short), outcome(lasted_ns=too_few)), Measure.BLACKOUT_TIME)
        assert (few.direction, few.why) == (Direction.NOT_COMPARED, Why.FEW_LOST)
    assert not any(each.measure is Measure.BLACKOUT_TIME for each in one(outcome(), outcome()).rows)


@pytest.mark.parametrize(
    ("interval_ns", "shift_ns", "is_small"),
    [(S, 1_500, True), (S, 2_500, False), (S // 10, 900, True), (S // 10, 1_100, False)],
)
def test_blackouts_that_differ_by_less_than_two_probes_or_a_quarter_do_not_matter(
    interval_ns: int, shift_ns: int, is_small: bool
) -> None:
    short = tuple(4 * S + index * NS_PER_MS for index in range(8))
    longer = tuple(ns + shift_ns * NS_PER_MS for ns in short)
    sides = (report(result("pod-delete", [outcome(lasted_ns=ns)]), interval_ns=interval_ns) for ns in (short, longer))
    found = row(compare_experiments(*sides, 0.95), Measure.BLACKOUT_TIME)
    assert (found.direction, found.is_small) == (Direction.SAME if is_small else Direction.WORSE, is_small)


def test_four_blackouts_on_each_side_are_ranked() -> None:
    def lasting(*seconds: int) -> CellOutcome:
        return outcome(lasted_ns=tuple(S * each for each in seconds))

    ranked = row(one(lasting(1, 2, 3, 4), lasting(11, 12, 13, 14)), Measure.BLACKOUT_TIME)
    assert ranked.p == pytest.approx(2 / 70)
    few = row(one(lasting(1, 2, 3, 4), lasting(1, 2, 3)), Measure.BLACKOUT_TIME)
    assert (few.before.value, few.before.count, few.after.value, few.after.count) == (2.5 * S, 4, 2 * S, 3)


def test_each_row_says_what_it_is_of() -> None:
    lasted = tuple(S * each for each in range(1, 5))
    before, after = outcome(lasted_ns=lasted), outcome(lost=50, lasted_ns=lasted)
    comparison = compare_experiments(
        report(result("rollout", [before] * 2)), report(result("rollout", [after] * 2)), 0.9
    )
    sessions = dict.fromkeys(
        (Measure.BEYOND, Measure.MOVED, Measure.TWICE, Measure.SILENT, Measure.BEYOND_IN_ALL), Unit.SESSIONS
    )
    units = sessions | {Measure.BLACKOUT_TIME: Unit.TIME, Measure.CELL_LOSS: Unit.LOSS}
    assert {each.measure: (each.before.unit, each.after.unit) for each in comparison.rows} == {
        measure: (unit, unit) for measure, unit in units.items()
    }
    lost, moved = (
        next(each for each in comparison.rows if each.measure is measure)
        for measure in (Measure.CELL_LOSS, Measure.MOVED)
    )
    assert lost.after == Figure(Unit.LOSS, 0.005, None, None, 50, 10_000)
    assert moved.before == share_figure(4, 24, Unit.SESSIONS, 0.9)
    nobody = row(one(outcome(sessions=0), outcome()), Measure.BEYOND)
    assert (nobody.before.count, nobody.after.count, nobody.after.of) == (0, 0, 24)


def test_says_what_was_compared_and_by_which_level() -> None:
    before = report(
        result("pod-delete", [outcome()]), result("pod-delete", [outcome()]), result("rollout", [outcome()])
    )
    comparison = compare_experiments(before, report(version="2.0"), 0.9)
    assert (comparison.kind, comparison.confidence, comparison.level) == ("experiments", 0.9, pytest.approx(0.1))
    assert comparison.before == Side("1.0", before.started_wall_ns, 24, None, "", "pod-delete, rollout")
    assert comparison.after == Side("2.0", before.started_wall_ns, 24, None, "", "")


def test_adds_up_what_each_cell_is_too_small_for() -> None:
    before = report(result("pod-delete", [outcome()] * 4), result("scale-up", [outcome()] * 4))
    after = report(result("pod-delete", [outcome(beyond=2)] * 4), result("scale-up", [outcome(beyond=2)] * 4))
    comparison = compare_experiments(before, after, 0.95)
    assert [each.measure for each in comparison.rows if each.direction is Direction.WORSE] == [Measure.BEYOND_IN_ALL]
    in_all = row(comparison, Measure.BEYOND_IN_ALL)
    assert (in_all.after.count, in_all.after.of) == (16, 192)
    assert in_all.p == strata_differ([(0, 24, 2, 24)] * 8)[0]
    assert row(compare_experiments(after, before, 0.95), Measure.BEYOND_IN_ALL).direction is Direction.BETTER


def both(*pairs: tuple[CellOutcome, CellOutcome]) -> Comparison:
    before, after = zip(*pairs, strict=True)
    return compare_experiments(report(result("rollout", [*before])), report(result("rollout", [*after])), 0.95)


def test_two_cells_are_added_up_and_those_of_which_nothing_is_known_are_not() -> None:
    known = (outcome(beyond=3), outcome(beyond=14))
    unknown, unclear = (outcome(least=None), outcome()), (outcome(unclear=NAMES[:24]), outcome())
    in_all = row(both(known, known, unknown, unclear), Measure.BEYOND_IN_ALL)
    assert (in_all.before.of, in_all.after.of, in_all.direction) == (48, 48, Direction.WORSE)
    assert not any(each.measure is Measure.BEYOND_IN_ALL for each in both(known, unknown).rows)


def test_cells_that_all_got_worse_are_worse_in_all_however_large_each_is() -> None:
    """Simpson's paradox: 45 % of all sessions moved before, 26 % after."""
    pairs = (outcome(100, 50), outcome(10, 9)), (outcome(10, 0), outcome(100, 20))
    assert row(both(*pairs), Measure.BEYOND_IN_ALL).direction is Direction.WORSE


def test_cells_none_of_which_changed_are_the_same_in_all_whatever_their_sizes() -> None:
    """45 % of all sessions moved before, 5 % after: most of these were in a cell where none ever does."""
    pairs = (outcome(100, 50), outcome(10, 5)), (outcome(10, 0), outcome(100, 0))
    in_all = row(both(*pairs), Measure.BEYOND_IN_ALL)
    assert (in_all.direction, in_all.p) == (Direction.SAME, pytest.approx(1.0))


def test_a_requirement_that_breaks_in_a_later_cell_is_told() -> None:
    same, broke = (outcome(), outcome()), (outcome(), outcome(beyond=1))
    assert [each.where for each in both(same, broke).held] == ["rollout (Cluster, ClientIP)"]


def test_matches_cells_by_policy_and_affinity_and_names_what_only_one_has() -> None:
    before = report(result("pod-delete", [outcome()] * 4), result("baseline", [outcome()]))
    after = report(result("pod-delete", [outcome()] * 2), result("scale-up", [outcome()]))
    comparison = compare_experiments(before, after, 0.95)
    assert comparison.only_before == ("baseline", "pod-delete (Local, None)", "pod-delete (Local, ClientIP)")
    assert comparison.only_after == ("scale-up",)
    back = compare_experiments(after, before, 0.95)
    assert back.only_after == comparison.only_before


def test_matches_the_one_service_of_each_whatever_it_is_called() -> None:
    first = result("pod-delete", [outcome()])
    cell = replace(first.cells[0], service="default/other", policy="", affinity="")
    comparison = compare_experiments(report(first), report(replace(first, cells=(cell,))), 0.95)
    assert {each.where for each in comparison.rows} == {"pod-delete (Cluster, None)"}


def test_a_cell_whose_affinity_is_not_known_goes_by_its_service() -> None:
    whole = result("pod-delete", [outcome(), outcome()])
    same = report(replace(whole, cells=(replace(whole.cells[0], affinity=""), whole.cells[1])))
    assert {each.where for each in compare_experiments(same, same, 0.95).rows if each.where} == {
        "pod-delete (default/echo-cluster-none)",
        "pod-delete (Cluster, ClientIP)",
    }


def test_tells_cells_of_one_policy_apart_by_their_services() -> None:
    twice = result("pod-delete", [outcome(), outcome()])
    cells = tuple(replace(cell, policy="Cluster", affinity="None") for cell in twice.cells)
    same = report(replace(twice, cells=cells))
    comparison = compare_experiments(same, same, 0.95)
    assert {each.where for each in comparison.rows if each.where} == {
        "pod-delete (default/echo-cluster-none)",
        "pod-delete (default/echo-cluster-clientip)",
    }


def test_numbers_an_experiment_that_was_run_again_and_leaves_out_one_that_failed() -> None:
    again = report(result("pod-delete", [outcome()]), result("pod-delete", [outcome()]))
    comparison = compare_experiments(again, again, 0.95)
    assert {each.where for each in comparison.rows if each.where} == {
        "pod-delete (Cluster, None)",
        "pod-delete (run 2) (Cluster, None)",
    }
    failed = report(result("pod-delete", [outcome()], failure="the pod did not come back"))
    comparison = compare_experiments(failed, report(result("pod-delete", [outcome()])), 0.95)
    assert comparison.not_run == (("pod-delete", "the pod did not come back"),)
    assert comparison.rows == ()


def test_tells_names_that_came_and_went_and_what_stays_broken() -> None:
    comparison = one(
        outcome(beyond=1, names=("likely flow-wipe", "likely pod-restart")),
        outcome(beyond=1, names=("likely flow-wipe", "possible node-rehash")),
    )
    assert comparison.appeared == (("pod-delete (Cluster, None)", "possible node-rehash"),)
    assert comparison.vanished == (("pod-delete (Cluster, None)", "likely pod-restart"),)
    assert comparison.still_broken == ("pod-delete (Cluster, None)",)
    assert comparison.held == ()


def test_lists_what_it_ran_on_first_and_says_what_is_unfair() -> None:
    newer = replace(RAN_ON, kubernetes="v1.36.0", kernels=(("6.8.0", 2), ("6.14.0", 1)), nodes=None)

    def after(**fields: object) -> ExperimentReport:
        return report(ran_on=newer, interval_ns=NS_PER_S, matrix=False, **fields)

    comparison = compare_experiments(report(), after(), 0.95)
    assert comparison.differences == (
        Difference("kubernetes", "v1.35.2", "v1.36.0", unfair=False),
        Difference("nodes", "3", "", unfair=False),
        Difference("kernel", "6.8.0", "6.8.0 (2), 6.14.0 (1)", unfair=False),
        Difference("matrix", "yes", "no", unfair=False),
        Difference("interval", "100ms", "1s", unfair=True),
    )
