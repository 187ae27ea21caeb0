"""The lab's pods: real echo servers on addresses of their own, started, killed and restarted while a plan runs."""

from __future__ import annotations

from affinity_tester.lab.names import pod_ip, pod_name
from affinity_tester.lab.parts import Pod
from affinity_tester.net.server import EchoServer


class PodHost:
    """Every echo server of a lab run, by the name of its pod."""

    def __init__(self, seed: int) -> None:
        """The seed decides the pods' names."""
        self._seed = seed
        self._servers: dict[str, EchoServer] = {}
        self._count = 0

    async def start(self, node: str) -> Pod:
        """Start the next pod, on this node; it is in no pool yet. Raises `UserError` when its address cannot be bound."""
        self._count += 1
        name = pod_name(self._seed, self._count)
        server = await EchoServer.start([pod_ip(self._count)], 0, pod_name=name, node_name=node)
        self._servers[name] = server
        return Pod(name=name, node=node, address=server.addresses[0], instance=server.instance_id)

    async def kill(self, name: str) -> None:
        """Close a pod's socket; it is silent when this returns."""
        await self._servers.pop(name).close()

    async def restart(self, pod: Pod) -> bytes:
        """Start a killed pod's container again, under its name and address; returns its new INSTANCE-ID."""
        address = pod.address
        server = await EchoServer.start([address.ip], address.port, pod_name=pod.name, node_name=pod.node)
        self._servers[pod.name] = server
        return server.instance_id

    async def close(self) -> None:
        """Kill all that still run."""
        while self._servers:
            await self._servers.popitem()[1].close()
