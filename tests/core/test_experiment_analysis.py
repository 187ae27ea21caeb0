"""Experiments by hand: what each part of the analysis makes of few events, and what the whole comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    ActionRemoved,
    ActionStep,
    CaseJudged,
    Certainty,
    Change,
    ChangeRevised,
    ChangeSeen,
    ChangeWithdrawn,
    ClusterAction,
    ClusterEvent,
    ClusterSubject,
    Diagnosis,
    Event,
    ExperimentStarted,
    FirstAnswer,
    Incident,
    IncidentClosed,
    Judgement,
    NodeAddresses,
    OutageCase,
    Phase,
    PhaseStarted,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    PoolWatchStarted,
    ProbesLost,
    RepliedProbe,
    RunStarted,
    SendingStopped,
    SessionStarted,
    SessionSummary,
    Stray,
    StrayCase,
    WrongPool,
)
from affinity_tester.core.events.counts import Counts, Losses, RttStats
from affinity_tester.core.experiment.analysis import ExperimentAnalysis
from affinity_tester.core.experiment.catalogue import EXPERIMENTS
from affinity_tester.core.experiment.results import Blackouts, CellOutcome, CellResult, Held
from affinity_tester.core.identity import Identity, Kind, differing
from affinity_tester.core.judging.reasons import NothingExplains, PoolState
from affinity_tester.core.pool import Endpoint, PoolSnapshot, differences

MS = 1_000_000
S = 1_000 * MS
TARGET = TransportAddress("203.0.113.7", 3478)
LOCAL = "192.168.1.5"
ACTION, ROLLBACK, JUDGEMENT, STOP = 10 * S, 20 * S, 30 * S, 40 * S
PODS = ("a", "b", "c")


def endpoint(pod: str, uid: str = "", **conditions: bool) -> Endpoint:
    return Endpoint(uid or f"uid-{pod}", pod, f"10.1.0.{ord(pod[0])}", f"n-{pod[0]}", **conditions)


def who(pod: str | None, ingress: str = "10.0.0.1", port: int = 1000, instance: bytes = b"i") -> Identity:
    return Identity(TransportAddress(ingress, port), pod, pod and f"n-{pod[0]}", instance)


def name(number: int) -> str:
    return f"CLIENT-{number}"


class Run:
    """Events of one run: eight sessions on three pods, an action at 10 s, its rollback at 20 s, and the end at 30 s."""

    def __init__(
        self, experiment: str = "pod-delete", *, via: str = "node-port", policy: str = "Cluster", sessions: int = 8
    ) -> None:
        self.experiment, self.sessions = experiment, sessions
        self.policy = policy
        self.endpoints = {pod: endpoint(pod) for pod in PODS}
        self.served = {name(number): who(PODS[number % 3], port=1000 + number) for number in range(sessions)}
        self.newest: PoolSnapshot | None = None
        self.numbers: dict[str, int] = {}
        self.events: list[Event] = [
            RunStarted(0, 0, 0, "0", TARGET, "x", sessions, 100 * MS, 2 * S, 288, connected=False, lost_guarantees=()),
            ExperimentStarted(0, experiment, "ns/echo", policy, "None", 5 * S),
            PoolWatchStarted(0, "kind", "ns/echo", via),
            NodeAddresses(0, (("10.0.0.1", "n-a"), ("10.0.0.2", "n-b"), ("10.0.0.9", "n-x"))),
        ]
        self.pool(0, asked=True)
        for session, served in self.served.items():
            number = int(session.removeprefix("CLIENT-"))
            self.events.append(SessionStarted(0, session, TransportAddress(LOCAL, 40_000 + number)))
            self.events.append(FirstAnswer(MS, session, 0, served))
        self.events.append(PhaseStarted(S, Phase.STEADY, 0))

    def answer_as(self, seen: Callable[[int, Identity], Identity]) -> None:
        """Let each session's first answer say something else."""
        self.served = {session: seen(int(session.removeprefix("CLIENT-")), who) for session, who in self.served.items()}
        self.events = [
            replace(event, identity=self.served[event.session]) if isinstance(event, FirstAnswer) else event
            for event in self.events
        ]

    def add(self, *events: Event) -> Run:
        self.events += events
        return self

    def pool(
        self,
        at: int,
        *,
        since: int | None = None,
        asked: bool = False,
        policy: str = "",
        **endpoints: Endpoint | None,
    ) -> Run:
        """Observe the pool at a time, with these endpoints instead (None: it left)."""
        self.policy = policy or self.policy
        for pod, given in endpoints.items():
            if given is None:
                self.endpoints.pop(pod)
            else:
                self.endpoints[pod] = given
        spec = (("externalTrafficPolicy", self.policy), ("sessionAffinity", "None"))
        snapshot = PoolSnapshot(frozenset(self.endpoints.values()), spec)
        changes = () if self.newest is None else differences(self.newest, snapshot)
        self.newest = snapshot
        since = at - 100 * MS if since is None else since
        self.events.append(PoolObserved(at, since, at, snapshot, at if asked else None, changes))
        return self

    def act(self, *removed: str, nodes: tuple[str, ...] = ()) -> Run:
        self.events.append(PhaseStarted(ACTION, Phase.ACTION, 1_000))
        if removed or nodes:
            self.events.append(ActionRemoved(ACTION, tuple(f"uid-{pod}" for pod in removed), nodes))
        return self

    def move(
        self,
        number: int,
        at: int,
        to: Identity,
        judgement: Judgement | None = Judgement.EXPLAINED,
        *,
        sent: int | None = None,
    ) -> Run:
        """Move a session: P was sent at `sent` (0.1 s before), Q at `at`."""
        session = name(number)
        before, self.served[session] = self.served[session], to
        self.numbers[session] = self.numbers.get(session, 0) + 1
        sent = at - 100 * MS if sent is None else sent
        change = Change(
            self.numbers[session],
            differing(before, to),
            RepliedProbe(sent // (100 * MS), sent, before),
            RepliedProbe(at // (100 * MS), at, to),
            at + MS,
            100 * MS,
            at + MS,
        )
        self.events.append(ChangeSeen(at + MS, session, change))
        if judgement is not None:
            self.events.append(CaseJudged(at + 10 * S, session, change, judgement, None, ()))
        return self

    def end(self, *, listed: bool = True, silent: Iterable[int] = ()) -> CellOutcome:
        self.events += [
            PhaseStarted(ROLLBACK, Phase.ROLLBACK, 1_800),
            PhaseStarted(JUDGEMENT, Phase.JUDGEMENT, 2_600),
            SendingStopped(STOP, interrupted=False),
        ]
        for number in range(self.sessions):
            unanswered = 8 * S if number in silent else 0
            local = TransportAddress(LOCAL, 40_000 + number)
            self.events.append(
                SessionSummary(STOP + S, name(number), local, Counts(), Losses(), RttStats(), (), 0, unanswered, None)
            )
        if listed:
            self.events.append(PoolConfirmed(STOP + 2 * S, STOP + S))
        return self.analysis().outcome()

    def analysis(self) -> ExperimentAnalysis:
        analysis = ExperimentAnalysis(EXPERIMENTS[self.experiment], 5 * S)
        for event in sorted(self.events, key=lambda event: event.at_ns):
            analysis.feed(event)
        return analysis


def test_a_record_that_ends_too_early_says_where() -> None:
    run = Run("scale-up").act().move(0, ACTION + S, who("b", port=5))
    cut_off = run.analysis().outcome()
    assert (cut_off.held, cut_off.reasons) == (
        Held.UNKNOWN,
        ("the record ends in the phase action, before the experiment did",),
    )


def test_a_deleted_pod_moves_its_own() -> None:
    run = Run().act("a").pool(ACTION + S, a=None)
    for number in (0, 3, 6):
        run.move(number, ACTION + 2 * S, who("b", "10.0.0.2", 2000 + number))
        run.add(ProbesLost(ACTION + 4 * S, name(number), 110, 9, ACTION + 1_000 * MS, ACTION + 1_800 * MS))
    outcome = run.end()
    assert outcome.held is Held.YES
    assert outcome.reasons == ()
    assert outcome.least == outcome.moved == ("CLIENT-0", "CLIENT-3", "CLIENT-6")
    assert outcome.least_reason == 'pod "a" went away'
    assert (outcome.moved_pod, outcome.moved_address) == (3, 3)
    assert (outcome.sent, outcome.lost) == (1_600, 27)
    assert outcome.blackouts.lasted_ns == (900 * MS,) * 3
    assert outcome.claim == (
        "0 of 5 sessions that had to stay moved: at most 45 % would (95 %); "
        "0 of 3 sessions that had to move did so wrongly or stayed silent: at most 63 % would (95 %)"
    )


def test_a_result_names_the_service_that_was_told() -> None:
    analysis = Run("baseline").act().analysis()
    assert analysis.result() == CellResult("ns/echo", "Cluster", "None", analysis.outcome())
    run = Run("baseline").act()
    run.events = [event for event in run.events if not isinstance(event, ExperimentStarted)]
    assert run.analysis().result() == CellResult("", "", "", run.analysis().outcome())


def diagnosed(at: int, *names: str) -> IncidentClosed:
    """Close an incident that ended then, and is likely one of these."""
    return IncidentClosed(
        at,
        Incident(
            1, 0, at, continuing=False, sessions=1, total_sessions=8, changes=1, outages=0, bursts=0, strays=0, lost=0,
            kinds=(), cohorts=(), context=(), judgements=(),
            diagnoses=tuple(Diagnosis(name, Certainty.LIKELY, ()) for name in names),
        ),
    )  # fmt: skip


def test_what_was_seen_from_the_action_on_is_named() -> None:
    run = Run("baseline").add(diagnosed(ACTION - S, "lossy-path"), diagnosed(ACTION + S, "flow-wipe"))
    assert run.act().end().names == ("likely flow-wipe",)


# --- it came to nothing ------------------------------------------------------------------------------------------------


def test_an_experiment_without_an_action_says_why() -> None:
    run = Run("baseline").add(SendingStopped(3 * S, interrupted=False), diagnosed(2 * S, "lossy-path"))
    assert run.analysis().outcome() == CellOutcome(
        sessions=8,
        moved=(),
        moved_pod=0,
        moved_address=0,
        least=None,
        least_reason="not known: there was no action",
        beyond=(),
        twice=(),
        blackouts=Blackouts(sessions=0, median_ns=None, p95_ns=None, worst_ns=None, still_silent=0, lasted_ns=()),
        sent=0,
        lost=0,
        violations=0,
        names=("likely lossy-path",),
        held=Held.UNKNOWN,
        reasons=("no steady state: it has lasted for 2.0 s, 5.0 s are wanted",),
        claim="nothing can be claimed",
    )


def test_what_could_not_be_done_before_the_action_is_said() -> None:
    stopped = Run("baseline").add(
        ActionStep(9 * S, "no rights", failed=True), ActionStep(9 * S, "nothing", undo=True, failed=True)
    )
    stopped.add(SendingStopped(9 * S, interrupted=True))
    assert stopped.analysis().outcome().reasons == ("there was no action", "no rights")
    assert stopped.analysis().steady_reason(9 * S) == ""
    interrupted = Run("scale-up").add(ActionStep(3 * S, "interrupted", failed=True))
    assert interrupted.add(SendingStopped(3 * S, interrupted=True)).analysis().outcome().reasons == ("interrupted",)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([ActionStep(ACTION, "the pod is gone", failed=True)], "the action failed: the pod is gone"),
        ([ActionStep(ACTION, "interrupted", failed=True)], "interrupted"),
        ([WrongPool(ACTION, "x")], "what had to move is not known: pods answered that were never in the watched pool"),
        (
            [
                PoolUnobserved(12 * S, 12 * S, "down"),
                PoolObserved(14 * S, 0, 14 * S, PoolSnapshot(frozenset(map(endpoint, PODS))), 13 * S),
            ],
            "what had to move is not known: the watch of the pool was down for a time",
        ),
    ],
)
def test_an_action_that_came_to_nothing_is_not_judged(events: list[Event], reason: str) -> None:
    outcome = Run("baseline").act().add(*events).end()
    assert (outcome.held, outcome.reasons, outcome.claim) == (Held.UNKNOWN, (reason,), "nothing can be claimed")


