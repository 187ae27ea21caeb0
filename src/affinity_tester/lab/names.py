"""What the lab's nodes and pods are called, and the loopback addresses that they have."""

from __future__ import annotations

from affinity_tester.lab.rendezvous import draw

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
"""What Kubernetes makes random suffixes of (k8s.io/apimachinery, util/rand)."""


def node_name(position: int) -> str:
    """The name of node number `position`, from 1."""
    return f"node-{position}"


def node_ip(position: int) -> str:
    """The address with which that node masquerades; `position` is at most 254."""
    return f"127.1.0.{position}"


def pod_name(seed: int, position: int) -> str:
    """The name of pod number `position`, from 1, in the manner of a ReplicaSet's."""
    return "lab-" + "".join(_SUFFIX[int(draw(seed, "name", position, i) * len(_SUFFIX))] for i in range(5))


def pod_ip(position: int) -> str:
    """The address on which that pod listens; `position` is at most 254."""
    return f"127.2.0.{position}"
