"""What samples say together: against a model of connection tracking whose timeouts are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.advice import LINUX_TIMEOUTS, matching
from affinity_tester.core.idle.estimate import Standing, curves
from affinity_tester.core.idle.grid import grid, plan_round, steps_of
from affinity_tester.core.idle.model import Direction, Fate, Property, SampleResult
from affinity_tester.core.idle.results import IdleResult, second_round
from affinity_tester.core.idle.view import PathView
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from idle_simulation import RTT_NS, TRUE_TIMEOUT, Conntrack, simulate
from trials import HISTORIES

S = 1_000_000_000
MIN = 60 * S
SAMPLES = 20
MORE_SEEDS = range(1, max(3, HISTORIES // 500))
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.worlds) for seed in MORE_SEEDS)]
CLIENT_ONLY = (Direction.CLIENT,)


def never(_result: SampleResult) -> bool:
    return False


def measure(
    world: Conntrack,
    *,
    longest_ns: int = 10 * MIN,
    directions: Sequence[Direction] = CLIENT_ONLY,
    policy: str = "",
    affinity: str = "",
    is_void: Callable[[SampleResult], bool] = never,
    pool: PoolSnapshot | None = None,
) -> IdleResult:
    """Measure a world as `affinity-tester idle` does, in two rounds."""

    def view() -> PathView:
        return PathView.of(results, pool, policy=policy, affinity=affinity, via="")

    first = [(step, SAMPLES) for step in steps_of(grid(longest_ns), directions)]
    results = simulate(plan_round(first), world)
    second = second_round(curves(results, view(), is_void), SAMPLES)
    results += simulate(plan_round(second), world, max(each.ended_ns for each in results) + S)
    return IdleResult.of(
        results,
        view(),
        is_void,
        longest_ns=longest_ns,
        watched=False,
        planned=len(results),
        repeated=sum(count for step, count in second if step in dict(first)),
        known=LINUX_TIMEOUTS,
    )


def assert_found(result: IdleResult, world: Conntrack, wanted: Property = Property.FLOW) -> None:
    """Each state's timeout lies between its longest silence kept and the first not kept, which are a finer step apart."""
    for curve in result.curves:
        timeout_ns = getattr(world, TRUE_TIMEOUT[curve.state])
        found = curve.estimate(wanted)
        assert found.kept_ns is not None, curve.state
        assert found.lost_ns is not None, curve.state
        assert found.kept_ns <= timeout_ns <= found.lost_ns
        assert found.lost_ns < 1.06 * found.kept_ns


@pytest.mark.parametrize("seed", SEEDS)
def test_both_timeouts_are_found(seed: int) -> None:
    world = Conntrack(30 * S + seed, 120 * S + seed, seed=seed)
    result = measure(world, policy="Cluster", affinity="None")
    assert_found(result, world)
    assert [[known.name.split(",")[0] for known in matching(curve, LINUX_TIMEOUTS)] for curve in result.curves] == [
        ["nf_conntrack_udp_timeout"],
        ["nf_conntrack_udp_timeout_stream"],
    ]
    assert result.keep_alive_ns == 14 * S
    assert not result.is_unbroken


@pytest.mark.parametrize("seed", SEEDS)
def test_loss_of_one_packet_in_ten_is_no_timeout(seed: int) -> None:
    world = Conntrack(17 * S, 200 * S, seed=seed, loss=0.05)
    assert_found(measure(world, policy="Cluster", affinity="None"), world)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pod_alone_shows_it_under_policy_local(seed: int) -> None:
    """Two pods: every second flow that expired meets its old pod again."""
    world = Conntrack(30 * S, 120 * S, seed=seed, pods=2, masquerades=False)
    result = measure(world, policy="Local", affinity="None")
    assert_found(result, world)
    for curve in result.curves:
        count = curve.steps[-1].count(Property.FLOW)
        assert count.alike == 0.5
        assert 0.4 < count.expired <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_dead_flows_are_lost(seed: int) -> None:
    world = Conntrack(30 * S, 120 * S, seed=seed, blackholes=True)
    result = measure(world, policy="Cluster", affinity="None")
    assert_found(result, world)
    assert result.curves[0].steps[-1].dead == SAMPLES


