"""The classes by example, and by property: nothing within reach of a pool change is a violation, nothing beyond explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.analysis import RunAnalysis
from affinity_tester.core.events import (
    BlackoutEnded,
    BlackoutStarted,
    CaseJudged,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Counts,
    CrossDelivered,
    Event,
    FirstAnswer,
    IncidentClosed,
    Judgement,
    LateReply,
    Losses,
    OutageCase,
    Outcome,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    RepliedProbe,
    RttStats,
    RunEnded,
    RunStarted,
    RunSummary,
    SendingStopped,
    Stray,
    StrayCase,
    Verdict,
    WrongPool,
    WrongSource,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging import judge
from affinity_tester.core.judging.reasons import NothingExplains, PoolChanged, PoolState
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange, PoolSnapshot
from pools import ComparingAnalysis, is_judged, judged_cases, texts

MS = 1_000_000
S = 1_000 * MS
SETTLE = 10 * S
NOT_WATCHED = NothingExplains(PoolState.NOT_WATCHED)
LOCAL = TransportAddress("127.0.0.1", 40312)


def who(pod: str | None) -> Identity:
    return Identity(LOCAL, pod)


def change(
    at_ns: int,
    *,
    number: int = 1,
    old: str | None = "a",
    new: str = "b",
    kinds: tuple[Kind, ...] = (Kind.POD,),
    **more: Any,
) -> Change:
    """Seen at `at_ns`, between a probe sent 100 ms before and one sent 10 ms before."""
    values = {"longest_pause_ns": 90 * MS, "settled_ns": at_ns, "sent_ns": at_ns - 100 * MS} | more
    before = RepliedProbe(1, values.pop("sent_ns"), who(old))
    return Change(number, kinds, before, RepliedProbe(2, at_ns - 10 * MS, who(new)), at_ns, **values)


def seen(what: Change) -> ChangeSeen:
    return ChangeSeen(what.seen_ns, "CLIENT-1", what)


def pool(*pods: str, **conditions: dict[str, bool]) -> PoolSnapshot:
    return PoolSnapshot(
        frozenset(Endpoint(f"uid-{pod}", pod, f"10.0.0.{ord(pod)}", "n1", **conditions.get(pod, {})) for pod in pods)
    )


def observed(at_ns: int, snapshot: PoolSnapshot, since_ns: int | None = None, *, listed: bool = True) -> PoolObserved:
    return PoolObserved(at_ns, at_ns if since_ns is None else since_ns, at_ns, snapshot, at_ns if listed else None)


def run(*events: Event, **rules: Any) -> tuple[RunAnalysis, list[Event]]:
    """What follows from these events, but for the incidents, which have a test file of their own."""
    analysis = ComparingAnalysis(Rules(**rules))
    return analysis, [told for event in events for told in but_incidents(analysis.feed(event))]


def but_incidents(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, IncidentClosed)]


def judged(*events: Event) -> list[tuple[Judgement, tuple[str, ...]]]:
    return [
        (e.judgement, texts(e.reasons)) for e in run(*events)[1] if (is_judged(e, Change) or is_judged(e, OutageCase))
    ]


def test_an_unwatched_change_is_a_violation_at_once_and_says_so() -> None:
    analysis, told = run(seen(change(50 * S)))
    assert told == [CaseJudged(50 * S, "CLIENT-1", change(50 * S), Judgement.VIOLATION, None, (NOT_WATCHED,))]
    assert analysis.open_count == 0
    assert analysis.next_list_after_ns is None


def test_an_unwatched_change_waits_for_the_probes_in_between() -> None:
    analysis, told = run(seen(change(50 * S, settled_ns=52 * S)))
    assert told == []
    assert analysis.open_count == 1
    assert analysis.advance(51 * S) == []
    (event,) = but_incidents(analysis.advance(52 * S))
    assert is_judged(event, Change)


def test_a_longer_pause_than_the_affinity_window_is_idle() -> None:
    assert judged(seen(change(50 * S, longest_pause_ns=31 * S))) == [
        (Judgement.IDLE, ("31.0 s without a probe, longer than the affinity window",))
    ]
    assert judged(
        observed(0, pool("a", "b")), seen(change(50 * S, longest_pause_ns=31 * S)), observed(61 * S, pool("a", "b"))
    ) == [(Judgement.IDLE, ("31.0 s without a probe, longer than the affinity window",))]


def test_a_pause_of_just_the_affinity_window_is_not_idle() -> None:
    assert judged(seen(change(50 * S, longest_pause_ns=30 * S))) == [
        (Judgement.VIOLATION, ("cluster not watched, endpoints assumed unchanged",))
    ]


@pytest.mark.parametrize(
    ("judgement", "events", "at_ns"),
    [
        (Judgement.POD_RESTART, [seen(change(50 * S, new="a", kinds=(Kind.INSTANCE,)))], 50 * S),
        (Judgement.IDLE, [seen(change(50 * S, longest_pause_ns=31 * S))], 50 * S),
        (
            Judgement.IDLE,
            [
                observed(0, pool("a", "b")),
                seen(change(50 * S, longest_pause_ns=31 * S)),
                observed(61 * S, pool("a", "b")),
            ],
            61 * S,
        ),
        (
            Judgement.UNKNOWN,
            [
                observed(0, pool("a", "b")),
                PoolUnobserved(45 * S, 40 * S, "cut"),
                seen(change(50 * S)),
                observed(70 * S, pool("b"), 35 * S),
            ],
            70 * S,
        ),
        (
            Judgement.UNKNOWN,
            [observed(0, pool("a", "b")), seen(change(50 * S)), RunEnded(52 * S, aborted=True)],
            52 * S,
        ),
        (
            Judgement.VIOLATION,
            [observed(0, pool("a", "b")), seen(change(50 * S)), observed(61 * S, pool("a", "b"))],
            61 * S,
        ),
    ],
)
def test_a_judgement_is_of_the_time_at_which_it_became_certain(
    judgement: Judgement, events: list[Event], at_ns: int
) -> None:
    assert [(e.judgement, e.at_ns) for e in run(*events)[1] if is_judged(e, Change)] == [(judgement, at_ns)]


def test_a_change_that_is_narrowed_and_certain_is_judged_once() -> None:
    wider, revised = change(50 * S, settled_ns=52 * S), change(50 * S)
    analysis, told = run(seen(wider), ChangeRevised(51 * S, "CLIENT-1", revised, wider))
    assert [(e.at_ns, e.case) for e in told if is_judged(e, Change)] == [(51 * S, revised)]
    assert analysis.open_count == 0
    assert but_incidents(analysis.advance(60 * S)) == []


def test_a_change_that_is_withdrawn_holds_up_no_other() -> None:
    first, second = change(50 * S, settled_ns=52 * S), change(51 * S, number=2, settled_ns=53 * S)
    analysis, told = run(seen(first), seen(second), ChangeWithdrawn(51 * S, "CLIENT-1", first, 2))
    assert told == []
    assert [e.case for e in analysis.advance(60 * S) if is_judged(e, Change)] == [second]


def test_a_new_instance_alone_is_a_restarted_pod() -> None:
    assert judged(seen(change(50 * S, new="a", kinds=(Kind.INSTANCE,)))) == [
        (Judgement.POD_RESTART, ("the same pod answers with a new instance",))
    ]


def new_instance(at_s: int, old: bytes, new: bytes, **more: Any) -> Change:
    """Pod "a" answers as another instance."""
    plain = change(at_s * S, new="a", kinds=(Kind.INSTANCE,), **more)
    before, after = (
        sighting._replace(identity=sighting.identity._replace(instance=instance))
        for sighting, instance in ((plain.before, old), (plain.after, new))
    )
    return replace(plain, before=before, after=after)


def test_an_instance_that_comes_back_was_never_replaced() -> None:
    shared = ("cluster not watched, endpoints assumed unchanged", 'two servers share the name of pod "a"')
    flips = [(b"x", b"y"), (b"y", b"x"), (b"x", b"y"), (b"y", b"z"), (b"z", b"x"), (b"x", b"w")]
    told = judged(*(seen(new_instance(50 + n, *flip, number=n)) for n, flip in enumerate(flips)))
    restart = (Judgement.POD_RESTART, ("the same pod answers with a new instance",))
    violation = (Judgement.VIOLATION, shared)
    # Each pair is a restart until it is seen not to be one: y may well end and be z, and so may x be w.
    assert told == [restart, violation, violation, restart, violation, restart]


def test_instances_that_sessions_leave_one_by_one_lived_at_one_time() -> None:
    first = FirstAnswer(1 * S, "CLIENT-1", 0, who("a")._replace(instance=b"x"))
    told = judged(first, *(seen(new_instance(at, b"x", b"y", number=at)) for at in (10, 25)))
    assert [each for each, _ in told] == [Judgement.POD_RESTART, Judgement.VIOLATION]


@pytest.mark.parametrize(
    ("x_ns", "y_ns", "judgement"),
    [
        (1 * S, 2 * S, Judgement.VIOLATION),
        (1 * S, 9_899 * MS, Judgement.VIOLATION),
        (1 * S, 9_900 * MS, Judgement.POD_RESTART),
        (9_989 * MS, 2 * S, Judgement.VIOLATION),
        (9_990 * MS, 2 * S, Judgement.POD_RESTART),
    ],
)
def test_an_instance_that_answered_one_session_was_there_when_another_left_it(
    x_ns: int, y_ns: int, judgement: Judgement
) -> None:
    """x answered a probe sent at 9.9 s, and y one sent at 9.99 s: each after the other's first answer, or not."""
    firsts = [
        FirstAnswer(at_ns, f"CLIENT-{name}", 0, who("a")._replace(instance=name.encode()))
        for name, at_ns in (("x", x_ns), ("y", y_ns))
    ]
    ((told, _),) = judged(*sorted(firsts, key=lambda e: e.at_ns), seen(new_instance(10, b"x", b"y")))
    assert told is judgement


