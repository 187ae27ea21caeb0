"""The echo server on real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from affinity_tester import __version__
from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.server_events import (
    ServerDraining,
    ServerEvent,
    ServerStarted,
    ServerStats,
    ServerStopped,
    ServerWarning,
)
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.errors import UserError
from affinity_tester.net import server as server_module
from affinity_tester.net.addresses import bind_udp, is_wildcard, local_addresses
from affinity_tester.net.batch_transport import BatchTransport
from affinity_tester.net.run_server import run_server
from affinity_tester.net.server import EchoServer
from affinity_tester.settings import ServerSettings

HOSTS = ("127.0.0.1", "::1")
PROBE = stun.new_request(stun.pack_transaction_id(7, 1))


@asynccontextmanager
async def echo(*hosts: str, **settings: object) -> AsyncIterator[EchoServer]:
    server = await EchoServer.start(hosts or ("127.0.0.1",), 0, pod_name="pod-a", **settings)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        await server.close()


def client(host: str) -> socket.socket:
    return bind_udp(host, 0)


async def ask(sock: socket.socket, server: TransportAddress, datagram: bytes = PROBE) -> tuple[bytes, tuple[str, int]]:
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(sock, datagram, server)
    async with asyncio.timeout(5):
        data, source = await loop.sock_recvfrom(sock, 65_536)
    return data, (source[0], source[1])


async def silent(sock: socket.socket, server: TransportAddress, datagram: bytes) -> bool:
    """Whether nothing answers `datagram`: the next answer is that to a probe sent after it."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(sock, datagram, server)
    marker = stun.new_request(stun.pack_transaction_id(99, 99))
    data, _ = await ask(sock, server, marker)
    return data[8:20] == marker[8:20]


@pytest.mark.parametrize("host", HOSTS)
async def test_it_answers_from_the_address_it_was_asked_at(host: str) -> None:
    async with echo(host, node_name="node-1") as server:
        with client(host) as sock:
            data, source = await ask(sock, server.addresses[0])
            assert source == server.addresses[0]
            reflexive = TransportAddress(*sock.getsockname()[:2])
            identity = Identity(reflexive, "pod-a", "node-1", server.instance_id, stun.SERVER_SOFTWARE)
            assert stun.decode_response(data) == (PROBE[8:20], identity, 1)
        assert server.counters == ServerTotals(received=1, answered=1, flows=1)


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
async def test_on_a_wildcard_it_says_so_in_its_software(host: str, asked: str) -> None:
    async with echo("127.0.0.1", host) as server:
        with client(asked) as sock:
            data, _ = await ask(sock, TransportAddress(asked, server.addresses[1].port))
    software = stun.decode_response(data).identity.software
    assert software == f"affinity-tester/{__version__} wildcard"
    assert stun.listens_on_wildcard(software)


async def test_one_instance_counts_over_all_its_sockets() -> None:
    async with echo("127.0.0.1", "127.0.0.2", instance_id=b"instance") as server:
        assert [address.ip for address in server.addresses] == ["127.0.0.1", "127.0.0.2"]
        with client("127.0.0.1") as sock:
            replies = [await ask(sock, address) for address in server.addresses]
            assert [source for _, source in replies] == list(server.addresses)
            assert [stun.decode_response(data).received_count for data, _ in replies] == [1, 2]
            assert {stun.decode_response(data).identity.instance for data, _ in replies} == {b"instance"}


async def test_where_batches_are_missing_it_answers_on_asyncios_own_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_has_batches", lambda: False)
    async with echo("127.0.0.1", "::1") as server:
        assert not any(isinstance(transport, BatchTransport) for transport in server._transports)
        for address in server.addresses:
            with client(address.ip) as sock:
                data, _ = await ask(sock, address)
                assert stun.decode_response(data).received_count == 1
        addresses = server.addresses
    for address in addresses:
        bind_udp(*address).close()  # it has closed its sockets


