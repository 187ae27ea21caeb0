"""The table of attributes: each row packs and unpacks."""

from __future__ import annotations

import pytest

from affinity_tester.core.address import TransportAddress
from affinity_tester.core.stun.attributes import ATTRIBUTES, UNKNOWN_ATTRIBUTES, ErrorCode
from affinity_tester.errors import StunError

# Attributes whose value has a meaning here; the others are bytes as they are.
EXAMPLES: dict[str, tuple[object, str]] = {
    "MAPPED-ADDRESS": (TransportAddress("203.0.113.7", 40312), "00019d78cb007107"),
    "XOR-MAPPED-ADDRESS": (TransportAddress("203.0.113.7", 40312), "0001bc6aea12d545"),
    "SOFTWARE": ("soft", "736f6674"),
    "POD-NAME": ("pod-é", "706f642dc3a9"),
    "NODE-NAME": ("node", "6e6f6465"),
    "RECEIVED-COUNT": (258, "00000102"),
    "REPLY-DELAY": (15_000, "00003a98"),
    "ERROR-CODE": (ErrorCode(420, "no"), "000004146e6f"),
    "UNKNOWN-ATTRIBUTES": ((3, 0x24), "00030024"),
    "INSTANCE-ID": (bytes(range(8)), bytes(range(8)).hex()),
    "FINGERPRINT": (b"abcd", "61626364"),
    "MESSAGE-INTEGRITY-SHA256": (bytes(32), bytes(32).hex()),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_a_row_packs_and_unpacks(kind: int) -> None:
    row = ATTRIBUTES[kind]
    value, wire = EXAMPLES.get(row.name, (b"raw", "726177"))
    assert row.pack(value, bytes(12)).hex() == wire
    assert row.unpack(bytes.fromhex(wire), bytes(12)) == value
    assert row.encode(value, bytes(12))[:4] == kind.to_bytes(2, "big") + (len(wire) // 2).to_bytes(2, "big")


def test_a_list_of_types_has_an_even_length() -> None:
    with pytest.raises(StunError, match="UNKNOWN-ATTRIBUTES has 3 bytes"):
        UNKNOWN_ATTRIBUTES.unpack(b"abc", b"")


def test_no_two_rows_share_a_name() -> None:
    assert len({row.name for row in ATTRIBUTES.values()}) == len(ATTRIBUTES) == 22