def test_a_pool_that_was_not_listed_again_proves_nothing() -> None:
    outcome = Run("baseline").act().end(listed=False)
    assert outcome.least is None
    assert outcome.reasons == ("what had to move is not known: the pool was not listed again at the end",)


def test_without_a_watch_nobody_knows_what_had_to_move() -> None:
    run = Run("baseline")
    run.events = [event for event in run.events if not isinstance(event, PoolObserved)]
    assert run.act().end().reasons == ("what had to move is not known: the pool was not watched",)


def test_servers_that_name_no_pod_tell_nothing_of_what_had_to_move() -> None:
    run = Run("baseline")
    run.answer_as(lambda _, served: Identity(served.reflexive))
    assert run.act().end().least_reason == "not known: the replies name no pod"


def violation(case: Change | OutageCase | StrayCase, at: int, session: str = name(1)) -> CaseJudged:
    return CaseJudged(at, session, case, Judgement.VIOLATION, None, (NothingExplains(PoolState.STILL),))


@pytest.mark.parametrize(
    "case",
    [OutageCase(10, 5 * S), StrayCase(Stray.WRONG_SOURCE, 3, 4 * S)],
    ids=["outage", "stray"],
)
def test_a_violation_before_the_action_is_no_steady_state(case: OutageCase | StrayCase) -> None:
    outcome = Run("baseline").act().add(violation(case, 15 * S)).end()
    assert outcome.reasons == ("no steady state before the action: a violation (CLIENT-1)",)


