"""`idle` in the lab's network, whose timeouts are known: it finds them within a step, and says where there is none."""

from __future__ import annotations

import itertools

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.estimate import curves
from affinity_tester.core.idle.grid import grid, plan_round, steps_of
from affinity_tester.core.idle.model import Direction, Property, SampleResult
from affinity_tester.core.idle.results import IdleResult, second_round
from affinity_tester.core.idle.view import PathView
from affinity_tester.lab.model import Affinity, Pod, Policy
from affinity_tester.lab.network import NetworkModel
from affinity_tester.units import NS_PER_S
from idle_simulation import simulate

CLIENT_IP = "127.0.0.1"
LONGEST_NS = 600 * NS_PER_S
SAMPLES = 20
POLICIES = list(itertools.product(Policy, Affinity))


class LabNetwork:
    """The lab's network model, as the simulation asks it. Time is simulated, so it needs no sockets."""

    def __init__(self, seed: int, policy: Policy, affinity: Affinity, idle_ns: int) -> None:
        self.model = NetworkModel(seed=seed, log=lambda _event: None, policy=policy, affinity=affinity, idle_ns=idle_ns)
        for number in (1, 2, 3):
            self.model.ingress.add_node(f"node-{number}", f"127.1.0.{number}")
        for number in range(1, 10):
            address = TransportAddress(f"127.2.0.{number}", 3478)
            node = f"node-{(number - 1) % 3 + 1}"
            self.model.add_pod(Pod(name=f"pod-{number}", node=node, address=address, instance=bytes([number] * 8)))

    def request(self, port: int, now_ns: int) -> Identity | None:
        entry = self.model.forward(TransportAddress(CLIENT_IP, port), now_ns)
        if entry is None:
            return None
        self.model.reverse(entry.source, entry.pod.address, now_ns)
        return entry.identity

    def push(self, port: int, now_ns: int) -> bool:
        entry = self.model.entry_of(TransportAddress(CLIENT_IP, port))
        if entry is None or now_ns - entry.last_ns > self.model.idle_ns:
            return False
        return self.model.reverse(entry.source, entry.pod.address, now_ns) is not None


def measure(network: LabNetwork, directions: tuple[Direction, ...]) -> IdleResult:
    """Measure in two rounds, with what a watch would know."""

    def view() -> PathView:
        model = network.model
        return PathView.of(results, model.pool(), policy=model.policy, affinity=model.affinity, via="load-balancer")

    def never(_result: SampleResult) -> bool:
        return False

    results = simulate(plan_round([(step, SAMPLES) for step in steps_of(grid(LONGEST_NS), directions)]), network)
    second = second_round(curves(results, view(), never), SAMPLES)
    results += simulate(plan_round(second), network, max(each.ended_ns for each in results) + NS_PER_S)
    return IdleResult.of(results, view(), never, longest_ns=LONGEST_NS, watched=True, planned=len(results))


@pytest.mark.parametrize("seed", range(20))
def test_a_timeout_is_found_within_one_step(seed: int) -> None:
    policy, affinity = POLICIES[seed % len(POLICIES)]
    idle_ns = (5 + 13 * seed) * NS_PER_S
    result = measure(LabNetwork(seed, policy, affinity, idle_ns), (Direction.CLIENT,))
    for curve in result.curves:
        found = curve.estimate(Property.FLOW)
        if (policy, affinity) == (Policy.LOCAL, Affinity.CLIENT_IP):
            assert not found.is_known
            continue
        assert found.kept_ns is not None
        assert found.lost_ns is not None
        assert found.kept_ns <= idle_ns <= found.lost_ns < 1.06 * found.kept_ns


@pytest.mark.parametrize(("policy", "affinity"), POLICIES)
def test_the_pod_speaks_first_and_is_heard_until_the_timeout(policy: Policy, affinity: Affinity) -> None:
    result = measure(LabNetwork(7, policy, affinity, 30 * NS_PER_S), (Direction.POD,))
    for curve in result.curves:
        found = curve.estimate(Property.FLOW)
        assert found.kept_ns is not None
        assert found.lost_ns is not None
        assert found.kept_ns <= 30 * NS_PER_S <= found.lost_ns < 1.06 * found.kept_ns


@pytest.mark.parametrize(("policy", "affinity"), POLICIES[:3])
def test_without_a_timeout_it_is_longer_than_the_longest(policy: Policy, affinity: Affinity) -> None:
    result = measure(LabNetwork(3, policy, affinity, 7200 * NS_PER_S), (Direction.CLIENT,))
    assert result.is_unbroken
    for curve in result.curves:
        found = curve.estimate(Property.FLOW)
        assert (found.kept_ns, found.lost_ns) == (LONGEST_NS, None)
