"""The source addresses that pods see: a masquerade's random ports, and what stands for the client's own address.

No process without root sends from a foreign address, so on loopback each client gets a stand-in address in 127.3.0.0/16
with the same port under policy Local. It stays with the client whichever node its packets pass, as the client's own
address would, and stands for it in everything a pod reports.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from affinity_tester.core.address import TransportAddress

STAND_IN_NET = "127.3"
"""The first two octets of the addresses that stand for the clients' own under policy Local."""

SNAT_PORTS = range(1024, 65536)
"""What a masquerade with `random-fully` draws from (net/netfilter/nf_nat_core.c)."""

MAX_DRAWS = 1000
"""Ports tried before a node counts as out of them: a lab uses a few hundred of 64,512."""


class SourceAddresses:
    """The source addresses in use, and how a new flow gets one."""

    def __init__(
        self, seed: int, claim: Callable[[TransportAddress], bool], *, stand_in: bool, net: str = STAND_IN_NET
    ) -> None:
        """Begin with none. `claim` takes an address for the lab and says whether it was free.

        `stand_in`: pods see a stand-in address, in `net`, where they would see the client's own.
        """
        self.rewrites_ports = False
        """Something on the way gives new flows any port in place of the client's (policy Local)."""
        self._stand_in = stand_in
        self._net = net
        self._claim = claim
        self._ports = random.Random(f"{seed}/ports")  # noqa: S311 - repeatable, not secret
        self._used: set[TransportAddress] = set()

    def draw(self, ip: str) -> TransportAddress:
        """Take a random free port of this address."""
        for _ in range(MAX_DRAWS):
            source = TransportAddress(ip, self._ports.choice(SNAT_PORTS))
            if self._claim_unused(source):
                return source
        raise RuntimeError(f"no free port on {ip} in {MAX_DRAWS} draws")

    def of_client(self, client: TransportAddress, held: TransportAddress | None) -> TransportAddress:
        """Return the client's own address as pods see it: the one that it holds already, else its port, else any other."""
        if held is not None and held in self._used:
            return held
        if self.rewrites_ports:
            return self.draw(client.ip)

        ip = ".".join((self._net, *client.ip.split(".")[2:])) if self._stand_in else client.ip
        source = TransportAddress(ip, client.port)
        return source if self._claim_unused(source) else self.draw(ip)

    def keep(self, used: frozenset[TransportAddress]) -> None:
        """Free all addresses but these."""
        self._used = set(used)

    def _claim_unused(self, source: TransportAddress) -> bool:
        if source in self._used or not self._claim(source):
            return False

        self._used.add(source)
        return True
