"""Binding responses: the server makes them, the client reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from affinity_tester import __version__
from affinity_tester.core.address import TransportAddress
from affinity_tester.core.identity import Identity
from affinity_tester.core.stun.attributes import (
    ERROR_CODE,
    INSTANCE_ID,
    MAPPED_ADDRESS,
    NODE_NAME,
    POD_NAME,
    RECEIVED_COUNT,
    REPLY_DELAY,
    SOFTWARE,
    UNKNOWN_ATTRIBUTES,
    XOR_MAPPED_ADDRESS,
    ErrorCode,
    malformed,
)
from affinity_tester.core.stun.message import (
    BINDING_ERROR,
    BINDING_SUCCESS,
    HEADER_SIZE,
    INTEGRITY_SIZE,
    REPLY_DELAY_SIZE,
    Attributes,
    add_integrity,
    check_integrity,
    pack_header,
    read_attributes,
    read_type,
)
from affinity_tester.errors import StunError

SERVER_SOFTWARE = f"affinity-tester/{__version__}"

WILDCARD_SOFTWARE = f"{SERVER_SOFTWARE} wildcard"
"""The SOFTWARE of a server that listens on a wildcard: its replies may leave from another address than requests came to."""

_RFC3489_RESPONSE_TYPES = frozenset({0x0004, 0x0005})
"""SOURCE-ADDRESS and CHANGED-ADDRESS: servers that speak RFC 3489 too add them to each reply. They are ignored."""

_IPV6_REFLEXIVE = bytes.fromhex("002000140002")
"""How an XOR-MAPPED-ADDRESS of IPv6 starts: type, length, reserved byte, family."""

_ERROR_TYPE = BINDING_ERROR.to_bytes(2, "big")

MAX_COUNT = 0xFFFF_FFFF
"""The largest RECEIVED-COUNT, which has 32 bits; 0 follows it."""


def listens_on_wildcard(software: str | None) -> bool:
    """True if the SOFTWARE is that of our server, of any version, listening on a wildcard."""
    make, _, rest = (software or "").partition("/")
    return make == "affinity-tester" and rest.endswith(" wildcard")


def is_error_response(message: bytes) -> bool:
    """True if a message of `ResponseEncoder` is the 420 error response."""
    return message.startswith(_ERROR_TYPE)


class BindingResponse(NamedTuple):
    """A well-formed Binding success response."""

    transaction_id: bytes
    """12 bytes."""
    identity: Identity
    received_count: int | None
    """RECEIVED-COUNT; None when the reply has none."""


def decode_response(data: bytes, key: bytes | None = None) -> BindingResponse:
    """Read a Binding success response; with a key it must carry a valid MESSAGE-INTEGRITY-SHA256. Raises `StunError`.

    The reflexive address of one without XOR-MAPPED-ADDRESS is None.
    """
    attributes = _read_success(data, key)
    identity = Identity(
        reflexive=attributes.get(XOR_MAPPED_ADDRESS),
        pod=attributes.get(POD_NAME),
        node=attributes.get(NODE_NAME),
        instance=attributes.get(INSTANCE_ID),
        software=attributes.get(SOFTWARE),
    )
    return BindingResponse(attributes.transaction_id, identity, attributes.get(RECEIVED_COUNT))


def decode_mapped_address(data: bytes) -> TransportAddress:
    """Return the reflexive address of a Binding success response, from a server that may be as old as RFC 3489.

    Such a server answers a request of today with MAPPED-ADDRESS alone (RFC 5389 section 12.1). Raises `StunError`:
    as `decode_response`, or `malformed-attribute` for a response with no address at all.
    """
    attributes = _read_success(data, None)
    mapped = attributes.get(XOR_MAPPED_ADDRESS) or attributes.get(MAPPED_ADDRESS)
    if mapped is None:
        raise malformed("XOR-MAPPED-ADDRESS", "is missing, and so is MAPPED-ADDRESS")
    return mapped


def _read_success(data: bytes, key: bytes | None) -> Attributes:
    """Return the attributes of a Binding success response. Raises `StunError`."""
    message_type = read_type(data)
    if message_type not in (BINDING_SUCCESS, BINDING_ERROR):
        raise StunError("wrong-type", f"0x{message_type:04X}")

    attributes = read_attributes(data)
    if message_type == BINDING_ERROR:
        error = attributes.get(ERROR_CODE)
        raise StunError("error-response", f"{error.code} {error.reason}".rstrip() if error else "no code")
    if key is not None:
        check_integrity(data, attributes, key)
    unknown = attributes.unknown_required(_RFC3489_RESPONSE_TYPES)
    if unknown:
        raise StunError("unknown-attribute", ", ".join(f"0x{kind:04X}" for kind in unknown))
    return attributes


class ReplyTemplate(NamedTuple):
    """The reply to one source and one request size, without the transaction id and the count."""

    head: bytes
    """The header's first 8 bytes."""
    address: bytes
    """XOR-MAPPED-ADDRESS, up to what is XORed with the transaction id."""
    hidden: int | None
    """The IPv6 address, XORed with all but the transaction id; None for IPv4, which is not XORed with that."""
    rest: bytes
    counted: bool
    """True if a RECEIVED-COUNT's value follows."""
    key: bytes | None

    def mapped(self, transaction_id: bytes) -> bytes:
        """Return XOR-MAPPED-ADDRESS; for IPv4 it is the same for each transaction."""
        if self.hidden is None:
            return self.address
        return self.address + (self.hidden ^ int.from_bytes(transaction_id, "big")).to_bytes(16, "big")

    def render(self, transaction_id: bytes, count: int) -> bytes:
        """Return the datagram to send."""
        message = self.head + transaction_id + self.mapped(transaction_id) + self.rest
        if self.counted:
            message += (count & MAX_COUNT).to_bytes(4, "big")
        return message if self.key is None else add_integrity(message, self.key)


