"""The parts of the lab's network: pods, nodes with their tables, and flows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity


class Policy(StrEnum):
    """The Service's externalTrafficPolicy."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Affinity(StrEnum):
    """The Service's sessionAffinity."""

    NONE = "None"
    CLIENT_IP = "ClientIP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A backend and its endpoint's conditions."""

    name: str
    node: str
    """The name of the node that it runs on."""
    address: TransportAddress
    """Where it listens."""
    instance: bytes
    """Its INSTANCE-ID."""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    uid: str = ""
    """Of the API object; empty: one that follows from its name."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One line of a node's flow table: the flow's pod and the source address that the pod sees."""

    flow: TransportAddress
    pod: Pod
    source: TransportAddress
    last_ns: int
    """When a packet last used it, in either direction."""
    since_ns: int = 0
    """When it was entered."""
    packets: int = 0
    """How many packets used it."""
    is_replied: bool = False
    """True once a packet of its came back."""
    direct: bool = False
    """True if its replies do not come back through the node, but leave from the pod's own address."""

    @property
    def identity(self) -> Identity:
        """Return what replies to packets that go this way say."""
        return Identity(reflexive=self.source, pod=self.pod.name, node=self.pod.node, instance=self.pod.instance)


@dataclass(frozen=True, slots=True)
class SessionLimit:
    """What a proxy ends its sessions by (nginx's proxy_requests, an age): the next packet begins a new one. 0: by nothing."""

    packets: int = 0
    age_ns: int = 0

    def ends(self, entry: Entry, now_ns: int) -> bool:
        """True if the session of this entry is over."""
        is_used_up = bool(self.packets) and entry.packets >= self.packets
        return is_used_up or (bool(self.age_ns) and now_ns - entry.since_ns >= self.age_ns)


@dataclass(slots=True, kw_only=True)
class Node:
    """A node, or a proxy that runs as a pod: the addresses that it masquerades with, and its tables."""

    name: str
    ip: str
    bridge_ip: str = ""
    """Of the bridge of its pods (`cni0`): towards them the kernel masquerades from there. Empty: from `ip`, as to others."""
    is_proxy: bool = False
    """It is a UDP proxy that runs as a pod, between the balancer and the Service's pods: its address is no node's."""
    weight: float = 1.0
    """In the balancer's hash."""
    hashed: bool = True
    """True if the balancer sends to it; False: it only hosts pods, until it joins."""
    entries: dict[TransportAddress, Entry] = field(default_factory=dict)
    """By flow."""
    clients: dict[str, tuple[str, int]] = field(default_factory=dict)
    """ClientIP affinity: client IP -> the name of its pod, and when it was last used."""

    def source_ip(self, pod: Pod) -> str:
        """Return the address that it masquerades with towards a pod."""
        return self.bridge_ip if self.bridge_ip and pod.node == self.name else self.ip


@dataclass(slots=True)
class Flow:
    """What the model itself knows of a flow, and no node does."""

    number: int
    """In order of first appearance, from 1."""
    entry: Entry | None = None
    """The way of its newest packet."""
    identity: Identity | None = None
    """What the reply to its newest packet says."""
    packets: int = 0
    """How many packets came, whatever became of them."""
    draws: int = 0
    """How often a pod was drawn for it."""
    mapped_ip: str = ""
    """What the client's NAT gives it a port of (policy Local); empty: its stand-in address."""
