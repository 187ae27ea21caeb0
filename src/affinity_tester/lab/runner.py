"""Runs a plan: pods, balancer and client in one event loop on loopback, faults on time, and the comparison at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, RunStarted, SendingStopped
from affinity_tester.lab.balancer import Balancer, Sources
from affinity_tester.lab.deeds import Deed
from affinity_tester.lab.fault import Bench
from affinity_tester.lab.ledger import Ledger
from affinity_tester.lab.mangle import Mangler
from affinity_tester.lab.names import node_ip, node_name, pod_ip, pod_name
from affinity_tester.lab.path import NetworkPath, Pod
from affinity_tester.lab.plan import Plan
from affinity_tester.net.client import run_client
from affinity_tester.net.resolve import Target
from affinity_tester.net.server import EchoServer
from affinity_tester.settings import NS_PER_S, ClientSettings

FRONT = TransportAddress("127.0.0.1", 0)
"""Where the balancer listens; the kernel chooses the port."""


async def run_plan(
    plan: Plan, ledger: Ledger, emit: Callable[[Event], None], stop: asyncio.Event, abort: asyncio.Event
) -> None:
    """Run a plan until its time is over, or `stop` ends the sending, or `abort` the draining too.

    Every event of the client and the lab goes to `emit` as it happens, and everything that was injected, done and seen
    into the ledger, for `compare`. Raises `UserError`, and what `emit` raises.
    """
    async with _lab(plan, ledger.record) as (balancer, bench):
        started = asyncio.get_running_loop().create_future()
        schedule = asyncio.create_task(_inject(plan, bench, ledger, emit, started))

        def observe(event: Event) -> None:
            if isinstance(event, RunStarted):
                started.set_result(event.at_ns)
            elif isinstance(event, SendingStopped):
                schedule.cancel()
            ledger.observe(event)
            emit(event)

        settings = ClientSettings(sessions=plan.sessions, interval_ns=plan.interval_ns, duration_ns=plan.duration_ns)
        target = Target(balancer.address, "the lab's load balancer")
        client = asyncio.create_task(run_client(settings, target, observe, stop, abort))
        try:
            # Whichever fails ends the other: a lab without its faults, or without a client, shows nothing.
            await asyncio.wait({client, schedule}, return_when=asyncio.FIRST_EXCEPTION)
            if schedule.done() and not schedule.cancelled():
                schedule.result()
            await client
        finally:
            client.cancel()
            schedule.cancel()
            await asyncio.gather(client, schedule, return_exceptions=True)
        if balancer.refused:
            ledger.complain(f"the machine refused {balancer.refused} of the lab's own packets: {balancer.refusal}")


async def _inject(
    plan: Plan, bench: Bench, ledger: Ledger, emit: Callable[[Event], None], started: asyncio.Future[int]
) -> None:
    start_ns = await started
    for number, fault in enumerate(plan.faults, 1):
        await asyncio.sleep((start_ns + fault.at_ns - time.monotonic_ns()) / NS_PER_S)
        now_ns = time.monotonic_ns()
        emit(ledger.inject(number, now_ns, fault.inject(bench, number, now_ns)))


@asynccontextmanager
async def _lab(plan: Plan, record: Callable[[Deed], None]) -> AsyncIterator[tuple[Balancer, Bench]]:
    """The plan's pods and balancer, running."""
    sources = Sources()
    path = NetworkPath(
        seed=plan.seed,
        record=record,
        claim=sources.claim,
        policy=plan.policy,
        affinity=plan.affinity,
        idle_ns=plan.idle_ns,
    )
    mangler = Mangler(record)
    servers: list[EchoServer] = []
    balancer = None
    try:
        for position in range(1, plan.nodes + 1):
            path.add_node(node_name(position), node_ip(position))
        for position in range(1, plan.pods + 1):
            name, node = pod_name(plan.seed, position), node_name((position - 1) % plan.nodes + 1)
            server = await EchoServer.start([pod_ip(position)], 0, pod_name=name, node_name=node)
            servers.append(server)
            path.add_pod(Pod(name=name, node=node, address=server.addresses[0], instance=server.instance_id))
        balancer = Balancer.start(path, mangler, sources, FRONT)
        yield balancer, Bench(path, mangler, plan.seed)
    finally:
        if balancer is not None:
            balancer.close()
        for server in servers:
            await server.close()
