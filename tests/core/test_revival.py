"""What was silent together is answered again one after the other: who comes first accuses nobody of the rest."""

from __future__ import annotations

from itertools import pairwise

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import (
    CanaryResult,
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
    RepliedProbe,
    RunEnded,
    SendingStopped,
)
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.rules import Rules
from affinity_tester.core.pool import Endpoint, PoolSnapshot
from pools import ComparingAnalysis, is_judged

MS = 1_000_000
S = 1_000 * MS
FELL_NS, BACK_NS = 100 * S, 130 * S
SILENT = ("CLIENT-1", "CLIENT-2", "CLIENT-3")
VIOLATION = Judgement.VIOLATION
POD_SILENT = Judgement.POD_SILENT


def who(pod: str, ip: str = "10.0.0.1") -> Identity:
    return Identity(TransportAddress(ip, 40312), pod, f"node-of-{pod}", pod.encode())


def pool(*pods: str) -> PoolSnapshot:
    return PoolSnapshot(frozenset(Endpoint(f"uid-{pod}", pod, f"10.9.0.{ord(pod)}", f"node-of-{pod}") for pod in pods))


def listed(at_ns: int, *pods: str) -> PoolObserved:
    return PoolObserved(at_ns, at_ns - S, at_ns, pool(*pods), at_ns - MS)


def fell(session: str, last: Identity, pause_ns: int = 100 * MS) -> OutageStarted:
    sighting = RepliedProbe(9, FELL_NS - pause_ns, last)
    return OutageStarted(FELL_NS + 5 * S, session, 10, FELL_NS, sighting, pause_ns, probes=50)


def back(session: str, who_answers: Identity, sent_ns: int) -> OutageEnded:
    return OutageEnded(sent_ns + MS, session, 10, FELL_NS, 250, RepliedProbe(310, sent_ns, who_answers))


def canaries(count: int, pod: str) -> list[Event]:
    sent = [FELL_NS + (6 + 2 * number) * S for number in range(count)]
    return [CanaryResult(ns + MS, SILENT[0], ns, who(pod, "10.0.0.2")) for ns in sent]


def confirmed(at_ns: int) -> PoolConfirmed:
    return PoolConfirmed(at_ns, at_ns - MS)


def told(*events: Event) -> dict[str, list[Judgement]]:
    """By session: its outage's classes, in the order in which they are told."""
    assert all(a.at_ns <= b.at_ns for a, b in pairwise(events)), "a test tells its events in order"
    analysis = ComparingAnalysis(Rules())
    end_ns = events[-1].at_ns + 60 * S
    ending = (SendingStopped(end_ns, interrupted=False), confirmed(end_ns + S), RunEnded(end_ns + 2 * S, aborted=False))
    classes: dict[str, list[Judgement]] = {}
    for event in (*events, *ending):
        for judged in analysis.feed(event):
            if is_judged(judged, OutageCase):
                classes.setdefault(judged.session, []).append(judged.judgement)
    return classes


def answers(*sessions: str, pod: str) -> list[Event]:
    return [FirstAnswer(60 * S, session, 0, who(pod)) for session in sessions]


def test_a_hung_pod_that_comes_back_stays_silent_for_each_of_its_sessions() -> None:
    """One class, told once: neither a violation by the first session that is answered, nor in doubt without it."""
    classes = told(
        listed(50 * S, "a", "b", "c"),
        *answers(*SILENT, pod="a"),
        *(fell(session, who("a")) for session in SILENT),
        *canaries(8, "b"),
        confirmed(FELL_NS + 25 * S),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + 50 * MS),
        confirmed(BACK_NS + S),  # what is over is judged now, the last one later
        back(SILENT[2], who("a"), BACK_NS + S + 50 * MS),
    )
    assert classes == {session: [POD_SILENT] for session in SILENT}