@pytest.mark.parametrize("seed", SEEDS)
def test_the_pod_that_speaks_first_is_heard_until_the_timeout_whatever_the_settings(seed: int) -> None:
    world = Conntrack(30 * S, 120 * S, seed=seed, masquerades=False, client_ip=True)
    result = measure(world, directions=tuple(Direction), policy="Local", affinity="ClientIP")
    by_pod = [curve for curve in result.curves if curve.direction is Direction.POD]
    assert_found(replace(result, curves=tuple(by_pod)), world)
    for curve in result.curves:
        if curve.direction is Direction.CLIENT:
            assert not curve.estimate(Property.FLOW).is_known
            assert {step.count(Property.FLOW).standing for step in curve.steps} == {Standing.UNKNOWN}


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_longer_than_the_longest_where_there_is_no_timeout(loss: float) -> None:
    world = Conntrack(3600 * S, 3600 * S, loss=loss)
    result = measure(world, policy="Cluster", affinity="ClientIP")
    for curve in result.curves:
        flow = curve.estimate(Property.FLOW)
        assert (flow.kept_ns, flow.lost_ns) == (10 * MIN, None)
    assert result.is_unbroken
    assert result.keep_alive_ns == 5 * MIN


def test_a_timeout_below_the_shortest_silence_leaves_no_keep_alive() -> None:
    result = measure(Conntrack(S // 2, S // 2), longest_ns=4 * S, policy="Cluster")
    assert all(curve.estimate(Property.FLOW).kept_ns is None for curve in result.curves)
    assert result.keep_alive_ns is None
    assert result.is_conclusive


def test_client_ip_keeps_the_pod_and_the_port_tells() -> None:
    world = Conntrack(30 * S, 30 * S, client_ip=True)
    pool = PoolSnapshot(frozenset(Endpoint(pod, pod, f"10.1.0.{pod}", "node-1") for pod in "123"))
    result = measure(world, policy="Cluster", affinity="ClientIP", pool=pool)
    assert_found(result, world)
    assert_found(result, world, Property.PORT)
    for curve in result.curves:
        assert curve.estimate(Property.POD).kept_ns == 10 * MIN


def test_a_moment_without_answers_is_no_timeout_and_is_repeated() -> None:
    world = Conntrack(30 * S, 30 * S, silent=(15 * S, 19 * S))
    result = measure(world, policy="Cluster")
    assert_found(result, world)
    assert result.fates[Fate.PATH_SILENT] > 0
    assert result.repeated >= result.fates[Fate.PATH_SILENT]
    assert all(not curve.estimate(Property.FLOW).odd_ns for curve in result.curves)


def test_a_change_of_the_pool_voids_what_it_touches() -> None:
    """At 60 s all flows are flushed: without their being void, 20 s and 48 s would look lost."""

    class Flushed(Conntrack):
        def request(self, port: int, now_ns: int) -> Identity | None:
            if now_ns >= 60 * S and not self.flushed:
                self.flushed = True
                self.entries.clear()
            return super().request(port, now_ns)

        flushed = False

    def touched(result: SampleResult) -> bool:
        return result.begun_ns <= 70 * S and result.ended_ns >= 50 * S

    world = Flushed(3600 * S, 3600 * S)
    result = measure(world, policy="Cluster", is_void=touched)
    assert result.void > 400
    assert result.repeated == 0 or result.repeated <= result.void
    for curve in result.curves:
        flow = curve.estimate(Property.FLOW)
        assert (flow.kept_ns, flow.lost_ns, flow.odd_ns) == (10 * MIN, None, ())


WORLDS = st.builds(
    Conntrack,
    exchange_ns=st.integers(S * 3 // 2, 70 * S),
    stream_ns=st.integers(S * 3 // 2, 70 * S),
    pods=st.integers(2, 6),
    masquerades=st.booleans(),
    blackholes=st.booleans(),
    seed=st.integers(0, 2**32),
)


@pytest.mark.worlds
@settings(max_examples=max(5, HISTORIES // 150))
@given(WORLDS)
def test_without_loss_no_estimate_is_wrong(world: Conntrack) -> None:
    """Whatever the timeouts: no silence longer than its timeout is claimed kept, and no shorter one is claimed lost."""
    result = measure(world, longest_ns=40 * S, policy="Cluster" if world.masquerades else "Local", affinity="None")
    for curve in result.curves:
        timeout_ns = getattr(world, TRUE_TIMEOUT[curve.state])
        found = curve.estimate(Property.FLOW)
        assert found.kept_ns is not None
        assert found.kept_ns <= timeout_ns
        if found.lost_ns is None:
            assert found.kept_ns == 40 * S
        else:
            # The way saw its last packet before the client did.
            assert timeout_ns <= found.lost_ns + RTT_NS
            assert found.lost_ns < 1.06 * found.kept_ns
