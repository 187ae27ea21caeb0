from __future__ import annotations

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, OutageStarted
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.core.outages import OUTAGE_PROBES, OutageWatch
from affinity_tester.core.tracker import SessionTracker

MS = 1_000_000
S = 1_000 * MS
WHO = Identity(TransportAddress("127.0.0.1", 1), "a", "n", b"i")


def play(answered: list[list[int]], until_s: int, step_ns: int = 100 * MS, canary_ns: int | None = None) -> list[Event]:
    """Sessions that are answered in these seconds only; sweeps every 250 ms."""
    events: list[Event] = []
    trackers = [SessionTracker(f"CLIENT-{n}", 2 * S, events.append) for n in range(len(answered))]
    watch = OutageWatch(step_ns + 2 * S)
    sweep_ns = 0
    for now in range(0, until_s * S, step_ns):
        for tracker, seconds in zip(trackers, answered, strict=True):
            tracker.expire(now)
            seq = tracker.sent(now)
            if now // S in seconds:
                tracker.replied(seq, WHO, None, now + MS)
        if now >= sweep_ns:
            watch.sweep(now + 2 * MS, sum(t.answered for t in trackers), trackers, canary_ns)
            sweep_ns += 250 * MS
    return [event for event in events if isinstance(event, OutageStarted)]


def test_a_session_unanswered_for_5_s_while_another_is_answered_is_an_outage() -> None:
    (outage,) = play([[*range(20)], [0, 1, 2]], 20)
    assert isinstance(outage, OutageStarted)
    assert (outage.session, outage.since_seq, outage.since_ns) == ("CLIENT-1", 30, 3 * S)
    assert 8 * S <= outage.at_ns < 8 * S + 300 * MS


def test_a_session_dead_from_the_start_is_an_outage() -> None:
    (outage,) = play([[*range(20)], []], 20)
    assert isinstance(outage, OutageStarted)
    assert (outage.since_seq, outage.last) == (0, None)


def test_silence_of_all_at_once_is_no_outage_of_one_unless_a_canary_is_answered() -> None:
    assert play([[0, 1], [0, 1]], 20) == []
    assert play([[], []], 20) == []
    assert len(play([[0, 1], [0, 1]], 10, canary_ns=6 * S)) == 2


@pytest.mark.parametrize("silence", [(range(4), range(12, 30)), (range(4), range(8, 30)), (range(1), range(3, 30))])
def test_who_is_answered_first_after_a_silence_of_all_makes_no_outage_of_the_others(
    silence: tuple[range, range],
) -> None:
    seconds = [second for part in silence for second in part]
    events: list[Event] = []
    trackers = [SessionTracker(f"CLIENT-{n}", 2 * S, events.append) for n in range(20)]
    watch = OutageWatch(2 * S + 1_000 * MS)
    for tick in range(30 * 20):  # one session's probe every 50 ms, by turns; a sweep in between
        now = tick * 50 * MS
        tracker = trackers[tick % 20]
        tracker.expire(now)
        seq = tracker.sent(now)
        if now // S in seconds:
            tracker.replied(seq, WHO, None, now + MS)
        for other in trackers:
            other.expire(now + 2 * MS)
        watch.sweep(now + 2 * MS, sum(t.answered for t in trackers), trackers, None)
    assert not [event for event in events if isinstance(event, OutageStarted)]


def test_a_canary_answered_when_the_silence_ends_makes_no_outage() -> None:
    assert play([[0, 1, *range(8, 20)], [0, 1, *range(8, 20)]], 20, canary_ns=8 * S) == []


def test_five_seconds_are_no_outage_where_they_are_few_probes() -> None:
    assert OUTAGE_PROBES == 5
    assert play([[*range(20)], [0, 1, 2]], 14, step_ns=4 * S) == []
    assert len(play([[*range(60)], [0, 1, 2]], 40, step_ns=4 * S)) == 1


def test_identities_differ_only_in_what_both_carry() -> None:
    other = Identity(TransportAddress("127.0.0.2", 1), "b", None, b"j", "x")
    assert differing(WHO, other) == (Kind.REFLEXIVE_IP, Kind.POD, Kind.INSTANCE)
    assert differing(WHO, Identity()) == ()
    assert Identity().value(Kind.REFLEXIVE_PORT) is None
    assert Identity(software="x").value(Kind.SOFTWARE) == "x"
