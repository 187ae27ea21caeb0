"""The loopback addresses of one lab's cluster: a network of its own in 127.0.0.0/8, so that several run side by side.

127.A.0.N      InternalIP of node N            127.A.254.x   cluster IPs (nobody listens there)
127.A.N.1      the bridge of its pods          127.A.255.x   addresses of balancers
127.A.N.x      its pods                        127.A+1.x.x   stand for clients' addresses under policy Local
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass

from affinity_tester.errors import UserError

FIRST, LAST = 16, 250
"""The second octets that are tried; the lab of `affinity-tester lab` has those below 7."""

LOCK = "255.254"
"""The last octets of the address that is bound for as long as the network is in use."""

MAX_NODES = 250
"""Each has a /24 for its pods."""


@dataclass(frozen=True, slots=True)
class LabNetwork:
    """The addresses of one cluster."""

    octet: int

    @property
    def stand_in_net(self) -> str:
        """Return two octets of the addresses that stand for clients' own."""
        return f"127.{self.octet + 1}"

    @property
    def service_net(self) -> str:
        """Return three octets of the cluster IPs."""
        return f"127.{self.octet}.254"

    @property
    def balancer_net(self) -> str:
        """Return three octets of the balancers' addresses."""
        return f"127.{self.octet}.255"

    def node_ip(self, number: int) -> str:
        """Return the InternalIP of node number `number`, from 1."""
        return f"127.{self.octet}.0.{number}"

    def pod_cidr(self, number: int) -> str:
        """Return the network of that node's pods."""
        return f"127.{self.octet}.{number}.0/24"


def claim_network(port: int) -> tuple[LabNetwork, socket.socket]:
    """Return a network that no other lab has, and the socket that holds it until it is closed.

    `port` is the pods' and the balancer's, which the network must have free. Raises `UserError`.
    """
    octets = random.SystemRandom().sample(range(FIRST, LAST, 2), (LAST - FIRST) // 2)
    error: OSError | None = None
    for octet in octets:
        lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            lock.bind((f"127.{octet}.{LOCK}", port))
        except OSError as failed:
            lock.close()
            error = failed
        else:
            return LabNetwork(octet), lock
    why = error.strerror if error is not None else "none was tried"
    raise UserError(
        f"no network of 127.0.0.0/8 has UDP port {port} free ({why}): end what listens on all addresses there"
        " (ss -ulpn), or run the lab on Linux, where all of 127.0.0.0/8 can be bound"
    )
