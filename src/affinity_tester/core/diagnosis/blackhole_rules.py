"""Faults that leave sessions unanswered: some, or all, get no reply for a while."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis.cluster_text import happened_to
from affinity_tester.core.diagnosis.incident_view import IncidentView, UnansweredSpan
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed, pods, was
from affinity_tester.core.events import ClusterAction, ClusterSubject, Diagnosis
from affinity_tester.core.identity import Kind
from affinity_tester.core.session.canaries import SILENCE_NS
from affinity_tester.units import NS_PER_S, format_seconds, plural

_PROXY_UPDATE_NS = 2 * NS_PER_S
"""Proxies take a pod out within this time (1.2 s was measured); a silence that is longer is a fault."""

_NODE_DOWN_NS = 300 * NS_PER_S
"""A node that went away so long before may still be the balancer's target (deregistration delays)."""

_BOTH_POSSIBLE = "whether the pod is gone or the node is down: run with cluster access"


@dataclass(frozen=True, slots=True)
class Blackholed:
    """Sessions that were unanswered for long, and then not answered as before, while others were answered."""

    spans: tuple[UnansweredSpan, ...]
    pods: frozenset[str]
    """The pods that had served them."""
    nodes: frozenset[str]
    """The nodes that they had come in through."""
    pod_answers: bool
    """Another session, or a fresh source port, is answered by one of these pods."""
    node_answers: bool
    """Another session, or a fresh source port, is answered through one of these nodes."""
    canary_answered: bool | None
    """Whether a fresh source port was answered meanwhile; None: none was tried."""
    all_silent: bool
    """No other session is answered: what is known of pods and nodes comes from fresh source ports."""


def blackholed(view: IncidentView) -> Blackholed | None:
    """Return the blackholed sessions; None without one."""
    spans = tuple(
        span
        for span in view.unanswered_spans
        if span.old is not None
        and span.to_ns - span.from_ns >= SILENCE_NS
        and (span.ended is False or span.change is not None)
    )
    tried = [canary.identity for canary in view.canaries]
    met = [who for who in tried if who is not None]
    if not spans or (view.nearly_all(len(spans)) and not _canary_answered_meanwhile(view, spans)):
        return None

    # Who still answers, and whom: other sessions and canaries.
    silent = {span.session for span in view.unanswered_spans} | view.history.unanswered_for(
        view.from_ns, view.to_ns, SILENCE_NS
    )
    served_by = [span.old for span in spans if span.old is not None]
    others = [who for session, who in view.identities.items() if session not in silent]
    alive = [*others, *met]

    gone_pods = frozenset(who.pod for who in served_by if who.pod is not None)
    gone_nodes = frozenset(node for who in served_by if (node := view.ingress(who)) is not None)
    return Blackholed(
        spans,
        gone_pods,
        gone_nodes,
        pod_answers=any(who.pod in gone_pods for who in alive),
        node_answers=any(view.ingress(who) in gone_nodes for who in alive),
        canary_answered=bool(met) if tried else None,
        all_silent=not others,
    )


def _canary_answered_meanwhile(view: IncidentView, spans: Iterable[UnansweredSpan]) -> bool:
    """True if a canary was answered while all of these sessions were silent, and not just as they came back."""
    first_ns = min(span.to_ns for span in spans)
    return any(canary.identity is not None and canary.sent_ns <= first_ns - SILENCE_NS for canary in view.canaries)


