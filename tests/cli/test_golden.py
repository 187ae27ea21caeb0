"""What users read, whole: the demo, three runs of the lab, and every `--help`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import busy
from commands import environment
from golden import keys, shape

IsGolden = Callable[[str, str], None]

RUNS: dict[str, tuple[str, ...]] = {
    "demo": ("demo",),
    "flow-wipe": ("lab", "flow-wipe"),
    "stale-flow": ("lab", "stale-flow"),
    "cross-delivery": ("lab", "cross-delivery"),
    "flow-wipe-json": ("lab", "flow-wipe", "--log-format", "json"),
}
"""Breaks and what is none; changes with an incident and its name; outages that become violations; strays; and as JSON."""

FIXED = {"COLUMNS": "80", "NO_COLOR": "1", "TZ": "UTC"}


def started(command: Path, arguments: tuple[str, ...]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**FIXED),
    )


class Runs:
    """Runs by name. The longest one begins at once, and the others run beside it, one at a time.

    More of them would make each other's clients late. Who asks again, since the machine was too busy, gets a new run.
    """

    def __init__(self, command: Path) -> None:
        self._command = command
        self._fresh = {"demo": started(command, RUNS["demo"])}
        self._taken: list[subprocess.Popen[str]] = []

    def said(self, name: str) -> str:
        process = self._fresh.pop(name, None) or started(self._command, RUNS[name])
        self._taken.append(process)
        out, err = process.communicate(timeout=100)
        busy.look_at(out)
        assert (process.returncode, err) == (0, "")
        return out

    def close(self) -> None:
        for each in (*self._taken, *self._fresh.values()):
            with each:  # closes its pipes and waits
                each.kill()


@pytest.fixture(scope="module")
def runs(affinity_tester: Path) -> Iterator[Runs]:
    running = Runs(affinity_tester)
    yield running
    running.close()


@pytest.mark.busy
@pytest.mark.parametrize("name", ["flow-wipe", "cross-delivery", "stale-flow"])
def test_a_run_says_what_it_said(runs: Runs, is_golden: IsGolden, name: str) -> None:
    is_golden(f"{name}.txt", shape(runs.said(name)))


@pytest.mark.busy
def test_json_events_have_the_names_and_keys_that_they_had(runs: Runs, is_golden: IsGolden) -> None:
    is_golden("flow-wipe-json.txt", keys(runs.said("flow-wipe-json")))


@pytest.mark.busy
def test_the_demo_says_what_it_said(runs: Runs, is_golden: IsGolden) -> None:
    is_golden("demo.txt", shape(runs.said("demo")))


def helped(command: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command with what its `--help` says, found as a user finds it."""
    found: list[tuple[str, ...]] = [()]
    for path in found:
        process = started(command, (*path, "--help"))
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        yield path, out
        listed = out.partition("\nCommands:\n")[2].partition("\n\n")[0].splitlines()
        found += [(*path, line.split()[0]) for line in listed if re.match(r"  \S", line)]


def test_every_help_says_what_it_said(affinity_tester: Path, is_golden: IsGolden) -> None:
    told = {" ".join(("affinity-tester", *path)): said for path, said in helped(affinity_tester)}
    is_golden("help.txt", "\n".join(f"$ {name} --help\n{said}" for name, said in told.items()))
