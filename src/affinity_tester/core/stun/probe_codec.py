"""One session's probes as bytes, and which replies belong to them.

This is the client's hot path: a reply that is like the last one is recognised by comparing bytes, and not decoded again.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from affinity_tester.core.identity import Identity
from affinity_tester.core.stun.attributes import RECEIVED_COUNT
from affinity_tester.core.stun.message import HEADER_SIZE, pack_transaction_id
from affinity_tester.core.stun.request import TRANSACTION_ID_SIZE, new_request
from affinity_tester.core.stun.response import decode_response
from affinity_tester.errors import StunError

_SEQ_AT = HEADER_SIZE - 4
"""Where the sequence number starts: the last four bytes of the header."""

_TOKEN_AT = HEADER_SIZE - TRANSACTION_ID_SIZE

_IPV6_REFLEXIVE = bytes.fromhex("002000140002")
"""How an XOR-MAPPED-ADDRESS of IPv6 starts: type, length, reserved byte, family."""

_IPV6_TAIL_AT = HEADER_SIZE + 4 + 4 + 12
"""Where the last four bytes of that address start: they are XORed with the sequence number."""

_IPV4_ADDRESS_END = HEADER_SIZE + 4 + 8
"""Where an XOR-MAPPED-ADDRESS of IPv4 ends."""

_COUNT_HEADER = RECEIVED_COUNT.encode(0)[:4]

_HEADER = Struct("!8sQI")
"""The first 8 bytes of a probe, the token, the sequence number."""


class ProbeCodec:
    """Makes the probes of one session token, with the given sizes in turn, and reads the replies to them.

    What 10,000 sessions have in common is kept once: what each has for itself is out of the CPU's caches by its next turn.
    """

    __slots__ = (
        "_address",
        "_head",
        "_identity",
        "_ipv6_tail",
        "_key",
        "_parts",
        "_rest",
        "_rest_at",
        "_size",
        "_template",
        "_token",
    )

    def __init__(self, token: int, sizes: tuple[int, ...], key: bytes | None = None) -> None:
        """`token` has 64 bits; probe `seq` has `sizes[seq % len(sizes)]` bytes.

        Raises `ValueError` for a size that no probe can have (`new_request`).
        """
        self._token = token
        self._key = key
        self._parts = _parts(sizes, key)

        # The last reply, without what differs in each: the next one mostly is like it.
        self._size = -1
        self._head = self._address = self._rest = b""
        self._rest_at = HEADER_SIZE
        self._ipv6_tail: int | None = None
        self._template = _reply_template(HEADER_SIZE + 4, is_ipv6=False)
        self._identity = Identity()

    @property
    def token(self) -> int:
        """The 64 bits that tell this session's probes, and the replies to them, from all others of the run."""
        return self._token

    def request(self, seq: int) -> bytes:
        """Return the probe with this sequence number."""
        before, after = self._parts[seq % len(self._parts)]
        if self._key is not None:
            size = HEADER_SIZE + len(after)
            return new_request(pack_transaction_id(self._token, seq), size, self._key)
        return _HEADER.pack(before, self._token, seq) + after

    def read(self, data: bytes | bytearray, size: int) -> tuple[int, Identity, int | None]:
        """Read the reply in the first `size` bytes: the sequence number it answers, who answered, and RECEIVED-COUNT.

        Raises `StunError`: as `decode_response`, or `other-transaction` for a reply to somebody else's request.
        """
        if (
            size == self._size
            and data.startswith(self._head)
            and data.startswith(self._address, HEADER_SIZE)
            and data.startswith(self._rest, self._rest_at)
        ):
            # Like the last reply, but for the sequence number (which masks the end of an IPv6 address) and the final count.
            if self._ipv6_tail is None:
                seq, count = self._template.unpack_from(data)
                return seq, self._identity, count
            seq, tail, count = self._template.unpack_from(data)
            if tail ^ seq == self._ipv6_tail:
                return seq, self._identity, count
        return self._decode(bytes(data[:size]))

    def _decode(self, data: bytes) -> tuple[int, Identity, int | None]:
        try:
            transaction_id, identity, count = decode_response(data, self._key)
        except StunError as error:
            if error.reason == "error-response" and not self._is_ours(data):
                raise StunError("other-transaction") from error
            raise
        if not self._is_ours(data):
            raise StunError("other-transaction")

        seq = int.from_bytes(transaction_id[8:], "big")
        ends_with_count = data[-8:-4] == _COUNT_HEADER and int.from_bytes(data[-4:], "big") == count
        if self._key is None and ends_with_count and identity.reflexive is not None:
            self._cache_reply(data, seq, identity, is_ipv6=identity.reflexive.is_ipv6)
        return seq, identity, count

    def _cache_reply(self, data: bytes, seq: int, identity: Identity, *, is_ipv6: bool) -> None:
        """Remember a reply that ends with its count, to recognise the next one that is like it."""
        if not is_ipv6:
            self._ipv6_tail, self._address, self._rest_at = None, data[HEADER_SIZE:_IPV4_ADDRESS_END], _IPV4_ADDRESS_END
        elif data.startswith(_IPV6_REFLEXIVE, HEADER_SIZE):
            self._ipv6_tail = int.from_bytes(data[_IPV6_TAIL_AT : _IPV6_TAIL_AT + 4], "big") ^ seq
            self._address, self._rest_at = data[HEADER_SIZE:_IPV6_TAIL_AT], _IPV6_TAIL_AT + 4
        else:
            return  # a server of another make puts the address elsewhere
        self._rest = _shared(data[self._rest_at : -4])
        self._size, self._head, self._identity = len(data), data[:_SEQ_AT], identity
        self._template = _reply_template(len(data), is_ipv6=is_ipv6)

    def _is_ours(self, message: bytes) -> bool:
        """True if a whole header has this session's token."""
        return int.from_bytes(message[_TOKEN_AT : _TOKEN_AT + 8], "big") == self._token

    def seq_of_quoted(self, probe: bytes) -> int | None:
        """Return the sequence number of a probe that an ICMP error quotes; None when it is cut too short to tell.

        Raises `StunError` (`other-transaction`) for a probe of another session, which had the port before.
        """
        if len(probe) < HEADER_SIZE:
            return None
        head, token, seq = _HEADER.unpack_from(probe)
        if token != self._token or head[4:] != self._parts[0][0][4:]:
            raise StunError("other-transaction")
        return int(seq)


def token_in(data: bytes | bytearray) -> int:
    """Return the session token in a message that has a whole header."""
    return int(_HEADER.unpack_from(data)[1])


@lru_cache(maxsize=64)
def _parts(sizes: tuple[int, ...], key: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """Return for each size the bytes before and after the transaction id."""
    requests = [new_request(bytes(TRANSACTION_ID_SIZE), size, key) for size in sizes]
    return tuple((request[:_TOKEN_AT], request[HEADER_SIZE:]) for request in requests)


@lru_cache(maxsize=64)
def _reply_template(size: int, *, is_ipv6: bool) -> Struct:
    """Return a struct of what differs between like replies: the sequence number, the end of an IPv6 address, the count."""
    if is_ipv6:
        return Struct(f"!{_SEQ_AT}xI{_IPV6_TAIL_AT - HEADER_SIZE}xI{size - _IPV6_TAIL_AT - 8}xI")
    return Struct(f"!{_SEQ_AT}xI{size - HEADER_SIZE - 4}xI")


@lru_cache(maxsize=1024)
def _shared(rest: bytes) -> bytes:
    """Return one and the same object for equal bytes: what a pod says of itself in every reply."""
    return rest
