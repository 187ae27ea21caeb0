"""Delayed replies on real sockets: they leave when they are due, from the address that was asked, or not at all."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from running import until
from test_echo_transports import KINDS, answering, heard

from affinity_tester.core import stun
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.net import echo
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.server import EchoServer

KEY = b"secret"


def request(seq: int, delay_ms: int) -> bytes:
    return stun.new_request(stun.pack_transaction_id(1, seq), 288, KEY, delay_ms)


@pytest.mark.parametrize("limit", [None, RateLimit.of(1_000, 0, 0)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_delayed_reply_leaves_when_it_is_due(kind: str, limit: RateLimit | None) -> None:
    async with answering(kind, key=KEY, limit=limit) as one:
        with bind_udp("127.0.0.1", 0) as client:
            begun = time.monotonic()
            (now,) = await one.ask(client, request(1, 200))
            assert stun.read_reply_delay(now) == 200
            await until(lambda: one.responder.totals().delayed == 1)
            assert 0.2 <= time.monotonic() - begun < 2
            ((then, source),) = heard(client)
            assert source == one.sock.getsockname()
            assert stun.read_reply_delay(then) == 0
            assert then[8:20] == now[8:20]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_sent_is_counted_apart_from_answers(kind: str) -> None:
    async with answering(kind, key=KEY) as one:
        with bind_udp("127.0.0.1", 0) as client:
            await one.ask(client, request(1, 50))

            def fail(_reply: object, _addr: object) -> None:
                protocol = one.transport.get_protocol()
                assert isinstance(protocol, echo.EchoProtocol)
                protocol.error_received(PermissionError(1, "a packet filter"))

            one.transport.sendto = fail  # type: ignore[assignment,method-assign]
            await until(lambda: bool(one.responder.totals().not_delayed))
    assert one.responder.totals() == ServerTotals(received=1, answered=1, flows=1, not_delayed=(("send-failed", 1),))


async def test_the_end_gives_up_what_waits() -> None:
    server = await EchoServer.start(["127.0.0.1"], 0, pod_name="a", key=KEY)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.sendto(request(1, 3_600_000), server.addresses[0])
        client.sendto(request(2, 3_600_000), server.addresses[0])
        await until(lambda: server.counters.answered == 2)
        totals = await server.close()
    await asyncio.sleep(0)
    assert (totals.delayed, totals.not_delayed) == (0, (("shutdown", 2),))
