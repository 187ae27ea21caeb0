"""What makes the rarer faults of the catalogue, as nft commands: each says which real behaviour it copies, and from where."""

from __future__ import annotations

from collections.abc import Sequence

import rules

NODE_PORT = 30478
"""Where every node takes the Service's traffic, beside the VIP."""

SNAT_PORTS = range(1024, 1040)
"""All the ports that `few_ports` leaves."""

EVICTABLE = 1
"""The conntrack mark of every second of their flows."""


def insert_race() -> str:
    """Lose the first packet of every second new flow, after its NAT was chosen and before its entry is in the table.

    The kernel chooses a packet's NAT in the postrouting hook (`get_unique_tuple` in net/netfilter/nf_nat_core.c) and puts the
    entry into the table at the hook's end (`__nf_conntrack_confirm` in nf_conntrack_core.c). Two packets between these two
    points may have chosen the same port: the second is dropped and counted as insert_failed, its entry is freed, and the next
    packet of its flow begins anew (weaveworks/weave#3287). That takes two packets within microseconds on two CPUs, or a queue
    to hold one, which not every kernel has; so the race itself is *not* made here. A rule drops packets at the same place,
    with the same effect on their flows. It picks flows by turns, and each but once.
    """
    return f"""
add table ip race
add set ip race begun {{ type ipv4_addr . inet_service ; flags dynamic,timeout ; timeout 60s ; }}
add chain ip race prerouting {{ type filter hook prerouting priority -150 ; }}
add chain ip race unseen
add chain ip race postrouting {{ type filter hook postrouting priority 200 ; }}
add rule ip race prerouting ip daddr {rules.VIP} udp dport {rules.PORT} ip saddr . udp sport != @begun goto unseen
add rule ip race unseen add @begun {{ ip saddr . udp sport }}
add rule ip race unseen numgen inc mod 2 == 0 meta mark set mark or 0x2000
add rule ip race postrouting mark and 0x2000 == 0x2000 drop
"""


def few_ports() -> str:
    """Masquerade to the ports of `SNAT_PORTS` alone, in place of what kube-proxy's rules do, and mark every second flow.

    A NAT whose table is full gives a new flow the room of one that lives: `early_drop` in net/netfilter/nf_conntrack_core.c
    evicts an entry of a full table, and so does the LRU map of Cilium's NAT (cilium/cilium#34833, cilium/cilium#29305). The
    size of the kernel's table is one for all namespaces and no test's to change, so here the marked entries are evicted by
    hand. A flow whose entry is gone gets any port that is free, which was another's.
    """
    first, last = SNAT_PORTS[0], SNAT_PORTS[-1]
    return f"""
flush chain ip kube-proxy masquerading
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading ct mark set numgen inc mod 2 offset {EVICTABLE}
add rule ip kube-proxy masquerading meta l4proto udp masquerade to :{first}-{last} fully-random
"""


def node_port(address: str) -> str:
    """Let a node take the Service's traffic at its own address too, after `rules.kube_proxy`."""
    return f"add element ip kube-proxy service-ips {{ {address} . udp . {NODE_PORT} : goto external-echo }}\n"


def balancer_object(nodes: Sequence[str]) -> str:
    """A balancer that rewrites the VIP to a node's address and node port, by the hash of the flow's source.

    It is no router: a node's packet that is no reply of a flow it knows goes nowhere. Its hash knows its nodes alone, so one
    that is made anew sends a flow where the one before had sent it, as where a controller deletes the cloud's balancer and
    makes another at the same address (kubernetes-sigs/aws-load-balancer-controller#3771).
    """
    targets = ", ".join(f"{place} : {address}" for place, address in enumerate(nodes))
    pick = f"jhash ip saddr . udp sport mod {len(nodes)} seed 0x5eed map {{ {targets} }}"
    return f"""
add table ip object
add chain ip object incoming {{ type filter hook prerouting priority -150 ; }}
add chain ip object prerouting {{ type nat hook prerouting priority -100 ; }}
flush table ip object
add rule ip object incoming udp sport {NODE_PORT} ct state new drop
add rule ip object prerouting ip daddr {rules.VIP} udp dport {rules.PORT} dnat to {pick} : {NODE_PORT}
"""


def no_balancer_object() -> str:
    """Take that balancer away: what is sent to its address goes nowhere."""
    return f"""
flush table ip object
add rule ip object incoming ip daddr {rules.VIP} drop
add rule ip object incoming udp sport {NODE_PORT} ct state new drop
"""


def rewrite_ports(address: str) -> str:
    """Give the flows of a client that arrive here another port, and leave its address: MASQUERADE by somebody in between.

    As where a CNI's own rules catch what the Service's should not touch (kubernetes/kubernetes#78547,
    projectcalico/calico#4093).
    """
    return f"""
add table ip rewrite
add chain ip rewrite postrouting {{ type nat hook postrouting priority 90 ; }}
add rule ip rewrite postrouting ip saddr {address} udp dport {rules.PORT} snat to {address}:20000-60000 fully-random
"""
