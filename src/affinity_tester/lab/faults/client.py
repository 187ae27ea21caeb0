"""Faults at the client's side of the network: its machine, its address, its NAT, and its view of the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from affinity_tester import clock
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events import Judgement
from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, counted
from affinity_tester.lab.faults.pods import busiest_pod
from affinity_tester.lab.injection import (
    ANOTHER_POD,
    EXPLAINED,
    LOST,
    MOVED,
    Injection,
    Judged,
    Symptom,
    effects_on,
)
from affinity_tester.lab.model import Policy
from affinity_tester.lab.parameter import count_parameter, share_parameter, time_parameter
from affinity_tester.units import NS_PER_MS, NS_PER_S, format_duration

NAT_IP = "127.4.0.1"
"""What stands for the new address of the client's NAT, or of the client's machine."""

NOT_TOLD = Judged(Judgement.UNKNOWN)
"""How changes are judged that the client's NAT may have made."""

FLOOD = 2_000
"""Datagrams that fill any receive buffer that the client may have: it asks for 256 KiB."""

READ_NS = 300 * NS_PER_MS
"""Time in which the client reads its buffers empty."""


class ClientNat(Fault):
    """The client's own NAT moves to another address: a second line, or a gateway that is replaced (amazon-vpc-cni-k8s 3174).

    A new source is a new flow, so balancer and node choose anew.
    """

    name = "client-nat"
    expects = "all flows: a new reflexive IP and port, the same IP for all and no node's; of some a new pod; no loss"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster pods see the nodes' addresses, not the client's"

    def inject(self, context: FaultContext) -> Injection:
        """Give every flow a mapping at the new address."""
        return _remap(context, context.flows, f"the client's NAT moves to {NAT_IP}")


class ClientNatAddress(Fault):
    """Of a NAT with several public addresses, one is taken away: its flows get another one, and the others stay.

    RFC 4787 (REQ-2) asks a NAT to keep a client's flows at one address, and carriers' pools do not all do so.
    """

    name = "client-nat-address"
    alias = "client-nat"
    expects = "the chosen flows: a new reflexive IP and port, no node's; of some a new pod; no loss"
    policies = frozenset({Policy.LOCAL})
    why_policy = ClientNat.why_policy

    sessions: int = count_parameter("how many flows", default=6)

    def inject(self, context: FaultContext) -> Injection:
        """Give some flows a mapping at another address."""
        flows = context.choose(self.sessions, Family.ROUTING)
        return _remap(context, flows, f"an address of the client's NAT is gone, {NAT_IP} takes its flows")


class ClientNatFlush(Fault):
    """The client's NAT loses its table, or renews all mappings: each flow gets another port, and is a new one to all behind.

    A Linux NAT does so where its conntrack table is flushed and it draws ports (`--random-fully`); carriers' NATs were seen
    to renew ports every 13 s. Under policy Cluster nobody without a reference can tell it from proxies that were flushed,
    so the right answer is that it cannot be told.
    """

    name = "client-nat-flush"
    expects = "all flows: a new reflexive port, of most also a new ingress IP and a new pod; no loss"
    control = True
    policies = frozenset({Policy.CLUSTER})
    why_policy = "under policy Local pods see the client's NAT itself: client-nat"

    times: int = count_parameter("how often", default=1)
    every_ns: int = time_parameter("the time between, when it is more than once", key="every", default=5 * NS_PER_S)

    @property
    def lasts_ns(self) -> int:
        """Return the time until the last flush."""
        return self.every_ns * (self.times - 1)

    def inject(self, context: FaultContext) -> Injection:
        """Flush now, and the further times in the background."""
        flows = context.flows
        self._flush(context)
        if self.times > 1:
            context.runtime.spawn(self._again(context))
        context.mark_used(flows, Family.ROUTING)
        again = f", {self.times} times, every {format_duration(self.every_ns)}" if self.times > 1 else ""

        return context.injection(
            f"the client's NAT maps its {counted(len(flows), 'flow')} anew{again}",
            context.at_ns + self.lasts_ns,
            effects_on(flows, {Kind.REFLEXIVE_PORT}, MOVED, NOT_TOLD),
        )

    def _flush(self, context: FaultContext) -> None:
        for flow in context.flows:
            context.network.remap(flow, "")

    async def _again(self, context: FaultContext) -> None:
        for _ in range(self.times - 1):
            await context.runtime.wait(self.every_ns)
            self._flush(context)


