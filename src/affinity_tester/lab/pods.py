"""The lab's pods: real echo servers on addresses of their own, which start, end and restart while a plan runs."""

from __future__ import annotations

import secrets
import socket

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.model import Pod
from affinity_tester.lab.names import pod_ip, pod_name
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.server import EchoServer
from affinity_tester.settings import DEFAULT_MAX_FLOWS


class PodServer(EchoServer):
    """An echo server whose flows can be forgotten, as an overfull one forgets some (`--max-flows`)."""

    def forget(self) -> None:
        """Start RECEIVED-COUNT again for every flow, under the same INSTANCE-ID."""
        self._responder.forget_flows()


class PodHost:
    """Every echo server of a lab run, by the name of its pod."""

    def __init__(self, seed: int) -> None:
        """The seed decides the pods' names."""
        self._seed = seed
        self._servers: dict[str, PodServer] = {}
        self._sockets: dict[TransportAddress, socket.socket] = {}
        """By the address of the pod; the servers close them."""
        self._count = 0

    async def start(self, node: str) -> Pod:
        """Start the next pod on this node; it is in no pool yet. Raises `UserError` when its address cannot be bound."""
        self._count += 1
        name = pod_name(self._seed, self._count)
        server = await self._serve(pod_ip(self._count), 0, name, node)
        return Pod(name=name, node=node, address=server.addresses[0], instance=server.instance_id)

    async def kill(self, name: str) -> None:
        """Close a pod's socket; the pod is silent when this returns."""
        server = self._servers.pop(name)
        for address in server.addresses:
            del self._sockets[address]
        await server.close()

    async def restart(self, pod: Pod) -> bytes:
        """Start a killed pod's container again, under its name and address; return its new INSTANCE-ID."""
        return (await self._serve(pod.address.ip, pod.address.port, pod.name, pod.node)).instance_id

    def forget(self) -> None:
        """Let every running pod forget its flows."""
        for server in self._servers.values():
            server.forget()

    def socket_at(self, address: TransportAddress) -> socket.socket:
        """Return the socket of the pod that listens there: what it sends comes from the pod's own address."""
        return self._sockets[address]

    async def close(self) -> None:
        """Kill all pods that still run."""
        for name in list(self._servers):
            await self.kill(name)

    async def _serve(self, ip: str, port: int, name: str, node: str) -> PodServer:
        sock = bind_udp(ip, port)
        names = (name, node, secrets.token_bytes(8))
        server = await PodServer.serve([sock], *names, key=None, max_flows=DEFAULT_MAX_FLOWS)
        self._servers[name] = server
        self._sockets[server.addresses[0]] = sock
        return server
