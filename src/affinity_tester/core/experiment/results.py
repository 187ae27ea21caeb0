"""What experiments came to: the values that texts, documents and comparisons are made from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.experiment.catalogue import ActionKind


class Held(StrEnum):
    """Whether a requirement held."""

    YES = "held"
    NO = "broken"
    UNKNOWN = "cannot tell"
    """Too few sessions, a steady state that was none, an action that failed, or a pool that was not watched."""


@dataclass(frozen=True, slots=True)
class Blackouts:
    """For how long sessions were not answered, over those that lost a probe in the action or after it."""

    sessions: int
    """Sessions that lost a probe."""
    median_ns: int | None
    """Half of them had no longer blackout; None where no session lost a probe."""
    p95_ns: int | None
    worst_ns: int | None
    still_silent: int
    """Sessions that were silent at the end."""
    lasted_ns: tuple[int, ...]
    """The longest of each session that lost a probe, shortest first: what `compare` ranks. One that was silent at the end has
    what it lasted until then."""


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What one experiment did to the sessions of one Service."""

    sessions: int
    """That were answered in the steady state."""
    moved: tuple[str, ...]
    """Sessions whose pod or reflexive address changed from the action to the end of the rollback, for whatever cause."""
    moved_pod: int
    """How many of them met another pod."""
    moved_address: int
    """How many of them were shown at another reflexive address."""
    least: tuple[str, ...] | None
    """The sessions that the action had to move; None where that is not known."""
    least_reason: str
    """What went away, of which they are; or why they are not known."""
    beyond: tuple[str, ...]
    """Sessions that moved and need not have, or once more than they had to."""
    twice: tuple[str, ...]
    """Sessions that moved more than once."""
    blackouts: Blackouts
    sent: int
    """Probes from the action to the end of the rollback."""
    lost: int
    """How many of them were not answered."""
    violations: int
    """Judged ones, over the whole run."""
    names: tuple[str, ...]
    """What was seen, by the catalogue's names, each once: `likely flow-wipe`."""
    held: Held
    reasons: tuple[str, ...]
    """Why it held not, or cannot be told, in words; empty where it held."""
    claim: str
    """What it can claim, and what it is too small to claim: `0 of 24 moved: at most 12 % would (95 %)`."""
    excused: tuple[str, ...] = ()
    """Sessions that moved, or fell silent, for another cause: their pod or ingress node left by none of this."""
    unclear: tuple[str, ...] = ()
    """Sessions of whose moves it is not known whether the cluster made them, such as those of the client's own NAT."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """A Service of an experiment, and what became of its sessions."""

    service: str
    """namespace/name."""
    policy: str
    """externalTrafficPolicy; empty where it is not known."""
    affinity: str
    """sessionAffinity; empty where it is not known."""
    outcome: CellOutcome


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A phase of an experiment."""

    name: str
    """steady, action, recovery, rollback or judgement."""
    since_ns: int
    """On the run's clock."""
    until_ns: int


@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """One experiment."""

    name: str
    kind: ActionKind
    requirement: str
    source: str
    action: str
    """What was done, in words: `deleted pod affinity-tester-…-x (node n1)`; empty where it was not."""
    undone: str
    """What was undone or healed, or that nothing had to be; and what was not."""
    failure: str
    """Why it did not go to its end; empty if it did."""
    phases: tuple[PhaseSpan, ...]
    cells: tuple[CellResult, ...]


@dataclass(frozen=True, slots=True)
class RanOn:
    """What an experiment ran on; each text is empty where it is not known."""

    context: str
    kubernetes: str
    """The API server's version, `v1.36.0`."""
    nodes: int | None
    os: tuple[tuple[str, int], ...]
    """Nodes' OS images, with how many nodes have each."""
    kernels: tuple[tuple[str, int], ...]
    runtimes: tuple[tuple[str, int], ...]
    """Container runtimes, with their versions."""
    kubelets: tuple[tuple[str, int], ...]
    proxy: str
    """`kube-proxy, nftables mode`, `Cilium in kube-proxy's place`."""
    cni: str
    cloud: str
    balancer: str
    """What gives the Service its address: its class or its annotations."""
    via: str
    """The way into the Services: `node-port`, `load-balancer`, ..."""
    missing: tuple[str, ...]
    """What could not be read, and why."""


@dataclass(frozen=True, slots=True)
class ExperimentReport:
    """All of one call of the command."""

    version: str
    """This tool's."""
    started_wall_ns: int
    """The wall clock (Unix time) at its start."""
    matrix: bool
    sessions: int
    """Of each Service."""
    interval_ns: int
    ran_on: RanOn
    results: tuple[ExperimentResult, ...]
