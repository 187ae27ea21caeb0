"""A client behind a container engine's bridge says so, and no other does."""

from pathlib import Path

import pytest

from affinity_tester.app.container_bridge import bridge_warning

ROUTES = "Iface\tDestination\tGateway\tFlags\neth0\t0011AC\t00000000\t1\neth0\t00000000\t010011AC\t3\n"


def machine(root: Path, *, marker: str | None = ".dockerenv", iflink: str = "12", routes: str = ROUTES) -> Path:
    """Make the files of a machine that tell; `iflink` is the other end of eth0, which has number 11 itself."""
    for name, text in {
        "proc/net/route": routes,
        "sys/class/net/eth0/ifindex": "11\n",
        "sys/class/net/eth0/iflink": f"{iflink}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if marker is not None:
        (root / marker).parent.mkdir(exist_ok=True)
        (root / marker).touch()
    return root


@pytest.mark.parametrize(("marker", "source"), [(".dockerenv", "172.17.0.2"), ("run/.containerenv", "10.88.0.5")])
def test_behind_a_bridge_it_names_the_address_and_what_to_do(tmp_path: Path, marker: str, source: str) -> None:
    assert bridge_warning(source, {}, machine(tmp_path, marker=marker)) == (
        f"this client's address {source} is a container bridge's: the container engine's own NAT is under test too, and may"
        " be what changes or drops flows; run it with the host's network (docker run --network host)"
    )


def test_the_hosts_network_is_no_bridge(tmp_path: Path) -> None:
    """Not even where the host has an address like a bridge's (AWS: 172.31.0.0/16)."""
    assert bridge_warning("172.31.4.5", {}, machine(tmp_path, iflink="11")) == ""


def test_a_pod_is_behind_no_bridge(tmp_path: Path) -> None:
    assert bridge_warning("172.17.0.2", {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, machine(tmp_path)) == ""


def test_a_machine_that_is_no_container_has_no_bridge(tmp_path: Path) -> None:
    assert bridge_warning("172.17.0.2", {}, machine(tmp_path, marker=None)) == ""


@pytest.mark.parametrize("source", ["203.0.113.5", "2001:db8::5", "127.0.0.1"])
def test_an_address_of_no_bridge_says_nothing(tmp_path: Path, source: str) -> None:
    assert bridge_warning(source, {}, machine(tmp_path)) == ""


@pytest.mark.parametrize(
    "routes",
    ["", "Iface\tDestination\neth0\n", "Iface\tDestination\neth0\t0011AC\n", "Iface\tDestination\neth1\t00000000\n"],
)
def test_a_machine_that_does_not_tell_says_nothing(tmp_path: Path, routes: str) -> None:
    assert bridge_warning("172.17.0.2", {}, machine(tmp_path, routes=routes)) == ""
    assert bridge_warning("172.17.0.2", {}, tmp_path / "none") == ""
