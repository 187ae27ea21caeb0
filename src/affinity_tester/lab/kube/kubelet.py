"""The kubelets of all nodes: they start pods, drain and end them, and write their status.

A pod goes as on a real node, only faster: it gets its address and runs, and is ready a moment later. Told to end, an echo
server answers on for its drain time, still ready (`net.run_server`), so its endpoint serves and terminates; then its socket
is closed, and its object goes a moment later, as a kubelet first writes that the containers have ended and then deletes the
pod (`pkg/kubelet/status/status_manager.go`). With grace period 0 the object goes at once, and the socket with it.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import Protocol

from affinity_tester.core.address import TransportAddress
from affinity_tester.lab.kube.controllers import MIRROR
from affinity_tester.lab.kube.pods import is_ready, is_terminating, set_condition, udp_port
from affinity_tester.lab.kube.resources import NODES, PODS, Json
from affinity_tester.lab.kube.store import Store, timestamp
from affinity_tester.net.addresses import bind_udp
from affinity_tester.net.server import EchoServer
from affinity_tester.settings import DEFAULT_MAX_FLOWS
from affinity_tester.units import NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class PodTiming:
    """How long the steps of a pod's life take."""

    start_ns: int = 300 * NS_PER_MS
    """From its binding to a node until it is ready; half of it until it runs."""
    drain_ns: int = NS_PER_S
    """How long a server answers that was told to end; the real one 5 s."""
    removal_ns: int = 100 * NS_PER_MS
    """From the end of its process until the object is gone."""


class PodRuntime(Protocol):
    """What runs the containers."""

    async def start(self, uid: str, name: str, node: str, address: TransportAddress) -> None:
        """Start an echo server. Raises `UserError` where its address cannot be bound."""
        ...

    async def stop(self, uid: str) -> None:
        """Close its socket; it is silent when this returns. Does nothing where none runs."""
        ...


class EchoPods:
    """Runs each pod as a real echo server in this process."""

    def __init__(self) -> None:
        self._servers: dict[str, EchoServer] = {}
        self._sockets: dict[TransportAddress, socket.socket] = {}

    async def start(self, uid: str, name: str, node: str, address: TransportAddress) -> None:
        """Start an echo server. Raises `UserError` where its address cannot be bound."""
        sock = bind_udp(*address)
        instance_id = secrets.token_bytes(8)
        self._servers[uid] = await EchoServer.serve(
            [sock], name, node, instance_id, key=None, max_flows=DEFAULT_MAX_FLOWS
        )
        self._sockets[address] = sock

    async def stop(self, uid: str) -> None:
        """Close its socket; it is silent when this returns."""
        server = self._servers.pop(uid, None)
        if server is not None:
            for address in server.addresses:
                del self._sockets[address]
            await server.close()

    def socket_at(self, address: TransportAddress) -> socket.socket | None:
        """Return the socket of the pod that listens there: what it sends comes from the pod's own address."""
        return self._sockets.get(address)

    async def close(self) -> None:
        """Stop all."""
        for uid in list(self._servers):
            await self.stop(uid)


@dataclass(slots=True)
class _Container:
    """What a kubelet knows of a pod."""

    seen_ns: int
    """When it was told of the pod."""
    runs: bool = False
    ip: str = ""
    told_ns: int | None = None
    """When the pod was told to end."""
    ended_ns: int | None = None
    """When its process ended."""


