"""The attributes: one table of type, RFC name, pack and unpack (RFC 8489 section 14; own ones: docs/protocol.md).

`pack` and `unpack` take the message's transaction id too, since an XOR-MAPPED-ADDRESS of IPv6 is XORed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from sys import intern
from typing import Any, Generic, NamedTuple, TypeVar

from affinity_tester.core.address import TransportAddress, parse_ip
from affinity_tester.errors import StunError

MAGIC_COOKIE = 0x2112A442
"""The bytes 4 to 8 of every message (RFC 8489 section 5)."""

COMPREHENSION_OPTIONAL = 0x8000
"""Types from here on may be ignored by a reader that does not know them (section 14)."""

MAX_NAME_BYTES = 253
"""The longest DNS subdomain name, so the longest name of a pod or node in Kubernetes."""

_MAX_SOFTWARE_BYTES = 763
"""The limit of section 14.14 for a reader."""

_FAMILY_IPV4, _FAMILY_IPV6 = 1, 2
_IPV4_VALUE_SIZE, _IPV6_VALUE_SIZE = 8, 20
_PORT_MASK = MAGIC_COOKIE >> 16

T = TypeVar("T")


class ErrorCode(NamedTuple):
    """ERROR-CODE's value (section 14.8)."""

    code: int
    """300 to 699."""
    reason: str


@dataclass(frozen=True, slots=True)
class Attribute(Generic[T]):
    """One row of the table. `unpack` raises `StunError("malformed-attribute")`; `pack` trusts its caller."""

    type: int
    name: str
    """As the RFC (or docs/protocol.md) writes it."""
    pack: Callable[[T, bytes], bytes]
    """(value, transaction id) -> the value's bytes, without padding."""
    unpack: Callable[[bytes, bytes], T]
    """(the value's bytes, transaction id) -> value."""

    def encode(self, value: T, transaction_id: bytes = b"") -> bytes:
        """Return the whole attribute: type, length, value, zeros up to a multiple of 4."""
        packed = self.pack(value, transaction_id)
        return b"".join(
            (self.type.to_bytes(2, "big"), len(packed).to_bytes(2, "big"), packed, bytes(-len(packed) % 4)),
        )


def malformed(name: str, detail: str) -> StunError:
    """Return the error for an attribute whose value is not what its type demands."""
    return StunError("malformed-attribute", f"{name} {detail}")


def check_name(what: str, name: str) -> bytes:
    """Return the UTF-8 of a pod's or node's name. Raises `ValueError` for one that a reply cannot carry.

    Names are printed on people's terminals, so control characters are refused by encoder and decoder alike.
    """
    try:
        packed = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} is not valid text") from None
    if not packed or len(packed) > MAX_NAME_BYTES:
        raise ValueError(f"{what} has {len(packed)} bytes of UTF-8: 1 to {MAX_NAME_BYTES} are possible")
    if not name.isprintable():
        raise ValueError(f"{what} holds characters that cannot be printed")
    return packed


# --- values ----------------------------------------------------------------------------------------------------------


def _pack_raw(value: bytes, _transaction_id: bytes) -> bytes:
    return value


def _unpack_raw(value: bytes, _transaction_id: bytes) -> bytes:
    return value


def ipv6_mask(transaction_id: bytes) -> int:
    """Return what an IPv6 address is XORed with: magic cookie || transaction id (section 14.2)."""
    return MAGIC_COOKIE << 96 | int.from_bytes(transaction_id, "big")


def _pack_xor_address(value: TransportAddress, transaction_id: bytes) -> bytes:
    port = (value.port ^ _PORT_MASK).to_bytes(2, "big")
    if not value.is_ipv6:
        # A server does this for each new flow; `parse_ip` takes four times as long.
        first, second, third, fourth = map(int, value.ip.split("."))
        packed = int.from_bytes(bytes((first, second, third, fourth)), "big")
        return b"\x00\x01" + port + (packed ^ MAGIC_COOKIE).to_bytes(4, "big")
    address = parse_ip(value.ip)
    if isinstance(address, IPv4Address):
        return b"\x00\x01" + port + (int(address) ^ MAGIC_COOKIE).to_bytes(4, "big")
    return b"\x00\x02" + port + (int(address) ^ ipv6_mask(transaction_id)).to_bytes(16, "big")