def test_a_probe_that_was_under_way_for_longer_than_the_restart_proves_nothing() -> None:
    """x ends at 11 s and y begins at 12 s; of two probes sent at 10.6 s and 10.7 s the first one comes to y."""
    first = FirstAnswer(1 * S, "CLIENT-1", 0, who("a")._replace(instance=b"x"))
    slow, back = new_instance(12, b"x", b"y"), new_instance(12, b"y", b"x", number=2)
    slow = replace(
        slow, before=slow.before._replace(sent_ns=10_500 * MS), after=slow.after._replace(sent_ns=10_600 * MS)
    )
    back = replace(back, before=slow.after, after=back.after._replace(sent_ns=10_700 * MS))
    later = [seen(new_instance(at, b"x", b"y", number=at, sent_ns=10_800 * MS)) for at in (13, 14)]
    assert {each for each, _ in judged(first, seen(slow), seen(back), *later)} == {Judgement.POD_RESTART}


def test_instances_of_different_pods_share_no_name() -> None:
    """Small replies leave out the instance before the pod, so the two may change over different pairs."""
    flips = [(b"x", b"y"), (b"y", b"x"), (b"x", b"y")]
    changes = [new_instance(50 + n, *flip, number=n) for n, flip in enumerate(flips)]
    changes = [replace(c, after=c.after._replace(identity=c.after.identity._replace(pod="b"))) for c in changes]
    assert {each for each, _ in judged(*map(seen, changes))} == {Judgement.POD_RESTART}


def test_instances_are_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_MOST_INSTANCES", 2)
    flips = [(b"x", b"y"), (b"v", b"w"), (b"y", b"x")]
    told = judged(*(seen(new_instance(50 + n, *flip, number=n)) for n, flip in enumerate(flips)))
    assert {each for each, _ in told} == {Judgement.POD_RESTART}
    few = judged(*(seen(new_instance(50 + n, *flip, number=n)) for n, flip in enumerate([(b"x", b"y"), (b"y", b"x")])))
    assert [each for each, _ in few] == [Judgement.POD_RESTART, Judgement.VIOLATION]


