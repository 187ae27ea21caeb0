"""Sessions that were answered and fell silent while others are answered: what is dead, and so who mends it.

What must be true of each name, and what excludes every other one (`dead_flows` has the words):

    stale-flow     entries are dead: fresh flows live (no canary died, and so many miss a dead share by chance in less than
                   5 %), and a canary or session is answered over each part that the silent ones share; or their pod left the
                   pool, and new flows avoid it
    dead-target    an ingress node is dead: it is the silent sessions' one part. Fresh flows die there as well, or none of
                   enough canaries came in through it: the balancer avoids it for new flows
    node-path      the way between two nodes is dead: the silent sessions are one cell, both nodes are answered otherwise, and
                   fresh flows die as well
    pod-silent     a pod, or all pods of a node, are dead, and fresh flows die as well: it is still in the pool
    lossy-path     one bucket of a hash over source ports is dead: fresh flows die at the share of the sessions, and each dead
                   flow has a living one beside it, on the same way and at the same pod

What too few canaries, or too few sessions, do not tell apart is `possible`, with all that is left.
"""

from __future__ import annotations

from collections.abc import Iterator

from affinity_tester.core.diagnosis import dead_text as text
from affinity_tester.core.diagnosis.dead_flows import DeadFlows, Part, Suspect
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import diagnosis, pods
from affinity_tester.core.events import Diagnosis
from affinity_tester.core.session.outages import OUTAGE_NS
from affinity_tester.units import NS_PER_S

PROXY_UPDATE_NS = 2 * NS_PER_S
"""Proxies take a pod out within this time (1.2 s was measured); a silence that is longer is a fault."""

MORE_CANARIES = "more test probes: whether fresh flows die as well"


def dead(view: IncidentView, whole: IncidentView) -> list[Diagnosis]:
    """Diagnose what is dead where sessions of `view` fell silent; `whole` has all members of the incident."""
    flows = DeadFlows(whole)
    mine = {span.session for span in view.unanswered_spans} & flows.silences.keys()
    if not mine:
        return []
    everybody = whole.nearly_all(len(flows.silences)) and not flows.answered_meanwhile
    if everybody or _is_one_target(flows) or _is_a_gap(flows):
        return []

    flows_gone = left_pool(flows)
    if flows_gone and flows_gone.issuperset(silence.way.pod for silence in flows.silences.values()):
        return [_stale(flows, [_gone_text(flows_gone)], _tried(flows))]
    if _is_terminating(flows):
        return []

    ruleless = text.no_rules(whole, flows.silences)
    if ruleless:
        return [diagnosis("dead-ingress", [*text.silent(flows), *ruleless, *text.direction(flows)])]
    if flows.fresh_hardly_live:
        return []
    return list(_by_part(flows) if flows.suspects else _scattered(flows))


def stale_after_removal(view: IncidentView) -> Diagnosis | None:
    """Diagnose `stale-flow` although a change of the pool explains the silence: flows of a pod that left are not moved."""
    flows = DeadFlows(view)
    gone = left_pool(flows)
    return _stale(flows, [_gone_text(gone)], _tried(flows)) if gone else None


def left_pool(flows: DeadFlows) -> set[str]:
    """Return the pods that had left the pool while their sessions stayed silent for longer than proxies need."""
    found = set()
    for silence in flows.silences.values():
        pod, span = silence.way.pod, silence.span
        if pod is not None and span.to_ns - span.from_ns >= PROXY_UPDATE_NS:
            endpoints = flows.view.history.endpoints(pod, span.from_ns, span.to_ns - PROXY_UPDATE_NS)
            if endpoints and endpoints[-1] is None:
                found.add(pod)
    return found


# --- one part -------------------------------------------------------------------------------------------------------------


def _by_part(flows: DeadFlows) -> Iterator[Diagnosis]:
    """Diagnose what the silent sessions have in common."""
    down = [suspect for suspect in flows.suspects if text.node_down(flows, suspect)]
    parts = down or list(_icmp_suspects(flows))
    kinds = {_KINDS[suspect.part] for suspect in parts}
    if down:
        yield from _of_suspect(flows, down[0], "")
        return

    if flows.fresh_live:
        yield from _avoided(flows, parts)
        return
    is_no_chance = any(map(flows.is_no_chance, parts))
    if len(kinds) == 1 and is_no_chance and flows.fresh_die:
        yield from _of_suspect(flows, parts[0], "")
        return

    # Too little to tell: all that is left.
    missing = text.missing(flows)
    for suspect in parts:
        yield from _of_suspect(flows, suspect, missing)
    if not flows.resumed and flows.unanswered <= 1:
        yield _stale(flows, [], missing)
    if not is_no_chance:
        yield from _bucket(flows, missing)


def _avoided(flows: DeadFlows, parts: list[Suspect]) -> Iterator[Diagnosis]:
    """Diagnose a part that none of the canaries met, though one in so many would have, and killed it: new flows avoid it.

    A balancer avoids a dead node for new flows. A pod that the proxies avoid is out of the pool, and the old flows that still
    go to it have stale entries. Nobody avoids the way between two nodes.
    """
    nodes = [part for part in parts if part.part in {Part.INGRESS, Part.NODE}]
    cells = [part for part in parts if part.part is Part.CELL]
    sure = "" if len(nodes) == len(parts) or not nodes + cells else text.missing(flows)
    for part in [*nodes, *([] if nodes else cells)][:1]:
        yield from _of_suspect(flows, part, sure)
    if len(nodes) < len(parts) and not flows.resumed:
        names = pods({silence.way.pod for silence in flows.silences.values() if silence.way.pod is not None})
        avoided = [f"new flows avoid {names}: none of them died, and none met it"] if not nodes + cells else []
        yield _stale(flows, avoided, sure)


