"""Incidents: who joins, when they close, and what they say."""

from __future__ import annotations

from dataclasses import replace

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    CaseJudged,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Cohort,
    CrossDelivered,
    Event,
    FirstAnswer,
    Incident,
    IncidentClosed,
    IncidentOngoing,
    Judgement,
    NearFact,
    NodeAddresses,
    OutageCase,
    OutageEnded,
    OutageStarted,
    PoolObserved,
    ProbesLost,
    RepliedProbe,
    RunEnded,
    RunStarted,
    SendingStopped,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.incidents import Incidents
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.open_incident import MAX_MEMBERS
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from pools import ComparingAnalysis

MS = 1_000_000
S = 1_000 * MS
TARGET = TransportAddress("127.0.0.1", 3478)
STARTED = RunStarted(0, 0, 0, "0", TARGET, "x", 4, 100 * MS, 2 * S, 288, connected=False, lost_guarantees=())


def who(pod: str, ip: str = "10.240.0.4") -> Identity:
    return Identity(TransportAddress(ip, 40312), pod)


def seen(session: str, at_ns: int, new: str = "b", old: str = "a", number: int = 1) -> ChangeSeen:
    before, after = RepliedProbe(1, at_ns - 110 * MS, who(old)), RepliedProbe(2, at_ns - 10 * MS, who(new))
    return ChangeSeen(at_ns, session, Change(number, (Kind.POD,), before, after, at_ns, 100 * MS, at_ns))


def lost(session: str, first: int, count: int, at_ns: int) -> ProbesLost:
    return ProbesLost(at_ns + 2 * S, session, first, count, at_ns, at_ns + (count - 1) * 100 * MS)


def run(*events: Event) -> list[Incident]:
    analysis = ComparingAnalysis(Rules())
    told = [e for event in (STARTED, *events, RunEnded(900 * S, aborted=False)) for e in analysis.feed(event)]
    return [event.incident for event in told if isinstance(event, IncidentClosed)]


def test_changes_within_a_second_are_one_incident_and_later_ones_another() -> None:
    first: list[Event] = [FirstAnswer(0, f"CLIENT-{n}", 0, who("a")) for n in range(3)]
    first.append(NodeAddresses(0, (("10.240.0.4", "pool1-1"),)))
    one, two = run(*first, seen("CLIENT-0", 10 * S), seen("CLIENT-1", 10_900 * MS), seen("CLIENT-0", 20 * S, number=2))
    assert replace(one, diagnoses=()) == Incident(
        number=1,
        from_ns=9_890 * MS,
        to_ns=10_890 * MS,
        continuing=False,
        sessions=2,
        total_sessions=4,
        changes=2,
        outages=0,
        bursts=0,
        strays=0,
        lost=0,
        kinds=((Kind.POD, 2),),
        cohorts=(Cohort("10.240.0.4", 2, 3, "pool1-1"),),
        context=(),
        judgements=((Judgement.VIOLATION, 2),),
        diagnoses=(),
    )
    assert (two.number, two.sessions) == (2, 1)


def test_what_happened_in_the_cluster_around_it_is_told_with_its_distance() -> None:
    (incident,) = run(
        PoolObserved(0, 0, 0, PoolSnapshot(frozenset({Endpoint("u", "a", "10.0.0.1")})), 0),
        ClusterEvent(500 * MS, ClusterSubject.NODE, "too early", ClusterAction.ADDED),
        ClusterEvent(8_000 * MS, ClusterSubject.NODE, "pool1-3", ClusterAction.ADDED),
        ClusterEvent(8_000 * MS, ClusterSubject.WATCH, "", ClusterAction.MORE_UNREADABLE),
        seen("CLIENT-0", 11_110 * MS),
        PoolObserved(12 * S, 12 * S, 12 * S, PoolSnapshot(frozenset()), 12 * S),
        ClusterEvent(40 * S, ClusterSubject.NODE, "too late", ClusterAction.ADDED),
    )
    assert incident.context == (
        NearFact(
            8_000 * MS,
            -3_100 * MS,
            event=ClusterEvent(8_000 * MS, ClusterSubject.NODE, "pool1-3", ClusterAction.ADDED),
        ),
        NearFact(
            12 * S,
            900 * MS,
            change=EndpointChange(EndpointAction.LEFT, Endpoint("u", "a", "10.0.0.1")),
        ),
    )


