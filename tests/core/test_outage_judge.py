"""Outages by example: each row of docs/judging.md#outages, at its boundaries, through the door of a run's analysis.

Unless a test says otherwise: sessions send each 100 ms, fall silent at 100 s, settle is 10 s, the balancer's check 35 s;
pods "a", "b" and "c" are in the pool; a list is made each 5 s; pod "b" and the session's ingress answer others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    BlackoutEnded,
    CanaryResult,
    CaseJudged,
    Change,
    ChangeSeen,
    ClientFault,
    ClientFaultKind,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Event,
    FirstAnswer,
    IngressSample,
    Judgement,
    OutageCase,
    OutageEnded,
    OutageStarted,
    PathsAnswered,
    PodSample,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    PoolWatchStarted,
    RepliedProbe,
    RunEnded,
    RunStarted,
    SendingStopped,
    SessionStarted,
    WrongPool,
)
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging import outage_evidence, outage_judge
from affinity_tester.core.judging.chance import canaries_needed, chance_of_dead_server
from affinity_tester.core.judging.reasons import PodAnswersNobody
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from affinity_tester.core.pool_timeline import PoolTimeline
from pools import ComparingAnalysis, is_judged, observe, texts

MS = 1_000_000
S = 1_000 * MS
TARGET = TransportAddress("203.0.113.7", 3478)
INGRESS = "10.0.0.1"
EXPLAINED, UNKNOWN, VIOLATION = Judgement.EXPLAINED, Judgement.UNKNOWN, Judgement.VIOLATION
POD_SILENT, IDLE, CLIENT = Judgement.POD_SILENT, Judgement.IDLE, Judgement.CLIENT


def at(seconds: float) -> int:
    return round(seconds * S)


def who(pod: str | None = "a", instance: bytes | None = None, ip: str | None = INGRESS) -> Identity:
    return Identity(None if ip is None else TransportAddress(ip, 40312), pod, instance=instance)


def named(n: int) -> str:
    return f"CLIENT-{n}"


def silent(n: int = 1, f: float = 100, last: Identity | None = None, **values: object) -> OutageStarted:
    """A session that is silent since f, and had been answered by pod "a"."""
    before = RepliedProbe(999, at(f - 0.1), last or who())
    started = OutageStarted(at(f + 5), named(n), 1000, at(f), before, probes=50)
    return replace(started, **values)  # type: ignore[arg-type]


def never(n: int = 1, f: float = 100) -> OutageStarted:
    return OutageStarted(at(f + 5), named(n), 0, at(f), None, probes=50)


def again(e: float, n: int = 1, pod: str | None = "b", f: float = 100, seq: int = 1000) -> OutageEnded:
    """Its first probe that is answered is sent at e."""
    return OutageEnded(at(e + 0.001), named(n), seq, at(f), 999, RepliedProbe(1999, at(e), who(pod)))


def answers(seconds: Iterable[float], *pods: str, ip: str = INGRESS, instance: bytes | None = None) -> list[Event]:
    """Others are answered meanwhile, by these pods."""
    return [
        PathsAnswered(
            at(second),
            tuple(PodSample(pod, instance, at(second)) for pod in pods),
            (IngressSample(ip, at(second)),),
        )
        for second in seconds
    ]


def canaries(seconds: Iterable[float], *pods: str | None) -> list[Event]:
    """Each meets one of these pods in turn; None: it gets no answer, and that is known 2 s later."""
    return [
        CanaryResult(
            at(second) if (pod := pods[n % len(pods)]) is not None else at(second + 2),
            named(1),
            at(second),
            None if pod is None else who(pod or None, ip=f"10.0.1.{n}"),
        )
        for n, second in enumerate(seconds)
    ]


def pool(
    *pods: str, policy: str = "Cluster", affinity: str = "None", **conditions: Mapping[str, object]
) -> PoolSnapshot:
    endpoints = [
        replace(Endpoint(f"uid-{pod}", pod, f"10.1.0.{ord(pod)}", f"node-{pod}"), **conditions.get(pod, {}))  # type: ignore[arg-type]
        for pod in pods
    ]
    return PoolSnapshot(frozenset(endpoints), (("externalTrafficPolicy", policy), ("sessionAffinity", affinity)))


ALL = pool("a", "b", "c")
GONE = pool("b", "c")


def changed(until: float, snapshot: PoolSnapshot, since: float | None = None) -> PoolObserved:
    """What the watch tells: it happened in (since, until]."""
    return PoolObserved(at(until), at(until - 0.01 if since is None else since), at(until), snapshot)


def listed(asked: float) -> PoolConfirmed:
    return PoolConfirmed(at(asked), at(asked))


class Run:
    """What is told of the outages of a run."""

    def __init__(
        self,
        *events: Event | Sequence[Event],
        until: float = 200,
        pool: PoolSnapshot | None = ALL,
        lists: Sequence[float] = range(5, 200, 5),
        others: Sequence[str] = ("b",),
        ends: bool = False,
        interval: int = 100 * MS,
    ) -> None:
        start = RunStarted(0, 0, 0, "0", TARGET, "x", 12, interval, 2 * S, 288, connected=False, lost_guarantees=())
        happens: list[Event] = []
        for event in events:
            happens += [event] if isinstance(event, Event) else event
        if pool is not None:
            happens += [PoolObserved(0, 0, 0, pool, 0), *map(listed, lists)]
        happens += answers(range(101, int(until)), *others)
        self.analysis = ComparingAnalysis(Rules())
        self.told: list[Event] = list(self.analysis.feed(start))
        happens.sort(key=lambda event: event.at_ns)
        for second in range(1, int(until) + 1):
            while happens and happens[0].at_ns <= second * S:
                self.told += self.analysis.feed(happens.pop(0))
            self.told += self.analysis.advance(second * S)
        if ends:
            self.told += self.analysis.feed(SendingStopped(at(until), interrupted=False))
            self.told += self.analysis.feed(RunEnded(at(until + 2), aborted=True))

    @property
    def judged(self) -> list[CaseJudged]:
        return [event for event in self.told if is_judged(event, OutageCase)]

    @property
    def classes(self) -> list[tuple[int, Judgement]]:
        """Of the first session: in which second each class was told."""
        return [(-(-e.at_ns // S), e.judgement) for e in self.judged if e.session == named(1)]

    @property
    def last(self) -> tuple[Judgement, tuple[str, ...]]:
        event = [event for event in self.judged if event.session == named(1)][-1]
        return event.judgement, texts(event.reasons)


# --- rows 1 and 2: the client's own, and idle ------------------------------------------------------------------------------


def test_row_1_replies_that_a_full_buffer_dropped_are_the_client_s_own() -> None:
    for events in ([], answers(range(101, 120), "a")):
        assert Run(silent(own_drops=50), events).last == (
            CLIENT,
            ("50 replies were dropped at this machine's full socket buffer",),
        )
    assert Run(silent(own_drops=49), answers(range(101, 120), "a")).last[0] is VIOLATION
    assert Run(silent(own_drops=4, probes=3), answers(range(101, 120), "a")).last[0] is VIOLATION
    assert Run(silent(own_drops=5, probes=3), pool=None).last[0] is CLIENT


def test_row_1_an_address_that_changed_at_the_onset_is_the_client_s_own() -> None:
    def moved(seconds: float, fault: ClientFaultKind = ClientFaultKind.LOCAL_ADDRESS) -> Judgement:
        event = ClientFault(at(seconds), named(7), fault, "192.168.0.9 -> 198.51.100.1")
        return Run(silent(), event, answers(range(101, 120), "a")).last[0]

    assert [moved(98.9), moved(105)] == [CLIENT, CLIENT]
    assert [moved(98.8), moved(105.1), moved(100, "send-error")] == [VIOLATION] * 3


def test_row_2_a_pause_longer_than_the_affinity_window_is_idle() -> None:
    paused = silent(longest_pause_ns=30 * S + 1)
    idle = (IDLE, ("30.0 s without a probe, longer than the affinity window",))
    assert Run(paused, answers(range(101, 120), "a")).last == Run(paused, pool=None).last == idle
    assert Run(silent(longest_pause_ns=30 * S), answers(range(101, 120), "a")).last[0] is VIOLATION


# --- row 3: nobody to go to ------------------------------------------------------------------------------------------------


def test_row_3_where_no_endpoint_was_ready_it_is_explained_until_flows_are_moved_to_the_first_that_is() -> None:
    unready = {pod: {"ready": False} for pod in "abc"}
    empty, back = changed(103, pool("a", "b", "c", **unready)), changed(130, ALL)
    run = Run(silent(), empty, back, canaries(range(141, 160, 2), "b"), answers(range(101, 180), "a"))
    assert run.classes == [(105, EXPLAINED), (141, VIOLATION)]
    assert (run.judged[0].avoidable, texts(run.judged[0].reasons)) == (False, ("no endpoint was ready",))
    assert Run(silent(), empty, back, again(140)).classes == [(105, EXPLAINED)]
    assert Run(never(), empty, ends=True).last == (EXPLAINED, ("no endpoint was ready",))


def test_row_3_a_pool_that_was_perhaps_empty_is_a_doubt() -> None:
    unready = {pod: {"ready": False} for pod in "abc"}
    empty = changed(120, pool("a", "b", "c", **unready), since=104)
    run = Run(silent(), answers(range(101, 112), "a"), again(110), empty, lists=[5, 100])
    assert run.last == (UNKNOWN, ("no endpoint was ready at about that time",))
    filled = [changed(90, pool("a", "b", "c", **unready)), changed(104, ALL, since=95)]
    run = Run(never(), filled, again(110, f=100, seq=0))
    assert run.last == (UNKNOWN, ("no endpoint was ready at about that time",))


# --- row 4: the session's pod is gone --------------------------------------------------------------------------------------

LEFT = ('pod "a" left the pool or stopped serving 3.0 s after',)


@pytest.mark.parametrize(
    "snapshot",
    [
        GONE,
        pool("a", "b", "c", a={"ready": False, "serving": False}),
        pool("a", "b", "c", a={"ready": False, "serving": False, "terminating": True}),
    ],
    ids=["left", "stopped serving", "terminates"],
)
def test_row_4_explained_until_flows_are_moved_then_a_violation_with_three_canaries(snapshot: PoolSnapshot) -> None:
    leaves = changed(103, snapshot)
    run = Run(silent(), leaves, canaries(range(101, 150, 2), "b"), others=("b", "c"))
    assert run.classes == [(105, EXPLAINED), (119, VIOLATION)]  # at 115, 117 and 119
    assert texts(run.judged[0].reasons) == LEFT
    assert run.judged[0].avoidable is False
    assert run.last[1] == (
        'pod "a" is gone, the flow was not moved, and 3 test probes from new ports are answered since',
    )


def test_row_4_a_flow_that_is_moved_within_the_settle_time_is_explained_to_the_nanosecond() -> None:
    leaves = changed(103, GONE)
    met = canaries([113.0005, 113.001, 113.0015], "b")
    assert Run(silent(), leaves, met, again(113)).classes == [(105, EXPLAINED)]
    late = again(113.002)
    assert Run(silent(), leaves, met, late, others=("b", "c")).classes == [(105, EXPLAINED), (114, VIOLATION)]
    two = Run(silent(), leaves, met[1:], late, others=("b", "c"))
    assert two.classes == [(105, EXPLAINED), (114, UNKNOWN)]
    assert two.last[1] == ('pod "a" is gone, and too few test probes were answered since to tell',)


def test_row_4_a_pod_that_leaves_long_after_the_onset_explains_the_silence_before() -> None:
    """A node dies with its pod at 100 s; the API takes its endpoint away at 150 s, and the flow is moved at 155 s."""
    run = Run(silent(), changed(150, GONE), again(155))
    assert run.classes == [(150, EXPLAINED)]
    assert run.last[1] == ('pod "a" left the pool or stopped serving 50.0 s after',)
    stays = Run(silent(), changed(150, GONE), canaries(range(102, 180, 2), "b"), others=("b", "c"))
    assert [c for c in stays.classes if c[1] is not POD_SILENT] == [(150, EXPLAINED), (166, VIOLATION)]


def test_row_4_policy_local_and_a_silent_ingress_give_the_balancer_its_time() -> None:
    leaves, met = changed(103, GONE), canaries(range(104, 180, 2), "b")
    run = Run(silent(), leaves, met, answers(range(101, 180), "c"), pool=pool("a", "b", "c", policy="Cluster"))
    assert run.classes[-1] == (118, VIOLATION)
    local = changed(103, pool("b", "c", policy="Local"))
    run = Run(silent(), local, met, answers(range(101, 180), "c"), pool=pool("a", "b", "c", policy="Local"))
    assert run.classes == [(105, EXPLAINED), (144, VIOLATION)]  # after 138: at 140, 142 and 144
    elsewhere = silent(last=who(ip="10.0.0.9"))
    run = Run(elsewhere, leaves, met, answers(range(101, 180), "c"))
    assert run.classes == [(105, EXPLAINED), (144, VIOLATION)]
    hidden = silent(last=who(ip=None))
    assert Run(hidden, leaves, met, answers(range(101, 180), "c")).classes[-1] == (118, VIOLATION)


def test_row_4_a_pod_that_leaves_at_about_the_end_is_a_doubt_only_where_it_was_seen_to_live() -> None:
    leaves = changed(120, GONE, since=105)
    dead = Run(silent(), again(110), leaves, lists=[5, 130])
    assert dead.last == (EXPLAINED, ('pod "a" left the pool or stopped serving 20.0 s after',))
    lived = Run(silent(), again(110), answers(range(101, 112), "a"), leaves, lists=[5, 130])
    assert lived.last == (UNKNOWN, ('pod "a" left the pool or stopped serving at about its end',))


def test_row_4_what_a_flow_outlived_did_not_end_it() -> None:
    """A pod stops serving at 40 s and goes on answering its old flows, as one that drains; its socket closes at 100 s."""
    drains = changed(40, pool("a", "b", "c", a={"ready": False, "serving": False, "terminating": True}))
    met = [*canaries(range(52, 60, 2), "b"), *canaries(range(102, 160, 2), "b", "c")]
    run = Run(silent(), drains, met, ends=True)
    assert run.last == (
        UNKNOWN,
        ('nobody was seen to be answered by pod "a" meanwhile; whether it or the path was silent is not known',),
    )
    leaves = changed(120, GONE)
    assert Run(silent(), drains, met, leaves, again(125)).classes == [(120, EXPLAINED)]
    assert Run(silent(), drains, met, leaves, others=("b", "c")).classes == [(120, EXPLAINED), (136, VIOLATION)]
    # It answers others: then it is no dead pod, and nothing changed.
    assert Run(silent(), drains, answers(range(101, 120), "a")).last[0] is VIOLATION


def test_row_4_a_pod_that_takes_the_name_is_another() -> None:
    """A pod of a StatefulSet is replaced at 103 s: the new one's answers say nothing of the flows to the old one."""
    reborn = changed(103, pool("a", "b", "c", a={"uid": "another", "address": "10.1.0.9"}))
    old, met = silent(last=who(instance=b"old")), canaries(range(102, 160, 2), "b")
    for new in (answers(range(105, 160), "a", instance=b"new"), []):
        run = Run(FirstAnswer(at(1), named(1), 0, who(instance=b"old")), old, reborn, met, new, others=("a", "b", "c"))
        assert run.classes == [(105, EXPLAINED), (118, VIOLATION)]
    moved = Run(old, reborn, again(108))
    assert moved.classes == [(105, EXPLAINED)]


