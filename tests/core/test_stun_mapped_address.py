"""What a reference answers: XOR-MAPPED-ADDRESS, or MAPPED-ADDRESS alone from a server as old as RFC 3489."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core import stun
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.stun.attributes import ERROR_CODE, MAPPED_ADDRESS, SOFTWARE, XOR_MAPPED_ADDRESS, ErrorCode
from affinity_tester.core.stun.message import BINDING_ERROR, BINDING_SUCCESS, pack_header
from affinity_tester.errors import StunError

TXID = stun.pack_transaction_id(0x0102030405060708, 9)
SEEN = TransportAddress("203.0.113.7", 40312)
SEEN_6 = TransportAddress("2001:db8::7", 40312)
SOURCE_ADDRESS = bytes.fromhex("000400080001d9a6c0000201")
"""An attribute of RFC 3489 that must not be understood any more."""


def message(kind: int, *attributes: bytes) -> bytes:
    body = b"".join(attributes)
    return pack_header(kind, len(body)) + TXID + body


@pytest.mark.parametrize("seen", [SEEN, SEEN_6])
def test_the_xored_address_goes_before_the_plain_one(seen: TransportAddress) -> None:
    other = TransportAddress("192.0.2.99", 1)
    for attributes in ([XOR_MAPPED_ADDRESS.encode(seen, TXID)], [MAPPED_ADDRESS.encode(seen, TXID)]):
        assert stun.decode_mapped_address(message(BINDING_SUCCESS, *attributes)) == seen
    both = message(BINDING_SUCCESS, MAPPED_ADDRESS.encode(other, TXID), XOR_MAPPED_ADDRESS.encode(seen, TXID))
    assert stun.decode_mapped_address(both) == seen


def test_a_server_of_rfc_3489_is_read() -> None:
    """It takes the magic cookie for a part of the transaction id, and gives it back (RFC 5389 section 12.2)."""
    assert (
        stun.decode_mapped_address(message(BINDING_SUCCESS, MAPPED_ADDRESS.encode(SEEN, TXID), SOURCE_ADDRESS)) == SEEN
    )


@pytest.mark.parametrize(
    ("datagram", "reason", "detail"),
    [
        (message(BINDING_SUCCESS, SOFTWARE.encode("x")), "malformed-attribute", "XOR-MAPPED-ADDRESS is missing"),
        (message(BINDING_SUCCESS, bytes.fromhex("0001000400010000")), "malformed-attribute", "MAPPED-ADDRESS has family 1"),
        (message(BINDING_ERROR, ERROR_CODE.encode(ErrorCode(401, "no"))), "error-response", "401 no"),
        (message(BINDING_SUCCESS, bytes.fromhex("7ffe0000")), "unknown-attribute", "0x7FFE"),
        (stun.new_request(TXID), "wrong-type", "0x0001"),
    ],
)  # fmt: skip
def test_anything_else_is_an_error(datagram: bytes, reason: str, detail: str) -> None:
    with pytest.raises(StunError) as raised:
        stun.decode_mapped_address(datagram)
    assert raised.value.reason == reason
    assert raised.value.detail.startswith(detail)


@given(
    st.binary(max_size=80)
    | st.binary(max_size=60).map(lambda body: message(BINDING_SUCCESS, body + bytes(-len(body) % 4)))
)
def test_any_bytes_are_an_address_or_the_one_error(datagram: bytes) -> None:
    with contextlib.suppress(StunError):
        stun.decode_mapped_address(datagram)
