"""The whole cluster in this process: packets through node ports and balancer while its objects change."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from affinity_tester.app.lab_cluster import own_objects
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.stun import ProbeCodec
from affinity_tester.errors import UserError
from affinity_tester.lab.kube import addresses
from affinity_tester.lab.kube.addresses import claim_network
from affinity_tester.lab.kube.cluster import PORT, LabCluster, LabClusterSettings
from affinity_tester.lab.kube.faults import Faults
from affinity_tester.lab.kube.kubelet import PodTiming
from affinity_tester.lab.kube.resources import DEPLOYMENTS, NODES, PODS, SERVICES, Json
from affinity_tester.lab.kube.service_proxy import ProxyTiming
from affinity_tester.units import NS_PER_MS

QUICK: dict[str, Any] = {
    "pods": PodTiming(start_ns=20 * NS_PER_MS, drain_ns=100 * NS_PER_MS, removal_ns=10 * NS_PER_MS),
    "proxies": ProxyTiming(clean_ns=100 * NS_PER_MS, check_ns=100 * NS_PER_MS),
    "balancer_ns": 10 * NS_PER_MS,
}
PATIENCE_S = 30


@asynccontextmanager
async def cluster(replicas: int = 3, **settings: Any) -> AsyncIterator[LabCluster]:
    """A cluster that is ready."""
    lab = await LabCluster.start(LabClusterSettings(**{**QUICK, **settings}), own_objects(replicas), "default")
    task = asyncio.create_task(lab.run())
    try:
        await until(lambda: lab.is_ready("default"))
        yield lab
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await lab.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


class Flow:
    """One client socket."""

    def __init__(self, target: TransportAddress) -> None:
        self.target = target
        self._codec = ProbeCodec(socket.htonl(id(self) & 0xFFFF_FFFF), (288,))
        self._seq = 0
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sock.bind(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]

    def close(self) -> None:
        self._sock.close()

    async def ask(self, patience_s: float = PATIENCE_S) -> Identity:
        """Send a probe; return what its reply says. Raises `TimeoutError`."""
        self._sock.sendto(self._codec.request(self._seq), self.target)
        self._seq += 1
        async with asyncio.timeout(patience_s):
            data, sender = await asyncio.get_running_loop().sock_recvfrom(self._sock, 2048)
        assert sender == self.target, "a reply comes from where the probe went"
        return self._codec.read(data, len(data))[1]

    async def ask_until_answered(self) -> Identity:
        while True:
            try:
                return await self.ask(0.05)
            except TimeoutError:
                continue


class Flows(NamedTuple):
    """Some client sockets, and where they went at first."""

    flows: list[Flow]
    first: list[Identity]

    async def ask(self) -> list[Identity]:
        return [await flow.ask() for flow in self.flows]


@asynccontextmanager
async def flows(lab: LabCluster, via: str, service: str = "affinity-tester", count: int = 12) -> AsyncIterator[Flows]:
    """Flows through a node's port, or the `balancer`."""
    found = lab.store.get(SERVICES, "default", service)
    port = found["spec"]["ports"][0]
    if via == "balancer":
        target = TransportAddress(found["status"]["loadBalancer"]["ingress"][0]["ip"], port["port"])
    else:
        target = TransportAddress(lab.store.get(NODES, "", via)["status"]["addresses"][0]["address"], port["nodePort"])
    made = [Flow(target) for _ in range(count)]
    try:
        yield Flows(made, [await flow.ask() for flow in made])
    finally:
        for flow in made:
            flow.close()


def change(lab: LabCluster, resource: Any, name: str, **spec: Any) -> None:
    obj = lab.store.get(resource, "default", name)
    lab.store.modify(resource, obj, lambda new: new["spec"].update(spec))


def names(lab: LabCluster) -> set[str]:
    return {pod["metadata"]["name"] for pod in lab.store.list(PODS, "default")}


@pytest.mark.parametrize("via", ["node-1", "node-3", "balancer"])
async def test_flows_reach_all_pods_and_stay(via: str) -> None:
    async with cluster() as lab, flows(lab, via) as sent:
        assert {each.pod for each in sent.first} == names(lab)
        sources = {each.reflexive.ip for each in sent.first if each.reflexive}
        nodes = range(1, 4) if via == "balancer" else [int(via[-1])]
        masquerades = {lab.network.node_ip(n) for n in nodes} | {f"127.{lab.network.octet}.{n}.1" for n in nodes}
        assert sources <= masquerades
        change(lab, DEPLOYMENTS, "affinity-tester", replicas=5)
        await until(lambda: len(names(lab)) == 5 and lab.is_ready("default"))
        change(lab, SERVICES, "affinity-tester", externalTrafficPolicy="Local")
        await asyncio.sleep(0.1)
        assert await sent.ask() == sent.first
        assert lab.refused == 0