def test_row_4_the_departure_of_a_namesake_before_is_no_excuse() -> None:
    """Replaced at 95 s; the new one answers the session from 97 s on, and falls silent for it at 100 s."""
    reborn = changed(95, pool("a", "b", "c", a={"uid": "another", "address": "10.1.0.9"}))
    first = FirstAnswer(at(97), named(1), 0, who(instance=b"new"))
    lives = answers(range(101, 160), "a", instance=b"new")
    run = Run(first, reborn, silent(last=who(instance=b"new")), lives)
    assert run.classes == [(115, VIOLATION)]  # row 5 would have explained it until 105 s
    hung = Run(first, reborn, silent(last=who(instance=b"new")), canaries(range(102, 160, 2), "b"), ends=True)
    assert VIOLATION not in {judgement for _, judgement in hung.classes}


def test_row_4_a_readiness_that_flaps_leaves_the_pod_what_it_was() -> None:
    flaps = [changed(98, pool("a", "b", "c", a={"ready": False, "serving": False})), changed(102, ALL)]
    run = Run(silent(), flaps, answers(range(101, 180), "a"))
    assert [(e.judgement, e.avoidable) for e in run.judged] == [
        (EXPLAINED, False),  # it had stopped serving
        (EXPLAINED, True),  # the pool had changed, and the pod is there
        (VIOLATION, None),
    ]
    assert run.classes == [(105, EXPLAINED), (109, EXPLAINED), (115, VIOLATION)]
    assert run.last[1] == ('pod "a" answers others, and the change of the pool at its beginning is 10 s over',)