def test_a_baseline_without_a_steady_state_for_violations_is_broken() -> None:
    events = [violation(OutageCase(10, 5 * S), 7 * S), SendingStopped(9 * S, interrupted=False)]
    outcome = Run("baseline").add(*events).analysis().outcome()
    assert (outcome.held, outcome.violations) == (Held.NO, 1)
    assert outcome.reasons[0] == "1 session had a violation while nothing was done"
    assert outcome.reasons[1].startswith("no steady state: ")
    assert Run("scale-up").add(*events).analysis().outcome().held is Held.UNKNOWN


def test_a_change_before_the_action_that_is_found_a_violation_later_is_no_steady_state() -> None:
    run = Run("baseline").move(1, 4 * S, who("c", port=7), Judgement.VIOLATION).act()
    assert run.end().reasons == ("no steady state before the action: a violation (CLIENT-1)",)
    early = Run("baseline").move(1, 9 * S, who("c", port=7)).act().end()
    assert early.reasons == (
        "no steady state before the action: CLIENT-1 moved 1.0 s ago, 5.0 s without it are wanted",
    )
    assert early.moved == ()


# --- what is broken ----------------------------------------------------------------------------------------------------


def test_a_needless_move_breaks_the_requirement() -> None:
    run = Run("scale-up").act().pool(ACTION + S, d=endpoint("d")).move(1, ACTION + 2 * S, who("d", port=5))
    outcome = run.pool(ROLLBACK + S, d=None).move(1, ROLLBACK + 2 * S, who("b", port=6)).end()
    assert outcome.held is Held.NO
    assert outcome.reasons == ("1 session moved that need not have: CLIENT-1",)
    assert (outcome.least, outcome.beyond, outcome.twice) == ((), ("CLIENT-1",), ("CLIENT-1",))
    assert outcome.least_reason == 'pod "d" went away, and had none of these sessions'
    assert outcome.claim == "1 of 8 sessions that had to stay moved: 0.32 % to 53 % would (95 %)"


