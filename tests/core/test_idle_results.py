"""What a measurement of silence has in its second round, and what its result says, by example and by property."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_idle_estimate import CLUSTER, ELSE, WHO, S, never, sample

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.advice import LINUX_TIMEOUTS
from affinity_tester.core.idle.estimate import Curve, Estimate, StepSummary, curves
from affinity_tester.core.idle.grid import MAX_SAMPLES, grid, plan_round, refine, steps_of
from affinity_tester.core.idle.model import Direction, Fate, FlowState, Property, SampleResult, Step
from affinity_tester.core.idle.results import CHEAP_NS, IdleResult, second_round
from affinity_tester.core.idle.view import PathView

MS = 1_000_000
OTHER_PORT = WHO._replace(reflexive=TransportAddress("10.0.0.1", 4001))


def step(silence_ns: int, state: FlowState = FlowState.STREAM, direction: Direction = Direction.CLIENT) -> Step:
    return Step(direction, state, silence_ns)


def samples(of: Step, count: int, after: Identity = WHO) -> list[SampleResult]:
    return [sample(0, after=after, step=of)] * count


def second(results: list[SampleResult], count: int = 20) -> tuple[tuple[Step, int], ...]:
    return second_round(curves(results, CLUSTER, lambda result: result.begun_ns == 7), count)


# --- finer steps -------------------------------------------------------------------------------------------------------


def test_each_state_and_direction_has_finer_steps_where_it_breaks() -> None:
    exchange, stream = step(5 * S, FlowState.ONE_EXCHANGE), step(10 * S)
    by_pod = step(20 * S, direction=Direction.POD)
    results: list[SampleResult] = []
    for kept in (exchange, stream, by_pod):
        lost = Step(kept.direction, kept.state, 2 * kept.silence_ns)
        results += samples(kept, 20) + samples(lost, 20, ELSE)
    assert second(results, 30) == (
        *((step(ms * MS, FlowState.ONE_EXCHANGE), 30) for ms in (5_740, 6_600, 7_580, 8_710)),
        *((step(ms * MS), 30) for ms in (11_500, 13_200, 15_200, 17_400)),
        *((step(ms * MS, direction=Direction.POD), 30) for ms in (23_000, 26_400, 30_300, 34_800)),
    )


def test_a_pod_that_is_lost_later_than_its_port_has_finer_steps_of_its_own() -> None:
    results = samples(step(S), 20) + samples(step(2 * S), 20, OTHER_PORT) + samples(step(4 * S), 20, ELSE)
    assert [each.silence_ns for each, _ in second(results)] == [*refine(S, 2 * S), *refine(2 * S, 4 * S)]


@pytest.mark.parametrize("after", [WHO, ELSE], ids=["kept", "lost"])
def test_nothing_is_finer_where_all_was_kept_or_all_was_lost(after: Identity) -> None:
    assert second(samples(step(S), 20, after) + samples(step(2 * S), 20, after)) == ()


# --- repetitions -------------------------------------------------------------------------------------------------------


def with_silent(silence_ns: int, silent: int, count: int = 20) -> list[SampleResult]:
    of = step(silence_ns)
    return samples(of, count - silent) + [sample(0, Fate.PATH_SILENT, None, step=of)] * silent


def test_what_said_nothing_by_chance_is_tried_again() -> None:
    results = [
        *[sample(5)] * 5,
        *[sample(5, begun_ns=7)] * 2,
        *[sample(5, after=WHO._replace(instance=b"another "))] * 3,
        *[sample(5, after=ELSE, resent=True)] * 4,
        *[sample(5, Fate.PATH_SILENT, None)] * 1,
        *[sample(5, Fate.NOT_STARTED, None, before=None)] * 2,
        *[sample(5, Fate.LATE)] * 3,
        *[sample(5, Fate.NOT_DELAYED, None)] * 6,
        *[sample(5, Fate.DEAD, None)] * 7,
    ]
    assert second(results) == ((step(5 * S), 2 + 3 + 4 + 1 + 2 + 3),)


def test_a_short_silence_is_tried_again_for_any_and_a_long_one_where_fewer_than_half_are_left() -> None:
    assert second(with_silent(CHEAP_NS, 1)) == ((step(CHEAP_NS), 1),)
    assert second(with_silent(CHEAP_NS + 1, 10)) == ()
    assert second(with_silent(CHEAP_NS + 1, 11)) == ((step(CHEAP_NS + 1), 11),)


def test_what_takes_no_longer_than_the_finer_steps_is_tried_again_beside_them() -> None:
    breaks = samples(step(10 * S), 20) + samples(step(20 * S), 20, ELSE)
    longest_ns = refine(10 * S, 20 * S)[-1]
    finer = tuple((step(each), 20) for each in refine(10 * S, 20 * S))
    exchange = FlowState.ONE_EXCHANGE

    def beside(silence_ns: int) -> tuple[tuple[Step, int], ...]:
        of = step(silence_ns, exchange)
        return second(breaks + samples(of, 19) + [sample(0, Fate.PATH_SILENT, None, step=of)])

    assert beside(longest_ns) == ((step(longest_ns, exchange), 1), *finer)
    assert beside(longest_ns + 1) == finer


# --- what fits ---------------------------------------------------------------------------------------------------------


def test_finer_steps_come_before_repetitions_where_not_all_fit() -> None:
    """All that was silent for longer than 1.56 s was void: with the finer steps more than can be open at a time."""
    results: list[SampleResult] = []
    for of in steps_of(grid(600 * S), tuple(Direction)):
        void = of.silence_ns > 1_560 * MS
        after = WHO if of.silence_ns < 1_560 * MS else ELSE
        results += [sample(0, after=after, step=of, begun_ns=7 if void else 0)] * 166
    wanted = second(results, 166)
    finer = steps_of(refine(1_250 * MS, 1_560 * MS), tuple(Direction))
    assert set(finer) < {of for of, _ in wanted}
    assert 0 <= MAX_SAMPLES - sum(count for _, count in wanted) < 166


def curve(
    direction: Direction, state: FlowState, breaks: dict[Property, tuple[int, int]], *steps: StepSummary
) -> Curve:
    found = [Estimate(wanted=wanted, kept_ns=kept, lost_ns=lost) for wanted, (kept, lost) in breaks.items()]
    found += [Estimate(wanted=wanted, kept_ns=None, lost_ns=None) for wanted in Property if wanted not in breaks]
    return Curve(direction=direction, state=state, steps=steps, estimates=tuple(found))


def test_where_whole_flows_break_comes_before_where_only_a_property_does() -> None:
    breaks = {Property.POD: (1_250 * MS, 1_560 * MS), Property.FLOW: (S, 1_250 * MS)}
    found = [curve(direction, state, breaks) for direction in Direction for state in FlowState]
    wanted = second_round(found, 1_000)
    assert {of for of, _ in wanted} > set(steps_of(refine(S, 1_250 * MS), tuple(Direction)))
    assert [count for _, count in wanted] == [1_000] * (MAX_SAMPLES // 1_000)


SILENCES = st.integers(S, 20 * S)
COUNTS = st.integers(0, 1_000)
SUMMARIES = st.lists(
    st.tuples(SILENCES, COUNTS, COUNTS, COUNTS, st.sampled_from(Fate)), max_size=30, unique_by=lambda each: each[0]
)


@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(Property), st.tuples(SILENCES, SILENCES).map(sorted)), SUMMARIES),
        max_size=4,
    ),
    st.integers(20, 1_000),
)
def test_a_second_round_can_always_be_planned(drawn: list[tuple[dict[Property, Any], list[Any]]], count: int) -> None:
    found = []
    for number, (breaks, summaries) in enumerate(drawn):
        direction, state = list(Direction)[number % 2], list(FlowState)[number // 2]
        steps = [
            StepSummary(
                step=Step(direction, state, ns),
                samples=void + restarted + n,
                void=void,
                restarted=restarted,
                unusable=((fate, n),),
            )
            for ns, void, restarted, n, fate in summaries
        ]
        found.append(curve(direction, state, breaks, *steps))
    wanted = second_round(found, count)
    assert len(plan_round(wanted)) == sum(many for _, many in wanted)
    assert all(many > 0 for _, many in wanted)
    silences = [of for of, _ in wanted]
    assert silences == sorted(set(silences))


# --- the result --------------------------------------------------------------------------------------------------------


def test_a_result_has_all_that_was_measured() -> None:
    results = [*[sample(5)] * 20, sample(5, begun_ns=7)]

    def is_void(result: SampleResult) -> bool:
        return result.begun_ns == 7

    found = IdleResult.of(
        results, CLUSTER, is_void, longest_ns=9 * S, watched=True, planned=22, repeated=3, known=LINUX_TIMEOUTS
    )
    assert found == IdleResult(
        results=tuple(results),
        view=CLUSTER,
        curves=curves(results, CLUSTER, is_void),
        longest_ns=9 * S,
        watched=True,
        planned=22,
        repeated=3,
        known=LINUX_TIMEOUTS,
    )
    assert (found.void, found.fates) == (1, {Fate.ANSWERED: 21})
    plain = IdleResult.of(results, CLUSTER, is_void, longest_ns=9 * S, watched=True, planned=22)
    assert (plain.repeated, plain.known) == (0, ())


def measured(*results: SampleResult) -> IdleResult:
    return IdleResult.of(results, CLUSTER, never, longest_ns=9 * S, watched=False, planned=len(results))


def test_no_flow_is_lost_unless_one_of_the_states_loses_one() -> None:
    exchange = step(5 * S, FlowState.ONE_EXCHANGE)
    kept, unknown = samples(exchange, 20), samples(exchange, 5)
    assert [each.is_unbroken for each in (measured(*kept), measured(*kept, *[sample(5, after=ELSE)] * 20))] == [
        True,
        False,
    ]
    # A state of which nothing is known takes nothing from the other; alone it says nothing.
    partly, nothing = measured(*unknown, *[sample(5)] * 20), measured(*unknown)
    assert (partly.is_unbroken, partly.is_conclusive, partly.keep_alive_ns) == (True, True, 2 * S)
    assert (nothing.is_unbroken, nothing.is_conclusive, nothing.keep_alive_ns) == (False, False, None)


def test_the_only_pod_says_nothing_and_the_port_tells() -> None:
    view = PathView(policy="Cluster", affinity="None", pods_by_node=(("node-1", 1),), translated=True)
    found = IdleResult.of([sample(5)] * 20, view, never, longest_ns=5 * S, watched=False, planned=20)
    assert not found.curves[0].estimate(Property.POD).is_known
    assert (found.is_conclusive, found.is_unbroken) == (True, True)


# --- one sample --------------------------------------------------------------------------------------------------------

RESTARTED = WHO._replace(instance=b"another ")


@pytest.mark.parametrize(
    ("result", "restarted", "ambiguous", "counts"),
    [
        (sample(5), False, False, True),
        (sample(5, resent=True), False, False, True),
        (sample(5, after=ELSE), False, False, True),
        (sample(5, after=ELSE, resent=True), False, True, False),
        (sample(5, after=RESTARTED), True, False, False),
        (sample(5, after=RESTARTED, resent=True), True, True, False),
        (sample(5, Fate.DEAD, None, resent=True), False, False, True),
        (sample(5, Fate.DEAD, ELSE, resent=True), False, False, True),
        (sample(5, Fate.LATE), False, False, False),
        (sample(5, Fate.PATH_SILENT, None), False, False, False),
        (sample(5, Fate.NOT_STARTED, None, before=None), False, False, False),
        (sample(5, Fate.NOT_STARTED, WHO, before=None), False, False, False),
        (sample(5, Fate.NOT_DELAYED, None), False, False, False),
    ],
)
def test_what_a_sample_says_of_its_silence(
    result: SampleResult, restarted: bool, ambiguous: bool, counts: bool
) -> None:
    assert (result.restarted, result.ambiguous, result.counts) == (restarted, ambiguous, counts)
