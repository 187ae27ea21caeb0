"""One session on the wire: its probes, and which replies are to them. The client's hot path, so it does things once."""

from __future__ import annotations

from affinity_tester.core.identity import Identity
from affinity_tester.core.stun.attributes import RECEIVED_COUNT
from affinity_tester.core.stun.message import HEADER_SIZE, pack_transaction_id
from affinity_tester.core.stun.request import new_request
from affinity_tester.core.stun.response import ResponseDecoder
from affinity_tester.errors import StunError

_SEQ_AT = HEADER_SIZE - 4
"""Where the sequence number stands: the last four bytes of the header."""

_COUNT_HEADER = RECEIVED_COUNT.encode(0)[:4]


class Conversation:
    """Probes of one session token, by turns of the given sizes, and the replies to them."""

    __slots__ = ("_body", "_decoder", "_head", "_identity", "_key", "_parts", "_token")

    def __init__(self, token: int, sizes: tuple[int, ...], decoder: ResponseDecoder, key: bytes | None = None) -> None:
        """`token` has 64 bits; probe `seq` has `sizes[seq % len(sizes)]` bytes; all sessions share `decoder`.

        Raises `ValueError` for a size that no probe can have (`new_request`).
        """
        self._token = token
        self._key = key
        self._decoder = decoder
        whole = [new_request(pack_transaction_id(token, 0), size, key) for size in sizes]
        self._parts = tuple((request[:_SEQ_AT], request[HEADER_SIZE:]) for request in whole)
        # The reply seen last, but for what differs in each: the next one mostly is like it.
        self._head = b""
        self._body = b""
        self._identity = Identity()

    def request(self, seq: int) -> bytes:
        """The probe with this sequence number."""
        before, after = self._parts[seq % len(self._parts)]
        if self._key is not None:
            size = HEADER_SIZE + len(after)
            return new_request(pack_transaction_id(self._token, seq), size, self._key)
        return before + seq.to_bytes(4, "big") + after

    def read(self, data: bytes) -> tuple[int, Identity, int | None]:
        """Read a reply: the sequence number it answers, who answered, and RECEIVED-COUNT.

        Raises `StunError`: as `decode_response`, or `other-transaction` for a reply to somebody else's request.
        """
        if data[:_SEQ_AT] == self._head and data[HEADER_SIZE:-4] == self._body:
            # Alike in all but sequence number and count, which stands last; IPv4 is hidden by the magic cookie alone.
            return int.from_bytes(data[_SEQ_AT:HEADER_SIZE], "big"), self._identity, int.from_bytes(data[-4:], "big")
        transaction_id, identity, count = self._decoder.decode(data)
        if int.from_bytes(transaction_id[:8], "big") != self._token:
            raise StunError("other-transaction")
        if (
            self._key is None
            and data[-8:-4] == _COUNT_HEADER
            and not (identity.reflexive and identity.reflexive.is_ipv6)
        ):
            self._head, self._body, self._identity = data[:_SEQ_AT], data[HEADER_SIZE:-4], identity
        return int.from_bytes(transaction_id[8:], "big"), identity, count

    def quoted(self, probe: bytes) -> int | None:
        """The sequence number of a probe that an ICMP error quotes; None when it is cut too short, or another's."""
        if len(probe) < HEADER_SIZE or probe[4:_SEQ_AT] != self._parts[0][0][4:]:
            return None
        return int.from_bytes(probe[_SEQ_AT:HEADER_SIZE], "big")
