"""Binding requests: the client makes them, the server reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from affinity_tester.core.stun.attributes import PROBE_PADDING, REPLY_DELAY
from affinity_tester.core.stun.message import (
    BINDING_REQUEST,
    HEADER_SIZE,
    INTEGRITY_SIZE,
    MAX_WALKED_SIZE,
    REPLY_DELAY_SIZE,
    add_integrity,
    check_integrity,
    pack_header,
    read_attributes,
    read_type,
)
from affinity_tester.errors import StunError

TRANSACTION_ID_SIZE = 12
MAX_SIZE = 65_504
"""The largest multiple of 4 that fits into a UDP datagram over IPv4 (65,507 bytes)."""


class BindingRequest(NamedTuple):
    """A well-formed Binding request."""

    transaction_id: bytes
    """12 bytes."""
    size: int
    """Bytes of the datagram: no reply with identity may be longer."""
    unknown_required: tuple[int, ...]
    """Comprehension-required attribute types that nobody here understands: to be answered by a 420 (section 6.3.1)."""


def new_request(transaction_id: bytes, size: int = 288, key: bytes | None = None, delay_ms: int | None = None) -> bytes:
    """Return a probe of exactly `size` bytes, with MESSAGE-INTEGRITY-SHA256 when there is a key.

    `delay_ms` asks for another reply after so long, which takes 8 bytes of the size.

    `size` is never rounded. Possible are the multiples of 4 from 20 (a bare header) to 65,504; with a key from 56 to 2,048,
    the most that a server reads. Raises `ValueError` for any other.
    """
    if len(transaction_id) != TRANSACTION_ID_SIZE:
        raise ValueError(f"a transaction id has 12 bytes, not {len(transaction_id)}")
    reserved = 0 if key is None else INTEGRITY_SIZE
    if delay_ms is None:
        head, tail = _parts(size, reserved)
        message = head + transaction_id + tail
    else:
        head, tail = _parts(size, reserved + REPLY_DELAY_SIZE)
        message = head + transaction_id + REPLY_DELAY.encode(delay_ms) + tail
    return message if key is None else add_integrity(message, key)


@lru_cache(maxsize=64)
def _parts(size: int, reserved: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after the transaction id of a probe, without the `reserved` ones at its end."""
    smallest, largest = HEADER_SIZE + reserved, MAX_WALKED_SIZE if reserved else MAX_SIZE
    if size % 4 or not smallest <= size <= largest:
        raise ValueError(f"a probe cannot have {size} bytes: a multiple of 4 from {smallest} to {largest} can be")
    room = size - smallest
    return pack_header(BINDING_REQUEST, size - HEADER_SIZE), PROBE_PADDING.encode(bytes(room - 4)) if room else b""


@lru_cache(maxsize=64)
def plain_probe_template(size: int) -> tuple[bytes, bytes]:
    """Return the header's first 8 bytes, and the 4 after the header (none in a bare one), of a keyless probe of `size` bytes.

    For a size that no probe can have, return bytes that no STUN message starts with.
    """
    if size % 4 or not HEADER_SIZE <= size <= MAX_SIZE:
        return b"\xff" * 8, b""
    head, tail = _parts(size, 0)
    return head, tail[:4]


def is_plain_probe(data: bytes) -> bool:
    """True if `data` is a keyless probe: a header, and one PROBE-PADDING that fills any rest.

    The server asks this first, since it is quick. True implies that `decode_request(data)` succeeds, with transaction id
    `data[8:20]` and nothing unknown.
    """
    head, padding = plain_probe_template(len(data))
    return data.startswith(head) and data.startswith(padding, HEADER_SIZE)


def decode_request(data: bytes, key: bytes | None = None) -> BindingRequest:
    """Read a Binding request; with a key it must carry a valid MESSAGE-INTEGRITY-SHA256. Raises `StunError`.

    Anybody may send one, so its cost is bounded: few attributes are read, and their values only after the key is checked.
    """
    if key is None and is_plain_probe(data):
        return BindingRequest(data[8:HEADER_SIZE], len(data), ())
    return decode_request_and_delay(data, key)[0]


def decode_request_and_delay(data: bytes, key: bytes | None = None) -> tuple[BindingRequest, int | None]:
    """Return what `decode_request` does, and the request's REPLY-DELAY in milliseconds; None where it has none.

    The attributes are read once, so a request without one costs nothing more. Raises `StunError`.
    """
    message_type = read_type(data)
    if message_type != BINDING_REQUEST:
        raise StunError("wrong-type", f"0x{message_type:04X}")
    attributes = read_attributes(data)
    if key is not None:
        check_integrity(data, attributes, key)
    request = BindingRequest(attributes.transaction_id, len(data), attributes.unknown_required())
    return request, attributes.get(REPLY_DELAY) if REPLY_DELAY.type in attributes.values else None
