"""One sample: what it sends when, and what it comes to."""

from __future__ import annotations

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.idle.model import Direction, Fate, FlowState, Property, SampleResult, Step
from affinity_tester.core.idle.sample import CheckPath, Command, Sample, Send

MS = 1_000_000
S = 1_000 * MS
SILENCE = 10 * S
WHO = Identity(TransportAddress("10.0.0.1", 4000), "a", "node-1", b"12345678")
OTHER = Identity(TransportAddress("10.0.0.1", 5000), "b", "node-1", b"87654321")


def sample(state: FlowState = FlowState.ONE_EXCHANGE, direction: Direction = Direction.CLIENT) -> Sample:
    return Sample(Step(direction, state, SILENCE), 40_000)


def result_of(each: Sample) -> SampleResult:
    assert each.result is not None
    return each.result


def streamed(each: Sample) -> int:
    """Bring it through the three seconds of a stream, every probe answered 10 ms later; return when the last one was."""
    commands = each.begin(0)
    now_ns = 0
    while True:
        (send,) = commands
        assert isinstance(send, Send)
        each.replied(now_ns + 10 * MS, send.seq, WHO, send.delay_ns or None)
        if now_ns == 3 * S:
            return now_ns + 10 * MS
        assert each.deadline_ns == now_ns + 250 * MS
        now_ns = each.deadline_ns
        commands = each.timer(now_ns)


def test_one_exchange_then_silence_from_the_reply_on_then_a_probe() -> None:
    each = sample()
    assert each.begin(0) == [Send(0)]
    assert each.replied(20 * MS, 0, WHO) == []
    assert each.deadline_ns == 20 * MS + SILENCE
    assert each.timer(each.deadline_ns - 1) == []
    assert each.timer(each.deadline_ns) == [Send(1)]
    each.replied(each.deadline_ns, 1, WHO)
    assert each.result == SampleResult(
        step=each.step,
        fate=Fate.ANSWERED,
        begun_ns=0,
        ended_ns=20 * MS + SILENCE + 500 * MS,
        silent_ns=SILENCE,
        before=WHO,
        after=WHO,
        sent=1,
        answered=1,
        local_port=40_000,
    )
    assert all(each.result.kept(wanted) for wanted in Property)
    assert each.deadline_ns is None


def test_a_timer_before_the_begin_is_none() -> None:
    assert sample().timer(S) == []


def test_a_stream_lasts_from_its_own_begin() -> None:
    each = sample(FlowState.STREAM)
    each.begin(7 * S)
    each.replied(7 * S + MS, 0, WHO)
    assert each.deadline_ns == 7 * S + 250 * MS


def test_a_stream_has_traffic_later_than_two_seconds_after_its_begin() -> None:
    each = sample(FlowState.STREAM)
    last_ns = streamed(each)
    assert each.deadline_ns == last_ns + SILENCE
    (send,) = each.timer(last_ns + SILENCE)
    assert send == Send(13)
    each.replied(last_ns + SILENCE + 1, 13, OTHER)
    assert result_of(each).sent == result_of(each).answered == 13
    assert result_of(each).differs == {Kind.POD, Kind.REFLEXIVE_PORT, Kind.INSTANCE}
    kept = {wanted: result_of(each).kept(wanted) for wanted in Property}
    assert kept == {Property.FLOW: False, Property.POD: False, Property.PORT: False, Property.ADDRESS: True}


def test_a_lost_probe_is_sent_again_and_no_dead_flow() -> None:
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    assert each.timer(SILENCE) == [Send(1)]
    assert each.deadline_ns == SILENCE + 500 * MS
    assert each.timer(each.deadline_ns) == [Send(2)]
    each.replied(SILENCE + 600 * MS, 2, WHO)
    assert (result_of(each).fate, result_of(each).resent) == (Fate.ANSWERED, True)


def checked() -> Sample:
    """Return a sample whose flow was not answered twice after its silence, while a new flow is asked."""
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    each.timer(SILENCE)
    each.timer(SILENCE + 500 * MS)
    assert each.deadline_ns == SILENCE + 2500 * MS
    assert each.timer(SILENCE + 2500 * MS) == [CheckPath()]
    assert each.deadline_ns is None
    assert each.timer(SILENCE + 2600 * MS) == []
    return each


