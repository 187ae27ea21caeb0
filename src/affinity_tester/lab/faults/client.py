"""What is wrong at the client's side of the path: its machine, its address, its NAT, its view of the cluster."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import (
    EXPLAINED,
    LOST,
    MOVED,
    VIOLATION,
    Bench,
    Deal,
    Effect,
    Family,
    Fault,
    Judged,
    Sign,
    counted,
    marks,
)
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.model import Policy
from affinity_tester.lab.parameter import COUNT, SHARE, TIME, parameter, read_count, read_share, read_time
from affinity_tester.settings import NS_PER_S, format_duration

NAT_IP = "127.4.0.1"
"""What stands for the new address of the client's NAT, or of the client's machine."""

FLOOD = 2_000
"""Datagrams that fill any receive buffer that the client may have: it asks for 256 KiB."""

READ_NS = 300_000_000
"""Time in which the client reads its buffers empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientNat(Fault):
    """The client's own NAT moves to another address."""

    name = "client-nat"
    expects = "all flows: a new reflexive IP and port, the same for all and no node's; the same pods; no loss"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster pods see the nodes' addresses, not the client's"

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Give every flow a source at the new address."""
        flows = _renumber(bench, now_ns)
        must = marks(Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT)
        return Deal(
            number,
            now_ns,
            f"the client's NAT moves to {NAT_IP}: {counted(len(flows), 'flow')}",
            now_ns,
            tuple(Effect(flow, must, judged=VIOLATION) for flow in flows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSocket(Fault):
    """The client's machine gets another address: its packets come from there, and it says so when it is asked again."""

    name = "client-socket"
    expects = "all flows: a new reflexive IP and port; the client's own address, learnt again, is another"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster pods see the nodes' addresses, not the client's"

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """As `client-nat`, and the client's own view changes with it."""
        flows = _renumber(bench, now_ns)
        bench.stage.client_ip = NAT_IP
        must = marks(Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT)
        return Deal(
            number,
            now_ns,
            f"the client's machine has another address now, {NAT_IP}: {counted(len(flows), 'flow')}",
            now_ns,
            tuple(Effect(flow, must, marks(Sign.CLIENT_FAULT), VIOLATION) for flow in flows),
        )


