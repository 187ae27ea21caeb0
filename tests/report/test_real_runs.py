"""What was recorded on a real data plane, judged by today's rules: each has its right answer (tests/data/real/README.md)."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from affinity_tester.core.events import (
    ApiServerAnswered,
    CaseJudged,
    Certainty,
    Change,
    ClusterEvent,
    Diagnosis,
    Event,
    IncidentClosed,
    Judgement,
    NodeAddresses,
    OutageCase,
    OutageStarted,
    Outcome,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    PoolWatchStarted,
    Verdict,
)
from affinity_tester.core.replay import judge_again
from affinity_tester.report.reason_text import reason_text
from affinity_tester.report.record import read_record
from commands import environment
from pools import is_judged

RUNS = Path(__file__).parent.parent / "data" / "real"
FROM_THE_CLUSTER = (
    ApiServerAnswered,
    ClusterEvent,
    NodeAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
    PoolWatchStarted,
)
"""What a run without cluster access lacks."""

STILL = "no endpoint had changed"
TIME = r"\d+\.\d s"
OWN_GOES = rf'pod "{{own}}" (left the pool|is terminating, still serving|became not ready) {TIME} before'
"""The reason where a session's own pod went."""


@dataclass(frozen=True)
class Right:
    """What is right to say of a run."""

    outcome: Outcome
    verdict: tuple[str, ...]
    """A pattern for each of its reasons."""
    changes: dict[str, int] = field(default_factory=dict)
    """By class; `avoidable` are those explained ones."""
    outages: dict[str, int] = field(default_factory=dict)
    """By the classes that were told, in order."""
    reasons: dict[str, str] = field(default_factory=dict)
    """By class: a pattern for the first reason of each. `{own}` is the pod that had answered the session."""


def fails(count: int, changes: dict[str, int] | None = None, reasons: dict[str, str] | None = None) -> Right:
    """So many flows were changed while the pool stood still."""
    counts, said = {"violation": count} | (changes or {}), {"violation": STILL} | (reasons or {})
    return Right(Outcome.FAIL, (f"{count} violations",), counts, reasons=said)


def passes(*also: str, changes: dict[str, int] | None = None, reasons: dict[str, str] | None = None) -> Right:
    """What changed is excused."""
    return Right(Outcome.PASS, ("no violation", *also), changes or {}, reasons=reasons or {})


LOST = r"\d+\.\d\d % of the probes were lost"
BEGAN = rf"the watch of the pool began {TIME} before it"

RIGHT = {
    "01-lb-add-node4.cn": fails(12),
    "01-lb-add-node4.ln": fails(10),
    "03-flush-all.cc": fails(24),
    "03-flush-all.cn": fails(24),
    "03-flush-all.ln": fails(10),
    "04-flush-node1.cc": fails(2),
    "05-kproxy-restart-all.cn": passes(),
    "07-pod-delete-graceful.cn": passes(LOST, changes={"explained": 5}, reasons={"explained": OWN_GOES}),
    "08-pod-crash.lc": passes(
        LOST, changes={"explained": 5}, reasons={"explained": rf'pod "{{own}}" became not ready {TIME} before'}
    ),
    "10-rollout.cc": passes(LOST, changes={"explained": 24}, reasons={"explained": OWN_GOES}),
    # A violation by the rule; but the old client sent one canary after the settle time, and the rule asks for three.
    "11-stale-flow.cn": Right(
        Outcome.INCONCLUSIVE,
        ("1 change or outage could not be judged",),
        {"explained": 2},
        {"explained, unknown": 1},
        {
            "explained": OWN_GOES,
            "explained, unknown": 'pod "{own}" is gone, and too few test probes were answered since to tell',
        },
    ),
    "12-dead-node.cc": Right(
        Outcome.PASS,
        ("no violation", LOST, "6 outages of pods that answered nobody"),
        outages={"pod-silent": 6},
        reasons={"pod-silent": 'node "node2" of pod "{own}" is NotReady'},
    ),
    "12-dead-node.cn": Right(
        Outcome.FAIL,
        ("6 violations",),
        outages={"violation": 6, "pod-silent": 5},
        reasons={
            "violation": f'pod "{{own}}" answers others, and {STILL}',
            "pod-silent": 'node "node2" of pod "{own}" is NotReady',
        },
    ),
    "14-service-changed.cn": passes(),
    "15-idle-5s.cc": fails(226, {"unknown": 48}, {"unknown": BEGAN}),
    "40-local-last-pod-of-node-deleted.ln": passes(
        "3 changes that a sound proxy would have avoided: --fail-on avoidable",
        changes={"explained": 6, "avoidable": 3},
        reasons={
            "explained": rf'pod "{{own}}" is terminating, still serving {TIME} before',
            "avoidable": rf'pod "pod-e" is terminating, still serving {TIME} before',
        },
    ),
    "51-idle-35s-real-timeouts.cn": Right(
        Outcome.INCONCLUSIVE,
        ("only 0 judged pairs that could have failed, fewer than 300: an interval longer than --affinity-window .*",),
        {"idle": 373},
        reasons={"idle": "35.0 s without a probe, longer than the affinity window"},
    ),
    "60-nodeport-collision.np": fails(48),
    "61-flush-early": Right(
        Outcome.INCONCLUSIVE,
        ("24 changes or outages could not be judged",),
        {"unknown": 24},
        reasons={"unknown": BEGAN},
    ),
    "62-flush-twice.cn": fails(48),
    "72-scale-to-zero-and-back.cn": passes(
        LOST,
        r"nobody was answered for 10\.3 s \(21\.5 % of the run\), no endpoint was ready",
        changes={"explained": 24},
        reasons={"explained": rf'pod "{{own}}" left the pool {TIME} before'},
    ),
}