def test_a_path_that_answers_no_new_flow_says_nothing_of_the_silence() -> None:
    each = checked()
    assert each.path_checked(SILENCE + 3 * S, answered=False) == []
    assert (result_of(each).fate, result_of(each).ended_ns) == (Fate.PATH_SILENT, SILENCE + 3 * S)
    assert not result_of(each).counts


def test_a_flow_is_dead_if_a_new_one_is_answered_and_it_is_not_once_more() -> None:
    each = checked()
    assert each.path_checked(SILENCE + 3 * S, answered=True) == [Send(3)]
    assert each.deadline_ns == SILENCE + 5 * S
    assert each.timer(SILENCE + 5 * S) == []
    assert (result_of(each).fate, result_of(each).ended_ns) == (Fate.DEAD, SILENCE + 5 * S)
    assert result_of(each).counts
    assert not any(result_of(each).kept(wanted) for wanted in Property)


def test_a_path_that_was_silent_for_a_moment_kills_no_flow() -> None:
    each = checked()
    each.path_checked(SILENCE + 3 * S, answered=True)
    each.replied(SILENCE + 3 * S + MS, 3, WHO)
    assert result_of(each).fate is Fate.ANSWERED


def test_a_change_behind_a_lost_probe_may_have_come_after_the_silence() -> None:
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    each.timer(SILENCE)
    each.timer(SILENCE + 500 * MS)
    each.replied(SILENCE + 600 * MS, 2, OTHER)
    assert result_of(each).ambiguous
    assert not result_of(each).counts


def test_a_late_answer_stands_before_the_check_of_the_path() -> None:
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    for now_ns in (SILENCE, SILENCE + 500 * MS, SILENCE + 2500 * MS):
        each.timer(now_ns)
    each.replied(SILENCE + 2600 * MS, 1, WHO)
    assert result_of(each).fate is Fate.ANSWERED


def test_the_first_request_is_sent_three_times() -> None:
    each = Sample(Step(Direction.CLIENT, FlowState.ONE_EXCHANGE, SILENCE))
    assert each.begin(0) == [Send(0)]
    assert each.timer(S) == [Send(1)]
    assert each.timer(2 * S) == [Send(2)]
    assert each.timer(3 * S) == []
    assert each.result == SampleResult(step=each.step, fate=Fate.NOT_STARTED, begun_ns=0, ended_ns=3 * S, sent=3)
    assert not result_of(each).counts


def test_what_answers_an_earlier_try_is_not_the_end_of_the_start() -> None:
    each = sample()
    each.begin(0)
    each.timer(S)
    each.replied(1100 * MS, 0, WHO)
    assert each.deadline_ns == 2 * S
    each.replied(1200 * MS, 1, WHO)
    assert each.deadline_ns == 1200 * MS + SILENCE


def test_a_late_reply_in_the_silence_begins_it_anew() -> None:
    each = sample(FlowState.STREAM)
    last_ns = streamed(each)
    each.replied(last_ns + S, 3, WHO)
    assert each.deadline_ns == last_ns + S + SILENCE


@pytest.mark.parametrize(
    ("direction", "said"), [(Direction.CLIENT, 0), (Direction.POD, SILENCE), (Direction.POD, None)]
)
def test_a_late_reply_of_the_beginning_is_not_the_pods_own_packet(direction: Direction, said: int | None) -> None:
    each = sample(direction=direction)
    each.begin(0)
    each.replied(MS, 0, WHO, SILENCE)
    assert each.replied(S, 0, WHO, said) == []
    assert each.deadline_ns == S + SILENCE + (2 * S if direction is Direction.POD else 0)


