"""What requests and responses share: header, attributes, FINGERPRINT, integrity, transaction ids."""

from __future__ import annotations

import hmac
import struct
import zlib
from typing import NamedTuple

from affinity_tester.core.stun.attributes import (
    ATTRIBUTES,
    COMPREHENSION_OPTIONAL,
    FINGERPRINT,
    MAGIC_COOKIE,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    REPLY_DELAY,
    Attribute,
    T,
    malformed,
)
from affinity_tester.errors import StunError

HEADER_SIZE = 20
"""Type (2), length (2), magic cookie (4), transaction id (12): RFC 8489 section 5."""

BINDING_REQUEST = 0x0001
BINDING_SUCCESS = 0x0101
BINDING_ERROR = 0x0111

INTEGRITY_SIZE = 36
"""Bytes of a whole MESSAGE-INTEGRITY-SHA256."""

MAX_WALKED_SIZE = 2048
"""The longest message whose attributes are read: longer than the usual MTU, which section 6.1 makes the limit.

It bounds what anybody's datagram can cost: reading the attributes, a CRC-32 and an HMAC. A plain probe may be longer, since
its attributes are not read.
"""

MAX_WALKED_ATTRIBUTES = 32
"""The most attributes that a message may have: RFC 8489 knows 20 in all, and a message has few of them."""

REPLY_DELAY_SIZE = 8
"""Bytes of a whole REPLY-DELAY."""

_FINGERPRINT_MASK = 0x5354554E
"""XORed with the CRC-32 (section 14.7), so that it differs from one of an inner protocol."""

_HEADER = struct.Struct("!HHI")
_ATTRIBUTE = struct.Struct("!HH")
_TRANSACTION_ID = struct.Struct("!QI")
_TOP_BITS = 0xC000
_FINGERPRINT = FINGERPRINT.type
_BOTH_INTEGRITIES = (MESSAGE_INTEGRITY.type, MESSAGE_INTEGRITY_SHA256.type)
"""In the order in which a message may have both (section 14.6)."""


def pack_transaction_id(token: int, seq: int) -> bytes:
    """Return 12 bytes: session token (64 bits) || sequence number (32 bits). Raises `ValueError` if one does not fit."""
    try:
        return _TRANSACTION_ID.pack(token, seq)
    except struct.error:
        raise ValueError(f"token {token} or sequence number {seq} does not fit into a transaction id") from None


def unpack_transaction_id(transaction_id: bytes) -> tuple[int, int]:
    """Return (session token, sequence number) of 12 bytes. Raises `ValueError` for another length."""
    try:
        return _TRANSACTION_ID.unpack(transaction_id)
    except struct.error:
        raise ValueError(f"a transaction id has 12 bytes, not {len(transaction_id)}") from None


def pack_header(message_type: int, length: int) -> bytes:
    """Return the header's first eight bytes; the transaction id follows. `length` counts the bytes after the header."""
    return _HEADER.pack(message_type, length, MAGIC_COOKIE)


def read_type(data: bytes) -> int:
    """Check the header (section 6.3) and return the message type. Raises `StunError`."""
    size = len(data)
    if size < HEADER_SIZE:
        raise StunError("too-short", f"{size} bytes")
    message_type, length, cookie = _HEADER.unpack_from(data)
    if message_type & _TOP_BITS:
        raise StunError("not-stun", "the first two bits are not zero")
    if length % 4 or length != size - HEADER_SIZE:
        raise StunError("bad-length", f"the header says {length}, the datagram has {size - HEADER_SIZE}")
    if cookie != MAGIC_COOKIE:
        raise StunError("legacy", "no magic cookie")
    return int(message_type)


