"""The words of a measurement of silence: states, directions, steps, and what became of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from affinity_tester.core.identity import Identity, Kind, differing


class FlowState(StrEnum):
    """What a flow had before it fell silent: connection tracking forgets the two after different times."""

    ONE_EXCHANGE = "one-exchange"
    """One request and its reply."""
    STREAM = "stream"
    """Traffic both ways for 3 s.

    Linux gives an entry its longer timeout (UDP_CT_REPLIED) only once a packet comes later than 2 s after its first one, and
    both ways have been seen: nf_conntrack_udp_packet in net/netfilter/nf_conntrack_proto_udp.c, commit b7b1d02fc439.
    """


class Direction(StrEnum):
    """Who speaks first after the silence."""

    CLIENT = "client"
    POD = "pod"


class Property(StrEnum):
    """What may be kept over a silence."""

    FLOW = "flow"
    """All of the others, as far as they can be seen."""
    POD = "pod"
    PORT = "port"
    """The reflexive address' port."""
    ADDRESS = "address"
    """The reflexive address' IP."""


class Fate(StrEnum):
    """How a sample ended."""

    ANSWERED = "answered"
    """It was answered after the silence."""
    DEAD = "dead"
    """It was not, twice, and a new flow was: this one is dead."""
    PATH_SILENT = "path silent"
    """Neither it nor a new flow was answered: that says nothing of the silence."""
    NOT_STARTED = "not started"
    """It was not answered before the silence."""
    LATE = "late"
    """This machine was so busy that the silence became longer than the step's."""
    NOT_DELAYED = "not delayed"
    """The server refused to delay a reply, or does not know how to."""


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One silence, tried in one state and one direction."""

    direction: Direction
    state: FlowState
    silence_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """What one sample came to."""

    step: Step
    fate: Fate
    begun_ns: int
    """When its first probe was sent."""
    ended_ns: int
    """When its last reply came, or was given up."""
    silent_ns: int = 0
    """How long it was silent in fact; 0 where it did not come to that."""
    before: Identity | None = None
    """Who answered before the silence; None: nobody."""
    after: Identity | None = None
    """Who answered after it; None: nobody."""
    heard: bool | None = None
    """Direction pod: whether the pod's own packet arrived after the silence. None: none was due."""
    resent: bool = False
    """The first probe after the silence was lost, and a second one was sent."""
    sent: int = 0
    """Probes sent before the silence."""
    answered: int = 0
    """How many of them were answered in time."""
    local_port: int = 0
    """The port of the sample's own socket; 0: not known."""

    @property
    def differs(self) -> frozenset[Kind]:
        """What differs between the replies before and after the silence; empty without both."""
        if self.before is None or self.after is None:
            return frozenset()
        return frozenset(differing(self.before, self.after))

    @property
    def restarted(self) -> bool:
        """True if the same pod answered as another instance: it was restarted in the meantime."""
        return Kind.INSTANCE in self.differs and Kind.POD not in self.differs

    @property
    def ambiguous(self) -> bool:
        """True if it changed, and the first probe after the silence was lost: it may have expired before the second one."""
        return self.resent and self.fate is Fate.ANSWERED and bool(self.differs)

    @property
    def counts(self) -> bool:
        """True if it says something of the silence."""
        return self.fate in (Fate.ANSWERED, Fate.DEAD) and not self.restarted and not self.ambiguous

    def kept(self, wanted: Property) -> bool:
        """Return whether it kept this over the silence; what a reply does not say was not lost."""
        if self.fate is Fate.DEAD:
            return False
        match wanted:
            case Property.POD:
                return Kind.POD not in self.differs
            case Property.PORT:
                return Kind.REFLEXIVE_PORT not in self.differs
            case Property.ADDRESS:
                return Kind.REFLEXIVE_IP not in self.differs
            case _:  # Property.FLOW
                return not self.differs and self.heard is not False
