"""Shell completion, as the shells ask for it."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from commands import PATIENCE_S, environment

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
        (("",), ["server", "client", "idle", "experiment", "demo", "lab", "report", "compare", "manifests"]),
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


FISH = ("fish", "--no-config", "--command")


@pytest.mark.debian
@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("affinity-tester cl", ["client\tProbe a target with many sessions and judge what changes."]),
        ("affinity-tester client --watch o", ["off", "on"]),
        ("affinity-tester client --wa", ["--watch\tWatch the pool in the cluster, so that changes are judged"]),
        ("affinity-tester lab flow-wipe-l", ["flow-wipe-local"]),
        ("affinity-tester report --format h", ["html"]),
        ("affinity-tester report /etc/hostn", ["/etc/hostname"]),
    ],
)  # fmt: skip
def test_fish_completes_a_line(affinity_tester: Path, line: str, told: list[str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    script = f"_AFFINITY_TESTER_COMPLETE=fish_source affinity-tester | source; complete --do-complete '{line}'"
    path = f"{affinity_tester.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*FISH, script], capture_output=True, text=True, timeout=60, check=True, env=environment(PATH=path)
    )
    said = done.stdout.splitlines()
    assert len(said) == len(told)
    assert all(line.startswith(start) for line, start in zip(said, told, strict=True)), said


ZSH = """
PS1='ready> '
autoload -Uz compinit && compinit -D -u
eval "$(_AFFINITY_TESTER_COMPLETE=zsh_source affinity-tester)"
"""
"""A user's ~/.zshrc with the line of `--help`."""


@pytest.mark.debian
def test_zsh_completes_what_is_typed(affinity_tester: Path, tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / ".zshrc").write_text(ZSH)
    path = f"{affinity_tester.parent}{os.pathsep}{os.environ['PATH']}"
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env=environment(PATH=path, TERM="dumb", ZDOTDIR=str(tmp_path)),
    )  # fmt: skip
    os.close(theirs)
    try:
        until(ours, "ready> ")
        for typed, completed_as in (
            ("affinity-tester cl\t", "client "),
            ("--wat\t", "watch "),
            ("of\t", "off "),
            ("--record /etc/hostn\t", "/etc/hostname "),
        ):
            os.write(ours, typed.encode())
            until(ours, completed_as)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def until(terminal: int, expected: str) -> None:
    """Read from a terminal until it shows this."""
    said = ""
    end = time.monotonic() + PATIENCE_S
    while expected not in said:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert ready, f"{expected!r} did not come, but {said!r}"
        said += os.read(terminal, 65_536).decode()


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
