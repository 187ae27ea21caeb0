"""A fault plan: one lab run, how long, with how many sessions, against what, and which faults when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Outcome
from affinity_tester.core.judging.rules import DEFAULT_RULES, Rules
from affinity_tester.errors import UserError
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.parameter import (
    TIME_OR_0,
    YES,
    Parameters,
    parameter,
    read_count,
    read_yes,
    time_parameter,
)
from affinity_tester.settings import DEFAULT_REQUEST_SIZE, MAX_REQUEST_SIZE, MIN_REQUEST_SIZE
from affinity_tester.units import NS_PER_S, format_duration, parse_duration

MAX_SESSIONS = 1000
"""Each costs the lab two sockets, and two busy cores must keep up."""

MAX_RATE = 3000
"""Probes a second: pods, balancer and client share one core, and this is half of what one was seen to carry."""

MAX_NODES = 100
"""Of nodes and of pods: it is the last octet of their addresses, with room for those that faults add."""

MAX_HELD_NS = NS_PER_S
"""Half the client's loss threshold: a busy machine adds to it."""

SEED = "a whole number"
NAMES = "names of the catalogue, with commas between"
VERDICT = f"one of {', '.join(Outcome)}, or some with commas between"
SIZE = f"a multiple of 4 from {MIN_REQUEST_SIZE} to {MAX_REQUEST_SIZE}"
SIZES = f"{SIZE}, with commas between ('288,1400')"


def read_sessions(text: str) -> int:
    """Read a number of sessions, from 1 to 1000."""
    return _at_most(MAX_SESSIONS, text)


def read_nodes(text: str) -> int:
    """Read a number of nodes or pods, from 1 to 100."""
    return _at_most(MAX_NODES, text)


def read_size(text: str) -> int:
    """Read a probe's size, a multiple of 4 from 20 on."""
    size = int(text)
    if size % 4 or not MIN_REQUEST_SIZE <= size <= MAX_REQUEST_SIZE:
        raise ValueError(text)
    return size


def read_sizes(text: str) -> tuple[int, ...]:
    """Read sizes with commas between."""
    return tuple(map(read_size, text.split(",")))


def read_verdict(text: str) -> frozenset[Outcome]:
    """Read verdicts with commas between."""
    return frozenset(map(Outcome, text.replace(" ", "").split(",")))


def read_names(text: str) -> frozenset[str]:
    """Read names of the catalogue with commas between."""
    names = frozenset(text.replace(" ", "").split(","))
    if not names <= CATALOGUE.keys():
        raise ValueError(text)
    return names


def _at_most(limit: int, text: str) -> int:
    count = read_count(text)
    if count > limit:
        raise ValueError(text)
    return count


