"""The experiment `idle`: what silence did to flows, beside sessions that were not silent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.experiment.idle_outcome import idle_outcome
from affinity_tester.core.experiment.results import Blackouts, CellOutcome, Held
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.model import Direction, Fate, FlowState, SampleResult, Step
from affinity_tester.core.idle.results import IdleResult
from affinity_tester.core.idle.view import PathView
from affinity_tester.units import NS_PER_S

SILENCE_NS = 15 * NS_PER_S
BESIDE = CellOutcome(
    sessions=24,
    moved=(),
    moved_pod=0,
    moved_address=0,
    least=(),
    least_reason="nothing is taken away",
    beyond=(),
    twice=(),
    blackouts=Blackouts(sessions=0, median_ns=None, p95_ns=None, worst_ns=None, still_silent=0, lasted_ns=()),
    sent=2400,
    lost=3,
    violations=0,
    names=("likely lossy-path",),
    held=Held.YES,
    reasons=(),
    claim="0 of 24 moved",
)


def who(pod: str, port: int) -> Identity:
    return Identity(pod=pod, node="n1", instance=pod.encode() * 8, reflexive=TransportAddress("10.0.0.1", port))


def sample(state: FlowState, number: int, *, pod: str = "a", port: int = 0, fate: Fate = Fate.ANSWERED) -> SampleResult:
    port = port or 40_000 + number
    return SampleResult(
        step=Step(Direction.CLIENT, state, SILENCE_NS),
        fate=fate,
        begun_ns=number,
        ended_ns=number + SILENCE_NS,
        silent_ns=SILENCE_NS,
        before=who("a", 40_000 + number),
        after=who(pod, port) if fate is Fate.ANSWERED else None,
        sent=1,
        answered=1,
        local_port=5_000 + number,
    )


def result_of(samples: Sequence[SampleResult], *, void: bool = False, **view: str) -> IdleResult:
    seen = PathView.of(
        samples, None, policy=view.get("policy", "Cluster"), affinity=view.get("affinity", "None"), via=""
    )
    return IdleResult.of(samples, seen, lambda _sample: void, longest_ns=SILENCE_NS, watched=True, planned=len(samples))


BOTH = [(state, number) for state in FlowState for number in range(20)]


def test_flows_that_come_back_as_they_were_hold_with_what_that_is_worth() -> None:
    outcome = idle_outcome(BESIDE, result_of([sample(state, number) for state, number in BOTH]))
    assert (outcome.held, outcome.sessions, outcome.moved, outcome.reasons) == (Held.YES, 40, (), ())
    assert outcome.claim == (
        "silent for 15 s after one exchange: 20 of 20 kept, at most 14 % would be lost (95 %);"
        " silent for 15 s after a stream of 3 s: 20 of 20 kept, at most 14 % would be lost (95 %)"
    )
    assert (outcome.names, outcome.sent, outcome.lost) == (BESIDE.names, 2400, 3)


def test_flows_that_come_back_as_new_ones_break_it() -> None:
    samples = [
        sample(state, number, pod="b", port=50_000 + number)
        if state is FlowState.ONE_EXCHANGE
        else sample(state, number)
        for state, number in BOTH
    ]
    outcome = idle_outcome(BESIDE, result_of(samples))
    assert outcome.held is Held.NO
    assert outcome.reasons == ("silent for 15 s after one exchange, 0 of 20 flows were kept",)
    assert outcome.names == ("likely idle-expiry", "likely lossy-path")
    assert (len(outcome.moved), outcome.moved_pod, outcome.moved_address, outcome.beyond) == (20, 20, 20, outcome.moved)
    assert outcome.moved[0] == "flow from port 5000"
    assert outcome.claim.startswith("silent for 15 s after a stream of 3 s: 20 of 20")


def test_where_an_entry_made_anew_looks_alike_pod_and_address_are_kept_all_the_same() -> None:
    samples = [sample(state, number) for state, number in BOTH]
    outcome = idle_outcome(BESIDE, result_of(samples, policy="Local", affinity="ClientIP"))
    assert (outcome.held, outcome.sessions) == (Held.YES, 40)
    assert "20 of 20 kept" in outcome.claim


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (result_of([sample(FlowState.STREAM, number) for number in range(20)], void=True), "the pool kept changing"),
        (
            result_of([sample(FlowState.STREAM, number, fate=Fate.NOT_STARTED) for number in range(20)]),
            "too few of 20 flows say anything",
        ),
        (result_of([]), "too few of 0 flows say anything"),
    ],
)
def test_flows_that_say_nothing_settle_nothing(result: IdleResult, said: str) -> None:
    outcome = idle_outcome(BESIDE, result)
    assert outcome.held is Held.UNKNOWN
    assert outcome.reasons[0].startswith(said)


@pytest.mark.parametrize("held", [Held.NO, Held.UNKNOWN])
def test_what_broke_the_sessions_beside_is_not_for_the_silence(held: Held) -> None:
    beside = replace(BESIDE, held=held, reasons=("3 sessions moved",))
    outcome = idle_outcome(beside, result_of([sample(state, number) for state, number in BOTH]))
    assert (outcome.held, outcome.reasons) == (held, ("3 sessions moved",))
