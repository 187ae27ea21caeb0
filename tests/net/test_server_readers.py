"""The readers of the server's sockets: the batched one and the plain one answer and count alike."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import pytest

from affinity_tester.core import stun
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_events import ServerTotals
from affinity_tester.net import echo_socket, mmsg
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.responder import Responder

HOSTS = ("127.0.0.1", "::1")
KINDS = ("batch", "single")


class Answering(NamedTuple):
    """A socket with its reader, and a client's socket."""

    sock: socket.socket
    client: socket.socket
    responder: Responder
    read: Callable[[], None]

    def ask(self, *datagrams: bytes) -> list[bytes]:
        """What it answers to datagrams that are all queued before it reads."""
        for datagram in datagrams:
            self.client.sendto(datagram, self.sock.getsockname())
        self.read()
        return self.heard()

    def heard(self) -> list[bytes]:
        replies = []
        while True:
            try:
                replies.append(self.client.recv(65_536))
            except BlockingIOError:
                return replies


@contextmanager
def answering(
    kind: str,
    host: str = "127.0.0.1",
    max_flows: int = 9,
    key: bytes | None = None,
    limit: RateLimit | None = None,
) -> Iterator[Answering]:
    encoder = stun.ResponseEncoder("pod-a", "node-1", b"instance", key=key)
    responder = Responder(encoder, max_flows=max_flows, key=key, limit=limit)
    with bind_udp(host, 0) as sock, bind_udp(host, 0) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(echo_socket, "_has_batches", lambda: kind == "batch")
            read = echo_socket.make_reader()(sock, responder)
        yield Answering(sock, client, responder, read)


def probe(token: int, seq: int, size: int = 288) -> bytes:
    return stun.new_request(stun.pack_transaction_id(token, seq), size)


def any_datagrams(random: Random) -> list[bytes]:
    """Probes of few sessions and several sizes, some of them damaged."""
    datagrams = []
    for _ in range(400):
        size = random.choice((288, 288, 288, 288, 20, 24, 36, 92, 9000))
        datagram = bytearray(probe(random.randrange(4), random.randrange(1 << 32), size))
        if random.random() < 0.2:
            datagram[random.randrange(20)] ^= 1 << random.randrange(8)
        if random.random() < 0.1:
            del datagram[random.randrange(len(datagram)) :]
        datagrams.append(bytes(datagram))
    return datagrams


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("key", [None, b"secret"])
def test_both_readers_answer_and_count_alike(host: str, key: bytes | None) -> None:
    """The batched one against the oracle: what the responder itself answers, datagram by datagram."""
    datagrams = any_datagrams(Random(1))
    if key is not None:
        datagrams += [stun.new_request(stun.pack_transaction_id(1, seq), 288, key) for seq in range(5)]
    oracle = Responder(stun.ResponseEncoder("pod-a", "node-1", b"instance", key=key), max_flows=3, key=key)
    with answering("batch", host, 3, key) as batch, answering("single", host, 3, key) as single:
        address = batch.client.getsockname()[:2]
        for start in range(0, len(datagrams), 10):
            queued = datagrams[start : start + 10]
            expected = [oracle.respond(datagram, address) for datagram in queued]
            assert batch.ask(*queued) == [reply for reply in expected if reply is not None]
            single.ask(*queued)
        assert batch.responder.totals() == oracle.totals() == single.responder.totals()
    assert oracle.totals().evicted > 0 or key is not None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_longest_probe_is_read_as_a_whole(kind: str, host: str) -> None:
    with answering(kind, host) as one:
        (reply,) = one.ask(probe(1, 2, 65_504))
        assert stun.decode_response(reply).identity.pod == "pod-a"