# What must be named, and said or not said beside it.
RIGHT_NAME = {
    "01-lb-add-node4.cn": ("node-rehash",),
    "01-lb-add-node4.ln": ("node-rehash",),
    "03-flush-all.cc": ("flow-wipe",),
    "03-flush-all.cn": ("flow-wipe",),
    "03-flush-all.ln": ("flow-wipe",),
    "04-flush-node1.cc": ("flow-wipe",),  # and no "run with cluster access", which it had
    "05-kproxy-restart-all.cn": (),
    "07-pod-delete-graceful.cn": (),
    "08-pod-crash.lc": (),
    "10-rollout.cc": (),  # near: folded
    "11-stale-flow.cn": ("stale-flow",),
    "12-dead-node.cc": ("pod-silent",),
    "12-dead-node.cn": ("dead-target", "pod-silent"),
    "14-service-changed.cn": (),  # no hint at port-rewrite
    "15-idle-5s.cc": ("idle-expiry",),  # not packet-spray
    "40-local-last-pod-of-node-deleted.ln": ("node-rehash",),  # the three avoidable ones
    "51-idle-35s-real-timeouts.cn": ("idle-expiry",),
    "60-nodeport-collision.np": ("flow-wipe",),  # not node-rehash first
    "61-flush-early": (),
    "62-flush-twice.cn": ("flow-wipe",),  # not node-rehash first
    "72-scale-to-zero-and-back.cn": (),  # an empty pool: no terminating-backend, and no pod-restart of a pod made anew
}


NOT_YET = {
    "11-stale-flow.cn",
    "12-dead-node.cc",
    "12-dead-node.cn",
    "14-service-changed.cn",
    "72-scale-to-zero-and-back.cn",
}
"""Runs whose names are not asserted here."""


def path_of(name: str) -> Path:
    return RUNS / f"{name}.jsonl.gz"


def judged(name: str) -> list[Event]:
    """All events of a run, judged anew."""
    return list(judge_again(read_record(path_of(name), on_truncated=pytest.fail)))


def rejudged(affinity_tester: Path, name: str) -> subprocess.CompletedProcess[str]:
    """What the installed command says of a run, judged anew."""
    command = [str(affinity_tester), "report", str(path_of(name)), "--rejudge"]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)


def class_of(event: CaseJudged) -> str:
    return "avoidable" if event.avoidable and isinstance(event.case, Change) else event.judgement.value


def own_pods(events: list[Event]) -> dict[tuple[str, int], str]:
    """By session and first silent probe: the pod that had answered before."""
    started = [event for event in events if isinstance(event, OutageStarted)]
    return {(e.session, e.since_seq): e.last.identity.pod or "" for e in started if e.last is not None}


def test_each_run_has_its_right_answer() -> None:
    assert {path.name for path in RUNS.glob("*.gz")} == {path_of(name).name for name in RIGHT}
    assert RIGHT_NAME.keys() == RIGHT.keys()


@pytest.mark.parametrize("name", RIGHT)
def test_a_real_run_is_judged_rightly(name: str) -> None:
    right, events = RIGHT[name], judged(name)
    own = own_pods(events)

    changes: dict[tuple[str, int], tuple[str, str, str]] = {}
    outages: dict[tuple[str, int], list[tuple[str, str, str]]] = {}
    for event in events:
        match event:
            case CaseJudged(case=Change() as change):
                pod = change.before.identity.pod or ""
                changes[event.session, change.number] = (class_of(event), pod, reason_text(event.reasons[0]))
            case CaseJudged(case=case):
                assert isinstance(case, OutageCase)
                key = (event.session, case.since_seq)
                outages.setdefault(key, []).append((class_of(event), own[key], reason_text(event.reasons[0])))
    told = [(", ".join(each[0] for each in course), *course[-1][1:]) for course in outages.values()]

    assert Counter(each[0] for each in changes.values()) == right.changes
    assert Counter(each[0] for each in told) == right.outages
    for kind, pod, reason in (*changes.values(), *told):
        assert re.fullmatch(right.reasons[kind].replace("{own}", re.escape(pod)), reason), (kind, pod, reason)

    verdict = events[-1]
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is right.outcome
    assert len(verdict.reasons) == len(right.verdict), verdict.reasons
    for pattern, reason in zip(right.verdict, verdict.reasons, strict=True):
        assert re.fullmatch(pattern, reason)