def test_a_move_in_reach_of_a_pool_change_is_needless_all_the_same() -> None:
    run = Run("scale-up").act().pool(ACTION + S, d=endpoint("d"))
    outcome = run.move(1, ACTION + 2 * S, run.served[name(1)]._replace(pod="d", node="n-d")).end()
    assert (outcome.beyond, outcome.moved_pod, outcome.moved_address) == (("CLIENT-1",), 1, 0)


def test_every_session_moved_needlessly() -> None:
    run = Run("baseline").act()
    for number in range(8):
        run.move(number, ACTION + (1 + number) * S, who("c" if number % 3 != 2 else "a", port=99), Judgement.VIOLATION)
    outcome = run.end()
    assert outcome.claim == "8 of 8 sessions that had to stay moved: at least 69 % would (95 %)"
    assert outcome.reasons == ("8 sessions moved that need not have: CLIENT-0, CLIENT-1, CLIENT-2 and 5 more",)


def test_a_session_that_had_to_move_moves_once() -> None:
    run = (
        Run()
        .act("a")
        .pool(ACTION + S, a=None)
        .move(0, ACTION + 2 * S, who("b", port=5))
        .move(0, ACTION + 5 * S, who("c"))
    )
    outcome = run.end()
    assert outcome.reasons == ("1 session that had to move moved at another time, or again: CLIENT-0",)
    assert "1 of 3 sessions that had to move did so wrongly" in outcome.claim


def test_a_session_that_stays_silent_breaks_the_requirement() -> None:
    run = Run().act("a").pool(ACTION + S, a=None)
    lost = ProbesLost(STOP, name(0), 110, 290, ACTION + S, STOP - 100 * MS)
    outcome = run.add(lost, violation(OutageCase(110, ACTION + S), 30 * S, name(0))).end(silent=[0])
    assert outcome.reasons == ("1 session stayed silent: CLIENT-0",)
    assert (outcome.blackouts.still_silent, outcome.blackouts.worst_ns, outcome.violations) == (1, STOP - ACTION - S, 1)


def test_other_violations_break_it_too() -> None:
    run = Run("baseline").act().add(violation(StrayCase(Stray.WRONG_SOURCE, 3, ACTION + S), 20 * S))
    late = JUDGEMENT + 2 * S
    outcome = run.move(2, late, who("a", port=3), Judgement.VIOLATION).end()
    assert outcome.reasons == ("2 sessions had another violation: CLIENT-1, CLIENT-2",)
    assert outcome.moved == ()


# --- what cannot be told -----------------------------------------------------------------------------------------------


