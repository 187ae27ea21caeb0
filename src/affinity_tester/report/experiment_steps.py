"""What an experiment does, in words: its start, its phases, and the steps of its action."""

from __future__ import annotations

from affinity_tester.core import events as ev
from affinity_tester.units import quoted

PHASES = {
    ev.Phase.STEADY: "steady state: nothing is done, and no session may move",
    ev.Phase.ACTION: "action",
    ev.Phase.RECOVERY: "recovery: until what the action changed has settled",
    ev.Phase.ROLLBACK: "rollback: until all is as it was",
    ev.Phase.JUDGEMENT: "judgement",
}


def step_text(event: ev.Event) -> str:
    """Return what an event of an experiment says; empty for any other, and where the words would say nothing."""
    match event:
        case ev.ExperimentStarted(name=name, service=service):
            return f"experiment {name} on Service {quoted(service)}{kind_of_service(event.policy, event.affinity)}"
        case ev.PhaseStarted(phase=phase):
            return f"experiment: {PHASES[phase]}"
        case ev.ActionStep(text=text, undo=undo, failed=failed):
            return f"{_done(undo=undo, failed=failed)}: {text}"
        case _:
            return ""


def kind_of_service(policy: str, affinity: str) -> str:
    """Return ` (policy Local, affinity ClientIP)`, as far as it is known."""
    known = [f"policy {policy}"] * bool(policy) + [f"affinity {affinity}"] * bool(affinity)
    return f" ({', '.join(known)})" if known else ""


def _done(*, undo: bool, failed: bool) -> str:
    if failed:
        return "could not be undone" if undo else "failed"
    return "undone" if undo else "done"