def test_changes_do_not_wait_for_the_pool_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MOST_OPEN", 2)
    changes = [seen(change((50 + n) * S, number=n)) for n in range(5)]
    analysis, told = run(observed(0, pool("a", "b")), PoolUnobserved(45 * S, 40 * S, "gone"), *changes)
    told += but_incidents(analysis.advance(60 * S))
    assert [(case.number, e.judgement) for case, e in judged_cases(told, Change)] == [
        (n, Judgement.UNKNOWN) for n in range(3)
    ]
    assert analysis.open_count == 2


def test_what_is_open_at_the_end_keeps_what_is_known_of_it() -> None:
    flips = [(b"x", b"y"), (b"y", b"x")]
    changes = [seen(new_instance(50 + n, *flip, number=n)) for n, flip in enumerate(flips)]
    told = judged(observed(0, pool("a")), *changes, RunEnded(52 * S, aborted=True))
    assert told[1] == (
        Judgement.UNKNOWN,
        ("the run ended before the pool was confirmed", 'two servers share the name of pod "a"'),
    )


def test_a_watched_change_is_a_violation_only_after_a_list_made_beyond_its_reach() -> None:
    analysis, told = run(observed(0, pool("a", "b")), seen(change(50 * S)), PoolConfirmed(60 * S, 60 * S))
    assert told == []
    assert analysis.next_list_after_ns == 60 * S
    (event,) = but_incidents(analysis.feed(PoolConfirmed(60 * S + 1, 60 * S + 1)))
    assert is_judged(event, Change)
    assert (event.judgement, texts(event.reasons)) == (Judgement.VIOLATION, ("no endpoint had changed",))


def test_a_pool_change_explains_and_says_whether_the_old_pod_still_served() -> None:
    gone = run(observed(0, pool("a", "b")), observed(49 * S, pool("b")), seen(change(50 * S)))[1]
    assert gone == [
        CaseJudged(
            50 * S,
            "CLIENT-1",
            change(50 * S),
            Judgement.EXPLAINED,
            False,
            (PoolChanged(EndpointChange(EndpointAction.LEFT, *pool("a").endpoints), -S),),
        )
    ]
    analysis, told = run(observed(0, pool("a", "b")), observed(55 * S, pool("a", "b", "c")), seen(change(50 * S)))
    assert told == []
    (event,) = but_incidents(analysis.feed(PoolConfirmed(61 * S, 61 * S)))
    assert is_judged(event, Change)
    assert (event.avoidable, texts(event.reasons)) == (True, ('pod "c" joined the pool 5.0 s after',))


def test_the_session_s_own_pods_explain_before_others_and_causes_before_consequences() -> None:
    def by(*after: str, spec: tuple[tuple[str, str], ...] = (), new: str = "b", before: str = "abc") -> tuple[str, ...]:
        edited = replace(pool(*after), spec=spec)
        moved = seen(change(50 * S, new=new))
        begun, later = observed(0, pool(*before)), PoolConfirmed(61 * S, 61 * S)
        ((_, reasons),) = judged(begun, observed(49 * S, edited), moved, later)
        return reasons

    assert by("b")[:2] == ('pod "a" left the pool 1.0 s before', 'pod "c" left the pool')
    assert by("a", "b", new="b")[0] == 'pod "c" left the pool 1.0 s before'
    assert by("a", "b", "d", new="d", before="abc")[:2] == (
        'pod "d" joined the pool 1.0 s before',
        'pod "c" left the pool',
    )
    assert by("a", "b", "e", "d", new="e", before="ab")[:2] == (
        'pod "e" joined the pool 1.0 s before',
        'pod "d" joined the pool',
    )
    edited = by("a", "b", spec=(("sessionAffinity", "ClientIP"),))
    assert edited == (
        "the Service's sessionAffinity changed none -> ClientIP 1.0 s before",
        'pod "c" left the pool',
    )


def test_whether_it_was_avoidable_is_not_known_where_nobody_looked() -> None:
    _, told = run(
        observed(0, pool("a", "b")),
        observed(49 * S, pool("a", "b", "c"), listed=False),
        seen(change(50 * S)),
        PoolUnobserved(51 * S, 51 * S, "cut"),
        observed(80 * S, pool("a", "b", "c"), 51 * S),
    )
    assert [(e.judgement, e.avoidable) for e in told if is_judged(e, Change)] == [(Judgement.EXPLAINED, None)]


def test_an_explanation_without_a_known_pod_leaves_open_whether_it_was_avoidable() -> None:
    told = run(observed(0, pool("a")), observed(49 * S, pool("a", "b")), seen(change(50 * S, old=None)))[1]
    assert [e.avoidable for e in told if is_judged(e, Change)] == [None]


def test_a_large_pool_change_is_told_in_a_few_facts() -> None:
    ((judgement, reasons),) = judged(observed(0, pool(*"abcdef")), observed(49 * S, pool("g")), seen(change(50 * S)))
    assert judgement is Judgement.EXPLAINED
    assert reasons == (
        'pod "a" left the pool 1.0 s before',
        'pod "b" left the pool',
        'pod "c" left the pool',
        "4 more changes of the pool then",
    )
    ((_, reasons),) = judged(observed(0, pool(*"abc")), observed(49 * S, pool("g")), seen(change(50 * S)))
    assert reasons[3:] == ("1 more change of the pool then",)


def test_a_gap_makes_it_unknown_and_a_change_inside_a_gap_too() -> None:
    watch = [observed(0, pool("a", "b")), PoolUnobserved(45 * S, 40 * S, "connection lost"), seen(change(50 * S))]
    assert judged(*watch, observed(70 * S, pool("a", "b"), 40 * S)) == [
        (Judgement.UNKNOWN, ("the pool could not be observed for 30.0 s around it",))
    ]
    assert judged(*watch, observed(70 * S, pool("b"), 35 * S)) == [
        (Judgement.UNKNOWN, ('pod "a" left the pool at some time in the 35.0 s up to 20.0 s after',))
    ]


