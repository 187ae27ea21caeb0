"""The action that is a user's own command: command. A cloud's node pool, an upgrade; with a command that undoes it.

It runs without a shell, in a process group of its own, which ends with it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import tempfile
from contextlib import suppress
from typing import IO

from affinity_tester.cluster.actions.base import Action, Step, StepState
from affinity_tester.cluster.actions.calls import Call
from affinity_tester.cluster.actions.lease import note_undo
from affinity_tester.cluster.api import NOT_FOUND, ApiError
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.core.experiment.catalogue import ActionKind
from affinity_tester.errors import UserError

END_S = 5.0
"""How long a command has to end by itself after SIGTERM, before SIGKILL."""

TAIL_BYTES = 4096
"""Of the output's end, in which the last line is looked for."""


class Command(Action):
    """Run a command of the user's."""

    name = "command"

    async def prepare(self) -> None:
        """Read the commands. Raises `UserError` where there is none, or where one cannot be read."""
        self._do = split(self.options.do, "--do")
        self._undo = split(self.options.undo, "--undo") if self.options.undo else []
        if not self._do:
            raise UserError("the experiment command needs one: --do 'COMMAND ARGUMENT...' --undo 'COMMAND ARGUMENT...'")
        self._to_undo = False

    @property
    def kind(self) -> ActionKind:
        """Whether there is a command that undoes it."""
        return ActionKind.UNDONE if self.options.undo else ActionKind.NOT_UNDOABLE

    @property
    def text(self) -> str:
        """The command."""
        return f"run {one_line(shlex.join(self._do))}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not undone."""
        return () if self._undo else ("no --undo is given: what the command does stays",)

    def calls(self) -> tuple[Call, ...]:
        """Return the note on the Lease of the command that undoes it."""
        return (note_undo(self.context.namespace, shlex.join(self._undo)),) if self._undo else ()

    def undo_calls(self) -> tuple[Call, ...]:
        """Return what takes that note away."""
        return (note_undo(self.context.namespace, None),) if self._undo else ()

    async def act(self) -> None:
        """Run it. Raises `UserError` if it fails, and `ApiError`."""
        for call in self.calls():
            await self._note("note on the Lease the command that undoes this one", call)
        self._to_undo = True
        await self._run(self._do, undo=False)

    async def undo(self) -> None:
        """Run the command that undoes it, once: also after one that failed, which may have done half. Raises `UserError`."""
        if self._to_undo and self._undo:
            await self._run(self._undo, undo=True)
            self._to_undo = False
            for call in self.undo_calls():
                await self._note("remove the note from the Lease", call)

    async def _note(self, text: str, call: Call) -> None:
        try:
            await self._send(text, call)
        except ApiError as error:
            if error.status != NOT_FOUND:  # else somebody deleted the Lease, which is told elsewhere
                raise

    async def _run(self, arguments: list[str], *, undo: bool) -> None:
        text = f"run {one_line(shlex.join(arguments))}"
        emit = self.context.emit_step
        emit(Step(StepState.WILL, text, undo))
        try:
            last_line = await run_command(arguments, self._environment(), self.options.command_limit_s)
        except asyncio.CancelledError:
            emit(Step(StepState.FAILED, text, undo, (), "cancelled: it was ended, and may have done a part"))
            raise
        except UserError as error:
            emit(Step(StepState.FAILED, text, undo, (), str(error)))
            raise
        emit(Step(StepState.DID, text, undo, (), last_line))

    def _environment(self) -> dict[str, str]:
        """Return the environment, with what tells which cluster and namespace it is about."""
        ours = {
            "KUBECONFIG": self.context.kubeconfig,
            "CONTEXT": self.context.cluster.context,
            "NAMESPACE": self.context.namespace,
        }
        return {**os.environ, **{name: value for name, value in ours.items() if value}}


def split(command: str, option: str) -> list[str]:
    """Return a command's words. Raises `UserError` for one that a shell could not read."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"{option} '{command}' cannot be read ({error}): quote it as for a shell") from error


async def run_command(arguments: list[str], environment: dict[str, str], limit_s: float) -> str:
    """Run a command to its end, and return the last line that it printed. Raises `UserError` if it fails or takes too long.

    Its output goes to a file: what it leaves in the background might hold a pipe open.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"{arguments[0]} cannot be run: {error.strerror}") from error
        except ValueError as error:  # a null byte
            raise UserError(f"{arguments[0]} cannot be run: {error}") from error

        try:
            async with asyncio.timeout(limit_s):
                code = await process.wait()
        except TimeoutError as error:
            await asyncio.shield(_end_group(process))
            raise UserError(
                f"{arguments[0]} did not end within {limit_s:g} s, and was ended: give it more time"
            ) from error
        except BaseException:
            await asyncio.shield(_end_group(process))
            raise
        last_line = _last_line(output)
    if code != 0:
        ended = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        raise UserError(f"{arguments[0]} {ended}{f': {last_line}' if last_line else ''}")
    return last_line


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """End a command and what it started: by SIGTERM, and after `END_S` by SIGKILL."""
    _signal_group(process.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            await process.wait()
    _signal_group(process.pid, signal.SIGKILL)
    await process.wait()


def _signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a process group, whose leader may have ended before the others."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _last_line(output: IO[bytes]) -> str:
    """Return the last line of a file that is not blank."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL_BYTES))
    lines = output.read().decode(errors="replace").splitlines()
    return next((one_line(line) for line in reversed(lines) if line.strip()), "")
