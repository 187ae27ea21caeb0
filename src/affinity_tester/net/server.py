"""The echo server: UDP sockets around a `Responder`, and the life of `affinity-tester server`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from affinity_tester import __version__
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.server_events import (
    ServerDraining,
    ServerEvent,
    ServerStarted,
    ServerStats,
    ServerStopped,
    ServerTotals,
    ServerWarning,
)
from affinity_tester.core.stun import ResponseEncoder
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import bind_udp, bound_address, is_wildcard, local_addresses
from affinity_tester.net.health import HealthServer
from affinity_tester.net.responder import Responder
from affinity_tester.settings import DEFAULT_MAX_FLOWS, NS_PER_S, ServerSettings


class EchoProtocol(asyncio.DatagramProtocol):
    """One socket: what comes in goes to the responder, and its reply back to where the request came from."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._respond = responder.respond
        self._transport: asyncio.DatagramTransport | None = None
        self._paused = False
        self.closed = asyncio.get_running_loop().create_future()
        """Done when the socket is closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready."""
        self._transport = transport  # type: ignore[assignment]  # a datagram endpoint has no other kind

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(exc)

    def pause_writing(self) -> None:
        """The socket's send buffer and the loop's are full: replies would pile up in memory."""
        self._paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._paused = False

    def error_received(self, exc: Exception) -> None:
        """A reply could not be sent; the client sees a lost probe, and the count tells whose doing it was."""
        self._responder.send_errors += 1

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Answer one datagram: one pass over it, one look-up, one send."""
        if self._paused:
            self._responder.drop("send-buffer-full")
            return
        if not addr[1]:
            self._responder.drop("source-port-0")  # nothing can be sent there
            return
        reply = self._respond(data, addr)  # IPv6 adds flow and scope, which tell sources apart
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)


class EchoServer:
    """A running echo server: one instance id, one set of counts, any number of sockets.

    Several may run in one process, each as a pod of its own (the lab does so). It runs until `close`.
    """

    def __init__(self, responder: Responder, instance_id: bytes) -> None:
        self._responder = responder
        self._endpoints: list[tuple[asyncio.BaseTransport, EchoProtocol]] = []
        self.instance_id = instance_id
        """INSTANCE-ID of every reply."""
        self.addresses: tuple[TransportAddress, ...] = ()
        """Where it answers, in the order of `hosts`."""

    @classmethod
    async def start(
        cls,
        hosts: Iterable[str],
        port: int,
        *,
        pod_name: str,
        node_name: str | None = None,
        instance_id: bytes | None = None,
        key: bytes | None = None,
        max_flows: int = DEFAULT_MAX_FLOWS,
    ) -> Self:
        """Bind one socket on each numeric address and answer there; port 0 gives each a free one.

        Without an `instance_id` one is drawn. Raises `UserError` for an address that cannot be bound or a name that a
        reply cannot carry.
        """
        instance_id = secrets.token_bytes(8) if instance_id is None else instance_id
        try:
            encoder = ResponseEncoder(pod_name, node_name, instance_id, key=key)
            responder = Responder(encoder, max_flows=max_flows, key=key)
        except ValueError as error:
            raise UserError(str(error)) from error
        self = cls(responder, instance_id)
        loop = asyncio.get_running_loop()
        try:
            for host in hosts:
                sock = bind_udp(host, port)
                self._endpoints.append(await loop.create_datagram_endpoint(lambda: EchoProtocol(responder), sock=sock))
                self.addresses += (bound_address(sock),)
        except BaseException:
            await self.close()
            raise
        return self

    @property
    def counters(self) -> ServerTotals:
        """What it counted so far."""
        return self._responder.totals()

    async def close(self) -> None:
        """Close the sockets; it is silent when this returns."""
        for transport, _protocol in self._endpoints:
            transport.close()
        for _transport, protocol in self._endpoints:
            await protocol.closed


async def run_server(
    settings: ServerSettings,
    *,
    stop: asyncio.Event,
    stop_now: asyncio.Event,
    log: Callable[[ServerEvent], None],
) -> None:
    """Serve until `stop` is set and the drain time is over, or until `stop_now` is set. Raises `UserError`.

    While it drains it answers as before and stays ready: deletion itself clears an endpoint's `ready`, and a failing
    probe would make the proxy flush live flows (kubernetes/kubernetes 137986), a fault of our own making. What `log`
    raises ends the server and is raised again.
    """
    hosts = settings.hosts or local_addresses()
    server = await EchoServer.start(
        hosts,
        settings.port,
        pod_name=settings.pod_name,
        node_name=settings.node_name,
        key=settings.key,
        max_flows=settings.max_flows,
    )
    health = None
    try:
        if settings.health_port:
            health = await HealthServer.start(hosts, settings.health_port, lambda: True)
        started_ns = time.monotonic_ns()
        log(
            ServerStarted(
                at_ns=started_ns,
                wall_ns=time.time_ns(),
                utc_offset_s=time.localtime().tm_gmtoff,
                version=__version__,
                pod_name=settings.pod_name,
                node_name=settings.node_name,
                instance_id=server.instance_id,
                addresses=server.addresses,
                health=health.addresses if health else (),
                keyed=settings.key is not None,
            )
        )
        for host in filter(is_wildcard, hosts):
            text = f"{host} is a wildcard: replies may leave from another address than the probe was sent to"
            log(ServerWarning(time.monotonic_ns(), text))
        teller = asyncio.create_task(_tell(server, settings.stats_interval_ns, log))
        try:
            await _until(stop, stop_now, or_failure_of=teller)
            if not stop_now.is_set() and settings.drain_ns:
                log(ServerDraining(time.monotonic_ns(), settings.drain_ns))
                await _until(stop_now, within_ns=settings.drain_ns, or_failure_of=teller)
        finally:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
        ended_ns = time.monotonic_ns()
        log(ServerStopped(ended_ns, server.counters, ended_ns - started_ns))
    finally:
        if health is not None:
            await health.close()
        await server.close()


async def _until(*events: asyncio.Event, within_ns: int | None = None, or_failure_of: asyncio.Task[None]) -> None:
    """Wait until one of the events is set, or the time is over; a task that fails meanwhile fails this too."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    timeout_s = None if within_ns is None else within_ns / NS_PER_S
    try:
        await asyncio.wait([*waits, or_failure_of], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if or_failure_of.done():
            or_failure_of.result()
    finally:
        for wait in waits:
            wait.cancel()


async def _tell(server: EchoServer, interval_ns: int, log: Callable[[ServerEvent], None]) -> None:
    """A line of totals at each interval, counted from the start."""
    loop = asyncio.get_running_loop()
    due_s = loop.time()
    before = server.counters
    while True:
        due_s += interval_ns / NS_PER_S
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        total = server.counters
        log(ServerStats(time.monotonic_ns(), total.since(before), total))
        before = total