def test_row_4_another_instance_is_a_pod_s_end_too() -> None:
    """Its container restarts at about 101 s; the pool does not tell."""
    old, met = silent(last=who(instance=b"old")), canaries(range(102, 160, 2), "b")
    reborn = answers(range(103, 160), "a", instance=b"new")
    run = Run(old, reborn, met, others=("b", "c"))
    assert run.classes == [(105, EXPLAINED), (118, VIOLATION)]
    assert Run(old, reborn, again(113)).classes == [(105, EXPLAINED)]
    # Nor was it replaced by one that was there before, or by a reply too short to name the instance.
    twin = FirstAnswer(at(3), named(9), 0, who(instance=b"new"))
    assert Run(twin, old, reborn, met, ends=True).classes[0][1] is not EXPLAINED
    short = Run(old, answers(range(103, 160), "a"), met, ends=True)
    assert {judgement for _, judgement in short.classes}.isdisjoint({EXPLAINED, VIOLATION})
    # A readiness that flapped before is not what ended it.
    flaps = [changed(95, pool("a", "b", "c", a={"ready": False, "serving": False})), changed(96, ALL)]
    assert Run(old, flaps, reborn, met, others=("b", "c")).classes == [(105, EXPLAINED), (118, VIOLATION)]


def test_row_4_a_flow_that_was_moved_to_a_pod_that_hangs_is_no_violation() -> None:
    leaves, dead = changed(103, GONE), silent()
    hangs = Run(dead, leaves, canaries(range(104, 190, 2), "b", None), ends=True)
    assert hangs.classes == [(105, EXPLAINED), (202, UNKNOWN)]
    # Where no canary meets the one that is not seen to answer, seven of them are enough.
    assert Run(dead, leaves, canaries(range(104, 190, 2), "b")).classes == [(105, EXPLAINED), (126, VIOLATION)]


