"""Runs the samples of a plan in simulated time against a network that is a function: ten minutes in some milliseconds."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.idle.grid import PlannedSample
from affinity_tester.core.idle.model import FlowState, SampleResult
from affinity_tester.core.idle.sample import CheckPath, Command, Sample, Send
from affinity_tester.units import NS_PER_MS, NS_PER_S

_PORTS = itertools.count(10_000)
"""No port is used twice, in no round."""

RTT_NS = 10 * NS_PER_MS


class Network(Protocol):
    """What is between client and pods."""

    def request(self, port: int, now_ns: int) -> Identity | None:
        """Take a probe from this source port; return what its reply says, or None where none arrives."""

    def push(self, port: int, now_ns: int) -> bool:
        """Take a packet that the flow's pod sends by itself; return whether it arrives."""


def simulate(planned: Sequence[PlannedSample], network: Network, begin_ns: int = 0) -> list[SampleResult]:
    """Run all samples to their end."""
    return _Simulation(network).run(planned, begin_ns)


class _Simulation:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._order = itertools.count()
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._results: list[SampleResult] = []

    def run(self, planned: Sequence[PlannedSample], begin_ns: int) -> list[SampleResult]:
        for each in planned:
            self._at(begin_ns + each.start_ns, self._starter(each))
        while self._agenda:
            now_ns, _, action = heapq.heappop(self._agenda)
            action(now_ns)
        return self._results

    def _at(self, at_ns: int, action: Callable[[int], None]) -> None:
        heapq.heappush(self._agenda, (at_ns, next(self._order), action))

    def _starter(self, planned: PlannedSample) -> Callable[[int], None]:
        def start(now_ns: int) -> None:
            sample = Sample(planned.step, next(_PORTS))
            self._do(sample, now_ns, sample.begin(now_ns))

        return start

    def _do(self, sample: Sample, now_ns: int, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Send(seq=seq, delay_ns=delay_ns):
                    self._send(sample, now_ns, seq, delay_ns)
                case CheckPath():
                    answered = self._network.request(next(_PORTS), now_ns) is not None
                    self._feed(sample, now_ns + RTT_NS, partial(sample.path_checked, answered=answered))
        if sample.result is None and sample.deadline_ns is not None:
            self._feed(sample, sample.deadline_ns, sample.timer)

    def _send(self, sample: Sample, now_ns: int, seq: int, delay_ns: int) -> None:
        port = sample.local_port
        identity = self._network.request(port, now_ns)
        if identity is None:
            return
        said = delay_ns or None
        self._feed(sample, now_ns + RTT_NS, lambda at_ns: sample.replied(at_ns, seq, identity, said))
        if delay_ns:

            def push(at_ns: int) -> None:
                if self._network.push(port, at_ns):
                    self._feed(sample, at_ns + RTT_NS // 2, lambda then_ns: sample.replied(then_ns, seq, identity, 0))

            self._at(now_ns + RTT_NS // 2 + delay_ns, push)

    def _feed(self, sample: Sample, at_ns: int, take: Callable[[int], list[Command]]) -> None:
        def act(now_ns: int) -> None:
            if sample.result is not None:
                return
            commands = take(now_ns)
            if sample.result is None:
                self._do(sample, now_ns, commands)
            else:
                self._results.append(sample.result)

        self._at(at_ns, act)


@dataclass(slots=True)
class _Entry:
    pod: int
    port: int
    first_ns: int
    last_ns: int
    replied: bool = False

    def timeout_ns(self, world: Conntrack) -> int:
        is_stream = self.replied and self.last_ns - self.first_ns > 2 * NS_PER_S
        return world.stream_ns if is_stream else world.exchange_ns


@dataclass
class Conntrack:
    """A node with connection tracking, as Linux has it: the naive oracle of what `idle` is to find."""

    exchange_ns: int
    stream_ns: int
    pods: int = 3
    masquerades: bool = True
    client_ip: bool = False
    loss: float = 0.0
    """The chance that a packet is lost, each way."""
    blackholes: bool = False
    """What comes after an entry's end is dropped until the flow is new to the balancer: the flow is dead."""
    silent: tuple[int, int] = (0, 0)
    """From when to when nobody is answered."""
    seed: int = 0
    entries: dict[int, _Entry] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._client_pod = self.rng.randrange(self.pods)

    def request(self, port: int, now_ns: int) -> Identity | None:
        if self.silent[0] <= now_ns < self.silent[1] or self._is_lost():
            return None
        entry = self.entries.get(port)
        if entry is not None and now_ns - entry.last_ns >= entry.timeout_ns(self):
            if self.blackholes:
                return None
            entry = None
        if entry is None:
            pod = self._client_pod if self.client_ip else self.rng.randrange(self.pods)
            seen = self.rng.randrange(1024, 65_536) if self.masquerades else port
            entry = self.entries[port] = _Entry(pod, seen, now_ns, now_ns)
        entry.last_ns = now_ns
        entry.replied = True
        if self._is_lost():
            return None
        return self._identity(entry)

    def push(self, port: int, now_ns: int) -> bool:
        entry = self.entries.get(port)
        if entry is None or now_ns - entry.last_ns >= entry.timeout_ns(self):
            return False
        entry.last_ns = now_ns
        return not self._is_lost()

    def _is_lost(self) -> bool:
        return self.loss > 0 and self.rng.random() < self.loss

    def _identity(self, entry: _Entry) -> Identity:
        ip = "10.0.0.1" if self.masquerades else "192.0.2.7"
        return Identity(TransportAddress(ip, entry.port), f"pod-{entry.pod}", "node-1", bytes(7) + bytes([entry.pod]))


TRUE_TIMEOUT = {FlowState.ONE_EXCHANGE: "exchange_ns", FlowState.STREAM: "stream_ns"}
