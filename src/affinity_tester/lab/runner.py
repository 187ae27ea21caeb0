"""Run a plan: pods, balancer and client in one event loop on loopback, and the faults on time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Event, RunStarted, SendingStopped, SessionStarted
from affinity_tester.core.pulse import Pulse
from affinity_tester.lab.balancer import Balancer, Sources
from affinity_tester.lab.control_plane import ControlPlane
from affinity_tester.lab.fault import FaultContext
from affinity_tester.lab.impairment import Impairments
from affinity_tester.lab.lab_record import LabRecord
from affinity_tester.lab.names import bridge_ip, node_ip, node_name, proxy_ip
from affinity_tester.lab.network import NetworkModel
from affinity_tester.lab.plan import Plan
from affinity_tester.lab.pods import PodHost
from affinity_tester.lab.runtime import LabRuntime
from affinity_tester.net.client import run_client
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Target
from affinity_tester.settings import ClientSettings
from affinity_tester.units import NS_PER_S

FRONT = TransportAddress("127.0.0.1", 0)
"""Where the balancer listens; the kernel chooses the port."""

ADVANCE_S = 0.02
"""How often time passes for the control plane."""


@asynccontextmanager
async def open_lab(plan: Plan, record: LabRecord, emit: Callable[[Event], None]) -> AsyncIterator[Lab]:
    """Run the plan's pods and its balancer; the control plane goes on after the client's run, until the context ends.

    Every event of client, lab and control plane goes to `emit` as it happens, which feeds the record: the events that the
    analysis derives from them belong there too. Raises `UserError`, and what `emit` raises.
    """
    sources = Sources()
    network = NetworkModel(
        seed=plan.seed,
        log=record.log_packet,
        claim=sources.claim,
        policy=plan.policy,
        affinity=plan.affinity,
        idle_ns=plan.idle_ns,
    )
    hosted = PodHost(plan.seed)
    # Whatever fails below, what was started before it is taken down.
    balancer = runtime = None
    try:
        for position in range(1, plan.nodes + plan.outside + 1):
            network.ingress.add_node(
                node_name(position),
                proxy_ip(position) if plan.proxies else node_ip(position),
                hashed=position <= plan.nodes,
                bridge_ip=bridge_ip(position) if plan.bridge else "",
                is_proxy=plan.proxies,
            )
        network.ingress.vip = node_name(1) if plan.vip else None
        for position in range(plan.pods):
            network.add_pod(await hosted.start(node_name(position % len(network.nodes) + 1)))

        balancer = Balancer.start(network, Impairments(record.log_packet), sources, FRONT, hosted.socket_at)
        control = ControlPlane(
            network, emit, one_item_ns=plan.settle_ns // 2, watch_ns=plan.late_ns, changed=record.pool_changed
        )
        runtime = LabRuntime(balancer, hosted, control)
        yield Lab(plan, record, emit, runtime)
    finally:
        if runtime is not None:
            await runtime.close()
        if balancer is not None:
            balancer.close()
        await hosted.close()


class Lab:
    """A running lab, for one run of the client."""

    def __init__(self, plan: Plan, record: LabRecord, emit: Callable[[Event], None], runtime: LabRuntime) -> None:
        self._plan = plan
        self._record = record
        self._emit = emit
        self._runtime = runtime
        self._context = FaultContext(runtime.network, runtime.balancer.impairments, plan.seed, runtime)
        self._started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(
        self, stop: asyncio.Event, abort: asyncio.Event, watch_pulse: Callable[[Pulse], None] | None = None
    ) -> None:
        """Run the client until the plan's time is over, or `stop` ends the sending, or `abort` the draining too.

        `watch_pulse` is told about once a second what the sessions are at.
        """
        plan, runtime = self._plan, self._runtime
        schedule = asyncio.create_task(self._inject())
        watch = asyncio.create_task(runtime.failure())
        settings = ClientSettings(
            sessions=plan.sessions,
            interval_ns=plan.interval_ns,
            duration_ns=plan.duration_ns,
            request_size=plan.size,
            sizes=plan.sizes,
            rules=plan.rules,
        )
        target = Target(runtime.balancer.address, "the lab's load balancer")

        def observe(event: Event) -> None:
            if isinstance(event, SendingStopped):
                schedule.cancel()
            self._observe(event)

        client = asyncio.create_task(
            run_client(settings, target, observe, stop, abort, source_for=self._source_for, watch_pulse=watch_pulse)
        )
        try:
            # Whichever fails ends the others: a lab without its faults, or without a client, shows nothing.
            await asyncio.wait({client, schedule}, return_when=asyncio.FIRST_EXCEPTION)
            if schedule.done() and not schedule.cancelled():
                schedule.result()
            await asyncio.wait({client, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            await client
        finally:
            for task in (client, schedule, watch):
                task.cancel()
            await asyncio.gather(client, schedule, watch, return_exceptions=True)

        if runtime.balancer.refused:
            self._record.invalidate(
                f"the machine refused {runtime.balancer.refused} of the lab's own packets: {runtime.balancer.refusal}"
            )

    def _observe(self, event: Event) -> None:
        self._emit(event)
        if isinstance(event, RunStarted):
            self._runtime.control.start_watch(event.at_ns)
            self._runtime.spawn(self._listen())
            self._start(event.at_ns)
        elif isinstance(event, SessionStarted):
            self._context.clients.add(event.local)

    def _source_for(self, target: TransportAddress, scope_id: int) -> str:
        """Return the client's own address: what the system says, until a fault says otherwise."""
        return self._runtime.client_ip or local_source_for(target, scope_id)

    def _start(self, at_ns: int) -> None:
        """Inject the faults that are there from the start, before the first probe."""
        for number, fault in enumerate(self._plan.faults, 1):
            if fault.from_start:
                self._inject_now(number, at_ns)
        self._started.set_result(at_ns)

    async def _inject(self) -> None:
        start_ns = await self._started
        for number, fault in enumerate(self._plan.faults, 1):
            if not fault.from_start:
                await asyncio.sleep((start_ns + fault.at_ns - clock.now_ns()) / NS_PER_S)
                self._inject_now(number, clock.now_ns())

    def _inject_now(self, number: int, now_ns: int) -> None:
        fault = self._plan.faults[number - 1]
        injection = fault.inject(self._context.of(fault, number, now_ns))
        self._emit(self._record.inject(injection))
        self._runtime.publish()

    async def _listen(self) -> None:
        """Let the control plane's watch and lists arrive."""
        while True:
            await asyncio.sleep(ADVANCE_S)
            self._runtime.control.advance(clock.now_ns())
