"""Trouble to begin: sessions lose their first probes and nothing after their first answer.

Two faults look so. A race of conntrack's inserts hits the packets that come before the first one's entry is confirmed: one,
or as many as fit into a round trip; any flow, through whichever node. A full table refuses every new entry until one is
free: one node's flows, of any pod, for as long as that takes. So which ingress node the flows came in through, which pods
they met, and how many probes each lost tell the two apart, and from a pod that is slow to begin.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from affinity_tester.core.diagnosis.chance import chance_in_one_group
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.diagnosis.session_history import SessionHistory
from affinity_tester.core.diagnosis.text import diagnosis, listed, was
from affinity_tester.core.events import Diagnosis
from affinity_tester.core.exact import chance_of_at_least
from affinity_tester.units import plural, quoted

_MAX_CHANCE = 0.01
"""An accident less probable than this is not believed."""

_MAX_NOISE = 0.001
"""Loss at random is taken for trouble to begin in at most so many runs."""

_RACE_PROBES = 3
"""A race loses at most so many probes of a flow: those of the first round trip."""

_ASK_NODE = "the node's own word: conntrack -S (insert_failed, drop), and `table full` in its kernel log"


@dataclass(frozen=True, slots=True)
class _Starts:
    """Sessions that lost their first probes, beside those that did not."""

    begun: int
    hit: tuple[SessionHistory, ...]
    later: int
    """Probes that all sessions lost after their first answer."""
    probes: int
    """Probes that they sent after it."""
    by_ingress: Counter[str]
    """Sessions by the node that they came in through."""
    hit_by_ingress: Counter[str]
    """Of those the ones that lost their first probes."""
    by_pod: Counter[str]
    hit_by_pod: Counter[str]
    are_first: bool
    """True if they are the first ones of all: what was lost at the start of the run may be lost for the time's sake."""

    @property
    def longest(self) -> int:
        """The most probes that one session lost before its first answer."""
        return max(session.start_lost for session in self.hit)

    @property
    def one_ingress(self) -> str | None:
        """The node that all those hit came in through, empty where no reply told; None where they came through several."""
        return next(iter(self.hit_by_ingress)) if len(self.hit_by_ingress) == 1 else None

    @property
    def by_node(self) -> bool:
        """True if that all were hit behind one ingress node is no chance."""
        chance = chance_in_one_group(self.by_ingress.values(), len(self.hit))
        return len(self.hit_by_ingress) == 1 and chance <= _MAX_CHANCE

    @property
    def by_one_pod(self) -> bool:
        """True if all were hit at one pod, and that is no chance or all of its sessions were."""
        if len(self.hit_by_pod) > 1 or len(self.by_pod) == 1:
            return False
        (pod,) = self.hit_by_pod
        whole = self.hit_by_pod[pod] == self.by_pod[pod]
        return whole or chance_in_one_group(self.by_pod.values(), len(self.hit)) <= _MAX_CHANCE

    @property
    def one_each(self) -> bool:
        """True if each lost a single probe, and attempts that are refused at random would have lost some session more.

        A refused attempt is refused again with the same chance, the share of flows that were hit.
        """
        of = sum(self.by_ingress[node] for node in self.hit_by_ingress)
        return self.longest == 1 and (1 - len(self.hit) / of) ** len(self.hit) <= _MAX_CHANCE

    @property
    def together(self) -> bool:
        """True if all sessions through the nodes of those hit were answered from the same moment on."""
        of = sum(self.by_ingress[node] for node in self.hit_by_ingress)
        return len(self.hit) == of and self.longest - min(session.start_lost for session in self.hit) <= 1

    def evidence(self) -> list[str]:
        """Say who lost how many, and what was lost later."""
        first = "their first probe" if self.longest == 1 else f"their first {self.longest} probes at most"
        at_start = sum(session.start_lost for session in self.hit)
        return [
            f"{len(self.hit)} of {plural(self.begun, 'session')} lost {first}, {plural(at_start, 'probe')} in all, "
            "and were answered then",
            f"{self.later:,} of the {plural(self.probes, 'probe')} after {was(self.later)} lost",
        ]