@pytest.mark.parametrize(
    ("pause_ns", "last_ns", "classes"),
    [
        (100 * MS, 2 * S, [POD_SILENT]),  # 2 s later it is answered too: its probes in between may be on their way
        (100 * MS, 2 * S + 200 * MS, [POD_SILENT, VIOLATION]),
        (10 * S, 11 * S, [POD_SILENT]),  # it had sent no probe since
        (10 * S, 13 * S, [POD_SILENT, VIOLATION]),
    ],
)
def test_a_pod_accuses_by_answering_others_for_longer_than_a_probe_takes(
    pause_ns: int, last_ns: int, classes: list[Judgement]
) -> None:
    found = told(
        listed(50 * S, "a", "b", "c"),
        *answers(*SILENT[:2], pod="a"),
        *(fell(session, who("a"), pause_ns) for session in SILENT[:2]),
        *canaries(8, "b"),
        confirmed(FELL_NS + 25 * S),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + last_ns),
    )
    assert found == {SILENT[0]: [POD_SILENT], SILENT[1]: classes}


def test_without_a_watch_a_pod_that_comes_back_accuses_nobody_either() -> None:
    classes = told(
        *answers(*SILENT[:2], pod="a"),
        FirstAnswer(60 * S, "CLIENT-4", 0, who("b")),
        FirstAnswer(60 * S, "CLIENT-5", 0, who("c")),
        *(fell(session, who("a")) for session in SILENT[:2]),
        *canaries(8, "b"),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + 50 * MS),
    )
    assert classes == {session: [POD_SILENT] for session in SILENT[:2]}


def test_under_client_ip_affinity_canaries_prove_no_pod_silent() -> None:
    """They say of no pod that it would have been met."""
    sticky = PoolSnapshot(pool("a", "b", "c").endpoints, (("sessionAffinity", "ClientIP"),))
    classes = told(
        PoolObserved(50 * S, 49 * S, 50 * S, sticky, 50 * S - MS),
        *answers(*SILENT[:2], pod="a"),
        *(fell(session, who("a")) for session in SILENT[:2]),
        *canaries(8, "b"),
        confirmed(FELL_NS + 25 * S),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + 50 * MS),
    )
    assert classes == {session: [Judgement.UNKNOWN] for session in SILENT[:2]}


def test_a_node_that_is_ready_again_before_its_pods_answer_was_not_ready() -> None:
    classes = told(
        listed(50 * S, "a", "b", "c"),
        *answers(*SILENT[:2], pod="a"),
        *(fell(session, who("a")) for session in SILENT[:2]),
        ClusterEvent(FELL_NS + 7 * S, ClusterSubject.NODE, "node-of-a", ClusterAction.NOT_READY),
        confirmed(FELL_NS + 25 * S),
        ClusterEvent(BACK_NS - S, ClusterSubject.NODE, "node-of-a", ClusterAction.READY),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + 50 * MS),
    )
    assert classes == {session: [POD_SILENT] for session in SILENT[:2]}


def test_an_ingress_that_comes_back_had_the_balancers_time() -> None:
    """Its first session that is answered again does not shorten the time that the others had."""
    joined_ns = FELL_NS + S
    behind = (IngressSample("10.0.0.2", FELL_NS + 4 * S),)
    alive = (PodSample("a", b"a", FELL_NS + 4 * S), PodSample("b", b"b", FELL_NS + 4 * S))
    classes = told(
        listed(50 * S, "a", "b"),
        *answers(*SILENT[:2], pod="a"),
        PoolObserved(joined_ns, joined_ns - S // 2, joined_ns, pool("a", "b", "c")),
        *(fell(session, who("a")) for session in SILENT[:2]),
        PathsAnswered(FELL_NS + 6 * S, alive, behind),
        confirmed(FELL_NS + 15 * S),
        back(SILENT[0], who("a"), BACK_NS),
        back(SILENT[1], who("a"), BACK_NS + 50 * MS),
    )
    assert classes == {session: [Judgement.EXPLAINED] for session in SILENT[:2]}
