"""Pods that answer nobody: silent in the pool, or terminating with a closed socket."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.diagnosis.dead_flows import DeadFlows, Part
from affinity_tester.core.diagnosis.dead_rules import PROXY_UPDATE_NS, dead, left_pool
from affinity_tester.core.diagnosis.dead_text import node_condition
from affinity_tester.core.diagnosis.incident_view import IncidentView, UnansweredSpan
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, listed, pods, was
from affinity_tester.core.events import Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.units import format_seconds, plural, quoted

_NAMED = 3
"""Pods and nodes that are named in a command."""


def terminating_backend(view: IncidentView) -> Diagnosis | None:
    """Diagnose `terminating-backend`: traffic went to a pod that was terminating and had closed its socket."""
    lost = _terminating(view, view.unanswered_spans)
    if lost:
        gone_on = left_pool(DeadFlows(view))
        names = {s.old.pod for s in lost if s.old is not None and s.old.pod is not None}
        moved = sum(s.change is not None for s in lost)
        evidence = [
            f"{view.share(s.session for s in lost)} lost {plural(sum(s.lost for s in lost), 'probe')} in "
            f"{format_seconds(max(s.to_ns - s.from_ns for s in lost))} to {pods(names)}, which {was(len(names))} terminating",
            f"{moved} of them {was(moved)} answered by another pod after",
            *view.icmp_text(s.session for s in lost),
        ]
        return None if gone_on else diagnosis("terminating-backend", evidence)

    # Without the pool's word: all moved on from one pod, which serves nobody since.
    if view.history.watched:
        return None

    left = [
        s for s in view.unanswered_spans if s.change is not None and Kind.POD in s.change.kinds and s.old is not None
    ]
    names = {s.old.pod for s in left if s.old is not None and s.old.pod is not None}
    now = view.history.identities_at(view.to_ns)
    if len(names) != 1 or any(who.pod in names for who in now.values()):
        return None

    evidence = [
        f"{view.share(s.session for s in left)}, all of them served by {pods(names)}, lost "
        f"{plural(sum(s.lost for s in left), 'probe')} and went on at other pods; it serves no session since",
        *view.icmp_text(s.session for s in left),
    ]
    return diagnosis("terminating-backend", evidence, f"whether that pod was terminating: {NO_CLUSTER}")


def pod_silent(view: IncidentView, whole: IncidentView) -> list[Diagnosis]:
    """Diagnose `pod-silent`: a pod in the pool answers nobody. The judge found that; this adds evidence.

    Without the pool's word, what the canaries met decides: a pod that new flows avoid is in no pool. With it, an ingress node
    that they avoid takes its own pods with it under policy Local. `whole` has all members of the incident.
    """
    if (not view.history.watched or _is_avoided_ingress(whole)) and (found := dead(view, whole)):
        return found

    names = {s.old.pod for s in view.unanswered_spans if s.old is not None and s.old.pod is not None}
    shortest_ns = min(span.to_ns - span.from_ns for span in view.unanswered_spans)
    met = {c.identity.pod for c in view.canaries if c.identity is not None and c.identity.pod is not None}
    evidence = [
        f"{view.share(s.session for s in view.unanswered_spans)}, all served by {pods(names)} before, are silent for "
        f"{format_seconds(shortest_ns)} and more; nobody else is answered by {pods(names)} since",
        *_condition_text(view, names),
        *view.canary_text(view.canaries),
        *([f"none of them met {pods(names)}"] if met and met.isdisjoint(names) else []),
        *view.icmp_text(s.session for s in view.unanswered_spans),
    ]
    return [diagnosis("pod-silent", evidence)]


# --- how ---------------------------------------------------------------------------------------------------------------


def _is_avoided_ingress(view: IncidentView) -> bool:
    """True if the silent sessions are, under policy Local, all those through one node, and new flows live and avoid it.

    A balancer that checks its nodes does that where the node is dead; proxies spare no pod that is ready and hung.
    """
    flows = DeadFlows(view)
    if not view.source_ip_preserved or not flows.silences or not flows.fresh_live:
        return False
    return any(suspect.part is Part.INGRESS for suspect in flows.suspects)


def _terminating(view: IncidentView, spans: Iterable[UnansweredSpan]) -> list[UnansweredSpan]:
    """Return the spans in which the pod was terminating, if longer than proxies need to take it out."""
    found = []
    for span in spans:
        pod = span.old.pod if span.old is not None else None
        if pod is not None and span.to_ns - span.from_ns >= PROXY_UPDATE_NS:
            endpoints = view.history.endpoints(pod, span.from_ns, span.to_ns)
            if any(endpoint is not None and endpoint.terminating for endpoint in endpoints):
                # Without a ready endpoint nobody answers, whoever terminates.
                found += [] if view.history.was_empty(span.from_ns, span.to_ns) else [span]
    return found


def _condition_text(view: IncidentView, names: set[str]) -> list[str]:
    """Say what is known of the nodes of silent pods, and where to look."""
    pool = view.history.pool
    nodes = {each.node for each in (pool.endpoints if pool is not None else ()) if each.pod in names}
    nodes |= {s.old.node for s in view.unanswered_spans if s.old is not None and s.old.pod in names and s.old.node}
    look = f"look into: {'; '.join(f'kubectl logs {name}' for name in sorted(names)[:_NAMED])}"
    if nodes:
        look += f"; kubectl describe node {' '.join(sorted(nodes)[:_NAMED])}"

    down = node_condition(view, nodes)
    if down:
        return [f"its node: {down[0]}", look]
    if not view.history.watched or not nodes:
        return [look]
    return [f"no node of theirs ({listed(quoted(node) for node in nodes)}) is known to be not Ready", look]