def named(name: str) -> list[Diagnosis]:
    """What the incidents of a run are named, `likely` or not."""
    closed = [event.incident for event in judged(name) if isinstance(event, IncidentClosed)]
    return [diagnosis for incident in closed for diagnosis in incident.diagnoses]


@pytest.mark.parametrize("name", sorted(RIGHT_NAME.keys() - NOT_YET))
def test_a_real_run_has_its_right_name(name: str) -> None:
    told = named(name)
    likely = {each.name for each in told if each.certainty is Certainty.LIKELY}
    if name != "61-flush-early":  # judged unknown: what it was is said all the same
        assert likely == set(RIGHT_NAME[name])
    for each in told:
        assert "run with cluster access" not in each.missing


def test_two_wipes_are_one_and_lead_to_no_other_ingress() -> None:
    for name in ("60-nodeport-collision.np", "62-flush-twice.cn"):
        (wiped,) = named(name)
        assert wiped.name == "flow-wipe"
        assert any(re.fullmatch(r"wiped twice in [01]\.\d s", fact) for fact in wiped.evidence)


def test_three_sessions_were_rehashed_off_a_pod_that_served() -> None:
    (rehash,) = named("40-local-last-pod-of-node-deleted.ln")
    assert rehash.evidence[0] == (
        '3 of 24 sessions left pod "pod-d", ready and serving all the time, for another ingress (node2 -> node1)'
    )


@pytest.mark.parametrize("name", ["11-stale-flow.cn", "12-dead-node.cn", "12-dead-node.cc"])
def test_what_is_dead_is_named(name: str) -> None:
    named = [
        diagnosis
        for event in judged(name)
        if isinstance(event, IncidentClosed)
        for diagnosis in event.incident.diagnoses
    ]
    assert {diagnosis.name for diagnosis in named} == set(RIGHT_NAME[name])
    assert {diagnosis.certainty for diagnosis in named} == {Certainty.LIKELY}
    if name == "12-dead-node.cn":
        said = 'that came in through node "node2" (8) or whose pod was on node "node2" (5): one machine'
        assert any(said in fact for diagnosis in named for fact in diagnosis.evidence)


def test_a_dead_node_is_named_without_the_cluster_too() -> None:
    """The pods' node names and the reflexive IPs tell it."""
    seen = [
        event
        for event in read_record(path_of("12-dead-node.cn"), on_truncated=pytest.fail)
        if not isinstance(event, FROM_THE_CLUSTER)
    ]
    incidents = [event.incident for event in judge_again(iter(seen)) if isinstance(event, IncidentClosed)]
    named = [(each.name, each.certainty) for incident in incidents for each in incident.diagnoses]
    assert named == [("dead-target", Certainty.LIKELY), ("pod-silent", Certainty.LIKELY)]


def test_an_empty_pool_is_no_terminating_backend() -> None:
    incidents = [
        event.incident for event in judged("72-scale-to-zero-and-back.cn") if isinstance(event, IncidentClosed)
    ]
    assert "terminating-backend" not in {each.name for incident in incidents for each in incident.diagnoses}


def test_of_a_dead_node_only_the_flows_to_pods_that_live_are_violations() -> None:
    events = judged("12-dead-node.cn")
    lost = {e.session: e.last.identity for e in events if isinstance(e, OutageStarted) and e.last is not None}
    last = {e.session: e.judgement for e in events if is_judged(e, OutageCase)}
    on_it = {session for session, who in lost.items() if who.node == "node2"}
    through_it = {s for s, who in lost.items() if who.reflexive is not None and who.reflexive.ip == "10.240.0.12"}
    assert {session for session, judgement in last.items() if judgement is Judgement.POD_SILENT} == on_it
    assert {session for session, judgement in last.items() if judgement is Judgement.VIOLATION} == through_it - on_it
    assert (len(on_it), len(through_it - on_it)) == (5, 6)


@pytest.mark.parametrize(
    ("name", "code", "lines"),
    [
        ("05-kproxy-restart-all.cn", 0, ["      no violation"]),
        ("12-dead-node.cn", 1, ["FAIL: 6 violations", "outages judged: 6 violations, 5 pod-silent"]),
        (
            "61-flush-early",
            3,
            ["INCONCLUSIVE: 24 changes or outages could not be judged", "changes judged: 24 unknown"],
        ),
    ],
)
def test_the_installed_command_says_so(affinity_tester: Path, name: str, code: int, lines: list[str]) -> None:
    done = rejudged(affinity_tester, name)
    assert (done.returncode, done.stderr) == (code, "")
    told = done.stdout.splitlines()
    first = len(told) - 1 - told[::-1].index(lines[0])  # in the summary: the verdict stands at the top too
    assert told[first : first + len(lines)] == lines


def test_nothing_is_said_to_have_stood_still_where_that_is_not_known(affinity_tester: Path) -> None:
    done = rejudged(affinity_tester, "61-flush-early")
    assert "unknown: the watch of the pool began" in done.stdout
    assert STILL not in done.stdout.replace(f"whether {STILL} is not known", "")
