"""The sockets of a measurement of silence: a fresh one for each sample, driven by `core.idle.sample`, never many at once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from typing import Literal

from affinity_tester import clock
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.grid import PlannedSample
from affinity_tester.core.idle.model import SampleResult
from affinity_tester.core.idle.sample import CheckPath, Command, Sample, Send
from affinity_tester.errors import UserError
from affinity_tester.net.flow_socket import FlowSocket, OnReply
from affinity_tester.net.limits import raise_descriptor_limit
from affinity_tester.net.reachable import answers
from affinity_tester.net.resolve import Destination
from affinity_tester.units import NS_PER_S

CHECKS = 300
"""New flows at a time: 100 samples end in a second, and a check takes two."""

SourceFor = Callable[..., str]
"""Returns the source address for a target and its scope, as `net.probe_socket.local_source_for`."""


class _Flow:
    """One sample and its socket."""

    def __init__(self, idle_round: _Round, planned: PlannedSample, destination: Destination) -> None:
        self._round = idle_round
        self._destination = destination
        self._socket = idle_round.open_socket(destination, self._replied)
        self.sample = Sample(planned.step, self._socket.port)
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Send the first probe."""
        self._do(self.sample.begin(clock.now_ns()))

    def close(self) -> None:
        """Close the socket, and end what waits."""
        if self._timer is not None:
            self._timer.cancel()
        if self._check is not None:
            self._check.cancel()
        self._socket.close()

    def _replied(self, at_ns: int, seq: int, identity: Identity, delay_ns: int | None) -> None:
        if self.sample.result is None:
            self._do(self.sample.replied(at_ns, seq, identity, delay_ns))

    def _due(self) -> None:
        self._do(self.sample.timer(clock.now_ns()))

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(seq=seq, delay_ns=delay_ns):
                    self._socket.send(seq, delay_ns)
                case CheckPath():
                    self._check = asyncio.create_task(self._check_path())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.sample.result is not None:
            self._round.ended(self)
        elif (due_ns := self.sample.deadline_ns) is not None:
            wait_s = max(0, due_ns - clock.now_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._due)

    async def _check_path(self) -> None:
        """Ask from a new socket, and tell the sample whether that was answered."""
        answered = await self._round.answers(self._destination)
        self._check = None
        if self.sample.result is None:
            self._do(self.sample.path_checked(clock.now_ns(), answered=answered))


class _Round:
    """The flows of one round, as far as they are open."""

    def __init__(self, source_for: SourceFor, key: bytes | None, on_result: Callable[[SampleResult], None]) -> None:
        self._source_for = source_for
        self._key = key
        self._on_result = on_result
        self.open: set[_Flow] = set()
        self.changed = asyncio.Event()
        """Set whenever a flow has ended."""

    def open_socket(self, destination: Destination, on_reply: OnReply) -> FlowSocket:
        return FlowSocket(self._source_for(*destination), destination, self._key, on_reply)

    async def answers(self, destination: Destination) -> bool:
        """Return whether a new flow is answered."""
        return await answers(destination, self._key, self._source_for(*destination))

    def ended(self, flow: _Flow) -> None:
        self.open.discard(flow)
        flow.close()
        self.changed.set()
        if flow.sample.result is not None:
            self._on_result(flow.sample.result)


async def run_round(
    planned: Sequence[PlannedSample],
    destinations: Sequence[Destination],
    stop: asyncio.Event,
    on_result: Callable[[SampleResult], None],
    *,
    source_for: SourceFor,
    key: bytes | None = None,
) -> None:
    """Run all samples, each from a fresh socket, and tell each result; return when the last has ended or `stop` is set.

    Destinations take turns, from step to step, so that a step meets all of them. Raises `UserError` where no socket can be
    opened.
    """
    raise_descriptor_limit(len(planned) + CHECKS, "sample")
    idle_round = _Round(source_for, key, on_result)
    stopped = asyncio.ensure_future(stop.wait())
    begun_ns = clock.now_ns()
    of_step: dict[object, int] = {}
    try:
        for each in planned:
            wait_s = (begun_ns + each.start_ns - clock.now_ns()) / NS_PER_S
            if await _is_set_within(stopped, max(0.0, wait_s)):
                return
            turn = of_step[each.step] = of_step.get(each.step, -1) + 1
            idle_round.open.add(flow := _open(idle_round, each, destinations[turn % len(destinations)]))
            flow.begin()
        while idle_round.open and not stop.is_set():
            idle_round.changed.clear()
            changed = asyncio.ensure_future(idle_round.changed.wait())
            await asyncio.wait({stopped, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
    finally:
        stopped.cancel()
        for flow in list(idle_round.open):
            flow.close()


def _open(idle_round: _Round, planned: PlannedSample, destination: Destination) -> _Flow:
    try:
        return _Flow(idle_round, planned, destination)
    except OSError as error:
        what = errno.errorcode.get(error.errno or 0, "")
        raise UserError(
            f"no socket can be opened for {destination.address} ({error.strerror or what}): check the source address, and"
            " take fewer --samples where descriptors or ports run out"
        ) from error


async def _is_set_within(stopped: asyncio.Future[Literal[True]], wait_s: float) -> bool:
    """Wait so long at most; return whether the end was asked for."""
    await asyncio.wait({stopped}, timeout=wait_s)
    return stopped.done()