def test_a_move_that_was_never_judged_is_not_held_against_the_cluster() -> None:
    outcome = Run("baseline").act().move(1, ACTION + S, who("c", port=5), None).end()
    assert (outcome.held, outcome.unclear, outcome.beyond) == (Held.UNKNOWN, ("CLIENT-1",), ())
    assert outcome.reasons == (
        "1 session moved, and it may not be the cluster that moved them (--reference HOST may settle it): CLIENT-1",
    )


@pytest.mark.parametrize("judgement", [Judgement.CLIENT, Judgement.IDLE, Judgement.UNKNOWN])
def test_what_the_client_did_or_nobody_knows_is_not_held_against_the_cluster(judgement: Judgement) -> None:
    assert Run("baseline").act().move(1, ACTION + S, who("b", port=5), judgement).end().unclear == ("CLIENT-1",)


def test_the_clients_own_nat_may_be_what_moved_all_in_an_action() -> None:
    def moved(run: Run, own: bool) -> CellOutcome:
        for number in range(8):
            ip = LOCAL if own else f"10.0.0.{1 + number % 2}"
            run.move(number, ACTION + 2 * S + number * MS, who(PODS[(number + 1) % 3], ip, 3000 + number))
        return run.end()

    scaled = moved(Run("scale-up").act().pool(ACTION + S, d=endpoint("d")), own=False)
    assert len(scaled.unclear) == 8
    assert scaled.claim == "no session was left to claim anything of"
    seen = moved(Run("scale-up").act().pool(ACTION + S, d=endpoint("d")), own=True)
    assert len(seen.beyond) == 8


def test_a_service_that_somebody_edits_meanwhile_explains_moves() -> None:
    run = Run("scale-up").act().pool(ACTION + S, policy="Local").move(1, ACTION + 2 * S, who("c", port=5))
    assert run.end().reasons == (
        "the Service was edited meanwhile, by none of this: externalTrafficPolicy Cluster -> Local",
        "1 session moved: CLIENT-1",
    )


def test_a_silence_of_unknown_cause_is_told() -> None:
    outcome = Run("baseline").act().end(silent=[2])
    assert outcome.reasons == ("1 session silent at the end, the cause is not known: CLIENT-2",)


@pytest.mark.parametrize(("policy", "told"), [("Local", True), ("Cluster", False)])
def test_a_node_without_a_pod_strands_its_sessions_under_policy_local(policy: str, told: bool) -> None:
    outcome = Run("rollout", policy=policy).act().pool(ACTION + S, a=None).end(silent=[0, 3, 6])
    assert outcome.held is Held.UNKNOWN
    (reason,) = [each for each in outcome.reasons if "silent at the end" in each]
    assert reason == (
        "3 sessions silent at the end, whose ingress node has no ready pod: policy Local sends them nowhere else:"
        " CLIENT-0, CLIENT-3, CLIENT-6"
        if told
        else "3 sessions silent at the end, the cause is not known: CLIENT-0, CLIENT-3, CLIENT-6"
    )


def test_too_few_sessions_claim_nothing() -> None:
    outcome = Run("baseline", sessions=4).act().end()
    assert outcome.held is Held.UNKNOWN
    assert outcome.reasons == ("only 4 sessions: a fault that moves every second one may have missed them",)


def test_a_pod_without_a_session_tests_nothing() -> None:
    run = Run()
    run.pool(S, d=endpoint("d"))
    outcome = run.act("d").pool(ACTION + S, d=None).end()
    assert outcome.reasons == ("no session was on what was taken away: nothing was tested",)
    assert Run().act("a").end().reasons == ("no pod left the pool: nothing was tested",)


def test_a_policy_that_never_changed_tests_nothing() -> None:
    assert Run("policy-flip").act().end().reasons == ("the watch never showed another policy: nothing was tested",)


# --- by another cause --------------------------------------------------------------------------------------------------


def test_a_pod_that_leaves_by_another_cause_excuses_its_sessions() -> None:
    run = Run().act("a").pool(ACTION + S, a=None).pool(ACTION + 3 * S, b=None)
    for number in (0, 3, 6, 1, 4, 7):
        run.move(number, ACTION + 4 * S + number * MS, who("c", port=2000 + number))
    outcome = run.end()
    assert outcome.held is Held.YES
    assert outcome.excused == ("CLIENT-1", "CLIENT-4", "CLIENT-7")
    assert outcome.least_reason == (
        'pod "a" went away; by another cause pod "b" left too, or may have: 3 sessions excused'
    )


