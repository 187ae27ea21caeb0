"""Which silences are an outage, and which are a blackout: by play of many sessions, and against an oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    RepliedProbe,
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


@pytest.mark.worlds
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


# --- moment by moment ------------------------------------------------------------------------------------------------


class Scene:
    """Sessions whose probes and sweeps come at the moments that a test names, in order."""

    def __init__(self, sessions: int = 2, loss_threshold: int = 2 * S) -> None:
        self.events: list[Event] = []
        self.trackers = [SessionTracker(f"CLIENT-{n}", loss_threshold, self.events.append) for n in range(sessions)]
        self.detector = OutageDetector(100 * MS, loss_threshold, self.events.append)

    def send(self, session: int, *moments: int) -> None:
        for now in moments:
            self.trackers[session].sent(now)

    def answered(self, session: int, now: int, who: Identity = WHO) -> None:
        self.trackers[session].replied(self.trackers[session].sent(now), who, None, now + MS)

    def sweep(
        self,
        now: int,
        canaries: Sequence[tuple[int, int]] = (),
        unanswered_canaries: Sequence[int] = (),
        resumed_ns: int = 0,
    ) -> None:
        for tracker in self.trackers:
            tracker.expire(now)
        self.detector.sweep(
            now,
            self.trackers,
            self.trackers,
            canaries=canaries,
            unanswered_canaries=unanswered_canaries,
            resumed_ns=resumed_ns,
        )

    @property
    def told(self) -> list[Event]:
        """Outages and blackouts."""
        return [event for event in self.events if isinstance(event, (OutageStarted, BlackoutStarted, BlackoutEnded))]


def beside_a_living_session(probes: list[int], sweeps: list[int], resumed_ns: int = 0) -> list[Event]:
    """CLIENT-0 is answered each 250 ms, CLIENT-1 at 0 and not any more."""
    scene = Scene()
    scene.answered(1, 0)
    for now in sorted({*range(0, 8 * S, 250 * MS), *probes, *sweeps}):
        if now % (250 * MS) == 0:
            scene.answered(0, now)
        if now in probes:
            scene.send(1, now)
        if now % (250 * MS) == 0 or now in sweeps:
            scene.sweep(now, resumed_ns=resumed_ns)
    return scene.told


def test_an_outage_is_told_after_exactly_5_s_with_5_probes() -> None:
    last = RepliedProbe(0, 0, WHO)
    assert beside_a_living_session([S, 2 * S, 3 * S, 4 * S, 5 * S], [6 * S - 1]) == [
        OutageStarted(6 * S, "CLIENT-1", 1, S, last, longest_pause_ns=S, probes=5, others_answered=True)
    ]
    assert beside_a_living_session([S, 2 * S, 3 * S, 4 * S], []) == []


def test_an_outage_counts_from_when_the_client_went_on() -> None:
    (outage,) = beside_a_living_session([S, 2 * S, 3 * S, 4 * S, 5 * S], [7 * S - 1], resumed_ns=2 * S)
    assert isinstance(outage, OutageStarted)
    assert (outage.at_ns, outage.since_ns) == (7 * S, S)


def all_silent_beside_canaries(probes_of_1: list[int]) -> list[Event]:
    scene = Scene()
    scene.answered(0, 0)
    scene.answered(1, 0)
    scene.send(0, S, 3 * S, 5 * S)
    scene.send(1, *probes_of_1)
    scene.sweep(7 * S, canaries=[(ns, ns + MS) for ns in (1_500 * MS, 3_500 * MS, 5_500 * MS)])
    return scene.told


def test_sessions_that_are_all_silent_need_5_probes_together() -> None:
    last = RepliedProbe(0, 0, WHO)
    assert all_silent_beside_canaries([2 * S, 4 * S]) == [
        OutageStarted(7 * S, "CLIENT-0", 1, S, last, longest_pause_ns=2 * S, probes=3, others_answered=False),
        OutageStarted(7 * S, "CLIENT-1", 1, 2 * S, last, longest_pause_ns=2 * S, probes=2, others_answered=False),
    ]
    assert all_silent_beside_canaries([2 * S]) == []


@pytest.mark.parametrize(
    ("interval", "sessions", "moments", "spans"),
    [
        (100 * MS, 10, [0, 750 * MS, 1_500 * MS + 1], [[1_500 * MS + 1], [0, 750 * MS]]),
        (S, 2, [0, 1_500 * MS, 3 * S + 1], [[3 * S + 1], [0, 1_500 * MS]]),
        (10 * S, 1, [0, 2_500 * MS, 5 * S + 1], [[5 * S + 1], [0, 2_500 * MS]]),
        (100 * MS, 0, [0, 2_500 * MS, 5 * S + 1], [[5 * S + 1], [0, 2_500 * MS]]),
        (100 * MS, 1, [], []),
    ],
    ids=[
        "three sweeps, however many are answered",
        "three probes of the answered sessions",
        "never more than with canaries alone",
        "canaries alone",
        "nothing known",
    ],
)
def test_the_path_had_a_break_where_no_answer_came_for(
    interval: int, sessions: int, moments: list[int], spans: list[list[int]]
) -> None:
    detector = OutageDetector(interval, 2 * S, lambda _event: None)
    found = detector._working_spans([(ns, ns + MS) for ns in moments], sessions)
    assert [span.answered_ns for span in found] == [[ns + MS for ns in span] for span in spans]
    assert [span.to_ns for span in found] == [span[-1] for span in spans]
    detector._others_answered.extend(moments)
    assert [span.answered_ns for span in detector._working_spans((), sessions)] == spans


def silence_of_all(loss_threshold: int = 2 * S) -> Scene:
    """Two are silent from 1 s on and send five probes; a third session sends nothing any more."""
    scene = Scene(3, loss_threshold)
    for session in range(3):
        scene.answered(session, 0)
    scene.send(0, S, 3 * S, 5 * S)
    scene.send(1, 2 * S, 4 * S)
    return scene


@pytest.mark.parametrize(
    ("canary_ns", "resumed_ns", "told_ns"),
    [
        (S, 0, 6 * S),
        (4 * S, 0, 6 * S),
        (4 * S + 1, 0, 6 * S + 1),
        (S - 1, 0, 11 * S),
        (None, 0, 11 * S),
        (S, 2 * S, 7 * S),
    ],
    ids=[
        "5 s and a canary of its first moment",
        "the canary has had its time",
        "a moment later",
        "the canary is from before",
        "twice as long without a canary",
        "5 s since the client went on",
    ],
)
def test_a_blackout_is_told_after(canary_ns: int | None, resumed_ns: int, told_ns: int) -> None:
    scene = silence_of_all()
    canaries = [] if canary_ns is None else [canary_ns]
    scene.sweep(told_ns - 1, unanswered_canaries=canaries, resumed_ns=resumed_ns)
    assert scene.told == []
    scene.sweep(told_ns, unanswered_canaries=canaries, resumed_ns=resumed_ns)
    assert scene.told == [BlackoutStarted(told_ns, S, 2)]
    scene.sweep(told_ns + S, unanswered_canaries=canaries, resumed_ns=resumed_ns)
    assert len(scene.told) == 1


def test_four_probes_of_all_sessions_are_no_blackout() -> None:
    scene = Scene()
    for session in range(2):
        scene.answered(session, 0)
        scene.send(session, S, 3 * S)
    scene.sweep(12 * S, unanswered_canaries=[2 * S])
    assert scene.told == []


def test_a_blackout_ends_with_the_first_probe_that_is_answered_again() -> None:
    scene = silence_of_all()
    canaries = [S - 1, S, 4 * S, 8 * S]
    scene.sweep(6 * S, unanswered_canaries=canaries[:3])
    scene.send(1, 7 * S)
    scene.answered(0, 8 * S)
    scene.send(1, 8_100 * MS)
    scene.sweep(8_250 * MS, unanswered_canaries=canaries)
    # What was sent at 8.1 s is not known to be unanswered.
    assert scene.told == [BlackoutStarted(6 * S, S, 2), BlackoutEnded(8_250 * MS, S, 8 * S, 6, 2)]
    scene.sweep(8_500 * MS, unanswered_canaries=canaries)
    assert len(scene.told) == 2


def test_a_blackout_ends_with_a_canary_that_is_answered() -> None:
    scene = silence_of_all()
    scene.sweep(6 * S, unanswered_canaries=[4 * S])
    scene.send(0, 7 * S)
    scene.sweep(9 * S, canaries=[(0, MS), (8 * S, 8 * S + MS)], unanswered_canaries=[4 * S])
    assert scene.told[1:] == [BlackoutEnded(9 * S, S, 8 * S, 6, 1)]


def test_of_each_pod_and_address_the_newest_answer_of_a_session_in_no_outage_is_told() -> None:
    scene = Scene(6)
    other = WHO._replace(reflexive=TransportAddress("10.0.0.2", 9), instance=b"j")
    first = Identity(TransportAddress("10.0.0.3", 9), "d", "n", b"k")
    scene.answered(0, 0, WHO._replace(pod="c"))
    scene.send(0, S, 2 * S, 3 * S, 4 * S, 8 * S)
    scene.trackers[0].start_outage(8 * S)
    scene.detector._in_outage = [scene.trackers[0]]
    scene.answered(1, 6 * S, WHO)
    scene.answered(2, 5 * S, WHO)
    scene.answered(3, 6 * S, other)
    scene.answered(4, 7 * S, other)
    scene.answered(5, 0, first)
    scene.sweep(9 * S)
    assert scene.events[-1] == PathsAnswered(
        9 * S,
        (PodSample("a", b"i", 6 * S), PodSample("a", b"j", 7 * S), PodSample("d", b"k", 0)),
        (IngressSample("127.0.0.1", 6 * S), IngressSample("10.0.0.2", 7 * S), IngressSample("10.0.0.3", 0)),
    )
    told = len(scene.events)
    scene.sweep(10 * S - 1)
    assert len(scene.events) == told
    scene.sweep(10 * S)
    assert len(scene.events) == told + 1


def test_a_session_whose_last_answer_is_forgotten_tells_nothing_of_who_answers() -> None:
    scene = Scene(3)
    scene.answered(0, 0)
    scene.answered(1, 69 * S)
    scene.trackers[0].sent(70 * S)  # silent, and in no outage as yet
    scene.trackers[2].sent(70 * S)  # never answered
    scene.detector._in_outage = [scene.trackers[1]]
    scene.trackers[1].sent(70 * S)
    scene.trackers[1].start_outage(75 * S)
    scene.sweep(75 * S)
    assert scene.events[-1] == PathsAnswered(75 * S, (), ())


@pytest.mark.parametrize(
    ("loss_threshold", "until", "probes"),
    [(2 * S, 7_250 * MS, 5), (20 * S, S, 0)],
    ids=["late: it was silent until now", "in time: it was not silent"],
)
def test_a_reply_to_the_first_probe_of_a_blackout_ends_it(loss_threshold: int, until: int, probes: int) -> None:
    scene = silence_of_all(loss_threshold)
    scene.sweep(6 * S, unanswered_canaries=[4 * S])
    scene.trackers[0].replied(1, WHO, None, 7 * S)
    scene.sweep(7_250 * MS)
    assert scene.told[1:] == [BlackoutEnded(7_250 * MS, S, until, probes, 0)]


def test_an_answered_canary_of_a_blackouts_first_moment_leaves_nothing_of_it() -> None:
    scene = silence_of_all()
    scene.sweep(6 * S, unanswered_canaries=[4 * S])
    scene.sweep(9 * S, canaries=[(S, 8 * S)], unanswered_canaries=[4 * S])
    assert scene.told[1:] == [BlackoutEnded(9 * S, S, S, 0, 0)]


def test_each_session_loses_in_a_blackout_what_it_sent_until_it_was_answered_again_itself() -> None:
    scene = silence_of_all()
    scene.sweep(6 * S, unanswered_canaries=[4 * S])
    scene.answered(0, 8 * S)
    scene.send(1, 8_500 * MS)
    scene.answered(1, 9 * S)
    scene.send(2, 9_250 * MS)  # at the very moment of the sweep, and not known to be unanswered
    scene.sweep(9_250 * MS)
    assert scene.told[1:] == [BlackoutEnded(9_250 * MS, S, 8 * S, 6, 0)]


def test_the_path_works_from_an_answer_at_the_first_moment_of_the_silence() -> None:
    scene = Scene(1)
    scene.answered(0, 0)
    scene.send(0, S, 2 * S, 3 * S, 4 * S, 5 * S)
    scene.sweep(7 * S, canaries=[(500 * MS, S), (3 * S, 6 * S)])
    assert [event.at_ns for event in scene.told] == [7 * S]


def test_a_probe_sent_as_an_answer_comes_is_one_after_it() -> None:
    scene = Scene(2)
    for session in range(2):
        scene.answered(session, 0)
    scene.send(0, S, 3 * S, 5 * S)
    scene.send(1, 2 * S, 4 * S)
    scene.sweep(7 * S, canaries=[(500 * MS, 3 * S), (3 * S, 6 * S)])
    # CLIENT-1 sent nothing between the first answer and the second canary.
    assert [event.session for event in scene.told if isinstance(event, OutageStarted)] == ["CLIENT-0"]


def test_a_probe_sent_with_the_last_answered_one_is_before_the_blackout() -> None:
    scene = Scene(3)
    scene.send(1, S)
    scene.answered(0, S)
    scene.answered(2, S)
    scene.send(0, 2 * S, 4 * S, 6 * S)
    scene.send(2, 3 * S, 5 * S)
    scene.sweep(12 * S)
    assert scene.told == [BlackoutStarted(12 * S, 2 * S, 2)]


def test_a_probe_sent_at_the_moment_of_the_sweep_is_one_of_the_blackout() -> None:
    scene = Scene()
    for session in range(2):
        scene.answered(session, 0)
    scene.send(0, S, 3 * S, 5 * S, 6 * S)
    scene.send(1, 2 * S)
    scene.sweep(6 * S, unanswered_canaries=[4 * S])
    assert scene.told == [BlackoutStarted(6 * S, S, 2)]


CANARIES = [(ns, ns + MS) for ns in (1_500 * MS, 3_500 * MS, 5_500 * MS)]


def test_an_outage_does_not_wait_for_a_session_that_fell_silent_later() -> None:
    scene = Scene()
    scene.answered(0, 0)
    scene.answered(1, 0)
    scene.send(0, 2_500 * MS)
    scene.send(1, S, 2 * S, 3 * S, 4 * S, 5 * S)
    scene.sweep(7 * S, canaries=CANARIES)
    assert [event.session for event in scene.told if isinstance(event, OutageStarted)] == ["CLIENT-1"]


def test_a_session_that_fell_silent_as_another_was_answered_needs_5_probes_of_its_own() -> None:
    scene = Scene()
    scene.send(1, S)
    scene.answered(0, S)
    scene.send(0, 2 * S, 4 * S, 5 * S)
    scene.send(1, 3 * S)
    scene.sweep(7 * S, canaries=CANARIES)
    assert [event.session for event in scene.told if isinstance(event, OutageStarted)] == ["CLIENT-0"]


def test_others_are_answered_in_an_outage_only_by_what_they_sent_after_its_first_probe() -> None:
    scene = Scene()
    scene.send(1, S)
    scene.answered(0, S)
    scene.send(1, 2 * S, 3 * S, 4 * S)
    scene.send(0, 4_500 * MS)
    scene.send(1, 5 * S)
    scene.sweep(7 * S, canaries=CANARIES)
    assert scene.told == [
        OutageStarted(7 * S, "CLIENT-1", 0, S, None, longest_pause_ns=0, probes=5, others_answered=False)
    ]


def test_a_session_that_nobody_ever_answered_is_in_an_outage_at_5_s_of_the_run() -> None:
    scene = Scene(1)
    scene.send(0, 0, S, 2 * S, 3 * S, 4 * S)
    scene.detector.sweep(
        5 * S, scene.trackers, scene.trackers, canaries=[(500 * MS, 501 * MS), (2_500 * MS, 2_501 * MS)]
    )
    assert scene.told == [OutageStarted(5 * S, "CLIENT-0", 0, 0, None, probes=5, others_answered=False)]


def test_a_moment_at_which_the_path_worked_is_remembered_once() -> None:
    scene = silence_of_all()
    scene.answered(2, 5_500 * MS)
    for now in (6 * S, 6_250 * MS, 6_500 * MS):
        scene.sweep(now)
    assert list(scene.detector._others_answered) == [5_500 * MS]


def test_probes_sent_only_in_a_break_of_the_path_make_no_outage() -> None:
    scene = Scene()
    in_break = [5_100 * MS, 5_300 * MS, 5_500 * MS, 5_700 * MS, 5_900 * MS]
    for now in sorted({*range(0, 10 * S, 250 * MS), *in_break}):
        if now == S or now in in_break:
            scene.send(1, now)
        if now % (250 * MS) == 0:
            if not 5 * S < now < 6_500 * MS:
                scene.answered(0, now)
            scene.sweep(now)
    assert scene.told == []


def test_probes_that_have_not_had_their_time_do_not_count_for_all() -> None:
    scene = Scene()
    scene.answered(0, 0)
    scene.answered(1, 0)
    scene.send(0, S, 3 * S, 5 * S)
    scene.send(1, 5_500 * MS, 5_600 * MS)
    scene.sweep(7 * S, canaries=CANARIES)
    assert scene.told == []
    scene.sweep(7_500 * MS, canaries=CANARIES)
    assert [event.session for event in scene.told if isinstance(event, OutageStarted)] == ["CLIENT-0"]


def test_the_moments_of_a_minute_of_sweeps_are_remembered() -> None:
    scene = Scene()
    scene.send(1, 0)  # one probe is no outage, however long it is unanswered
    for now in range(0, 80 * S, 250 * MS):
        scene.answered(0, now)
        scene.sweep(now)
    assert scene.told == []
    assert list(scene.detector._others_answered) == list(range(16 * S, 80 * S, 250 * MS))
