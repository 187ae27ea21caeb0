"""The running lab, as faults that take time use it: pods, balancer, control plane, and background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from affinity_tester import clock
from affinity_tester.lab.balancer import Balancer
from affinity_tester.lab.control_plane import ControlPlane
from affinity_tester.lab.model import Pod
from affinity_tester.lab.pods import PodHost
from affinity_tester.units import NS_PER_S

READ_S = 0.02
"""Time in which a pod reads what is queued at its socket before that is closed: every loss in the lab is a wanted one."""

IDLE_TURNS = 12
"""Turns of the loop in which a packet goes from the client to the pod and back: it needs four."""

MAX_TURNS = 20_000
"""A second or so: between two probes there mostly is such a time."""


class LabRuntime:
    """A running lab. What a background task raises ends the run."""

    def __init__(self, balancer: Balancer, pods: PodHost, control: ControlPlane) -> None:
        """Hold what is running already."""
        self.balancer = balancer
        self.network = balancer.network
        self.control = control
        self.client_ip: str | None = None
        """What the client's machine takes for its own address from now on; None: what the system says."""
        self._awake_clock = clock.now_ns
        self._pods = pods
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def spawn(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run a fault's further steps in the background."""
        task = asyncio.get_running_loop().create_task(steps)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    async def failure(self) -> None:
        """Raise what a background task raised; never return."""
        await asyncio.shield(self._failed)

    async def close(self) -> None:
        """End all background tasks, and wake the clock."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        clock.now_ns = self._awake_clock
        self._failed.cancel()

    async def wait(self, ns: int) -> None:
        """Let time pass."""
        await asyncio.sleep(ns / NS_PER_S)

    async def wait_until_idle(self) -> None:
        """Return between two probes, when what is under way has arrived: nothing passed in some turns of the loop."""
        idle, passed = 0, -1
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            before, passed = passed, sum(flow.packets for flow in self.network.flows.values())
            # What the client sent in this turn is at the front already, on loopback, and will be read in the next.
            idle = idle + 1 if passed == before and not self.balancer.is_waiting else 0
            if idle == IDLE_TURNS:
                return

    def suspend_clock(self, ns: int) -> None:
        """Let the clock of the run jump ahead, as while a machine sleeps, until `close`: nothing happens meanwhile."""
        awake = clock.now_ns
        clock.now_ns = lambda: awake() + ns

    def publish(self) -> None:
        """Let the control plane store what has changed, and tell of it."""
        self.control.publish(clock.now_ns())

    async def start_pod(self, node: str) -> Pod:
        """Start a pod and put it into the pool, ready."""
        pod = await self._pods.start(node)
        self.network.add_pod(pod)
        self.publish()
        return pod

    async def kill_pod(self, name: str) -> None:
        """Close a pod's socket; its endpoint stays as it is."""
        self.network.dead_pods.add(name)
        await asyncio.sleep(READ_S)
        await self._pods.kill(name)

    def forget_flows(self) -> None:
        """Let every pod forget its flows, and go on."""
        self._pods.forget()

    async def restart_pod(self, name: str) -> None:
        """Start the container of a killed pod again."""
        self.network.restart_pod(name, await self._pods.restart(self.network.pods[name]))
        self.network.dead_pods.discard(name)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(error)
