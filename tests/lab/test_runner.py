"""A lab run in this process; the whole of it runs in tests/cli/test_demo.py."""

from __future__ import annotations

import asyncio

import pytest
import yaml

from affinity_tester.core.events import ChangeSeen, Event, Injected, PoolObserved, SessionStarted
from affinity_tester.lab.compare import compare
from affinity_tester.lab.deeds import Dropped
from affinity_tester.lab.ledger import Ledger
from affinity_tester.lab.parts import Affinity, Policy
from affinity_tester.lab.plan_file import parse
from affinity_tester.lab.runner import run_plan

PLAN = """
sessions: 4
duration: 2s
interval: 50ms
policy: {policy}
affinity: {affinity}
faults:
  - {{fault: port-rewrite, at: 800ms, sessions: 2}}
"""


@pytest.mark.parametrize(("policy", "affinity"), [(Policy.LOCAL, Affinity.NONE), (Policy.CLUSTER, Affinity.CLIENT_IP)])
async def test_a_fault_is_seen_under_each_kind_of_service(policy: Policy, affinity: Affinity) -> None:
    plan = parse(PLAN.format(policy=policy, affinity=affinity), "x")
    ledger = Ledger(plan.faults)
    events: list[Event] = []
    await run_plan(plan, ledger, events.append, asyncio.Event(), asyncio.Event())
    findings = compare(ledger)
    assert findings.passed, findings
    (injected,) = [event for event in events if isinstance(event, Injected)]
    changed = [event.session for event in events if isinstance(event, ChangeSeen)]
    assert sorted(changed) == sorted(injected.sessions)
    assert len(changed) == 2
    started = [event for event in events if isinstance(event, SessionStarted)]
    assert [event.local for event in started] == [session.flow for session in ledger.sessions.values()]


async def test_what_emit_raises_ends_the_run() -> None:
    plan = parse(PLAN.format(policy="Cluster", affinity="None"), "x")

    def emit(event: Event) -> None:
        if isinstance(event, Injected):
            raise ConnectionResetError("nobody reads this")

    with pytest.raises(ConnectionResetError, match="nobody reads this"):
        await run_plan(plan, Ledger(plan.faults), emit, asyncio.Event(), asyncio.Event())


async def test_a_run_that_is_stopped_early_says_what_was_not_injected() -> None:
    plan = parse(PLAN.format(policy="Cluster", affinity="None"), "x")
    ledger, stop = Ledger(plan.faults), asyncio.Event()

    def emit(event: Event) -> None:
        if isinstance(event, SessionStarted):
            stop.set()

    await run_plan(plan, ledger, emit, stop, asyncio.Event())
    assert [row.problems for row in compare(ledger).rows] == [("it was not injected",)]


MODELS: dict[str, tuple[str, set[str]]] = {
    # the plan, and why the lab dropped packets
    "hung-pod": ("faults: [{fault: hung-pod, at: 800ms, for: 600ms}]", {"dead-pod"}),
    "node-down": (
        "{nodes: 2, outside: 1, faults: [{fault: node-down, at: 800ms, drain: 300ms, notice: 600ms, for: 1200ms}]}",
        {"dead-pod"},
    ),
    "node-down-ingress": (
        "faults: [{fault: node-down, at: 800ms, drain: 400ms, notice: 700ms, for: 1200ms}]",
        {"dead-node", "dead-pod"},
    ),
    "late-check": ("{policy: Local, faults: [{fault: late-check, at: 800ms, drain: 600ms}]}", {"no-local-pod"}),
    "scaled-to-zero": ("faults: [{fault: scaled-to-zero, at: 800ms, for: 600ms}]", {"no-pod"}),
    "rollout": ("faults: [{fault: rolling-update, at: 800ms, every: 400ms, lossy: yes}]", {"dead-pod"}),
    "blackout": ("faults: [{fault: blackout, at: 800ms, for: 600ms}]", {"no-link"}),
    "stuck-flows": ("faults: [{fault: stuck-flows, at: 800ms, sessions: 3}]", {"stale-entry"}),
    "count-reset": (
        "faults: [{fault: count-reset, at: 800ms, for: 800ms, sessions: 6, probability: 0.5}]",
        {"fault"},
    ),
    "cross-delivery": (
        "faults: [{fault: cross-delivery, at: 800ms, for: 800ms, sessions: 2, probability: 0.5}]",
        {"cross-delivery"},
    ),
    "one-packet": ("{nodes: 1, policy: Local, faults: [{fault: one-packet, at: 800ms, for: 800ms}]}", {"wrong-source"}),
    "client-suspended": ("faults: [{fault: client-suspended, at: 800ms, for: 600ms}]", set()),
    "api-stalled": (
        "faults: [{fault: api-stalled, at: 600ms, for: 800ms}, {fault: pod-deleted, at: 800ms, gap: 100ms}]",
        {"dead-pod"},
    ),
}
"""Models of silences, strays and late news, in runs too short for an outage to be told."""

OUTAGES = ("it told of no outage",)
"""What is missing from a run so short; whole runs are judged by `lab --all`."""


@pytest.mark.parametrize("name", MODELS)
async def test_each_model_does_what_it_says_and_the_client_counts_it(name: str) -> None:
    text, reasons = MODELS[name]
    given = yaml.safe_load(text)
    given = {"sessions": 12, "duration": "4500ms", "interval": "50ms", "settle": "300ms", **given}
    plan = parse(yaml.safe_dump(given), "x")
    ledger = Ledger(plan.faults, plan.settle_ns)
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        ledger.conclude(event)

    await run_plan(plan, ledger, emit, asyncio.Event(), asyncio.Event())
    findings = compare(ledger)
    problems = [problem for row in findings.rows for problem in row.problems if not problem.endswith(OUTAGES)]
    assert (problems, findings.unexpected) == ([], ())
    done = {deed.reason for deeds in ledger.deeds.values() for deed in deeds if isinstance(deed, Dropped)}
    assert done == reasons
    moves_pool = any(fault.moves_pool for fault in plan.faults)
    assert bool(ledger.pool_ns) == moves_pool
    known = [event for event in events if isinstance(event, PoolObserved)]
    for at_ns in ledger.pool_ns:
        assert any(event.since_ns <= at_ns <= event.until_ns for event in known), "each change of the pool is told"
