"""`affinity-tester lab`: one plan as its users run it, and what many runs are counted to."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import busy
from affinity_tester.app import lab_matrix
from affinity_tester.app.lab_document import document_text
from affinity_tester.app.lab_result import Result
from affinity_tester.app.lab_run import Staged
from affinity_tester.cli import lab, main
from affinity_tester.cli.lab_output import Face, table
from affinity_tester.core.diagnosis import CATALOGUE
from affinity_tester.core.events import Certainty, Diagnosis, Outcome, Verdict
from affinity_tester.lab.compare import Findings, Row
from affinity_tester.lab.faults import FAULTS, LaptopAsleep, StuckFlows
from affinity_tester.lab.naming import Named
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import shipped, shipped_comment, shipped_names
from affinity_tester.report.logging import Tint

LIKELY = Diagnosis("port-rewrite", Certainty.LIKELY, ("3 of 10 sessions have a new reflexive port",))
POSSIBLE = Diagnosis("flow-wipe", Certainty.POSSIBLE, ("it fits",), missing="a fact")
ROW = Row(1, "port-rewrite", "done", "to see", "1 session: reflexive_port 1", ())


def staged(
    *, row: Row = ROW, unexpected: tuple[str, ...] = (), first: tuple[Diagnosis, ...] = (LIKELY,), control: bool = False
) -> Staged:
    verdict = Verdict(0, Outcome.FAIL, ("1 violation",), "", violations=1, judged_pairs=10, still_ns=1)
    name = Named(1, "port-rewrite", control, frozenset({"port-rewrite"}), first)
    return Staged(verdict, Findings((row,), unexpected), (name,), (), busy=False)


def lines(run: Staged, *, interrupted: bool = False) -> list[tuple[str, Tint | None]]:
    return list(table(run, 5, "lab", interrupted=interrupted))


def test_the_table_of_a_run_in_which_all_agrees() -> None:
    assert lines(staged()) == [
        ("", None),
        ("injected / seen / named (seed 5)", None),
        ("  1  port-rewrite: ok", Tint.GOOD),
        ("     injected  done", None),
        ("     expected  to see", None),
        ("     seen      1 session: reflexive_port 1", None),
        ("     named     likely port-rewrite", None),
        ("     nothing else: ok", Tint.GOOD),
        (
            "lab ok: every fault was seen, each by the right sessions, and nothing else turned red (the client's FAIL above"
            " is what the faults are for)",
            Tint.GOOD,
        ),
    ]


def test_the_table_names_every_problem() -> None:
    wrong = replace(ROW, seen="nothing", problems=("CLIENT-1: it saw no change of reflexive_port",))
    assert lines(staged(row=wrong, unexpected=("CLIENT-2: it told of outage, which nothing caused",))) == [
        ("", None),
        ("injected / seen / named (seed 5)", None),
        ("  1  port-rewrite: NOT OK", Tint.VIOLATION),
        ("     injected  done", None),
        ("     expected  to see", None),
        ("     seen      nothing", None),
        ("     named     likely port-rewrite", None),
        ("     problem   CLIENT-1: it saw no change of reflexive_port", Tint.VIOLATION),
        ("     nothing else: NOT OK", Tint.VIOLATION),
        ("     problem   CLIENT-2: it told of outage, which nothing caused", Tint.VIOLATION),
        ("lab NOT OK: what was injected and what was seen do not agree", Tint.VIOLATION),
    ]


def test_a_wrong_name_is_a_problem_of_the_lab_and_not_of_the_demo() -> None:
    assert lines(staged(first=(POSSIBLE,)))[-2:] == [
        ("     problem   port-rewrite: it was named possible flow-wipe, not likely port-rewrite", Tint.VIOLATION),
        ("lab NOT OK: a fault was not named as it should be", Tint.VIOLATION),
    ]
    assert list(table(staged(first=(POSSIBLE,)), 5, "demo", interrupted=False))[-1][1] is Tint.GOOD


def test_an_interrupted_run_says_so_and_a_pass_needs_no_excuse() -> None:
    assert lines(staged(), interrupted=True)[-1] == (
        "lab interrupted: what could not be injected or seen any more stands above as a problem",
        Tint.DOUBTFUL,
    )
    passed = replace(staged(), verdict=replace(staged().verdict, outcome=Outcome.PASS))
    assert lines(passed)[-1] == (
        "lab ok: every fault was seen, each by the right sessions, and nothing else turned red",
        Tint.GOOD,
    )


@pytest.mark.parametrize(
    ("run", "problems"),
    [
        (staged(), ()),
        (
            staged(first=(POSSIBLE,)),
            ("port-rewrite: it was named possible flow-wipe, not likely port-rewrite",),
        ),
        (staged(first=()), ("port-rewrite: it was named nothing, not likely port-rewrite",)),
        (staged(first=(), control=True), ()),
        (replace(staged(), strangers=("mtu",)), ("it was likely mtu, which nobody did",)),
        (staged(row=replace(ROW, problems=("a flaw",))), ("port-rewrite: a flaw",)),
        (staged(unexpected=("an outage",)), ("an outage",)),
        (
            replace(staged(), busy=True),
            ("the machine was too busy for the client to send on time, each time: take fewer --jobs",),
        ),
    ],
)
def test_a_run_is_as_declared_or_says_why_not(run: Staged, problems: tuple[str, ...]) -> None:
    assert lab_matrix.result_of("port-rewrite", 1, run).problems == problems


def test_a_violation_in_a_control_is_a_problem() -> None:
    result = lab_matrix.result_of("control-nothing", 1, staged(control=True))
    assert result.problems == ("1 violations, where nothing is one",)
    assert result.control


RESULTS = [
    Result("port-rewrite", 1, control=False, names=("likely port-rewrite",), right=LIKELY, violations=3, problems=()),
    Result("port-rewrite", 2, control=False, names=(), right=None, violations=0, problems=("it was named nothing",)),
    Result("control-nothing", 1, control=True, names=(), right=None, violations=0, problems=()),
]


def test_runs_are_counted() -> None:
    assert lab_matrix.counts(RESULTS) == [
        "port-rewrite     1/2 as declared  named first: likely port-rewrite 1",
        "control-nothing  1/1 as declared  named first: nothing",
    ]


def test_a_run_that_a_busy_machine_spoilt_is_repeated_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [replace(staged(), busy=True), replace(staged(), busy=True), staged()]

    monkeypatch.setattr(lab_matrix, "staged_once", lambda _plan: runs.pop(0))
    result = lab_matrix.run_one("port-rewrite", 3)
    assert (result.repeated, result.problems) == (2, ())
    last = "2 runs were repeated: the machine was too busy for the client to send on time"
    assert lab_matrix.counts([result])[-1] == last
    assert "2 further runs proved nothing" in document_text([result])


def test_the_document_has_counts_evidence_and_what_looks_alike() -> None:
    text = document_text(RESULTS)
    assert "| [`port-rewrite`](#port-rewrite) | 2 | 1 | likely port-rewrite (1) |\n" in text
    assert "| `control-nothing` | nothing happens. | 1 | 0 | nothing |\n" in text
    assert "\n### port-rewrite\n\nA few flows of different nodes get another port in mid-session.\n" in text
    assert "\n- 3 of 10 sessions have a new reflexive port\n" in text
    assert "- **`flow-wipe` and `port-rewrite`**, when " in text


def test_a_fault_that_was_never_named_says_so_in_the_document() -> None:
    assert "\nIt was never named.\n" in document_text(RESULTS[1:2])


def test_every_fault_of_the_catalogue_can_be_injected_and_has_a_plan() -> None:
    assert {fault.catalogued or name for name, fault in FAULTS.items()} >= CATALOGUE.keys()
    plans = [shipped(name) for name in shipped_names()]
    assert {fault.name for plan in plans for fault in plan.faults} == FAULTS.keys()


def test_a_plan_takes_no_longer_than_its_kind_needs() -> None:
    """All of them run twice in CI. A sleeping machine takes no time; the demo is no case of its own.

    A silence at a slow interval needs longest: it must outlast the proof that the pod lives by three probes.
    """
    for name in set(shipped_names()) - {"demo"}:
        plan = shipped(name)
        asleep_ns = sum(fault.lasts_ns for fault in plan.faults if isinstance(fault, LaptopAsleep))
        slow = plan.interval_ns >= 2_000_000_000
        silent = any(isinstance(fault, StuckFlows) for fault in plan.faults)
        most_s = 26 if slow and silent else 18 if slow else 17
        assert plan.duration_ns - asleep_ns <= most_s * 1_000_000_000, name


def test_controls_say_so_and_want_no_failure() -> None:
    """What ends as a violation is no control, and what a plan wants of the verdict says the same."""
    for name in shipped_names():
        plan = shipped(name)
        assert name.startswith("control-") == (shipped_comment(name).startswith("Control: ")), name
        if name.startswith("control-") and plan.verdict != frozenset(Outcome):
            assert Outcome.FAIL not in plan.verdict, name


@pytest.mark.busy
def test_the_whole_of_it_with_real_runs(
    affinity_tester: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two plans over one seed, each in a process; what the workers do is tested by every other lab run."""
    monkeypatch.setattr(lab_matrix, "shipped_names", lambda: ("control-nothing", "demo", "first-packet-race"))
    document = tmp_path / "docs" / "diagnosis.md"
    wrong = lab_matrix.run_all(range(1, 2), 2, document)
    out = capsys.readouterr().out
    busy.look_at(out)
    assert wrong == 0
    assert out.splitlines() == [
        "control-nothing    1/1 as declared  named first: nothing",
        "first-packet-race  1/1 as declared  named first: likely first-packet-race 1",
    ]
    assert document.read_text().startswith("# How the diagnosis is proved\n")


