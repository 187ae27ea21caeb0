"""The plugin that repeats what a busy machine spoilt: when it does, how often, and what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LATE = "also: 31 probes skipped (3.1 %), 0 refused sends (0 %)"
ON_TIME = "also: 2 probes skipped (0.2 %), 0 refused sends (0 %)"
SUMMARY = '{"event":"run.summary","total":{"timer_misses":%d,"sent":100,"send_errors":0}}'
NAMED = '{"event":"run.incident","incident":{"diagnoses":[{"name":"%s"}]}}'

BEGIN = """
import busy, os, pathlib, pytest, subprocess, sys, time

@pytest.mark.busy
def test_it():
    runs = pathlib.Path("runs")
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    busy.look_at({log!r})
"""

TEST = (
    BEGIN
    + """
    assert len(runs.read_text()) > {failing}
"""
)

IN_NAMESPACES = f"import pytest\npytestmark = pytest.mark.root\n{TEST}"

FIRST = (
    BEGIN
    + """
    ask = [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"]
    assert int(subprocess.check_output(ask)) == os.SCHED_RR

def test_then():
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
"""
)


# Beside OTHER: the first try begins while a test of OTHER runs, and may not outlast it, nor meet the next one.
ALONE = (
    BEGIN
    + """
    others = pathlib.Path("others")
    while not others.exists():
        time.sleep(0.01)
    assert busy.clients_at_a_time() == 1
    time.sleep(3)
    assert others.read_text() == "begun, done, "
"""
)

OTHER = """
import pathlib, pytest, time

def told(text):
    with pathlib.Path("others").open("a") as file:
        file.write(text)

@pytest.mark.busy
@pytest.mark.parametrize("number", [1, 2])
def test_other(number):
    told("begun, ")
    time.sleep(4)
    told("done, ")
"""


def ran(where: Path, log: str, failing: int, *options: str, test: str = TEST) -> tuple[int, int, list[str]]:
    """Exit code of pytest, how often the test ran, and what is named in the end, for a test that fails so often."""
    (where / "test_it.py").write_text(test.format(log=log, failing=failing))
    (where / "pytest.ini").write_text("[pytest]\n")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "busy", "-p", "xdist", "-p", "no:cacheprovider", *options, "test_it.py"],
        cwd=where,
        env=own | {"PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    named = re.findall(r"^(test_it\.py::test_it: .*)$", done.stdout, re.MULTILINE)
    return done.returncode, len((where / "runs").read_text()), named


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (LATE, "31 probes skipped (3.1 %)"),
        ("    diagnosis: likely self-inflicted", "self-inflicted"),
        (SUMMARY % 2, "2 of 102 slots missed"),
        (NAMED % "self-inflicted", "self-inflicted"),
        ("3 runs were repeated: the machine was too busy for the client to send on time",
         "the machine was too busy for the client to send on time"),
    ],
)  # fmt: skip
def test_what_the_client_itself_excuses_is_repeated_and_named(tmp_path: Path, log: str, why: str) -> None:
    assert ran(tmp_path, log, 2) == (0, 3, [f"test_it.py::test_it: {why}; {why}"])


@pytest.mark.parametrize("log", ["", ON_TIME, SUMMARY % 1, NAMED % "mtu"])
def test_what_nothing_excuses_fails_at_once(tmp_path: Path, log: str) -> None:
    assert ran(tmp_path, log, 1) == (1, 1, [])


def test_what_passes_is_not_repeated_whatever_its_runs_say(tmp_path: Path) -> None:
    assert ran(tmp_path, LATE, 0) == (0, 1, [])


def test_it_ends_as_the_lab_does_and_a_worker_tells_it_too(tmp_path: Path) -> None:
    why = "31 probes skipped (3.1 %)"
    code, times, named = ran(tmp_path, LATE, 9, "-n", "1")
    assert (code, times) == (1, 4)
    assert named == [f"test_it.py::test_it: {why}; {why}; {why}"]


def test_what_failed_in_namespaces_beside_others_is_tried_once_more(tmp_path: Path) -> None:
    why = "other tests ran beside it"
    assert ran(tmp_path, "", 1, "-n", "2", test=IN_NAMESPACES) == (0, 2, [f"test_it.py::test_it: {why}"])
    assert ran(tmp_path, "", 9, "-n", "2", test=IN_NAMESPACES) == (1, 4, [f"test_it.py::test_it: {why}"])


def test_what_failed_beside_others_and_is_in_none_fails_at_once(tmp_path: Path) -> None:
    assert ran(tmp_path, "", 1, "-n", "2") == (1, 1, [])


def test_a_repetition_runs_alone_with_its_whole_time(tmp_path: Path) -> None:
    """Its own file's worker waits for the other one, which is in the midst of a test; that one's next test waits, too."""
    (tmp_path / "test_other.py").write_text(OTHER)
    beside = ("-n", "2", "--dist=loadfile", "-p", "timeout", "--timeout=6", "test_other.py")
    code, times, _ = ran(tmp_path, LATE, 1, *beside, test=ALONE)
    assert (code, times) == (0, 2)


@pytest.mark.root
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, and Linux")
def test_a_repetition_and_what_it_starts_run_in_real_time(tmp_path: Path) -> None:
    why = "31 probes skipped (3.1 %)"
    assert ran(tmp_path, LATE, 0, test=FIRST) == (0, 2, [f"test_it.py::test_it: {why}"])