class ClientSocket(Fault):
    """The client's machine gets another address: its packets come from there, and it says so when it is asked again."""

    name = "client-socket"
    expects = "all flows: a new reflexive IP and port; the client's own address, learnt again, is another"
    policies = frozenset({Policy.LOCAL})
    why_policy = "under policy Cluster pods see the nodes' addresses, not the client's"

    def inject(self, context: FaultContext) -> Injection:
        """Give every flow a source at the new address, and let the client see that it is its own."""
        flows = _renumber(context)
        context.runtime.client_ip = NAT_IP

        return context.injection(
            f"the client's machine has another address now, {NAT_IP}: {counted(len(flows), 'flow')}",
            context.at_ns,
            effects_on(
                flows, {Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT}, {Symptom.CLIENT_FAULT}, Judged(Judgement.CLIENT)
            ),
        )


def _remap(context: FaultContext, flows: Iterable[TransportAddress], text: str) -> Injection:
    flows = tuple(flows)
    for flow in flows:
        context.network.remap(flow, NAT_IP)
    context.mark_used(flows, Family.ROUTING)

    return context.injection(
        f"{text}: {counted(len(flows), 'flow')}",
        context.at_ns,
        effects_on(flows, {Kind.REFLEXIVE_IP, Kind.REFLEXIVE_PORT}, ANOTHER_POD, NOT_TOLD),
    )


def _renumber(context: FaultContext) -> tuple[TransportAddress, ...]:
    flows = tuple(flow for flow in context.flows if context.network.rewrite_source(flow, NAT_IP, context.at_ns))
    context.mark_used(flows, Family.ROUTING)
    return flows


class SelfInflicted(Fault):
    """Replies wait until the client's receive buffers are full, and meet them: the client's own kernel drops them."""

    name = "self-inflicted"
    expects = "the chosen flows: loss, and as many drops counted at the client's own sockets; no change"

    sessions: int = count_parameter("how many flows", default=3)
    for_ns: int = time_parameter("how long replies wait", key="for", default=800 * NS_PER_MS)

    def inject(self, context: FaultContext) -> Injection:
        """Hold the replies, then flood the sockets."""
        flows = context.choose(self.sessions, Family.PACKETS)
        context.runtime.balancer.holding.update(flows)
        context.runtime.spawn(self._flood(context))

        return context.injection(
            f"{counted(len(flows), 'socket')} of the client are flooded, and replies of {format_duration(self.for_ns)} "
            "find them full",
            context.at_ns + self.for_ns,
            effects_on(flows, {Symptom.CLIENT_FAULT, Symptom.LOSS_DOWN}, LOST),
        )

    async def _flood(self, context: FaultContext) -> None:
        await context.runtime.wait(self.for_ns)
        context.runtime.balancer.flood(FLOOD)
        await context.runtime.wait(READ_NS)
        context.runtime.balancer.release()


class BusyCore(Fault):
    """Something else takes the client's core in slices: it sends and reads late."""

    name = "busy-core"
    expects = "nothing but late sends: no loss, no change"
    control = True
    also_correct = frozenset({"self-inflicted"})

    for_ns: int = time_parameter("how long", key="for", default=3 * NS_PER_S)
    slice_ns: int = time_parameter("how long each slice is", key="slice", default=40 * NS_PER_MS)
    share: float = share_parameter("share of the time that is taken", default=0.5)

    def inject(self, context: FaultContext) -> Injection:
        """Take slices of the loop."""
        context.runtime.spawn(self._burn(context, context.at_ns + self.for_ns))

        return context.injection(
            f"{100 * self.share:.3g} % of the client's core is taken, {format_duration(self.slice_ns)} at a time, "
            f"for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            unobservable=True,
        )

    async def _burn(self, context: FaultContext, until_ns: int) -> None:
        while clock.now_ns() < until_ns:
            end_ns = clock.now_ns() + self.slice_ns
            while clock.now_ns() < end_ns:
                pass

            await context.runtime.wait(round(self.slice_ns * (1 / self.share - 1)))
            await asyncio.sleep(0)


