"""`affinity-tester lab`: one plan as its users run it, and what many runs are counted to."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import busy
from affinity_tester.app import lab_matrix
from affinity_tester.app.lab_matrix import PlanResult
from affinity_tester.app.lab_run import LabResult
from affinity_tester.cli import lab, main
from affinity_tester.cli.lab_output import LabOutput, table
from affinity_tester.cli.matrix_output import MatrixOutput
from affinity_tester.core.events import FaultInjected, Outcome, RunStarted, Verdict
from affinity_tester.lab.faults import FAULTS
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin, builtin_names
from affinity_tester.report.logging import Colour
from affinity_tester.report.record import read_record
from commands import environment
from lab_results import POSSIBLE, ROW, lab_result


def lines(run: LabResult, *, interrupted: bool = False) -> list[tuple[str, Colour | None]]:
    return list(table(run, 5, "lab", interrupted=interrupted))


def test_the_table_of_a_run_in_which_all_agrees() -> None:
    assert lines(lab_result()) == [
        ("", None),
        ("injected / seen / named (seed 5)", None),
        ("  1  port-rewrite: ok", Colour.GOOD),
        ("     injected  done", None),
        ("     expected  to see", None),
        ("     seen      1 session: reflexive_port 1", None),
        ("     named     likely port-rewrite", None),
        ("     nothing else: ok", Colour.GOOD),
        (
            "lab ok: every fault was seen, each by the right sessions, and nothing else was flagged (the client's FAIL above"
            " is what the faults are for)",
            Colour.GOOD,
        ),
    ]


def test_the_table_names_every_problem() -> None:
    wrong = replace(ROW, seen="nothing", problems=("CLIENT-1: it saw no change of reflexive_port",))
    assert lines(lab_result(row=wrong, unexpected=("CLIENT-2: it told of outage, which nothing caused",))) == [
        ("", None),
        ("injected / seen / named (seed 5)", None),
        ("  1  port-rewrite: NOT OK", Colour.VIOLATION),
        ("     injected  done", None),
        ("     expected  to see", None),
        ("     seen      nothing", None),
        ("     named     likely port-rewrite", None),
        ("     problem   CLIENT-1: it saw no change of reflexive_port", Colour.VIOLATION),
        ("     nothing else: NOT OK", Colour.VIOLATION),
        ("     problem   CLIENT-2: it told of outage, which nothing caused", Colour.VIOLATION),
        ("lab NOT OK: what was injected and what was seen do not agree", Colour.VIOLATION),
    ]


def test_a_wrong_name_is_a_problem_of_the_lab_and_not_of_the_demo() -> None:
    assert lines(lab_result(first=(POSSIBLE,)))[-2:] == [
        ("     problem   port-rewrite: it was named possible flow-wipe, not likely port-rewrite", Colour.VIOLATION),
        ("lab NOT OK: a fault was not named as it should be", Colour.VIOLATION),
    ]
    assert list(table(lab_result(first=(POSSIBLE,)), 5, "demo", interrupted=False))[-1][1] is Colour.GOOD


def test_an_interrupted_run_says_so_and_a_pass_needs_no_excuse() -> None:
    assert lines(lab_result(), interrupted=True)[-1] == (
        "lab interrupted: what it was cut short of is no failure, and nothing is proved by the rest",
        Colour.DOUBTFUL,
    )
    passed = replace(lab_result(), verdict=replace(lab_result().verdict, outcome=Outcome.PASS))
    assert lines(passed)[-1] == (
        "lab ok: every fault was seen, each by the right sessions, and nothing else was flagged",
        Colour.GOOD,
    )


@pytest.mark.busy
def test_the_whole_of_it_with_real_runs(
    affinity_tester: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two plans over one seed, each in a process; what the workers do is tested by every other lab run."""
    monkeypatch.setattr(lab_matrix, "builtin_names", lambda: ("control-nothing", "demo", "first-packet-race"))
    document = tmp_path / "docs" / "diagnosis.md"
    code = lab.run_matrix(range(1, 2), 2, document)
    out = capsys.readouterr().out
    busy.look_at(out)
    assert code == 0
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
    assert [line.split()[0] for line in listed if line.startswith("  ")] == [*FAULTS, *builtin_names()]
    assert (
        "  api-gone             control: The API server does not answer for a time: the pool is not known then."
        in listed
    )


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Plan:
    """The plan that a command line runs."""
    plans: list[Plan] = []

    def run(plan: Plan, _output: LabOutput) -> int:
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
    assert called(monkeypatch, "node-rehash") == builtin("node-rehash")
    assert called(monkeypatch, "node-rehash", "--seed", "7") == replace(builtin("node-rehash"), seed=7)
    assert called(monkeypatch, str(file)) == Plan(sessions=3)
    monkeypatch.setenv("AFFINITY_SEED", "8")
    assert called(monkeypatch, str(file)) == Plan(sessions=3, seed=8)


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.parametrize("code", [0, 1])
def test_all_plans_over_the_seeds(monkeypatch: pytest.MonkeyPatch, by_environment: bool, code: int) -> None:
    given = {"seeds": "3", "jobs": "2", "document": "/tmp/x.md"}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    if by_environment:
        for name, value in given.items():
            monkeypatch.setenv("AFFINITY_" + name.upper(), value)
        arguments = []
    asked: list[tuple[list[int], int, Path | None]] = []

    def run(seeds: range, jobs: int, document: Path | None, *, live: bool) -> int:
        assert live
        asked.append((list(seeds), jobs, document))
        return code

    monkeypatch.setattr(lab, "run_matrix", run)
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


