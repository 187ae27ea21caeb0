"""Sessions that were never answered, while others are: what swallows a flow from its first packet on.

Their way is not known, so what is dead shows in what nobody was ever answered over, though the others' ways lead everywhere
else, and in whether fresh flows die as well:

    local-policy   policy Local, and there are nodes without a ready pod: they drop what they get, and fresh flows die
    dead-ingress   of the ready nodes exactly one was never an ingress of anybody's, and as many flows die as it would get;
                   or a node says itself, by ICMP, that it has no rules for the Service
    pod-silent     of the ready pods exactly one never answered anybody, and as many flows die as it would get
    node-path      of the ways between two nodes exactly one was never used, and as many flows die as it would get
    stale-flow     entries without DNAT, made before the Service's rules: fresh flows live
    lossy-path     one bucket of a hash over source ports is dead: possible where nothing else is left to suspect
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.diagnosis.dead_flows import Way, way_of
from affinity_tester.core.diagnosis.dead_text import no_rules
from affinity_tester.core.diagnosis.fresh_flows import FreshFlows
from affinity_tester.core.diagnosis.incident_view import IncidentView
from affinity_tester.core.diagnosis.text import NO_CLUSTER, diagnosis, has, listed, pods, was
from affinity_tester.core.events import CanaryResult, ClusterAction, ClusterSubject, Diagnosis
from affinity_tester.core.judging.chance import DOUBT
from affinity_tester.units import format_share, plural, quoted

_UNEVEN = 2
"""How many times more flows, or fewer, a hash may give to one of several equal ones."""


class Unborn(FreshFlows):
    """The sessions that were never answered, and whom the others, and canaries, ever met."""

    def __init__(self, view: IncidentView) -> None:
        """Look at the sessions of an incident."""
        self.view = view
        self.dead = view.never_answered
        sessions = view.history.sessions
        self.targets = {sessions[name].target for name in self.dead if name in sessions}
        from_ns = max((span.from_ns for span in self.dead.values()), default=0)
        self.canaries = [c for c in view.canaries if c.sent_ns >= from_ns and not c.pause_ns and self._is_same(c)]
        met = [canary.identity for canary in self.canaries if canary.identity is not None]
        lived = [session.first for session in sessions.values() if session.first is not None]
        self.answered = len(lived)
        later = [who for session in sessions.values() for _, who in session.identities]
        self.seen: set[Way] = {way_of(view, who) for who in [*lived, *met, *later]}

    def _is_same(self, canary: CanaryResult) -> bool:
        session = self.view.history.sessions.get(canary.session)
        return session is not None and session.target in self.targets

    @cached_property
    def second_addresses(self) -> dict[str, str]:
        """By address that is no node's known one: the one node that serves behind it, if it is one."""
        names = set(self.view.node_names.values())
        behind: dict[str, set[str | None]] = {}
        for way in self.seen:
            if way.ingress is not None and way.ingress not in names:
                behind.setdefault(way.ingress, set()).add(way.node)
        return {ip: str(next(iter(nodes))) for ip, nodes in behind.items() if len(nodes) == 1}

    @property
    def living(self) -> int:
        """How many flows are answered: sessions, and canaries."""
        return self.answered + len(self.canaries) - self.unanswered

    @property
    def dead_count(self) -> int:
        """How many sessions were never answered."""
        return len(self.dead)

    @property
    def total(self) -> int:
        """How many sessions there are."""
        return len(self.dead) + self.answered

    @property
    def sampled(self) -> list[CanaryResult]:
        """The canaries."""
        return self.canaries

    def would_get(self, share: float) -> bool:
        """True if as many flows died as a part with this share would get, and it is no chance that no other met it."""
        return self.unanswered > 0 and self.might_get(share) and self.is_missed(share)

    def is_missed(self, share: float) -> bool:
        """True if it is no chance that none of the answered flows met a part with this share."""
        return bool((1 - share) ** self.living < DOUBT)

    def might_get(self, share: float) -> bool:
        """True unless far fewer flows died than a part with this share would get, or far more: no hash is even."""
        dead = (len(self.dead) + self.unanswered) / (len(self.dead) + self.answered + len(self.canaries))
        return share / _UNEVEN <= dead <= share * _UNEVEN


