"""The sockets of a measurement of silence: a fresh one for each sample, driven by `core.idle.sample`, never many at once."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from affinity_tester import clock
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.grid import PlannedSample
from affinity_tester.core.idle.model import SampleResult
from affinity_tester.core.idle.sample import CheckPath, Command, Sample, Send
from affinity_tester.core.stun import decode_response, new_request, pack_transaction_id, read_reply_delay
from affinity_tester.core.stun.message import unpack_transaction_id
from affinity_tester.errors import StunError, UserError
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.limits import raise_descriptor_limit
from affinity_tester.net.probe_socket import (
    open_probe_socket,
    read_error_queue,
    receive,
    socket_address,
    transport_address,
)
from affinity_tester.net.resolve import Destination
from affinity_tester.settings import DEFAULT_REQUEST_SIZE
from affinity_tester.units import NS_PER_MS, NS_PER_S

CHECK_PROBES = 3
"""Of a new flow, one each `CHECK_WAIT_S`, so that one lost packet does not look like a dead path."""
CHECK_WAIT_S = 0.7
CHECKS = 300
"""New flows at a time: 100 samples end in a second, and a check takes two."""

_BUFFER = bytearray(65_536)
"""One for all sockets: what is read is decoded at once."""

SourceFor = Callable[..., str]
"""Returns the source address for a target and its scope, as `net.probe_socket.local_source_for`."""


OnReply = Callable[[int, int, Identity, int | None], None]
"""Told of a reply: when, to which probe, who answered, and after how long it says that another follows (None: nothing)."""


class _FlowSocket:
    """A socket of its own for one flow; `on_reply` is told each reply to one of its probes."""

    def __init__(
        self,
        source: str,
        destination: Destination,
        key: bytes | None,
        on_reply: OnReply,
    ) -> None:
        """Open it. Raises `OSError`."""
        self._destination = destination
        self._address = socket_address(*destination)
        self._key = key
        self._on_reply = on_reply
        self._token = secrets.randbits(64)
        self._sock = open_probe_socket(source, destination.address, scope_id=destination.scope_id, connected=False)
        self.port: int = self._sock.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def send(self, seq: int, delay_ns: int = 0) -> None:
        """Send a probe, which asks for another reply after the delay unless that is 0.

        What this machine refuses to send is lost, as on any other hop.
        """
        delay_ms = delay_ns // NS_PER_MS or None
        request = new_request(pack_transaction_id(self._token, seq), DEFAULT_REQUEST_SIZE, self._key, delay_ms)
        for _ in range(2):  # an ICMP error about an earlier probe fails the next send once
            with suppress(OSError):
                self._sock.sendto(request, self._address)
                return
            read_error_queue(self._sock)

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        to_run_ns = wall_to_run_ns()
        while self._sock.fileno() >= 0:
            try:
                size, wall_ns, source = receive(self._sock, (_BUFFER,))
            except BlockingIOError:
                read_error_queue(self._sock)
                return
            except OSError:
                read_error_queue(self._sock)
                continue
            if transport_address(source) == self._destination.address:
                now_ns = clock.now_ns()
                self._read(bytes(_BUFFER[:size]), now_ns if wall_ns is None else min(now_ns, wall_ns + to_run_ns))

    def _read(self, data: bytes, at_ns: int) -> None:
        try:
            response = decode_response(data, self._key)
            delay_ms = read_reply_delay(data)
        except StunError:
            return
        token, seq = unpack_transaction_id(response.transaction_id)
        if token == self._token:
            self._on_reply(at_ns, seq, response.identity, None if delay_ms is None else delay_ms * NS_PER_MS)


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
        answered = asyncio.Event()
        with suppress(OSError):  # no descriptor, no port: then nothing is known
            fresh = self._round.open_socket(self._destination, lambda *_: answered.set())
            try:
                for seq in range(CHECK_PROBES):
                    fresh.send(seq)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(CHECK_WAIT_S):
                            await answered.wait()
                            break
            finally:
                fresh.close()
        self._check = None
        if self.sample.result is None:
            self._do(self.sample.path_checked(clock.now_ns(), answered=answered.is_set()))


class _Round:
    """The flows of one round, as far as they are open."""

    def __init__(self, source_for: SourceFor, key: bytes | None, on_result: Callable[[SampleResult], None]) -> None:
        self._source_for = source_for
        self._key = key
        self._on_result = on_result
        self.open: set[_Flow] = set()
        self.changed = asyncio.Event()
        """Set whenever a flow has ended."""

    def open_socket(self, destination: Destination, on_reply: OnReply) -> _FlowSocket:
        source = self._source_for(destination.address, destination.scope_id)
        return _FlowSocket(source, destination, self._key, on_reply)

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