# --- rows 5 and 6: the pod lives -------------------------------------------------------------------------------------------

LIVES = answers(range(101, 180), "a")


def test_row_6_a_dead_path_to_a_living_pod_is_a_violation_by_a_list_asked_for_later_than_f_and_settle() -> None:
    run = Run(silent(), LIVES, lists=[5, 110, 110.1])
    assert run.classes == [(111, VIOLATION)]
    assert run.last[1] == ('pod "a" answers others, and no endpoint had changed',)
    assert Run(silent(), LIVES, lists=[5, 110]).classes == []
    assert Run(silent(), LIVES, again(150), lists=[5, 110.1]).classes == [(111, VIOLATION)]
    assert Run(silent(), LIVES, again(107), lists=[5, 109, 112]).classes == [(112, VIOLATION)]


def test_row_6_a_canary_that_meets_the_pod_shows_that_it_lives() -> None:
    assert Run(silent(), canaries([102], "a")).last[0] is VIOLATION
    assert Run(silent(), canaries([101.9], "a"), ends=True).last[0] is UNKNOWN


def test_row_6_an_instance_that_answers_is_the_pod_s() -> None:
    old = silent(last=who(instance=b"old"))
    assert Run(old, answers(range(101, 180), "a", instance=b"old")).last[0] is VIOLATION


def test_row_6_a_change_of_another_session_to_the_pod_shows_that_it_lives() -> None:
    sighted = RepliedProbe(9, at(101), who("b")), RepliedProbe(12, at(103), who("a"))
    moved = Change(1, (Kind.POD,), *sighted, at(103), 100 * MS, at(103))
    assert Run(silent(), ChangeSeen(at(103), named(3), moved)).last[0] is VIOLATION


def test_a_hung_pod_that_goes_on_does_not_prove_to_one_session_that_it_lived_by_answering_another() -> None:
    """It answers nobody from 100 s to 130 s, then its sessions one after the other."""
    sessions = [silent(n, f=100 + n / 100) for n in range(1, 9)]
    back = [again(130 + n / 100, n, "a", f=100 + n / 100) for n in (8, 3, 1, 2, 4, 5, 6, 7)]
    run = Run(sessions, back, answers(range(131, 140), "a"))
    assert {event.judgement for event in run.judged} == {UNKNOWN}
    assert len(run.judged) == 8
    seldom = Run(sessions, answers([130], "a"), again(135.9, 1, "a", f=100.01), interval=2 * S)
    assert seldom.last[0] is UNKNOWN
    # When a probe of its own that was sent after it has had its time, it is a proof.
    lived = Run(silent(), answers([130], "a"), again(132.1, pod="a"))
    assert lived.last[0] is VIOLATION


def test_row_5_a_change_surely_within_settle_of_the_onset_explains_until_flows_are_moved() -> None:
    joins = pool("a", "b", "c", "d")
    for seconds, told, over, words in ((96, 106, 115, "4.0 s before"), (110, 110, 121, "10.0 s after")):
        run = Run(silent(), changed(seconds, joins), LIVES)
        assert run.classes == [(told, EXPLAINED), (over, VIOLATION)]
        assert texts(run.judged[0].reasons) == (f'pod "d" joined the pool {words}',)
        assert run.judged[0].avoidable is True
    assert Run(silent(), changed(110, joins), again(120), LIVES).classes == [(110, EXPLAINED)]
    assert Run(silent(), changed(110, joins), again(120.1), LIVES).last[0] is VIOLATION
    for beyond in (89.8, 110.1):
        run = Run(silent(), changed(beyond, joins), LIVES)
        assert [c for c in run.classes if c[1] is EXPLAINED] == []
        assert run.last == (VIOLATION, ('pod "a" answers others, and no endpoint had changed',))


def test_row_5_policy_local_gives_the_balancer_its_time() -> None:
    joins = changed(102, pool("a", "b", "c", "d", policy="Local"))
    run = Run(silent(), joins, LIVES, pool=pool("a", "b", "c", policy="Local"))
    assert run.classes == [(106, EXPLAINED), (138, VIOLATION)]


def test_row_5_a_change_perhaps_within_is_a_doubt_until_flows_would_have_been_moved() -> None:
    joins = changed(115, pool("a", "b", "c", "d"), since=109)
    run = Run(silent(), joins, again(125), LIVES, lists=[5, 120])
    assert run.last == (UNKNOWN, ('pod "d" joined the pool at some time in the 6.0 s up to 15.0 s after',))
    assert Run(silent(), joins, again(125.1), LIVES, lists=[5, 120]).last[0] is VIOLATION
    lasts = Run(silent(), joins, LIVES, lists=[5, 120], ends=True)
    assert lasts.classes == [(126, VIOLATION)]


