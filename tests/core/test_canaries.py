"""Who gets a canary, and when: the time is passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.session.canaries import MAX_PER_GROUP, MAX_QUICK, CanaryPlan

MS = 1_000_000
S = 1_000 * MS
SWEEP = S // 4


class Sent(list[tuple[int, str]]):
    """What was sent, and when, in ms."""

    @property
    def times(self) -> list[int]:
        return [at_ms for at_ms, _ in self]

    @property
    def about(self) -> list[str]:
        return [name for _, name in self]


def play(
    silences: dict[str, list[tuple[int, int]]],
    until_s: int,
    *,
    interval_ns: int = 100 * MS,
    late_ns: Callable[[int], int] = lambda _number: 0,
    resumed_ns: int = 0,
) -> Sent:
    """Sessions unanswered from and until these times (ns), looked at four times a second."""
    plan, sent = CanaryPlan(interval_ns), Sent()
    for number in range(until_s * 4):
        now_ns = number * SWEEP + late_ns(number)
        unanswered = [
            (name, since)
            for name, spans in silences.items()
            for since, until in spans
            if since < now_ns < until
        ]  # fmt: skip
        sent += [
            (now_ns // MS, name) for name in plan.due(now_ns, unanswered, resumed_ns if now_ns >= resumed_ns else 0)
        ]
    return sent


def names(
    count: int, since_ns: int, *, apart_ns: int = 0, until_ns: int = 3600 * S
) -> dict[str, list[tuple[int, int]]]:
    return {f"s{n}": [(since_ns + n * apart_ns, until_ns)] for n in range(count)}


def quick(since_ms: int, count: int = MAX_QUICK) -> list[int]:
    """When the quick canaries of a silence are sent: one each sweep."""
    return list(range(since_ms, since_ms + 250 * count, 250))


def test_a_silent_session_is_asked_about_after_2_s_forty_times_at_once_and_then_each_2_s() -> None:
    sent = play(names(1, 10 * S), 30)
    assert sent.times == [*quick(12_000), 23_750, 25_750, 27_750, 29_750]
    assert set(sent.about) == {"s0"}
    assert play(names(1, 10 * S, until_ns=12 * S), 20) == []
    assert play(names(1, 10 * S, until_ns=13 * S), 20).times == quick(12_000, 4)


def test_sweeps_that_come_late_do_not_add_up() -> None:
    sent = play(names(1, 0), 50, late_ns=lambda number: 3 * MS * (number % 50)).times[MAX_QUICK:]
    assert all(abs(at - sent[0] - 2_000 * n) < 400 for n, at in enumerate(sent))
    assert len(sent) == 19
    # One that comes after a whole gap is not made up for.
    plan = CanaryPlan(100 * MS)
    for number in range(4 * 11):
        plan.due(3 * S + number * SWEEP, [("a", S)])
    due = [at for at in (20, 26, 27, 28, 30) if plan.due(at * S, [("a", S)])]
    assert due == [20, 26, 28, 30]


def test_sessions_that_fall_silent_together_share_their_canaries_each_asked_about_once_if_possible() -> None:
    sent = play(names(100, 10 * S, apart_ns=9 * MS), 60)
    assert sent.times[:40] == quick(12_000)
    assert len(set(sent.about)) == len(sent) == 59
    few = play(names(3, 10 * S), 32)
    assert Counter(few.about) == {"s0": 15, "s1": 15, "s2": 15}


def test_after_the_quick_ones_the_last_are_spaced_out_over_minutes() -> None:
    sent = play(names(60, 0), 1_200)
    assert len(sent) == MAX_PER_GROUP == 75
    assert sent.times[40:60] == list(range(13_750, 53_000, 2_000))
    gaps = [after - before for before, after in pairwise(sent.times[59:])]
    assert gaps[0] in (2_500, 2_750)
    assert all(1.2 < after / before < 1.4 for before, after in pairwise(gaps[2:]))
    # Three and more are left when the pool changes four minutes later.
    assert len([at for at in sent.times if at > 240_000]) == 4
    assert 450_000 < sent.times[-1] < 520_000


def test_silences_that_begin_apart_have_canaries_of_their_own_and_share_the_rate() -> None:
    apart = names(1, 10 * S) | {"b": [(11_200 * MS, 3600 * S)]}
    sent = play(apart, 16)
    assert [name for at, name in sent if at < 13_000] == ["s0"] * 4
    later = Counter(name for at, name in sent if at >= 14_000)
    assert abs(later["s0"] - later["b"]) <= 2
    assert later.total() == 10
    near = names(1, 10 * S) | {"b": [(11_100 * MS, 3600 * S)]}
    assert play(near, 16).times == quick(12_000, 16)
    # With a probe each 2 s a silence may have begun 2 s before its first unanswered probe.
    slow = names(1, 10 * S) | {"b": [(12_900 * MS, 3600 * S)]}
    assert play(slow, 16, interval_ns=2 * S).times == quick(12_000, 16)


def test_a_chain_of_silences_is_cut_at_a_minute() -> None:
    sent = play(names(100, 0, apart_ns=S, until_ns=600 * S), 140)
    # One group of 61 sessions, one of 39 that has canaries of its own as soon as it is silent.
    later = [at for at, name in sent if int(name[1:]) > 60]
    assert later[:4] == quick(63_000, 4)


def test_a_group_is_forgotten_when_none_of_it_is_silent_any_more() -> None:
    # Silent for so long that all are used up, answered, silent again.
    sent = play({"a": [(0, 700 * S), (701 * S, 3600 * S)]}, 720)
    assert [at for at in sent.times if at > 700_000][:3] == quick(703_000, 3)
    # A session that is answered leaves the group to the others.
    sent = play({"a": [(0, 3 * S)], "b": [(0, 3600 * S)]}, 4)
    assert sent.about == ["a", "b", "a", "b", "b", "b", "b", "b"]


def test_one_that_is_silent_anew_in_the_same_minute_is_the_same_group_while_others_are_silent() -> None:
    both = {"a": [(0, 3 * S), (3_400 * MS, 3600 * S)], "b": [(500 * MS, 3600 * S)]}
    assert play(both, 14, interval_ns=2 * S).times == [*quick(2_000), 13_750]


def test_no_more_than_five_a_second_those_due_longest_first() -> None:
    sent = play(names(20, 0, apart_ns=10 * MS) | {f"t{n}": [(n * 1_200 * MS, 3600 * S)] for n in range(20)}, 300)
    busiest = max(sum(at <= other < at + 1_000 for other in sent.times) for at in sent.times)
    assert busiest == 5
    assert {name for name in sent.about if name.startswith("t")} == {f"t{n}" for n in range(20)}


def test_a_silence_counts_from_when_the_client_went_on() -> None:
    def stood_still(number: int) -> int:
        return 20 * S if number >= 40 else 0

    assert play(names(1, 9 * S), 16, resumed_ns=30 * S, late_ns=stood_still).times == quick(32_000, 16)
    assert play(names(1, 5 * S), 16, resumed_ns=30 * S, late_ns=stood_still).times == [
        *quick(7_000, 12),
        *quick(32_000, 16),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(1, 200)), min_size=1, max_size=20),
    st.sampled_from([100 * MS, 2 * S, 60 * S]),
)
def test_a_canary_is_about_a_silent_session_and_no_storm(parts: list[tuple[int, int, int]], interval_ns: int) -> None:
    silences: dict[str, list[tuple[int, int]]] = {}
    for n, (since, lasts, again) in enumerate(parts):
        first = (since * 100 * MS, (since + lasts) * 100 * MS)
        silences[f"s{n}"] = [first, (first[1] + again * 100 * MS, 3600 * S)]
    sent = play(silences, 50, interval_ns=interval_ns)
    for at_ms, name in sent:
        assert any(since + 2 * S <= at_ms * MS < until for since, until in silences[name])
    for at in sent.times:
        assert sum(at <= other < at + 1_000 for other in sent.times) <= 5
    assert sent or all(since + 2 * S > min(until, 49 * S) for spans in silences.values() for since, until in spans)


@pytest.mark.parametrize("sessions", [1, 10, 200])
def test_an_incident_has_as_many_however_many_its_sessions(sessions: int) -> None:
    assert len(play(names(sessions, 0), 700)) == MAX_PER_GROUP
