"""The facts of a server's life, frozen: `net` tells them, `report` words them.

`at_ns` is the time of the fact on the clock of the run, in nanoseconds; `ServerStarted` pairs that clock once with the
wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.server_totals import ServerTotals


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A fact and when it was so."""

    at_ns: int
    """Monotonic time, in nanoseconds."""


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
