"""Two runs: what is collected of each to the last count, and what each row of their comparison shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from test_comparison_runs import fed, lost, quiet, row, rows

from affinity_tester.core import events as ev
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.comparison.results import Direction, Figure, Measure, Row, Side, Unit, Why
from affinity_tester.core.comparison.run_figures import RunFigures
from affinity_tester.core.comparison.runs import compare_runs
from affinity_tester.core.comparison.weigh import mean_figure, median_figure, rate_figure, share_figure
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from affinity_tester.units import NS_PER_MS, NS_PER_S
from comparing import START_NS, STARTED, incident

S = NS_PER_S
SENT = 2_400
"""Probes of a block."""
EXPLAINED = ((ev.Judgement.EXPLAINED, 1),)
LEFT = EndpointChange(EndpointAction.LEFT)
READY = PoolSnapshot(frozenset({Endpoint("1", "pod-a", "10.0.0.1")}))


def avoidable(at_s: float) -> ev.CaseJudged:
    probe = ev.RepliedProbe(1, START_NS + round(at_s * S), Identity())
    change = ev.Change(1, (), probe, probe, probe.sent_ns, 0, 0)
    return ev.CaseJudged(START_NS, "CLIENT-1", change, ev.Judgement.EXPLAINED, True, ())


# --- what is collected -------------------------------------------------------------------------------------------------


def test_a_run_that_was_not_told_of_has_nothing() -> None:
    run = fed()
    assert (run.total, run.duration_ns, run.foreign, run.losses()) == (ev.Counts(), 0, False, [])
    unsent = fed(ev.StatsTick(START_NS + 20 * S, 24, ev.Counts(), ev.Counts()))
    assert unsent.losses() == []


def test_a_run_whose_start_was_not_told_is_counted_all_the_same() -> None:
    run = RunFigures()
    run.feed(ev.PoolObserved(2 * S, S, 2 * S, READY, changes=(LEFT,)))
    run.feed(lost(1, 3))
    assert run.pool_changes == 1


def test_the_summary_stands_before_the_last_statistics() -> None:
    early, late = ev.Counts(sent=10, answered=10), ev.Counts(sent=12, answered=12)
    tick = ev.StatsTick(START_NS + 10 * S, 24, early, early)
    run = fed(tick, ev.RunSummary(START_NS + 12 * S, 12 * S, late, ev.Losses(), ev.RttStats(), (), 0))
    assert (run.total, run.duration_ns) == (late, 12 * S)


def test_blackouts_and_changes_of_the_pool_are_counted() -> None:
    def changed(at_s: int) -> ev.PoolObserved:
        return ev.PoolObserved(START_NS + at_s * S, START_NS, START_NS + at_s * S, READY, changes=(LEFT,))

    def dark(at_s: int) -> tuple[ev.Event, ev.Event]:
        since, until = START_NS + at_s * S, START_NS + (at_s + 6) * S
        return ev.BlackoutStarted(since + 5 * S, since, 24), ev.BlackoutEnded(until + S, since, until, 500, 5)

    run = quiet(changed(10), changed(50), *dark(100), *dark(200))
    assert (run.pool_changes, run.blackouts, run.dark_ns) == (2, 2, 12 * S)
    assert quiet(*dark(100)).blackouts == 1  # where no pool is watched


def test_losses_of_a_block_add_up_and_those_of_an_outage_are_none_from_its_first_on() -> None:
    began = START_NS + 31 * S
    run = quiet(
        ev.OutageEnded(START_NS, "CLIENT-9", 1, START_NS, 1, ev.RepliedProbe(2, START_NS, Identity())),
        lost(1, 3),
        lost(2, 4, "CLIENT-2"),
        ev.OutageStarted(began + 5 * S, "CLIENT-1", 310, began, None),
        lost(31, 10),
        ev.OutageStarted(began + 5 * S, "CLIENT-3", 310, began, None),
        periods=4,
    )
    assert run.losses() == [7 / SENT, 0, 0, 0]


def test_avoidable_changes_lie_in_their_incident_to_the_millisecond() -> None:
    run = fed(
        avoidable(10.0004),
        avoidable(51.0004),
        *(incident(at, judgements=EXPLAINED) for at in (10.0004, 50.0004, 90)),
    )
    assert (run.avoidable, run.explained) == (2, 3)


def test_what_goes_on_is_what_any_part_of_it_was() -> None:
    run = fed(
        incident(10, continuing=True, outages=1),
        incident(70),
        incident(100, outages=1),
        incident(130),
    )
    assert (run.violations, run.outages) == (3, 2)
    run = fed(avoidable(10.5), incident(10, continuing=True, judgements=EXPLAINED), incident(70, judgements=EXPLAINED))
    assert (run.explained, run.avoidable) == (1, 1)
    near = (ev.NearFact(START_NS, 0, change=LEFT),)
    run = fed(incident(10, continuing=True, judgements=(), context=near), incident(70, judgements=()))
    assert run.named == {}


# --- what is shown -----------------------------------------------------------------------------------------------------


def test_each_count_says_what_it_is_of() -> None:
    hit = ev.CaseJudged(START_NS, "CLIENT-1", ev.OutageCase(1, START_NS), ev.Judgement.VIOLATION, None, ())
    dark = ev.BlackoutStarted(START_NS + 505 * S, START_NS + 500 * S, 24)
    before, after = quiet(hit), quiet(incident(10, outages=1), dark)
    before.explained = after.explained = 10
    shown = {each.measure: each for each in compare_runs(before, after, 0.9).rows}
    hours = 1 / 6
    for measure in (Measure.VIOLATIONS, Measure.OUTAGES, Measure.BLACKOUTS, Measure.NAMED):
        figures = rate_figure(0, hours, 0.9), rate_figure(1, hours, 0.9)
        assert (shown[measure].before, shown[measure].after) == figures
        assert shown[measure].name == ("flow-wipe" if measure is Measure.NAMED else "")
    assert (shown[Measure.SESSIONS_HIT].before, shown[Measure.SESSIONS_HIT].after) == (
        share_figure(1, 24, Unit.SESSIONS, 0.9),
        share_figure(0, 24, Unit.SESSIONS, 0.9),
    )
    assert shown[Measure.DARK] == Row(
        "",
        Measure.DARK,
        "",
        Figure(Unit.SPAN, 0, None, None, 0, 600 * S),
        Figure(Unit.SPAN, 100 * S, None, None, 100 * S, 600 * S),
        Direction.TOLD,
        why=Why.ONE_STRETCH,
    )
    assert shown[Measure.AVOIDABLE].before == share_figure(0, 10, Unit.INCIDENTS, 0.9)
    assert row(before, quiet(), Measure.AVOIDABLE).before.unit is Unit.INCIDENTS


def test_a_name_of_the_whole_run_was_on_one_side() -> None:
    spread = ev.RunDiagnosed(START_NS, (ev.Diagnosis("client-ip-spread", ev.Certainty.LIKELY, ("seen",)),))
    for sides, counts in (((quiet(spread), quiet()), (1, 0)), ((quiet(), quiet(spread)), (0, 1))):
        (told,) = rows(compare_runs(*sides, 0.95), Measure.NAMED)
        assert (told.before.count, told.after.count) == counts


# --- series ------------------------------------------------------------------------------------------------------------


def timed(p50_ms: Sequence[float], period_s: int = 10, p99_ms: float = 900) -> RunFigures:
    total = ev.Counts(sent=len(p50_ms) * SENT, answered=len(p50_ms) * SENT)
    ticks = [
        ev.StatsTick(
            START_NS + at * period_s * S,
            24,
            total,
            total,
            p50_ns=round(ms * NS_PER_MS),
            p99_ns=round(p99_ms * NS_PER_MS),
        )
        for at, ms in enumerate(p50_ms, 1)
    ]
    return fed(*ticks)


def even(middle: float, blocks: int = 60) -> list[float]:
    return [middle + 0.1 * (block % 2) for block in range(blocks)]


def drifting(low: float, high: float) -> list[float]:
    return [low + (high - low) * block / 59 for block in range(60)]


def losing(*counts: int) -> RunFigures:
    return quiet(*(lost(10 * block + 1, counts[block % len(counts)]) for block in range(60)))


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [
        ((0,), (36, 38), Direction.WORSE),
        ((36, 38), (0,), Direction.BETTER),
        ((24, 26), (36, 38), Direction.WORSE),
        ((24, 26), (25, 26), Direction.SAME),
    ],
)
def test_loss_matters_from_one_probe_in_a_thousand_on(
    before: tuple[int, ...], after: tuple[int, ...], direction: Direction
) -> None:
    one, other = losing(*before), losing(*after)
    found = row(one, other, Measure.LOSS)
    assert found.direction is direction
    assert (found.before, found.after) == (mean_figure(one.losses(), Unit.LOSS), mean_figure(other.losses(), Unit.LOSS))


@pytest.mark.parametrize(
    ("before", "after", "direction", "why"),
    [
        (even(100), even(109), Direction.SAME, None),
        (even(100), even(110.5), Direction.WORSE, None),
        (drifting(97.6, 102.4), drifting(97.6, 102.4), Direction.SAME, None),
        (drifting(92, 108), drifting(92, 108), Direction.NOT_COMPARED, Why.DRIFT),
        (drifting(76, 124), drifting(276, 324), Direction.WORSE, None),
        (even(100, 8), even(100, 8), Direction.SAME, None),
        (even(100, 7), even(100), Direction.NOT_COMPARED, Why.TOO_FEW_BLOCKS),
    ],
)
def test_a_median_matters_by_a_tenth_of_the_one_before_and_a_drift_by_what_differs(
    before: list[float], after: list[float], direction: Direction, why: Why | None
) -> None:
    one, other = timed(before), timed(after)
    found = row(one, other, Measure.RTT_MEDIAN)
    assert (found.direction, found.why) == (direction, why)
    for measure, at in ((Measure.RTT_MEDIAN, 1), (Measure.RTT_P99, 2)):
        shown = row(one, other, measure)
        figures = (median_figure(run.times(at), Unit.TIME, 0.95) for run in (one, other))
        assert (shown.before, shown.after) == tuple(figures)


@pytest.mark.parametrize(("period_s", "why"), [(9, None), (8, Why.OTHER_PERIODS)])
def test_periods_may_differ_by_a_tenth(period_s: int, why: Why | None) -> None:
    assert row(timed(even(100)), timed(even(100), period_s), Measure.RTT_MEDIAN).why is why


@pytest.mark.parametrize(
    ("counts", "is_own"),
    [
        ({"own_losses": 144}, False),
        ({"own_losses": 145}, True),
        ({"own_losses": 72, "send_errors": 72}, False),
        ({"own_losses": 100, "send_errors": 100}, True),
        ({"timer_misses": 1_454}, False),
        ({"timer_misses": 1_455}, True),
        ({"sent": 99_000, "timer_misses": 1_000}, False),
    ],
)
def test_a_client_that_lost_more_than_a_verdict_allows_measures_nothing(counts: dict[str, int], is_own: bool) -> None:
    busy = quiet()
    assert busy.total.sent == 144_000
    busy.total = replace(busy.total, **counts)
    assert (row(busy, quiet(), Measure.LOSS).why is Why.OWN_CLIENT) == is_own


# --- sides and settings ------------------------------------------------------------------------------------------------


def test_says_what_was_compared_and_by_which_level() -> None:
    killed = quiet()
    killed.verdict = None
    comparison = compare_runs(quiet(), killed, 0.9)
    # Only the two round-trip times could have come out small: nothing was lost, and nothing happened.
    assert (comparison.kind, comparison.confidence, comparison.level) == ("runs", 0.9, pytest.approx(0.05))
    side = Side("1.0", STARTED.wall_ns, 24, 600 * S, "PASS", "lb.example (192.0.2.1:3478)")
    assert (comparison.before, comparison.after) == (side, replace(side, verdict=""))


def test_each_setting_that_may_differ_is_told() -> None:
    before, after = quiet(), quiet(ev.ForeignServer(START_NS, "coturn"))
    one, other = TransportAddress("192.0.2.1", 3478), TransportAddress("192.0.2.2", 3478)
    after.started = replace(
        STARTED,
        target_name="other.example",
        sessions=48,
        loss_threshold_ns=3 * S,
        connected=True,
        addresses=(one, other),
        rules=Rules(settle_ns=S, affinity_window_ns=2 * S, balancer_check_ns=4 * S),
        lost_guarantees=("one", "two"),
    )
    assert [
        (each.key, each.before, each.after, each.unfair) for each in compare_runs(before, after, 0.9).differences
    ] == [
        ("target", "lb.example", "other.example", False),
        ("sessions", "24", "48", True),
        ("loss-threshold", "2s", "3s", True),
        ("connected", "no", "yes", True),
        ("foreign", "no", "yes", True),
        ("addresses", "1", "2", True),
        ("settle", "10s", "1s", True),
        ("affinity-window", "30s", "2s", True),
        ("balancer-check", "35s", "4s", True),
        ("lost-guarantees", "", "one; two", True),
    ]
