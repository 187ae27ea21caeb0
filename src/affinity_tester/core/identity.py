"""What a reply says of the server that answered and of the address it saw, and how two replies differ."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from affinity_tester.core.address import TransportAddress


class Kind(StrEnum):
    """What can change from a reply to the next, in the order of texts."""

    REFLEXIVE_IP = "reflexive_ip"
    REFLEXIVE_PORT = "reflexive_port"
    POD = "pod"
    NODE = "node"
    INSTANCE = "instance"
    SOFTWARE = "software"


class Identity(NamedTuple):
    """Who answered, and the address it observed. A field is None where the reply did not say; that is never a change."""

    reflexive: TransportAddress | None = None
    """XOR-MAPPED-ADDRESS: the reflexive transport address, "x_address" in logs."""
    pod: str | None = None
    """POD-NAME."""
    node: str | None = None
    """NODE-NAME."""
    instance: bytes | None = None
    """INSTANCE-ID: 8 random bytes drawn when the server started."""
    software: str | None = None
    """SOFTWARE; it counts as a change only between replies that name no pod (a foreign STUN server)."""

    def value(self, kind: Kind) -> str | int | bytes | None:
        """Return the value of one kind; None when the reply did not say."""
        match kind:
            case Kind.REFLEXIVE_IP:
                return self.reflexive.ip if self.reflexive else None
            case Kind.REFLEXIVE_PORT:
                return self.reflexive.port if self.reflexive else None
            case Kind.POD:
                return self.pod
            case Kind.NODE:
                return self.node
            case Kind.INSTANCE:
                return self.instance
            case _:  # Kind.SOFTWARE
                return None if self.pod is not None else self.software


def differing(first: Identity, second: Identity) -> tuple[Kind, ...]:
    """Return the kinds that both have and in which they differ."""
    return tuple(
        kind
        for kind in Kind
        if (a := first.value(kind)) is not None and (b := second.value(kind)) is not None and a != b
    )
