"""A UDP server that does as a test's script says: who answers, when, from where, in which order, and with what."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.stun.attributes import SOFTWARE, XOR_MAPPED_ADDRESS
from affinity_tester.core.stun.message import BINDING_SUCCESS, pack_header
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import bind_udp, bound_address


class Probe(NamedTuple):
    """One probe that came in."""

    session: int
    """The session's number, by the order in which their first probes came."""
    seq: int
    source: tuple[Any, ...]
    data: bytes

    @property
    def transaction_id(self) -> bytes:
        return self.data[8:20]


class ScriptedServer:
    """Reads probes as they come and hands each to the script, which may `reply`, or not, or do worse."""

    def __init__(self, host: str, port: int, script: Callable[[ScriptedServer, Probe], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._script = script
        self._tokens: dict[int, int] = {}
        self._received: Counter[tuple[str, int]] = Counter()
        self._encoders: dict[str, stun.ResponseEncoder] = {}
        self.probes: list[Probe] = []
        self.address = TransportAddress(host, port)
        self._sock: socket.socket | None = None
        self.open()
        self.address = bound_address(self.sock)

    @property
    def sock(self) -> socket.socket:
        assert self._sock is not None, "the port is closed"
        return self._sock

    def open(self) -> None:
        """Bind, again after a `close`."""
        self._sock = bind_udp(*self.address)
        self._loop.add_reader(self._sock, self._read)

    def close(self) -> None:
        """Close the port; probes that are queued there are taken in and not answered, so that none vanishes uncounted."""
        if self._sock is not None:
            sock, self._sock = self._sock, None
            self._loop.remove_reader(sock)
            while self._take(sock) is not None:
                pass
            sock.close()

    def _read(self) -> None:
        while self._sock is not None and (probe := self._take(self._sock)) is not None:
            self._script(self, probe)

    def _take(self, sock: socket.socket) -> Probe | None:
        try:
            data, source = sock.recvfrom(65_536)
        except BlockingIOError:
            return None
        token, seq = stun.unpack_transaction_id(stun.decode_request(data).transaction_id)
        probe = Probe(self._tokens.setdefault(token, len(self._tokens)), seq, source, data)
        self.probes.append(probe)
        return probe

    # --- what a script may do --------------------------------------------------------------------------------------

    def reply(self, probe: Probe, pod: str = "pod-a", *, reflexive: tuple[str, int] | None = None) -> None:
        """Answer as the server would, as this pod, which counts its probes; it claims to have seen `reflexive`."""
        self.send(self.message(probe, pod, reflexive=reflexive), probe.source)

    def message(self, probe: Probe, pod: str = "pod-a", *, reflexive: tuple[str, int] | None = None) -> bytes:
        """What `reply` sends."""
        key = (pod, probe.session)
        self._received[key] += 1
        seen = reflexive or (probe.source[0], probe.source[1])
        if pod not in self._encoders:
            self._encoders[pod] = stun.ResponseEncoder(pod, "node-1", pod.encode()[-8:].rjust(8))
        return self._encoders[pod].encode(probe.transaction_id, seen, self._received[key], len(probe.data))

    def send(self, message: bytes, to: tuple[Any, ...], sock: socket.socket | None = None) -> None:
        """Send now, unless the port is closed."""
        sock = sock or self._sock
        if sock is not None:
            sock.sendto(message, to)

    def later(self, seconds: float, probe: Probe, pod: str = "pod-a") -> None:
        """Answer after some time, with what is true now."""
        self._loop.call_later(seconds, self.send, self.message(probe, pod), probe.source)


def foreign_reply(probe: Probe, software: str = "coturn") -> bytes:
    """The answer of a STUN server of another make: it names no pod."""
    body = XOR_MAPPED_ADDRESS.encode(TransportAddress(*probe.source[:2]), probe.transaction_id)
    body += SOFTWARE.encode(software)
    return pack_header(BINDING_SUCCESS, len(body)) + probe.transaction_id + body


@asynccontextmanager
async def scripted(
    script: Callable[[ScriptedServer, Probe], object], host: str = "127.0.0.1"
) -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free port."""
    server = ScriptedServer(host, 0, script)
    try:
        yield server
    finally:
        server.close()


def answer(server: ScriptedServer, probe: Probe) -> None:
    """The script of a server without fault."""
    server.reply(probe)


def closed_port(host: str = "127.0.0.1") -> TransportAddress:
    """An address where nobody listens, and where no socket will: it is outside of the ports that the kernel gives."""
    while True:
        try:
            with bind_udp(host, random.randrange(12_000, 30_000)) as sock:
                return bound_address(sock)
        except UserError:
            continue
