"""A lab run in this process; the whole of it runs in tests/cli/test_demo.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import yaml

import busy
from affinity_tester.core.events import ChangeSeen, Event, FaultInjected, PoolObserved, SessionStarted
from affinity_tester.lab.compare import compare
from affinity_tester.lab.lab_record import LabRecord
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.packet_log import Dropped
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import parse
from affinity_tester.lab.runner import open_lab

pytestmark = pytest.mark.xdist_group("runner")  # its module's fixture is made once

PLAN = """
sessions: 4
duration: 2s
interval: 50ms
policy: {policy}
affinity: {affinity}
faults:
  - {{fault: port-rewrite, at: 800ms, sessions: 2}}
"""


async def run_plan(
    plan: Plan, record: LabRecord, emit: Callable[[Event], None], stop: asyncio.Event | None = None
) -> None:
    """Run a plan until its time is over, or `stop` ends it; the record gets every event, and then `emit`."""

    def feed(event: Event) -> None:
        record.feed(event)
        emit(event)

    async with open_lab(plan, record, feed) as lab:
        await lab.run(stop or asyncio.Event(), asyncio.Event())


@pytest.mark.busy
@pytest.mark.parametrize(("policy", "affinity"), [(Policy.LOCAL, Affinity.NONE), (Policy.CLUSTER, Affinity.CLIENT_IP)])
async def test_a_fault_is_seen_under_each_kind_of_service(policy: Policy, affinity: Affinity) -> None:
    plan = parse(PLAN.format(policy=policy, affinity=affinity), "x")
    record = LabRecord(plan.faults)
    events: list[Event] = []
    await run_plan(plan, record, events.append)
    busy.look_at_counts(record.total)
    findings = compare(record)
    assert findings.passed, findings
    (injected,) = [event for event in events if isinstance(event, FaultInjected)]
    changed = [event.session for event in events if isinstance(event, ChangeSeen)]
    assert sorted(changed) == sorted(injected.sessions)
    assert len(changed) == 2
    started = [event for event in events if isinstance(event, SessionStarted)]
    assert [event.local for event in started] == [session.flow for session in record.sessions.values()]


async def test_what_emit_raises_ends_the_run() -> None:
    plan = parse(PLAN.format(policy="Cluster", affinity="None"), "x")

    def emit(event: Event) -> None:
        if isinstance(event, FaultInjected):
            raise ConnectionResetError("nobody reads this")

    with pytest.raises(ConnectionResetError, match="nobody reads this"):
        await run_plan(plan, LabRecord(plan.faults), emit)


async def test_a_run_that_is_stopped_early_says_what_was_not_injected() -> None:
    plan = parse(PLAN.format(policy="Cluster", affinity="None"), "x")
    record, stop = LabRecord(plan.faults), asyncio.Event()

    def emit(event: Event) -> None:
        if isinstance(event, SessionStarted):
            stop.set()

    await run_plan(plan, record, emit, stop)
    assert [row.problems for row in compare(record).rows] == [("it was not injected",)]


MODELS: dict[str, tuple[str, set[str]]] = {
    # the plan, and why the lab dropped packets
    "hung-pod": ("faults: [{fault: hung-pod, at: 1s, for: 600ms}]", {"dead-pod"}),
    "node-down": (
        "{nodes: 2, outside: 1, faults: [{fault: node-down, at: 1s, drain: 300ms, notice: 600ms, for: 1200ms}]}",
        {"dead-pod"},
    ),
    "node-down-ingress": (
        "faults: [{fault: node-down, at: 1s, drain: 400ms, notice: 700ms, for: 1200ms}]",
        {"dead-node", "dead-pod"},
    ),
    "late-check": ("{policy: Local, faults: [{fault: late-check, at: 1s, drain: 600ms}]}", {"no-local-pod"}),
    "scaled-to-zero": ("faults: [{fault: scaled-to-zero, at: 1s, for: 600ms}]", {"no-pod"}),
    "rollout": ("faults: [{fault: rolling-update, at: 1s, every: 200ms, lossy: yes}]", {"dead-pod"}),
    "blackout": ("faults: [{fault: blackout, at: 1s, for: 600ms}]", {"no-link"}),
    "replies-held": ("{duration: 5s, faults: [{fault: replies-held, at: 1s, for: 2500ms}]}", {"held-back"}),
    "stuck-flows": ("faults: [{fault: stuck-flows, at: 1s, sessions: 3}]", {"stale-entry"}),
    "count-reset": (
        "faults: [{fault: count-reset, at: 1s, for: 900ms, sessions: 6, probability: 0.5}]",
        {"fault"},
    ),
    "cross-delivery": (
        "faults: [{fault: cross-delivery, at: 1s, for: 900ms, sessions: 2, probability: 0.5}]",
        {"cross-delivery"},
    ),
    "one-packet": ("{nodes: 1, policy: Local, faults: [{fault: one-packet, at: 1s, for: 900ms}]}", {"wrong-source"}),
    "api-stalled": (
        "faults: [{fault: api-stalled, at: 900ms, for: 800ms}, {fault: pod-deleted, at: 1s, gap: 200ms}]",
        {"dead-pod"},
    ),
}
"""Models of silences, strays and late news, in runs too short for an outage to be told."""

SUSPENDED = "faults: [{fault: client-suspended, at: 1s, for: 600ms}]"

COMMON = {"sessions": 10, "duration": "4s", "settle": "300ms"}

OUTAGES = ("it told of no outage",)
"""What is missing from runs so short; whole ones are judged by `lab --all`."""


@dataclass
class Done:
    """A run that is over."""

    plan: Plan
    record: LabRecord
    told: list[PoolObserved] = field(default_factory=list)

    def check(self, reasons: set[str]) -> None:
        findings = compare(self.record)
        problems = [problem for row in findings.rows for problem in row.problems if not problem.endswith(OUTAGES)]
        assert (problems, findings.unexpected) == ([], ())
        packets = [packet for packets in self.record.packets.values() for packet in packets]
        assert {packet.reason for packet in packets if isinstance(packet, Dropped)} == reasons
        assert bool(self.record.pool_ns) == any(fault.moves_pool for fault in self.plan.faults)
        for at_ns in self.record.pool_ns:
            assert any(event.since_ns <= at_ns <= event.until_ns for event in self.told), "each change is told"


async def run(text: str) -> Done:
    plan = parse(yaml.safe_dump(COMMON | yaml.safe_load(text)), "x")
    done = Done(plan, LabRecord(plan.faults, plan.settle_ns))

    def emit(event: Event) -> None:
        if isinstance(event, PoolObserved):
            done.told.append(event)

    await run_plan(plan, done.record, emit)
    return done


@pytest.fixture(scope="module")
def runs() -> dict[str, Done]:
    """All at once: they spend their time waiting."""

    async def all_of_them() -> list[Done]:
        return await asyncio.gather(*(run(text) for text, _ in MODELS.values()))

    return dict(zip(MODELS, asyncio.run(all_of_them()), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_each_model_does_what_it_says_and_the_client_counts_it(runs: dict[str, Done], name: str) -> None:
    runs[name].check(MODELS[name][1])


async def test_a_client_that_stands_still_sees_a_pod_that_left_meanwhile_and_loses_nothing() -> None:
    """It has a process's time for itself: nothing else goes on beside it."""
    done = await run(SUSPENDED)
    done.check(set())
    (changed_ns,) = done.record.pool_ns
    (event,) = [event for event in done.told if event.asked_ns is None]
    assert event.until_ns - changed_ns >= 300_000_000, "the news is read late"
    assert done.record.total.timer_misses >= 30
