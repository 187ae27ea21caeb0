"""Runs a command of the user's for each incident that holds a violation (`--on-violation`), beside the probes.

What must be true: a command is called once an incident, whatever becomes of it; one runs at a time; nothing that it does or
fails to do holds up a probe, a judgement or, for longer than a bound, the end of the run. The incident comes on its standard
input alone: names in it are chosen by others, and no shell ever reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from affinity_tester.core.events import Event, IncidentClosed, IncidentOngoing, RunStarted
from affinity_tester.report.clock import RunClock
from affinity_tester.report.incident import is_violation
from affinity_tester.report.jsonlog import objects
from affinity_tester.report.messages import Messages
from affinity_tester.units import plural

OPTION = "--on-violation"

MOST_WAITING = 16
"""Incidents that wait for their call; more, and the command is too slow for what happens."""

TIME_LIMIT_S = 30.0
"""A command that runs for longer is killed, with all that it started."""

END_S = 30.0
"""How long the end of a run waits for the last calls."""

SAY_AFTER_S = 2.0
"""The end says that it waits only if it does so for longer than a short command takes."""

_KILLED_S = 1.0
"""The kernel ends a killed process at once, unless that hangs in a driver."""

_STDERR_BYTES = 4_096
_TOLD_CHARACTERS = 200


class ViolationHook:
    """Takes in a run's events, and calls the command."""

    def __init__(self, command: str, warn: Callable[[str], None]) -> None:
        """`command` is read by `sh`; `warn` is told, a line each, what went wrong with it."""
        self._command = command
        self._warn = warn
        self._clock: RunClock | None = None
        self._messages: Messages | None = None
        self._run: dict[str, object] = {}
        self._called: set[int] = set()
        """The numbers of the incidents that were taken in."""
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MOST_WAITING)
        self._left_out = 0
        self._process: asyncio.subprocess.Process | None = None

    def emit(self, event: Event) -> None:
        """Take in an event; an incident with a violation waits for its call, the first time that it is told."""
        match event:
            case RunStarted():
                self._clock = RunClock.of(event)
                self._messages = Messages(self._clock)
                self._run = {"run": event.run_id, "target": str(event.target), "target_name": event.target_name}
            case IncidentOngoing(incident=incident) | IncidentClosed(incident=incident):
                if is_violation(incident) and incident.number not in self._called:
                    self._called.add(incident.number)
                    self._put(event)

    def _put(self, event: Event) -> None:
        assert self._clock is not None and self._messages is not None, "a run's start is its first event"  # noqa: PT018
        [(name, level, message, data)] = objects(event, self._clock, self._messages)
        head = {"time": self._clock.rfc3339(event.at_ns), "level": level, "event": name, "message": message}
        try:
            self._waiting.put_nowait(json.dumps({**head, **self._run, **data}).encode() + b"\n")
        except asyncio.QueueFull:
            self._left_out += 1
            if self._left_out == 1:
                self._warn(
                    f"{OPTION} is slower than the incidents: it is not called for this one, nor for some to come"
                )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Call the command as incidents come; what still runs at the end of the context is killed."""
        caller = asyncio.create_task(self._call_all())
        try:
            yield
        finally:
            caller.cancel()
            await asyncio.gather(caller, return_exceptions=True)

    async def finish(self, abort: asyncio.Event) -> None:
        """Wait until all calls have ended, for `END_S` at most, or until `abort` is set; say what was not called."""
        done = asyncio.ensure_future(self._waiting.join())
        aborted = asyncio.ensure_future(abort.wait())
        try:
            await asyncio.wait({done, aborted}, timeout=SAY_AFTER_S, return_when=asyncio.FIRST_COMPLETED)
            if not done.done() and not aborted.done():
                self._warn(f"waiting for {OPTION}, for up to {END_S:.0f} s (Ctrl-C: kill it)")
                left_s = END_S - SAY_AFTER_S
                await asyncio.wait({done, aborted}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                left = self._waiting.qsize()
                more = f", and {plural(left, 'call')} not made" if left else ""
                self._warn(f"{OPTION} had not ended with the run: it is killed{more}")
            if self._left_out:
                self._warn(f"{OPTION} was not called for {plural(self._left_out, 'incident')}: it was too slow")
        finally:
            done.cancel()
            aborted.cancel()

    async def _call_all(self) -> None:
        while True:
            text = await self._waiting.get()
            try:
                if problem := await self._call(text):
                    self._warn(f"{OPTION}: {problem}")
            finally:
                self._waiting.task_done()

    async def _call(self, text: bytes) -> str:
        """Run the command once; return what went wrong, or nothing."""
        with _Said() as said:
            try:
                # A session of its own: Ctrl-C is meant for the run, and what it starts can be killed with it. Descriptors
                # need no closing, as Python's are not inherited, and 10,000 of them would take a while.
                process = await asyncio.create_subprocess_exec(
                    "/bin/sh",
                    "-c",
                    self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said.write_end,
                    start_new_session=True,
                    close_fds=False,
                )
            except OSError as error:
                return f"the command cannot be started: {error.strerror}"

            feeder = asyncio.create_task(_feed(process.stdin, text))
            try:
                async with asyncio.timeout(TIME_LIMIT_S):
                    code = await process.wait()
            except TimeoutError:
                return f"the command had not ended after {TIME_LIMIT_S:.0f} s, and is killed"
            finally:
                feeder.cancel()
                await _kill_group(process)
            return _problem(code, said.last_line())


class _Said:
    """The end of what a command says on standard error.

    A pipe of its own: asyncio's would take a command for running while something that it left behind holds the pipe.
    """

    def __enter__(self) -> Self:
        self._read_end, self.write_end = os.pipe()
        self._kept = b""
        os.set_blocking(self._read_end, False)
        asyncio.get_running_loop().add_reader(self._read_end, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        os.close(self.write_end)

    def last_line(self) -> str:
        """Return the last line so far, cut."""
        self._read()
        text = self._kept.decode(errors="backslashreplace")
        return text.strip().rpartition("\n")[2][:_TOLD_CHARACTERS]

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._kept = (self._kept + os.read(self._read_end, _STDERR_BYTES))[-_STDERR_BYTES:]


def _problem(code: int, said: str) -> str:
    """Return what an exit code means, with what the command said; nothing for 0."""
    if code == 0:
        return ""
    how = f"signal {-code} ended the command" if code < 0 else f"the command ended with exit code {code}"
    return f"{how}: {said}" if said else how


async def _feed(stdin: Any, text: bytes) -> None:
    """Write the incident; a command that does not want it may leave it."""
    with contextlib.suppress(OSError):
        stdin.write(text)
        await stdin.drain()
    stdin.close()


async def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kill a command that still runs, and what it started.

    A command that has ended may leave something in the background on purpose; its group's number may be another's by now.
    """
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILLED_S):
            await process.wait()