_KINDS = {
    Part.POD: "pod-silent",
    Part.PODS_OF_NODE: "pod-silent",
    Part.INGRESS: "dead-target",
    Part.NODE: "dead-target",
    Part.CELL: "node-path",
}
"""What stands for a dead part."""


def _icmp_suspects(flows: DeadFlows) -> Iterator[Suspect]:
    """Yield those that ICMP errors do not exclude: a flow whose node answered with one has an ingress node that lives."""
    alive = {flows.silences[name].way.ingress for name in flows.reached_node}
    return (
        suspect
        for suspect in flows.suspects
        if suspect.part not in {Part.INGRESS, Part.NODE} or alive.isdisjoint({suspect.ingress, *suspect.also})
    )


def _of_suspect(flows: DeadFlows, suspect: Suspect, missing: str) -> Iterator[Diagnosis]:
    """Diagnose one part as dead."""
    common = [*text.silent(flows), *text.part(flows, suspect), *text.fresh(flows), *text.direction(flows)]
    match suspect.part:
        case Part.POD | Part.PODS_OF_NODE:
            yield diagnosis("pod-silent", common, missing)
        case Part.CELL:
            yield diagnosis("node-path", common, missing)
        case Part.INGRESS:
            yield diagnosis("dead-target", common, missing)
        case _:  # Part.NODE
            yield diagnosis("dead-target", common, missing)
            yield diagnosis("pod-silent", common, missing)


# --- no part --------------------------------------------------------------------------------------------------------------


def _scattered(flows: DeadFlows) -> Iterator[Diagnosis]:
    """Diagnose silent sessions that have no part in common, or whose part answers others: entries, or a hash bucket."""
    shared = text.shared(flows)
    replies_lost = flows.direction is not None and flows.direction[1] > flows.direction[0]
    if flows.fresh_live:
        if flows.resumed:
            return  # an entry that is dead does not come back, and a bucket would have met a canary
        if not replies_lost:  # probes that reach the pod have a living entry: snat-collision has that case
            yield _stale(flows, shared, "")
        return

    if flows.fresh_die and flows.is_scattered and is_repeatedly_dead(flows):
        yield from _bucket(flows, "")
        return

    missing = text.missing(flows)
    if not flows.resumed and not replies_lost and flows.unanswered <= 1:
        yield _stale(flows, shared, missing)
    yield from _bucket(flows, missing)


def is_repeatedly_dead(flows: DeadFlows) -> bool:
    """True unless a canary was answered from the port from which it had not been before a pause: no bucket does that."""
    return all(canary.identity is None for canary in flows.repeated)


def _bucket(flows: DeadFlows, missing: str) -> Iterator[Diagnosis]:
    """Diagnose `lossy-path`: the source port decides, on a bundle or a path of equal cost that loses all."""
    if not is_repeatedly_dead(flows) or (flows.resumed and not flows.unanswered):
        return  # a gap that ends, while new flows live, is no bucket's
    if flows.reached_node == flows.silences.keys():
        return  # each has come as far as its ingress node
    evidence = [*text.silent(flows), *text.shared(flows), *text.fresh(flows), *text.direction(flows)]
    if flows.is_scattered:
        evidence.append("each has an answered flow beside it, on the same way and at the same pod: the port decides")
    yield diagnosis("lossy-path", evidence, missing)


def _stale(flows: DeadFlows, also: list[str], missing: str) -> Diagnosis:
    """Diagnose `stale-flow`: entries of a flow table are dead, and fresh flows live."""
    return diagnosis("stale-flow", [*text.silent(flows), *also, *text.fresh(flows), *text.direction(flows)], missing)


def _tried(flows: DeadFlows) -> str:
    """Return what is missing to show that new flows live where the pod left the pool."""
    if not flows.canaries:
        return "a test probe: was a new flow answered meanwhile?"
    return "why test probes died too: whether new flows live" if flows.unanswered else ""


# --- what it is not -------------------------------------------------------------------------------------------------------


def _is_one_target(flows: DeadFlows) -> bool:
    """True if the silent sessions are all those of one address of the target, where it has several: that address is dark."""
    sessions = flows.view.history.sessions
    silent = {sessions[name].target for name in flows.silences}
    others = {session.target for name, session in sessions.items() if name not in flows.silences}
    return None not in silent and bool(others) and silent.isdisjoint(others)


def _is_a_gap(flows: DeadFlows) -> bool:
    """True if flows went on as before after a short silence, while no new flow died: too little to tell it from loss."""
    longest_ns = max(silence.span.to_ns - silence.span.from_ns for silence in flows.silences.values())
    return flows.resumed and not flows.unanswered and longest_ns < OUTAGE_NS


def _is_terminating(flows: DeadFlows) -> bool:
    """True if a silent pod was terminating meanwhile: `terminating-backend` has that case."""
    for silence in flows.silences.values():
        if silence.way.pod is not None:
            endpoints = flows.view.history.endpoints(silence.way.pod, silence.span.from_ns, silence.span.to_ns)
            if any(endpoint is not None and endpoint.terminating for endpoint in endpoints):
                return True
    return False


def _gone_text(gone: set[str]) -> str:
    return f"{pods(gone)} had left the pool, and the silence went on"
