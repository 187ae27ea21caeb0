"""Which addresses answer a probe."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.net import reachable
from affinity_tester.net.addresses import bind_udp, bound_address
from affinity_tester.net.reachable import find_answering
from affinity_tester.net.resolve import Destination
from affinity_tester.net.server import EchoServer

KEY = b"secret"


@pytest.mark.parametrize(("key", "asked_with"), [(None, None), (KEY, KEY)])
async def test_the_addresses_that_answer_are_found_in_their_order(
    key: bytes | None, asked_with: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachable, "WAIT_S", 0.1)
    served = [bind_udp("127.0.0.1", 0), bind_udp("::1", 0)]
    silent, closed = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
    nobody = bound_address(closed)
    closed.close()
    server = await EchoServer.serve(served, "pod", "node", secrets.token_bytes(8), key=key, max_flows=100)
    try:
        answering = [Destination(address) for address in server.addresses]
        asked = [Destination(nobody), *answering, Destination(bound_address(silent))]
        assert await find_answering(asked, asked_with) == tuple(answering)
    finally:
        silent.close()
        await server.close()


async def test_a_server_with_a_key_does_not_answer_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "WAIT_S", 0.05)
    server = await EchoServer.serve(
        [bind_udp("127.0.0.1", 0)], "pod", None, secrets.token_bytes(8), key=KEY, max_flows=1
    )
    try:
        assert await find_answering([Destination(server.addresses[0])]) == ()
    finally:
        await server.close()


async def test_a_reply_to_somebody_else_and_what_is_no_reply_are_no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "WAIT_S", 0.05)

    class Nonsense(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.DatagramTransport)
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(b"no STUN", addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Nonsense, ("127.0.0.1", 0))
    try:
        address = TransportAddress(*transport.get_extra_info("sockname"))
        assert await find_answering([Destination(address)]) == ()
    finally:
        transport.close()