def dead_from_start(view: IncidentView) -> list[Diagnosis]:
    """Diagnose what swallows sessions from their first probe on, where others are answered."""
    flows = Unborn(view)
    if not flows.dead or not flows.answered or not _others_go_on(view) or only_target(view, flows.dead) is not None:
        return []

    ruleless = no_rules(view, flows.dead)
    if ruleless:
        return [diagnosis("dead-ingress", [*_common(flows), *ruleless])]
    if view.history.started is not None and view.history.started.connected:
        missing = "replies from another address, which a connected socket does not hear: run without --connected"
        return [diagnosis("local-policy", _common(flows), missing)]

    if flows.fresh_live:
        # A part of the way that nobody was ever answered over, and that all canaries may have missed, is not excluded.
        left = [each for each in _unused(flows) if (1 - each.share) ** len(flows.canaries) >= DOUBT and each.text]
        missing = _missing(flows) if left else ""
        others = {each.name: diagnosis(each.name, [*_common(flows), each.text], missing) for each in left}
        return [diagnosis("stale-flow", [*_common(flows), _excluded(flows)], missing), *others.values()]
    return list(_fresh_die(flows) if flows.unanswered else _too_few(flows))


def dead_address(view: IncidentView) -> list[str]:
    """Say that one address of the target answers nobody; empty where that is not so."""
    dead = view.never_answered if _others_go_on(view) else {}
    target = only_target(view, dead) if dead else None
    if target is None:
        return []
    of = len({session.target for session in view.history.sessions.values()})
    return [f"they are all the sessions to {target}, one of {of} addresses of the target, and none of the others"]


# --- fresh flows die as well ---------------------------------------------------------------------------------------------


def _fresh_die(flows: Unborn) -> Iterator[Diagnosis]:
    """Diagnose a part of the way that nobody was ever answered over."""
    policy = flows.view.history.spec("externalTrafficPolicy", flows.view.from_ns)
    local = policy == "Local" or (policy is None and bool(flows.view.source_ip_preserved))
    empty = empty_nodes(flows.view)
    if local and (empty is None or empty):
        said = (
            "the Service's externalTrafficPolicy is Local"
            if policy
            else "pods see the client's own address, as under Local"
        )
        evidence = [*_common(flows), *_empty_text(flows.view), said]
        if empty is not None:
            yield diagnosis("local-policy", evidence)
            return
        missing = f"whether there are nodes without a ready pod: {NO_CLUSTER}"
        # A node's own pods serve what comes in through it, so its dead pod looks like a dead node; a bucket spares no node.
        for name in ("local-policy", "dead-ingress", "pod-silent", "lossy-path"):
            yield diagnosis(name, evidence, missing)
        return

    found = list(_unused(flows))
    sure = [each for each in found if each.sure]
    if len(sure) == 1 and len({each.name for each in found}) == 1:
        yield diagnosis(sure[0].name, [*_common(flows), sure[0].text])
        return
    if not found and policy is not None:
        seen = "every node, every pod, and every way between two nodes was used by others"
        yield diagnosis("lossy-path", [*_common(flows), seen])
        return

    for name in dict.fromkeys(each.name for each in found):
        yield diagnosis(name, [*_common(flows), *(e.text for e in found if e.name == name and e.text)], _missing(flows))
    yield diagnosis("lossy-path", _common(flows), _missing(flows))


class Unused(NamedTuple):
    """A part of the way that nobody was ever answered over."""

    name: str
    """What it is if that is dead."""
    text: str
    share: float
    """The share of the flows that it would get."""
    sure: bool
    """As many flows died as it would have got, and it is no chance that nobody else met it."""


def _unused(flows: Unborn) -> Iterator[Unused]:
    """Yield the parts of the way that nobody was ever answered over, or what may be one where they are not known."""
    return _never_used(flows) if flows.view.history.watched else _all_unknown(flows)


def _never_used(flows: Unborn) -> Iterator[Unused]:
    """Yield the parts of the way, as the cluster has them, that nobody was ever answered over."""
    view = flows.view
    pool = view.history.pool
    assert pool is not None, "it is watched"
    ready = {endpoint.pod: endpoint.node for endpoint in pool.endpoints if endpoint.ready}
    nodes = ready_nodes(view)
    is_local = view.source_ip_preserved

    # An address that is no node's, and behind which one node alone serves, is perhaps that node's second one.
    second = flows.second_addresses
    used = {second.get(way.ingress or "", way.ingress) for way in flows.seen}
    seen = {(second.get(way.ingress or "", way.ingress), way.node) for way in flows.seen}
    unused = sorted(nodes - used)
    mute = sorted(ready.keys() - {way.pod for way in flows.seen})

    for node in unused:
        text = f"node {quoted(node)} is Ready, and nobody was ever answered through it"
        others = listed(name for name in used if name)
        text += f": {plural(flows.living, 'answered flow')} came in through {others}"
        yield Unused("dead-ingress", text, 1 / len(nodes), flows.would_get(1 / len(nodes)))
    for pod in mute:
        text = f"{pods([pod])} on node {quoted(ready[pod])} is ready, and never answered anybody"
        # Under ClientIP one client's flows meet few pods, however many there are.
        spread = view.history.spec("sessionAffinity") != "ClientIP"
        yield Unused("pod-silent", text, 1 / len(ready), spread and flows.would_get(1 / len(ready)))
    if unused or mute or is_local:
        return

    per_node = Counter(ready.values())
    for ingress, home in sorted({(a, b) for a in nodes for b in per_node if a != b} - seen):
        share = per_node[home] / len(ready) / len(nodes)
        if flows.might_get(share) or flows.is_missed(share):
            text = (
                f"nobody was ever answered from ingress node {quoted(ingress)} by a pod on node {quoted(home)}; both are "
                "answered otherwise"
            )
            yield Unused("node-path", text, share, flows.would_get(share))


