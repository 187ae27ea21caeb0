"""What each kind of comparison shows, which way it differs, and from what on a worse AFTER would have been called so."""

from __future__ import annotations

from math import exp, factorial

import pytest

from affinity_tester.core.comparison.differences import differences, report_settings
from affinity_tester.core.comparison.holm import PValue, reject
from affinity_tester.core.comparison.ranks import least_shift, median_interval, rank_test
from affinity_tester.core.comparison.results import Difference, Direction, Figure, Measure, Row, Unit, Why
from affinity_tester.core.comparison.weigh import (
    Candidate,
    Of,
    Series,
    mean_figure,
    median_figure,
    not_compared,
    one_sided_mean,
    one_sided_share,
    rate_figure,
    rates,
    series,
    share_figure,
    shares,
    told,
    weigh,
)
from affinity_tester.core.exact import (
    binomial_interval,
    chance_of_at_least,
    poisson_interval,
    rates_differ,
    shares_differ,
)
from comparing import report

C = 0.9
OF = Of(Measure.BEYOND, C, where="here", name="name")
LOW, HIGH = [1.0, 2, 3, 4, 5, 6, 7, 8], [11.0, 12, 13, 14, 15, 16, 17, 18]

# --- figures -----------------------------------------------------------------------------------------------------------


def test_a_figure_has_its_value_its_interval_and_what_it_is_of() -> None:
    low, high = binomial_interval(3, 20, C)
    assert share_figure(3, 20, Unit.SESSIONS, C) == Figure(Unit.SESSIONS, 0.15, low, high, 3, 20)
    low, high = poisson_interval(3, C)
    assert rate_figure(3, 0.5, C) == Figure(Unit.PER_HOUR, 6.0, low / 0.5, high / 0.5, 3, 0.5)
    interval = median_interval(LOW, C)
    assert interval is not None
    assert median_figure(LOW, Unit.TIME, C) == Figure(Unit.TIME, 4.5, *interval, 8, 8)
    assert median_figure([1, 3], Unit.TIME, C) == Figure(Unit.TIME, 2, None, None, 2, 2)
    assert mean_figure([1, 2, 6], Unit.LOSS) == Figure(Unit.LOSS, 3, None, None, 3, 3)


def test_a_figure_of_nothing_has_no_value() -> None:
    def nothing(unit: Unit, count: int = 0) -> Figure:
        return Figure(unit, None, None, None, count, 0)

    assert share_figure(0, 0, Unit.SESSIONS, C) == nothing(Unit.SESSIONS)
    assert rate_figure(3, 0, C) == nothing(Unit.PER_HOUR, 3)
    assert median_figure([], Unit.TIME, C) == nothing(Unit.TIME)
    assert mean_figure([], Unit.LOSS) == nothing(Unit.LOSS)