def test_what_it_left_broken_is_said() -> None:
    run = Run().act("a").pool(ACTION + S, a=None).pool(ACTION + 3 * S, b=None)
    run.add(violation(OutageCase(130, ACTION + 3 * S), 30 * S, name(1)))
    assert run.end(silent=[4]).reasons == (
        "2 sessions broken or silent since something else went away: CLIENT-1, CLIENT-4",
    )


def test_a_node_that_is_lost_excuses_who_came_in_through_it() -> None:
    run = Run("baseline", sessions=16)
    run.answer_as(lambda number, served: who(served.pod, "10.0.0.1" if number < 8 else "10.0.0.2", 1000 + number))
    run.add(ClusterEvent(ACTION + S, ClusterSubject.NODE, "n-a", ClusterAction.NOT_READY))
    outcome = run.act().move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).end()
    assert (outcome.held, len(outcome.excused)) == (Held.YES, 8)
    assert outcome.claim.endswith("; 8 others excused")
    assert 'by another cause node "n-a" left too, or may have: 8 sessions excused' in outcome.least_reason


# --- nodes -------------------------------------------------------------------------------------------------------------


def removed(node: str, at: int) -> ClusterEvent:
    return ClusterEvent(at, ClusterSubject.NODE, node, ClusterAction.REMOVED)


def test_a_command_that_takes_a_node_away_moves_who_came_in_through_it() -> None:
    run = Run("command").act().add(removed("n-a", ACTION + S))
    outcome = run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 5)).end()
    assert (outcome.held, len(outcome.least or ())) == (Held.YES, 8)


def test_a_command_that_takes_pods_away_moves_their_own() -> None:
    run = Run("command").pool(S, d=endpoint("d"), e=endpoint("e"), f=endpoint("f"))
    run.act().pool(ACTION + S, a=None, b=None, d=None, e=None)
    for number in (0, 1, 3, 4, 6, 7):
        run.move(number, ACTION + 2 * S + number * MS, run.served[name(number)]._replace(pod="c", node="n-c"))
    outcome = run.end()
    assert outcome.held is Held.YES
    assert outcome.least_reason == '4 pods, such as "a", "b", "d" went away'


def test_an_undoing_that_takes_a_node_away_had_to_move_its_own() -> None:
    run = Run("node-scaleup").act().add(removed("n-a", ROLLBACK + S), removed("n-z", ACTION + S))
    run.add(PhaseStarted(ROLLBACK, Phase.ROLLBACK, 1_800))
    outcome = run.move(1, ROLLBACK + 2 * S, who("b", "10.0.0.2", 5)).end()
    assert (outcome.held, len(outcome.least or ())) == (Held.YES, 8)


def test_a_drained_node_excuses_its_sessions_there_and_back() -> None:
    run = Run("node-drain", via="load-balancer", sessions=16)
    run.answer_as(lambda number, served: who(served.pod, "10.0.0.1" if number < 8 else "10.0.0.2", 1000 + number))
    run.act("a", nodes=("n-a",)).pool(ACTION + S, a=None)
    for number in (0, 3, 6, 9, 12, 15):
        run.move(number, ACTION + 2 * S, who("b", "10.0.0.2", 2000 + number))
    run.move(1, ACTION + 2 * S, who("b", "10.0.0.2", 2001)).move(1, ROLLBACK + S, who("b", "10.0.0.1", 2002))
    outcome = run.end()
    assert (outcome.held, outcome.reasons, outcome.beyond) == (Held.YES, (), ())
    assert outcome.twice == ("CLIENT-1",)
    excused = 'pod "a" went away; the balancer may have left out node "n-a": 5 sessions excused'
    assert outcome.least_reason == excused
    assert outcome.claim.endswith("; 5 others excused")


def flip(via: str, *, known: bool = True) -> Run:
    """Nodes n-a and n-b have a ready pod each under policy Local, n-x has none; sessions 1 and 2 came in through it."""
    run = Run("policy-flip", via=via)
    run.answer_as(lambda number, served: who(served.pod, "10.0.0.9" if number in {1, 2} else "10.0.0.1"))
    if not known:
        run.events = [event for event in run.events if not isinstance(event, NodeAddresses)]
    return run.act().pool(ACTION + S, policy="Local")


def test_a_balancer_leaves_out_nodes_without_a_ready_pod() -> None:
    run = flip("load-balancer")
    run.move(1, ACTION + 2 * S, who("a", LOCAL, 40_001)).pool(ROLLBACK + S, policy="Cluster")
    outcome = run.move(1, ROLLBACK + 2 * S, who("a", "10.0.0.9", 77)).end()
    assert (outcome.held, outcome.least, outcome.beyond) == (Held.YES, ("CLIENT-1", "CLIENT-2"), ())


