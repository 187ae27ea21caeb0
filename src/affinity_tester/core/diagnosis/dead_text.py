"""What is known of dead flows, as evidence in words."""

from __future__ import annotations

from collections.abc import Collection

from affinity_tester.core.diagnosis.cluster_text import happened_to
from affinity_tester.core.diagnosis.dead_flows import DeadFlows, Part, Suspect, sessions_on
from affinity_tester.core.diagnosis.icmp import IcmpMeaning, icmp_meaning
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import NO_CLUSTER, listed, pods, was
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject
from affinity_tester.units import NS_PER_S, format_seconds, format_share, plural, quoted

NODE_DOWN_NS = 300 * NS_PER_S
"""A node that went away so long before may still be the balancer's target (deregistration delays)."""


def silent(flows: DeadFlows) -> list[str]:
    """Say how many sessions were silent, for how long, and how it ended."""
    spans = [silence.span for silence in flows.silences.values()]
    shortest_ns = min(span.to_ns - span.from_ns for span in spans)
    going_on = [span for span in spans if not span.ended]
    if going_on:
        end = f"{plural(len(going_on), 'session')} still silent"
    elif flows.resumed:
        end = "then went on"
    else:
        end = "each ended with a change"
    names = {silence.way.pod for silence in flows.silences.values() if silence.way.pod is not None}
    served = f"; all had been served by {pods(names)}" if names else ""
    share = f"{len(spans):,} of {plural(flows.total, 'session')}"
    return [
        f"{share} lost every probe for {format_seconds(shortest_ns)} and more, {end}{served}",
        flows.view.cohort_text(flows.silences),
    ]


def part(flows: DeadFlows, suspect: Suspect) -> list[str]:
    """Say which part all of them share, that nobody else does, and how it fares otherwise."""
    living = [*flows.alive, *flows.met]
    count = len(flows.silences)
    only = f"the {plural(count, 'silent session')} {was(count)} exactly those"
    match suspect.part:
        case Part.POD:
            said = [f"{only} of {pods([str(suspect.pod)])}, which answers nobody since"]
        case Part.PODS_OF_NODE:
            said = [f"{only} of the pods on node {quoted(str(suspect.node))}, which answer nobody since"]
        case Part.INGRESS:
            places = listed(_node(flows, place) for place in (str(suspect.ingress), *suspect.also))
            said = [f"{only} through {places}; nobody is answered through it since"]
        case Part.NODE:
            through = len({*sessions_on(Suspect(Part.INGRESS, ingress=suspect.ingress), flows.silences.values())})
            at = len({*sessions_on(Suspect(Part.PODS_OF_NODE, node=suspect.node), flows.silences.values())})
            said = [
                f"{only} that came in through {_node(flows, suspect.ingress or '')} ({through}) or whose pod was on "
                f"node {quoted(str(suspect.node))} ({at}): one machine"
            ]
        case _:  # Part.CELL
            said = [
                f"{only} from ingress {_node(flows, suspect.ingress or '')} to pods on node {quoted(str(suspect.node))}",
                f"{sum(way.ingress == suspect.ingress for way in living)} flows through that ingress to other nodes, and "
                f"{sum(way.node == suspect.node for way in living)} to those pods through other ingress nodes, are answered",
            ]
    pods_elsewhere = {s.way.pod for s in flows.silences.values()} & {way.pod for way in living} - {None}
    if suspect.part is Part.INGRESS and pods_elsewhere:
        said.append(f"{pods(name for name in pods_elsewhere if name)} went on answering through other nodes")
    return said + node_down(flows, suspect)


def node_down(flows: DeadFlows, suspect: Suspect) -> list[str]:
    """Return the last event of the part's node: removed, or not Ready; none for the way between two nodes."""
    if suspect.part is Part.CELL:
        return []
    wanted = {suspect.ingress, suspect.node} - {None}
    return node_condition(flows.view, {name for name in wanted if name is not None})


def node_condition(view: IncidentView, nodes: set[str]) -> list[str]:
    """Return the last event of these nodes, where one of them was removed or not Ready in the incident, or before it."""
    conditions = {ClusterAction.READY, ClusterAction.NOT_READY, ClusterAction.REMOVED}
    down: dict[str, ClusterEvent] = {}
    for event in view.history.cluster:
        if event.subject is ClusterSubject.NODE and event.name in nodes and event.action in conditions:
            if event.action is not ClusterAction.READY:
                down[event.name] = event
            elif event.at_ns < view.from_ns:
                down.pop(event.name, None)
    near = [event for event in down.values() if view.from_ns - NODE_DOWN_NS <= event.at_ns <= view.now_ns]
    return [happened_to(event) for event in near[-1:]]