async def test_policy_local_shows_what_stands_for_the_client() -> None:
    async with cluster() as lab:
        change(lab, SERVICES, "affinity-tester", externalTrafficPolicy="Local")
        await asyncio.sleep(0.05)
        async with flows(lab, "node-2") as sent:
            assert {each.node for each in sent.first} == {"node-2"}
            expected = [TransportAddress(f"{lab.network.stand_in_net}.0.1", flow.port) for flow in sent.flows]
            assert [each.reflexive for each in sent.first] == expected


async def test_a_killed_pod_answers_nobody_and_its_flows_move() -> None:
    async with cluster() as lab, flows(lab, "node-1", count=24) as sent:
        victim = sent.first[0].pod
        assert victim is not None
        lab.store.delete(PODS, "default", victim, 0)
        await until(lambda: len(names(lab) - {victim}) == 3)
        after = [await flow.ask_until_answered() for flow in sent.flows]
        for before, now in zip(sent.first, after, strict=True):
            assert (now == before) == (before.pod != victim)


async def test_each_service_has_sockets_of_its_own_while_it_is_there() -> None:
    async with cluster() as lab:
        second: Json = {**own_objects(1)[1]}
        second["metadata"] = {"name": "second", "namespace": "default"}
        second["spec"] = {**second["spec"], "type": "NodePort", "sessionAffinity": "ClientIP"}
        lab._add(SERVICES, second)
        await asyncio.sleep(0.1)
        async with flows(lab, "node-1", "second") as sent:
            assert len({each.pod for each in sent.first}) == 1, "one client address has one pod at a node"
            lab.store.delete(SERVICES, "default", "second")
            await until(lambda: len(lab._plane._ports) == 1)
            with pytest.raises(TimeoutError):
                await sent.flows[0].ask(0.2)


async def test_spray_answers_from_the_service_all_the_same() -> None:
    async with cluster(faults=Faults(spray=True)) as lab, flows(lab, "node-1", count=1) as sent:
        seen = {(await sent.flows[0].ask()).pod for _ in range(20)}
        assert seen == names(lab)


async def test_a_node_is_added_and_removed_with_its_port() -> None:
    async with cluster(autoscale=True) as lab:
        for node in lab.store.list(NODES):
            lab.store.modify(NODES, node, lambda new: new["spec"].update(unschedulable=True))
        change(lab, DEPLOYMENTS, "affinity-tester", replicas=4)
        await until(lambda: len(lab.store.list(NODES)) == 4 and lab.is_ready("default"))
        async with flows(lab, "node-4") as sent:
            assert {each.node for each in sent.first} == {"node-1", "node-2", "node-3", "node-4"}
        change(lab, DEPLOYMENTS, "affinity-tester", replicas=0)
        await until(lambda: len(lab.store.list(NODES)) == 3)


async def test_it_leaves_nothing_behind() -> None:
    loop = asyncio.get_running_loop()
    async with cluster(static_proxies=True) as lab:
        address = TransportAddress(lab.network.node_ip(1), 0)
        pod_ip = lab.store.list(PODS, "default")[0]["status"]["podIP"]
        async with flows(lab, "node-1"):
            reader, writer = await asyncio.open_connection(*lab.address)
            writer.write(b"GET /version HTTP/1.0\r\n\r\n")
            assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["minor"] == "36"
            writer.close()
    for ip in (address.ip, pod_ip):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((ip, PORT))
        sock.close()
    assert not any(task is not asyncio.current_task() for task in asyncio.all_tasks(loop))


def test_each_cluster_has_a_network_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "FIRST", 240)
    monkeypatch.setattr(addresses, "LAST", 246)
    held = [claim_network(3999) for _ in range(3)]
    assert {network.octet for network, _ in held} == {240, 242, 244}
    with pytest.raises(UserError, match="has UDP port 3999 free"):
        claim_network(3999)
    for _, lock in held:
        lock.close()
