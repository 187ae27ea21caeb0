"""The echo server: UDP sockets, each with an `EchoProtocol`, around one `Responder`."""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
from collections.abc import Iterable
from typing import NoReturn, Self, cast

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.echo import Responder
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.core.stun import SERVER_SOFTWARE, WILDCARD_SOFTWARE, ResponseEncoder
from affinity_tester.errors import UserError
from affinity_tester.net.addresses import bind_udp, bound_address, is_wildcard
from affinity_tester.net.batch_transport import BatchTransport
from affinity_tester.net.echo import protocol_for
from affinity_tester.net.mmsg import Batch, is_available
from affinity_tester.settings import DEFAULT_MAX_FLOWS


class EchoServer:
    """A running echo server: one INSTANCE-ID, one set of counters, any number of sockets.

    Several may run in one process, each as a pod of its own (the lab does so). It runs until `close` is called.
    """

    def __init__(self, instance_id: bytes) -> None:
        self._responder: Responder
        self._sockets: list[socket.socket] = []
        self._transports: list[asyncio.DatagramTransport] = []
        self.instance_id = instance_id
        """The INSTANCE-ID of every reply."""
        self.addresses: tuple[TransportAddress, ...] = ()
        """The addresses that it answers at, in the order of `hosts`."""

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
        limit: RateLimit | None = None,
    ) -> Self:
        """Bind one socket on each numeric address and answer there; with port 0 each gets a free port.

        Without an `instance_id`, a random one is used. Raises `UserError` for an address that cannot be bound, or a name
        that a reply cannot carry.
        """
        instance_id = secrets.token_bytes(8) if instance_id is None else instance_id
        names = (pod_name, node_name, instance_id)
        return await cls.serve(
            (bind_udp(host, port) for host in hosts), *names, key=key, max_flows=max_flows, limit=limit
        )

    @classmethod
    async def serve(
        cls,
        sockets: Iterable[socket.socket],
        pod_name: str,
        node_name: str | None,
        instance_id: bytes,
        *,
        key: bytes | None,
        max_flows: int,
        counted_before: int = 0,
        limit: RateLimit | None = None,
    ) -> Self:
        """Answer at these bound, non-blocking sockets, which `close` closes. Raise `UserError` as `start` does.

        The first probe of a new flow is number `counted_before + 1` in RECEIVED-COUNT.
        """
        self = cls(instance_id)
        try:
            for sock in sockets:
                self._sockets.append(sock)
                self.addresses += (bound_address(sock),)

            wildcard = any(is_wildcard(address.ip) for address in self.addresses)
            software = WILDCARD_SOFTWARE if wildcard else SERVER_SOFTWARE
            encoder = ResponseEncoder(pod_name, node_name, instance_id, software, key)
            self._responder = Responder(
                encoder, max_flows=max_flows, key=key, counted_before=counted_before, limit=limit
            )
            await self._open_endpoints(max_flows)
        except ValueError as error:
            self._close()
            raise UserError(str(error)) from error
        except BaseException:
            self._close()
            raise
        return self

    async def _open_endpoints(self, max_peers: int) -> None:
        """Answer at all sockets, in batches where the system has the calls for that."""
        # All sockets of an address family share one batch.
        batch_of = functools.cache(lambda family: Batch(family, max_peers)) if _has_batches() else None
        for sock in self._sockets:
            batch = None if batch_of is None else batch_of(sock.family)
            self._transports.append(await open_endpoint(sock, protocol_for(self._responder), batch))

    @property
    def counters(self) -> ServerTotals:
        """The totals so far."""
        return self._responder.totals()

    async def totals(self) -> ServerTotals:
        """Return `counters`; awaitable, as in `WorkerPool`."""
        return self.counters

    @property
    def unhealthy_reason(self) -> str:
        """Always empty; `WorkerPool` names workers that do not answer."""
        return ""

    async def wait_for_failure(self) -> NoReturn:
        """Wait for ever; `WorkerPool` raises here when a worker cannot be replaced."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def close(self) -> ServerTotals:
        """Close the sockets and return the final totals. No probe is answered after that."""
        self._close()
        await asyncio.sleep(0)  # transports close their sockets in the event loop's next turn
        return self.counters

    def _close(self) -> None:
        for transport in self._transports:
            transport.abort()
        for sock in self._sockets[len(self._transports) :]:
            sock.close()
        self._transports.clear()
        self._sockets.clear()


_has_batches = functools.cache(is_available)


async def open_endpoint(
    sock: socket.socket, protocol: asyncio.DatagramProtocol, batch: Batch | None
) -> asyncio.DatagramTransport:
    """Connect a protocol to a socket: through `BatchTransport`, or through asyncio's own transport if `batch` is None."""
    loop = asyncio.get_running_loop()
    if batch is not None:
        return BatchTransport(loop, sock, protocol, batch)

    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
    # asyncio calls `pause_writing` as soon as one reply waits in memory because the send buffer is full.
    cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=0)
    return transport
