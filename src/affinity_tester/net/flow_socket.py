"""A socket of its own for one flow that is asked now and then: nothing is tracked but the replies to its probes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

from affinity_tester import clock
from affinity_tester.core.identity import Identity
from affinity_tester.core.stun import decode_response, new_request, pack_transaction_id, read_reply_delay
from affinity_tester.core.stun.message import unpack_transaction_id
from affinity_tester.errors import StunError
from affinity_tester.net.clock import wall_to_run_ns
from affinity_tester.net.probe_socket import (
    open_probe_socket,
    read_error_queue,
    receive,
    socket_address,
    transport_address,
)
from affinity_tester.net.resolve import Destination
from affinity_tester.settings import DEFAULT_REQUEST_SIZE
from affinity_tester.units import NS_PER_MS

_BUFFER = bytearray(65_536)
"""One for all sockets: what is read is decoded at once."""

OnReply = Callable[[int, int, Identity, int | None], None]
"""Told of a reply: when, to which probe, who answered, and after how long it says that another follows (None: nothing)."""


class FlowSocket:
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