@pytest.mark.busy
def test_one_plan_as_json(affinity_tester: Path) -> None:
    done = subprocess.run(
        [affinity_tester, "lab", "first-packet-race", "--log-format", "json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    busy.look_at(done.stdout)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    (fault,) = [each for each in told if each["event"] == "lab.fault"]
    assert (fault["fault"], fault["problems"], fault["named"]) == ("first-packet-race", [], "likely first-packet-race")
    assert told[-1]["misnamed"] == []
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_has_every_fault_and_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["lab", "--list"])
    assert end.value.code == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed if line.startswith("  ")] == [*FAULTS, *shipped_names()]
    assert (
        "  api-gone             control: The API server does not answer for a time: the pool is not known then."
        in listed
    )


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Plan:
    """The plan that a command line runs."""
    plans: list[Plan] = []

    def run(plan: Plan, _face: Face) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(lab, "run_lab", run)
    with pytest.raises(SystemExit) as end:
        main.main(["lab", *arguments])
    assert end.value.code == 0
    (plan,) = plans
    return plan


def test_a_plan_is_a_shipped_one_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("sessions: 3")
    assert called(monkeypatch, "node-rehash") == shipped("node-rehash")
    assert called(monkeypatch, "node-rehash", "--seed", "7") == replace(shipped("node-rehash"), seed=7)
    assert called(monkeypatch, str(file)) == Plan(sessions=3)
    monkeypatch.setenv("AFFINITY_SEED", "8")
    assert called(monkeypatch, str(file)) == Plan(sessions=3, seed=8)


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize(("wrong", "code"), [(0, 0), (2, 1)])
def test_all_plans_over_the_seeds(monkeypatch: pytest.MonkeyPatch, by_environment: bool, wrong: int, code: int) -> None:
    given = {"seeds": "3", "jobs": "2", "document": "/tmp/x.md"}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    if by_environment:
        for name, value in given.items():
            monkeypatch.setenv("AFFINITY_" + name.upper(), value)
        arguments = []
    asked: list[tuple[list[int], int, Path | None]] = []

    def run(seeds: range, jobs: int, document: Path | None) -> int:
        asked.append((list(seeds), jobs, document))
        return wrong

    monkeypatch.setattr(lab, "run_all", run)
    with pytest.raises(SystemExit) as end:
        main.main(["lab", "--all", *arguments])
    assert end.value.code == code
    assert asked == [([1, 2, 3], 2, Path("/tmp/x.md"))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no plan: name a file or a shipped plan (--list shows them), or run --all\n"),
        (
            ["gremlin"],
            "error: there is no plan 'gremlin', neither a file nor a shipped one: `affinity-tester lab --list` shows them\n",
        ),
        (["gone.yaml"], "error: cannot read the plan gone.yaml: No such file or directory\n"),
        (["mtu", "--all"], "error: PLAN and --all both say what to run: give one of them\n"),
        (["mtu", "--seeds", "3"], "error: --seeds goes with --all; for one run of a plan there is --seed\n"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["lab", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr() == ("", message)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_process_of_the_pool_outlives_a_killed_run(affinity_tester: Path) -> None:
    with subprocess.Popen(
        [affinity_tester, "lab", "--all", "--seeds", "1", "--jobs", "2"], stdout=subprocess.DEVNULL
    ) as run:
        deadline_s = time.monotonic() + 60
        while len(left := descendants(run.pid)) < 4:  # resource tracker, fork server, two workers
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        run.kill()
    while any(lives(pid) for pid in left):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Whether it runs: one that nobody has waited for yet has no command line any more."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Its children, their children and so on."""
    pids = [pid]
    for each in pids:
        with contextlib.suppress(OSError):
            pids += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return pids[1:]