def test_a_change_explains_only_if_it_surely_lies_within_reach() -> None:
    """The reach is [sent(P) - settle, reply(Q) + settle]: 39.9 s to 60 s."""
    begun, moved = observed(0, pool("a", "b")), seen(change(50 * S))

    def by(since_ms: int, until_ms: int) -> tuple[Judgement, tuple[str, ...]]:
        told = PoolObserved(until_ms * MS, since_ms * MS, until_ms * MS, pool("b"))
        (found,) = judged(begun, *sorted([moved, told], key=lambda e: e.at_ns), PoolConfirmed(99 * S, 99 * S))
        return found

    assert by(39_900, 45_000) == (Judgement.EXPLAINED, ('pod "a" left the pool 5.0 s before',))
    assert by(51_000, 60_000) == (Judgement.EXPLAINED, ('pod "a" left the pool 10.0 s after',))
    assert by(59_999, 60_001) == (
        Judgement.UNKNOWN,
        ('pod "a" left the pool at some time in the 0.0 s up to 10.0 s after',),
    )
    assert by(30_000, 39_900) == (
        Judgement.UNKNOWN,
        ('pod "a" left the pool at some time in the 9.9 s up to 10.1 s before',),
    )
    assert by(60_000, 75_000) == by(20_000, 39_899) == (Judgement.VIOLATION, ("no endpoint had changed",))


def test_a_list_that_shows_a_change_confirms_nothing_of_when_it_happened() -> None:
    """A pod leaves at about 50 s while the API stalls; a list asked for at 60.1 s shows it, and was answered at 75 s."""
    late = PoolObserved(75 * S, 45 * S, 75 * S, pool("b"), 60_100 * MS)
    assert judged(observed(0, pool("a", "b")), seen(change(50 * S)), late) == [
        (Judgement.UNKNOWN, ('pod "a" left the pool at some time in the 30.0 s up to 25.0 s after',))
    ]


# --- replies that arrive elsewhere ---------------------------------------------------------------------------------------

ASTRAY = WrongSource(50 * S, "CLIENT-1", TransportAddress("10.1.0.1", 3478), LOCAL, 7, 49 * S, who("b"))
ACROSS = CrossDelivered(50 * S, "CLIENT-1", "CLIENT-2", 7, 49 * S, who("b"), LOCAL)


@pytest.mark.parametrize("stray", [ASTRAY, ACROSS], ids=["wrong source", "cross-delivered"])
def test_a_stray_reply_is_judged_like_a_change_from_when_its_probe_was_sent_until_it_was_heard(
    stray: WrongSource | CrossDelivered,
) -> None:
    def by(*events: Event) -> list[tuple[Judgement, tuple[str, ...]]]:
        return [(e.judgement, texts(e.reasons)) for e in run(*events)[1] if is_judged(e, StrayCase)]

    kind = Stray.WRONG_SOURCE if stray is ASTRAY else Stray.CROSS_DELIVERED
    (told,) = run(stray)[1]
    assert told == CaseJudged(50 * S, "CLIENT-1", StrayCase(kind, 7, 50 * S), Judgement.VIOLATION, None, (NOT_WATCHED,))
    begun, confirmed = observed(0, pool("a", "b")), PoolConfirmed(60 * S + 1, 60 * S + 1)
    assert by(begun, stray, PoolConfirmed(60 * S, 60 * S)) == []
    assert by(begun, stray, confirmed) == [(Judgement.VIOLATION, ("no endpoint had changed",))]
    assert by(begun, stray, observed(60 * S, pool("b"))) == [
        (Judgement.EXPLAINED, ('pod "a" left the pool 10.0 s after',))
    ]
    assert by(begun, observed(39 * S, pool("b")), stray, confirmed) == [
        (Judgement.EXPLAINED, ('pod "a" left the pool 11.0 s before',))
    ]
    assert by(begun, observed(38_999 * MS, pool("b")), stray, confirmed) == [
        (Judgement.VIOLATION, ("no endpoint had changed",))
    ]
    assert by(begun, stray, PoolUnobserved(55 * S, 52 * S, "cut"), observed(70 * S, pool("a", "b"), 52 * S)) == [
        (Judgement.UNKNOWN, ("the pool could not be observed for 18.0 s around it",))
    ]
    assert by(begun, stray, RunEnded(51 * S, aborted=True)) == [
        (Judgement.UNKNOWN, ("the run ended before the pool was confirmed",))
    ]


def test_stray_replies_that_are_open_at_one_time_are_judged_each() -> None:
    again = replace(ASTRAY, at_ns=51 * S, seq=17, sent_ns=51 * S)
    _, told = run(observed(0, pool("a", "b")), ASTRAY, ACROSS, again, PoolConfirmed(62 * S, 62 * S))
    assert [case.seq for case, _ in judged_cases(told, StrayCase)] == [7, 7, 17]


def test_a_wrong_source_of_a_foreign_server_or_a_wildcard_is_information() -> None:
    foreign = replace(ASTRAY, identity=who(None))
    assert [(e.judgement, texts(e.reasons)) for e in run(foreign)[1] if is_judged(e, StrayCase)] == [
        (Judgement.INFORMATION, ("a foreign server may answer from another address",))
    ]
    anywhere = replace(ASTRAY, wildcard=True)
    assert [(e.judgement, texts(e.reasons)) for e in run(anywhere)[1] if is_judged(e, StrayCase)] == [
        (Judgement.INFORMATION, ("the server listens on a wildcard, so any of its addresses may answer",))
    ]
    delivered = replace(ACROSS, identity=who(None))
    assert [e.judgement for e in run(delivered)[1] if is_judged(e, StrayCase)] == [Judgement.VIOLATION]


