"""The command line: a table of commands, each imported only when it is used, and the exit code of what a command raises.

A command's return value is its exit code (None is 0). What it raises becomes an exit code and at most one line:

    2     `UserError`, and what click finds wrong with the arguments
          and an output that cannot be written (a full disk)
    70    any other exception: a bug; the line says where the traceback is
    130   Ctrl-C that the command does not handle itself
    141   the reader of the output has gone (128 + SIGPIPE): the command ends quietly

Where standard output or standard error was closed at start, what is written there is lost, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem, shell_complete

from affinity_tester import __version__
from affinity_tester.cli.completion import COMPLETE, INSTALL
from affinity_tester.errors import UserError

EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
EXIT_OUTPUT_CLOSED = 141

FRAMES = 8
"""How many of the innermost frames are printed where no file can be written for the traceback."""


class OutputFailedError(OSError):
    """Standard output cannot be written. Every other `OSError` that reaches the top is a bug."""


class _Output(io.TextIOWrapper):
    """Standard output that raises `OutputFailedError` for its own errors."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputFailedError(error.errno, error.strerror) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputFailedError(error.errno, error.strerror) from error


def guard_stdout() -> None:
    """Have this process's standard output raise `OutputFailedError`."""
    stdout = sys.stdout
    if type(stdout) is io.TextIOWrapper:
        encoding, errors = stdout.encoding, stdout.errors
        line_buffering, write_through = stdout.line_buffering, stdout.write_through
        sys.stdout = _Output(
            stdout.detach(), encoding, errors, line_buffering=line_buffering, write_through=write_through
        )


class Entry(NamedTuple):
    """A command that is imported when it is used."""

    module: str
    attribute: str
    help: str
    """Its line in `--help`, which therefore imports no command."""
    hidden: bool = False
    """It is for other commands and for tests: no list shows it."""


COMMANDS = {
    "server": Entry(
        "affinity_tester.cli.server", "server", "The echo server: answers probes and says which pod it is."
    ),
    "client": Entry(
        "affinity_tester.cli.client", "client", "Probe a target with many sessions and judge what changes."
    ),
    "idle": Entry(
        "affinity_tester.cli.idle", "idle", "Find how long a flow may be silent and keep its pod and address."
    ),
    "experiment": Entry(
        "affinity_tester.cli.experiment", "experiment", "Act on the cluster, and say what it did to the sessions."
    ),
    "demo": Entry(
        "affinity_tester.cli.demo", "demo", "Pods, a load balancer and faults on loopback: no cluster needed."
    ),
    "lab": Entry("affinity_tester.cli.lab", "lab", "Make known faults on loopback, and prove that each is named."),
    "report": Entry("affinity_tester.cli.report", "report", "Show a recorded run as text, JSON, JUnit or HTML."),
    "compare": Entry(
        "affinity_tester.cli.compare", "compare", "Compare two runs, or two reports of experiments: what got worse."
    ),
    "manifests": Entry("affinity_tester.cli.manifests", "manifests", "Print what runs in a cluster, for kubectl."),
    "lab-cluster": Entry(
        "affinity_tester.cli.lab_cluster", "lab_cluster", "Emulate a cluster on loopback.", hidden=True
    ),
}

SHOWN = {name: entry for name, entry in COMMANDS.items() if not entry.hidden}
"""The commands that lists show."""


