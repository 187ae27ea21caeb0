"""Shell completion, as the shells ask for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from commands import environment

ASK = """
eval "$(_AFFINITY_TESTER_COMPLETE=bash_source affinity-tester)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_affinity_tester_completion affinity-tester "${COMP_WORDS[COMP_CWORD]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does when TAB is pressed, after the line of `--help` was run."""


def completed(command: Path, *words: str, **environ: str) -> list[str]:
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", "affinity-tester", *words],
        capture_output=True, text=True, timeout=60, check=True, env=environment(PATH=path, **environ),
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("",), ["server", "client", "demo", "lab", "report", "manifests"]),
        (("cl",), ["client"]),
        (("--v",), ["--version"]),
        (("client", "--stats"), ["--stats-interval", "--stats"]),
        (("client", "--via", ""), ["auto", "load-balancer", "node-port", "cluster-ip"]),
        (("client", "-n", "5", "--watch", "o"), ["on", "off"]),
        (("lab", "flow-wipe-l"), ["flow-wipe-local"]),
        (("manifests", "node"), ["node-scaleup"]),
        (("report", "--format", "h"), ["html"]),
        (("nonsense", "x"), []),
    ],
)  # fmt: skip
def test_commands_options_and_choices_are_completed(
    affinity_tester: Path, words: tuple[str, ...], told: list[str]
) -> None:
    assert sorted(completed(affinity_tester, *words)) == sorted(told)


def test_a_setting_that_nobody_reads_or_takes_does_not_disturb_it(affinity_tester: Path) -> None:
    """A warning would be printed into the line that the user types."""
    assert completed(affinity_tester, "client", "--via", "n", AFFINITY_SESSION="3", AFFINITY_SIZE="x") == ["node-port"]


@pytest.mark.parametrize(("shell", "has"), [("zsh", "#compdef affinity-tester"), ("fish", "complete --no-files")])
def test_other_shells_get_their_script(affinity_tester: Path, shell: str, has: str) -> None:
    done = subprocess.run(
        [affinity_tester], capture_output=True, text=True, timeout=60, check=True,
        env=environment(_AFFINITY_TESTER_COMPLETE=f"{shell}_source"),
    )  # fmt: skip
    assert has in done.stdout
    assert done.stderr == ""


def test_the_lines_of_the_help_are_the_ones_that_work(affinity_tester: Path, repo: Path) -> None:
    said = subprocess.run([affinity_tester, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    for shell in ("bash", "zsh"):
        line = f'eval "$(_AFFINITY_TESTER_COMPLETE={shell}_source affinity-tester)"'
        assert line in said
        assert line in (repo / "README.md").read_text()
    line = "_AFFINITY_TESTER_COMPLETE=fish_source affinity-tester | source"
    assert line in said
    assert line in (repo / "README.md").read_text()


def test_an_unknown_shell_is_one_line(affinity_tester: Path) -> None:
    done = subprocess.run(
        [affinity_tester], capture_output=True, text=True, timeout=60, check=False,
        env=environment(_AFFINITY_TESTER_COMPLETE="csh_source"),
    )  # fmt: skip
    said = "error: _AFFINITY_TESTER_COMPLETE=csh_source names no shell: take bash_source, zsh_source or fish_source\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
