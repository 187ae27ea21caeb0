"""The echo server's protocol on both transports, asyncio's own and the batched one, with real sockets."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import until

from affinity_tester.core import stun
from affinity_tester.core.echo import Responder
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.net import echo, server
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.batch_transport import BatchTransport
from affinity_tester.net.mmsg import Batch

HOSTS = ("127.0.0.1", "::1")
KINDS = ("batch", "plain")
S = 1_000_000_000

UNKNOWN = bytes.fromhex("0001 0048 2112a442") + bytes(12) + bytes.fromhex("0003000400000000 c5a0003c") + bytes(60)
"""A request with an unknown comprehension-required attribute, and room for the 420 response."""


@dataclass
class Answering:
    """A socket that is answered at."""

    sock: socket.socket
    transport: asyncio.DatagramTransport
    responder: Responder
    queued: int = 0

    def queue(self, client: socket.socket, *datagrams: bytes) -> None:
        """Send datagrams, which wait in the socket's buffer until the loop turns."""
        for datagram in datagrams:
            client.sendto(datagram, self.sock.getsockname())
        self.queued += len(datagrams)

    async def until_counted(self) -> None:
        await until(lambda: self.responder.totals().received >= self.queued)

    async def ask(self, client: socket.socket, *datagrams: bytes) -> list[bytes]:
        """What it answers to datagrams that are all queued before it reads."""
        self.queue(client, *datagrams)
        await self.until_counted()
        return [reply for reply, _ in heard(client)]


def heard(client: socket.socket) -> list[tuple[bytes, Any]]:
    """What came, and from where."""
    replies = []
    while True:
        try:
            replies.append(client.recvfrom(65_536))
        except BlockingIOError:
            return replies


@asynccontextmanager
async def answering(
    kind: str,
    host: str = "127.0.0.1",
    max_flows: int = 9,
    key: bytes | None = None,
    limit: RateLimit | None = None,
) -> AsyncIterator[Answering]:
    encoder = stun.ResponseEncoder("pod-a", "node-1", b"instance", key=key)
    responder = Responder(encoder, max_flows=max_flows, key=key, limit=limit)
    sock = bind_udp(host, 0)
    batch = Batch(sock.family, 9) if kind == "batch" else None
    transport = await server.open_endpoint(sock, echo.protocol_for(responder), batch)
    assert isinstance(transport, BatchTransport) == (kind == "batch")
    try:
        yield Answering(sock, transport, responder)
    finally:
        transport.abort()
        await asyncio.sleep(0)
        assert sock.fileno() == -1


def probe(token: int, seq: int, size: int = 288, key: bytes | None = None) -> bytes:
    return stun.new_request(stun.pack_transaction_id(token, seq), size, key)


# --- both answer and count alike -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What happened to a datagram on its way."""

    flipped_bit: int | None = None
    kept: int | None = None
    added: bytes = b""

    def to(self, datagram: bytes) -> bytes:
        data = bytearray(datagram[: self.kept] + self.added)
        if self.flipped_bit is not None and data:
            data[self.flipped_bit // 8 % len(data)] ^= 1 << self.flipped_bit % 8
        return bytes(data)


KEYS = (b"secret", b"guess", None)
DAMAGES = (
    st.just(Damage())
    | st.builds(Damage, flipped_bit=st.integers(0, 8 * 40))
    | st.builds(Damage, kept=st.integers(0, 300))
    | st.builds(Damage, added=st.binary(min_size=1, max_size=8))
)
REQUESTS = st.builds(
    probe, st.integers(1, 3), st.integers(0, 0xFFFF_FFFF), st.sampled_from((288, 288, 92, 56)), st.sampled_from(KEYS)
) | st.builds(probe, st.integers(1, 3), st.integers(0, 0xFFFF_FFFF), st.sampled_from((20, 20, 24, 36, 2400)))
DATAGRAMS = st.builds(Damage.to, DAMAGES, REQUESTS | st.just(UNKNOWN)) | st.binary(max_size=48)
WAVES = st.lists(st.lists(DATAGRAMS, min_size=1, max_size=12), min_size=1, max_size=4)
"""Those of a wave are queued together."""


@dataclass
class Clock:
    ns: int = 0
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    def __enter__(self) -> Clock:
        self.patch.setattr(echo.clock, "now_ns", lambda: self.ns)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()


@pytest.mark.parametrize("host", HOSTS)
@settings(deadline=None)
@given(waves=WAVES, key=st.sampled_from((None, b"secret")), limited=st.booleans())
def test_both_transports_answer_and_count_as_the_responder_does(
    host: str, waves: list[list[bytes]], key: bytes | None, limited: bool
) -> None:
    """Whole and damaged datagrams from one source to both, beside what the responder itself says to each."""

    def limit() -> RateLimit | None:
        return RateLimit(9, 4, 0) if limited else None

    async def run() -> None:
        encoder = stun.ResponseEncoder("pod-a", "node-1", b"instance", key=key)
        oracle = Responder(encoder, max_flows=2, key=key, limit=limit())
        with bind_udp(host, 0) as client, Clock() as now:
            source, ip = client.getsockname(), socket.inet_pton(client.family, host)
            async with (
                answering("batch", host, 2, key, limit()) as batch,
                answering("plain", host, 2, key, limit()) as plain,
            ):
                for wave in waves:
                    now.ns += S // 2
                    expected = [oracle.respond_within_limit(datagram, source, ip, now.ns) for datagram in wave]
                    for one in (batch, plain):
                        one.queue(client, *wave)
                        await one.until_counted()
                    replies = heard(client)
                    for one in (batch, plain):
                        own = [reply for reply, at in replies if at == one.sock.getsockname()]
                        assert own == [reply for reply in expected if reply is not None]
                        assert one.responder.totals() == oracle.totals()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ip", "packed"),
    [
        ("203.0.113.7", "cb007107"),
        ("2001:db8::1", "20010db8" + "0" * 23 + "1"),
        ("fe80::1%lo", "fe80" + "0" * 27 + "1"),
    ],
)
def test_the_limit_is_asked_by_an_address_bytes(ip: str, packed: str) -> None:
    assert echo.packed_ip(ip) == bytes.fromhex(packed)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_longest_probe_is_read_as_a_whole(kind: str, host: str) -> None:
    with bind_udp(host, 0) as client:
        async with answering(kind, host) as one:
            (reply,) = await one.ask(client, probe(1, 2, 65_504))
    assert stun.decode_response(reply).identity.pod == "pod-a"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_session_hears_of_itself_alone(kind: str, host: str) -> None:
    with bind_udp(host, 0) as client, bind_udp(host, 0) as other:
        async with answering(kind, host) as one:
            one.queue(other, probe(8, 0), probe(8, 1, 20), probe(8, 2))
            responses = [
                stun.decode_response(reply) for reply in await one.ask(client, *(probe(7, seq) for seq in range(3)))
            ]
            others = [stun.decode_response(reply) for reply, _ in heard(other)]
        assert [(stun.unpack_transaction_id(r.transaction_id), r.received_count) for r in responses] == [
            ((7, seq), seq + 1) for seq in range(3)
        ]
        assert [r.received_count for r in others] == [1, None, 3]
        assert {r.identity.reflexive for r in responses} == {client.getsockname()[:2]}
        assert {r.identity.reflexive for r in others} == {other.getsockname()[:2]}


