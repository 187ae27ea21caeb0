"""The outcome of the experiment `idle`: flows that were silent, beside sessions that were not."""

from __future__ import annotations

from dataclasses import replace

from affinity_tester.core.exact import binomial_interval
from affinity_tester.core.experiment.results import CellOutcome, Held
from affinity_tester.core.idle.estimate import KeptCount, Standing, StepSummary
from affinity_tester.core.idle.model import FlowState, Property
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.units import format_percent, format_span

IDLE_EXPIRY = "likely idle-expiry"

_STATES = {FlowState.ONE_EXCHANGE: "one exchange", FlowState.STREAM: "a stream of 3 s"}


def idle_outcome(beside: CellOutcome, result: IdleResult) -> CellOutcome:
    """Return what silence did to flows; `beside` is what became of the sessions that were never silent meanwhile.

    Each of the flows has a socket of its own, and stands for a session: those that came back to another pod or at another
    address moved, and need not have. What broke the sessions beside them, too, is not for the silence. Where the settings
    hide an entry that is made anew, flows keep pod and address all the same, and the requirement asks for no more.
    """
    steps = [step for curve in result.curves for step in curve.steps]
    broken = any(_is_lost(step) for step in steps)
    usable = [each for each in result.results if each.counts]
    changed = (
        tuple(f"flow from port {each.local_port}" for each in usable if not each.kept(Property.FLOW)) if broken else ()
    )

    held, reasons = beside.held, beside.reasons
    if held is Held.YES and broken:
        held, reasons = Held.NO, tuple(_lost(step, step.count(Property.FLOW)) for step in steps if _is_lost(step))
    elif held is Held.YES and not (steps and all(_is_kept(step, result) for step in steps)):
        held, reasons = Held.UNKNOWN, (_unknown(result),)
    return replace(
        beside,
        sessions=len(usable),
        moved=changed,
        moved_pod=sum(step.new_pod for step in steps) if broken else 0,
        moved_address=sum(max(step.new_port, step.new_address) for step in steps) if broken else 0,
        least=(),
        least_reason="nothing is taken away",
        beyond=changed,
        twice=(),
        names=tuple(dict.fromkeys((*([IDLE_EXPIRY] if broken else []), *beside.names))),
        held=held,
        reasons=reasons,
        claim="; ".join(_kept(step) for step in steps if _is_kept(step, result)),
    )


def _is_lost(step: StepSummary) -> bool:
    return step.count(Property.FLOW).standing in (Standing.LOST, Standing.MIXED)


def _is_kept(step: StepSummary, result: IdleResult) -> bool:
    if step.count(Property.FLOW).standing is Standing.KEPT:
        return True
    changed = step.new_pod or step.new_node or step.new_port or step.new_address or step.dead
    return result.view.hides and not changed and 2 * step.usable >= step.samples


def _lost(step: StepSummary, count: KeptCount) -> str:
    """Return `silent for 15 s after one exchange, 0 of 20 flows were kept`."""
    return f"silent for {_silence(step)}, {count.kept} of {count.of} flows were kept"


def _kept(step: StepSummary) -> str:
    """Return `silent for 15 s after one exchange: 20 of 20 kept, at most 14 % would be lost (95 %)`."""
    count = step.count(Property.FLOW)
    lost = count.of - count.kept if count.standing is Standing.KEPT else 0
    most = binomial_interval(lost, step.usable)[1]
    kept = step.usable - lost
    return f"silent for {_silence(step)}: {kept} of {step.usable} kept, at most {format_percent(most)} would be lost (95 %)"


def _silence(step: StepSummary) -> str:
    return f"{format_span(step.step.silence_ns)} after {_STATES[step.step.state]}"


def _unknown(result: IdleResult) -> str:
    """Return why too few flows say anything."""
    if result.void:
        return f"the pool kept changing: {result.void} of {len(result.results)} flows say nothing"
    return f"too few of {result.planned} flows say anything"
