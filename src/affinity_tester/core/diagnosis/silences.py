"""Faults that show as silence: some sessions, or all, are not answered for a while."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis.case import Case, Silence
from affinity_tester.core.diagnosis.cluster_text import happened_to
from affinity_tester.core.diagnosis.wording import NO_CLUSTER, count, diagnosis, has, listed, pods, seconds, was
from affinity_tester.core.events import ClusterAction, ClusterSubject, Diagnosis
from affinity_tester.core.identity import Kind

_HELD_NS = 2_000_000_000
"""A flow that is unanswered for so long is blocked, not unlucky: a canary is sent then."""

_REMOVED_NS = 2_000_000_000
"""Proxies take a pod's flows off within this time (1.2 s was measured); a silence that goes on is a fault."""

_NODE_DOWN_NS = 300_000_000_000
"""A node that went away this long before may still be the balancer's target (deregistration delays)."""

_BOTH_POSSIBLE = "whether the pod is gone or the node is down: run with cluster access"


@dataclass(frozen=True, slots=True)
class Held:
    """Sessions that were not answered for long and did not simply go on as before, while others were answered."""

    silences: tuple[Silence, ...]
    pods: frozenset[str]
    """That had served them."""
    nodes: frozenset[str]
    """That they had come in through."""
    pod_answers: bool
    """Another session, or a fresh source port, is answered by one of these pods."""
    node_answers: bool
    """Another session, or a fresh source port, is answered through one of these nodes."""
    answered: bool | None
    """Whether a fresh source port was answered meanwhile; None: none was tried."""
    alone: bool
    """No other session is answered: what is known of pods and nodes comes from fresh source ports."""


def held(case: Case) -> Held | None:
    """The blocked sessions; None without one."""
    silences = tuple(
        silence
        for silence in case.silences
        if silence.old is not None
        and silence.to_ns - silence.from_ns >= _HELD_NS
        and (silence.ended is False or silence.change is not None)
    )
    tried = [canary.identity for canary in case.canaries]
    met = [who for who in tried if who is not None]
    if not silences or (case.most(len(silences)) and not _passed(case, silences)):
        return None
    silent = {silence.session for silence in case.silences} | case.facts.silent(case.from_ns, case.to_ns, _HELD_NS)
    homes = [silence.old for silence in silences if silence.old is not None]
    others = [who for session, who in case.homes.items() if session not in silent]
    alive = [*others, *met]
    gone_pods = frozenset(who.pod for who in homes if who.pod is not None)
    gone_nodes = frozenset(node for who in homes if (node := case.ingress(who)) is not None)
    return Held(
        silences,
        gone_pods,
        gone_nodes,
        pod_answers=any(who.pod in gone_pods for who in alive),
        node_answers=any(case.ingress(who) in gone_nodes for who in alive),
        answered=bool(met) if tried else None,
        alone=not others,
    )


def _passed(case: Case, silences: Iterable[Silence]) -> bool:
    """Whether a fresh source port was answered while all of these sessions were silent, and not as they came back."""
    first_ns = min(silence.to_ns for silence in silences)
    return any(canary.identity is not None and canary.sent_ns <= first_ns - _HELD_NS for canary in case.canaries)


def stale_flow(case: Case, blocked: Held | None) -> Diagnosis | None:
    """A flow's entry leads nowhere, while new flows are answered."""
    if blocked is None:
        return _never_translated(case)
    if blocked.answered is False or _node_down(case, blocked):
        return None
    removed = _removed(case, blocked)
    if _terminating(case, blocked.silences) and not removed:
        return None
    evidence = _blocked_words(case, blocked)
    if removed:
        evidence.append(f"{pods(removed)} had left the pool, and the silence went on")
    elif blocked.node_answers:
        others = "fresh source ports" if blocked.alone else "other sessions"
        evidence.append(f"{others} through {_places(case, blocked)} were answered all the time")
    elif blocked.pod_answers:
        return None
    if not removed and all(silence.ended for silence in blocked.silences):
        return diagnosis("stale-flow", evidence, f"whether the pod was gone already: {NO_CLUSTER}")
    if blocked.answered is None:
        return diagnosis("stale-flow", evidence, "a canary: was a fresh source port answered meanwhile?")
    if case.facts.watched and blocked.pods and not removed and not blocked.pod_answers:
        return diagnosis("stale-flow", evidence, f"whether {pods(blocked.pods)} answers anybody: it is in the pool")
    if _translated(case, blocked):
        evidence.append(
            "the ICMP error bears the Service's own address: the flows' node lives, and its entries lead nowhere"
        )
    elif not removed and not blocked.node_answers:
        return diagnosis("stale-flow", evidence, _BOTH_POSSIBLE)
    return diagnosis("stale-flow", evidence)


