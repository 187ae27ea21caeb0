"""A lab run in this process; the whole of it runs in tests/cli/test_demo.py."""

from __future__ import annotations

import asyncio

import pytest

import busy
from affinity_tester.core.events import ChangeSeen, Event, Injected, SessionStarted
from affinity_tester.lab.compare import compare
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


@pytest.mark.busy
@pytest.mark.parametrize(("policy", "affinity"), [(Policy.LOCAL, Affinity.NONE), (Policy.CLUSTER, Affinity.CLIENT_IP)])
async def test_a_fault_is_seen_under_each_kind_of_service(policy: Policy, affinity: Affinity) -> None:
    plan = parse(PLAN.format(policy=policy, affinity=affinity), "x")
    ledger = Ledger(plan.faults)
    events: list[Event] = []
    await run_plan(plan, ledger, events.append, asyncio.Event(), asyncio.Event())
    busy.look_at_counts(ledger.total)
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