class Kubelet:
    """Runs the pods that are bound to nodes."""

    def __init__(self, store: Store, runtime: PodRuntime, timing: PodTiming) -> None:
        self._store = store
        self._runtime = runtime
        self._timing = timing
        self._known: dict[str, _Container] = {}
        """By uid."""
        self._static: dict[str, str] = {}
        """containerID by the name of a static pod."""
        self._last_ip: dict[str, int] = {}
        """By node: the last octet of the address that was given last."""

    async def step(self, now_ns: int) -> int | None:
        """Do what is due by now (Unix time); return when the next step is."""
        pods = {pod["metadata"]["uid"]: pod for pod in self._store.list(PODS) if pod["spec"].get("nodeName")}
        for uid in self._known.keys() - pods.keys():
            await self._runtime.stop(uid)
            del self._known[uid]

        due = [await self._advance(pod, now_ns) for pod in pods.values()]
        return min((each for each in due if each is not None), default=None)

    async def _advance(self, pod: Json, now_ns: int) -> int | None:
        uid = pod["metadata"]["uid"]
        known = self._known.setdefault(uid, _Container(now_ns))
        if is_terminating(pod):
            return await self._end(pod, known, now_ns)
        if MIRROR in pod["metadata"].get("annotations", {}):
            if not known.runs:
                known.runs = True
                self._write_running(pod, known, now_ns, ready=True)
            return None

        run_ns, ready_ns = known.seen_ns + self._timing.start_ns // 2, known.seen_ns + self._timing.start_ns
        if now_ns < run_ns:
            return run_ns
        if not known.runs:
            await self._start(pod, known)
            self._write_running(pod, known, now_ns, ready=now_ns >= ready_ns)
        if now_ns < ready_ns:
            return ready_ns
        if not is_ready(self._store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])):
            self._write_running(pod, known, now_ns, ready=True)
        return None

    async def _start(self, pod: Json, known: _Container) -> None:
        node = self._store.get(NODES, "", pod["spec"]["nodeName"])
        known.runs = True
        if pod["spec"].get("hostNetwork"):
            known.ip = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
            return
        known.ip = self._free_ip(node)
        port = udp_port(pod)
        if port is not None:
            address = TransportAddress(known.ip, port)
            metadata = pod["metadata"]
            await self._runtime.start(metadata["uid"], metadata["name"], pod["spec"]["nodeName"], address)

    def _free_ip(self, node: Json) -> str:
        """Return the next free address of the node's podCIDR, round and round as host-local IPAM gives them."""
        name, net = node["metadata"]["name"], node["spec"]["podCIDR"].rpartition(".")[0]
        taken = {known.ip for known in self._known.values()}
        number = self._last_ip.get(name, 1)  # .1 is the bridge's
        while True:
            number = number + 1 if number < 254 else 2  # noqa: PLR2004 - the last octet of a /24
            if f"{net}.{number}" not in taken:
                self._last_ip[name] = number
                return f"{net}.{number}"

    async def _end(self, pod: Json, known: _Container, now_ns: int) -> int | None:
        """Drain a pod, end its process, then remove its object."""
        metadata = pod["metadata"]
        if known.told_ns is None:
            known.told_ns = now_ns
        drains = known.runs and udp_port(pod) is not None
        drain_ns = min(self._timing.drain_ns, metadata["deletionGracePeriodSeconds"] * NS_PER_S) if drains else 0
        if known.ended_ns is None:
            if now_ns < known.told_ns + drain_ns:
                return known.told_ns + drain_ns
            await self._runtime.stop(metadata["uid"])
            known.ended_ns = now_ns
            if known.runs and MIRROR not in metadata.get("annotations", {}):
                self._store.modify(PODS, pod, lambda new: _set_ended(new, now_ns))
                return now_ns + self._timing.removal_ns
        elif now_ns < known.ended_ns + self._timing.removal_ns:
            return known.ended_ns + self._timing.removal_ns
        self._store.delete(PODS, metadata["namespace"], metadata["name"], 0)
        return None

    def _write_running(self, pod: Json, known: _Container, now_ns: int, *, ready: bool) -> None:
        metadata = pod["metadata"]
        host = self._store.get(NODES, "", pod["spec"]["nodeName"])["status"]["addresses"][0]["address"]
        container_id = f"containerd://{metadata['uid'].replace('-', '')}"
        if MIRROR in metadata.get("annotations", {}):
            container_id, known.ip = self._static.setdefault(metadata["name"], container_id), host

        def write(new: Json) -> None:
            status = new["status"]
            status.update(phase="Running", hostIP=host, podIP=known.ip, podIPs=[{"ip": known.ip}])
            status.setdefault("startTime", timestamp(now_ns))
            status["containerStatuses"] = [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "containerID": container_id,
                    "ready": ready,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": status["startTime"]}},
                }
                for container in new["spec"]["containers"]
            ]
            for kind in ("Initialized", "PodScheduled"):
                set_condition(new, kind, "True", now_ns)
            for kind in ("ContainersReady", "Ready"):
                set_condition(new, kind, "True" if ready else "False", now_ns)

        self._store.modify(PODS, pod, write)


def _set_ended(new: Json, now_ns: int) -> None:
    """Write that the containers have ended: the pod is not ready any more."""
    for each in new["status"].get("containerStatuses") or ():
        finished = {"exitCode": 0, "reason": "Completed", "finishedAt": timestamp(now_ns)}
        each.update(ready=False, started=False, state={"terminated": finished})
    for kind in ("ContainersReady", "Ready"):
        set_condition(new, kind, "False", now_ns, reason="PodCompleted")