def test_information_from_elsewhere_leaves_a_verdict_as_it_is() -> None:
    assert verdict(replace(ASTRAY, wildcard=True)).outcome is Outcome.PASS
    assert verdict(ASTRAY, ACROSS).violations == 2


def test_before_the_first_list_nothing_is_known() -> None:
    assert judged(
        seen(change(50 * S, settled_ns=51 * S)), observed(50 * S + 1, pool("a")), PoolConfirmed(61 * S, 61 * S)
    ) == [(Judgement.UNKNOWN, ("the watch of the pool began 0.0 s after it",))]
    assert judged(observed(42 * S, pool("a", "b")), seen(change(50 * S)), PoolConfirmed(61 * S, 61 * S)) == [
        (Judgement.UNKNOWN, ("the watch of the pool began 8.0 s before it",))
    ]


def test_the_end_of_the_run_leaves_what_is_not_confirmed_unknown() -> None:
    told = judged(observed(0, pool("a", "b")), seen(change(50 * S)), RunEnded(51 * S, aborted=True))
    assert told == [(Judgement.UNKNOWN, ("the run ended before the pool was confirmed",))]


def test_a_revised_change_is_judged_anew_and_a_withdrawn_one_is_dropped() -> None:
    wide, narrow = change(50 * S, longest_pause_ns=31 * S), change(51 * S)
    analysis, _ = run(seen(wide), ChangeRevised(51 * S, "CLIENT-1", narrow, wide))
    (*_, verdict) = analysis.feed(RunEnded(60 * S, aborted=False))
    assert isinstance(verdict, Verdict)
    assert verdict.violations == 1
    other, told = run(seen(change(50 * S, settled_ns=60 * S)), ChangeWithdrawn(51 * S, "CLIENT-1", wide, 2))
    assert (told, other.open_count) == ([], 0)
    after, _ = run(seen(wide), ChangeWithdrawn(51 * S, "CLIENT-1", wide, 2))
    (verdict,) = after.feed(RunEnded(60 * S, aborted=False))
    assert isinstance(verdict, Verdict)
    assert verdict.violations == 0


def first(at_ns: int, pod: str | None) -> FirstAnswer:
    return FirstAnswer(at_ns, "CLIENT-1", 0, who(pod))


def test_replies_from_strangers_mean_the_wrong_pool_which_counts_as_not_watched() -> None:
    serving = first(5 * S, "x")
    analysis, told = run(
        observed(0, pool("a")), serving, seen(change(6 * S, old="x", new="a")), PoolConfirmed(15 * S, 15 * S)
    )
    assert told == []
    told = analysis.feed(PoolConfirmed(16 * S + 1, 16 * S + 1))
    assert told[0] == WrongPool(16 * S + 1, "x")
    assert is_judged(told[1], Change)
    assert texts(told[1].reasons) == ("cluster not watched, endpoints assumed unchanged",)


def test_whether_strangers_answer_is_a_judgement_to_come_for_which_a_list_is_wanted() -> None:
    analysis, _ = run(observed(0, pool("a")), first(5 * S, "x"), first(6 * S, "y"))
    assert (analysis.open_count, analysis.next_list_after_ns) == (1, 15 * S)
    analysis.feed(seen(change(4 * S, old="a", new="a")))
    assert (analysis.open_count, analysis.next_list_after_ns) == (2, 14 * S)
    assert analysis.feed(PoolConfirmed(15 * S + 1, 15 * S + 1))[0] == WrongPool(15 * S + 1, "x")
    assert (analysis.settled, analysis.next_list_after_ns) == (True, None)


def test_what_the_client_may_not_see_is_near_no_incident() -> None:
    analysis, _ = run(
        observed(0, pool("a", "b")),
        seen(change(50 * S)),
        ClusterEvent(50 * S, ClusterSubject.WATCH, "media/turn", ClusterAction.LIST_FORBIDDEN, resource="nodes"),
        ClusterEvent(50 * S, ClusterSubject.NODE, "n1", ClusterAction.ADDED),
    )
    (closed,) = [event for event in analysis.feed(PoolConfirmed(61 * S, 61 * S)) if isinstance(event, IncidentClosed)]
    (near,) = closed.incident.context
    assert (near.event, near.change) == (ClusterEvent(50 * S, ClusterSubject.NODE, "n1", ClusterAction.ADDED), None)


def test_a_pod_that_the_watch_shows_a_little_later_is_no_stranger() -> None:
    serving = first(5 * S, "c")
    nobody = first(5 * S, None)
    _, told = run(
        observed(0, pool("a")), nobody, serving, observed(8 * S, pool("a", "c")), PoolConfirmed(40 * S, 40 * S)
    )
    assert told == []


# --- the verdict -----------------------------------------------------------------------------------------------------

TOO_FEW = "that could have failed, fewer than 300: run for longer, or with more sessions"
GOOD = Counts(sent=10_000, answered=9_990, lost=10, pairs=9_980)
LOSSY = "0.10 % of the probes were lost"


def verdict(
    *events: Event,
    total: Counts = GOOD,
    minutes: int = 10,
    proved: bool = True,
    interval_ns: int = 100 * MS,
    addresses: tuple[int, int] = (0, 0),
    **rules: Any,
) -> Verdict:
    """Of a run of so many minutes; `addresses`: how many of the target are probed, and are not."""
    end = minutes * 60 * S
    probed, left_out = ((LOCAL,) * count for count in addresses)
    start = RunStarted(0, 0, 0, "0", LOCAL, "x", 1, interval_ns, 2 * S, 288, connected=False, lost_guarantees=())
    _, told = run(
        replace(start, addresses=probed, unprobed=left_out),
        *events,
        LateReply(1, "CLIENT-1", 0, 0),
        SendingStopped(end, interrupted=False),
        *([PoolConfirmed(end + 1, end + 1)] if proved else []),
        RunSummary(end, end, total, Losses(), RttStats(), (), 0),
        RunEnded(end, aborted=False),
        **rules,
    )
    assert isinstance(told[-1], Verdict)
    return told[-1]