def test_rows_5_and_6_a_gap_around_the_onset_is_a_doubt() -> None:
    cut = PoolUnobserved(at(104), at(99), "connection lost")
    back = PoolObserved(at(112), at(99), at(112), ALL, at(111.9))
    run = Run(silent(), cut, back, again(121.9), LIVES, lists=[5, 130])
    assert run.last == (UNKNOWN, ("the pool could not be observed for 13.0 s around its beginning",))
    assert Run(silent(), cut, back, again(122.1), LIVES, lists=[5, 130]).last[0] is VIOLATION
    unconfirmed = Run(silent(), cut, LIVES, again(121.9), lists=[5], ends=True)
    assert unconfirmed.last == (UNKNOWN, ("the run ended before it was certain",))
    confirmed = Run(silent(), cut, listed(115), again(121), LIVES, lists=[5])
    assert confirmed.last[0] is VIOLATION  # the watch resumed, and had missed nothing


def test_rows_5_and_6_what_happened_before_the_first_list_is_not_known() -> None:
    first = PoolObserved(at(102), at(102), at(102), ALL, at(102))
    for begin, end in ((first, 112), (replace(first, since_ns=at(101), until_ns=at(101), asked_ns=at(101)), 111)):
        lists = [listed(115)]
        assert Run(silent(), begin, lists, LIVES, again(end), pool=None).last[0] is UNKNOWN
        assert Run(silent(), begin, lists, LIVES, again(end + 0.1), pool=None).last[0] is VIOLATION


def test_a_session_that_a_blackout_left_dead_is_judged_from_its_end() -> None:
    """All are silent from 99.9 s to 120 s; this one does not go on."""
    dark = BlackoutEnded(at(120.2), at(99.9), at(120), 1_000, 8)
    left = silent(at_ns=at(121))
    alive = answers(range(121, 180), "a")
    run = Run(dark, left, alive, lists=[5, 129, 130.1])
    assert run.classes == [(131, VIOLATION)]
    explained = Run(dark, left, alive, changed(129, pool("a", "b", "c", "d")))
    assert explained.classes == [(129, EXPLAINED), (140, VIOLATION)]
    assert Run(dark, left, answers([121.9], "a"), others=(), ends=True).last[0] is UNKNOWN
    long_before = replace(dark, since_ns=at(110))
    assert Run(long_before, left, alive, lists=[5, 110.1]).classes == [(123, VIOLATION)]


# --- row 7: the pod answers nobody -----------------------------------------------------------------------------------------


def test_row_7_a_pod_that_answers_nobody_is_silent_when_enough_canaries_met_others() -> None:
    answered = [FirstAnswer(at(1), named(n), 0, who("a" if n < 3 else "b")) for n in range(6)]
    both = [silent(1), silent(2, f=100.05)]
    home = FirstAnswer(at(1), named(0), 0, who("b"))
    run = Run(answered, home, both, canaries(range(101, 180, 2), "b"))
    assert run.classes == [(115, POD_SILENT)]  # the eighth
    assert run.last[1] == ('all 2 sessions of pod "a" are silent, and 8 test probes from new ports met other pods',)
    assert Run(answered, home, both, canaries(range(101, 114, 2), "b"), ends=True).last[0] is UNKNOWN
    mute = canaries(range(101, 180, 2), "b", None, None, None, None)
    assert Run(answered, home, both, mute).classes == [(171, POD_SILENT)]
    other_lives = Run(answered, home, both[:1], canaries(range(101, 180, 2), "b"), ends=True)
    assert other_lives.last == (
        UNKNOWN,
        ('nobody was seen to be answered by pod "a" meanwhile; whether it or the path was silent is not known',),
    )


def test_row_7_a_canary_that_the_pod_itself_answered_met_no_other() -> None:
    """At first, when the pod may have lived yet."""
    answered = FirstAnswer(at(1), named(1), 0, who("a"))
    met = [*canaries([101], "a"), *canaries(range(103, 117, 2), "b")]
    assert Run(answered, silent(), met, ends=True).last[0] is UNKNOWN
    assert Run(answered, silent(), met, canaries([117], "b")).classes == [(117, POD_SILENT)]


def test_row_7_of_two_pods_five_canaries_tell() -> None:
    answered = FirstAnswer(at(1), named(1), 0, who("a"))
    run = Run(answered, silent(), canaries(range(101, 180, 2), "b"), pool=pool("a", "b"))
    assert run.classes == [(109, POD_SILENT)]


def test_row_7_counts_by_who_had_answered_last_and_needs_no_reflexive_address() -> None:
    """A session that was never answered is nobody's, and a server may tell no address."""
    answered = FirstAnswer(at(1), named(1), 0, who("a"))
    met = [CanaryResult(at(second), named(1), at(second), who("b", ip=None)) for second in range(101, 180, 2)]
    run = Run(answered, silent(1), never(2), met)
    assert run.classes == [(115, POD_SILENT)]
    assert run.last[1] == ('the one session of pod "a" is silent, and 8 test probes from new ports met other pods',)


def test_row_7_canaries_of_a_sticky_client_or_a_single_pod_or_one_that_is_not_ready_prove_nothing() -> None:
    answered = FirstAnswer(at(1), named(1), 0, who("a"))
    met = canaries(range(101, 180, 2), "b")
    for snapshot in (
        pool("a", "b", "c", affinity="ClientIP"),
        pool("a"),
        pool("a", "b", "c", a={"ready": False, "terminating": True}),
    ):
        assert Run(answered, silent(), met, pool=snapshot, ends=True).last[0] is UNKNOWN


def test_row_7_a_node_that_is_not_ready_makes_its_pod_silent_until_it_is_ready_again() -> None:
    down, up = (
        ClusterEvent(at(140), ClusterSubject.NODE, "node-a", ClusterAction.NOT_READY),
        ClusterEvent(at(150), ClusterSubject.NODE, "node-a", ClusterAction.READY),
    )
    run = Run(silent(), down, ends=True)
    assert run.classes == [(140, POD_SILENT)]
    assert run.last[1] == ('node "node-a" of pod "a" is NotReady',)
    assert Run(silent(f=160), down, up, ends=True).last[0] is UNKNOWN
    removed = replace(up, action=ClusterAction.REMOVED)
    assert Run(silent(f=160), down, removed, ends=True).last[0] is UNKNOWN
    assert Run(silent(f=160), down, replace(up, action=ClusterAction.CORDONED), ends=True).last[0] is POD_SILENT
    assert Run(silent(), replace(down, name="node-b"), ends=True).last[0] is UNKNOWN