def test_without_a_balancer_no_node_is_left_out() -> None:
    outcome = flip("node-port").move(1, ACTION + 2 * S, who("a", LOCAL, 40_001)).end()
    assert (outcome.held, outcome.least, outcome.beyond) == (Held.NO, (), ("CLIENT-1",))


def test_unknown_nodes_that_a_balancer_may_leave_out_leave_the_least_unknown() -> None:
    outcome = flip("load-balancer", known=False).end()
    assert outcome.least_reason == "not known: the balancer left out nodes whose addresses are not known"


def test_a_policy_that_was_never_local_leaves_no_node_out() -> None:
    run = Run("policy-flip", via="load-balancer").act()
    assert run.end().least == ()


def test_a_flow_under_policy_local_came_in_through_its_pods_node() -> None:
    run = Run("command", policy="Local")
    run.answer_as(lambda _, served: served._replace(reflexive=TransportAddress(LOCAL, 9), node=None))
    outcome = run.act().add(removed("n-a", ACTION + S)).move(0, ACTION + 2 * S, who("b", LOCAL, 9)).end()
    assert outcome.least == ("CLIENT-0", "CLIENT-3", "CLIENT-6")


# --- an endpoint that serves -------------------------------------------------------------------------------------------


def draining(*, stop: int, since: int | None = None) -> Run:
    run = Run("not-ready").act("a")
    run.pool(ACTION + S, a=endpoint("a", ready=False, terminating=True))
    return run.pool(stop, since=since, a=None)


def test_no_session_may_leave_an_endpoint_that_serves() -> None:
    moved = draining(stop=ACTION + 9 * S).move(0, ACTION + 2 * S, who("b", port=5)).end()
    assert (moved.held, moved.beyond) == (Held.NO, ("CLIENT-0",))
    stayed = draining(stop=ACTION + 9 * S).move(0, ACTION + 9 * S, who("b", port=5)).end()
    assert (stayed.held, stayed.beyond) == (Held.YES, ())


def test_a_pod_may_be_gone_moments_before_the_api_says_so() -> None:
    stop = ACTION + 9 * S
    torn_down = draining(stop=stop).move(0, stop - S, who("b", port=5)).move(3, stop - S, who("b", port=6)).end()
    assert torn_down.held is Held.YES
    for early, late in ((0, 3), (3, 0)):
        outlived = (
            draining(stop=stop).move(early, stop - 2 * S, who("b", port=5)).move(late, stop - S, who("b", port=6))
        )
        assert outlived.end().beyond == (name(early),)


@pytest.mark.parametrize(("drained_ns", "held"), [(3 * S - MS, Held.UNKNOWN), (3 * S, Held.YES)])
def test_of_a_pod_that_serves_on_for_a_moment_it_is_not_known_who_left_it_early(drained_ns: int, held: Held) -> None:
    stop = ACTION + S + drained_ns
    early = draining(stop=stop).move(0, stop - S, who("b", port=5)).move(3, stop - S, who("b", port=6)).end()
    assert early.held is held
    short = "the pod served on for less than 3 s, too short to tell who left it early (the server's --drain)"
    assert early.reasons == ((f"{short}: nothing was tested",) if held is Held.UNKNOWN else ())
    stayed = draining(stop=stop).move(0, stop + S, who("b", port=5)).move(3, stop + S, who("b", port=6)).end()
    assert stayed.held is Held.YES


def test_an_endpoint_that_never_drained_tests_nothing() -> None:
    run = Run("not-ready").act("a").pool(ACTION + S, a=None).move(0, ACTION + 2 * S, who("b", port=5))
    assert run.end().reasons == ("no endpoint was seen to serve without being ready: nothing was tested",)


def test_a_pod_that_was_spared_may_be_taken_away_later() -> None:
    run = Run("rollout").act()
    run.pool(ACTION + S, a=endpoint("a", ready=False)).pool(ACTION + 2 * S, a=endpoint("a"))
    run.pool(ACTION + 15 * S, a=endpoint("a", serving=False, ready=False)).pool(ACTION + 16 * S, a=endpoint("a"))
    early = run.move(0, ACTION + 3 * S, who("b", port=5)).end()
    assert (early.held, early.beyond) == (Held.NO, ("CLIENT-0",))


# --- pods of one name --------------------------------------------------------------------------------------------------


def replaced() -> Run:
    """Pod a is deleted, and another of its name joins a second later, as in a StatefulSet."""
    return Run().act("a").pool(ACTION + S, a=None).pool(ACTION + 2 * S, a=endpoint("a", "uid-other"))