def test_distances_count_from_the_first_probe_that_was_lost_or_met_the_new_state() -> None:
    def near(*events: Event) -> list[list[tuple[ClusterAction, int]]]:
        added = ClusterEvent(10 * S, ClusterSubject.NODE, "n", ClusterAction.ADDED)
        incidents = run(FirstAnswer(0, "CLIENT-0", 0, who("a")), added, *events)
        return [[(fact.event.action, fact.after_ns) for fact in each.context if fact.event] for each in incidents]

    added, ready = ClusterAction.ADDED, ClusterAction.READY

    change = seen("CLIENT-0", 13_010 * MS).change
    paused = replace(change, before=RepliedProbe(1, 4 * S, who("a")), longest_pause_ns=9 * S)
    assert near(ChangeSeen(13_010 * MS, "CLIENT-0", paused)) == [[(added, -3 * S)]]
    lossy = ChangeSeen(13_010 * MS, "CLIENT-0", replace(change, before=RepliedProbe(4, 10_900 * MS, who("a"))))
    burst = lost("CLIENT-0", 5, 20, 11 * S)
    assert near(lossy, burst) == near(burst) == [[(added, -1 * S)]]
    outage = OutageStarted(17 * S, "CLIENT-0", 10, 12 * S, RepliedProbe(9, 11_900 * MS, who("a")))
    assert near(outage) == [[(added, -2 * S)]]
    ended = OutageEnded(60 * S, "CLIENT-0", 10, 12 * S, 480, RepliedProbe(490, 59 * S, who("a")))
    late = ClusterEvent(58 * S, ClusterSubject.NODE, "n", ClusterAction.READY)
    told = near(outage, seen("CLIENT-1", 40 * S), late, ended)
    assert told == [[], [(added, -2 * S), (ready, 46 * S)]]


def test_a_diagnosis_counts_from_the_same_moment() -> None:
    def told(*members: Event) -> tuple[str, ...]:
        sessions = [FirstAnswer(0, f"CLIENT-{n}", 0, who("a")) for n in range(3)]
        (incident,) = run(*sessions, ClusterEvent(9 * S, ClusterSubject.NODE, "n", ClusterAction.READY), *members)
        evidence = (fact for diagnosis in incident.diagnoses for fact in diagnosis.evidence)
        (near,) = incident.context
        return (f"{-near.after_ns / S} s before", *(fact for fact in evidence if "Ready" in fact))

    change = seen("CLIENT-0", 11_010 * MS).change
    moved = replace(change, kinds=(Kind.REFLEXIVE_IP,), after=change.after._replace(identity=who("a", "10.240.0.7")))
    rehash = ChangeSeen(11_010 * MS, "CLIENT-0", moved)
    assert told(rehash) == ("2.0 s before", 'node "n" became Ready 2.0 s before')
    burst = lost("CLIENT-1", 5, 4, 10_500 * MS)
    assert told(rehash, burst) == ("1.5 s before", 'node "n" became Ready 1.5 s before')


def test_losses_in_a_row_are_a_burst_even_when_they_are_told_in_parts() -> None:
    assert run(lost("CLIENT-0", 5, 3, 10 * S), lost("CLIENT-0", 9, 3, 10_400 * MS)) == []
    (incident,) = run(
        FirstAnswer(0, "CLIENT-0", 0, who("a")),
        lost("CLIENT-0", 5, 2, 10 * S),
        lost("CLIENT-0", 7, 2, 10_200 * MS),
        lost("CLIENT-0", 9, 2, 10_400 * MS),
        lost("CLIENT-1", 9, 4, 10_400 * MS),
    )
    assert (incident.bursts, incident.lost, incident.sessions) == (2, 10, 2)
    assert (incident.from_ns, incident.to_ns) == (10 * S, 10_700 * MS)
    assert (incident.cohorts, incident.judgements) == ((Cohort("10.240.0.4", 1, 1),), ())