def test_row_7_a_silent_pod_that_leaves_is_explained_and_one_that_lives_after_all_is_not() -> None:
    down = ClusterEvent(at(140), ClusterSubject.NODE, "node-a", ClusterAction.NOT_READY)
    run = Run(silent(), down, changed(150, pool("a", "b", "c", a={"ready": False, "serving": False})), again(155))
    assert run.classes == [(140, POD_SILENT), (150, EXPLAINED)]
    back = Run(silent(), down, answers(range(160, 180), "a"))
    assert back.classes == [(140, POD_SILENT), (162, VIOLATION)]


def test_row_7_what_is_over_waits_until_it_is_known_whether_its_pod_had_left() -> None:
    """The flow is moved at 151 s; the API's news that its pod left at 150.5 s comes at 165 s."""
    late = PoolObserved(at(165), at(149), at(165), GONE, at(164))
    run = Run(silent(), again(151), late, lists=[5, 120])
    assert run.classes == [(165, EXPLAINED)]
    assert Run(silent(), again(151), lists=[5, 151]).classes == []
    assert Run(silent(), again(151), lists=[5, 151.1]).classes == [(152, UNKNOWN)]


@pytest.mark.parametrize(("pods", "needed"), [(1, 1), (2, 5), (3, 8), (6, 17)])
def test_so_many_canaries_show_that_one_pod_of_many_answers_nobody(pods: int, needed: int) -> None:
    assert canaries_needed(pods) == needed


# --- row 8: never answered -------------------------------------------------------------------------------------------------

THREE = [never(1), never(2), never(3)]
MET = canaries(range(102, 190, 2), "b", "c", "a")


def test_row_8_three_sessions_that_were_never_answered_are_a_violation_after_the_balancer_s_check() -> None:
    run = Run(THREE, MET)
    assert run.classes == [(140, VIOLATION)]  # by a list asked for later than 135 s
    assert {event.session for event in run.judged} == {named(1), named(2), named(3)}
    assert run.last[1] == ("never answered, though test probes from new ports are, and no endpoint had changed",)
    unwatched = Run(THREE, MET, pool=None)
    assert unwatched.classes == [(135, VIOLATION)]
    assert unwatched.last[1] == ("never answered, though test probes from new ports are (cluster not watched)",)


def test_row_8_of_two_sessions_the_client_s_own_network_may_be_the_reason() -> None:
    for snapshot in (ALL, None):
        run = Run(THREE[:2], MET, pool=snapshot, ends=True)
        assert run.last == (UNKNOWN, ("of fewer than 3 sessions, the client's own network may be the reason",))
    over = Run(THREE, again(120, 2, f=100, seq=0), MET, ends=True)
    assert over.last[0] is UNKNOWN


def test_row_8_counts_from_the_first_list_and_from_when_the_service_was_given_its_address() -> None:
    first = PoolObserved(at(107), at(107), at(107), ALL, at(107))
    run = Run(THREE, MET, first, map_lists(), pool=None)
    assert run.classes == [(145, VIOLATION)]  # by a list asked for later than 107 s + 35 s
    begun = PoolWatchStarted(0, "kind", "media/turn", "load-balancer", at(160 - 300))
    assert Run(THREE, MET, begun).classes == [(160, VIOLATION)]
    young = Run(THREE, MET, replace(begun, addressed_ns=at(0)), ends=True)
    assert young.last == (UNKNOWN, ("the Service has had its address for less than 5 min",))


def map_lists() -> list[Event]:
    return [listed(second) for second in range(110, 200, 5)]


def test_row_8_less_time_no_canary_or_a_pool_that_moved_prove_nothing() -> None:
    short = Run(THREE, MET, again(134.9, 1, f=100, seq=0))
    assert short.last == (UNKNOWN, ("it was silent for less than the balancer's health check",))
    mute = Run(THREE, canaries(range(102, 190, 2), None), ends=True)
    assert mute.last == (UNKNOWN, ("no test probe was answered",))
    for seconds in (90.1, 134):
        moved = Run(THREE, MET, changed(seconds, pool("a", "b", "c", "d")), ends=True)
        assert moved.last == (UNKNOWN, ("the pool changed in its first time",))
    for seconds in (89.9, 135.5):
        assert (
            Run(THREE, MET, changed(seconds, pool("b", "c", "a", "d")), answers(range(101, 199), "d")).last[0]
            is VIOLATION
        )
    cut = [PoolUnobserved(at(111), at(111), "cut"), PoolObserved(at(113), at(111), at(113), ALL, at(113))]
    blind = Run(THREE, MET, cut, ends=True)
    assert blind.last == (UNKNOWN, ("the pool could not be observed in its first time",))
    assert Run(THREE, MET, lists=[5, 135], ends=True).last == (UNKNOWN, ("the run ended before it was certain",))


def test_row_8_sessions_at_a_pod_that_hangs_from_the_start_are_no_violation() -> None:
    """A third of all canaries meet pod "c", which is ready and answers nobody."""
    serving = [FirstAnswer(at(1), named(n), 0, who("b")) for n in range(4, 10)]
    hung = Run(serving, THREE, canaries(range(102, 190, 2), "b", "a", None), ends=True)
    assert hung.last == (UNKNOWN, ("of the ready pods one is not seen to answer, and may have got these sessions",))
    # Where every ready pod is seen to answer, the way to it is what fails: nodes without a pod drop a third as well.
    path = Run(serving, THREE, canaries(range(102, 190, 2), "b", "a", None), others=("b", "c"))
    assert path.last[0] is VIOLATION
    # Nor could chance keep so many canaries from a dead pod that got three sessions of nine.
    spared = Run(serving, THREE, canaries(range(102, 190, 2), "b", "a"))
    assert spared.last[0] is VIOLATION


