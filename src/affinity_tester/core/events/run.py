"""The run as a whole: its start and its end, its statistics, and what the lab does to it."""

from __future__ import annotations

from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.events.base import Event, SessionEvent
from affinity_tester.core.events.counts import Counts, GroupCounts, Losses, RttStats
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.rules import DEFAULT_RULES, Rules

# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """The first event of a run."""

    wall_ns: int
    """The wall clock (Unix time) at `at_ns`."""
    utc_offset_s: int
    """The local offset from UTC, in seconds."""
    version: str
    target: TransportAddress
    """Where probes go, for the whole run."""
    target_name: str
    """What the user asked for: a name or an address."""
    sessions: int
    interval_ns: int
    loss_threshold_ns: int
    request_size: int
    """Bytes of one probe."""
    connected: bool
    """Whether the sockets are connected (`--connected`)."""
    lost_guarantees: tuple[str, ...]
    """What this platform cannot do, in words (empty on Linux)."""
    sizes: tuple[int, ...] = ()
    """Probe `seq` has `sizes[seq % len(sizes)]` bytes; empty: each has `request_size`."""
    addresses: tuple[TransportAddress, ...] = ()
    """Every address that is probed, a cohort of sessions each; empty: `target` alone."""
    unprobed: tuple[TransportAddress, ...] = ()
    """Addresses of the same name that no session probes."""
    rules: Rules = DEFAULT_RULES
    """What the run is judged by, so that a record can be judged again."""
    reference: TransportAddress | None = None
    """The second STUN server (`--reference`), of the family of `target`; None: none is asked."""
    reference_name: str = ""
    """What the user asked for: a name or an address; empty without a reference."""
    dscp: int | None = None
    """The DiffServ codepoint that the probes are marked with; None: they are not."""
    run_id: str = ""
    """Random, of this run alone: by it whoever collects logs tells the lines of runs apart."""


@dataclass(frozen=True, slots=True)
class ForeignServer(Event):
    """The first answer names no pod: a STUN server of another make; only reflexive address and SOFTWARE are tracked."""

    software: str | None


@dataclass(frozen=True, slots=True)
class NoReplies(Event):
    """No session has had an answer since the start."""

    waited_ns: int
    """How long: 5 s."""
    reason: str = ""
    """The likeliest reason as far as the cluster knows; empty where it does not, or is not watched."""


@dataclass(frozen=True, slots=True)
class NoReferenceReplies(Event):
    """No request to the reference was answered with an address since the start."""

    waited_ns: int
    """How long: 5 s, or to the end of a shorter run."""
    reason: str = ""
    """Why, as far as the sockets tell; empty where nothing came back at all."""


@dataclass(frozen=True, slots=True)
class SendingStopped(Event):
    """The last probe went out; replies drain, then judgements settle."""

    interrupted: bool
    """Whether a person (or a signal) ended it, rather than `--duration`."""


@dataclass(frozen=True, slots=True)
class Settling(Event):
    """Nothing is observed any more but the pool; judgements become certain. Told at first and every few seconds."""

    open_count: int
    """Judgements still to come."""
    up_to_ns: int
    """How much longer the run waits for them at the most."""


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """Nothing more will be observed."""

    aborted: bool
    """A second Ctrl-C: judgements still open become `unknown`."""


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionStats(SessionEvent):
    """Periodic: what happened since the session's previous line, and in all."""

    delta: Counts
    total: Counts
    serving: Identity | None
    """The newest replied probe's identity (by send order); None when nothing was answered yet."""


@dataclass(frozen=True, slots=True)
class StatsTick(Event):
    """Sums up one period; the `SessionStats` before it are of all sessions, or of the worst ones where there are many."""

    sessions: int

    delta: Counts
    total: Counts
    groups: tuple[GroupCounts, ...] = ()
    """This period by pod, by node and by reflexive IP, of each those with most sessions first."""
    silent: int = 0
    """Sessions that sent probes in this period, and got no answer in it."""
    p50_ns: int | None = None
    """Half of this period's round-trip times were no longer; None where nothing was answered."""
    p99_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SessionSummary(SessionEvent):
    """The end of a session."""

    local: TransportAddress
    total: Counts
    losses: Losses
    rtt: RttStats
    kinds: tuple[tuple[Kind, int], ...]
    """How many changes of each kind."""
    longest_gap_ns: int
    """The longest time from sent(P) to the reply of Q over all changes; 0 without one."""
    unanswered_ns: int
    """From the first probe after the newest replied one until the last probe; 0 when the last was replied to."""
    serving: Identity | None


@dataclass(frozen=True, slots=True)
class RunSummary(Event):
    """All sessions together."""

    duration_ns: int
    """From the first probe until sending stopped."""
    total: Counts
    losses: Losses
    rtt: RttStats
    kinds: tuple[tuple[Kind, int], ...]
    longest_gap_ns: int
    groups: tuple[GroupCounts, ...] = ()
    """The run by pod, by node and by reflexive IP, of each those with most sessions at the end first."""


# --- the lab ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaultInjected(Event):
    """The lab broke something on purpose; what follows in the log is its doing."""

    number: int
    """Of the plan's faults, from 1."""
    fault: str
    """Its name in the plan (docs/failure-modes.md), such as `node-rehash`."""
    text: str
    """What was done, in words, such as `node "node-4" (127.1.0.4) joins the balancer: 5 of 10 flows move to it`."""
    sessions: tuple[str, ...]
    """Those that must notice."""
