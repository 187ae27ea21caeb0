"""Figures: what was counted, and how long replies took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from operator import add, attrgetter, sub


@dataclass(frozen=True, slots=True)
class Losses:
    """Lost probes by direction, where RECEIVED-COUNT tells it; `unknown` is never guessed."""

    up: int = 0
    down: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.up + self.down + self.unknown

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.up + other.up, self.down + other.down, self.unknown + other.unknown)


@dataclass(frozen=True, slots=True)
class RttStats:
    """Round-trip times in nanoseconds; None where nothing was answered."""

    count: int = 0
    min_ns: int | None = None
    mean_ns: int | None = None
    p50_ns: int | None = None
    p90_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None
    jitter_ns: int | None = None
    """Mean absolute difference of the times of consecutive probes (IPDV, RFC 3393 section 4)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one session (or all) counted; `sent == answered + lost + pending`."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    pending: int = 0
    late: int = 0
    """Replies to lost probes; the probe stays lost."""
    duplicate: int = 0
    reordered: int = 0
    """Answers to an older probe than the newest answered (RFC 4737)."""
    changes: int = 0
    """Changed pairs."""
    pairs: int = 0
    """Pairs of probes compared: successive ones among those replied to."""
    timer_misses: int = 0
    """Slots skipped since the client was too late to send."""
    send_errors: int = 0
    """Probes that the machine itself refused to send (ENOBUFS, EPERM): self-inflicted."""
    socket_drops: int = 0
    """Replies dropped at the socket's full receive buffer: self-inflicted."""
    wrong_source: int = 0
    network_errors: int = 0
    stale: int = 0
    """Replies to probes older than the kept history (60 s): late or duplicate, it is no longer known which."""
    undecodable: int = 0
    """Datagrams that were no reply to a probe of this client."""
    cross_delivered: int = 0
    """Replies to another session's probes."""
    own_losses: int = 0
    """Lost probes whose reply this machine dropped at the socket's full buffer, as far as its drops account for them."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*map(add, _counts(self), _counts(other)))

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(*map(sub, _counts(self), _counts(earlier)))


# 10,000 sessions are summed up between two probes: `dataclasses.astuple` copies deeply and takes ten times as long.
_counts = attrgetter(*Counts.__slots__)


class GroupKind(StrEnum):
    """By what sessions are counted together."""

    POD = "pod"
    """Whose name the replies carry."""
    NODE = "node"
    """On which that pod runs."""
    REFLEXIVE_IP = "reflexive_ip"
    """Which the pod observed: mostly the ingress node's, under policy Local the client's own."""


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """What the sessions counted that one pod or node served, or that came in behind one reflexive IP."""

    kind: GroupKind
    """What these sessions have in common."""
    name: str | None
    """The pod, the node, or the IP; None: no reply told it, or there was none. `other`: all beyond the most that are kept."""
    sessions: int
    """Served so at the end."""
    sent: int
    answered: int
    lost: int
    """Counted for the one who served when the probe was sent."""
    changes: int
    """Away from this one."""
    p50_ns: int | None
    """Half of the round-trip times were no longer; None where nothing was answered."""
    p99_ns: int | None