def _unpack_xor_address(value: bytes, transaction_id: bytes) -> TransportAddress:
    return _read_address("XOR-MAPPED-ADDRESS", value, _PORT_MASK, MAGIC_COOKIE, ipv6_mask(transaction_id))


def _pack_address(value: TransportAddress, _transaction_id: bytes) -> bytes:
    address = parse_ip(value.ip)
    family = _FAMILY_IPV4 if isinstance(address, IPv4Address) else _FAMILY_IPV6
    return bytes((0, family)) + value.port.to_bytes(2, "big") + address.packed


def _unpack_address(value: bytes, _transaction_id: bytes) -> TransportAddress:
    return _read_address("MAPPED-ADDRESS", value, 0, 0, 0)


def _read_address(name: str, value: bytes, port_mask: int, ipv4_mask: int, ipv6_mask: int) -> TransportAddress:
    """Read the form that both address attributes have (sections 14.1 and 14.2), XORed with these."""
    family = value[1] if len(value) > 1 else 0
    port = int.from_bytes(value[2:4], "big") ^ port_mask
    hidden = int.from_bytes(value[4:], "big")
    if family == _FAMILY_IPV4 and len(value) == _IPV4_VALUE_SIZE:
        return TransportAddress(intern(str(IPv4Address(hidden ^ ipv4_mask))), port)
    if family == _FAMILY_IPV6 and len(value) == _IPV6_VALUE_SIZE:
        return TransportAddress(intern(str(IPv6Address(hidden ^ ipv6_mask))), port)
    raise malformed(name, f"has family {family} and {len(value)} bytes")


def _text(name: str) -> tuple[Callable[[str, bytes], bytes], Callable[[bytes, bytes], str]]:
    """Return `pack` and `unpack` of an attribute that holds a name: UTF-8 of 1 to 253 printable bytes."""

    def pack(value: str, _transaction_id: bytes) -> bytes:
        return check_name(name, value)

    def unpack(value: bytes, _transaction_id: bytes) -> str:
        try:
            text = value.decode()
            check_name(name, text)
        except UnicodeDecodeError:
            raise malformed(name, "is not UTF-8") from None
        except ValueError as error:
            raise StunError("malformed-attribute", str(error)) from None
        return intern(text)  # 10,000 sessions hear the same few names

    return pack, unpack


def _pack_software(value: str, _transaction_id: bytes) -> bytes:
    return value.encode()


def _unpack_software(value: bytes, _transaction_id: bytes) -> str:
    """Read a server's description of itself. Nothing depends on it, so what cannot be shown is replaced, not refused."""
    if len(value) > _MAX_SOFTWARE_BYTES:
        raise malformed("SOFTWARE", f"has {len(value)} bytes: at most {_MAX_SOFTWARE_BYTES} are possible")
    text = value.decode(errors="replace").rstrip("\0")  # some servers send C's end of string too
    if not text.isprintable():
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return intern(text)


def _unpack_exactly(name: str, size: int) -> Callable[[bytes, bytes], bytes]:
    def unpack(value: bytes, _transaction_id: bytes) -> bytes:
        if len(value) != size:
            raise malformed(name, f"has {len(value)} bytes instead of {size}")
        return value

    return unpack


def _pack_u32(value: int, _transaction_id: bytes) -> bytes:
    return value.to_bytes(4, "big")


def _unpack_u32(name: str) -> Callable[[bytes, bytes], int]:
    unpack = _unpack_exactly(name, 4)
    return lambda value, transaction_id: int.from_bytes(unpack(value, transaction_id), "big")


