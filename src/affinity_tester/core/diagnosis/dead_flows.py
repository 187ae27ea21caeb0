"""What is dead: which part of the way all silent sessions share, and no session or canary that is answered.

A flow's way is its ingress node, its pod, and that pod's node. Five kinds of parts can be dead: an ingress node, a pod, a
node with its pods, a node as both, and a cell, the way from one ingress node to the pods of another node. A part is a
*suspect* when the silent sessions are exactly those whose way leads over it, and no canary that was answered meanwhile went
that way. Two faults have no part: entries of a flow table (fresh flows live), and one hash bucket or member of a bundle
(fresh flows die at the share of the sessions).

Canaries tell them apart: they are flows drawn anew, so of k canaries all k miss a dead part, or bucket, that a share s of
the flows meets, with a chance of (1 - s)^k. An unanswered canary is a dead flow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from affinity_tester.core.diagnosis.fresh_flows import FreshFlows
from affinity_tester.core.diagnosis.icmp import IcmpMeaning, icmp_meaning
from affinity_tester.core.diagnosis.incident_view import IncidentView, UnansweredSpan
from affinity_tester.core.events import CanaryResult
from affinity_tester.core.exact import shares_differ
from affinity_tester.core.identity import Identity, Kind
from affinity_tester.core.judging.chance import DOUBT
from affinity_tester.core.session.canaries import SILENCE_NS
from affinity_tester.units import NS_PER_S

_CANARY_LASTS_NS = NS_PER_S
"""A canary sends its three probes within this time: one of the last may already meet what is mended."""


class Way(NamedTuple):
    """The way of one flow, as far as it is known."""

    ingress: str | None
    """The ingress node's name; its address where the name is not known."""
    pod: str | None
    node: str | None
    """The pod's node."""


class Part(StrEnum):
    """A kind of part of a way."""

    POD = "pod"
    PODS_OF_NODE = "pods of a node"
    INGRESS = "ingress node"
    NODE = "ingress node and its pods"
    CELL = "way between two nodes"


class Suspect(NamedTuple):
    """One part of the ways. What does not matter for its kind is None."""

    part: Part
    ingress: str | None = None
    pod: str | None = None
    node: str | None = None
    also: tuple[str, ...] = ()
    """A second address of the ingress node, perhaps that of its pods' bridge; or more ingress nodes."""

    def is_on(self, way: Way) -> bool:
        """True if this way leads over the part."""
        match self.part:
            case Part.POD:
                return way.pod == self.pod
            case Part.PODS_OF_NODE:
                return way.node == self.node
            case Part.INGRESS:
                return way.ingress is not None and way.ingress in (self.ingress, *self.also)
            case Part.NODE:
                return way.ingress == self.ingress or way.node == self.node
            case _:  # Part.CELL
                return (way.ingress, way.node) == (self.ingress, self.node)


@dataclass(frozen=True, slots=True)
class Silence:
    """A session that was silent, and how its flow went before."""

    span: UnansweredSpan
    way: Way

    @property
    def resumed(self) -> bool:
        """True if it went on at the same pod and address: its entry was there all the time."""
        return self.span.ended is True and self.span.change is None