# --- row 9 and servers that name no pod ----------------------------------------------------------------------------------


def foreign(n: int, f: float = 100) -> OutageStarted:
    return silent(n, f, last=who(None))


SERVERS = [FirstAnswer(at(1), named(n), 0, who(None)) for n in range(1, 11)]


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [(None, "cluster not watched, endpoints assumed unchanged"), (pool("a"), "no endpoint had changed")],
)
def test_a_server_that_names_no_pod_is_excluded_by_chance(snapshot: PoolSnapshot | None, words: str) -> None:
    dead = [foreign(n) for n in (1, 2, 3)]
    run = Run(SERVERS, dead, canaries(range(102, 190, 2), ""), others=(), pool=snapshot)
    assert run.last[0] is VIOLATION
    assert run.last[1][0].endswith(f" test probes from new ports are answered ({words})")
    one_of_three = Run(SERVERS, dead, canaries(range(102, 190, 2), "", "", None), others=(), pool=snapshot, ends=True)
    assert one_of_three.last == (UNKNOWN, ("one of several servers may have died",))
    few = Run(SERVERS, dead, canaries([102, 104], ""), again(110, pod=None), others=(), pool=snapshot)
    assert few.last == (UNKNOWN, ("one of several servers may have died",))


def test_a_pool_that_changed_leaves_open_where_a_nameless_server_went() -> None:
    for seconds in (95, 150):
        run = Run(SERVERS, foreign(1), canaries(range(102, 190, 2), ""), changed(seconds, GONE), again(160, pod=None))
        doubts = [reasons for event in run.judged if event.judgement is UNKNOWN for reasons in texts(event.reasons)]
        if seconds == 95:
            assert doubts[0].endswith("and which pod had answered is not known")
            assert {event.judgement for event in run.judged} == {UNKNOWN}
    unread = Run(SERVERS, foreign(1), canaries(range(102, 190, 2), ""), lists=[5, 110], ends=True)
    assert unread.last == (UNKNOWN, ("the run ended before it was certain",))


def test_the_chance_of_a_dead_server() -> None:
    assert chance_of_dead_server(10, 3, 0) == pytest.approx(1, abs=0.01)
    assert chance_of_dead_server(10, 3, 20) < 0.01
    assert chance_of_dead_server(10, 3, 20, 10) > 0.3
    assert chance_of_dead_server(1_000, 200, 13) == pytest.approx(0.8**13)
    assert chance_of_dead_server(1_000, 200, 12, 1) == pytest.approx(0.8**13 + 13 * 0.2 * 0.8**12)
    assert chance_of_dead_server(3, 5, 4) == chance_of_dead_server(3, 3, 4)


# --- without a watch -------------------------------------------------------------------------------------------------------


def test_unwatched_a_living_pod_is_a_violation_and_a_silent_one_is_not() -> None:
    alive = Run(silent(), LIVES, pool=None)
    assert alive.last == (VIOLATION, ('pod "a" answers others (cluster not watched)',))
    answered = [FirstAnswer(at(1), named(n), 0, who("abc"[n])) for n in range(3)]
    mine = silent(0)
    hung = Run(answered, replace(mine, session=named(0)), canaries(range(101, 180, 2), "b", "c"), pool=None)
    assert [event.judgement for event in hung.judged] == [POD_SILENT]
    unclear = Run(silent(), canaries([102, 104], "b"), pool=None, ends=True)
    assert unclear.last == (
        UNKNOWN,
        ('nobody was seen to be answered by pod "a" meanwhile; whether it or the path was silent is not known',),
    )


def test_unwatched_a_restarted_pod_is_explained_until_a_balancer_would_have_moved_its_flows() -> None:
    old, reborn = silent(last=who(instance=b"old")), answers(range(104, 190), "a", instance=b"new")
    run = Run(old, reborn, canaries(range(102, 190, 2), "b"), pool=None)
    assert run.classes == [(105, EXPLAINED), (144, VIOLATION)]
    assert (run.judged[0].avoidable, texts(run.judged[0].reasons)) == (False, ('pod "a" was restarted or replaced',))
    assert Run(old, reborn, again(139), pool=None).classes == [(105, EXPLAINED)]


def test_the_wrong_pool_counts_as_not_watched() -> None:
    stranger = FirstAnswer(at(1), named(1), 0, who("x"))
    run = Run(stranger, silent(last=who("x")), answers(range(101, 150), "x"))
    assert any(isinstance(event, WrongPool) for event in run.told)
    assert run.last == (VIOLATION, ('pod "x" answers others (cluster not watched)',))


# --- how it is told --------------------------------------------------------------------------------------------------------


def test_the_end_of_sending_is_the_end_of_a_silence_that_lasts() -> None:
    """Its pod leaves at 103 s; the last probe is sent at 112 s: still within the time in which flows are moved."""
    stopped = SendingStopped(at(112), interrupted=True)
    run = Run(silent(), changed(103, GONE), canaries(range(113, 160, 2), "b"), stopped, others=("b", "c"), ends=False)
    assert run.classes == [(105, EXPLAINED)]
    later = replace(stopped, at_ns=at(118))
    assert Run(silent(), changed(103, GONE), canaries(range(113, 160), "b"), later, others=("b", "c")).classes == [
        (105, EXPLAINED),
        (116, VIOLATION),
    ]


def test_after_the_last_probe_the_run_waits_for_the_list_that_a_lasting_outage_needs() -> None:
    run = Run(silent(), answers(range(101, 107), "a"), until=107, lists=[5, 105])
    analysis = run.analysis
    assert (analysis.open_count, analysis.next_list_after_ns) == (0, at(110))
    analysis.feed(SendingStopped(at(107), interrupted=False))
    assert (analysis.open_count, analysis.settled) == (1, False)
    (judged,) = (event for event in analysis.feed(listed(110.1)) if is_judged(event, OutageCase))
    assert judged.judgement is VIOLATION
    assert (analysis.open_count, analysis.settled, analysis.next_list_after_ns) == (0, True, None)