def test_a_pass_states_its_strength() -> None:
    given_ = verdict()
    assert (given_.outcome, given_.reasons) == (Outcome.PASS, ("no violation (cluster not watched)", LOSSY))
    assert given_.strength == (
        "0 violations in 9,980 judged pairs over 10 min: "
        "95 % confident: fewer than 1 incident per 3 min (run longer for a stronger claim)"
    )
    watched = verdict(observed(0, pool("a")), observed(60 * S, pool("a", "b")))
    assert watched.reasons == ("no violation", LOSSY)
    assert (watched.judged_pairs, watched.still_ns) == (9_647, 580 * S)
    assert (
        "in 9,647 judged pairs over 10 min without an endpoint change: 95 % confident: fewer than 1 incident per 3 min"
        in watched.strength
    )
    assert "over 60 s: 95 % confident: fewer than 1 incident per 20 s" in verdict(minutes=1).strength


def test_only_a_list_proves_that_the_pool_stood_still() -> None:
    unproved = verdict(observed(0, pool("a")), proved=False)
    reason = "too short: endpoints could not be re-checked before the end"
    assert (unproved.outcome, unproved.reasons, unproved.still_ns) == (Outcome.INCONCLUSIVE, (reason,), 0)
    half = verdict(observed(0, pool("a")), PoolConfirmed(300 * S, 300 * S), proved=False)
    assert (half.outcome, half.still_ns) == (Outcome.PASS, 300 * S)


def test_the_end_is_proved_by_a_list_made_after_the_last_probe() -> None:
    analysis, _ = run(observed(0, pool("a")), SendingStopped(60 * S, interrupted=False))
    assert (analysis.open_count, analysis.settled, analysis.next_list_after_ns) == (0, False, 60 * S)
    analysis.feed(PoolUnobserved(61 * S, 60 * S, "cut"))
    assert (analysis.settled, analysis.next_list_after_ns) == (True, None)  # no list can be had
    analysis.feed(observed(62 * S, pool("a"), 60 * S))
    assert (analysis.settled, analysis.next_list_after_ns) == (True, None)


def test_a_pool_in_which_nothing_happens_is_listed_now_and_then() -> None:
    analysis, _ = run(observed(0, pool("a")))
    analysis.advance(300 * S)
    assert analysis.next_list_after_ns is None
    analysis.advance(301 * S)
    assert analysis.next_list_after_ns == 300 * S
    analysis.feed(PoolConfirmed(302 * S, 302 * S))
    assert analysis.next_list_after_ns is None


def test_a_pod_that_may_have_been_in_the_pool_is_no_proof_of_another() -> None:
    came_and_went = (
        observed(0, pool("a")),
        PoolUnobserved(50 * S, 50 * S, "cut"),
        seen(change(60 * S, new="x")),
        observed(90 * S, pool("b"), 50 * S),
        PoolConfirmed(200 * S, 200 * S),
    )
    assert not [event for event in run(*came_and_went)[1] if isinstance(event, WrongPool)]
    nameless = PoolSnapshot(frozenset({Endpoint("10.0.0.1", "", "10.0.0.1")}))
    answered = FirstAnswer(2 * S, "CLIENT-1", 0, who("host-1"))
    late = observed(5 * S, nameless, listed=False)
    for events in ((observed(0, nameless), answered), (observed(0, pool("a")), answered, late)):
        assert not [event for event in run(*events, PoolConfirmed(13 * S, 13 * S))[1] if isinstance(event, WrongPool)]


def test_one_violation_fails_and_outranks_every_doubt() -> None:
    assert verdict(seen(change(50 * S)), total=Counts(sent=20, answered=20, pairs=2)).reasons == ("1 violation",)
    two = verdict(seen(change(50 * S)), seen(change(60 * S, number=2)))
    assert (two.outcome, two.reasons, two.violations) == (Outcome.FAIL, ("2 violations",), 2)


def test_avoidable_changes_fail_where_asked() -> None:
    explained = [
        observed(0, pool("a", "b")),
        observed(49 * S, pool("a", "b", "c")),
        seen(change(50 * S)),
        PoolConfirmed(100 * S, 100 * S),
    ]
    assert verdict(*explained).outcome is Outcome.PASS
    strict = verdict(*explained, fail_on_avoidable=True)
    assert (strict.outcome, strict.reasons) == (
        Outcome.FAIL,
        ("1 violation, 1 of them avoidable changes of the pool's making",),
    )


def test_loss_fails_only_where_asked_and_never_for_the_machine_s_own() -> None:
    lossy = Counts(sent=1_000, answered=950, lost=50, pairs=949)
    assert verdict(total=lossy).outcome is Outcome.PASS
    assert verdict(total=lossy, max_loss=0.02).reasons == (
        "5.00 % of the probes were lost, more than --max-loss 2.00 %",
    )
    assert verdict(total=lossy, max_loss=0.05).outcome is Outcome.PASS
    own = replace(lossy, own_losses=49)
    assert verdict(total=own, max_loss=0.02).reasons == (
        "this machine itself dropped 49 of 1,000 probes or replies (4.90 %)",
    )
    assert verdict(total=replace(lossy, own_losses=20), max_loss=0.02).reasons == (
        "3.00 % of the probes were lost, more than --max-loss 2.00 %",
    )


