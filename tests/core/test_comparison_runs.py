"""Two runs: what is collected of each, and what of it is compared."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from affinity_tester.core import events as ev
from affinity_tester.core.comparison.results import Comparison, Difference, Direction, Measure, Row, Why
from affinity_tester.core.comparison.run_figures import BLOCK_NS, RunFigures
from affinity_tester.core.comparison.runs import compare_runs
from affinity_tester.core.identity import Identity
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from affinity_tester.units import NS_PER_S
from comparing import INTERVAL_NS, PERIOD_NS, START_NS, STARTED, World, incident

S = NS_PER_S
QUIET = World(incidents_per_hour=0, loss=0)
IDENTITY = Identity()


def fed(*events: ev.Event) -> RunFigures:
    figures = RunFigures()
    for event in (STARTED, *events):
        figures.feed(event)
    return figures


def quiet(*extra: ev.Event, periods: int = 60, seed: int = 1) -> RunFigures:
    return World(periods, 0, 0, extra=list(extra)).run(Random(seed))


def rows(comparison: Comparison, measure: Measure) -> list[Row]:
    return [row for row in comparison.rows if row.measure is measure]


def row(before: RunFigures, after: RunFigures, measure: Measure) -> Row:
    (found,) = rows(compare_runs(before, after, 0.95), measure)
    return found


def lost(at_s: float, count: int, session: str = "CLIENT-1") -> ev.ProbesLost:
    sent_ns = START_NS + round(at_s * S)
    return ev.ProbesLost(sent_ns + 2 * S, session, 1, count, sent_ns, sent_ns)


# --- incidents ----------------------------------------------------------------------------------------------------------


def test_counts_incidents_and_takes_what_goes_on_for_one() -> None:
    first, second = (incident(at, continuing=at < 60) for at in (10.0, 70.0))
    run = fed(first, second, incident(200))
    assert (run.violations, run.named) == (2, {"flow-wipe": 2})


def test_leaves_out_what_the_pool_or_the_client_explains() -> None:
    explained = incident(10, judgements=((ev.Judgement.EXPLAINED, 5), (ev.Judgement.VIOLATION, 0)), outages=1)
    run = fed(explained)
    assert (run.violations, run.explained, run.outages, run.named) == (0, 1, 0, {})


def test_counts_losses_alone_where_the_pool_stood_still() -> None:
    near = (ev.NearFact(START_NS, 0, change=EndpointChange(EndpointAction.LEFT)),)
    run = fed(incident(10, judgements=()), incident(50, judgements=(), context=near))
    assert run.named == {"flow-wipe": 1}


def test_counts_outages_that_nothing_explains() -> None:
    run = fed(incident(10, outages=2, judgements=((ev.Judgement.UNKNOWN, 2),)))
    assert (run.violations, run.outages) == (0, 1)


def test_finds_the_incidents_of_avoidable_changes() -> None:
    def judged(at_s: float, avoidable: bool | None) -> ev.CaseJudged:
        probe = ev.RepliedProbe(1, START_NS + round(at_s * S), IDENTITY)
        change = ev.Change(1, (), probe, probe, probe.sent_ns, 0, 0)
        return ev.CaseJudged(START_NS, "CLIENT-1", change, ev.Judgement.EXPLAINED, avoidable, ())

    explained = ((ev.Judgement.EXPLAINED, 1),)
    outage = ev.OutageCase(1, START_NS + round(90.2 * S))
    run = fed(
        judged(10.2, True),
        judged(50.2, False),
        ev.CaseJudged(START_NS, "CLIENT-2", outage, ev.Judgement.EXPLAINED, True, ()),
        ev.CaseJudged(
            START_NS, "CLIENT-3", ev.StrayCase(ev.Stray.WRONG_SOURCE, 1, 1), ev.Judgement.EXPLAINED, True, ()
        ),
        incident(10, judgements=explained),
        incident(50, judgements=explained),
        incident(90, judgements=explained),
    )
    assert (run.avoidable, run.explained, run.hit) == (2, 3, set())


def test_knows_the_sessions_that_a_violation_hit() -> None:
    case = ev.OutageCase(1, START_NS)
    run = fed(ev.CaseJudged(START_NS, "CLIENT-1", case, ev.Judgement.VIOLATION, None, ()))
    assert run.hit == {"CLIENT-1"}


# --- series -------------------------------------------------------------------------------------------------------------


def test_counts_losses_by_block_and_not_those_of_an_outage() -> None:
    first = ev.RepliedProbe(200, START_NS + 35 * S, IDENTITY)
    run = quiet(
        lost(1, 3),
        lost(15, 24),
        lost(31, 10),
        lost(25.5, 7, "CLIENT-2"),
        ev.OutageStarted(START_NS + 36 * S, "CLIENT-1", 310, START_NS + 31 * S, None),
        lost(33, 10),
        ev.OutageEnded(START_NS + 40 * S, "CLIENT-1", 310, START_NS + 31 * S, 90, first),
        lost(34, 5),
        lost(71, 24),
        ev.OutageStarted(START_NS + 90 * S, "CLIENT-3", 1, START_NS + 71 * S, None),
        periods=10,
    )
    sent = 24 * BLOCK_NS / INTERVAL_NS
    assert run.losses() == [3 / sent, 24 / sent, 7 / sent, 0, 0, 0, 0, 24 / sent, 0, 0]


def test_leaves_out_blocks_in_which_the_pool_changed_or_nobody_was_answered() -> None:
    snapshot = PoolSnapshot(frozenset({Endpoint("1", "pod-a", "10.0.0.1")}))
    changed = EndpointChange(EndpointAction.LEFT)
    run = quiet(
        ev.PoolObserved(START_NS, START_NS, START_NS, snapshot),
        ev.PoolObserved(START_NS + 45 * S, START_NS + 44 * S, START_NS + 45 * S, snapshot, changes=(changed,)),
        ev.BlackoutStarted(START_NS + 91 * S, START_NS + 86 * S, 24),
        ev.BlackoutEnded(START_NS + 93 * S, START_NS + 86 * S, START_NS + 92 * S, 500, 5),
        periods=12,
    )
    assert len(run.losses()) == 12 - 3 - 2
    assert len(run.times(1)) == 12 - 3 - 2
    assert (run.pool_changes, run.blackouts, run.dark_ns) == (1, 1, 6 * S)


def test_counts_no_blackout_of_an_empty_pool() -> None:
    empty = ev.PoolObserved(START_NS, START_NS, START_NS, PoolSnapshot(frozenset()))
    run = quiet(empty, ev.BlackoutStarted(START_NS + 205 * S, START_NS + 200 * S, 24))
    assert (run.blackouts, run.dark_ns) == (0, 400 * S)


def test_tells_how_long_nobody_was_answered_up_to_the_end_too() -> None:
    dark = quiet(ev.BlackoutStarted(START_NS + 205 * S, START_NS + 200 * S, 24))
    told = row(quiet(), dark, Measure.DARK)
    assert (told.direction, told.before.count, told.after.count, told.after.of) == (Direction.TOLD, 0, 400 * S, 600 * S)
    assert rows(compare_runs(quiet(), quiet(), 0.95), Measure.DARK) == []


def test_compares_nothing_where_nobody_was_answered() -> None:
    nobody = quiet()
    nobody.total = replace(nobody.total, answered=0)
    assert compare_runs(quiet(), nobody, 0.95).rows == ()


def test_knows_a_killed_run_by_its_last_statistics() -> None:
    total = ev.Counts(sent=2_400, answered=2_400)
    run = fed(ev.StatsTick(START_NS + 10 * S, 24, total, total))
    assert (run.total, run.duration_ns, run.period_ns, run.times(1)) == (total, 10 * S, 0, [])
    assert RunFigures().losses() == []


def test_keeps_what_is_told_once() -> None:
    likely = ev.Diagnosis("client-ip-spread", ev.Certainty.LIKELY, ("seen",))
    run = fed(
        ev.PoolWatchStarted(START_NS, "prod", "default/echo", "node-port"),
        ev.RunDiagnosed(START_NS, (likely, replace(likely, name="mtu", certainty=ev.Certainty.POSSIBLE))),
        ev.ForeignServer(START_NS, "coturn"),
        ev.RunEnded(START_NS, aborted=False),
    )
    assert (run.run_names, run.watched, run.foreign) == ({"client-ip-spread"}, True, True)
    run.feed(ev.WrongPool(START_NS, "pod-z"))
    assert not run.watched


# --- comparisons ----------------------------------------------------------------------------------------------------------


def test_one_violation_against_none_may_be_chance_and_many_are_none() -> None:
    none, once, often = (quiet(*(incident(20 + 20 * i) for i in range(count))) for count in (0, 1, 12))
    assert row(none, once, Measure.VIOLATIONS).direction is Direction.SAME
    worse = row(none, often, Measure.VIOLATIONS)
    assert (worse.direction, worse.before.count, worse.after.count) == (Direction.WORSE, 0, 12)
    assert row(often, none, Measure.VIOLATIONS).direction is Direction.BETTER
    named = row(none, often, Measure.NAMED)
    assert (named.name, named.direction) == ("flow-wipe", Direction.WORSE)


def test_says_from_what_rate_on_a_violation_would_have_shown() -> None:
    same = row(quiet(), quiet(), Measure.VIOLATIONS)
    # 6 against 0 in the same time come out at p = 3.1 %; with 95 % they come where 10.5 are usual, in 10 minutes
    assert same.seen_from == pytest.approx(6 * 11.84, rel=0.01)


def test_tells_the_sessions_hit_and_does_not_test_them() -> None:
    case = ev.OutageCase(1, START_NS)
    hit = quiet(ev.CaseJudged(START_NS, "CLIENT-1", case, ev.Judgement.VIOLATION, None, ()))
    told = row(quiet(), hit, Measure.SESSIONS_HIT)
    assert (told.direction, told.why, told.after.count, told.after.of) == (Direction.TOLD, Why.SHARED_CAUSE, 1, 24)


def test_compares_avoidable_changes_where_both_pools_changed() -> None:
    def changing(count: int, avoidable: int) -> RunFigures:
        run = quiet()
        run.explained, run.avoidable = count, avoidable
        return run

    assert row(changing(10, 0), changing(10, 9), Measure.AVOIDABLE).direction is Direction.WORSE
    assert row(changing(0, 0), changing(10, 9), Measure.AVOIDABLE).why is Why.DEPENDS_ON_ACTION
    assert rows(compare_runs(quiet(), quiet(), 0.95), Measure.AVOIDABLE) == []


def test_compares_nothing_by_a_pool_that_never_stood_still() -> None:
    never = quiet()
    never.verdict = None
    assert row(quiet(), never, Measure.VIOLATIONS).why is Why.NO_STILL_TIME


def test_says_nothing_of_a_run_that_was_over_before_it_began() -> None:
    over = quiet(periods=0)
    over.total = quiet().total
    comparison = compare_runs(over, quiet(), 0.95)
    assert comparison.compared == 0
    assert {each.direction for each in comparison.rows} == {Direction.NOT_COMPARED, Direction.TOLD}


def test_compares_no_series_that_is_too_short_or_drifts_or_was_made_by_the_client() -> None:
    short, long = quiet(periods=5), quiet()
    assert row(short, long, Measure.LOSS).why is Why.TOO_FEW_BLOCKS
    drifting = World(rtt_ns=50e6, rtt_drift=0.98).run(Random(3))
    steady = World(rtt_ns=50e6).run(Random(4))
    assert row(steady, drifting, Measure.RTT_MEDIAN).why is Why.DRIFT
    busy, dropping = quiet(), quiet()
    busy.total = replace(busy.total, timer_misses=busy.total.sent // 10)
    dropping.total = replace(dropping.total, own_losses=busy.total.sent // 100)
    assert row(long, busy, Measure.RTT_P99).why is Why.OWN_CLIENT
    assert row(dropping, long, Measure.LOSS).why is Why.OWN_CLIENT


def test_compares_no_percentile_whose_median_drifts_though_its_noise_hides_that() -> None:
    total = ev.Counts(sent=24_000, answered=24_000)

    def run(drift_ms: int) -> RunFigures:
        return fed(
            *(
                ev.StatsTick(
                    START_NS + at * 10 * S, 24, total, total, p50_ns=(5 + at * drift_ms) * 10**6, p99_ns=900 * 10**6
                )
                for at in range(1, 61)
            )
        )

    assert row(run(0), run(0), Measure.RTT_P99).direction is Direction.SAME
    assert row(run(1), run(1), Measure.RTT_P99).why is Why.DRIFT


def test_compares_no_percentiles_of_other_periods() -> None:
    total = ev.Counts(sent=24_000, answered=24_000)
    ticks = [ev.StatsTick(START_NS + at * S, 24, total, total, p50_ns=10**6, p99_ns=10**6) for at in range(1, 100)]
    assert row(quiet(), fed(*ticks), Measure.RTT_MEDIAN).why is Why.OTHER_PERIODS


def test_tells_names_of_the_client_and_of_the_whole_run() -> None:
    own = ev.Diagnosis("self-inflicted", ev.Certainty.LIKELY, ("seen",))
    spread = ev.Diagnosis("client-ip-spread", ev.Certainty.LIKELY, ("seen",))
    after = quiet(
        *(incident(20 + 20 * index, diagnoses=(own,), judgements=()) for index in range(20)),
        ev.RunDiagnosed(START_NS, (spread,)),
    )
    told = rows(compare_runs(quiet(), after, 0.95), Measure.NAMED)
    assert [(each.name, each.direction, each.why) for each in told] == [
        ("self-inflicted", Direction.TOLD, Why.CLIENT_NAME),
        ("client-ip-spread", Direction.TOLD, Why.WHOLE_RUN),
    ]


def test_lists_settings_that_differ_and_those_that_make_it_unfair() -> None:
    before = quiet()
    after = quiet(ev.PoolWatchStarted(START_NS, "prod", "default/echo", "node-port"))
    after.started = replace(STARTED, interval_ns=S, version="2.0", dscp=46, sizes=(100, 1400))
    comparison = compare_runs(before, after, 0.95)
    assert comparison.differences == (
        Difference("context", "", "prod", unfair=False),
        Difference("service", "", "default/echo", unfair=False),
        Difference("via", "", "node-port", unfair=True),
        Difference("version", "1.0", "2.0", unfair=False),
        Difference("interval", "100ms", "1s", unfair=True),
        Difference("size", "288", "100, 1400", unfair=True),
        Difference("watched", "no", "yes", unfair=True),
        Difference("dscp", "", "46", unfair=True),
        Difference("pool-changes", "", "0", unfair=False),
    )
    assert (comparison.before.lasted_ns, comparison.before.verdict) == (60 * PERIOD_NS, "PASS")
