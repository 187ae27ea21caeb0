"""The facts of a server's life, frozen: `net` tells them, `report` words them.

`at_ns` is the time of the fact on the clock of the run, in nanoseconds; `ServerStarted` pairs that clock once with the
wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A fact and when it was so."""

    at_ns: int
    """Monotonic time, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class ServerTotals:
    """What a server counted. `received == answered + refused + dropped` over all reasons."""

    received: int = 0
    """Datagrams."""
    answered: int = 0
    """Success responses."""
    refused: int = 0
    """420 error responses: an unknown comprehension-required attribute."""
    dropped: tuple[tuple[str, int], ...] = ()
    """(reason, datagrams) in order of reason; a reason without a datagram is not there."""
    flows: int = 0
    """(session token, reflexive address) pairs remembered now."""
    evicted: int = 0
    """Flows forgotten for newer ones, since `--max-flows` was reached: their counts start again from 1."""
    send_errors: int = 0
    """Replies that the machine refused to send afterwards."""

    def since(self, earlier: ServerTotals) -> ServerTotals:
        """What was counted after `earlier`; `flows` stays the number of now."""
        before = dict(earlier.dropped)
        dropped = ((reason, count - before.get(reason, 0)) for reason, count in self.dropped)
        return ServerTotals(
            received=self.received - earlier.received,
            answered=self.answered - earlier.answered,
            refused=self.refused - earlier.refused,
            dropped=tuple((reason, count) for reason, count in dropped if count),
            flows=self.flows,
            evicted=self.evicted - earlier.evicted,
            send_errors=self.send_errors - earlier.send_errors,
        )

    def __add__(self, other: ServerTotals) -> ServerTotals:
        """What two workers of one server counted."""
        dropped = dict(self.dropped)
        for reason, count in other.dropped:
            dropped[reason] = dropped.get(reason, 0) + count
        return ServerTotals(
            received=self.received + other.received,
            answered=self.answered + other.answered,
            refused=self.refused + other.refused,
            dropped=tuple(sorted(dropped.items())),
            flows=self.flows + other.flows,
            evicted=self.evicted + other.evicted,
            send_errors=self.send_errors + other.send_errors,
        )


@dataclass(frozen=True, slots=True)
class ServerStarted(ServerEvent):
    """All sockets are bound; it answers."""

    wall_ns: int
    """The wall clock (Unix time) at `at_ns`."""
    utc_offset_s: int
    """The local offset from UTC, in seconds."""
    version: str
    pod_name: str
    node_name: str | None
    instance_id: bytes
    addresses: tuple[TransportAddress, ...]
    """Where it answers."""
    health: tuple[TransportAddress, ...]
    """Where the health port listens; empty: it is off."""
    keyed: bool
    """Whether it answers only requests that carry a valid MESSAGE-INTEGRITY-SHA256."""
    workers: int = 1
    """Processes that answer; with 1 there is no other than this one."""


@dataclass(frozen=True, slots=True)
class ServerWarning(ServerEvent):
    """Something the operator should know, in words."""

    text: str


@dataclass(frozen=True, slots=True)
class ServerStats(ServerEvent):
    """Periodic: what was counted since the last one, and in all."""

    delta: ServerTotals
    total: ServerTotals


@dataclass(frozen=True, slots=True)
class ServerDraining(ServerEvent):
    """It was told to end (SIGTERM), and keeps answering for a while."""

    drain_ns: int


@dataclass(frozen=True, slots=True)
class ServerStopped(ServerEvent):
    """The last event."""

    total: ServerTotals
    uptime_ns: int