def _pack_error_code(value: ErrorCode, _transaction_id: bytes) -> bytes:
    return bytes((0, 0, value.code // 100, value.code % 100)) + value.reason.encode()


def _unpack_error_code(value: bytes, transaction_id: bytes) -> ErrorCode:
    if len(value) < 4:  # noqa: PLR2004 - the fixed part of section 14.8
        raise malformed("ERROR-CODE", f"has {len(value)} bytes")
    return ErrorCode((value[2] & 7) * 100 + value[3], _unpack_software(value[4:], transaction_id))


def _pack_types(value: tuple[int, ...], _transaction_id: bytes) -> bytes:
    return b"".join(kind.to_bytes(2, "big") for kind in value)


def _unpack_types(value: bytes, _transaction_id: bytes) -> tuple[int, ...]:
    if len(value) % 2:
        raise malformed("UNKNOWN-ATTRIBUTES", f"has {len(value)} bytes")
    return tuple(int.from_bytes(value[at : at + 2], "big") for at in range(0, len(value), 2))


# --- the table -------------------------------------------------------------------------------------------------------

MAPPED_ADDRESS = Attribute(0x0001, "MAPPED-ADDRESS", _pack_address, _unpack_address)
XOR_MAPPED_ADDRESS = Attribute(0x0020, "XOR-MAPPED-ADDRESS", _pack_xor_address, _unpack_xor_address)
SOFTWARE = Attribute(0x8022, "SOFTWARE", _pack_software, _unpack_software)
POD_NAME = Attribute(0xC5A1, "POD-NAME", *_text("POD-NAME"))
NODE_NAME = Attribute(0xC5A2, "NODE-NAME", *_text("NODE-NAME"))
INSTANCE_ID = Attribute(0xC5A3, "INSTANCE-ID", _pack_raw, _unpack_exactly("INSTANCE-ID", 8))
RECEIVED_COUNT = Attribute(0xC5A4, "RECEIVED-COUNT", _pack_u32, _unpack_u32("RECEIVED-COUNT"))
REPLY_DELAY = Attribute(0xC5A6, "REPLY-DELAY", _pack_u32, _unpack_u32("REPLY-DELAY"))
PROBE_PADDING = Attribute(0xC5A0, "PROBE-PADDING", _pack_raw, _unpack_raw)
ERROR_CODE = Attribute(0x0009, "ERROR-CODE", _pack_error_code, _unpack_error_code)
UNKNOWN_ATTRIBUTES = Attribute(0x000A, "UNKNOWN-ATTRIBUTES", _pack_types, _unpack_types)
MESSAGE_INTEGRITY = Attribute(0x0008, "MESSAGE-INTEGRITY", _pack_raw, _unpack_raw)
# 32 bytes: truncation needs a STUN usage that allows it (section 14.6), and this one does not.
MESSAGE_INTEGRITY_SHA256 = Attribute(
    0x001C, "MESSAGE-INTEGRITY-SHA256", _pack_raw, _unpack_exactly("MESSAGE-INTEGRITY-SHA256", 32)
)
FINGERPRINT = Attribute(0x8028, "FINGERPRINT", _pack_raw, _unpack_exactly("FINGERPRINT", 4))

# The rest of RFC 8489's own (section 18.3): understood, and ignored.
_IGNORED = tuple(
    Attribute(kind, name, _pack_raw, _unpack_raw)
    for kind, name in (
        (0x0006, "USERNAME"),
        (0x0014, "REALM"),
        (0x0015, "NONCE"),
        (0x001D, "PASSWORD-ALGORITHM"),
        (0x001E, "USERHASH"),
        (0x8002, "PASSWORD-ALGORITHMS"),
        (0x8003, "ALTERNATE-DOMAIN"),
        (0x8023, "ALTERNATE-SERVER"),
    )
)

_TABLE: tuple[Attribute[Any], ...] = (
    MAPPED_ADDRESS,
    XOR_MAPPED_ADDRESS,
    SOFTWARE,
    POD_NAME,
    NODE_NAME,
    INSTANCE_ID,
    RECEIVED_COUNT,
    REPLY_DELAY,
    PROBE_PADDING,
    ERROR_CODE,
    UNKNOWN_ATTRIBUTES,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    FINGERPRINT,
    *_IGNORED,
)

ATTRIBUTES = {row.type: row for row in _TABLE}
"""By type: the attributes that this codec understands."""