def dead_target(case: Case, blocked: Held | None) -> Diagnosis | None:
    """The balancer stays pinned to a dead node."""
    if blocked is None or blocked.answered is False or blocked.node_answers or not blocked.nodes:
        return None
    down = _node_down(case, blocked)
    if not down and (_removed(case, blocked) or _translated(case, blocked)):
        return None
    evidence = _blocked_words(case, blocked)
    evidence.append(f"no session through {_places(case, blocked)} was answered")
    if blocked.pod_answers:
        others = "fresh source ports" if blocked.alone else "sessions"
        evidence.append(f"{pods(blocked.pods)} went on answering {others} through other nodes")
    evidence += down
    if blocked.answered is None:
        return diagnosis("dead-target", evidence, "a canary: was a fresh source port answered meanwhile?")
    if not down and not blocked.pod_answers:
        return diagnosis("dead-target", evidence, _BOTH_POSSIBLE)
    return diagnosis("dead-target", evidence)


def terminating_backend(case: Case, blocked: Held | None) -> Diagnosis | None:
    """Traffic went to a pod that was terminating and had closed its socket."""
    lost = _terminating(case, case.silences)
    if lost:
        gone_on = blocked is not None and _removed(case, blocked)
        names = {s.old.pod for s in lost if s.old is not None and s.old.pod is not None}
        moved = sum(s.change is not None for s in lost)
        evidence = [
            f"{case.share(s.session for s in lost)} lost {count(sum(s.lost for s in lost), 'probe')} in "
            f"{seconds(max(s.to_ns - s.from_ns for s in lost))} to {pods(names)}, which {was(len(names))} terminating",
            f"{moved} of them {was(moved)} answered by another pod after",
            *case.icmp(s.session for s in lost),
        ]
        return None if gone_on else diagnosis("terminating-backend", evidence)
    if case.facts.watched:
        return None
    left = [s for s in case.silences if s.change is not None and Kind.POD in s.change.kinds and s.old is not None]
    names = {s.old.pod for s in left if s.old is not None and s.old.pod is not None}
    now = case.facts.homes(case.to_ns)
    if len(names) != 1 or any(who.pod in names for who in now.values()):
        return None
    evidence = [
        f"{case.share(s.session for s in left)}, all of them served by {pods(names)}, lost "
        f"{count(sum(s.lost for s in left), 'probe')} and went on at other pods; it serves no session since",
        *case.icmp(s.session for s in left),
    ]
    return diagnosis("terminating-backend", evidence, f"whether that pod was terminating: {NO_CLUSTER}")


def pod_silent(case: Case) -> Diagnosis:
    """The sessions' pods are in the pool and answer nobody; that was judged, so here it only gets its evidence."""
    names = {s.old.pod for s in case.silences if s.old is not None and s.old.pod is not None}
    shortest_ns = min(silence.to_ns - silence.from_ns for silence in case.silences)
    facts = case.facts
    homes = {endpoint.node for endpoint in (facts.pool.endpoints if facts.pool else ()) if endpoint.pod in names}
    down = {
        event.name: event.action
        for event in facts.cluster
        if event.subject is ClusterSubject.NODE
        and event.name in homes
        and event.action in {ClusterAction.READY, ClusterAction.NOT_READY}
    }
    met = {c.identity.pod for c in case.canaries if c.identity is not None and c.identity.pod is not None}
    evidence = [
        f"{case.share(s.session for s in case.silences)}, all served by {pods(names)} before, are silent for "
        f"{seconds(shortest_ns)} and more; nobody else is answered by {pods(names)} since",
        *(
            f'its node "{name}" became not Ready'
            for name, action in sorted(down.items())
            if action is ClusterAction.NOT_READY
        ),
        *case.canary_words(case.canaries),
        *([f"none of them met {pods(names)}"] if met and met.isdisjoint(names) else []),
        *case.icmp(s.session for s in case.silences),
    ]
    return diagnosis("pod-silent", evidence)