def stale_flow(view: IncidentView, blocked: Blackholed | None) -> Diagnosis | None:
    """Diagnose `stale-flow`: a flow's entry leads nowhere, while new flows are answered."""
    if blocked is None:
        return _never_dnatted(view)
    if blocked.canary_answered is False or _node_down(view, blocked):
        return None

    removed = _removed(view, blocked)
    if _terminating(view, blocked.spans) and not removed:
        return None

    evidence = _blackhole_evidence(view, blocked)
    if removed:
        evidence.append(f"{pods(removed)} had left the pool, and the silence went on")
    elif blocked.node_answers:
        others = "new flows" if blocked.all_silent else "other sessions"
        evidence.append(f"{others} through {_places_text(view, blocked)} were answered all the time")
    elif blocked.pod_answers:
        return None

    if not removed and all(span.ended for span in blocked.spans):
        return diagnosis("stale-flow", evidence, f"whether the pod was gone already: {NO_CLUSTER}")
    if blocked.canary_answered is None:
        return diagnosis("stale-flow", evidence, "a test probe: was a new flow answered meanwhile?")
    if view.history.watched and blocked.pods and not removed and not blocked.pod_answers:
        return diagnosis("stale-flow", evidence, f"whether {pods(blocked.pods)} answers anybody: it is in the pool")
    if _node_sent_icmp(view, blocked):
        evidence.append(
            "the ICMP error bears the Service's own address: the flows' node lives, and its entries lead nowhere"
        )
    elif not removed and not blocked.node_answers:
        return diagnosis("stale-flow", evidence, _BOTH_POSSIBLE)
    return diagnosis("stale-flow", evidence)


def dead_target(view: IncidentView, blocked: Blackholed | None) -> Diagnosis | None:
    """Diagnose `dead-target`: the balancer keeps sending flows to a dead node."""
    if blocked is None or blocked.canary_answered is False or blocked.node_answers or not blocked.nodes:
        return None

    down = _node_down(view, blocked)
    if not down and (_removed(view, blocked) or _node_sent_icmp(view, blocked)):
        return None

    evidence = _blackhole_evidence(view, blocked)
    evidence.append(f"no session through {_places_text(view, blocked)} was answered")
    if blocked.pod_answers:
        others = "new flows" if blocked.all_silent else "sessions"
        evidence.append(f"{pods(blocked.pods)} went on answering {others} through other nodes")
    evidence += down

    if blocked.canary_answered is None:
        return diagnosis("dead-target", evidence, "a test probe: was a new flow answered meanwhile?")
    if not down and not blocked.pod_answers:
        return diagnosis("dead-target", evidence, _BOTH_POSSIBLE)
    return diagnosis("dead-target", evidence)


def terminating_backend(view: IncidentView, blocked: Blackholed | None) -> Diagnosis | None:
    """Diagnose `terminating-backend`: traffic went to a pod that was terminating and had closed its socket."""
    lost = _terminating(view, view.unanswered_spans)
    if lost:
        gone_on = blocked is not None and _removed(view, blocked)
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


def pod_silent(view: IncidentView) -> Diagnosis:
    """Diagnose `pod-silent`: a pod in the pool answers nobody. The judge found that; this adds evidence."""
    names = {s.old.pod for s in view.unanswered_spans if s.old is not None and s.old.pod is not None}
    shortest_ns = min(span.to_ns - span.from_ns for span in view.unanswered_spans)
    history = view.history
    nodes = {endpoint.node for endpoint in (history.pool.endpoints if history.pool else ()) if endpoint.pod in names}
    down = {
        event.name: event.action
        for event in history.cluster
        if event.subject is ClusterSubject.NODE
        and event.name in nodes
        and event.action in {ClusterAction.READY, ClusterAction.NOT_READY}
    }
    met = {c.identity.pod for c in view.canaries if c.identity is not None and c.identity.pod is not None}

    evidence = [
        f"{view.share(s.session for s in view.unanswered_spans)}, all served by {pods(names)} before, are silent for "
        f"{format_seconds(shortest_ns)} and more; nobody else is answered by {pods(names)} since",
        *(
            f'its node "{name}" became not Ready'
            for name, action in sorted(down.items())
            if action is ClusterAction.NOT_READY
        ),
        *view.canary_text(view.canaries),
        *([f"none of them met {pods(names)}"] if met and met.isdisjoint(names) else []),
        *view.icmp_text(s.session for s in view.unanswered_spans),
    ]
    return diagnosis("pod-silent", evidence)