class Attributes(NamedTuple):
    """The attributes of a message: the first of each type, none after the integrity (sections 14.5 and 14.6)."""

    transaction_id: bytes
    values: dict[int, tuple[int, bytes]]
    """Type -> (where the value starts in the datagram, the value), in wire order."""

    def get(self, attribute: Attribute[T]) -> T | None:
        """Return the attribute's value; None when the message lacks it. Raises `StunError` for a malformed one."""
        found = self.values.get(attribute.type)
        return None if found is None else attribute.unpack(found[1], self.transaction_id)

    def unknown_required(self, also_known: frozenset[int] = frozenset()) -> tuple[int, ...]:
        """Return the comprehension-required types that are neither in the table nor `also_known`, in wire order."""
        return tuple(
            kind
            for kind in self.values
            if kind < COMPREHENSION_OPTIONAL and kind not in ATTRIBUTES and kind not in also_known
        )


def read_attributes(data: bytes) -> Attributes:
    """Read the attributes of a datagram whose header `read_type` has checked. Raises `StunError`."""
    end = len(data)
    if end > MAX_WALKED_SIZE:
        raise StunError("too-long", f"{end} bytes, and at most {MAX_WALKED_SIZE} are read")
    values: dict[int, tuple[int, bytes]] = {}
    sealed_by = 0
    left = MAX_WALKED_ATTRIBUTES
    offset = HEADER_SIZE
    while offset < end:  # lengths are multiples of 4, so a type and a length are always there
        if not left:
            raise StunError("too-many-attributes", f"more than {MAX_WALKED_ATTRIBUTES}")
        left -= 1

        kind, length = _ATTRIBUTE.unpack_from(data, offset)
        start = offset + 4
        offset = start + length + (-length & 3)
        if offset > end:
            raise malformed(f"attribute 0x{kind:04X}", "runs past the end of the message")

        if kind == _FINGERPRINT:
            _check_fingerprint(data, start, length)
        elif sealed_by and (sealed_by, kind) != _BOTH_INTEGRITIES:
            continue  # sections 14.5 and 14.6: what follows the integrity is not protected by it, and is ignored
        elif kind not in values:
            values[kind] = (start, data[start : start + length])
            if kind in _BOTH_INTEGRITIES:
                sealed_by = kind
    return Attributes(data[8:HEADER_SIZE], values)


def _check_fingerprint(data: bytes, start: int, length: int) -> None:
    """Raise `StunError` unless FINGERPRINT is the last attribute and has the CRC-32 of all before it (section 14.7)."""
    if length != 4 or start + length != len(data):  # noqa: PLR2004 - a CRC-32
        raise malformed("FINGERPRINT", "is not the last attribute, or not of 4 bytes")
    if zlib.crc32(data[: start - 4]) ^ _FINGERPRINT_MASK != int.from_bytes(data[start:], "big"):
        raise StunError("bad-fingerprint")


def add_integrity(message: bytes, key: bytes) -> bytes:
    """Return the message with a MESSAGE-INTEGRITY-SHA256 at its end, which its length includes (section 14.6)."""
    length = len(message) - HEADER_SIZE + INTEGRITY_SIZE
    covered = message[:2] + length.to_bytes(2, "big") + message[4:]
    return covered + MESSAGE_INTEGRITY_SHA256.encode(hmac.digest(key, covered, "sha256"))


def check_integrity(data: bytes, attributes: Attributes, key: bytes) -> None:
    """Raise `StunError` unless the message has a MESSAGE-INTEGRITY-SHA256 that was made with `key`."""
    value = attributes.get(MESSAGE_INTEGRITY_SHA256)
    if value is None:
        raise StunError("no-integrity")

    start = attributes.values[MESSAGE_INTEGRITY_SHA256.type][0]
    # It was made over a header whose length ends with this attribute: a FINGERPRINT after it was not there yet.
    covered = data[:2] + (start + len(value) - HEADER_SIZE).to_bytes(2, "big") + data[4 : start - 4]
    if not hmac.compare_digest(value, hmac.digest(key, covered, "sha256")):
        raise StunError("bad-integrity")


def read_reply_delay(data: bytes) -> int | None:
    """Return the REPLY-DELAY in milliseconds of a message that its decoder has accepted; None where it has none.

    Raises `StunError` for a malformed one.
    """
    return read_attributes(data).get(REPLY_DELAY)