def local_policy(case: Case) -> Diagnosis | None:
    """Some sessions are dead from sequence 0, the others fine: nodes without a pod drop what they get."""
    dead = _dead_from_start(case)
    policy = case.facts.spec("externalTrafficPolicy")
    if not dead or policy == "Cluster" or _of_one_target(case, dead) is not None:
        return None
    others = _answered(case)
    evidence = [
        _dead_words(case, dead),
        f"{count(len(others), 'other session')} {'is' if len(others) == 1 else 'are'} answered",
        *case.canary_words(case.canaries),
        *_empty_nodes(case),
    ]
    if case.facts.started is not None and case.facts.started.connected:
        missing = "replies from another address, which a connected socket does not hear: run without --connected"
        return diagnosis("local-policy", evidence, missing)
    if policy == "Local":
        return diagnosis("local-policy", [*evidence, "the Service's externalTrafficPolicy is Local"])
    if case.source_kept:
        return diagnosis("local-policy", [*evidence, "pods see the client's own address, as under policy Local"])
    return diagnosis("local-policy", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")


def dead_address(case: Case) -> list[str]:
    """What is to be said where one address of the target answers nobody; empty: that is not so."""
    dead = _dead_from_start(case)
    target = _of_one_target(case, dead) if dead else None
    if target is None:
        return []
    of = len({session.target for session in case.facts.sessions.values()})
    return [f"they are all the sessions to {target}, one of {of} addresses of the target, and none of the others"]


def lb_churn(case: Case) -> Diagnosis | None:
    """All lose together, and find the same pod and address after."""
    lost = [silence for silence in case.silences if silence.old is not None]
    same = [silence for silence in lost if silence.ended and silence.change is None]
    together = bool(lost) and max(s.from_ns for s in lost) <= min(s.to_ns for s in lost)
    if not case.most(len(same)) or not together or case.moves:
        return None
    evidence = [
        f"{case.share(s.session for s in same)} lost {count(min(s.lost for s in same), 'probe')} or more at the same time "
        f"and were answered by the same pod at the same address after",
    ]
    near = case.near(ClusterSubject.SERVICE)
    if not near:
        unseen = "none was seen" if case.facts.watched else NO_CLUSTER
        return diagnosis("lb-churn", evidence, f"a change of the Service or its balancer at that time: {unseen}")
    return diagnosis("lb-churn", [*evidence, *near])


# --- how ---------------------------------------------------------------------------------------------------------------


def _blocked_words(case: Case, blocked: Held) -> list[str]:
    silences = blocked.silences
    shortest_ns = min(silence.to_ns - silence.from_ns for silence in silences)
    went_on = [silence for silence in silences if not silence.ended]
    end = f"{count(len(went_on), 'session')} still silent" if went_on else "each ended with a change"
    served = f"; all had been served by {pods(blocked.pods)}" if blocked.pods else ""
    return [
        f"{case.share(s.session for s in silences)} lost every probe for {seconds(shortest_ns)} and more, {end}{served}",
        f"{case.cohort_words(s.session for s in silences)}",
        *case.canary_words(case.canaries),
        *case.icmp(s.session for s in silences),
    ]


def _places(case: Case, blocked: Held) -> str:
    return listed(case.place(node) for node in blocked.nodes)


def _removed(case: Case, blocked: Held) -> set[str]:
    """The pods that had left the pool while their sessions stayed silent for longer than proxies need."""
    found = set()
    for silence in blocked.silences:
        pod = silence.old.pod if silence.old is not None else None
        if pod is not None and silence.to_ns - silence.from_ns >= _REMOVED_NS:
            held_ = case.facts.endpoints(pod, silence.from_ns, silence.to_ns - _REMOVED_NS)
            if held_ and held_[-1] is None:
                found.add(pod)
    return found


def _translated(case: Case, blocked: Held) -> bool:
    """Whether a node said of each silent pod that no host is there, in the Service's name.

    ICMP errors are sent back through a flow's translation, which makes the Service's address their source (RFC 5508,
    section 4.2); one from a router before a dead node would bear the router's.
    """
    started = case.facts.started
    silent = {silence.session: silence.old.pod for silence in blocked.silences if silence.old is not None}
    heard = {
        silent[event.session]
        for event in case.facts.network_errors
        if event.error == "EHOSTUNREACH"
        and event.session in silent
        and case.during(event.at_ns)
        and started is not None
        and event.offender == started.target.ip
    }
    return bool(heard) and heard == set(silent.values())


def _terminating(case: Case, silences: Iterable[Silence]) -> list[Silence]:
    """The silences of those whose pod was terminating, longer than proxies need to take it out."""
    found = []
    for silence in silences:
        pod = silence.old.pod if silence.old is not None else None
        if pod is not None and silence.to_ns - silence.from_ns >= _REMOVED_NS:
            held_ = case.facts.endpoints(pod, silence.from_ns, silence.to_ns)
            if any(endpoint is not None and endpoint.terminating for endpoint in held_):
                found.append(silence)
    return found


def _node_down(case: Case, blocked: Held) -> list[str]:
    """What was told of the blocked sessions' nodes: removed, or not Ready."""
    names = case.facts.node_names or {}
    wanted = blocked.nodes | {names[ip] for ip in blocked.nodes if ip in names}
    said = [
        happened_to(event)
        for event in case.facts.cluster
        if event.subject is ClusterSubject.NODE
        and event.name in wanted
        and event.action in {ClusterAction.NOT_READY, ClusterAction.REMOVED}
        and case.from_ns - _NODE_DOWN_NS <= event.at_ns <= case.to_ns + _NODE_DOWN_NS
    ]
    return said[-1:]


def _never_translated(case: Case) -> Diagnosis | None:
    """Dead from sequence 0 while fresh source ports are answered: the entry was made before the Service's rules."""
    dead = _dead_from_start(case)
    tried = [canary.identity is not None for canary in case.canaries]
    policy = case.facts.spec("externalTrafficPolicy")
    if not dead or not any(tried) or not all(tried) or policy == "Local" or case.source_kept:
        return None
    if _of_one_target(case, dead) is not None:
        return None
    evidence = [
        _dead_words(case, dead),
        *case.canary_words(case.canaries),
    ]
    if policy is None:
        return diagnosis("stale-flow", evidence, f"the Service's externalTrafficPolicy: {NO_CLUSTER}")
    return diagnosis("stale-flow", [*evidence, "the Service's externalTrafficPolicy is Cluster: every node has a way"])


def _dead_from_start(case: Case) -> list[Silence]:
    return (
        [s for s in case.silences if s.old is None and s.first_seq == 0 and s.ended is False] if _answered(case) else []
    )


def _of_one_target(case: Case, dead: list[Silence]) -> TransportAddress | None:
    """The address that all the dead sessions probe and no other one does, where the target has several."""
    sessions = case.facts.sessions
    names = {silence.session for silence in dead}
    targets = {session.target for name, session in sessions.items() if name in names} - {None}
    if len(targets) != 1 or any(session.target in targets for name, session in sessions.items() if name not in names):
        return None
    return targets.pop()


def _dead_words(case: Case, dead: list[Silence]) -> str:
    of = count(len(case.facts.sessions), "session")
    return f"{len(dead)} of {of} {was(len(dead))} never answered since their first probe"


def _answered(case: Case) -> list[str]:
    """The sessions that were ever answered and are not silent now."""
    silent = {silence.session for silence in case.silences if not silence.ended}
    return [name for name, session in case.facts.sessions.items() if session.first is not None and name not in silent]


def _empty_nodes(case: Case) -> list[str]:
    """How many nodes have no ready pod, where nodes and pool are known."""
    nodes = set((case.facts.node_names or {}).values())
    if not nodes or case.facts.pool is None:
        return []
    filled = {endpoint.node for endpoint in case.facts.pool.endpoints if endpoint.ready}
    empty = len(nodes - filled)
    return [f"{empty} of {count(len(nodes), 'node')} {has(empty)} no ready pod"]