def local_policy(view: IncidentView) -> Diagnosis | None:
    """Diagnose `local-policy`: some sessions are dead from sequence 0, the others fine: nodes without a pod drop packets."""
    dead = _dead_from_start(view)
    policy = view.history.spec("externalTrafficPolicy", view.from_ns)
    if not dead or policy == "Cluster" or _only_target(view, dead) is not None:
        return None

    others = _answered_sessions(view)
    evidence = [
        _dead_text(view, dead),
        f"{plural(len(others), 'other session')} {'is' if len(others) == 1 else 'are'} answered",
        *view.canary_text(view.canaries),
        *_empty_nodes_text(view),
    ]
    if view.history.started is not None and view.history.started.connected:
        missing = "replies from another address, which a connected socket does not hear: run without --connected"
        return diagnosis("local-policy", evidence, missing)
    if policy == "Local":
        return diagnosis("local-policy", [*evidence, "the Service's externalTrafficPolicy is Local"])
    if view.source_ip_preserved:
        return diagnosis("local-policy", [*evidence, "pods see the client's own address, as under policy Local"])
    return diagnosis("local-policy", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")


def dead_address(view: IncidentView) -> list[str]:
    """Say that one address of the target answers nobody; empty where that is not so."""
    dead = _dead_from_start(view)
    target = _only_target(view, dead) if dead else None
    if target is None:
        return []
    of = len({session.target for session in view.history.sessions.values()})
    return [f"they are all the sessions to {target}, one of {of} addresses of the target, and none of the others"]


def lb_churn(view: IncidentView) -> Diagnosis | None:
    """Diagnose `lb-churn`: all sessions lose probes together, and have the same pod and address after."""
    lost = [span for span in view.unanswered_spans if span.old is not None]
    same = [span for span in lost if span.ended and span.change is None]
    together = bool(lost) and max(s.from_ns for s in lost) <= min(s.to_ns for s in lost)
    if not view.nearly_all(len(same)) or not together or view.moves:
        return None

    evidence = [
        f"{view.share(s.session for s in same)} lost {plural(min(s.lost for s in same), 'probe')} or more at the same time "
        f"and were answered by the same pod at the same address after",
    ]
    near = view.cluster_events_near(ClusterSubject.SERVICE)
    if not near:
        unseen = "none was seen" if view.history.watched else NO_CLUSTER
        return diagnosis("lb-churn", evidence, f"a change of the Service or its balancer at that time: {unseen}")
    return diagnosis("lb-churn", [*evidence, *near])


# --- how ---------------------------------------------------------------------------------------------------------------


def _blackhole_evidence(view: IncidentView, blocked: Blackholed) -> list[str]:
    spans = blocked.spans
    shortest_ns = min(span.to_ns - span.from_ns for span in spans)
    went_on = [span for span in spans if not span.ended]
    end = f"{plural(len(went_on), 'session')} still silent" if went_on else "each ended with a change"
    served = f"; all had been served by {pods(blocked.pods)}" if blocked.pods else ""
    return [
        f"{view.share(s.session for s in spans)} lost every probe for {format_seconds(shortest_ns)} and more, {end}{served}",
        f"{view.cohort_text(s.session for s in spans)}",
        *view.canary_text(view.canaries),
        *view.icmp_text(s.session for s in spans),
    ]


def _places_text(view: IncidentView, blocked: Blackholed) -> str:
    return listed(view.place(node) for node in blocked.nodes)


def _removed(view: IncidentView, blocked: Blackholed) -> set[str]:
    """Return the pods that had left the pool while their sessions stayed silent for longer than proxies need."""
    found = set()
    for span in blocked.spans:
        pod = span.old.pod if span.old is not None else None
        if pod is not None and span.to_ns - span.from_ns >= _PROXY_UPDATE_NS:
            endpoints = view.history.endpoints(pod, span.from_ns, span.to_ns - _PROXY_UPDATE_NS)
            if endpoints and endpoints[-1] is None:
                found.add(pod)
    return found


def _node_sent_icmp(view: IncidentView, blocked: Blackholed) -> bool:
    """True if a node reported each silent pod as an unreachable host, by ICMP from the Service's address.

    ICMP errors go back through the flow's NAT entry, which makes the Service's address their source (RFC 5508, section
    4.2). One from a router before a dead node has the router's.
    """
    started = view.history.started
    silent = {span.session: span.old.pod for span in blocked.spans if span.old is not None}
    heard = {
        silent[event.session]
        for event in view.history.network_errors
        if event.error == "EHOSTUNREACH"
        and event.session in silent
        and view.during(event.at_ns)
        and started is not None
        and event.offender == started.target.ip
    }
    return bool(heard) and heard == set(silent.values())


def _terminating(view: IncidentView, spans: Iterable[UnansweredSpan]) -> list[UnansweredSpan]:
    """Return the spans in which the pod was terminating, if longer than proxies need to take it out."""
    found = []
    for span in spans:
        pod = span.old.pod if span.old is not None else None
        if pod is not None and span.to_ns - span.from_ns >= _PROXY_UPDATE_NS:
            endpoints = view.history.endpoints(pod, span.from_ns, span.to_ns)
            if any(endpoint is not None and endpoint.terminating for endpoint in endpoints):
                found.append(span)
    return found


def _node_down(view: IncidentView, blocked: Blackholed) -> list[str]:
    """Return the last event of the blackholed sessions' nodes: removed, or not Ready."""
    names = view.history.node_names or {}
    wanted = blocked.nodes | {names[ip] for ip in blocked.nodes if ip in names}
    said = [
        happened_to(event)
        for event in view.history.cluster
        if event.subject is ClusterSubject.NODE
        and event.name in wanted
        and event.action in {ClusterAction.NOT_READY, ClusterAction.REMOVED}
        and view.from_ns - _NODE_DOWN_NS <= event.at_ns <= view.to_ns + _NODE_DOWN_NS
    ]
    return said[-1:]


def _never_dnatted(view: IncidentView) -> Diagnosis | None:
    """Diagnose `stale-flow`: sessions dead from sequence 0, canaries answered. The entry predates the Service's rules."""
    dead = _dead_from_start(view)
    tried = [canary.identity is not None for canary in view.canaries]
    policy = view.history.spec("externalTrafficPolicy", view.from_ns)
    if not dead or not any(tried) or not all(tried) or policy == "Local" or view.source_ip_preserved:
        return None
    if _only_target(view, dead) is not None:
        return None

    evidence = [
        _dead_text(view, dead),
        *view.canary_text(view.canaries),
    ]
    if policy is None:
        return diagnosis("stale-flow", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")
    return diagnosis("stale-flow", [*evidence, "the Service's externalTrafficPolicy is Cluster: every node has a way"])


def _dead_from_start(view: IncidentView) -> list[UnansweredSpan]:
    """Return the sessions never answered since their first probe, where others are answered."""
    return (
        [s for s in view.unanswered_spans if s.old is None and s.first_seq == 0 and s.ended is False]
        if _answered_sessions(view)
        else []
    )


def _only_target(view: IncidentView, dead: list[UnansweredSpan]) -> TransportAddress | None:
    """Return the address that all the dead sessions probe and no other one does, where the target has several."""
    sessions = view.history.sessions
    names = {span.session for span in dead}
    targets = {session.target for name, session in sessions.items() if name in names} - {None}
    if len(targets) != 1 or any(session.target in targets for name, session in sessions.items() if name not in names):
        return None
    return targets.pop()


def _dead_text(view: IncidentView, dead: list[UnansweredSpan]) -> str:
    of = plural(len(view.history.sessions), "session")
    return f"{len(dead)} of {of} {was(len(dead))} never answered since their first probe"


def _answered_sessions(view: IncidentView) -> list[str]:
    """Return the sessions that were ever answered and are not silent now."""
    silent = {span.session for span in view.unanswered_spans if not span.ended}
    return [name for name, session in view.history.sessions.items() if session.first is not None and name not in silent]


def _empty_nodes_text(view: IncidentView) -> list[str]:
    """Say how many nodes have no ready pod, where nodes and pool are known."""
    nodes = set((view.history.node_names or {}).values())
    if not nodes or view.history.pool is None:
        return []
    filled = {endpoint.node for endpoint in view.history.pool.endpoints if endpoint.ready}
    empty = len(nodes - filled)
    return [f"{empty} of {plural(len(nodes), 'node')} {has(empty)} no ready pod"]