def _renumber(bench: Bench, now_ns: int) -> tuple[TransportAddress, ...]:
    flows = tuple(flow for flow in bench.flows if bench.path.rewrite_source(flow, NAT_IP, now_ns))
    bench.touch(flows, Family.WAY)
    return flows


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfInflicted(Fault):
    """Replies wait until the client's receive buffers are full, and meet them: the client's own kernel drops them."""

    name = "self-inflicted"
    expects = "the chosen flows: loss, and as many drops counted at the client's own sockets; no change"

    sessions: int = parameter(read_count, COUNT, "how many flows", default=3)
    for_ns: int = parameter(read_time, TIME, "how long replies wait", key="for", default=800_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Hold the replies, then flood the sockets."""
        flows = bench.choose(self.sessions, Family.PACKETS, self.name, number)
        bench.stage.balancer.holding.update(flows)
        bench.stage.play(self._flood(bench))
        must = marks(Sign.CLIENT_FAULT, Sign.LOSS_DOWN)
        return Deal(
            number,
            now_ns,
            f"{counted(len(flows), 'socket')} of the client are flooded, and replies of {format_duration(self.for_ns)} "
            "find them full",
            now_ns + self.for_ns,
            tuple(Effect(flow, must, LOST) for flow in flows),
        )

    async def _flood(self, bench: Bench) -> None:
        await bench.stage.wait(self.for_ns)
        bench.stage.balancer.flood(FLOOD)
        await bench.stage.wait(READ_NS)
        bench.stage.balancer.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyCore(Fault):
    """Something else takes the client's core in slices: it sends and reads late."""

    name = "busy-core"
    expects = "nothing but late sends: no loss, no change"
    control = True
    also = frozenset({"self-inflicted"})

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=3_000_000_000)
    slice_ns: int = parameter(read_time, TIME, "how long each slice is", key="slice", default=40_000_000)
    share: float = parameter(read_share, SHARE, "share of the time that is taken", default=0.5)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Take slices of the loop."""
        bench.stage.play(self._burn(bench, now_ns + self.for_ns))
        return Deal(
            number,
            now_ns,
            f"{100 * self.share:.3g} % of the client's core is taken, {format_duration(self.slice_ns)} at a time, "
            f"for {format_duration(self.for_ns)}",
            now_ns + self.for_ns,
            quiet=True,
        )

    async def _burn(self, bench: Bench, until_ns: int) -> None:
        while clock.now_ns() < until_ns:
            end_ns = clock.now_ns() + self.slice_ns
            while clock.now_ns() < end_ns:
                pass
            await bench.stage.wait(round(self.slice_ns * (1 / self.share - 1)))
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSuspended(Fault):
    """The client stands still for a time, as if suspended, while a pod leaves the pool and its flows move.

    All of the lab is one process, which stands still with it; the pod leaves in the midst of that by the truth's clock.
    """

    name = "client-suspended"
    expects = "the flows of the pod: another pod, with the news of it read late; no loss"
    control = True
    also = frozenset({"self-inflicted"})
    moves_pool = True

    for_ns: int = parameter(read_time, TIME, "how long", key="for", default=3_000_000_000)

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Stand still as soon as what is under way has arrived, and remove the pod with the most flows in the midst."""
        name, flows = busiest_pod(bench)
        bench.stage.play(self._suspend(bench, name))
        return Deal(
            number,
            now_ns,
            f'the client stands still for {format_duration(self.for_ns)}, and pod "{name}" leaves the pool meanwhile: '
            f"{counted(len(flows), 'flow')}",
            now_ns + self.for_ns + READ_NS,
            tuple(Effect(flow, marks(Kind.POD), MOVED, EXPLAINED) for flow in flows),
        )

    async def _suspend(self, bench: Bench, name: str) -> None:
        await bench.stage.drained()
        time.sleep(self.for_ns / 2 / NS_PER_S)  # noqa: ASYNC251 - it stands still on purpose
        bench.path.remove_pod(name)
        bench.stage.control.write(bench.now_ns())
        time.sleep(self.for_ns / 2 / NS_PER_S)  # noqa: ASYNC251 - as above
        await bench.stage.kill_pod(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaptopAsleep(Fault):
    """The client's machine sleeps, and the nodes forget its flows meanwhile.

    CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC stands, timers included (clock_gettime(2)); conntrack forgets an idle UDP
    flow after 30 s (nf_conntrack_udp_timeout), one that has seen both ways after 120 s.
    """

    name = "laptop-asleep"
    expects = "all flows: a new reflexive port at the first probe after it, of some also a new pod; no loss"
    control = True
    also = frozenset({"idle-expiry", "self-inflicted"})
    policies = frozenset({Policy.CLUSTER})
    why_policy = "under policy Local a forgotten flow keeps its address, and mostly its pod: there is little to see"

    for_ns: int = parameter(
        read_time, TIME, "how long: longer than nodes remember a flow; it takes none", key="for", default=60 * NS_PER_S
    )

    def inject(self, bench: Bench, number: int, now_ns: int) -> Deal:
        """Fall asleep as soon as what is under way has arrived."""
        flows = bench.flows
        bench.touch(flows, Family.WAY)
        bench.stage.play(self._sleep(bench))
        must, may = marks(Kind.REFLEXIVE_PORT), marks(Kind.POD, Kind.NODE, Kind.INSTANCE)
        return Deal(
            number,
            now_ns,
            f"the client's machine sleeps for {format_duration(self.for_ns)}: {counted(len(flows), 'flow')}",
            now_ns + self.for_ns + READ_NS,
            tuple(Effect(flow, must, may, Judged(Judgement.IDLE)) for flow in flows),
        )

    async def _sleep(self, bench: Bench) -> None:
        await bench.stage.drained()
        bench.stage.sleep_machine(self.for_ns)
