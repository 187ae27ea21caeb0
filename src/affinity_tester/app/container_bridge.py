"""Whether this client runs behind a container engine's own NAT, which is then under test beside the cluster's.

No address tells: engines take bridges from pools that anybody may set (Docker's default-address-pools, nerdctl's 10.4.0.0/24,
an IPv6 prefix), and hosts have such addresses too. What must be true, all of it:

- the process is a container's: an engine left its mark, or the root file system is an engine's overlay. A network namespace
  that somebody made by hand (`ip netns`, this tool's lab) is none: the first process is in another one;
- it is no Kubernetes pod's, whose network is part of what is tested: the kubelet sets KUBERNETES_SERVICE_HOST and writes the
  first line of /etc/hosts (CRI-O leaves Podman's mark, so that the mark alone does not tell);
- the interface of `source` leads out of a network namespace of the container's own: a veth whose other end is not here, or
  the tap of a user-mode network (slirp4netns, pasta) in a user namespace. With the host's network the interface is one of the
  host's: a card, a bond, a bridge, a VLAN. macvlan and ipvlan have addresses of the network itself, and no NAT.

Two things cannot be seen from inside: a bridge without NAT (Docker's `gateway_mode_ipv4=routed`), of which this warns for
nothing, and a host that is itself a machine behind NAT (Docker Desktop's), of which it does not warn.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

ENGINE_MARKS = (".dockerenv", "run/.containerenv")
"""Files that Docker and Podman leave."""
OVERLAYS = ("overlay", "fuse-overlayfs", "fuse.fuse-overlayfs")
"""File systems that engines stack images with; containerd (nerdctl) leaves no other sign."""
DESTINATION, GATEWAY, MASK = 1, 2, 7
"""Columns of /proc/net/route."""
ARPHRD_ETHER = "1"
ALL_USERS = ["0", "0", "4294967295"]
"""The uid_map of a process in no user namespace."""


def bridge_warning(source: str, environ: Mapping[str, str], root: Path = Path("/")) -> str:
    """Return what to say if `source`, this machine's own address, is behind a container engine's NAT; empty if it is not."""
    address = ipaddress.ip_address(source)
    if address.is_loopback or not _in_container(root) or _in_pod(environ, root):
        return ""
    device = (
        _device_of_ipv4(address, root) if isinstance(address, ipaddress.IPv4Address) else _device_of_ipv6(address, root)
    )
    if not device:
        return ""
    if _is_veth_out(root, device):
        behind = f"a container bridge's (by a veth, {device})"
    elif _is_user_mode(root, device):
        behind = f"a container's user-mode network's ({device})"
    else:
        return ""
    return (
        f"this client's address {source} is {behind}: the container engine's own NAT is under test too, and may be what"
        " changes or drops flows; run it with the host's network (docker run --network host)"
    )


def _in_container(root: Path) -> bool:
    """True if an engine made this process's root, and its network is that of the root's first process."""
    marked = any((root / mark).exists() for mark in ENGINE_MARKS)
    return (marked or _root_is_overlay(root)) and not _network_made_by_hand(root)


def _root_is_overlay(root: Path) -> bool:
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4:5] == ["/"] and after.split()[:1] in [[each] for each in OVERLAYS]:
            return True
    return False


def _network_made_by_hand(root: Path) -> bool:
    try:
        return (root / "proc/1/ns/net").readlink() != (root / "proc/self/ns/net").readlink()
    except OSError:  # not everybody may look at the first process
        return False


def _in_pod(environ: Mapping[str, str], root: Path) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ or _read(root / "etc/hosts").startswith(
        "# Kubernetes-managed hosts file"
    )


def _device_of_ipv4(address: ipaddress.IPv4Address, root: Path) -> str:
    """Return the interface whose connected network holds the address (the narrowest), or that of the default route."""
    found = [(-1, "")]
    for line in _read(root / "proc/net/route").splitlines()[1:]:
        fields = line.split()
        if len(fields) <= MASK:
            continue
        destination, gateway, mask = (
            int.from_bytes(bytes.fromhex(fields[each]), "little") for each in (DESTINATION, GATEWAY, MASK)
        )
        if mask == 0 or (gateway == 0 and int(address) & mask == destination):
            found.append((mask, fields[0]))
    return max(found)[1]


def _device_of_ipv6(address: ipaddress.IPv6Address, root: Path) -> str:
    """Return the interface that has the address."""
    for line in _read(root / "proc/net/if_inet6").splitlines():
        fields = line.split()
        if fields and int(fields[0], 16) == int(address):
            return fields[-1]
    return ""


def _is_veth_out(root: Path, device: str) -> bool:
    """True if the interface is a veth whose other end is in another network namespace.

    A VLAN's or a macvlan's `iflink` is another interface's number too, but the kernel names their kind (DEVTYPE); a veth has
    none, and no hardware.
    """
    networks = root / "sys/class/net"
    own, other = _ends(networks / device)
    if other in {"", "0", own} or not _is_ethernet(networks / device) or (networks / device / "device").exists():
        return False
    return "DEVTYPE=" not in _read(networks / device / "uevent") and (other, own) not in map(_ends, networks.iterdir())


def _is_user_mode(root: Path, device: str) -> bool:
    interface = root / "sys/class/net" / device
    in_user_namespace = _read(root / "proc/self/uid_map").split() not in ([], ALL_USERS)
    return in_user_namespace and (interface / "tun_flags").exists() and _is_ethernet(interface)


def _ends(interface: Path) -> tuple[str, str]:
    return _read(interface / "ifindex").strip(), _read(interface / "iflink").strip()


def _is_ethernet(interface: Path) -> bool:
    return _read(interface / "type").strip() == ARPHRD_ETHER


def _read(path: Path) -> str:
    """Return a file's text; empty where there is none (no Linux)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