def no_rules(view: IncidentView, sessions: Collection[str]) -> list[str]:
    """Say that a node reported to these sessions, from its own address, that it has no way: no rules for the Service.

    The error about a flow that a node's rules have taken bears the Service's address instead (RFC 5508, section 4.2).
    """
    names = view.history.node_names or {}
    said = {
        (event.offender, meaning.value)
        for event in view.history.network_errors
        if event.offender is not None
        and event.offender in names
        and event.session in sessions
        and view.during(event.at_ns)
        and (meaning := icmp_meaning(event)) in {IcmpMeaning.HOST_UNREACHABLE, IcmpMeaning.NET_UNREACHABLE}
    }
    return [
        f"{view.place(offender)} itself answered with ICMP {meaning}: it has no rules for the Service"
        for offender, meaning in sorted(said)
    ]


def shared(flows: DeadFlows) -> list[str]:
    """Say over which parts that the silent sessions share others are answered: no part of the way is dead."""
    living = [*flows.alive, *flows.met]
    ways = [silence.way for silence in flows.silences.values()]
    places = {way.ingress for way in ways if way.ingress is not None} & {way.ingress for way in living}
    names = {way.pod for way in ways if way.pod is not None} & {way.pod for way in living}
    said = []
    if places:
        said.append(
            f"others through {listed(_node(flows, place) for place in places if place)} were answered all the time"
        )
    if names:
        said.append(f"{pods(name for name in names if name)} went on answering others")
    return said


def fresh(flows: DeadFlows) -> list[str]:
    """Say what test probes from fresh ports met, and what so many of them exclude."""
    view = flows.view
    said = view.canary_text(flows.canaries)
    count = len(flows.canaries)
    if flows.fresh_live:
        said.append(
            f"were {format_share(flows.share, 0)} of all ports dead, {plural(count, 'test probe')} would all have missed "
            f"them in {format_share(flows.miss_chance, 1)}"
        )
    elif flows.unanswered:
        said.append(
            f"fresh flows die as well: {flows.unanswered} of {plural(count, 'test probe')}, and {len(flows.silences)} of "
            f"{plural(flows.total, 'session')}"
        )
    again = flows.repeated
    if again:
        lives = sum(canary.identity is not None for canary in again)
        pause = format_seconds(min(canary.pause_ns for canary in again))
        said.append(
            f"of {plural(len(again), 'dead test probe')} {lives} {was(lives)} answered from the same port after a pause "
            f"of {pause}: {'an entry had to end' if lives else 'no entry lives so long without a packet'}"
        )
    return [*said, *view.icmp_text(flows.silences)]


def direction(flows: DeadFlows) -> list[str]:
    """Say which way the probes, or their replies, were lost."""
    known = flows.direction
    if known is None:
        return ["direction not known: no reply since tells how many probes the pod has received"]
    up, down = known
    if up and down:
        return [f"by the pod's count {up:,} probes were lost towards it, and {down:,} replies on the way back"]
    return [
        f"by the pod's count all {up:,} were lost towards it"
        if up
        else f"by the pod's count all {down:,} arrived: the replies are lost on the way back"
    ]


def missing(flows: DeadFlows) -> str:
    """Return what would tell those apart that are left."""
    if not flows.canaries:
        return "a test probe: was a new flow answered meanwhile?"
    if not flows.view.history.watched:
        return f"the node's and the pod's condition: {NO_CLUSTER}"
    if flows.fresh_live:
        return "what new flows avoid: which nodes the balancer holds for healthy, and a capture on the ingress node"
    dead, count = len(flows.silences), len(flows.canaries)
    return (
        f"too few flows to tell: with {dead} of {plural(flows.total, 'session')} dead, {plural(count, 'test probe')} "
        f"miss a dead part in {format_share(flows.miss_chance, 0)}; a capture on the ingress node, or a run with more "
        "--sessions"
    )


def _node(flows: DeadFlows, ingress: str) -> str:
    """Return an ingress node by name, with its address where only that is known."""
    names = set(flows.view.node_names.values())
    return f"node {quoted(ingress)}" if ingress in names or flows.view.source_ip_preserved else ingress