def test_an_outage_is_a_member_until_it_ends() -> None:
    last = RepliedProbe(9, 9_900 * MS, who("a"))
    outage = OutageStarted(15 * S, "CLIENT-0", 10, 10 * S, last)
    ended = OutageEnded(16 * S, "CLIENT-0", 10, 10 * S, 60, RepliedProbe(70, 15_990 * MS, who("a")))
    (incident,) = run(outage, ended)
    assert (incident.outages, incident.lost, incident.to_ns) == (1, 60, 15_990 * MS)
    (from_the_start,) = run(OutageStarted(15 * S, "CLIENT-0", 0, 10 * S, None))
    assert (from_the_start.outages, from_the_start.cohorts) == (1, ())
    late_end = OutageEnded(300 * S, "CLIENT-0", 10, 10 * S, 60, RepliedProbe(70, 299 * S, who("a")))
    told = run(outage, seen("CLIENT-9", 200 * S), late_end)
    assert [(i.outages, i.changes, i.lost) for i in told] == [(0, 1, 0), (1, 0, 60)]
    assert [(i.from_ns, i.to_ns, i.continuing) for i in told[1:]] == [(10 * S, 299 * S, False)]
    assert len(run(late_end)) == 0


def test_an_outage_takes_the_place_of_its_burst_and_lasts_as_long_as_its_silence() -> None:
    answered = FirstAnswer(0, "CLIENT-0", 0, who("a"))
    last = RepliedProbe(9, 9_900 * MS, who("a"))
    losses: list[Event] = [lost("CLIENT-0", 10 + 10 * n, 10, (10 + n) * S) for n in range(90)]
    outage = OutageStarted(15 * S, "CLIENT-0", 10, 10 * S, last)
    stopped = SendingStopped(102 * S, interrupted=False)
    (incident,) = run(answered, *losses[:3], outage, *losses[3:], stopped)
    assert (incident.bursts, incident.outages, incident.from_ns, incident.to_ns) == (0, 1, 10 * S, 102 * S)
    assert (incident.lost, incident.continuing) == (900, False)


def lasting(session: str = "CLIENT-0", since_ns: int = 10 * S, pod: str = "a") -> OutageStarted:
    before = RepliedProbe(9, since_ns - 100 * MS, who(pod))
    return OutageStarted(since_ns + 5 * S, session, 10, since_ns, before, probes=50)


def back(session: str, at_ns: int, probes: int, since_ns: int = 10 * S) -> OutageEnded:
    return OutageEnded(at_ns, session, 10, since_ns, probes, RepliedProbe(10 + probes, at_ns - 10 * MS, who("b")))


def over_it(session: str, at_ns: int, first: int, before: int = 9) -> ChangeSeen:
    """What the first reply after an outage shows."""
    change = Change(
        1,
        (Kind.POD,),
        RepliedProbe(before, 9_900 * MS, who("a")),
        RepliedProbe(first, at_ns - 10 * MS, who("b")),
        at_ns,
        100 * MS,
        at_ns,
    )
    return ChangeSeen(at_ns, session, change)


