"""What a command runs with: frozen dataclasses, filled by `cli` from options, environment and `env.list`.

Defaults stand here, once, each with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.judging.rules import DEFAULT_RULES, Rules
from affinity_tester.units import NS_PER_MS, NS_PER_S

DEFAULT_PORT = 3478
"""STUN's port (RFC 8489 section 8.1)."""

DEFAULT_REQUEST_SIZE = 288
"""Bytes of a probe: it holds a reply with pod and node names of the usual lengths, and fits any path's MTU."""

NAMING_SIZE = 148
"""A reply is no longer than its probe: from here on there is room for a pod's name of any usual length in it."""

MIN_REQUEST_SIZE = 20
"""A bare STUN header."""

MAX_REQUEST_SIZE = 65_504
"""The largest multiple of 4 that is a UDP payload over IPv4."""

DEFAULT_LOSS_THRESHOLD_NS = 2 * NS_PER_S
"""A probe that is unanswered for so long is lost."""

REFERENCE_SESSIONS = 8
"""So many sessions ask the reference, or all where there are fewer: as many as it takes to call a move common to all."""

REFERENCE_INTERVAL_NS = 800 * NS_PER_MS
"""Time between two requests of one session to the reference: 10 a second in all, which no public server minds."""

MAX_SESSION_LINES = 20
"""Up to so many sessions, each has statistics of its own, a screenful; beyond, only the worst have."""

WORST_SESSIONS = 3
"""The number of sessions that count as the worst of an interval."""

DEFAULT_MAX_FLOWS = 65_536
"""Flows that a server remembers: some 55 MB when full, and far more sessions than one client opens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """`affinity-tester server`."""

    hosts: tuple[str, ...] = ()
    """Addresses to bind; empty: POD_IPS, else every local address, each on a socket of its own."""
    port: int = DEFAULT_PORT
    health_port: int = 8080
    """TCP port of /livez, /readyz and /metrics; 0 is off."""
    pod_name: str
    node_name: str | None = None
    drain_ns: int = 5 * NS_PER_S
    """How long it keeps answering, and stays ready, after SIGTERM: proxies need about as long to take the pod out."""
    stats_interval_ns: int = 60 * NS_PER_S
    """Time between two lines of totals."""
    max_flows: int = DEFAULT_MAX_FLOWS
    """Bound of the (session token, reflexive address) counts that are remembered; workers share it evenly."""
    workers: int = 1
    """Processes that answer, as one instance."""
    rate_limit: int = 0
    """Datagrams a second to read at most, over all workers; 0: any number. Off, since a tool that drops probes measures
    itself."""
    rate_limit_prefix: int = 0
    """As `rate_limit`, from one source prefix (core.rate_limit)."""
    key: bytes | None = None
    """MESSAGE-INTEGRITY-SHA256 in both directions when set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """`affinity-tester client`."""

    sessions: int = 10
    interval_ns: int = NS_PER_S // 10
    """Time between two probes of one session: media sends 20 to 50 packets a second; this finds a break as surely."""
    duration_ns: int | None = None
    """None: until a signal."""
    stats_interval_ns: int = 10 * NS_PER_S
    loss_threshold_ns: int = DEFAULT_LOSS_THRESHOLD_NS
    """A reply later than this is late and its probe lost: longer than any sane path, shorter than an operator's patience."""
    request_size: int = DEFAULT_REQUEST_SIZE
    sizes: tuple[int, ...] = ()
    """Sizes that probes have by turns, instead of `request_size`: what depends on size shows."""
    per_session_stats: bool = False
    """Statistics of every session however many there are; else beyond a few only the worst ones are told."""
    connected: bool = False
    """Connect the sockets, for comparison; a reply from a wrong address is then plain loss."""
    key: bytes | None = None
    bind: str | None = None
    """The source address of every socket; None: what the system chooses for each target."""
    dscp: int | None = None
    """The DiffServ codepoint of every probe; None: the system's."""
    rules: Rules = DEFAULT_RULES
    """What the run is judged by; its start says so."""
