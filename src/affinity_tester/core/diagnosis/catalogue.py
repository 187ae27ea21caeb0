"""The catalogue of faults: what each is, what to try, where it is known, and which of them no client can tell apart.

The rules diagnose no other faults. References are issues as `owner/repository#number`, clouds' own pages by name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One fault of the catalogue."""

    name: str
    what: str
    """What happens, in one line."""
    remedy: str
    """What to try."""
    references: tuple[str, ...]
    """Where it is known; empty where it is no bug of anybody's."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Faults that look alike to every client under a condition."""

    names: frozenset[str]
    when: str
    """The condition."""
    why: str
    """Why no client can tell them apart then."""
    settled_by: str
    """What would settle it."""


_K = "kubernetes/kubernetes#"
_CI = "cilium/cilium#"
_CA = "projectcalico/calico#"
_ML = "metallb/metallb#"


def _issues(prefix: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in numbers)


_ENTRIES = (
    Entry(
        "pod-silent",
        "a pod in the pool answers nobody: it hangs, or its node died and the API does not know yet",
        "look into `kubectl logs` of the pod and `kubectl describe` of the pod and its node; a readiness probe that fails "
        "sooner takes a hung pod out of the pool",
        (),
    ),
    Entry(
        "dead-ingress",
        "one of several ready nodes passes nothing: hairpin, a security group, no rules for the Service",
        "look at the firewall or security group of that node, at its kube-proxy, and at source and destination checks "
        "(hairpin); take the node out of the balancer until then",
        ("kubernetes/cloud-provider-aws#1160",),
    ),
    Entry(
        "node-path",
        "the way from one node to the pods of another is cut (overlay, routes, a firewall between nodes)",
        "look at the overlay between the two nodes: ping from node to node and from pod to pod, the tunnel's port in the "
        "firewall, routes and neighbours (ip route, ip neigh, bridge fdb)",
        _issues(_CA, 12432),
    ),
    Entry(
        "lossy-path",
        "one way of several (a member of a bundle, a path of equal cost, a hash bucket), or one node or pod, loses packets, "
        "up to all: the same sessions lose, the others do not",
        "by source port: compare the error counters of all members of bundles and equal-cost paths on the way (ethtool -S, "
        "the switches' interfaces), and take out the bad one; by node, ingress or path: that node's interface and softirq "
        "drops; by pod: its CPU limit and its socket buffer (nstat UdpRcvbufErrors)",
        ("bloomberg/goldpinger#163", "schweikert/fping-exporter#18"),
    ),
    Entry(
        "flow-wipe",
        "the proxy drops live flows though the pool is unchanged (a restart, a periodic sync)",
        "look into the proxy's log on the ingress node at that time; upgrade the proxy, or raise its sync period",
        (*_issues(_K, 122740, 120076, 113859), *_issues(_CI, 13399)),
    ),
    Entry(
        "idle-expiry",
        "the flow's entry times out in the balancer or in conntrack",
        "send keep-alives more often than the shortest timeout on the way (conntrack 30 s or 120 s, GCP 60 s, NLB 120 s), "
        "or raise nf_conntrack_udp_timeout and the balancer's idle timeout",
        ("Azure/AKS#2149", *_issues(_K, 120214)),
    ),
    Entry(
        "session-limit",
        "a box on the way ends each session after so many probes, or so much time",
        "raise the limit of the proxy on the way (nginx proxy_responses and proxy_requests, ingress-nginx "
        "proxy-stream-responses, Envoy's idle timeout, the Service's timeoutSeconds), or leave it unset",
        (*_issues(_K, 35677), "kubernetes/ingress-nginx#1731", "nginx/kubernetes-ingress#2616"),
    ),
    Entry(
        "node-rehash",
        "the load balancer or ECMP hashes flows anew when nodes come or go",
        "keep the balancer's set of nodes still (fewer, fixed ingress nodes), or take a balancer that hashes consistently "
        "or remembers flows",
        ("Azure/AKS#5888", *_issues(_ML, 3, 2368), "MicrosoftDocs/azure-docs#46366"),
    ),
    Entry(
        "proxy-tier",
        "UDP proxies run as pods, and one of them leaves or is replaced: its sessions go with it",
        "keep the proxies' pods still (no autoscaling, long drains, updates in quiet hours), or take a balancer that sends "
        "to the Service's pods without a proxy between",
        ("kubernetes-sigs/cloud-provider-kind#58",),
    ),
    Entry(
        "stale-flow",
        "a conntrack entry points to a pod that is gone, or was made before the Service's rules existed",
        "delete the entry on the ingress node (conntrack -D -p udp --dport PORT) and upgrade the proxy; of a deleted pod's "
        "flows the kernel frees those of the pod's own node when its interface goes, the others stay until the proxy cleans",
        (*_issues(_K, 139628, 105657, 106274, 103857, 125467, 125979, 76664, 59368), *_issues(_CA, 9967)),
    ),
    Entry(
        "dead-target",
        "the balancer stays pinned to a node that is dead",
        "shorten the balancer's health check and its deregistration delay, and let it end connections of dead targets",
        ("kubernetes-sigs/aws-load-balancer-controller#2366",),
    ),
    Entry(
        "terminating-backend",
        "traffic still goes to a pod that is terminating and has closed its socket",
        "answer on after SIGTERM until the proxies took the pod out (a preStop sleep, --drain): kube-proxy keeps flows on a "
        "terminating pod until its endpoint leaves, so draining only postpones a gap of 0.3 to 1.6 s; and upgrade the proxy",
        (*_issues(_CI, 48714, 27096), *_issues(_CA, 8480)),
    ),
    Entry(
        "early-flush",
        "flows are taken from a pod that still runs but is no longer ready",
        "let readiness hold until the sessions have ended, and look at the proxy's version (KEP-5989)",
        (*_issues(_K, 137986, 138092), "kubernetes/enhancements#5989"),
    ),
    Entry(
        "port-rewrite",
        "the source port is rewritten on the way",
        "look for a second NAT on the way (conntrack -E -p udp on the ingress node), and exempt the Service's traffic",
        (*_issues(_K, 78547), *_issues(_CA, 4093)),
    ),
    Entry(
        "snat-collision",
        "the NAT table evicts an entry, or two flows share one",
        "enlarge the NAT table, take more addresses for masquerading, and upgrade the proxy",
        (*_issues(_CI, 34833, 29305), *_issues(_K, 76699)),
    ),
    Entry(
        "client-socket",
        "the client's own socket or address changed",
        "run it with and without --connected, and look at this machine's addresses, routes and socket-level load balancing",
        _issues(_CI, 48564, 48244, 11301),
    ),
    Entry(
        "local-policy",
        "externalTrafficPolicy Local, and the balancer sends to nodes without a pod",
        "let the balancer's health check use healthCheckNodePort, or run a pod on every ingress node",
        _issues(_K, 84800, 62537, 50866),
    ),
    Entry(
        "client-ip-spread",
        "sessionAffinity ClientIP is set, and one client's sessions have several pods (it is kept per node, or not at all)",
        "let the balancer hash by source IP alone (affinity is kept per node), or take policy Local with one ingress node",
        _issues(_K, 94416, 103000),
    ),
    Entry(
        "wrong-source",
        "replies come from another address than the Service's",
        "let the pod answer from the address it was asked at, and look for replies that bypass the NAT of their request",
        _issues(_K, 95565, 18933),
    ),
    Entry(
        "mtu",
        "fragments, or packets beyond a hop's MTU, are lost or sent elsewhere",
        "send at most 1,200 bytes of payload, or mend the MTU of the overlay or tunnel",
        (*_issues(_CI, 8185, 39690), *_issues(_CA, 8821)),
    ),
    Entry(
        "first-packet-race",
        "the first packets of new flows are lost (a race of conntrack's inserts)",
        "masquerade with --random-fully, upgrade the kernel, and send the first packet again after some milliseconds",
        ("weaveworks/weave#3287",),
    ),
    Entry(
        "table-full",
        "an ingress node's connection table is full: new flows through it are refused until an entry is free",
        "raise nf_conntrack_max on that node (sysctl), shorten nf_conntrack_udp_timeout, and look for what fills the table "
        "(conntrack -C, conntrack -S; `nf_conntrack: table full, dropping packet` in the kernel log)",
        (),
    ),
    Entry(
        "late-replies",
        "what was on its way was held and delivered late: a frozen process or virtual machine, or a link that buffers",
        "look for what stood still then: a pod that was frozen or starved of CPU, a live migration of its node, a radio link",
        (),
    ),
    Entry(
        "vip-failover",
        "the Service's IP moves to another node (L2, ARP, BGP)",
        "look at the speaker's or balancer's log for a change of leader, and at the old leader's health",
        _issues(_ML, 298, 1147, 2009),
    ),
    Entry(
        "lb-churn",
        "the balancer's object is made anew",
        "look for changes of the Service's annotations or spec, and for the controller's log, at that time",
        ("kubernetes-sigs/aws-load-balancer-controller#3771",),
    ),
    Entry(
        "pod-restart",
        "the container restarted under the same pod name",
        "look why it ended: kubectl logs --previous, kubectl describe pod",
        (),
    ),
    Entry(
        "client-nat",
        "the client's own NAT gave its flows new addresses or ports",
        "look at the NAT between the client and the cluster (its log, its table's size and timeouts, its public addresses); "
        "run with --reference, or from a machine without a NAT",
        ("aws/amazon-vpc-cni-k8s#3174",),
    ),
    Entry(
        "packet-spray",
        "there is no flow affinity at all: each packet is sent anywhere",
        "let the balancer and the routers on the way hash by flow (5-tuple), not by packet",
        ("projectcalico/felix#3067", *_issues(_K, 122388)),
    ),
    Entry(
        "self-inflicted",
        "the client is the cause: a full socket buffer, refused sends, or a loop that is late",
        "run the client on an idle machine or core, with fewer --sessions or a longer --interval",
        ("coturn/coturn#616",),
    ),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""By name."""

EQUIVALENCES = (
    Equivalence(
        frozenset({"proxy-tier", "node-rehash"}),
        "all sessions of one reflexive address move to others, and whose the addresses are is not known",
        "a proxy's pod that goes and a node that leaves the balancer both take all their sessions with them",
        "whether the address is a pod's or a node's: run with cluster access",
    ),
    Equivalence(
        frozenset({"idle-expiry", "session-limit"}),
        "probes are seconds apart, and every probe shows another address",
        "a timeout shorter than the interval and a limit of one probe, or of less time, both end a session before its next "
        "probe",
        "a run with a shorter --interval: a timeout then ends nothing",
    ),
    Equivalence(
        frozenset({"flow-wipe", "port-rewrite"}),
        "every flow of an ingress node gets a new port and keeps its pod",
        "under affinity ClientIP, or with a single pod, a wiped flow finds its pod again: only the port shows it, as it "
        "shows a rewrite",
        "conntrack -E -p udp on the ingress node: a wipe destroys entries; or a run with three pods and affinity None",
    ),
    Equivalence(
        frozenset({"stale-flow", "dead-target"}),
        "the silent sessions share their pod and their ingress node with no session that is answered",
        "both are total loss of some flows while new flows are answered; which hop swallows the packets is seen on the hops",
        "cluster access: is the pod gone, or the node not Ready; or a capture on the ingress node",
    ),
    Equivalence(
        frozenset({"stale-flow", "lossy-path"}),
        "fewer than 1 in 14 sessions is dead, so that 40 fresh flows may all miss a dead bucket",
        "a dead entry and a dead hash bucket both swallow a flow from a moment on, and nothing else",
        "more sessions; or a probe from the same source port after the entry's timeout",
    ),
    Equivalence(
        frozenset({"dead-ingress", "local-policy"}),
        "sessions are dead from their first packet, and the Service's spec is not known",
        "a node that passes nothing and a node without a pod under policy Local swallow the same share of all flows",
        "the Service's externalTrafficPolicy, and the nodes' pods: run with cluster access",
    ),
    Equivalence(
        frozenset({"stale-flow", "local-policy"}),
        "sessions are dead from their first packet, the Service's spec is not known, and canaries are too few",
        "a flow entry without DNAT and a node without a pod both swallow a flow from its first packet on",
        "the Service's externalTrafficPolicy: run with cluster access",
    ),
    Equivalence(
        frozenset({"node-rehash", "flow-wipe"}),
        "pod and node change while the address stays, and the Service's spec is not known",
        "under policy Local the address is the client's own whichever node its packets pass; under policy Cluster a wiped "
        "flow may keep its address and reach a pod of another node",
        "the Service's externalTrafficPolicy: run with cluster access",
    ),
    Equivalence(
        frozenset({"early-flush", "flow-wipe"}),
        "all flows of one pod leave it without loss, and the pool is not watched",
        "whether the pod went away, became unready or was left for no reason is known to the cluster alone",
        "cluster access: the endpoint's conditions at that time",
    ),
    Equivalence(
        frozenset({"terminating-backend", "stale-flow"}),
        "the flows of one pod are lost, then served by others, and the pool is not watched",
        "a closed socket in a pod that terminates and an entry that outlives its pod both swallow the pod's flows",
        "cluster access: whether the endpoint was terminating, or gone already, while packets were lost",
    ),
    Equivalence(
        frozenset({"first-packet-race", "table-full"}),
        "the sessions that lose their first probes came in through one ingress node, and few others did not",
        "a race of two inserts and a table without room both lose the packets before the flow's entry is there",
        "conntrack -S on that node: insert_failed counts the race, drop the full table; or sessions through more nodes",
    ),
    Equivalence(
        frozenset({"client-nat", "vip-failover"}),
        "all sessions show one new address, and the nodes' addresses are not known",
        "a new ingress node shows what a new address of the client's NAT shows: all flows begin anew there",
        "the nodes' addresses: run with cluster access; a second STUN server: --reference",
    ),
    Equivalence(
        frozenset({"client-nat", "flow-wipe"}),
        "all of 8 or more sessions from one address change within a second, and nothing excludes the client's NAT",
        "a new mapping of the client's NAT is a new flow to the cluster, as one is whose entry the proxy dropped",
        "a second STUN server, asked from the same sockets: --reference",
    ),
)
"""Only those that no client could tell apart with the evidence at hand, whatever its rules."""


def equivalents(name: str) -> frozenset[str]:
    """Return a fault and all faults that no client can tell from it under some declared condition."""
    return frozenset({name}).union(*(each.names for each in EQUIVALENCES if name in each.names))