def _all_unknown(flows: Unborn) -> Iterator[Unused]:
    """Yield what may be dead where nodes and pods are not known."""
    if flows.view.source_ip_preserved is None:
        yield Unused("local-policy", "", 0.0, sure=False)
    for name in ("dead-ingress", "pod-silent", "node-path"):
        yield Unused(name, "", 0.0, sure=False)


# --- too few canaries -----------------------------------------------------------------------------------------------------


def _too_few(flows: Unborn) -> Iterator[Diagnosis]:
    """Diagnose where no canary died, and too few were sent to exclude that fresh flows die."""
    policy = flows.view.history.spec("externalTrafficPolicy", flows.view.from_ns)
    empty = empty_nodes(flows.view)
    if policy != "Cluster" and (empty is None or empty):
        missing = f"the Service's externalTrafficPolicy: {NO_CLUSTER}" if policy is None else _missing(flows)
        yield diagnosis("local-policy", [*_common(flows), *_empty_text(flows.view)], missing)
    for name in ("stale-flow", "dead-ingress", "pod-silent", "node-path", "lossy-path"):
        yield diagnosis(name, _common(flows), _missing(flows))


# --- what is known ----------------------------------------------------------------------------------------------------------


def empty_nodes(view: IncidentView) -> set[str] | None:
    """Return the nodes without a ready pod; None where nodes or pool are not known."""
    if not view.history.node_names or view.history.pool is None or not view.history.watched:
        return None
    filled = {endpoint.node for endpoint in view.history.pool.endpoints if endpoint.ready}
    return set(view.history.node_names.values()) - filled


def ready_nodes(view: IncidentView) -> set[str]:
    """Return the nodes that are not known to be not Ready, or gone."""
    nodes = set((view.history.node_names or {}).values())
    for event in view.history.cluster:
        if event.subject is ClusterSubject.NODE:
            if event.action in {ClusterAction.NOT_READY, ClusterAction.REMOVED}:
                nodes.discard(event.name)
            elif event.action is ClusterAction.READY:
                nodes.add(event.name)
    return nodes


def only_target(view: IncidentView, dead: Iterable[str]) -> TransportAddress | None:
    """Return the address that all the dead sessions probe and no other one does, where the target has several."""
    sessions = view.history.sessions
    names = set(dead)
    targets = {session.target for name, session in sessions.items() if name in names} - {None}
    if len(targets) != 1 or any(session.target in targets for name, session in sessions.items() if name not in names):
        return None
    return targets.pop()


def _others_go_on(view: IncidentView) -> bool:
    """True if sessions that were ever answered are not silent now."""
    silent = {span.session for span in view.unanswered_spans if not span.ended}
    return any(session.first is not None and name not in silent for name, session in view.history.sessions.items())


def _common(flows: Unborn) -> list[str]:
    view = flows.view
    of = plural(len(view.history.sessions), "session")
    others = flows.answered
    return [
        f"{len(flows.dead)} of {of} {was(len(flows.dead))} never answered since their first probe",
        f"{plural(others, 'other session')} {'is' if others == 1 else 'are'} answered",
        *view.canary_text(flows.canaries),
        *view.icmp_text(flows.dead),
    ]


def _excluded(flows: Unborn) -> str:
    count = plural(len(flows.canaries), "test probe")
    share, chance = format_share(flows.share, 0), format_share(flows.miss_chance, 1)
    return f"were {share} of all ports dead, {count} would all have missed them in {chance}"


def _empty_text(view: IncidentView) -> list[str]:
    """Say how many nodes have no ready pod, where nodes and pool are known."""
    empty = empty_nodes(view)
    if empty is None:
        return []
    of = len(set((view.history.node_names or {}).values()))
    return [f"{len(empty)} of {plural(of, 'node')} {has(len(empty))} no ready pod"]


def _missing(flows: Unborn) -> str:
    if not flows.canaries:
        return "a test probe: was a new flow answered meanwhile?"
    if not flows.view.history.watched:
        return f"the nodes, the pods and the Service's spec: {NO_CLUSTER}"
    return "which of them: a capture on each node, or a longer run with more --sessions"
