"""`affinity-tester demo` as its users run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import busy
from affinity_tester.cli import demo, main
from affinity_tester.cli.lab_output import LabOutput
from affinity_tester.core.events import Verdict
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.plan_file import builtin
from affinity_tester.report.record import read_record
from commands import environment

SHORT = """
seed: 20
duration: 6500ms
interval: 50ms
settle: 300ms
faults:
  - {fault: node-rehash, at: 700ms, fraction: 0.5}
  - {fault: port-rewrite, at: 2300ms, sessions: 3}
  - {fault: loss-up, at: 3900ms, for: 400ms, sessions: 3, probability: 0.7}
  - {fault: loss-down, at: 4500ms, for: 400ms, sessions: 3, probability: 0.7}
  - {fault: duplicate-reorder, at: 5s, for: 600ms, sessions: 3, probability: 0.5}
"""

UNSEEN = """
duration: 2s
sessions: 2
faults:
  - {fault: loss-up, at: 900ms, for: 1ns, sessions: 1}
"""
"""The burst is over before a packet comes: there is nothing to see, and the demo must not claim to have seen it."""

ENDLESS = """
duration: 10m
sessions: 3
settle: 300ms
faults:
  - {fault: port-rewrite, at: 900ms}
  - {fault: port-rewrite, at: 5m}
"""

SILENT = """
duration: 10m
sessions: 3
faults:
  - {fault: loss-up, at: 900ms, for: 9m, sessions: 3}
"""
"""Nothing is answered any more, so the last replies are waited for."""


NO_ROOM = """
import tempfile
def mkstemp(**_):
    raise OSError(30, "Read-only file system")
