"""Faults of UDP proxies between the balancer and the Service's pods: sessions that they end, and proxies that go."""

from __future__ import annotations

from affinity_tester.core.identity import Kind
from affinity_tester.lab.fault import Family, Fault, FaultContext, counted
from affinity_tester.lab.injection import FOREVER_NS, MOVED, VIOLATION, Injection, effects_on
from affinity_tester.lab.model import Policy, SessionLimit
from affinity_tester.lab.names import proxy_ip
from affinity_tester.lab.parameter import count_parameter

_CLUSTER = frozenset({Policy.CLUSTER})
_WHY = "a proxy shows its own address to the pods, so they never see the client's"


class SessionsEnd(Fault):
    """A proxy ends each session after so many packets, as nginx does with `proxy_requests`: the next begins a new one.

    ingress-nginx ends one after a single reply unless it is told otherwise (kubernetes/ingress-nginx#1731). Packets count
    from a session's first one, not from the time at which the limit is set.
    """

    name = "session-limit"
    expects = (
        "every flow, after the same number of probes again and again: a new reflexive port, of most a new pod; no loss"
    )
    policies = _CLUSTER
    why_policy = _WHY

    packets: int = count_parameter("after how many packets", default=30)

    def inject(self, context: FaultContext) -> Injection:
        """Set the limit."""
        context.network.limit = SessionLimit(packets=self.packets)
        must = frozenset({Kind.REFLEXIVE_PORT})

        return context.injection(
            f"proxies end each session after {counted(self.packets, 'packet')}",
            FOREVER_NS,
            effects_on(context.flows, must, MOVED - must, VIOLATION),
        )


class ProxyReplaced(Fault):
    """A UDP proxy's pod is replaced by another one, with another address, as a rolling update of the proxies does.

    All its sessions begin anew at the new one (kubernetes-sigs/cloud-provider-kind#58); the other proxies keep theirs.
    """

    name = "proxy-tier"
    expects = "all flows of one proxy: another reflexive IP, of some also another pod; no loss, and no other flow moves"
    policies = _CLUSTER
    why_policy = _WHY

    def inject(self, context: FaultContext) -> Injection:
        """Replace the proxy with the most flows."""
        ingress, by_node = context.network.ingress, context.flows_by_node()
        proxies = [name for name in by_node if ingress.nodes[name].is_proxy]
        if not proxies:
            return context.injection("no proxies are there: nothing was done", context.at_ns)

        old = max(proxies, key=lambda name: len(by_node[name]))
        position = 1 + max(int(node.ip.rpartition(".")[2]) for node in ingress.nodes.values())
        new, flows = f"node-{position}", by_node[old]
        ingress.add_node(new, proxy_ip(position), hashed=False, is_proxy=True)
        ingress.pinned.update(dict.fromkeys(flows, new))  # a balancer gives it what the old one had
        context.mark_used(flows, Family.ROUTING)
        must = frozenset({Kind.REFLEXIVE_IP})

        return context.injection(
            f'the proxy "{old}" is replaced by "{new}" ({proxy_ip(position)}), with its {counted(len(flows), "flow")}',
            context.at_ns,
            effects_on(flows, must, MOVED - must, VIOLATION),
        )