async def test_after_close_it_is_silent_and_its_ports_are_free() -> None:
    async with echo() as server:
        address = server.addresses[0]
    bind_udp(*address).close()


@pytest.mark.parametrize("host", HOSTS)
async def test_two_servers_with_forged_datagrams_stay_silent(host: str) -> None:
    """CVE-2024-2169: what one server sends to another, whoever forged the first packet, is never answered."""
    async with echo(host) as one, echo(host) as other:
        with client(host) as sock:
            success, _ = await ask(sock, one.addresses[0])
            error, _ = await ask(sock, one.addresses[0], with_unknown_attribute())
            assert (success[:2], error[:2]) == (b"\x01\x01", b"\x01\x11")
            indication = b"\x00\x11" + PROBE[2:]
            for forged in (success, error, indication, b"", b"\x00", b"hello\n"):
                assert await silent(sock, other.addresses[0], forged)
        # The request itself forged with the other server's address: its reply goes there, and ends there.
        for sock in one._sockets:
            sock.sendto(PROBE, other.addresses[0])
        with client(host) as sock:
            await ask(sock, other.addresses[0])
            await ask(sock, one.addresses[0])
            await ask(sock, other.addresses[0])
        dropped = (("too-short", 3), ("wrong-type", 3))
        assert other.counters == ServerTotals(received=15, answered=9, dropped=dropped, flows=3)
        assert one.counters == ServerTotals(received=4, answered=2, refused=1, dropped=(("wrong-type", 1),), flows=2)


def with_unknown_attribute() -> bytes:
    change_request = bytes.fromhex("0003000400000000")
    body = change_request + bytes.fromhex("c5a0003c") + bytes(60)
    return bytes.fromhex("0001") + len(body).to_bytes(2, "big") + PROBE[4:20] + body


@pytest.mark.parametrize(
    ("host", "port", "problem"),
    [
        ("pod-a.example", 0, "'pod-a.example' is not an IP address: --host and POD_IPS take addresses, not names"),
        ("127.1", 0, "'127.1' is not an IP address: --host and POD_IPS take addresses, not names"),
        (
            "203.0.113.7",
            0,
            "cannot listen on 203.0.113.7:0: not an address of this machine; `ip address` shows those it has",
        ),
        (
            "2001:db8::1",
            5,
            "cannot listen on [2001:db8::1]:5: not an address of this machine; `ip address` shows those it has",
        ),
    ],
)
async def test_an_address_that_cannot_be_bound_is_one_line(host: str, port: int, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        await EchoServer.start(("127.0.0.1", host), port, pod_name="pod-a")
    assert str(caught.value) == problem


async def test_a_port_in_use_is_one_line() -> None:
    async with echo() as server:
        port = server.addresses[0].port
        with pytest.raises(UserError) as caught:
            await EchoServer.start(("127.0.0.1",), port, pod_name="pod-b")
    in_use = "UDP port in use; end what uses it, or choose another --port"
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: {in_use}"


async def test_a_name_too_long_is_one_line() -> None:
    with pytest.raises(UserError, match="POD-NAME has 254 bytes of UTF-8: 1 to 253 are possible"):
        await EchoServer.start(("127.0.0.1",), 0, pod_name="p" * 254)


def test_every_local_address_can_be_bound() -> None:
    addresses = local_addresses()
    assert "127.0.0.1" in addresses
    assert sorted(addresses, key=lambda host: ":" in host) == list(addresses)
    for host in addresses:
        bind_udp(host, 0).close()
        assert not is_wildcard(host)


def test_elsewhere_than_on_linux_the_hosts_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert "127.0.0.1" in local_addresses()


def settings(**changes: object) -> ServerSettings:
    values = {"hosts": ("127.0.0.1",), "port": 0, "health_port": 0, "pod_name": "pod-a", **changes}
    return ServerSettings(**values)  # type: ignore[arg-type]


class Log:
    """What a server told, and a way to wait for it."""

    def __init__(self) -> None:
        self.events: list[ServerEvent] = []
        self.changed = asyncio.Event()

    def __call__(self, event: ServerEvent) -> None:
        self.events.append(event)
        self.changed.set()

    async def first(self, kind: type[ServerEvent]) -> ServerEvent:
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self.changed.clear()
                await self.changed.wait()

    @property
    def kinds(self) -> list[type[ServerEvent]]:
        return [type(event) for event in self.events]


async def test_it_answers_while_it_drains_and_then_tells_its_totals() -> None:
    log, stop, stop_now = Log(), asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_server(settings(), stop=stop, stop_now=stop_now, log=log))
    started = await log.first(ServerStarted)
    assert isinstance(started, ServerStarted)
    stop.set()
    await log.first(ServerDraining)
    with client("127.0.0.1") as sock:
        await ask(sock, started.addresses[0])
    stop_now.set()  # a second signal ends it before the drain time is over
    await running
    assert log.kinds == [ServerStarted, ServerDraining, ServerStopped]
    stopped = log.events[-1]
    assert isinstance(stopped, ServerStopped)
    assert stopped.total == ServerTotals(received=1, answered=1, flows=1)
    assert started.health == ()