class DeadFlows(FreshFlows):
    """Who is silent in an incident, who is answered all the while, and what canaries met."""

    def __init__(self, view: IncidentView) -> None:
        """Look at all members of an incident."""
        self.view = view
        spans = [span for each in view.unanswered_spans if _is_long(span := self._after_blackout(each))]
        self.silences = {span.session: Silence(span, way_of(view, span.old)) for span in spans if span.old is not None}
        """By session: those that were answered before, but for those whose pod has only restarted."""

        mine = [self._after_blackout(span) for span in view.unanswered_spans]
        not_alive = {span.session for span in mine if span.to_ns - span.from_ns >= SILENCE_NS}
        others_silent = view.history.unanswered_for(view.from_ns, view.to_ns, SILENCE_NS)
        not_alive |= others_silent - {span.session for span in mine}
        moved = {move.session for move in view.moves}
        alive = {session: who for session, who in view.identities.items() if session not in not_alive}
        self.moved = [way_of(view, who) for session, who in alive.items() if session in moved]
        """Where sessions were that moved on without being silent."""
        self.alive = [way_of(view, who) for session, who in alive.items() if session not in moved]
        """The ways of the sessions that are answered all the while."""

    def _after_blackout(self, span: UnansweredSpan) -> UnansweredSpan:
        """Return what is left of a silence after a blackout: in that, nobody's silence, and no canary's, tells anything."""
        for since_ns, until_ns in self.view.history.blackouts:
            if span.from_ns <= until_ns and since_ns <= span.to_ns:
                span = replace(span, from_ns=min(max(span.from_ns, until_ns), span.to_ns))
        return span

    # --- canaries ----------------------------------------------------------------------------------------------------

    @cached_property
    def canaries(self) -> list[CanaryResult]:
        """The canaries of fresh ports that were sent while all were silent, to the targets of the silent sessions."""
        sessions = self.view.history.sessions
        targets = {sessions[name].target for name in self.silences}
        from_ns = max(silence.span.from_ns for silence in self.silences.values())
        to_ns = min(silence.span.to_ns for silence in self.silences.values()) - _CANARY_LASTS_NS
        return [
            canary
            for canary in self.view.history.canaries
            if from_ns <= canary.sent_ns <= to_ns
            and not canary.pause_ns
            and canary.session in sessions
            and sessions[canary.session].target in targets
        ]

    @cached_property
    def repeated(self) -> list[CanaryResult]:
        """The unanswered canaries of this silence that were repeated from the same port after a pause."""
        return [canary for canary in self.view.canaries if canary.pause_ns]

    @cached_property
    def met(self) -> list[Way]:
        """The ways of the answered canaries."""
        return [way_of(self.view, canary.identity) for canary in self.canaries if canary.identity is not None]

    @property
    def answered_meanwhile(self) -> bool:
        """True if a canary was answered while all were silent, and not just as they came back."""
        first_ns = min(silence.span.to_ns for silence in self.silences.values())
        return any(c.identity is not None and c.sent_ns <= first_ns - SILENCE_NS for c in self.canaries)

    # --- chance --------------------------------------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """How many sessions there are that had been answered."""
        return len(self.silences) + len(self.alive) + len(self.moved)

    @property
    def dead_count(self) -> int:
        """How many sessions are silent."""
        return len(self.silences)

    @property
    def sampled(self) -> list[CanaryResult]:
        """The canaries."""
        return self.canaries

    @property
    def fresh_hardly_live(self) -> bool:
        """True if more fresh flows die than sessions do: what lets no flow begin is another fault."""
        too_many = self.unanswered * self.total > len(self.silences) * len(self.canaries)
        chance = shares_differ(len(self.silences), self.total, self.unanswered, len(self.canaries))
        return too_many and chance < DOUBT / 50

    def is_no_chance(self, suspect: Suspect) -> bool:
        """True if flows that are dead for reasons of their own would hardly be exactly those of one part."""
        count = len(self.silences)
        alike = sum(self._size(part) == count for part in self._parts)
        return alike / math.comb(self.total, count) < DOUBT and suspect in self.suspects

    # --- parts -----------------------------------------------------------------------------------------------------------

    @cached_property
    def ways(self) -> list[Way]:
        """The ways of all sessions."""
        return [silence.way for silence in self.silences.values()] + self.alive + self.moved

    @cached_property
    def _parts(self) -> list[Suspect]:
        """Return every part of the sessions' ways."""
        ways = set(self.ways)
        pods = {(way.pod, way.node) for way in ways if way.pod is not None}
        count = Counter(node for _, node in pods if node is not None)
        ingress = {way.ingress for way in ways if way.ingress is not None}
        found = [Suspect(Part.POD, pod=pod, node=node) for pod, node in pods]
        found += [Suspect(Part.PODS_OF_NODE, node=node) for node, its in count.items() if its > 1]
        found += [Suspect(Part.INGRESS, ingress=name) for name in ingress]
        found += [Suspect(Part.INGRESS, ingress=own, also=(bridge,)) for own, bridge in self._pairs(ingress)]
        several = sorted({each.way.ingress for each in self.silences.values() if each.way.ingress is not None})
        if len(several) > 1:
            found.append(Suspect(Part.INGRESS, ingress=several[0], also=tuple(several[1:])))
        found += [
            Suspect(Part.NODE, ingress=name, node=node)
            for name in ingress
            for node in count
            if self._is_one(name, node)
        ]
        if not self.view.source_ip_preserved:
            found += [Suspect(Part.CELL, ingress=name, node=node) for name in ingress for node in count if name != node]
        return found

    def _pairs(self, ingress: set[str]) -> Iterator[tuple[str, str]]:
        """Yield the addresses that may be one node's: its own, and that of its pods' bridge (core.diagnosis.masquerade)."""
        if self.view.source_ip_preserved:
            return
        names = self.view.node_names
        living = [*self.ways, *self.met]
        behind = {name: {way.node for way in living if way.ingress == name} for name in ingress}
        for bridge in ingress - set(names.values()):
            if len(behind[bridge]) == 1:
                (node,) = behind[bridge]
                for own in ingress - {bridge}:
                    if own == node or (own not in names.values() and node not in behind[own]):
                        yield own, bridge

    def _is_one(self, ingress: str, node: str) -> bool:
        """True if an ingress may be the node of these pods: it is, or its name is not known."""
        return ingress == node or ingress not in set(self.view.node_names.values()) | {way.node for way in self.ways}

    def _size(self, part: Suspect) -> int:
        return sum(part.is_on(way) for way in self.ways)

    @cached_property
    def suspects(self) -> list[Suspect]:
        """The parts whose flows are exactly the silent ones, and over which no canary was answered meanwhile.

        Of two with the same flows the wider is left out: a node is not suspected for what its pods alone, or its flows
        alone, explain.
        """
        silent = [silence.way for silence in self.silences.values()]
        exact = [
            part
            for part in self._parts
            if self._size(part) == len(silent)
            and all(map(part.is_on, silent))
            and not any(map(part.is_on, [*self.alive, *self.met]))
        ]
        plain = [part for part in exact if part.part is not Part.NODE]
        return plain or exact

    @property
    def is_scattered(self) -> bool:
        """True if each dead flow has a living one beside it: from its ingress to its pod's node, and at its pod."""
        living = [*self.alive, *self.met]
        cells, pods = {(way.ingress, way.node) for way in living}, {way.pod for way in living}
        ways = [silence.way for silence in self.silences.values()]
        return all((way.ingress, way.node) in cells and way.pod in pods for way in ways)

    # --- how it ended ----------------------------------------------------------------------------------------------------

    @property
    def resumed(self) -> bool:
        """True if a session went on at the same pod and address: no entry was dead."""
        return any(silence.resumed for silence in self.silences.values())

    @cached_property
    def reached_node(self) -> set[str]:
        """The silent sessions that heard an ICMP error in the Service's own name: their packets have come to a node's rules.

        ICMP errors go back through the flow's NAT entry, which makes the Service's address their source (RFC 5508, section
        4.2). One from a router before a dead node has the router's.
        """
        started = self.view.history.started
        return {
            event.session
            for event in self.view.history.network_errors
            if event.session in self.silences
            and started is not None
            and event.offender == started.target.ip
            and self.view.during(event.at_ns)
            and icmp_meaning(event) is IcmpMeaning.HOST_UNREACHABLE
        }

    @property
    def direction(self) -> tuple[int, int] | None:
        """Return how many probes were lost towards the pod, and how many replies; None: no count tells."""
        gaps = [
            gap
            for gap in self.view.history.loss_directions
            if gap.session in self.silences and self.view.during(gap.at_ns)
        ]
        return (sum(gap.up for gap in gaps), sum(gap.down for gap in gaps)) if gaps else None


def way_of(view: IncidentView, who: Identity) -> Way:
    """Return the way of a flow, from what its reply says; nodes by name where that is known."""
    place = view.ingress(who)
    return Way(view.node_names.get(place, place) if place is not None else None, who.pod, who.node)


def _is_long(span: UnansweredSpan) -> bool:
    """True if a session was silent for long, and not because its container restarted."""
    if span.to_ns - span.from_ns < SILENCE_NS or span.ended is None:
        return False
    return span.change is None or not restarted(span)


def restarted(span: UnansweredSpan) -> bool:
    """True if the silence ended at another instance of the same pod."""
    kinds = () if span.change is None else span.change.kinds
    return Kind.INSTANCE in kinds and Kind.POD not in kinds


def sessions_on(suspect: Suspect, silences: Iterable[Silence]) -> Iterator[str]:
    """Return the names of the silent sessions whose way leads over a part."""
    return (silence.span.session for silence in silences if suspect.is_on(silence.way))
