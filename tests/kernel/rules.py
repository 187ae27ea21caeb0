"""What a node's kube-proxy and a cloud's balancer tell the kernel, as nft commands.

The shape is that of kube-proxy's nftables mode (kubernetes/kubernetes, pkg/proxy/nftables): one base chain for each hook,
a map from (address, protocol, port) to a Service's chain, `numgen random` over the endpoints' chains, a mark for what is
to be masqueraded, a set of client addresses for each endpoint under ClientIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

VIP = "203.0.113.10"
"""The Service's external address (TEST-NET-3, RFC 5737)."""
PORT = 3478

_BASE = """
add table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy services
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy external-echo
add chain ip kube-proxy service-echo
flush table ip kube-proxy
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
"""


def kube_proxy(endpoints: Mapping[str, str], *, masquerade: bool, client_ip: bool) -> str:
    """A node's rules for one Service with these endpoints (name to address); without any, its traffic is dropped.

    `masquerade` is what policy Cluster does and Local does not; Local hands in the node's own endpoints alone. Loading
    the rules again replaces them in one step and keeps the clients that a set remembers, as a sync does.
    """
    lines = [_BASE]
    add = "add rule ip kube-proxy"
    for name, address in endpoints.items():
        lines.append(f"add chain ip kube-proxy endpoint-{name}")
        if client_ip:
            lines.append(
                f"add set ip kube-proxy affinity-{name} {{ type ipv4_addr ; flags dynamic,timeout ; timeout 10800s ; }}"
            )
            lines.append(f"{add} endpoint-{name} update @affinity-{name} {{ ip saddr }}")
            lines.append(f"{add} service-echo ip saddr @affinity-{name} goto endpoint-{name}")
        lines.append(f"{add} endpoint-{name} meta l4proto udp dnat to {address}:{PORT}")
    if endpoints:
        chains = ", ".join(f"{number} : goto endpoint-{name}" for number, name in enumerate(endpoints))
        lines.append(f"{add} service-echo numgen random mod {len(endpoints)} vmap {{ {chains} }}")
    else:
        lines.append(f"add element ip kube-proxy no-endpoint-services {{ {VIP} . udp . {PORT} : drop }}")
    if masquerade:
        lines.append(f"{add} external-echo jump mark-for-masquerade")
    lines.append(f"{add} external-echo goto service-echo")
    lines.append(f"add element ip kube-proxy service-ips {{ {VIP} . udp . {PORT} : goto external-echo }}")
    return "\n".join(lines) + "\n"


def balancer(nodes: Sequence[int], *, spray: bool = False) -> str:
    """A balancer that keeps the destination and marks each packet with a node's number by the hash of its source.

    It holds no state, so another set of nodes moves flows. `spray` picks a node for each packet.
    """
    pick = "numgen random" if spray else "jhash ip saddr . udp sport"
    seed = "" if spray else " seed 0x5eed"
    marks = ", ".join(f"{place} : {node}" for place, node in enumerate(nodes))
    return f"""
add table ip balancer
add chain ip balancer prerouting {{ type filter hook prerouting priority -150 ; }}
flush chain ip balancer prerouting
add rule ip balancer prerouting ip daddr {VIP} udp dport {PORT} meta mark set {pick} mod {len(nodes)}{seed} map {{ {marks} }}
"""


def nat(out: str, how: str = "masquerade fully-random") -> str:
    """Source NAT for all that leaves this way, in place of any before it; on ports drawn at random unless told otherwise."""
    return f"""
add table ip nat
add chain ip nat postrouting {{ type nat hook postrouting priority 100 ; }}
flush chain ip nat postrouting
add rule ip nat postrouting oifname {out} {how}
"""


def as_ipv6(text: str) -> str:
    """Return commands of ip or nft, or an address, with each IPv4 address as an IPv6 one: fd00:10:30:1::2 for 10.30.1.2."""
    text = re.sub(r"\b(\d+)\.(\d+)\.(\d+)\.(\d+):(\d+)\b", r"[fd00:\1:\2:\3::\4]:\5", text)
    text = re.sub(r"\b(\d+)\.(\d+)\.(\d+)\.(\d+)\b", r"fd00:\1:\2:\3::\4", text).replace("/24", "/64")
    text = text.replace("ipv4_addr", "ipv6_addr")
    text = re.sub(r"\b(table|map|set|chain|rule|element) ip\b", r"\1 ip6", text)
    return re.sub(r"\bip ([sd]addr)\b", r"ip6 \1", text)


def drop(what: str) -> str:
    """Drop on the way through, in words of nft, such as `udp dport 3478 numgen random mod 100 < 5`."""
    return f"""
add table ip loss
add chain ip loss forward {{ type filter hook forward priority -10 ; }}
add rule ip loss forward {what} drop
"""


def deaf_to_icmp() -> str:
    """Drop the ICMP errors that come in: a firewall that thinks them unneeded."""
    return """
add table ip deaf
add chain ip deaf input { type filter hook input priority 0 ; }
add rule ip deaf input icmp type destination-unreachable drop
"""