def test_a_flood_at_the_client_s_own_port_does_not_switch_max_loss_off() -> None:
    """What a full buffer dropped counts as this machine's only as far as probes were lost with it."""
    flooded = Counts(sent=1_000, answered=950, lost=50, pairs=949, socket_drops=137_430, undecodable=900)
    assert verdict(total=flooded, max_loss=0.02).reasons == (
        "5.00 % of the probes were lost, more than --max-loss 2.00 %",
    )
    assert verdict(total=flooded).outcome is Outcome.PASS
    unreadable = Counts(sent=1_000, answered=400, lost=600, pairs=399, undecodable=401)
    said = (
        "401 datagrams came that are no replies, more than the 400 answers: "
        "what was lost in the network cannot be told (--max-loss)"
    )
    given_ = verdict(total=unreadable, max_loss=0.7)
    assert (given_.outcome, given_.reasons) == (Outcome.INCONCLUSIVE, (said,))
    assert verdict(total=replace(unreadable, undecodable=400), max_loss=0.7).outcome is Outcome.PASS
    assert verdict(total=unreadable).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("events", "total", "reason"),
    [
        ((), Counts(sent=100, lost=100), "nothing answered"),
        (
            (),
            Counts(sent=100, lost=100, undecodable=98),
            "no reply could be read (98 came): "
            "is this a STUN server's port, and AFFINITY_KEY, where one is set, the same on both sides?",
        ),
        (
            (observed(0, pool("a")), seen(change(599 * S))),
            GOOD,
            "1 change or outage could not be judged",
        ),
        (
            (observed(0, pool("a")), seen(change(598 * S)), seen(change(599 * S, number=2))),
            GOOD,
            "2 changes or outages could not be judged",
        ),
        (
            (),
            Counts(sent=900, answered=880, lost=20, pairs=879, own_losses=1, send_errors=1),
            "this machine itself dropped 2 of 901 probes or replies (0.22 %)",
        ),
        (
            (),
            Counts(sent=980, answered=980, pairs=979, timer_misses=20),
            "this client was too busy, or stood still: 2.00 % of its probes were skipped",
        ),
        ((), Counts(sent=200, answered=200, pairs=199), f"only 199 judged pairs {TOO_FEW}"),
        ((), Counts(sent=2, answered=2, pairs=1), f"only 1 judged pair {TOO_FEW}"),
        (
            (PoolUnobserved(1, 0, "down"), observed(700 * S, pool("a"))),
            GOOD,
            "endpoints kept changing, nothing could be judged",
        ),
    ],
)
def test_what_proves_nothing_is_inconclusive(events: tuple[Event, ...], total: Counts, reason: str) -> None:
    given_ = verdict(*events, total=total)
    assert (given_.outcome, given_.reasons) == (Outcome.INCONCLUSIVE, (reason,))


def test_the_machine_s_own_losses_may_be_one_in_a_thousand() -> None:
    total = Counts(sent=2_000, answered=1_998, lost=2, pairs=1_997, own_losses=2)
    assert verdict(total=total).reasons == ("no violation (cluster not watched)",)
    assert verdict(total=replace(total, own_losses=3)).outcome is Outcome.INCONCLUSIVE


# --- pairs that could not have failed ------------------------------------------------------------------------------------


def idle(number: int) -> ChangeSeen:
    return seen(change(50 * S + number, number=number, longest_pause_ns=35 * S))


def test_excused_pairs_are_no_evidence() -> None:
    """373 of 373 pairs changed, and all are idle: nothing could have failed."""
    total = Counts(sent=463, answered=463, pairs=373)
    given_ = verdict(*map(idle, range(373)), total=total)
    assert (given_.outcome, given_.judged_pairs) == (Outcome.INCONCLUSIVE, 0)
    assert given_.reasons == (f"only 0 judged pairs {TOO_FEW}",)
    enough = Counts(sent=10_000, answered=10_000, pairs=800)
    given_ = verdict(*map(idle, range(500)), total=enough)
    assert (given_.outcome, given_.judged_pairs) == (Outcome.PASS, 300)
    assert verdict(*map(idle, range(501)), total=enough).outcome is Outcome.INCONCLUSIVE


def test_an_interval_longer_than_the_affinity_window_excuses_every_pair() -> None:
    given_ = verdict(interval_ns=30 * S + 1)
    assert (given_.outcome, given_.judged_pairs) == (Outcome.INCONCLUSIVE, 0)
    assert given_.reasons == (
        "only 0 judged pairs that could have failed, fewer than 300: an interval longer than --affinity-window excuses "
        "every change: probe more often",
    )
    assert verdict(interval_ns=30 * S).outcome is Outcome.PASS
    assert verdict(interval_ns=30 * S + 1, affinity_window_ns=31 * S).outcome is Outcome.PASS


# --- what a PASS does not hide -------------------------------------------------------------------------------------------


def test_a_pass_names_the_share_lost_and_what_was_avoidable() -> None:
    joined = (observed(0, pool("a", "b")), observed(49 * S, pool("a", "b", "c")))
    one = verdict(*joined, seen(change(50 * S)))
    assert one.reasons == ("no violation", LOSSY, "1 change that a sound proxy would have avoided: --fail-on avoidable")
    two = verdict(*joined, seen(change(50 * S)), seen(change(51 * S, number=2)))
    assert two.reasons[2:] == ("2 changes that a sound proxy would have avoided: --fail-on avoidable",)
    own = Counts(sent=10_000, answered=9_990, lost=10, pairs=9_980, own_losses=10)
    assert verdict(total=own).reasons == ("no violation (cluster not watched)",)


def test_a_pass_names_the_addresses_that_no_session_probed() -> None:
    assert verdict(addresses=(1, 2)).reasons[-1] == "1 of 3 addresses of the target were probed"
    assert verdict(addresses=(0, 2)).reasons[-1] == "1 of 3 addresses of the target were probed"
    assert verdict(addresses=(3, 0)).reasons == verdict().reasons


# --- blackouts -----------------------------------------------------------------------------------------------------------


def dark(since_s: float, until_s: float) -> tuple[Event, ...]:
    since, until = round(since_s * S), round(until_s * S)
    return BlackoutStarted(since + 5 * S, since, 100), BlackoutEnded(until, since, until, 2_000, 2)


def test_a_short_blackout_is_cut_out_and_named() -> None:
    given_ = verdict(*dark(300, 305.9))
    assert (given_.outcome, given_.still_ns) == (Outcome.PASS, 594_100 * MS)
    assert given_.judged_pairs == round(9_980 * 0.5941 / 0.6)
    assert given_.reasons == (
        "no violation (cluster not watched)",
        LOSSY,
        "nobody was answered for 5.9 s (1.0 % of the run)",
    )
    watched = verdict(observed(0, pool("a")), *dark(300, 305.9))
    assert (watched.outcome, watched.still_ns) == (Outcome.PASS, 594_100 * MS)