def test_a_run_that_ends_before_anything_is_certain_leaves_it_unknown() -> None:
    run = Run(silent(), LIVES, until=108, lists=[5, 105], ends=True)
    assert run.last == (UNKNOWN, ("the run ended before it was certain",))
    unended = Run(silent(), until=108, ends=True)
    assert unended.last == (UNKNOWN, ("the run ended before it was certain",))


def test_a_violation_is_final_and_each_class_is_told_once() -> None:
    run = Run(silent(), LIVES, changed(130, GONE), again(150), ends=True)
    assert run.classes == [(115, VIOLATION)]
    assert run.analysis.open_count == 0
    lone = Run(again(120), ends=True)
    assert lone.judged == []


def test_many_outages_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_judge, "AT_A_TIME", 2)
    run = Run([silent(n) for n in range(1, 8)], again(108, 7), LIVES, lists=[5, 110.1])
    assert len(run.judged) == 7
    assert {event.judgement for event in run.judged} == {VIOLATION}
    assert len({event.at_ns for event in run.judged}) > 1


# --- several addresses -----------------------------------------------------------------------------------------------------


def at_two_addresses() -> list[Event]:
    """Sessions with odd numbers probe another address than the others do."""
    other, local = TransportAddress("2001:db8::7", 3478), TransportAddress("192.168.0.9", 50_000)
    return [SessionStarted(1, named(n), local, other if n % 2 else TARGET) for n in range(1, 13)]


@pytest.mark.parametrize("pool", [ALL, None])
def test_a_dark_address_of_several_is_no_violation_whoever_answers_at_the_others(pool: PoolSnapshot | None) -> None:
    dark = [silent(n) for n in (1, 3, 5)]
    pods = answers(range(101, 190), "a", "b")
    elsewhere = [replace(each, session=named(2)) for each in canaries(range(102, 190, 2), "a", "b", "c")]
    for met in ([], canaries(range(102, 190, 2), None), elsewhere):
        run = Run(at_two_addresses(), dark, pods, met, pool=pool, ends=True)
        assert run.last == (
            UNKNOWN,
            ("no test probe was answered at [2001:db8::7]:3478, and those to other addresses are",),
        )
    run = Run(at_two_addresses(), dark, pods, canaries(range(102, 190, 2), "b", None), pool=pool)
    assert run.last[0] is VIOLATION


def test_canaries_at_another_address_show_nothing_of_sessions_never_answered() -> None:
    dark = [never(n) for n in (1, 3, 5)]
    here = canaries(range(102, 190, 2), "b", "c", "a")
    elsewhere = [replace(each, session=named(2)) for each in here]
    others = answers(range(101, 190), "a", "b", "c")
    run = Run(at_two_addresses(), dark, elsewhere, others, ends=True)
    assert run.last == (UNKNOWN, ("no test probe was answered",))
    assert Run(at_two_addresses(), dark, here, others).last[0] is VIOLATION


def test_a_class_that_flaps_is_told_once_and_the_last_word_in_the_end() -> None:
    """The pod answers nobody, and its readiness comes and goes every 30 s."""
    flaps = [
        changed(seconds, pool("a", "b", "c", a={"ready": up, "serving": up}))
        for n, seconds in enumerate(range(105, 200, 15))
        for up in (n % 2 == 1,)
    ]
    run = Run(silent(), flaps, canaries(range(102, 200, 2), "b", "c"), ends=True)
    told = [judgement for _, judgement in run.classes]
    assert len(told) <= 3
    assert told.count(POD_SILENT) <= 1 or told[-1] is POD_SILENT


def test_a_server_that_draws_a_new_instance_for_each_reply_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_evidence, "MOST_INSTANCES", 3)
    evidence = outage_evidence.OutageEvidence()
    for n in range(9):
        sample = PodSample("a", bytes([n]), at(n))
        evidence.feed(PathsAnswered(at(n), (sample,), (IngressSample(f"10.0.0.{n}", at(n)),)))
    assert (len(evidence.pods["a"].newest), len(evidence.ingress)) == (3, 3)
    evidence.feed(PathsAnswered(at(20), (PodSample("a", bytes([1]), at(20)),), (IngressSample("10.0.0.1", at(20)),)))
    newest = outage_evidence.Answer(at(20), at(20))
    assert (evidence.pods["a"].newest[bytes([1])], evidence.ingress["10.0.0.1"]) == (newest, newest)


def test_a_change_that_ends_an_outage_is_judged_by_it_though_the_outage_has_no_class_yet() -> None:
    """Both wait for the same list, and the change is looked at first."""
    timeline = PoolTimeline()
    observe(timeline, 0, 0, ALL, 0)
    judge = outage_judge.OutageJudge(timeline, 10 * S, 30 * S, 35 * S)
    for event in [silent(), *canaries(range(102, 130, 2), "b"), again(130)]:
        judge.feed(event)
    change = Change(
        1, (Kind.POD,), RepliedProbe(999, at(99.9), who()), RepliedProbe(1999, at(130), who("b")), at(130), 1, at(130)
    )
    assert judge.over(named(1), change, at(131)) == (
        POD_SILENT,
        (PodAnswersNobody("a", 1, 14),),
    )
    assert judge.over(named(2), change, at(131)) is None
    early = Run(silent(), again(110), lists=[5])
    assert early.classes == []


def test_row_7_a_pod_is_not_called_silent_where_flows_of_living_pods_fell_silent_with_it() -> None:
    """All flows are dead, and no canary has met pod "a" by chance: what hit them all is no pod."""
    others = [FirstAnswer(at(3), named(2), 0, who("b")), silent(2, last=who("b"))]
    met = canaries(range(102, 190, 2), "b", "c")
    assert Run(silent(), others, met, ends=True).last[0] is UNKNOWN
    long_before = [FirstAnswer(at(3), named(2), 0, who("b")), silent(2, f=60, last=who("b"))]
    assert Run(silent(), long_before, met, ends=True).last[0] is POD_SILENT