PLAN = """
duration: 2s
sessions: 2
settle: 200ms
faults:
  - {fault: port-rewrite, at: 900ms}
"""


def on_a_terminal(command: Path, *arguments: object) -> tuple[int, str]:
    """Run it with a terminal as its output; returns its code, and all that the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [command, *map(str, arguments)], stdout=theirs, stderr=theirs, env=environment(TERM="xterm", COLUMNS="100")
    )
    os.close(theirs)
    told = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 1 << 16):
            told += chunk
    os.close(ours)
    return process.wait(60), told.decode()


@pytest.mark.busy
def test_a_run_shows_its_progress_on_a_terminal_and_can_be_recorded(affinity_tester: Path, tmp_path: Path) -> None:
    record = tmp_path / "run.jsonl.gz"
    code, told = on_a_terminal(affinity_tester, "lab", "first-packet-race", "--record", record)
    busy.look_at(told)
    assert code == 0
    assert re.search(r"\d s of 6 s, 1 of 1 fault injected \| 24 (of 24 )?sessions", told)
    assert re.search(r"\d s of 6 s \| (all|24 of 24 sessions) answered \|", told)
    assert told.splitlines()[-1].endswith(f"report --format html --output {tmp_path}/run.html {record}")
    events = list(read_record(record, on_truncated=pytest.fail))
    assert isinstance(events[0], RunStarted)
    assert [type(event) for event in events].count(FaultInjected) == 1
    assert isinstance(events[-1], Verdict)


@pytest.mark.busy
def test_without_live_there_is_no_status_line(affinity_tester: Path, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text(PLAN)
    code, told = on_a_terminal(affinity_tester, "lab", tmp_path / "plan", "--no-live")
    busy.look_at(told)
    assert "injected: the source port of 1 flow" in told
    assert "fault injected" not in told
    assert code in {0, 1}, "what so short a run is named is chance"


ASKED = """
import os, signal, sys, time
from affinity_tester.cli.matrix_output import MatrixOutput
with MatrixOutput(2, live=False):
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(1.2)
"""


def test_all_runs_answer_a_signal() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("so far: 0 of 2 runs | 0 not as declared | ")


def test_a_record_is_of_one_plan(affinity_tester: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [affinity_tester, "lab", "--all", "--record", tmp_path / "x"],
        capture_output=True, text=True, timeout=60, check=False, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "error: --record goes with one plan: --all runs many\n")


def test_all_runs_show_how_far_they_are() -> None:
    output = MatrixOutput(40, live=False)
    began = output._began_ns
    assert output.status(began) == "0 of 40 runs | 0 not as declared | 0 s"
    for problems in [(), ("x",), (), ()]:
        output.add(PlanResult("flow-wipe", 1, False, (), None, 0, problems))
    assert output.status(began + 12_345_000_000) == "4 of 40 runs | 1 not as declared | 12 s, about 111 s to go"
    assert MatrixOutput(1, live=False).status(0).startswith("0 of 1 run |")


ON_A_TERMINAL = """
import time
from affinity_tester.app.lab_matrix import PlanResult
from affinity_tester.cli.matrix_output import MatrixOutput
with MatrixOutput(2, live=True) as output:
    time.sleep(0.3)
    output.line("flow-wipe, seed 1: a problem")
    output.add(PlanResult("flow-wipe", 1, False, (), None, 0, ("a problem",)))
    time.sleep(0.3)
print("the counts")
"""


def test_the_line_of_all_runs_stands_below_the_others_and_is_gone_in_the_end() -> None:
    code, told = on_a_terminal(Path(sys.executable), "-c", ON_A_TERMINAL)
    assert code == 0
    first, problem, second, end = (
        told.index(text)
        for text in (
            "0 of 2 runs | 0 not as declared | 0 s",
            "flow-wipe, seed 1: a problem\r\n",
            "1 of 2 runs | 1 not as declared | 0 s",
            "the counts\r\n",
        )
    )
    assert first < problem < second < end
    erased = "\x1b[J"
    assert erased in told[first:problem]
    assert erased in told[second:end]
