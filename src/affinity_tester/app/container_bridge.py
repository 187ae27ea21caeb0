"""Whether this client runs behind a container engine's bridge, whose NAT is then under test beside the cluster's."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

BRIDGE_NETWORKS = tuple(map(ipaddress.ip_network, ("172.16.0.0/12", "192.168.0.0/16", "10.88.0.0/15")))
"""Where Docker (docs.docker.com/engine/network, default address pools) and Podman (podman-network) take bridges from."""


def bridge_warning(source: str, environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """Return what to say if `source`, this machine's own address, is a container bridge's; empty if it is not.

    A pod is behind no such bridge, nor is a container with its host's network, even if the host has an address like that.
    """
    in_container = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    if not in_container or "KUBERNETES_SERVICE_HOST" in environ or not _has_veth(root):
        return ""
    address = ipaddress.ip_address(source)
    if not any(address in network for network in BRIDGE_NETWORKS):
        return ""
    return (
        f"this client's address {source} is a container bridge's: the container engine's own NAT is under test too, and may"
        " be what changes or drops flows; run it with the host's network (docker run --network host)"
    )


def _has_veth(root: Path) -> bool:
    """True if the default route leaves by an interface whose other end is in another network namespace."""
    try:
        routes = (root / "proc/net/route").read_text().splitlines()[1:]
        device = next((line.split()[0] for line in routes if line.split()[1] == "00000000"), None)
        if device is None:
            return False
        interface = root / "sys/class/net" / device
        return (interface / "iflink").read_text() != (interface / "ifindex").read_text()
    except (OSError, IndexError):  # no Linux
        return False
