"""A client behind a container engine's NAT says so, and no other does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from affinity_tester.app.container_bridge import bridge_warning

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t0000040A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ADDRESSES = (
    "fd000000000000000000000000000005 0b 40 00 80     eth0\n20010db8000000000000000000000005 0c 40 00 80     eth1\n"
)
OVERLAY = "600 400 0:99 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/a\n"
DISK = "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:5 / /var/x rw - overlay overlay rw\n"
FULL = "         0          0 4294967295\n"


def machine(root: Path, *, mark: str | None = ".dockerenv", **changed: str | None) -> Path:
    """Make the files that tell: eth0 (11, its other end 12) and eth1, a card (20); `changed` by the last parts of paths."""
    files: dict[str, str | None] = {
        "proc/net/route": ROUTES,
        "proc/net/if_inet6": ADDRESSES,
        "proc/self/mountinfo": DISK,
        "proc/self/uid_map": FULL,
        "etc/hosts": "127.0.0.1 localhost\n",
        "sys/class/net/eth0/ifindex": "11\n",
        "sys/class/net/eth0/iflink": "12\n",
        "sys/class/net/eth0/type": "1\n",
        "sys/class/net/eth0/uevent": "INTERFACE=eth0\nIFINDEX=11\n",
        "sys/class/net/eth1/ifindex": "20\n",
        "sys/class/net/eth1/iflink": "20\n",
        "sys/class/net/eth1/type": "1\n",
        "sys/class/net/lo/ifindex": "1\n",
        "sys/class/net/lo/iflink": "1\n",
    }
    for name, text in changed.items():
        (path,) = [
            each for each in files if each.endswith(f"/{name}") and "/eth1/" not in each and "/lo/" not in each
        ] or [f"sys/class/net/eth0/{name}"]
        files[path] = text
    if mark is not None:
        files[mark] = ""
    for path, text in files.items():
        if text is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return root


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
@pytest.mark.parametrize("source", ["172.17.0.2", "10.200.3.4", "fd00::5"])
def test_behind_a_bridge_of_any_pool_it_names_the_address_and_what_to_do(
    tmp_path: Path, mark: str, source: str
) -> None:
    assert bridge_warning(source, {}, machine(tmp_path, mark=mark)) == (
        f"this client's address {source} is a container bridge's (by a veth, eth0): the container engine's own NAT is under"
        " test too, and may be what changes or drops flows; run it with the host's network (docker run --network host)"
    )


def test_containerd_leaves_no_mark_but_its_overlay(tmp_path: Path) -> None:
    assert "a container bridge's" in bridge_warning("172.17.0.2", {}, machine(tmp_path, mark=None, mountinfo=OVERLAY))


@pytest.mark.parametrize("source", ["10.4.0.9", "2001:db8::5"])
def test_the_interface_is_that_of_the_address(tmp_path: Path, source: str) -> None:
    """A container that has a macvlan or a card beside its bridge is asked about the one that it probes from."""
    assert bridge_warning(source, {}, machine(tmp_path)) == ""


@pytest.mark.parametrize(
    "host",
    [
        {"iflink": "11\n"},  # a card, a bond, a bridge
        {"iflink": "2\n", "uevent": "DEVTYPE=vlan\nINTERFACE=eth0\n"},
        {"iflink": "2\n", "uevent": "DEVTYPE=macvlan\nINTERFACE=eth0\n"},
        {"iflink": "0\n"},  # a tunnel
        {"type": "65534\n", "tun_flags": "0x1001\n"},  # a VPN's tun
        {"iflink": "11\n", "tun_flags": "0x1002\n"},  # a VPN's tap, in no user namespace
        {"device": ""},  # hardware
    ],
)
def test_the_hosts_network_is_no_bridge(tmp_path: Path, host: dict[str, str]) -> None:
    assert bridge_warning("172.31.4.5", {}, machine(tmp_path, **host)) == ""


def test_a_veth_of_the_hosts_own_has_both_ends_there(tmp_path: Path) -> None:
    root = machine(tmp_path)
    for name, text in {"ifindex": "12\n", "iflink": "11\n"}.items():
        (root / "sys/class/net/peer").mkdir(exist_ok=True)
        (root / "sys/class/net/peer" / name).write_text(text)
    assert bridge_warning("172.17.0.2", {}, root) == ""


def test_a_user_mode_network_is_a_nat_too(tmp_path: Path) -> None:
    root = machine(tmp_path, mark="run/.containerenv", iflink="11\n", tun_flags="0x1002\n", uid_map="0 1000 1\n")
    assert "is a container's user-mode network's (eth0): the container engine's own NAT is under test too" in (
        bridge_warning("10.0.2.100", {}, root)
    )


def test_a_pod_is_behind_no_bridge(tmp_path: Path) -> None:
    root = machine(tmp_path, mark="run/.containerenv")  # CRI-O's pods have it
    assert bridge_warning("172.17.0.2", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, root) == ""
    assert bridge_warning("172.17.0.2", {}, machine(tmp_path, hosts="# Kubernetes-managed hosts file.\n")) == ""


def test_a_machine_that_is_no_container_has_no_bridge(tmp_path: Path) -> None:
    assert bridge_warning("172.17.0.2", {}, machine(tmp_path, mark=None)) == ""


@pytest.mark.parametrize(("first", "warns"), [("net:[1]", True), ("net:[2]", False)])
def test_a_network_made_by_hand_in_a_container_is_no_engines(tmp_path: Path, first: str, warns: bool) -> None:
    root = machine(tmp_path)
    for process, network in {"1": first, "self": "net:[1]"}.items():
        (root / "proc" / process / "ns").mkdir(parents=True)
        (root / "proc" / process / "ns/net").symlink_to(network)
    assert bool(bridge_warning("172.17.0.2", {}, root)) == warns


@pytest.mark.parametrize("source", ["127.0.0.1", "::1", "fd00::6"])
def test_an_address_of_no_interface_says_nothing(tmp_path: Path, source: str) -> None:
    assert bridge_warning(source, {}, machine(tmp_path)) == ""


@pytest.mark.parametrize("routes", ["", "Iface\tDestination\neth0\n", "Iface\tDestination\neth0\t0011AC\n"])
def test_a_machine_that_does_not_tell_says_nothing(tmp_path: Path, routes: str) -> None:
    assert bridge_warning("172.17.0.2", {}, machine(tmp_path, route=routes)) == ""
    assert bridge_warning("172.17.0.2", {}, tmp_path / "none") == ""


KERNEL = """\
set -e
unshare --net sleep 60 & holder=$!
trap 'kill $holder' EXIT
until [ "$(readlink /proc/$holder/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
mount -t sysfs sysfs /sys
ip link add one type veth peer name two
ip link add eth0 type veth peer name host0 netns $holder
ip tuntap add dev tap0 mode tap
for each in eth0 one tap0; do ip link set $each up; done
ip address add 10.4.0.9/24 dev eth0
ip address add 10.11.0.9/24 dev one
ip address add 10.12.0.9/24 dev tap0
ip -6 address add fd00:4::9/64 dev eth0 nodad
"$1" - <<'PYTHON'
from pathlib import Path
from affinity_tester.app import container_bridge
container_bridge._in_container = lambda root: True
for source in ("10.4.0.9", "fd00:4::9", "10.11.0.9", "10.12.0.9"):
    print(source, "behind" if container_bridge.bridge_warning(source, {}) else "-")
PYTHON
"""


@pytest.mark.root
def test_the_kernels_own_interfaces_are_told_apart() -> None:
    """A veth that leads out of a network namespace, one with both ends there, and a tap; the engine's mark is given."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("needs root on Linux")
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", KERNEL, "sh", sys.executable],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == {
        "10.4.0.9": "behind",
        "fd00:4::9": "behind",
        "10.11.0.9": "-",
        "10.12.0.9": "-",
    }