@pytest.mark.parametrize(
    ("run", "port", "instance", "new_pod", "new_address"),
    [
        (Run().act("a"), 1000, b"j", 0, 0),
        (replaced(), 1000, b"j", 1, 0),
        (replaced(), 1001, b"i", 0, 1),
    ],
    ids=["restart", "another-pod", "same-process"],
)
def test_a_restart_is_no_move_and_another_pod_of_the_name_is_one(
    run: Run, port: int, instance: bytes, new_pod: int, new_address: int
) -> None:
    outcome = run.move(0, ACTION + 3 * S, who("a", port=port, instance=instance), sent=ACTION + 500 * MS).end()
    assert (outcome.moved_pod, outcome.moved_address) == (new_pod, new_address)
    assert len(outcome.moved) == new_pod + new_address


def test_a_restart_of_the_new_pod_of_a_name_is_no_move_either() -> None:
    run = replaced().move(0, ACTION + 3 * S, who("a", port=1000, instance=b"j"), sent=ACTION + 500 * MS)
    outcome = run.move(0, ACTION + 8 * S, who("a", port=1000, instance=b"k")).end()
    assert (outcome.held, outcome.moved, outcome.twice) == (Held.YES, ("CLIENT-0",), ())


def test_the_new_pod_of_a_name_must_be_left_no_more() -> None:
    run = replaced().move(0, ACTION + 3 * S, who("a", port=1000, instance=b"j"), sent=ACTION + 500 * MS)
    assert run.move(0, ACTION + 8 * S, who("b", port=5)).end().beyond == ("CLIENT-0",)


def test_a_pod_that_is_not_told_to_end_any_more_stays() -> None:
    run = (
        Run("baseline").act().pool(ACTION + S, a=endpoint("a", terminating=True)).pool(ACTION + 2 * S, a=endpoint("a"))
    )
    assert run.end().held is Held.YES


def test_endpoints_that_name_no_pod_have_no_name_to_be_found_by() -> None:
    run = Run("baseline")
    run.pool(2 * S, x=Endpoint("10.1.0.77", "", "10.1.0.77"))
    reason = run.act().pool(ACTION + S, x=None).end().least_reason
    assert reason.startswith('no pod and no ingress node went away; by another cause pod "10.1.0.77" left')


# --- sessions ----------------------------------------------------------------------------------------------------------


def test_a_change_counts_as_what_it_became() -> None:
    run = Run("baseline").act().move(1, ACTION + S, who("c", port=5))
    seen = next(event for event in run.events if isinstance(event, ChangeSeen))
    narrow = replace(seen.change, kinds=(Kind.NODE,))
    run.add(ChangeRevised(ACTION + 2 * S, seen.session, narrow, seen.change))
    assert run.end().moved == ()
    again = Run("baseline").act().move(1, ACTION + S, who("c", port=5))
    seen = next(event for event in again.events if isinstance(event, ChangeSeen))
    assert again.add(ChangeWithdrawn(ACTION + 2 * S, seen.session, seen.change, 2)).end().moved == ()


def test_a_session_that_changes_with_every_packet_is_not_remembered_for_ever() -> None:
    run = Run("baseline").act()
    for number in range(300):
        run.move(1, ACTION + (number + 1) * 10 * MS, who(PODS[number % 2], port=number), Judgement.VIOLATION)
    outcome = run.end()
    assert (outcome.beyond, outcome.violations) == (("CLIENT-1",), 300)


def test_a_record_may_lack_where_sessions_began() -> None:
    run = Run("baseline")
    run.events = [event for event in run.events if not isinstance(event, SessionStarted | RunStarted)]
    run.events += [PhaseStarted(ACTION, Phase.ACTION), PhaseStarted(JUDGEMENT, Phase.JUDGEMENT)]
    change = Change(1, (Kind.POD,), RepliedProbe(0, 0, who("a")), RepliedProbe(1, 1, who("b")), 1, 1, 1)
    run.events.append(ChangeSeen(ACTION, "CLIENT-99", change))
    assert run.analysis().outcome().sent == 0


def test_uncounted_probes_are_those_that_were_due() -> None:
    end = JUDGEMENT + 130 * MS
    run = Run("baseline").add(PhaseStarted(ACTION, Phase.ACTION), PhaseStarted(end, Phase.JUDGEMENT))
    assert str(run.analysis().outcome().sent) == str(8 * 201 + 2)


def test_no_probe_is_due_after_the_sending_stopped() -> None:
    run = Run("baseline").add(SendingStopped(ACTION - S, interrupted=False), PhaseStarted(ACTION, Phase.ACTION))
    assert run.analysis().outcome().sent == 0
