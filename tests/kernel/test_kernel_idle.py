"""`affinity-tester idle` finds the kernel's own timeouts, and the pod shows what the client cannot see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.busy]

EXCHANGE_S, STREAM_S = 3, 6
"""nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream of the nodes."""

LONGEST = "7s"


def built(lab: Lab, policy: str, *, client_ip: bool) -> None:
    lab.build(["pod-a", "pod-b"], ["pod-c", "pod-d"])
    lab.proxy(policy=policy, client_ip=client_ip)
    lab.balance(1, 2)
    for node in lab.nodes:
        lab.write(node, EXCHANGE_S, "net/netfilter/nf_conntrack_udp_timeout")
        lab.write(node, STREAM_S, "net/netfilter/nf_conntrack_udp_timeout_stream")


def assert_found(curve: dict[str, Any], wanted: str = "flow") -> None:
    """The timeout lies within a finer step of what was found; the kernel counts in ticks, and packets are on their way."""
    timeout_s = STREAM_S if curve["state"] == "stream" else EXCHANGE_S
    found = curve["kept"][wanted]
    assert found["longest_kept_s"] is not None, curve
    assert found["first_lost_s"] is not None, curve
    assert found["longest_kept_s"] <= 1.02 * timeout_s
    assert found["first_lost_s"] >= 0.98 * timeout_s
    assert found["first_lost_s"] < 1.06 * found["longest_kept_s"]


def test_the_kernels_own_timeouts_are_found(lab: Lab, lab_ipv6: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two measurements at once, as both mostly wait: from the client under policy Cluster, and from the pod under Local.

    Local with ClientIP hides a new entry from the client. But without its entry a packet of the pod does not come back: it
    makes one of its own, which also costs the client's next packet its port.
    """
    monkeypatch.setenv("AFFINITY_KEY", "secret")
    built(lab, "Cluster", client_ip=False)
    built(lab_ipv6, "Local", client_ip=True)
    with ThreadPoolExecutor() as pool:
        client = pool.submit(lab.idle, "--longest", LONGEST)
        pod = pool.submit(lab_ipv6.idle, "--longest", LONGEST, "--direction", "pod")
        result, heard = client.result(), pod.result()

    assert [(curve["direction"], curve["state"]) for curve in result["curves"]] == [
        ("client", "one-exchange"),
        ("client", "stream"),
    ]
    for curve in result["curves"]:
        assert_found(curve)
        assert_found(curve, "port")
        last = curve["steps"][-1]
        assert last["new_port"] == last["usable"]
        assert last["unanswered"] == 0

    for curve in heard["curves"]:
        assert_found(curve)
        last = curve["steps"][-1]
        assert last["not_heard"] == last["usable"]
        assert last["new_pod"] == 0