async def test_many_that_are_queued_take_turns_with_other_work() -> None:
    with bind_udp("127.0.0.1", 0) as client:
        async with answering("batch") as one:
            one.queue(client, *(probe(1, seq, 24) for seq in range(300)))
            await until(lambda: one.responder.totals().received > 0)
            assert [reply[16:20] for reply, _ in heard(client)] == [seq.to_bytes(4, "big") for seq in range(256)]
            await one.until_counted()
            assert len(heard(client)) == 44
            assert one.responder.totals() == ServerTotals(received=300, answered=300, flows=1)


# --- what cannot be sent ---------------------------------------------------------------------------------------------


def fail_sending(patch: pytest.MonkeyPatch, one: Answering, code: int, times: int = 1000) -> None:
    """Let sending fail so many times."""
    left = times

    def fails() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    if isinstance(one.transport, BatchTransport):
        batch = one.transport._batch
        call = batch._sendmmsg

        def sendmmsg(*arguments: Any) -> int:
            if fails():
                ctypes.set_errno(code)
                return -1
            return int(call(*arguments))

        patch.setattr(batch, "_sendmmsg", sendmmsg)
        return

    class Sock(socket.socket):
        __slots__ = ()

        def sendto(self, *arguments: Any) -> int:
            if fails():
                raise OSError(code, os.strerror(code))
            return super().sendto(*arguments)

    patch.setattr(one.sock, "__class__", Sock)


async def test_what_finds_no_room_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with bind_udp("127.0.0.1", 0) as client:
        async with answering("batch") as one:
            await one.ask(client, probe(1, 0))
            with monkeypatch.context() as patch:
                fail_sending(patch, one, errno.EAGAIN)
                assert await one.ask(client, probe(1, 1), UNKNOWN, probe(1, 2)) == []
            dropped = (("send-buffer-full", 3),)
            assert one.responder.totals() == ServerTotals(received=4, answered=1, dropped=dropped, flows=1)
            (reply,) = await one.ask(client, probe(1, 3))
            assert stun.decode_response(reply).received_count == 4


@pytest.mark.skipif(
    (3, 13) <= sys.version_info[:3] < (3, 13, 6),
    reason="CPython 3.13.0 to 3.13.5 never resumes a datagram transport once it waited (gh-135444)",
)
async def test_on_asyncios_transport_one_reply_waits_for_room_and_the_others_are_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bind_udp("127.0.0.1", 0) as client:
        async with answering("plain") as one:
            with monkeypatch.context() as patch:
                fail_sending(patch, one, errno.EAGAIN, 1_000_000)
                assert await one.ask(client, probe(1, 0), probe(1, 1), UNKNOWN, probe(1, 2)) == []
                dropped = (("send-buffer-full", 3),)
                assert one.responder.totals() == ServerTotals(received=4, answered=1, dropped=dropped, flows=1)
            waited: list[tuple[bytes, Any]] = []
            await until(lambda: bool(waited.extend(heard(client)) or waited))
            replies = await one.ask(client, probe(1, 3))
            assert [reply[16:20] for reply in (waited[0][0], *replies)] == [bytes(4), bytes((0, 0, 0, 3))]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_reply_that_cannot_be_sent_is_counted_and_passed_over(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bind_udp("127.0.0.1", 0) as client:
        async with answering(kind) as one:
            with monkeypatch.context() as patch:
                fail_sending(patch, one, errno.ENOBUFS, times=1)
                (reply,) = await one.ask(client, probe(1, 1), probe(1, 2))
            assert stun.decode_response(reply).received_count == 2
            assert one.responder.totals() == ServerTotals(received=2, answered=2, flows=1, send_errors=1)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_of_the_socket_is_counted(kind: str) -> None:
    """An ICMP error reported at a connected socket is the nearest to what Windows reports at any."""
    async with answering(kind) as one:
        with bind_udp("127.0.0.1", 0) as gone:
            address = gone.getsockname()
        one.sock.connect(address)
        one.sock.send(b"?")
        await until(lambda: one.responder.totals() != ServerTotals())
        assert one.responder.totals() == ServerTotals(send_errors=1)