def test_rows_that_are_not_tested_say_why() -> None:
    before, after = share_figure(1, 2, Unit.LOSS, C), share_figure(2, 3, Unit.LOSS, C)
    why = Why.SHARED_CAUSE
    assert told(OF, before, after, why=why) == Row(
        "here", Measure.BEYOND, "name", before, after, Direction.TOLD, why=why
    )
    assert not_compared(OF, before, after, why=why) == Row(
        "here", Measure.BEYOND, "name", before, after, Direction.NOT_COMPARED, why=why
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_more_than_so_many_come_with_the_confidence_at_the_bound(count: int) -> None:
    share = one_sided_share(count, 24, C)
    assert chance_of_at_least(24, count + 1, share) == pytest.approx(C)
    mean = one_sided_mean(count, C)
    assert sum(exp(-mean) * mean**k / factorial(k) for k in range(count + 1)) == pytest.approx(1 - C)


# --- candidates --------------------------------------------------------------------------------------------------------

PAIRS = [((1, 100), (10, 50)), ((10, 20), (4, 20)), ((0, 10), (0, 10)), ((3, 24), (4, 24)), ((2, 30), (6, 18))]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_shares_and_rates_tell_which_side_has_more(before: tuple[int, int], after: tuple[int, int]) -> None:
    is_more = after[0] / after[1] > before[0] / before[1]
    share = shares(OF, Unit.INCIDENTS, before, after)
    assert (share.is_more, share.matters, share.row.p) == (is_more, True, share.tested.p)
    assert share.tested.p == shares_differ(*before, *after)
    figures = share_figure(*before, Unit.INCIDENTS, C), share_figure(*after, Unit.INCIDENTS, C)
    assert (share.row.before, share.row.after, share.row.direction) == (*figures, Direction.SAME)
    rate = rates(OF, before, after)
    assert (rate.is_more, rate.matters, rate.row.p) == (is_more, True, rate.tested.p)
    assert (rate.row.before, rate.row.after) == (rate_figure(*before, C), rate_figure(*after, C))


@pytest.mark.parametrize("level", [0.001, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("before", "after"), [*PAIRS, ((0, 3), (0, 3)), ((0, 0), (0, 4))])
def test_a_share_would_have_been_worse_from_the_first_count_that_comes_out(
    before: tuple[int, int], after: tuple[int, int], level: float
) -> None:
    hits = [
        count
        for count in range(1, after[1] + 1)
        if count * before[1] > before[0] * after[1] or not before[1]
        if shares_differ(*before, count, after[1]) <= level
    ]
    expected = one_sided_share(hits[0] - 1, after[1], C) if hits else None
    assert shares(OF, Unit.SESSIONS, before, after).seen_from(level) == expected


@pytest.mark.parametrize("level", [0.001, 0.05, 1.0, None])
@pytest.mark.parametrize(("before", "after"), [((1, 2.0), (1, 1.0)), ((3, 0.5), (9, 1.5)), ((0, 1.0), (0, 3.0))])
def test_a_rate_would_have_been_worse_from_the_first_count_that_comes_out(
    before: tuple[int, float], after: tuple[int, float], level: float | None
) -> None:
    more = [count for count in range(1, 100) if count / after[1] > before[0] / before[1]]
    level = rates_differ(*before, more[6], after[1]) if level is None else level
    first = next(count for count in more if rates_differ(*before, count, after[1]) <= level)
    expected = one_sided_mean(first - 1, C) / after[1]
    assert rates(OF, before, after).seen_from(level) == expected


def test_no_rate_would_have_been_worse_at_a_level_that_none_reaches() -> None:
    assert rates(OF, (0, 1e9), (0, 1e-9)).seen_from(-1.0) is None


def series_of(before: float, after: float, *, more: bool, floor: float) -> Candidate:
    def figure(value: float) -> Figure:
        return Figure(Unit.TIME, value, None, None, 8, 8)

    ranked = (LOW, HIGH) if more else (HIGH, LOW)
    return series(OF, Series(figure(before), ranked[0]), Series(figure(after), ranked[1]), floor=floor)


@pytest.mark.parametrize(
    ("before", "after", "more", "matters"),
    [
        (0.0, 2.0, True, True),
        (0.0, 1.9, True, False),
        (2.0, 0.0, False, True),
        (1.9, 0.0, False, False),
        (2.0, 0.0, True, False),
        (0.0, 9.0, False, False),
        (5.0, 9.0, False, False),
    ],
)
def test_a_series_matters_where_its_value_differs_as_its_ranks_do(
    before: float, after: float, more: bool, matters: bool
) -> None:
    found = series_of(before, after, more=more, floor=2.0)
    assert (found.is_more, found.matters) == (more, matters)
    assert (found.row.before.value, found.row.after.value) == (before, after)
    assert found.row.p == found.tested.p == rank_test(LOW, HIGH).p


def test_a_series_would_have_been_worse_beyond_its_floor_and_where_its_ranks_show_it() -> None:
    def seen_from(value: float, ranked: list[float], floor: float, level: float) -> float | None:
        one = Series(Figure(Unit.TIME, value, None, None, 8, 8), ranked)
        other = Series(Figure(Unit.TIME, value + 1, None, None, 8, 8), ranked)
        return series(OF, one, other, floor=floor).seen_from(level)

    shift = least_shift(LOW, LOW, 0.05)
    assert shift is not None
    assert seen_from(4.0, LOW, 0.1, 0.05) == 5.0 + shift
    assert seen_from(4.0, LOW, 100.0, 0.05) == 104.0
    assert seen_from(4.0, LOW[:2], 0.1, 0.05) is None


def test_all_are_weighed_together() -> None:
    worse, better = shares(OF, Unit.SESSIONS, (0, 24), (20, 24)), shares(OF, Unit.SESSIONS, (20, 24), (0, 24))
    small, same = series_of(0.0, 1.0, more=True, floor=2.0), shares(OF, Unit.SESSIONS, (3, 24), (4, 24))
    rows, level = weigh([worse, better, small, same], 0.95)
    assert [(row.direction, row.is_small) for row in rows] == [
        (Direction.WORSE, False),
        (Direction.BETTER, False),
        (Direction.SAME, True),
        (Direction.SAME, False),
    ]
    # One more comparison that comes out is weighed beside those that did not, so it has to reach less than their level.
    assert level == pytest.approx(0.05)
    assert rows[3].seen_from == same.seen_from(1 / (1 / level + 1 / (1 - 0.95)))
    assert [row.seen_from for row in rows[:3]] == [None] * 3


def test_a_level_is_reached_by_what_equals_it() -> None:
    assert reject([PValue(0.05, 0.01)], 0.05) == ([True], 0.05)
    assert reject([PValue(0.05, 0.05)] * 2, 0.05) == ([False] * 2, 0.025)
    assert reject([PValue(0.5, 0.04), PValue(0.5, 0.04), PValue(0.5, 0.001)], 0.05)[1] == 0.025


# --- settings ----------------------------------------------------------------------------------------------------------


def test_a_setting_that_one_side_lacks_is_not_known_there() -> None:
    assert differences({"a": "1", "c": ""}, {"via": "2"}) == (
        Difference("a", "1", "", unfair=False),
        Difference("via", "", "2", unfair=True),
    )
    assert differences({}, {"c": ""}) == ()


def test_a_report_says_what_its_figures_depend_on() -> None:
    settings = dict(report_settings(report()))
    assert settings == {
        "context": "prod",
        "kubernetes": "v1.35.2",
        "nodes": "3",
        "os": "Ubuntu 24.04",
        "kernel": "6.8.0",
        "runtime": "containerd 2.1",
        "kubelet": "v1.35.2",
        "proxy": "kube-proxy, iptables mode",
        "cni": "",
        "cloud": "azure",
        "balancer": "",
        "via": "node-port",
        "version": "1.0",
        "matrix": "yes",
        "sessions": "24",
        "interval": "100ms",
    }