def test_a_long_blackout_and_several_short_ones_are_inconclusive() -> None:
    said = ("nobody was answered for 6 s (1.0 % of the run)",)
    for events in (dark(300, 306), (*dark(100, 103), *dark(300, 303))):
        given_ = verdict(*events)
        assert (given_.outcome, given_.reasons) == (Outcome.INCONCLUSIVE, said)


def test_a_blackout_at_the_end_is_inconclusive_however_short() -> None:
    given_ = verdict(BlackoutStarted(599_900 * MS, 594_900 * MS, 100))
    assert (given_.outcome, given_.reasons) == (
        Outcome.INCONCLUSIVE,
        ("all sessions stopped being answered, for 5.1 s until the end",),
    )
    assert verdict(*dark(300, 305)).outcome is Outcome.PASS


def test_a_violation_outranks_a_blackout() -> None:
    assert verdict(*dark(100, 300), seen(change(50 * S))).reasons == ("1 violation",)


def test_a_blackout_in_which_no_endpoint_was_ready_is_explained() -> None:
    empty = (observed(0, pool("a")), observed(299 * S, pool("a", a={"ready": False})), observed(340 * S, pool("a")))
    after = dark(300, 341)
    given_ = verdict(*empty[:2], after[0], empty[2], after[1])
    assert (given_.outcome, given_.reasons) == (
        Outcome.PASS,
        ("no violation", LOSSY, "nobody was answered for 41 s (6.8 % of the run), no endpoint was ready"),
    )
    # It went on for longer after one was ready than the settle time, or an unrelated pool was empty: it explains nothing.
    later = dark(300, 350.1)
    assert verdict(*empty[:2], later[0], empty[2], later[1]).outcome is Outcome.INCONCLUSIVE
    until_the_end = verdict(*empty[:2], after[0])
    assert until_the_end.reasons[-1] == "nobody was answered for 5 min (50.0 % of the run), no endpoint was ready"


def test_a_run_without_statistics_is_not_said_to_have_had_no_answer() -> None:
    start = RunStarted(0, 0, 0, "0", LOCAL, "x", 1, 1, 1, 288, connected=False, lost_guarantees=())
    _, (end,) = run(start, FirstAnswer(1, "CLIENT-1", 0, who("a")), RunEnded(5 * S, aborted=True))
    assert isinstance(end, Verdict)
    assert (end.outcome, end.reasons) == (Outcome.INCONCLUSIVE, ("the run was killed before its first statistics",))


# --- the properties --------------------------------------------------------------------------------------------------

SNAPSHOTS = [pool("a", "b"), pool("a", "b", "c"), pool("b"), pool("a", "b", a={"ready": False})]
SECONDS = st.integers(0, 200).map(lambda s: s * S)


@pytest.mark.worlds
@settings(max_examples=400)
@given(
    changes=st.lists(SECONDS, min_size=1, max_size=4, unique=True),
    pool_times=st.dictionaries(SECONDS.map(lambda ns: ns + S), st.sampled_from(SNAPSHOTS), max_size=6),
    gaps=st.lists(st.tuples(SECONDS, st.integers(1, 30).map(lambda s: s * S)), max_size=2),
    delay=st.integers(0, 9).map(lambda s: s * S),
)
def test_no_change_within_reach_of_a_pool_change_is_a_violation_and_none_beyond_is_explained(
    changes: list[int], pool_times: dict[int, PoolSnapshot], gaps: list[tuple[int, int]], delay: int
) -> None:
    truth = [(0, SNAPSHOTS[0]), *sorted(pool_times.items())]
    real = [at for (at, now), (_, before) in zip(truth[1:], truth, strict=False) if now != before]
    blind: list[tuple[int, int]] = []
    for start, length in sorted(gaps):  # a watch that is down does not go down once more
        if blind and start <= blind[-1][1]:
            blind[-1] = (blind[-1][0], max(blind[-1][1], start + length))
        else:
            blind.append((start, start + length))
    agenda: list[tuple[int, Event]] = [(0, observed(0, SNAPSHOTS[0]))]  # the client lists before it probes
    agenda += [(at, seen(change(at, number=n))) for n, at in enumerate(changes)]
    for at, snapshot in truth[1:]:
        # The watch learns with a delay; in a gap it learns by the list that ends it, and knows only since when. What was
        # under way when the watch broke is in the gap too: it begins with the last that was heard, not with the break.
        if not any(a <= at + delay and at <= b for a, b in blind):
            agenda.append((at + delay, observed(at + delay, snapshot, at - 1, listed=False)))
    for start, end in blind:
        agenda.append((start, PoolUnobserved(start, start - delay, "down")))
        state = [snapshot for at, snapshot in truth if at <= end][-1]
        agenda.append((end, observed(end, state, start - delay - 1)))
    agenda.append((400 * S, PoolConfirmed(400 * S, 400 * S)))
    agenda.append((401 * S, RunEnded(401 * S, aborted=False)))
    _, told = run(*(event for _, event in sorted(agenda, key=lambda item: item[0])))
    classes = {case.number: e.judgement for case, e in judged_cases(told, Change)}
    assert sorted(classes) == list(range(len(changes)))
    for number, at in enumerate(changes):
        reach = (at - 100 * MS - SETTLE, at + SETTLE)
        near = any(reach[0] <= t <= reach[1] for t in real)
        if near:
            assert classes[number] is not Judgement.VIOLATION
        if classes[number] is Judgement.EXPLAINED:
            assert near
        seen_whole = not any(a <= reach[1] and reach[0] <= b for a, b in blind) and reach[0] >= 0
        if not near and seen_whole and not delay:
            assert classes[number] is Judgement.VIOLATION
