"""Which node a reflexive IP belongs to, also where the cluster's own list of addresses does not say it.

A node masquerades from two addresses (core.diagnosis.masquerade): its own one, and towards its own pods that of their
bridge, which no list has. Every flow behind the bridge's address is served on that node, and none behind its own one is.
Where the nodes' own addresses are known, and seen, what is left are bridges. Else both are seen from the pods that answer,
and believed where chance is ruled out. Under ClientIP a node serves all flows of a client at one pod, so flows that meet
one node are no pattern there; and a node that serves that client elsewhere has no flow behind its bridge.
"""

from __future__ import annotations

from collections import Counter

from affinity_tester.core.diagnosis.run_history import RunHistory
from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.chance import DOUBT

_FEW_FLOWS = 2
"""Of a single flow no pattern shows."""


def nodes_by_ip(history: RunHistory) -> dict[str, str]:
    """Return the node of each reflexive IP that is known to be one's."""
    names = history.all_node_names
    flows = _nodes_behind(history)
    own = {session.local.ip for session in history.sessions.values() if session.local is not None}
    behind = {ip: nodes for ip, nodes in flows.items() if ip not in own}
    total: Counter[str] = sum(behind.values(), Counter())
    if len(total) < 2 or len(behind) < 2:  # noqa: PLR2004 - with one node of pods, or one address, all look alike
        return dict(names)

    alone = {ip: next(iter(nodes)) for ip, nodes in behind.items() if len(nodes) == 1 and ip not in names}
    claims = Counter(alone.values())
    bridges = {ip: node for ip, node in alone.items() if claims[node] == 1}
    by_client = history.spec("sessionAffinity") == "ClientIP"
    if names:
        seen = {ip: nodes for ip, nodes in behind.items() if ip in names}
        not_its = {names[ip] for ip, nodes in seen.items() if by_client or nodes[names[ip]]}
        return dict(names) | {
            ip: node
            for ip, node in bridges.items()
            if node in names.values()
            and node not in not_its
            and (seen or _is_no_chance(behind[ip], total, len(behind)))
        }

    found: dict[str, str] = {}
    for bridge, node in bridges.items() if not by_client and any(len(nodes) > 1 for nodes in behind.values()) else ():
        # The node's own address is the only one behind which its pods answer nobody.
        without = [ip for ip, nodes in behind.items() if ip not in bridges and not nodes[node]]
        if len(without) == 1 and _is_no_chance(behind[bridge], total, len(behind)):
            (ip,) = without
            share = total[node] / total.total()
            if (1 - share) ** behind[ip].total() < DOUBT:
                found |= {bridge: node, ip: node}
    return found


def _is_no_chance(nodes: Counter[str], total: Counter[str], addresses: int) -> bool:
    """True if so many flows do not all meet one node by chance, behind any of so many addresses."""
    count = nodes.total()
    share = total[next(iter(nodes))] / total.total()
    return bool(count >= _FEW_FLOWS and addresses * share**count < DOUBT)


def _nodes_behind(history: RunHistory) -> dict[str, Counter[str]]:
    """Return for each reflexive IP how many flows each node's pods answered behind it: sessions', and canaries'."""
    found: dict[str, Counter[str]] = {}
    met = [_place(canary.identity) for canary in history.canaries if canary.identity is not None]
    for session in history.sessions.values():
        met += {_place(who) for _, who in session.identities}
    for ip, node in met:
        if ip is not None and node is not None:
            found.setdefault(ip, Counter())[node] += 1
    return found


def _place(who: Identity) -> tuple[str | None, str | None]:
    return who.reflexive.ip if who.reflexive is not None else None, who.node
