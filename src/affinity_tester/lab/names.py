"""The names of the lab's nodes and pods, and their loopback addresses."""

from __future__ import annotations

from affinity_tester.lab.rendezvous import draw

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""The letters of Kubernetes' random suffixes (k8s.io/apimachinery, util/rand)."""


def node_name(position: int) -> str:
    """Return the name of node number `position`, from 1."""
    return f"node-{position}"


def node_ip(position: int) -> str:
    """Return the address with which that node masquerades; `position` is at most 254."""
    return f"127.1.0.{position}"


def bridge_ip(position: int) -> str:
    """Return the address with which that node masquerades towards its own pods: its pod bridge's."""
    return f"127.3.0.{position}"


def pod_name(seed: int, position: int) -> str:
    """Return the name of pod number `position`, from 1, in the manner of a ReplicaSet's."""
    return "lab-" + "".join(_SUFFIX[int(draw(seed, "name", position, i) * len(_SUFFIX))] for i in range(5))


def pod_ip(position: int) -> str:
    """Return the address on which that pod listens; `position` is at most 254."""
    return f"127.2.0.{position}"