def first_packet_race(history: RunHistory) -> Diagnosis | None:
    """Diagnose `first-packet-race`: only the first packets of new sessions are lost, whichever node they come in through."""
    starts = _starts(history)
    if starts is None or starts.longest > _RACE_PROBES or (starts.by_node and not starts.one_each):
        return None  # a race has no favourite node, and no entry takes it so long

    evidence = starts.evidence()
    if starts.by_node or (starts.one_ingress is not None and not starts.one_each):
        evidence.append(f"all of them came in through {starts.one_ingress or 'nodes that no reply told'}")
        return diagnosis("first-packet-race", evidence, f"whether that node's table is full: {_ASK_NODE}")
    if starts.by_one_pod:
        pod = quoted(next(iter(starts.hit_by_pod)))
        return diagnosis(
            "first-packet-race", evidence, f"whether pod {pod} is slow to begin: they were all served by it"
        )
    if len(starts.hit) == starts.begun or starts.are_first:
        return diagnosis("first-packet-race", evidence, "a session begun then whose first probe was answered")
    return diagnosis("first-packet-race", evidence)


def table_full(history: RunHistory) -> Diagnosis | None:
    """Diagnose `table-full`: flows through one ingress node lose probes until their first answer, and none after it."""
    starts = _starts(history)
    if starts is None or not starts.one_ingress or (starts.one_each and not starts.by_node):
        return None

    node = (history.node_names or {}).get(starts.one_ingress)
    place = f"{starts.one_ingress} (node {quoted(node)})" if node else starts.one_ingress
    others = starts.begun - starts.by_ingress[starts.one_ingress]
    evidence = starts.evidence()
    evidence.append(
        f"all of them came in through {place}: {len(starts.hit)} of its "
        f"{plural(starts.by_ingress[starts.one_ingress], 'session')}, and 0 of {others:,} through others"
    )
    if len(starts.hit_by_pod) > 1:
        evidence.append(f"they were served by {plural(len(starts.hit_by_pod), 'pod')}")
    silent = [name for name, session in history.sessions.items() if session.first is None]
    if silent:
        evidence.append(f"{plural(len(silent), 'session')} {was(len(silent))} never answered: {listed(silent)}")

    if not starts.by_node:
        return diagnosis("table-full", evidence, f"as many sessions through other nodes, or {_ASK_NODE}")
    if starts.together or starts.one_each:
        return diagnosis("table-full", evidence, f"whether the node was out of reach until then: {_ASK_NODE}")
    if len(starts.hit_by_pod) < 2:  # noqa: PLR2004 - a node's table does not know of pods
        return diagnosis("table-full", evidence, f"whether it is the node or the pod that all met: {_ASK_NODE}")
    return diagnosis("table-full", evidence)


def slow_start(view: IncidentView) -> Diagnosis | None:
    """Diagnose an incident in which sessions were only not answered at first: as what the run shows so far."""
    spans = view.unanswered_spans
    if view.moves or not spans or any(span.first_seq or not span.ended for span in spans):
        return None
    return table_full(view.history)


def _starts(history: RunHistory) -> _Starts | None:
    """Return who had trouble to begin; None where it is too few, or no more than what is lost later on lets expect."""
    begun = {name: session for name, session in history.sessions.items() if session.first is not None}
    hit = {name: session for name, session in begun.items() if session.start_lost}
    if len(hit) < 2:  # noqa: PLR2004 - one lost packet is no pattern
        return None

    at_start = sum(session.start_lost for session in hit.values())
    losses = history.losses.sessions
    later = sum(losses[name].lost for name in begun if name in losses) - at_start
    # Statistics come every some seconds, and an incident may be over before the first.
    sent = history.total.sent or history.losses.slots * len(history.sessions)
    probes = sent * len(begun) // len(history.sessions) - at_start
    rate = (later + 1) / (probes + 1)  # one more than seen: no loss so far does not mean none ever
    # Those hit may lose more than the others all the time.
    mine = sum(losses[name].lost for name in hit) - at_start
    rate = max(rate, (mine + 1) / (probes * len(hit) / len(begun) + 1))
    if chance_of_at_least(len(begun), len(hit), min(1.0, rate)) > _MAX_NOISE:
        return None

    ingress = {name: _ingress(session) for name, session in begun.items()}
    pods = {name: (session.first.pod if session.first else None) or "" for name, session in begun.items()}
    return _Starts(
        len(begun),
        tuple(hit.values()),
        later,
        probes,
        Counter(ingress.values()),
        Counter(ingress[name] for name in hit),
        Counter(pods.values()),
        Counter(pods[name] for name in hit),
        list(history.sessions)[: len(hit)] == list(hit),
    )


def _ingress(session: SessionHistory) -> str:
    """Return where a session came in: its reflexive IP, or its pod's node where the pod sees the client's own IP."""
    who = session.first
    if who is None or who.reflexive is None:
        return ""
    own = session.local is not None and session.local.ip == who.reflexive.ip
    return who.node or "" if own else who.reflexive.ip
