"""The batched transport under protocols that do what the echo server's does not."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from running import until

from affinity_tester.net import mmsg
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.batch_transport import BatchTransport
from affinity_tester.net.mmsg import Batch, peer_address


class Recording(asyncio.DatagramProtocol):
    """Keeps what it is told; replies as a subclass says."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("BatchTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self.reply(data, addr)

    def reply(self, data: bytes, addr: Any) -> None:
        pass

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


@asynccontextmanager
async def fed(protocol: Recording, host: str = "127.0.0.1", max_peers: int = 9) -> AsyncIterator[socket.socket]:
    sock = bind_udp(host, 0)
    loop = asyncio.get_running_loop()
    transport = BatchTransport(loop, sock, protocol, Batch(sock.family, max_peers))
    assert (transport.get_protocol(), transport.get_extra_info("socket")) == (protocol, sock)
    try:
        yield sock
    finally:
        transport.close()
        await asyncio.sleep(0)


async def heard(client: socket.socket, count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(5):
        return [(await loop.sock_recv(client, 65_536)) for _ in range(count)]


async def test_several_replies_to_one_datagram_leave_in_their_order() -> None:
    class Thrice(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(bytearray(data + b"1"), addr)
            self.transport.sendto(data + b"2", addr)
            self.transport.sendto(data + b"3", tuple(addr))

    protocol = Thrice()
    async with fed(protocol) as sock:
        with bind_udp("127.0.0.1", 0) as client:
            for datagram in (b"a", b"b"):
                client.sendto(datagram, sock.getsockname())
            assert await heard(client, 6) == [b"a1", b"a2", b"a3", b"b1", b"b2", b"b3"]
            protocol.transport.sendto(b"later", client.getsockname())
            assert await heard(client, 1) == [b"later"]
    assert protocol.errors == []


async def test_more_replies_than_a_batch_has_room_for_all_leave() -> None:
    class Thrice(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            for number in b"123":
                self.transport.sendto(data + bytes((number,)), addr)

    protocol = Thrice()
    async with fed(protocol) as sock:
        with bind_udp("127.0.0.1", 0) as client:
            asked = [bytes((number,)) for number in range(64)]
            for datagram in asked:
                client.sendto(datagram, sock.getsockname())
            assert await heard(client, 192) == [datagram + last for datagram in asked for last in (b"1", b"2", b"3")]
    assert protocol.errors == []


async def test_of_a_batch_that_was_sent_in_part_only_the_rest_found_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    class Echo(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    protocol = Echo()
    async with fed(protocol) as sock:
        batch = protocol.transport._batch
        call, left = batch._sendmmsg, 2

        def sendmmsg(fd: int, address: int, count: int, flags: int) -> int:
            nonlocal left
            if not left:
                ctypes.set_errno(errno.EAGAIN)
                return -1
            sent = int(call(fd, address, min(count, left), flags))
            left -= sent
            return sent

        monkeypatch.setattr(batch, "_sendmmsg", sendmmsg)
        with bind_udp("127.0.0.1", 0) as client:
            for datagram in (b"a", b"b", b"c", b"d"):
                client.sendto(datagram, sock.getsockname())
            assert await heard(client, 2) == [b"a", b"b"]
            await until(lambda: len(protocol.errors) == 2)
    assert [getattr(error, "datagram", None) for error in protocol.errors] == [b"c", b"d"]


async def test_replies_of_other_lengths_in_one_batch_each_find_their_peer() -> None:
    class Echo(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)

    async with fed(Echo()) as sock:
        with bind_udp("127.0.0.1", 0) as one, bind_udp("127.0.0.1", 0) as two:
            for lengths in ((3, 3), (1, 5000), (3, 3), (0, 3), (5, 5)):
                for client, length in zip((one, two), lengths, strict=True):
                    client.sendto(b"x" * length, sock.getsockname())
                assert [len((await heard(client, 1))[0]) for client in (one, two)] == list(lengths)


async def test_a_protocol_that_fails_misses_no_other_datagram() -> None:
    class Failing(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)
            if data == b"b":
                raise ValueError(data)

    contexts: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
    protocol = Failing()
    async with fed(protocol) as sock:
        with bind_udp("127.0.0.1", 0) as client:
            for datagram in (b"a", b"b", b"c"):
                client.sendto(datagram, sock.getsockname())
            assert await heard(client, 3) == [b"a", b"b", b"c"]
    assert [repr(context["exception"]) for context in contexts] == ["ValueError(b'b')"]
    assert contexts[0]["protocol"] is protocol


async def test_what_is_sent_outside_of_a_batch_and_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = Recording()
    async with fed(protocol) as sock:

        class Full(socket.socket):
            __slots__ = ()

            def sendto(self, *_: Any) -> int:
                raise BlockingIOError(errno.EAGAIN, "full")

        with monkeypatch.context() as patch:
            patch.setattr(sock, "__class__", Full)
            protocol.transport.sendto(b"x", ("127.0.0.1", 9))
        protocol.transport.sendto(b"x" * 65_508, ("127.0.0.1", 9))
    full, too_long = protocol.errors
    assert (isinstance(full, BlockingIOError), getattr(full, "datagram", None)) == (True, b"x")
    assert isinstance(too_long, OSError)
    assert too_long.errno == errno.EMSGSIZE
    assert protocol.transport.get_write_buffer_size() == 0


async def test_after_close_the_protocol_is_told_once_and_the_socket_is_closed() -> None:
    class Closing(Recording):
        def reply(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)
            self.transport.close()

    protocol = Closing()
    async with fed(protocol) as sock:
        with bind_udp("127.0.0.1", 0) as client:
            client.sendto(b"a", sock.getsockname())
            assert await heard(client, 1) == [b"a"]  # what it replied still leaves
        await asyncio.sleep(0)
        assert (protocol.transport.is_closing(), protocol.lost, sock.fileno()) == (True, [None], -1)
    assert protocol.lost == [None]


async def test_the_addresses_that_are_kept_decoded_are_bounded() -> None:
    protocol = Recording()
    async with fed(protocol, max_peers=2) as sock:
        clients = [bind_udp("127.0.0.1", 0) for _ in range(3)]
        for number in (0, 1, 2, 0, 2):
            clients[number].sendto(b"?", sock.getsockname())
        await until(lambda: len(protocol.received) == 5)
        assert [addr for _, addr in protocol.received] == [clients[n].getsockname() for n in (0, 1, 2, 0, 2)]
        assert list(protocol.transport._batch.addresses.values()) == [clients[n].getsockname() for n in (2, 0)]
        assert protocol.received[2][1] is protocol.received[4][1]  # decoded once
        for client in clients:
            client.close()


def test_an_ipv6_address_keeps_its_flow_label_and_scope_as_pythons_sockets_have_it() -> None:
    packed = (
        socket.AF_INET6.to_bytes(2, "little")
        + (3478).to_bytes(2, "big")
        + (0x12345).to_bytes(4, "big")
        + socket.inet_pton(socket.AF_INET6, "fe80::1")
        + (7).to_bytes(4, "little")
    )
    assert peer_address(packed) == ("fe80::1", 3478, 0x12345, 7)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_is_what_asyncios_own_transport_gives(host: str) -> None:
    batched, plain = Recording(), Recording()
    async with fed(batched, host) as sock:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: plain, (host, 0))
        with bind_udp(host, 0) as client:
            for address in (sock.getsockname(), transport.get_extra_info("sockname")):
                client.sendto(b"?", address)
            await until(lambda: batched.received and plain.received)
        transport.close()
    assert batched.received == plain.received


def test_batches_are_there_on_this_linux_and_nowhere_without_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mmsg.is_available()

    def forbidden(*_: int) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(mmsg, "_functions", lambda: (forbidden, forbidden))
    assert not mmsg.is_available()
    monkeypatch.setattr(mmsg.sys, "platform", "darwin")
    assert not mmsg.is_available()