class ClientSuspended(Fault):
    """The client stands still for a time, as if suspended, while a pod leaves the pool and its flows move.

    All of the lab is one process, which stands still with it; the pod leaves in the midst of that by the truth's clock.
    """

    name = "client-suspended"
    expects = "the flows of the pod: another pod, with the news of it read late; no loss"
    control = True
    also_correct = frozenset({"self-inflicted"})
    moves_pool = True

    for_ns: int = time_parameter("how long", key="for", default=3 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Stand still as soon as what is under way has arrived, and remove the pod with the most flows in the midst."""
        name, flows = busiest_pod(context)
        context.runtime.spawn(self._suspend(context, name))

        return context.injection(
            f'the client stands still for {format_duration(self.for_ns)}, and pod "{name}" leaves the pool meanwhile: '
            f"{counted(len(flows), 'flow')}",
            context.at_ns + self.for_ns + READ_NS,
            effects_on(flows, {Kind.POD}, MOVED, EXPLAINED),
        )

    async def _suspend(self, context: FaultContext, name: str) -> None:
        await context.runtime.wait_until_idle()

        time.sleep(self.for_ns / 2 / NS_PER_S)  # noqa: ASYNC251 - it stands still on purpose
        context.network.remove_pod(name)
        context.runtime.control.store(context.now_ns())
        time.sleep(self.for_ns / 2 / NS_PER_S)  # noqa: ASYNC251 - as above
        await context.runtime.kill_pod(name)


class LaptopAsleep(Fault):
    """The client's machine sleeps, and the nodes forget its flows meanwhile.

    CLOCK_BOOTTIME goes on and CLOCK_MONOTONIC stands, timers included (clock_gettime(2)); conntrack forgets an idle UDP
    flow after 30 s (nf_conntrack_udp_timeout), one that has seen both ways after 120 s.
    """

    name = "laptop-asleep"
    expects = "all flows: a new reflexive port at the first probe after it, of some also a new pod; no loss"
    control = True
    also_correct = frozenset({"idle-expiry", "self-inflicted"})
    policies = frozenset({Policy.CLUSTER})
    why_policy = "under policy Local a forgotten flow keeps its address, and mostly its pod: there is little to see"

    for_ns: int = time_parameter(
        "how long: longer than nodes remember a flow; it takes none", key="for", default=60 * NS_PER_S
    )

    def inject(self, context: FaultContext) -> Injection:
        """Fall asleep as soon as what is under way has arrived."""
        flows = context.flows
        context.mark_used(flows, Family.ROUTING)
        context.runtime.spawn(self._sleep(context))

        return context.injection(
            f"the client's machine sleeps for {format_duration(self.for_ns)}: {counted(len(flows), 'flow')}",
            context.at_ns + self.for_ns + READ_NS,
            effects_on(flows, {Kind.REFLEXIVE_PORT}, ANOTHER_POD, Judged(Judgement.IDLE)),
        )

    async def _sleep(self, context: FaultContext) -> None:
        await context.runtime.wait_until_idle()
        context.runtime.suspend_clock(self.for_ns)


class ApiStalled(Fault):
    """The API server stalls: requests hang for a time and are answered then, and the watch tells nothing meanwhile.

    An overloaded etcd or API server does so, and a network that holds packets back and then delivers them: no connection
    breaks, so nothing says that what is known of the pool is old.
    """

    name = "api-stalled"
    expects = "nothing; what changed of the pool meanwhile is told late, with the time in which it may have happened"
    control = True

    for_ns: int = time_parameter("how long", key="for", default=3 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Hold back every answer and the watch's news."""
        context.runtime.control.stall(context.at_ns, self.for_ns)

        return context.injection(
            f"the API server stalls for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            unobservable=True,
        )


class ApiGone(Fault):
    """The API server does not answer for a time: the pool is not known then.

    It comes back restarted: what it could prove of the time before is forgotten.
    """

    name = "api-gone"
    expects = "nothing; what changed meanwhile could not be judged"
    control = True

    for_ns: int = time_parameter("how long", key="for", default=3 * NS_PER_S)

    def inject(self, context: FaultContext) -> Injection:
        """Break the watch."""
        control = context.runtime.control
        control.disconnect(context.at_ns)
        context.after(self.for_ns, lambda: control.reconnect(clock.now_ns()))

        return context.injection(
            f"the API server does not answer for {format_duration(self.for_ns)}",
            context.at_ns + self.for_ns,
            unobservable=True,
        )
