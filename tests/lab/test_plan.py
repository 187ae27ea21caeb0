"""Plans: what may be written, and what one is told otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from affinity_tester.core.events import Outcome
from affinity_tester.errors import UserError
from affinity_tester.lab.faults import (
    FAULTS,
    DuplicateReorder,
    LossDown,
    LossUp,
    NodeRehash,
    PodAdded,
    PodDeleted,
    PortRewrite,
)
from affinity_tester.lab.model import Affinity, Policy
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin, load_file, load_plan, parse

S = 1_000_000_000
MS = 1_000_000


def test_the_demos_plan() -> None:
    assert builtin("demo") == Plan(
        seed=20,
        duration_ns=32 * S,
        sessions=10,
        interval_ns=100 * MS,
        pods=3,
        nodes=3,
        policy=Policy.CLUSTER,
        affinity=Affinity.NONE,
        idle_ns=30 * S,
        settle_ns=2 * S,
        faults=(
            NodeRehash(at_ns=4 * S, fraction=0.5),
            PortRewrite(at_ns=7 * S, sessions=3),
            PodAdded(at_ns=12 * S, fraction=0.3),
            PodDeleted(at_ns=17 * S, gap_ns=1200 * MS),
            LossUp(at_ns=23 * S, for_ns=1500 * MS, sessions=3, probability=0.7),
            LossDown(at_ns=25500 * MS, for_ns=1500 * MS, sessions=3, probability=0.7),
            DuplicateReorder(at_ns=28 * S, for_ns=2 * S, sessions=3, probability=0.5, delay_ns=250 * MS),
        ),
    )


def test_what_is_left_out_has_its_default_and_faults_are_sorted_by_time() -> None:
    plan = parse(
        """
        policy: Local
        affinity: None
        seed: 9
        faults:
          - fault: port-rewrite
            at: 4
          - {fault: loss-up, at: 900ms}
        """,
        "x.yaml",
    )
    assert plan == Plan(
        seed=9,
        policy=Policy.LOCAL,
        faults=(LossUp(at_ns=900 * MS, for_ns=S, sessions=1, probability=1.0), PortRewrite(at_ns=4 * S, sessions=1)),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: the plan is empty"),
        ("a: [", "x.yaml:1: not YAML: expected the node content, but found '<stream end>'"),
        ("a: \0", "x.yaml: not YAML: unacceptable character #x0000: special characters are not allowed"),
        ("- 1", "x.yaml:1: a plan is a mapping, such as {at: 5s}"),
        ("seed: 1\nseed: 2", "x.yaml:2: 'seed' is given twice"),
        ("[1]: 2", "x.yaml:1: a key is a single value"),
        (
            "sed: 1",
            "x.yaml:1: a plan has no 'sed'; it has affinity, alike, bridges, check, duration, faults, idle, interval, late, "
            "nodes, "
            "outside, pods, policy, seed, sessions, settle, size, sizes, verdict, vip, window",
        ),
        ("\nseed: one", "x.yaml:2: seed: 'one' is not a whole number"),
        ("seed: [1]", "x.yaml:1: seed is a single value"),
        ("sessions: 0", "x.yaml:1: sessions: '0' is not a whole number from 1 to 1000"),
        ("sessions: 1001", "x.yaml:1: sessions: '1001' is not a whole number from 1 to 1000"),
        ("nodes: 101", "x.yaml:1: nodes: '101' is not a whole number from 1 to 100"),
        (
            "verdict: GOOD",
            "x.yaml:1: verdict: 'GOOD' is not one of PASS, INCONCLUSIVE, FAIL, or some with commas between",
        ),
        ("late: -1", "x.yaml:1: late: '-1' is not a time: seconds, or a number with a unit (0, 0.5, 500ms, 2s)"),
        (
            "check: 0",
            "x.yaml:1: check: '0' is not a time above 0: seconds, or a number with a unit (0.5, 500ms, 2s)",
        ),
        ("policy: Both", "x.yaml:1: policy: 'Both' is not Cluster or Local"),
        (
            "duration: soon",
            "x.yaml:1: duration: 'soon' is not a time above 0: seconds, or a number with a unit (0.5, 500ms, 2s)",
        ),
        ("faults: 1", "x.yaml:1: faults is a list, such as [{fault: port-rewrite, at: 5s}]"),
        ("faults: [1]", "x.yaml:1: a fault is a mapping, such as {at: 5s}"),
        (
            "faults:\n - {at: 5s}",
            f"x.yaml:2: a fault needs 'fault', its name: one of {', '.join(sorted(FAULTS))}",
        ),
        (
            "faults: [{fault: gremlin}]",
            f"x.yaml:1: there is no fault 'gremlin'; there are {', '.join(sorted(FAULTS))}",
        ),
        ("faults: [{fault: loss-up}]", "x.yaml:1: loss-up needs 'at': when, from the start of the run"),
        (
            "faults:\n - {fault: node-rehash, at: 5s,\n    fraction: 2}",
            "x.yaml:3: fraction: '2' is not a share above 0, at most 1 (0.5)",
        ),
        (
            "faults: [{fault: node-rehash, at: 5s, fraction: nan}]",
            "x.yaml:1: fraction: 'nan' is not a share above 0, at most 1 (0.5)",
        ),
        (
            "faults: [{fault: port-rewrite, at: 5s, for: 1s}]",
            "x.yaml:1: port-rewrite has no 'for'; it has at, fault, sessions",
        ),
        (
            "faults: [{fault: port-rewrite, at: 0.1}]",
            "x.yaml: port-rewrite at 100 ms is too early: from 800 ms on every session has been answered",
        ),
        (
            "duration: 10s\nfaults: [{fault: loss-up, at: 9s, for: 500ms}]",
            "x.yaml: loss-up at 9 s is too late: it must be over 800 ms before the end at 10 s",
        ),
        (
            "sessions: 400",
            "x.yaml: 400 sessions with a probe every 100 ms are too much for one process: at most 3000 probes/s",
        ),
        (
            "faults: [{fault: client-nat, at: 5s}]",
            "x.yaml: client-nat is made for policy Local: under policy Cluster pods see the nodes' addresses, not the "
            "client's",
        ),
        ("faults: [{fault: client-ip-spread}]", "x.yaml: client-ip-spread is made for affinity ClientIP"),
        ("vip: maybe", "x.yaml:1: vip: 'maybe' is not yes or no"),
        ("alike: gremlin", "x.yaml:1: alike: 'gremlin' is not names of the catalogue, with commas between"),
        ("size: 21", "x.yaml:1: size: '21' is not a multiple of 4 from 20 to 65504"),
        (
            "sizes: 20,a",
            "x.yaml:1: sizes: '20,a' is not a multiple of 4 from 20 to 65504, with commas between ('288,1400')",
        ),
        (
            "faults: [{fault: pod-added, at: 5s, fraction: -1}]",
            "x.yaml:1: fraction: '-1' is not a share from 0 to 1 (0.5)",
        ),
        (
            "sessions: 2\nfaults: [{fault: loss-up, at: 5s, sessions: 3}]",
            "x.yaml: loss-up is to hit 3 sessions, and the plan has 2",
        ),
        (
            "faults: [{fault: duplicate-reorder, at: 5s, delay: 2s}]",
            "x.yaml: duplicate-reorder holds replies back for 2 s: more than the interval (100 ms) and less than "
            "1 s is possible, else nothing is reordered, or replies count as lost",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(text, "x.yaml")
    assert str(error.value) == message


def test_a_plan_in_another_time() -> None:
    plan = builtin("demo").scaled_to(16 * S)
    assert plan.duration_ns == 16 * S
    assert [(fault.at_ns, fault.lasts_ns) for fault in plan.faults] == [
        (2 * S, 0),
        (3500 * MS, 0),
        (6 * S, 0),
        (8500 * MS, 1200 * MS),
        (11500 * MS, 750 * MS),
        (12750 * MS, 750 * MS),
        (14 * S, S),
    ]
    with pytest.raises(UserError) as error:
        builtin("demo").scaled_to(2 * S)
    assert str(error.value) == (
        "the plan does not fit into 2 s: node-rehash at 250 ms is too early: "
        "from 800 ms on every session has been answered"
    )


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    with pytest.raises(UserError) as error:
        load_file(file)
    assert str(error.value) == f"cannot read the plan {file}: No such file or directory"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError) as error:
        load_file(file)
    assert str(error.value) == f"the plan {file} is not UTF-8 text"
    file.write_text("seed: 3")
    assert load_file(file) == Plan(seed=3)


def test_what_the_run_is_judged_by_is_part_of_the_plan() -> None:
    plan = parse("check: 3s\nlate: 0\nverdict: FAIL, INCONCLUSIVE", "x")
    assert (plan.check_ns, plan.late_ns, plan.verdict) == (3 * S, 0, {Outcome.FAIL, Outcome.INCONCLUSIVE})
    plain = parse("seed: 1", "x")
    assert (plain.check_ns, plain.late_ns, plain.verdict) == (35 * S, 0, set(Outcome))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hung-pod", "did you mean control-hung-pod or control-hung-pod-to-the-end? "),
        ("flowwipe", "did you mean flow-wipe or flow-wipe-local"),
        ("gremlin", "a shipped one: `affinity-tester lab --list`"),
    ],
)
def test_a_plan_that_is_not_there_is_said_with_those_that_are_like_it(name: str, hint: str) -> None:
    with pytest.raises(UserError) as told:
        load_plan(name)
    assert hint in str(told.value)
