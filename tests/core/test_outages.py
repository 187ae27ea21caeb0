"""Which silences are an outage, and which are a blackout: by play of many sessions, and against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    Event,
    IngressSample,
    OutageStarted,
    PathsAnswered,
    PodSample,
)
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.core.session.outages import OUTAGE_PROBES, OutageDetector
from affinity_tester.core.session.tracker import SessionTracker

MS = 1_000_000
S = 1_000 * MS
WHO = Identity(TransportAddress("127.0.0.1", 1), "a", "n", b"i")


def play(
    lives: Callable[[int, int], bool],
    until_s: int,
    *,
    sessions: int = 2,
    interval: int = 100 * MS,
    canary: Callable[[int], bool] | None = None,
    identity: Callable[[int], Identity] = lambda _n: WHO,
    asleep: tuple[int, int] = (0, 0),
    own_drops: Mapping[str, int] = MappingProxyType({}),
    held: tuple[int, int] = (0, 0),
    loss_threshold: int = 2 * S,
) -> list[Event]:
    """`lives(session, now)`: whether a probe sent then is answered; a sweep every 250 ms.

    Canaries are sent each 2 s from 2 s of silence on, and `canary(now)` says whether they are answered. Extra probes go out
    as the client sends them. In `asleep` nothing happens at this client. Replies to what is sent in `held` come at its end.
    """
    events: list[Event] = []
    trackers = [SessionTracker(f"CLIENT-{n}", loss_threshold, events.append) for n in range(sessions)]
    detector = OutageDetector(interval, loss_threshold, events.append)
    waiting: list[tuple[int, int]] = []
    answered, unanswered, canary_ns, resumed_ns = [], [], -2 * S, 0
    extra = [0] * sessions

    def send(number: int, now: int) -> None:
        seq = trackers[number].sent(now)
        if held[0] <= now < held[1]:
            waiting.append((number, seq))
        elif lives(number, now):
            trackers[number].replied(seq, identity(number), None, now + MS)
            extra[number] = now

    for now in range(0, until_s * S, 50 * MS):
        if asleep[0] <= now < asleep[1]:
            resumed_ns = asleep[1]
            continue
        while waiting and now >= held[1]:
            number, seq = waiting.pop(0)
            trackers[number].replied(seq, identity(number), None, now)
        for number, tracker in enumerate(trackers):
            tracker.expire(now)
            due = (now - interval * number // sessions // (50 * MS) * (50 * MS)) % interval == 0
            since = tracker.unanswered()
            doubt = interval > S and since is not None and now - since[1] >= 2 * S and not tracker.in_outage
            if due or (doubt and now - extra[number] >= 750 * MS):
                extra[number] = now
                send(number, now)
        if now % (250 * MS):
            continue
        silent = [u[1] for t in trackers if (u := t.unanswered()) is not None]
        if canary is not None and silent and now - min(silent) >= 2 * S and now - canary_ns >= 2 * S:
            canary_ns = now
            if canary(now):
                answered.append((now, now + MS))
            else:
                unanswered.append(now)
        detector.sweep(
            now + 2 * MS,
            trackers,
            trackers,
            canaries=answered,
            unanswered_canaries=unanswered,
            resumed_ns=resumed_ns,
            own_drops=own_drops or {},
        )
    return events


def test_an_outage_tells_what_its_own_session_dropped_meanwhile() -> None:
    events = play(lambda number, now: number == 0 or now < 3 * S, 12, sessions=3, own_drops={"CLIENT-1": 45})
    outages = [event for event in events if isinstance(event, OutageStarted)]
    assert [(outage.session, outage.own_drops) for outage in outages] == [("CLIENT-1", 45), ("CLIENT-2", 0)]


def started(events: list[Event]) -> list[OutageStarted]:
    return [event for event in events if isinstance(event, OutageStarted)]


def test_a_session_unanswered_for_5_s_while_another_is_answered_is_an_outage() -> None:
    events = play(lambda n, now: n == 0 or now < 3 * S, 20)
    (outage,) = started(events)
    assert (outage.session, outage.since_seq, outage.since_ns) == ("CLIENT-1", 30, 3_050 * MS)
    assert 8 * S <= outage.at_ns < 8 * S + 300 * MS
    assert outage.probes == 53
    assert outage.last is not None
    assert not [event for event in events if isinstance(event, BlackoutStarted)]


def test_who_answers_is_told_at_once_and_then_once_a_second_while_an_outage_lasts() -> None:
    one = WHO._replace(reflexive=TransportAddress("10.0.0.1", 7))
    two = Identity(None)
    events = play(
        lambda n, now: n != 1 or not 3 * S <= now < 10 * S, 12, sessions=3, identity=lambda n: two if n == 2 else one
    )
    told = [event for event in events if isinstance(event, PathsAnswered)]
    assert [event.at_ns // (250 * MS) for event in told] == [32, 36]
    first = told[0]
    sent_ns = first.ingress[0].sent_ns
    assert first.pods == (PodSample("a", b"i", sent_ns),)
    assert first.ingress == (IngressSample("10.0.0.1", sent_ns),)
    assert 0 < first.at_ns - sent_ns < 200 * MS


def test_a_session_dead_from_the_start_is_an_outage() -> None:
    (outage,) = started(play(lambda n, _now: n == 0, 20))
    assert (outage.since_seq, outage.last) == (0, None)


@pytest.mark.parametrize("sessions", [1, 12, 30, 60])
@pytest.mark.parametrize("interval", [100 * MS, 2 * S])
def test_all_flows_dead_while_a_fresh_port_works_is_told_after_5_to_7_s(sessions: int, interval: int) -> None:
    events = play(lambda _n, now: now < 4 * S, 16, sessions=sessions, interval=interval, canary=lambda _now: True)
    outages = started(events)
    assert len(outages) == sessions
    for outage in outages:
        assert 5 * S <= outage.at_ns - outage.since_ns <= 7 * S
    assert not [event for event in events if isinstance(event, BlackoutStarted)]


@pytest.mark.parametrize("interval", [5 * S, 10 * S])
def test_seldom_probes_tell_an_outage_as_soon(interval: int) -> None:
    (outage,) = started(
        play(lambda n, now: n != 1 or now < 30 * S, 60, sessions=5, interval=interval, canary=lambda _n: True)
    )
    assert 5 * S <= outage.at_ns - outage.since_ns <= 7 * S


def test_one_lost_packet_is_no_outage_however_seldom_probes_are_sent() -> None:
    assert not started(
        play(lambda n, now: n != 1 or now // S != 22, 60, sessions=5, interval=10 * S, canary=lambda _n: True)
    )


def test_silence_of_all_is_a_blackout_and_no_outage_of_anybody() -> None:
    events = play(
        lambda _n, now: not 3 * S <= now < 13 * S, 20, sessions=10, canary=lambda now: not 3 * S <= now < 13 * S
    )
    assert not started(events)
    began, ended = (event for event in events if isinstance(event, (BlackoutStarted, BlackoutEnded)))
    assert isinstance(began, BlackoutStarted)
    assert isinstance(ended, BlackoutEnded)
    assert (began.since_ns, began.sessions) == (3 * S, 10)
    assert 8 * S <= began.at_ns <= 8 * S + 500 * MS
    assert (ended.since_ns, ended.until_ns, ended.probes) == (3 * S, 13 * S, 1_000)
    assert ended.canaries == 4


@pytest.mark.parametrize(
    ("loss_threshold", "until", "probes"),
    [(2 * S, 11 * S, 800), (20 * S, 3 * S, 0)],
    ids=["late replies are lost probes", "a threshold longer than the silence loses nothing"],
)
def test_replies_that_were_held_back_do_not_undo_the_silence(loss_threshold: int, until: int, probes: int) -> None:
    """A server that stood still answers all that waited at once: who was answered in time was not silent, and no other."""
    events = play(
        lambda _n, _now: True,
        20,
        sessions=10,
        canary=lambda now: not 3 * S <= now < 13 * S,
        held=(3 * S, 13 * S),
        loss_threshold=loss_threshold,
    )
    (ended,) = (event for event in events if isinstance(event, BlackoutEnded))
    assert (ended.since_ns, ended.until_ns, ended.probes) == (3 * S, until, probes)


def test_a_blackout_is_told_without_a_canary_too_but_later() -> None:
    events = play(lambda _n, now: now < 3 * S, 20, canary=None)
    (began,) = (event for event in events if isinstance(event, BlackoutStarted))
    assert 13 * S <= began.at_ns < 14 * S


def test_a_run_that_was_never_answered_has_no_blackout() -> None:
    assert play(lambda _n, _now: False, 20, canary=lambda _now: False) == [
        event for event in play(lambda _n, _now: False, 20) if not isinstance(event, BlackoutStarted)
    ]


def test_two_probes_of_one_session_are_no_blackout() -> None:
    events = play(lambda _n, now: now < 20 * S, 29, sessions=1, interval=20 * S, canary=None)
    assert not [event for event in events if isinstance(event, BlackoutStarted)]


def test_who_stays_dead_after_a_blackout_is_in_an_outage() -> None:
    def alive(now: int) -> bool:
        return not 3 * S <= now < 13 * S

    events = play(lambda n, now: alive(now) and (n > 1 or now < 3 * S), 24, sessions=10, canary=alive)
    outages = started(events)
    assert sorted(outage.session for outage in outages) == ["CLIENT-0", "CLIENT-1"]
    assert all(outage.since_ns < 3 * S + 100 * MS and 15 * S <= outage.at_ns <= 16 * S for outage in outages)


def test_the_time_in_which_the_client_stood_still_is_no_silence() -> None:
    events = play(
        lambda _n, now: not 2_500 * MS <= now < 13 * S, 30, sessions=4, canary=lambda _now: True, asleep=(3 * S, 12 * S)
    )
    assert not started(events)
    assert not [event for event in events if isinstance(event, BlackoutStarted)]


@pytest.mark.parametrize("silence", [(range(4), range(12, 30)), (range(4), range(8, 30)), (range(1), range(3, 30))])
def test_who_is_answered_first_after_a_silence_of_all_makes_no_outage_of_the_others(
    silence: tuple[range, range],
) -> None:
    seconds = [second for part in silence for second in part]
    events = play(
        lambda _n, now: now // S in seconds, 30, sessions=20, interval=S, canary=lambda now: now // S in seconds
    )
    assert not started(events)


@settings(max_examples=60, deadline=None)
@given(
    dead_s=st.integers(2, 8),
    common=st.lists(st.tuples(st.integers(0, 24), st.integers(1, 12)), max_size=3),
    dead=st.sets(st.integers(0, 5), max_size=6),
    interval=st.sampled_from([100 * MS, 500 * MS, 2 * S]),
    rtt_canary=st.booleans(),
)
def test_an_outage_is_told_of_the_dead_and_of_nobody_else(
    dead_s: int, common: list[tuple[int, int]], dead: set[int], interval: int, rtt_canary: bool
) -> None:
    """Oracle: who is dead for good from `dead_s` on; common silences hit everybody, canaries too."""
    until_s = 48

    def alive(now: int) -> bool:
        return not any(begin * S <= now < (begin + length) * S for begin, length in common)

    def lives(n: int, now: int) -> bool:
        return alive(now) and not (n in dead and now >= dead_s * S)

    events = play(lives, until_s, sessions=6, interval=interval, canary=alive if rtt_canary else None)
    told = {event.session for event in started(events)}
    assert told <= {f"CLIENT-{n}" for n in dead}
    if rtt_canary or len(dead) < 6:  # the common silences end at 36 s at the latest
        assert told == {f"CLIENT-{n}" for n in dead}


def test_five_probes_are_asked_for() -> None:
    assert OUTAGE_PROBES == 5


def test_identities_differ_only_in_what_both_carry() -> None:
    other = Identity(TransportAddress("127.0.0.2", 1), "b", None, b"j", "x")
    assert differing(WHO, other) == (Kind.REFLEXIVE_IP, Kind.POD, Kind.INSTANCE)
    assert differing(WHO, Identity()) == ()
    assert Identity().value(Kind.REFLEXIVE_PORT) is None
    assert Identity(software="x").value(Kind.SOFTWARE) == "x"