class ResponseEncoder:
    """Makes the replies of one server, with what it says of itself.

    A reply with identity is never longer than its request: what does not fit is left out, in the order NODE-NAME,
    SOFTWARE, RECEIVED-COUNT, INSTANCE-ID, POD-NAME. XOR-MAPPED-ADDRESS (and, when keyed, the integrity) is in every
    reply, since STUN demands it: such a reply has 32 bytes, 44 for IPv6, and so may exceed the shortest requests.
    """

    def __init__(
        self,
        pod_name: str,
        node_name: str | None,
        instance_id: bytes,
        software: str = SERVER_SOFTWARE,
        key: bytes | None = None,
    ) -> None:
        """Raise `ValueError` for a name not of 1 to 253 printable UTF-8 bytes, or an instance id not of 8 bytes."""
        if len(instance_id) != 8:  # noqa: PLR2004 - docs/protocol.md
            raise ValueError(f"an instance id has 8 bytes, not {len(instance_id)}")
        self._key = key
        self._optional = {
            SOFTWARE.type: SOFTWARE.encode(software),
            POD_NAME.type: POD_NAME.encode(pod_name),
            NODE_NAME.type: NODE_NAME.encode(node_name) if node_name is not None else b"",
            INSTANCE_ID.type: INSTANCE_ID.encode(instance_id),
            RECEIVED_COUNT.type: RECEIVED_COUNT.encode(0)[:4],
        }
        # One encoder serves few request sizes: what fits is worked out once for each.
        self._fitting = lru_cache(maxsize=256)(self._fit)

    def _fit(self, room: int) -> tuple[bytes, bool]:
        """Return the attributes after XOR-MAPPED-ADDRESS that fit into `room` bytes, and whether a count's value follows."""
        kept = dict(self._optional)
        for kind in (NODE_NAME.type, SOFTWARE.type, RECEIVED_COUNT.type, INSTANCE_ID.type, POD_NAME.type):
            if sum(map(len, kept.values())) + 4 * (RECEIVED_COUNT.type in kept) <= room:
                break
            del kept[kind]
        return b"".join(kept.values()), RECEIVED_COUNT.type in kept

    def template(self, source: tuple[str, int], limit: int) -> ReplyTemplate:
        """Return the reply to `source` for a request of `limit` bytes; it stays the same as long as the flow lives."""
        reflexive = TransportAddress(source[0].partition("%")[0], source[1])
        address = XOR_MAPPED_ADDRESS.encode(reflexive, bytes(12))
        integrity = 0 if self._key is None else INTEGRITY_SIZE
        rest, counted = self._fitting(max(0, limit - HEADER_SIZE - len(address) - integrity))
        head = pack_header(BINDING_SUCCESS, len(address) + len(rest) + 4 * counted)

        if not address.startswith(_IPV6_REFLEXIVE):
            return ReplyTemplate(head, address, None, rest, counted, self._key)
        # Encoded with a transaction id of zeros, so what is hidden lacks that XOR alone.
        return ReplyTemplate(head, address[:8], int.from_bytes(address[8:], "big"), rest, counted, self._key)

    def encode(self, transaction_id: bytes, source: tuple[str, int], count: int, limit: int) -> bytes:
        """Return the success response to a request of `limit` bytes that came from `source` (IP address, port)."""
        return self.template(source, limit).render(transaction_id, count)

    def encode_delayed(
        self, transaction_id: bytes, source: tuple[str, int], count: int, limit: int, delay_ms: int
    ) -> bytes | None:
        """Return `encode` with a REPLY-DELAY, and so with less of the rest where that is too long.

        None if it is longer than `limit` bytes with nothing else.
        """
        template = self.template(source, limit - REPLY_DELAY_SIZE)
        body = template.mapped(transaction_id) + REPLY_DELAY.encode(delay_ms) + template.rest
        if template.counted:
            body += (count & MAX_COUNT).to_bytes(4, "big")
        message = pack_header(BINDING_SUCCESS, len(body)) + transaction_id + body
        if self._key is not None:
            message = add_integrity(message, self._key)
        return message if len(message) <= limit else None

    def encode_unknown(self, transaction_id: bytes, unknown: tuple[int, ...], limit: int) -> bytes | None:
        """Return the 420 error response (section 6.3.1), with a reason phrase if that fits; None if it is too long."""
        for reason in ("Unknown Attribute", ""):
            body = ERROR_CODE.encode(ErrorCode(420, reason)) + UNKNOWN_ATTRIBUTES.encode(unknown)
            message = pack_header(BINDING_ERROR, len(body)) + transaction_id + body
            if self._key is not None:
                message = add_integrity(message, self._key)
            if len(message) <= limit:
                return message
        return None