async def test_it_stays_ready_while_it_drains() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log, stop, stop_now = Log(), asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(run_server(settings(health_port=port), stop=stop, stop_now=stop_now, log=log))
    started = await log.first(ServerStarted)
    assert isinstance(started, ServerStarted)
    assert started.health == (("127.0.0.1", port),)
    stop.set()
    await log.first(ServerDraining)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
    writer.close()
    stop_now.set()
    await running
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_the_drain_time_ends() -> None:
    log, stop = Log(), asyncio.Event()
    stop.set()
    await run_server(settings(drain_ns=1), stop=stop, stop_now=asyncio.Event(), log=log)
    assert log.kinds == [ServerStarted, ServerDraining, ServerStopped]


async def test_without_a_drain_time_it_ends_at_once() -> None:
    log, stop = Log(), asyncio.Event()
    stop.set()
    await run_server(settings(drain_ns=0), stop=stop, stop_now=asyncio.Event(), log=log)
    assert log.kinds == [ServerStarted, ServerStopped]


async def test_it_tells_its_totals_at_an_interval() -> None:
    log, stop_now = Log(), asyncio.Event()
    running = asyncio.create_task(
        run_server(settings(stats_interval_ns=1_000_000), stop=asyncio.Event(), stop_now=stop_now, log=log)
    )
    stats = await log.first(ServerStats)
    stop_now.set()
    await running
    assert isinstance(stats, ServerStats)
    assert (stats.delta, stats.total) == (ServerTotals(), ServerTotals())


async def test_a_wildcard_is_warned_of() -> None:
    log, stop_now = Log(), asyncio.Event()
    stop_now.set()
    await run_server(settings(hosts=("0.0.0.0", "::")), stop=asyncio.Event(), stop_now=stop_now, log=log)
    texts = [event.text for event in log.events if isinstance(event, ServerWarning)]
    assert texts == [
        "0.0.0.0 is a wildcard: replies may leave from another address than the probe was sent to",
        ":: is a wildcard: replies may leave from another address than the probe was sent to",
    ]


async def test_a_log_that_fails_ends_the_server() -> None:
    def log(event: ServerEvent) -> None:
        if isinstance(event, ServerStats):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await run_server(settings(stats_interval_ns=1_000_000), stop=asyncio.Event(), stop_now=asyncio.Event(), log=log)


async def test_the_health_port_is_there_from_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            await run_server(settings(health_port=port), stop=asyncio.Event(), stop_now=asyncio.Event(), log=Log())
    in_use = "TCP port in use; end what uses it, or choose another --health-port"
    assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: {in_use}"
