"""Pods that come and go while a plan runs, and background tasks that fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, PoolObserved
from affinity_tester.core.stun import ProbeCodec
from affinity_tester.errors import UserError
from affinity_tester.lab.balancer import Balancer, Sources
from affinity_tester.lab.control_plane import ControlPlane
from affinity_tester.lab.fault import FaultContext
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.pods import PodHost
from affinity_tester.lab.runtime import LabRuntime


@dataclass
class Lab:
    runtime: LabRuntime
    hosted: PodHost
    told: list[Event] = field(default_factory=list)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    sources, told = Sources(), []
    network = NetworkModel(seed=1, log=lambda _packet: None, claim=sources.claim)
    network.ingress.add_node("node-1", "127.1.0.1")
    hosted = PodHost(1)
    balancer = Balancer.start(network, Impairments(lambda _packet: None), sources, TransportAddress("127.0.0.1", 0))
    control = ControlPlane(network, told.append, one_item_ns=10**9)
    control.start_watch(0)
    told.clear()
    runtime = LabRuntime(balancer, hosted, control)
    yield Lab(runtime, hosted, told)
    await runtime.close()
    balancer.close()
    await hosted.close()


async def test_a_started_pod_is_in_the_pool_and_a_killed_one_is_dead_there(lab: Lab) -> None:
    pod = await lab.runtime.start_pod("node-1")
    assert lab.runtime.network.pods == {pod.name: pod}
    (observed,) = [event for event in lab.told if isinstance(event, PoolObserved)]
    assert [(endpoint.pod, endpoint.node) for endpoint in observed.snapshot.endpoints] == [(pod.name, "node-1")]
    await lab.runtime.kill_pod(pod.name)
    assert lab.runtime.network.dead_pods == {pod.name}
    assert set(lab.runtime.network.pods) == {pod.name}, "its endpoint stays"


async def test_a_restarted_pod_has_its_name_and_address_and_another_instance(lab: Lab) -> None:
    pod = await lab.runtime.start_pod("node-1")
    await lab.runtime.kill_pod(pod.name)
    await lab.runtime.restart_pod(pod.name)
    again = lab.runtime.network.pods[pod.name]
    assert (again.name, again.address) == (pod.name, pod.address)
    assert again.instance != pod.instance
    assert lab.runtime.network.dead_pods == set()


async def test_two_pods_of_a_lab_have_names_and_addresses_of_their_own(lab: Lab) -> None:
    first, second = [await lab.hosted.start("node-1") for _ in range(2)]
    assert first.name != second.name
    assert (first.address.ip, second.address.ip) == ("127.2.0.1", "127.2.0.2")


async def test_what_a_background_task_raises_is_raised(lab: Lab) -> None:
    async def fails() -> None:
        raise UserError("cannot bind")

    lab.runtime.spawn(fails())
    with pytest.raises(UserError, match="cannot bind"):
        await asyncio.wait_for(lab.runtime.failure(), 10)


async def test_background_tasks_end_with_the_lab(lab: Lab) -> None:
    ended = asyncio.Event()

    async def waits() -> None:
        try:
            await lab.runtime.wait(10**12)
        finally:
            ended.set()

    lab.runtime.spawn(waits())
    await asyncio.sleep(0)
    await lab.runtime.close()
    assert ended.is_set()


async def test_pods_forget_their_flows_and_keep_their_instance(lab: Lab) -> None:
    pod = await lab.runtime.start_pod("node-1")
    wire = ProbeCodec(7, (288,), None)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(("127.0.0.1", 0))
        counts, instances = [], set()
        for seq in range(4):
            if seq == 2:
                lab.runtime.forget_flows()
            sock.sendto(wire.request(seq), pod.address)
            data = await asyncio.wait_for(loop.sock_recv(sock, 2048), 10)
            _, identity, count = wire.read(bytearray(data), len(data))
            counts.append(count)
            instances.add(identity.instance)
    assert counts == [1, 2, 1, 2]
    assert instances == {pod.instance}


async def test_a_pods_socket_is_known_by_its_address_while_it_lives(lab: Lab) -> None:
    pod = await lab.hosted.start("node-1")
    assert lab.hosted.socket_at(pod.address).getsockname() == pod.address
    await lab.hosted.kill(pod.name)
    with pytest.raises(KeyError):
        lab.hosted.socket_at(pod.address)


async def test_what_is_under_way_has_arrived_when_the_lab_is_idle(lab: Lab) -> None:
    """Each of some packets is sent in a turn of its own, with turns between as long as a packet's way."""
    pod = await lab.runtime.start_pod("node-1")
    front = lab.runtime.balancer.address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(ProbeCodec(7, (288,), None).request(0), front)
        await lab.runtime.wait_until_idle()
        assert len(sock.recv(2048)) > 20
        sock.sendto(ProbeCodec(7, (288,), None).request(1), front)
        assert lab.runtime.balancer.is_waiting
        await lab.runtime.wait_until_idle()
        assert not lab.runtime.balancer.is_waiting
    assert pod.name in lab.runtime.network.pods


async def test_a_machine_that_slept_is_awake_again_when_the_lab_is_closed(lab: Lab) -> None:
    before_ns, awake = clock.now_ns(), clock.now_ns
    lab.runtime.suspend_clock(600 * 10**9)
    assert 600 * 10**9 <= clock.now_ns() - before_ns < 660 * 10**9
    lab.runtime.suspend_clock(600 * 10**9)
    assert clock.now_ns() - before_ns >= 1200 * 10**9
    await lab.runtime.close()
    assert clock.now_ns is awake


async def test_what_a_fault_does_later_is_done_once_when_its_time_has_passed(lab: Lab) -> None:
    context = FaultContext(lab.runtime.network, lab.runtime.balancer.impairments, 1, lab.runtime)
    done = asyncio.Event()
    context.after(10**6, done.set)
    assert not done.is_set()
    await asyncio.wait_for(done.wait(), 10)