class Plan(Parameters):
    """One lab run."""

    seed: int = parameter(int, SEED, "decides every choice that the lab makes", default=1)
    duration_ns: int = time_parameter("how long probes are sent", key="duration", default=30 * NS_PER_S)
    sessions: int = parameter(
        read_sessions, f"a whole number from 1 to {MAX_SESSIONS}", "the client's sessions", default=10
    )
    interval_ns: int = time_parameter("between two probes of a session", key="interval", default=NS_PER_S // 10)
    pods: int = parameter(read_nodes, f"a whole number from 1 to {MAX_NODES}", "backends", default=3)
    nodes: int = parameter(read_nodes, f"a whole number from 1 to {MAX_NODES}", "nodes", default=3)
    policy: Policy = parameter(
        Policy, " or ".join(Policy), "the Service's externalTrafficPolicy", default=Policy.CLUSTER
    )
    affinity: Affinity = parameter(
        Affinity, " or ".join(Affinity), "the Service's sessionAffinity", default=Affinity.NONE
    )
    idle_ns: int = time_parameter("after which a node forgets a flow", key="idle", default=30 * NS_PER_S)
    outside: int = parameter(
        read_nodes,
        f"a whole number from 1 to {MAX_NODES}",
        "more nodes, to which the balancer does not send yet",
        default=0,
    )
    vip: bool = parameter(
        read_yes, YES, "one node holds the service's address, and takes every packet, in place of a hash", default=False
    )
    bridges: bool = parameter(
        read_yes, YES, "nodes masquerade towards their own pods with their pod bridge's address", default=False
    )
    size: int = parameter(read_size, SIZE, "bytes of a probe", default=DEFAULT_REQUEST_SIZE)
    sizes: tuple[int, ...] = parameter(read_sizes, SIZES, "bytes of the probes, in turn", default=())
    settle_ns: int = time_parameter(
        "how far from a change of the pool it explains others", key="settle", default=2 * NS_PER_S
    )
    window_ns: int = time_parameter(
        "a longer pause between probes excuses a change", key="window", default=DEFAULT_RULES.affinity_window_ns
    )
    check_ns: int = time_parameter(
        "how long the balancer's health check takes to leave a node out (the client's --balancer-check)",
        key="check",
        default=DEFAULT_RULES.balancer_check_ns,
    )
    late_ns: int = parameter(
        parse_duration, TIME_OR_0, "how late the watch tells a change of the pool", key="late", default=0
    )
    verdict: frozenset[Outcome] = parameter(
        read_verdict, VERDICT, "what the client's own verdict is to be", default=frozenset(Outcome)
    )
    alike: frozenset[str] = parameter(
        read_names, NAMES, "faults that no client could tell from this plan's (core.diagnosis)", default=frozenset()
    )
    faults: tuple[Fault, ...] = ()
    """In the order of their times."""

    @property
    def rules(self) -> Rules:
        """Return what the client judges by."""
        return Rules(settle_ns=self.settle_ns, affinity_window_ns=self.window_ns, balancer_check_ns=self.check_ns)

    @property
    def margin_ns(self) -> int:
        """Return the time that the first and the last effect need from the run's start and to its end: some probes each."""
        return NS_PER_S // 2 + 3 * self.interval_ns

    def scaled_to(self, duration_ns: int) -> Plan:
        """Return the plan of another duration: all times of its faults scale. Raises `UserError` when they no longer fit."""
        faults = tuple(fault.scaled(duration_ns, self.duration_ns) for fault in self.faults)
        plan = replace(self, duration_ns=duration_ns, faults=faults)
        for problem in plan.problems():
            raise UserError(f"the plan does not fit into {format_duration(duration_ns)}: {problem}")
        return plan

    def problems(self) -> Iterator[str]:
        """Yield what does not fit together."""
        if self.sessions * NS_PER_S > MAX_RATE * self.interval_ns:
            yield (
                f"{self.sessions} sessions with a probe every {format_duration(self.interval_ns)} are too much for one "
                f"process: at most {MAX_RATE} probes/s"
            )

        for fault in self.faults:
            if fault.at_ns < self.margin_ns and not fault.from_start:
                yield (
                    f"{fault.name} at {format_duration(fault.at_ns)} is too early: "
                    f"from {format_duration(self.margin_ns)} on every session has been answered"
                )
            if fault.at_ns + fault.lasts_ns + self.margin_ns > self.duration_ns:
                yield (
                    f"{fault.name} at {format_duration(fault.at_ns)} is too late: it must be over "
                    f"{format_duration(self.margin_ns)} before the end at {format_duration(self.duration_ns)}"
                )
            if self.policy not in fault.policies:
                yield f"{fault.name} is made for policy {' or '.join(sorted(fault.policies))}: {fault.why_policy}"
            if self.affinity not in fault.affinities:
                yield f"{fault.name} is made for affinity {' or '.join(sorted(fault.affinities))}"
            if (wanted := fault.session_count) > self.sessions:
                yield f"{fault.name} is to hit {wanted} sessions, and the plan has {self.sessions}"
            if fault.reorder_delay_ns and not self.interval_ns < fault.reorder_delay_ns < MAX_HELD_NS:
                yield (
                    f"{fault.name} holds replies back for {format_duration(fault.reorder_delay_ns)}: more than the interval "
                    f"({format_duration(self.interval_ns)}) and less than {format_duration(MAX_HELD_NS)} is possible, "
                    "else nothing is reordered, or replies count as lost"
                )