def test_an_incident_that_lasts_is_told_once_as_one_that_goes_on() -> None:
    analysis = ComparingAnalysis(Rules())

    def told(*events: Event, until_s: int) -> list[IncidentOngoing | IncidentClosed]:
        found = [each for event in events for each in analysis.feed(event)]
        for second in range(events[-1].at_ns // S + 1, until_s):
            found += analysis.advance(second * S)
        return [each for each in found if isinstance(each, (IncidentOngoing, IncidentClosed))]

    # Nothing is known that would give it a class, so it is told as one that lasts after half a minute.
    assert told(STARTED, FirstAnswer(0, "CLIENT-0", 0, who("a")), lasting(), until_s=46) == []
    (ongoing,) = told(lost("CLIENT-0", 60, 300, 15 * S), until_s=200)
    assert isinstance(ongoing, IncidentOngoing)
    assert (ongoing.at_ns, ongoing.incident.number, ongoing.incident.outages) == (46 * S, 1, 1)
    (closed,) = told(back("CLIENT-0", 200 * S, 1_900), until_s=300)
    assert isinstance(closed, IncidentClosed)
    assert (closed.incident.number, closed.incident.from_ns, closed.incident.to_ns) == (1, 10 * S, 199_990 * MS)
    assert (closed.incident.lost, closed.at_ns) == (1_900, 203 * S)


def test_an_incident_that_lasts_and_is_judged_is_told_when_it_has_been_quiet() -> None:
    incidents = Incidents()
    incidents.feed(STARTED)
    incidents.feed(lasting())
    incidents.feed(CaseJudged(16 * S, "CLIENT-0", OutageCase(10, 10 * S), Judgement.VIOLATION, None, ()))
    assert incidents.close(17 * S) == incidents.ongoing(18 * S) == []
    assert [incident.number for incident in incidents.ongoing(18 * S + 1)] == [1]
    assert incidents.ongoing(60 * S) == []
    assert incidents.close(300 * S) == []


def test_a_change_over_an_outage_belongs_to_the_outage_s_incident() -> None:
    told = run(
        lasting(),
        lasting("CLIENT-1"),
        back("CLIENT-0", 95 * S, 850),
        over_it("CLIENT-0", 95 * S, 860),
        back("CLIENT-1", 97 * S, 870),
        over_it("CLIENT-1", 97 * S, 880),
    )
    assert [(i.outages, i.changes, i.sessions, i.to_ns, i.continuing) for i in told] == [(2, 2, 2, 96_990 * MS, False)]


def test_a_change_that_does_not_lie_over_the_outage_is_another_incident() -> None:
    """It comes after the outage, or lies over it and is told when the outage's incident is closed: it is one of its own."""
    after = replace(over_it("CLIENT-0", 97 * S, 900).change, before=RepliedProbe(860, 96_900 * MS, who("a")))
    late = replace(over_it("CLIENT-0", 200 * S, 880).change, number=2)
    told = run(
        lasting(),
        back("CLIENT-0", 95 * S, 850),
        ChangeSeen(97 * S, "CLIENT-0", after),
        ClusterEvent(150 * S, ClusterSubject.WATCH, "", ClusterAction.MORE_UNREADABLE),
        ChangeSeen(200 * S, "CLIENT-0", late),
    )
    assert [(i.number, i.outages, i.changes) for i in told] == [(1, 1, 0), (2, 0, 1), (3, 0, 1)]


def test_sessions_that_a_blackout_left_dead_are_an_incident_of_their_own() -> None:
    """Half of 4 sessions stay dead when the rest goes on; theirs begins where the blackout ended."""
    dark = BlackoutEnded(30 * S, 10 * S, 30 * S, 800, 9)
    common = [lost(f"CLIENT-{n}", 10, 200, 10 * S) for n in range(4)]
    left = [replace(lasting(f"CLIENT-{n}", since_ns=(10_000 + n * 25) * MS), at_ns=30_500 * MS + n) for n in range(2)]
    told = run(*common, dark, *left, SendingStopped(90 * S, interrupted=False))
    assert [(i.number, i.bursts, i.outages, i.sessions) for i in told] == [(1, 2, 0, 2), (2, 0, 2, 2)]
    assert (told[1].from_ns, told[1].to_ns) == (30 * S, 90 * S)
    # One that fell silent long after the blackout was not left dead by it.
    (other,) = run(dark, lasting("CLIENT-3", since_ns=50 * S))
    assert other.from_ns == 50 * S


def test_replies_that_arrive_elsewhere_are_members() -> None:
    source = TransportAddress("10.1.0.1", 3478)
    wrong = WrongSource(10_010 * MS, "CLIENT-0", source, TARGET, 5, 10 * S, who("b"))
    across = CrossDelivered(10_020 * MS, "CLIENT-1", "CLIENT-2", 7, 10 * S, who("b"), TARGET)
    (incident,) = run(FirstAnswer(0, "CLIENT-0", 0, who("a")), wrong, across)
    assert (incident.sessions, incident.changes, incident.strays) == (2, 0, 2)
    assert incident.judgements == ((Judgement.VIOLATION, 2),)
    assert (incident.from_ns, incident.to_ns) == (10 * S, 10_020 * MS)
    assert incident.cohorts == (Cohort("10.240.0.4", 1, 1),)


def test_a_silence_of_all_is_cut_as_well_and_what_goes_on_is_another_incident() -> None:
    told = run(*(lost("CLIENT-0", 10 * n, 10, (10 + n) * S) for n in range(90)))
    assert [(incident.continuing, incident.bursts) for incident in told] == [(True, 1), (False, 1)]
    assert sum(incident.lost for incident in told) == 900


def test_a_burst_is_of_who_served_when_it_began() -> None:
    moved = seen("CLIENT-0", 12_010 * MS, old="a", new="b")
    change = replace(moved.change, before=RepliedProbe(4, 9_900 * MS, who("a", "10.240.0.1")))
    (incident,) = run(
        ChangeSeen(moved.at_ns, "CLIENT-0", replace(change, after=RepliedProbe(30, 12 * S, who("b")))),
        lost("CLIENT-0", 5, 25, 10 * S),
    )
    assert [cohort.ip for cohort in incident.cohorts] == ["10.240.0.1"]


def test_a_revised_member_stays_and_a_withdrawn_one_leaves() -> None:
    wide, narrow = seen("CLIENT-0", 10 * S), seen("CLIENT-0", 10 * S, old="c")
    (incident,) = run(wide, ChangeRevised(10_050 * MS, "CLIENT-0", narrow.change, wide.change))
    assert incident.judgements == ((Judgement.VIOLATION, 1),)
    assert run(wide, ChangeWithdrawn(10_050 * MS, "CLIENT-0", wide.change, 2)) == []
    elsewhere = seen("CLIENT-5", 10 * S, number=9).change
    assert len(run(wide, ChangeRevised(300 * S, "CLIENT-5", elsewhere, elsewhere))) == 1
    assert len(run(wide, ChangeWithdrawn(300 * S, "CLIENT-5", elsewhere, 1))) == 1


def test_a_long_incident_is_cut_and_says_that_it_goes_on() -> None:
    storm = [seen("CLIENT-0", 10 * S + n * 500 * MS, number=n) for n in range(140)]
    one, two = run(*storm)
    assert (one.continuing, two.continuing) == (True, False)
    assert one.changes + two.changes == 140
    assert one.to_ns - one.from_ns >= 60 * S


def test_an_incident_with_too_many_members_is_cut_as_well() -> None:
    incidents = Incidents()
    for number in range(MAX_MEMBERS + 1):
        incidents.feed(seen("CLIENT-0", 10 * S, number=number))
    assert incidents.open_count == 2


def test_an_incident_waits_for_its_judgements() -> None:
    incidents = Incidents()
    incidents.feed(STARTED)
    event = seen("CLIENT-0", 10 * S)
    incidents.feed(event)
    assert incidents.close(12_900 * MS) == []
    assert incidents.close(20 * S) == []
    incidents.feed(CaseJudged(20 * S, "CLIENT-0", event.change, Judgement.IDLE, None, ()))
    (incident,) = incidents.close(20 * S)
    assert incident.sessions() == {"CLIENT-0"}
    assert incidents.open_count == 0


def test_what_a_sound_proxy_would_have_avoided_is_counted_as_it_was_judged_last() -> None:
    incidents = Incidents()
    incidents.feed(STARTED)
    moves = [seen(f"CLIENT-{n}", 10 * S) for n in range(4)]
    for event, avoidable in zip(moves, (True, False, None, True), strict=True):
        incidents.feed(event)
        incidents.feed(CaseJudged(12 * S, event.session, event.change, Judgement.EXPLAINED, avoidable, ()))
    incidents.feed(CaseJudged(13 * S, "CLIENT-3", moves[3].change, Judgement.UNKNOWN, None, ()))
    (incident,) = incidents.close(20 * S)
    assert incident.summarise(4).avoidable == 1


def test_the_end_of_an_outage_whose_incident_is_no_longer_known_adds_to_none() -> None:
    """A record from elsewhere may say so; a run's own events do not."""
    incidents = Incidents()
    incidents.feed(STARTED)
    incidents.feed(lasting())
    incidents._incident_of.clear()
    incidents.feed(back("CLIENT-0", 20 * S, 100))
    (incident,) = incidents.close(100 * S, last=True)
    assert incident.to_ns < 20 * S
