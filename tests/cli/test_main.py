"""The command line as a whole: what `--help` costs, and what each way to fail shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from affinity_tester import __version__, cli
from affinity_tester.cli import COMMANDS, SHOWN, Entry, main, options
from affinity_tester.errors import UserError
from affinity_tester.report.logging import OutputClosed
from affinity_tester.units import format_exact
from commands import environment


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    listed = result.stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == list(SHOWN)


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout == f"affinity-tester {__version__}\n"


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "affinity_tester", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"affinity-tester {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from affinity_tester.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'asyncio', 'kubernetes', 'structlog', 'yaml', 'colorama'} & set(sys.modules)\n"
        "own = {name for name in sys.modules if name.startswith('affinity_tester.')}\n"
        "known = {'affinity_tester.cli', 'affinity_tester.cli.completion', 'affinity_tester.errors'}\n"
        "sys.exit(f'{heavy} {own}' if heavy or own != known else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, stdout=subprocess.DEVNULL)


def ending_with(error: BaseException | int | None, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run a command that raises `error`, or returns it."""

    @click.command()
    def ends() -> int | None:
        if isinstance(error, BaseException):
            raise error
        return error

    monkeypatch.setattr(cli, "ends", ends, raising=False)
    monkeypatch.setitem(COMMANDS, "ends", Entry("affinity_tester.cli", "ends", "Ends."))
    return CliRunner().invoke(main, ["ends"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (UserError("no such\nname"), 2, "error: no such name\n"),
        (click.UsageError("not so"), 2, "error: not so (see: affinity-tester ends --help)\n"),
        (click.ClickException("nor so"), 2, "error: nor so\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (BrokenPipeError(), 141, ""),
        (OutputClosed(), 141, ""),
        (click.exceptions.Exit(5), 5, ""),
    ],
)
def test_how_a_command_ends(
    error: BaseException | int | None, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ending_with(error, monkeypatch)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", line)


def test_a_bug_is_one_line_and_its_traceback_is_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = ending_with(RuntimeError("lost\nmy way"), monkeypatch)
    [file] = tmp_path.iterdir()
    assert (result.exit_code, result.stdout) == (70, "")
    what = "internal error, RuntimeError: lost my way"
    assert result.stderr == f"error: {what} (this is a bug; the traceback is in {file})\n"
    written = file.read_text()
    assert written.startswith(f"affinity-tester {__version__}, Python {sys.version}, {sys.platform}\nTraceback (most")
    assert written.endswith("RuntimeError: lost\nmy way\n")


def test_a_bug_without_a_place_for_its_traceback_is_one_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    result = ending_with(RuntimeError("lost"), monkeypatch)
    assert result.exit_code == 70
    assert re.fullmatch(
        r"error: internal error, RuntimeError: lost \(this is a bug; no file can be written for its traceback, which ends"
        r" cli/test_main\.py:\d+ in ends < click/core\.py:\d+ in invoke < .* < cli/__init__\.py:\d+ in _exit_code\)\n",
        result.stderr,
    )


def test_an_unknown_command_is_one_line() -> None:
    result = CliRunner().invoke(main, ["sever"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: No such command 'sever'.")
    assert result.stderr.endswith("(see: affinity-tester --help)\n")
    assert result.stderr.count("\n") == 1


def test_help_into_a_closed_pipe_is_quiet(affinity_tester: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [affinity_tester, "--help"], stdout=closed, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("ns", "shown"),
    [(0, "0s"), (1, "1ns"), (1_500, "1500ns"), (2_000, "2us"), (100_000_000, "100ms"), (1_500_000_000, "1500ms"),
     (5_000_000_000, "5s"), (600_000_000_000, "10m"), (7_200_000_000_000, "2h")],
)  # fmt: skip
def test_a_time_is_shown_as_it_is_read(ns: int, shown: str) -> None:
    assert format_exact(ns) == shown
    assert options.DURATION.convert(shown, None, None) == ns


NOT_READ = "warning: {} (environment, env.list) is not read: {}"


@pytest.mark.parametrize(
    ("command", "environ", "lines"),
    [
        ("client", {"AFFINITY_SESSION": "3"}, {"AFFINITY_SESSION": "did you mean AFFINITY_SESSIONS?"}),
        ("client", {"AFINITY_SIZE": "288"}, {"AFINITY_SIZE": "did you mean AFFINITY_SIZE?"}),
        ("client", {"affinity_via": "auto"}, {"affinity_via": "did you mean AFFINITY_VIA?"}),
        ("client", {"AFFINITY_TARGET": "203.0.113.7"}, {"AFFINITY_TARGET": "did you mean TARGET_ADDR?"}),
        ("client", {"TARGET_ADR": "203.0.113.7"}, {"TARGET_ADR": "did you mean TARGET_ADDR?"}),
        ("client", {"TARGET_ADDRESS": "x", "TARGET_ADDR": "203.0.113.7"}, {}),
        ("client", {"AFFINITY_COLOUR": "x"}, {"AFFINITY_COLOUR": "affinity-tester client --help has the names"}),
        ("client", {"AFFINITY_HOST": "::1", "AFFINITY_SEED": "1", "TARGET_ARCH": "arm64", "TARGETS": "a"}, {}),
        ("client", {"AFFINITY_TESTER_SERVICE_HOST": "10.0.0.1", "AFFINITY_TESTER_PORT": "udp://10.0.0.1:3478"}, {}),
        (
            "server",
            {"AFFINITY_WORKER": "2", "AFFINITY_HOSTS": "::1", "POD_IP": "::1"},
            {"AFFINITY_HOSTS": "did you mean AFFINITY_HOST?", "AFFINITY_WORKER": "did you mean AFFINITY_WORKERS?"},
        ),
    ],
)
def test_a_misspelt_name_in_the_environment_is_named_with_the_nearest_one(
    command: str, environ: dict[str, str], lines: dict[str, str], affinity_tester: Path
) -> None:
    done = subprocess.run(
        [affinity_tester, command, "--no-such"],
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    *warnings, error = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert warnings == [NOT_READ.format(name, advice) for name, advice in lines.items()]
    assert error.startswith("error: No such option")