class Program(click.Group):
    """The group of all `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(SHOWN)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None where there is none of this name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("affinity_tester."):
                raise
            raise UserError(
                f"this copy holds the server alone, as pods run it: install affinity-tester for its '{cmd_name}'"
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and warn about names in the environment that look like settings and that no command reads.

        The context's object, if there is one, is called when all is imported: from then on the command handles Ctrl-C.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if ctx.obj is not None:
            ctx.obj()
        if command is not None and not ctx.resilient_parsing:  # a shell completes the line: it shows no warnings
            self._warn_of_unread(ctx, command)
        return name, command, rest

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete from the table: click would import every command for it, at each press of the key."""
        own = [CompletionItem(name, help=entry.help) for name, entry in SHOWN.items() if name.startswith(incomplete)]
        return own + click.Command.shell_complete(self, ctx, incomplete)

    def _warn_of_unread(self, ctx: click.Context, command: click.Command) -> None:
        from affinity_tester.cli.environment import (  # noqa: PLC0415 - `--help` needs it not
            likely_settings,
            names_of,
            unread_warnings,
        )

        own = names_of(command)
        if not (names := likely_settings(os.environ, own)):
            return

        # What another command reads is no mistake. Only now: this imports them all.
        known = {name for each in COMMANDS for name in names_of(self.get_command(ctx, each) or command)}
        names = [name for name in names if name not in known]
        for line in unread_warnings(os.environ, names, own, f"{ctx.command_path} {command.name}"):
            click.echo(f"warning: {line}", err=True)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Take the help from the table: click would import every command for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in SHOWN.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run a command line, by default that of the process, and exit. The other two arguments of click have no use here.

        Where a shell asks how the line may go on, answer that instead.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._exit_code(arguments or ["--help"], prog_name or "affinity-tester", extra))

    def _exit_code(self, args: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        """Run a command line, and turn what it raises into an exit code."""
        try:
            code = self._run(args, prog_name, extra)
            sys.stdout.flush()
        except click.UsageError as error:
            hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
            return _print_error(f"{error.format_message()}{hint}", EXIT_USAGE)
        except click.ClickException as error:
            return _print_error(error.format_message(), EXIT_USAGE)
        except UserError as error:
            return _print_error(str(error), EXIT_USAGE)
        except (KeyboardInterrupt, click.Abort):
            return EXIT_INTERRUPTED
        except (BrokenPipeError, OutputFailedError) as error:
            return _output_closed(error)
        except Exception as error:  # the last resort of the whole program
            return _output_closed(error.__cause__) if _is_output_closed(error) else _internal_error(error)
        return code

    def _run(self, args: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        if instruction := os.environ.get(COMPLETE):
            return self._complete(prog_name, extra, instruction)
        try:
            with self.make_context(prog_name, args, **extra) as context:
                code = self.invoke(context)
        except click.exceptions.Exit as end:
            return end.exit_code
        return code if isinstance(code, int) else 0

    def _complete(self, prog_name: str, extra: dict[str, Any], instruction: str) -> int:
        """Print a shell's script (`bash_source`), or how the line that the shell has may go on."""
        if shell_complete(self, extra, prog_name, COMPLETE, instruction) == 0:
            return 0
        raise UserError(f"{COMPLETE}={instruction} names no shell: take bash_source, zsh_source or fish_source")


@click.command(
    "affinity-tester",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=INSTALL,
)
@click.version_option(__version__, message="affinity-tester %(version)s")
def main() -> None:
    """Prove or disprove that UDP sessions keep their pod and their reflexive address while a Kubernetes pool stands still.

    Times are numbers of seconds or carry a unit (100ms, 5s, 1h30m). Every option of client and server is an environment
    variable too.
    """


def _print_error(message: str, code: int) -> int:
    """Print one line to standard error, if it can be written, and return the exit code."""
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)  # noqa: T201 - this is the program's face
    return code


def _is_output_closed(error: Exception) -> bool:
    """True if it is the log's `OutputClosed`. This does not import the log, which `--help` does not need."""
    logging = sys.modules.get("affinity_tester.report.logging")
    return logging is not None and isinstance(error, logging.OutputClosed)


def _output_closed(why: BaseException | None) -> int:
    """Discard what is still buffered, and return the exit code; say what is wrong unless the reader has just gone.

    Python would complain about the buffer when it flushes it at exit.
    """
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # no descriptor under it (a test's), so nothing will be flushed either

    if not isinstance(why, OSError) or why.errno in {None, errno.EPIPE, errno.EIO}:  # EIO: a terminal that closed
        return EXIT_OUTPUT_CLOSED
    if why.errno == errno.ENOSPC:
        return _print_error(
            "the output cannot be written, no space is left there: free some, or send it elsewhere", EXIT_USAGE
        )
    return _print_error(f"the output cannot be written, {why.strerror}: send it elsewhere", EXIT_USAGE)


def _internal_error(error: Exception) -> int:
    """Print one line, and write the traceback to a file, without the arguments: they may hold a key.

    Where no file can be made (a pod's root is often read-only), the line itself says where it happened.
    """
    what = f"internal error, {type(error).__name__}: {error}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="affinity-tester-", suffix=".log", delete=False
        ) as file:
            print(f"affinity-tester {__version__}, Python {sys.version}, {sys.platform}", file=file)
            traceback.print_exception(error, file=file)
    except OSError:
        return _print_error(
            f"{what} (this is a bug; no file can be written for its traceback, which ends {_innermost_frames(error)})",
            EXIT_INTERNAL,
        )
    return _print_error(f"{what} (this is a bug; the traceback is in {file.name})", EXIT_INTERNAL)


def _innermost_frames(error: Exception) -> str:
    """Return the end of the traceback, the innermost frame first: `net/client.py:210 in _tick < ...`."""
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} in {frame.name}" for frame in frames]
    return " < ".join(reversed(places))