tempfile.mkstemp = mkstemp
from affinity_tester.__main__ import main
main()
"""

SEE_IT = "to see it in a browser: "


class Demo:
    """A running demo."""

    def __init__(self, command: Path, plan: Path, *options: str) -> None:
        self.read: list[str] = []
        self.process = subprocess.Popen(
            [command, "demo", "--plan", plan, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1", "TMPDIR": str(plan.parent)},
        )

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.read.append(line)
            if text in line:
                return
        pytest.fail(f"it ended without {text!r}: {''.join(self.read)}")

    def end(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=60)
        busy.look_at("".join(self.read) + out)
        assert err == ""
        return self.process.returncode, out


class Demos:
    """Running demos by name, each for one test; who asks again, since the machine was too busy, gets a new one."""

    def __init__(self, command: Path, given: dict[str, tuple[Path, tuple[str, ...]]]) -> None:
        self._command = command
        self._given = given
        self._fresh = {name: self._start(name) for name in given}
        self._taken: list[Demo] = []

    def _start(self, name: str) -> Demo:
        plan, options = self._given[name]
        return Demo(self._command, plan, *options)

    def take(self, name: str) -> Demo:
        self._taken.append(self._fresh.pop(name, None) or self._start(name))
        return self._taken[-1]

    def close(self) -> None:
        for each in (*self._taken, *self._fresh.values()):
            with each.process:  # closes its pipes and waits
                each.process.kill()


@pytest.fixture(scope="module")
def demos(affinity_tester: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demos]:
    """All at once: they spend their time waiting."""
    where = tmp_path_factory.mktemp("plans")
    for name, text in {"short": SHORT, "unseen": UNSEEN, "endless": ENDLESS, "silent": SILENT}.items():
        (where / name).write_text(text)
    running = Demos(
        affinity_tester,
        {
            "console": (where / "short", ()),
            "again": (where / "short", ()),
            "json": (where / "short", ("--log-format", "json")),
            "unseen": (where / "unseen", ()),
            "interrupted": (where / "endless", ()),
            "aborted": (where / "silent", ()),
        },
    )
    yield running
    running.close()


@pytest.mark.busy
def test_it_shows_the_clients_log_and_a_table_that_agrees(demos: Demos) -> None:
    code, out = demos.take("console").end()
    lines = out.splitlines()
    log, end = (
        lines[: lines.index("injected / seen / named (seed 20)")],
        lines[lines.index("injected / seen / named (seed 20)") :],
    )
    stamp = r"\d\d:\d\d:\d\d\.\d{3}"
    injected = [line for line in log if re.match(stamp + r" \[event\] injected: ", line)]
    reds = [line for line in log if re.match(stamp + r" \[error\] CLIENT-\d+ x_address changed 127\.1\.0\.", line)]
    assert len(injected) == 5
    assert len(reds) == 8
    first = log.index(injected[0])
    assert all(log.index(red) > first for red in reds), "what is injected is said above what is seen"
    told = [re.sub(r"\d+$", "N", line) if "lost" in line or "duplicate " in line else line for line in end]
    see_it = told.pop()
    assert told == [
        "injected / seen / named (seed 20)",
        "  1  node-rehash: ok",
        '     injected  node "node-4" (127.1.0.4) joins the balancer: 5 of 10 flows rehashed to it',
        "     expected  the moved flows: a new reflexive IP, of some also a new pod (policy Local: only a new pod);"
        " no loss",
        "     seen      5 sessions: reflexive_ip 5, reflexive_port 5, pod 4, node 4, instance 4, judged violation 5",
        "     named     likely node-rehash",
        "  2  port-rewrite: ok",
        "     injected  the source port of 3 flows is rewritten",
        "     expected  the chosen flows: a new reflexive port, the same IP and pod; no loss",
        "     seen      3 sessions: reflexive_port 3, judged violation 3",
        "     named     likely port-rewrite",
        "  3  loss-up: ok",
        "     injected  70 % of the probes of 3 flows are dropped for 400 ms",
        "     expected  the chosen flows: as many probes lost as were dropped, all upstream; no change",
        "     seen      3 sessions: lost up N",
        end[15],
        "  4  loss-down: ok",
        "     injected  70 % of the replies of 3 flows are dropped for 400 ms",
        "     expected  the chosen flows: as many probes lost as replies were dropped, all downstream; no change",
        "     seen      3 sessions: lost down N",
        end[20],
        "  5  duplicate-reorder: ok",
        "     injected  50 % of the replies of 3 flows are duplicated, and 50 % of the copies are held back by 250 ms,"
        " for 600 ms",
        "     expected  the chosen flows: duplicates and reordering counted; no loss, no change",
        re.sub(r"\d+$", "N", end[24]),
        end[25],
        "     nothing else: ok",
        "demo ok: every fault was seen, each by the right sessions, and nothing else was flagged (the client's FAIL above"
        " is what the faults are for)",
    ]
    assert see_it.startswith(SEE_IT)
    assert re.fullmatch(r"     seen      3 sessions: duplicate \d+, reordered \d+", end[24])
    assert code == 0


@pytest.mark.busy
def test_its_last_line_shows_its_report(demos: Demos, affinity_tester: Path) -> None:
    code, out = demos.take("again").end()
    assert code == 0
    command = out.splitlines()[-1].removeprefix(SEE_IT)
    [affinity_tester_here, *_, page, record] = shlex.split(command)
    assert Path(affinity_tester_here) == affinity_tester
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")  # the client's own FAIL
    assert "<html" in Path(page).read_text()
    assert record.endswith(".jsonl.gz")


@pytest.mark.busy
def test_a_record_that_is_named_is_written_and_shown(affinity_tester: Path, tmp_path: Path) -> None:
    (tmp_path / "plan").write_text(SHORT.replace("6500ms", "2s").split("  - {fault: port-rewrite")[0])
    record = tmp_path / "my run.jsonl"
    running = Demo(affinity_tester, tmp_path / "plan", "--record", str(record))
    out = running.end()[1]
    assert out.splitlines()[-1].endswith(f"--output '{tmp_path}/my run.html' '{record}'")
    assert isinstance(list(read_record(record, on_truncated=pytest.fail))[-1], Verdict)

    again = Demo(affinity_tester, tmp_path / "plan", "--record", str(record)).process
    said = again.communicate(timeout=60)[1]
    assert (again.returncode, said) == (
        2,
        f"error: --record {record} has something in it already: name another file, or move that one away\n",
    )


def test_without_room_for_a_temporary_file_there_is_no_record(affinity_tester: Path, tmp_path: Path) -> None:
    """As in a container whose root is read-only."""
    (tmp_path / "plan").write_text("duration: 1s\nsettle: 200ms\n")
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, "demo", "--plan", tmp_path / "plan"],
        capture_output=True, text=True, timeout=60, check=False, env=environment(NO_COLOR="1"),
    )  # fmt: skip
    busy.look_at(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("demo ok: ")


@pytest.mark.busy
def test_its_json_form_ends_with_the_findings(demos: Demos) -> None:
    code, out = demos.take("json").end()
    told: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert [each["fault"] for each in told if each["event"] == "lab.injected"] == [
        "node-rehash",
        "port-rewrite",
        "loss-up",
        "loss-down",
        "duplicate-reorder",
    ]
    faults = [each for each in told if each["event"] == "lab.fault"]
    assert [(each["number"], each["problems"]) for each in faults] == [(number, []) for number in range(1, 6)]
    assert {each["run"] for each in told} == {told[0]["run"]}
    assert re.fullmatch("[0-9a-f]{16}", told[0]["run"])
    findings = {key: value for key, value in told[-1].items() if key not in {"time", "run"}}
    assert findings == {
        "message": "demo ok: every fault was seen, each by the right sessions, and nothing else was flagged (the client's"
        " FAIL above is what the faults are for)",
        "level": "info",
        "event": "lab.findings",
        "passed": True,
        "seed": 20,
        "interrupted": False,
        "unexpected": [],
        "misnamed": [],
    }
    assert code == 0


@pytest.mark.busy
def test_a_fault_that_was_not_seen_fails_it(demos: Demos) -> None:
    code, out = demos.take("unseen").end()
    assert out.splitlines()[-10:-1] == [
        "injected / seen / named (seed 1)",
        "  1  loss-up: NOT OK",
        "     injected  100 % of the probes of 1 flow are dropped for 0.001 us",
        "     expected  the chosen flows: as many probes lost as were dropped, all upstream; no change",
        "     seen      nothing",
        "     named     nothing",
        "     problem   the lab did nothing that makes loss_up: too short a time, or chance (try another seed)",
        "     nothing else: ok",
        "demo NOT OK: what was injected and what was seen do not agree",
    ]
    assert code == 1


@pytest.mark.busy
def test_ctrl_c_ends_it_with_the_table_so_far(demos: Demos) -> None:
    running = demos.take("interrupted")
    running.wait_for("x_address changed")
    running.process.send_signal(signal.SIGINT)
    code, out = running.end()
    assert out.splitlines()[-11:-1] == [
        "injected / seen / named (seed 1)",
        "  1  port-rewrite: ok",
        "     injected  the source port of 1 flow is rewritten",
        "     expected  the chosen flows: a new reflexive port, the same IP and pod; no loss",
        "     seen      1 session: reflexive_port 1, judged violation 1",
        "     named     likely port-rewrite",
        "  2  port-rewrite: skipped",
        "     expected  the chosen flows: a new reflexive port, the same IP and pod; no loss",
        "     nothing else: ok",
        "demo interrupted: what it was cut short of is no failure, and nothing is proved by the rest",
    ]
    assert out.splitlines()[-1].startswith(SEE_IT)
    assert code == 130


@pytest.mark.busy
def test_a_second_ctrl_c_does_not_wait_for_the_last_replies(demos: Demos) -> None:
    running = demos.take("aborted")
    running.wait_for("[event] injected: ")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("sending stopped")
    running.process.send_signal(signal.SIGINT)
    code, out = running.end()
    assert "stopped at once: judgements still open are unknown" in out
    assert out.splitlines()[-2].startswith("demo interrupted: ")
    assert code == 130


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Plan:
    """The plan that a command line runs."""
    plans: list[Plan] = []

    def run(plan: Plan, _output: LabOutput) -> int:
        plans.append(plan)
        return 0

    monkeypatch.setattr(demo, "_open_output", lambda *_, **__: None)
    monkeypatch.setattr(demo, "run_demo", run)
    with pytest.raises(SystemExit) as end:
        main.main(["demo", *arguments])
    assert end.value.code == 0
    (plan,) = plans
    return plan


@pytest.mark.parametrize("by_environment", [False, True])
def test_each_option_as_a_flag_and_by_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_environment: bool
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("seed: 3\nduration: 20s")
    given = {"plan": str(file), "seed": "7", "duration": "10s", "log-format": "json"}
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    if by_environment:
        for name, value in given.items():
            monkeypatch.setenv("AFFINITY_" + name.replace("-", "_").upper(), value)
        arguments = []
    assert called(monkeypatch, *arguments) == Plan(seed=7, duration_ns=10_000_000_000)


def test_the_default_is_the_shipped_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch) == builtin("demo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "missing.yaml"], "error: cannot read the plan missing.yaml: No such file or directory\n"),
        (
            ["--duration", "2s"],
            "error: the plan does not fit into 2 s: node-rehash at 250 ms is too early: from 800 ms on every session has "
            "been answered\n",
        ),
        (
            ["--seed", "x"],
            "error: Invalid value for '--seed' (env var: 'AFFINITY_SEED'): 'x' is not a whole number "
            "(see: affinity-tester demo --help)\n",
        ),
    ],
)
def test_a_users_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main(["demo", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr() == ("", message)