@pytest.mark.parametrize("kind", KINDS)
def test_many_that_are_queued_take_turns_with_other_work(kind: str) -> None:
    with answering(kind) as one:
        replies = one.ask(*(probe(1, seq, 24) for seq in range(300)))
        assert [reply[16:20] for reply in replies] == [seq.to_bytes(4, "big") for seq in range(256)]
        one.read()
        assert len(one.heard()) == 44
        one.read()  # nothing is there any more
        assert one.responder.totals() == ServerTotals(received=300, answered=300, flows=1)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_count_of_a_probe_that_is_a_known_flows(kind: str, host: str) -> None:
    with answering(kind, host) as one:
        responses = [stun.decode_response(reply) for reply in one.ask(*(probe(7, seq) for seq in range(3)))]
        assert [(stun.unpack_transaction_id(r.transaction_id), r.received_count) for r in responses] == [
            ((7, seq), seq + 1) for seq in range(3)
        ]
        assert {r.identity.reflexive for r in responses} == {one.client.getsockname()[:2]}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_over_the_limit_is_dropped_unread(kind: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0
    monkeypatch.setattr(echo_socket, "monotonic_ns", lambda: now_ns)
    with answering(kind, host, limit=RateLimit(5, 3, 0)) as one:
        probes = [probe(7, seq) for seq in range(4)]
        counts = [stun.decode_response(reply).received_count for reply in one.ask(*probes, b"?")]
        assert counts == [1, 2, 3]
        now_ns = 1_000_000_000
        counts = [stun.decode_response(reply).received_count for reply in one.ask(b"?", *probes)]
        assert counts == [4, 5]
        dropped = (("rate-limit-prefix", 4), ("too-short", 1))
        assert one.responder.totals() == ServerTotals(received=10, answered=5, dropped=dropped, flows=1)


def test_a_count_of_32_bits_starts_again() -> None:
    with answering("batch") as one:
        one.ask(probe(1, 0))
        next(iter(one.responder.flows.values())).count = 0xFFFF_FFFE
        counts = [stun.decode_response(reply).received_count for reply in one.ask(probe(1, 1), probe(1, 2))]
        assert counts == [0xFFFF_FFFF, 0]


UNKNOWN = bytes.fromhex("0001 0048 2112a442") + bytes(12) + bytes.fromhex("0003000400000000 c5a0003c") + bytes(60)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_send_buffer_drops_instead_of_piling_up(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(kind) as one:
        one.ask(probe(1, 0))
        failing(monkeypatch, one, kind, errno.EAGAIN)
        assert one.ask(probe(1, 1), UNKNOWN, probe(1, 2)) == []
        dropped = (("send-buffer-full", 3),)
        assert one.responder.totals() == ServerTotals(received=4, answered=1, dropped=dropped, flows=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_cannot_be_sent_is_counted_and_passed_over(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(kind) as one:
        failing(monkeypatch, one, kind, errno.ENOBUFS, times=1)
        (reply,) = one.ask(probe(1, 1), probe(1, 2))
        assert stun.decode_response(reply).received_count == 2
        assert one.responder.totals() == ServerTotals(received=2, answered=2, flows=1, send_errors=1)


def failing(patch: pytest.MonkeyPatch, one: Answering, kind: str, code: int, times: int = 1000) -> None:
    """Let sending fail so many times."""
    left = times

    def fails() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    if kind == "batch":
        batch = one.read.__self__._batch  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_socket_is_counted_and_ends_the_turn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ICMP error reported at a connected socket is the nearest to what Windows reports at any."""
    with answering(kind) as one:
        with bind_udp("127.0.0.1", 0) as gone:
            address = gone.getsockname()
        one.sock.connect(address)
        one.sock.send(b"?")
        one.read()
        assert one.responder.totals() == ServerTotals(send_errors=1)


@pytest.mark.parametrize("host", HOSTS)
def test_from_source_port_0_nothing_can_be_answered(host: str) -> None:
    with answering("batch", host) as one:
        peer = bytes(16 if host == "127.0.0.1" else 28)
        reader = one.read.__self__  # type: ignore[attr-defined]
        assert reader._answer_any(0, peer, 0) is None
        assert one.responder.totals() == ServerTotals(received=1, dropped=(("source-port-0", 1),))


def test_from_source_port_0_the_plain_reader_answers_nothing_either() -> None:
    class Sock(socket.socket):
        def recvfrom(self, *_: int) -> tuple[bytes, tuple[str, int]]:  # type: ignore[override]
            return probe(1, 1), ("127.0.0.1", 0)

    with answering("single") as one, Sock(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        echo_socket.read_single(sock, one.responder)
        assert one.responder.totals() == ServerTotals(received=256, dropped=(("source-port-0", 256),))


def test_batches_are_there_on_this_linux_and_nowhere_without_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mmsg.is_available()

    def forbidden(*_: int) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(mmsg, "_functions", lambda: (forbidden, forbidden))
    assert not mmsg.is_available()
    monkeypatch.setattr(mmsg.sys, "platform", "darwin")
    assert not mmsg.is_available()