def test_the_last_probe_of_a_stream_is_sent_until_it_is_answered() -> None:
    each = sample(FlowState.STREAM)
    commands: list[Command] = each.begin(0)
    for now_ns in range(0, 3 * S, 250 * MS):
        assert commands == [Send(now_ns // (250 * MS))]
        each.replied(now_ns + MS, now_ns // (250 * MS), WHO)
        commands = each.timer(now_ns + 250 * MS)
    assert commands == [Send(12)]
    assert each.timer(4 * S) == [Send(13)]
    each.replied(4 * S + MS, 13, WHO)
    assert each.deadline_ns == 4 * S + MS + SILENCE


def test_a_stream_that_nobody_answers_late_is_none() -> None:
    each = sample(FlowState.STREAM)
    each.begin(0)
    each.replied(MS, 0, WHO)
    for now_ns in range(250 * MS, 3 * S + 1, 250 * MS):
        each.timer(now_ns)
    for now_ns in (4 * S, 5 * S, 6 * S):
        each.timer(now_ns)
    assert result_of(each).fate is Fate.NOT_STARTED


@pytest.mark.parametrize("state", FlowState)
def test_the_pod_speaks_first_where_the_server_delays_its_reply(state: FlowState) -> None:
    each = sample(state, Direction.POD)
    if state is FlowState.STREAM:
        last_ns = streamed(each)
        seq = 12
    else:
        assert each.begin(0) == [Send(0, SILENCE)]
        last_ns, seq = 10 * MS, 0
        each.replied(last_ns, 0, WHO, SILENCE)
    assert each.deadline_ns == last_ns + SILENCE + 2 * S
    assert each.replied(last_ns + SILENCE, seq, WHO, 0) == [Send(seq + 1)]
    each.replied(last_ns + SILENCE + MS, seq + 1, WHO)
    assert (result_of(each).heard, result_of(each).silent_ns) == (True, SILENCE)
    assert result_of(each).kept(Property.FLOW)


def test_a_packet_of_the_pod_that_does_not_arrive_loses_the_flow() -> None:
    each = sample(direction=Direction.POD)
    each.begin(0)
    each.replied(0, 0, WHO, SILENCE)
    assert each.timer(SILENCE + 2 * S) == [Send(1)]
    each.replied(SILENCE + 2 * S, 1, WHO)
    assert result_of(each).heard is False
    assert result_of(each).fate is Fate.ANSWERED
    assert not result_of(each).kept(Property.FLOW)
    assert result_of(each).kept(Property.PORT)


@pytest.mark.parametrize("said", [None, 0])
def test_a_server_that_delays_nothing_ends_it(said: int | None) -> None:
    each = sample(direction=Direction.POD)
    each.begin(0)
    each.replied(MS, 0, WHO, said)
    assert (result_of(each).fate, result_of(each).ended_ns) == (Fate.NOT_DELAYED, MS)


def test_a_delayed_reply_is_asked_for_once() -> None:
    each = sample(direction=Direction.POD)
    each.begin(0)
    assert each.timer(S) == []
    assert result_of(each).fate is Fate.NOT_STARTED


def test_a_busy_machine_makes_the_silence_too_long() -> None:
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    each.timer(SILENCE + 301 * MS)
    each.replied(SILENCE + 302 * MS, 1, OTHER)
    assert result_of(each).fate is Fate.LATE
    assert result_of(each).silent_ns == SILENCE + 301 * MS


def test_replies_to_what_was_never_asked_change_nothing() -> None:
    each = sample()
    each.begin(0)
    each.replied(1, 5, WHO)
    each.path_checked(1, answered=True)
    assert each.deadline_ns == S
    each.replied(2, 0, WHO)
    each.replied(3, 1, WHO)
    assert each.deadline_ns == 2 + SILENCE
    each.timer(2 + SILENCE)
    each.replied(3 + SILENCE, 0, WHO)  # not the probe's
    assert each.result is None


def test_the_end_is_the_end() -> None:
    each = sample()
    each.begin(0)
    for now_ns in (S, 2 * S, 3 * S):
        each.timer(now_ns)
    with pytest.raises(RuntimeError, match=r"^the sample has ended$"):
        each.timer(4 * S)


def test_a_restart_of_the_pod_says_nothing_of_the_flow() -> None:
    each = sample()
    each.begin(0)
    each.replied(0, 0, WHO)
    each.timer(SILENCE)
    each.replied(SILENCE, 1, WHO._replace(instance=b"another "))
    assert result_of(each).restarted
    assert not result_of(each).counts
