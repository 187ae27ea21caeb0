"""What the echo server answers to one datagram, and what it counts: no socket, no clock.

The server is public, so it must be harmless (docs/protocol.md): it answers Binding requests and nothing else, so that
two servers can never keep each other busy (CVE-2024-2169), and what it remembers is bounded.

It remembers flows, each with its prepared reply. At the bound a new flow takes the place of an old one, chosen by the
CLOCK algorithm: a scan passes over flows that were answered since the scan before, and evicts the first that was not.
A packet then costs no reordering, and a long silent flow goes before an active one, unless very many are active
(`MAX_EVICTION_SCAN`).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.stun import (
    HEADER_SIZE,
    MAX_COUNT,
    ReplyTemplate,
    ResponseEncoder,
    decode_request,
    is_error_response,
    is_plain_probe,
    plain_probe_marks,
)
from affinity_tester.errors import StunError

Source = tuple[Any, ...]
"""A socket's peer: (IP address, port), and for IPv6 flow label and scope, which tell sources apart too."""

MAX_EVICTION_SCAN = 1000
"""Flows passed over for one new flow: about a millisecond, which a socket's receive buffer bridges."""

_TOKEN = slice(8, 16)
"""The session token in a request: the transaction id's first 8 bytes."""

_NEVER = b""
"""As the start of a request: no datagram's."""


@lru_cache(maxsize=256)
def _unpacker(size: int) -> Callable[..., tuple[bytes, bytes, bytes]]:
    """Reads a request of so many bytes, and no other: its first 16, sequence number, and 4 more if there are any."""
    more = min(size - HEADER_SIZE, 4)
    return struct.Struct(f"16s4s{more}s{size - HEADER_SIZE - more}x").unpack


@lru_cache(maxsize=256)
def _packer(mapped_size: int, rest_size: int, counted: bool) -> Callable[..., bytes]:
    """Makes a reply of its first 16 bytes, sequence number, XOR-MAPPED-ADDRESS, the rest, and the count if there is one."""
    return struct.Struct(f">16s4s{mapped_size}s{rest_size}s{'I' if counted else ''}").pack


@dataclass(frozen=True, slots=True)
class ServerTotals:
    """What a server counted. `received == answered + refused + dropped` over all reasons."""

    received: int = 0
    """Datagrams."""
    answered: int = 0
    """Success responses."""
    refused: int = 0
    """420 error responses: an unknown comprehension-required attribute."""
    dropped: tuple[tuple[str, int], ...] = ()
    """(reason, datagrams) in order of reason; a reason without a datagram is not there."""
    flows: int = 0
    """(session token, reflexive address) pairs remembered now."""
    evicted: int = 0
    """Flows forgotten for newer ones, since `--max-flows` was reached: their counts start again from 1."""
    send_errors: int = 0
    """Replies that the machine refused to send afterwards."""

    def since(self, earlier: ServerTotals) -> ServerTotals:
        """What was counted after `earlier`; `flows` stays the number of now."""
        before = dict(earlier.dropped)
        dropped = ((reason, count - before.get(reason, 0)) for reason, count in self.dropped)
        return ServerTotals(
            received=self.received - earlier.received,
            answered=self.answered - earlier.answered,
            refused=self.refused - earlier.refused,
            dropped=tuple((reason, count) for reason, count in dropped if count),
            flows=self.flows,
            evicted=self.evicted - earlier.evicted,
            send_errors=self.send_errors - earlier.send_errors,
        )

    def __add__(self, other: ServerTotals) -> ServerTotals:
        """What two workers of one server counted."""
        dropped = dict(self.dropped)
        for reason, count in other.dropped:
            dropped[reason] = dropped.get(reason, 0) + count
        return ServerTotals(
            received=self.received + other.received,
            answered=self.answered + other.answered,
            refused=self.refused + other.refused,
            dropped=tuple(sorted(dropped.items())),
            flows=self.flows + other.flows,
            evicted=self.evicted + other.evicted,
            send_errors=self.send_errors + other.send_errors,
        )


class _Flow:
    """One (session token, source): how many probes, and the prepared reply to a plain one of their size.

    The request that it is prepared for has `size` bytes: `start` (16, with the token), the sequence number, and `padding`
    (its attribute's header, none in a bare one). Its reply is `pack(reply_head, sequence number, mapped, rest, count)`,
    without the count where that does not fit (`counted`).
    """

    __slots__ = (
        "count",
        "counted",
        "mapped",
        "mapped_end",
        "mapped_start",
        "pack",
        "padding",
        "reply_head",
        "rest",
        "scanned_count",
        "size",
        "start",
        "template",
        "unpack",
    )

    def __init__(self, counted_before: int) -> None:
        self.count = counted_before
        self.scanned_count = counted_before + 1
        """The count when a scan passed over it; before that, at its first probe."""
        self.size = -1

    def prepare(self, token: bytes, template: ReplyTemplate, size: int) -> None:
        """Make it that for requests of `size` bytes."""
        head, self.padding = plain_probe_marks(size)
        self.size = size
        self.start = head + token if template.key is None else _NEVER  # a keyed reply is never prepared
        self.unpack = _unpacker(size)

        self.template = template
        self.counted = template.counted
        self.reply_head = template.head + token
        mapped = template.mapped(token + bytes(4))
        self.mapped: bytes | None = mapped
        """XOR-MAPPED-ADDRESS; None for IPv6, whose last 4 bytes the sequence number hides."""
        if template.hidden is not None:
            self.mapped = None
            self.mapped_start, self.mapped_end = mapped[:-4], int.from_bytes(mapped[-4:], "big")
        self.rest = template.rest
        self.pack = _packer(len(mapped), len(template.rest), template.counted)

    def mapped_for(self, seq: bytes) -> bytes:
        """XOR-MAPPED-ADDRESS of IPv6 in the reply to a sequence number."""
        return self.mapped_start + (self.mapped_end ^ int.from_bytes(seq, "big")).to_bytes(4, "big")


class Responder:
    """The answers of one server instance, for all its sockets."""

    def __init__(
        self,
        encoder: ResponseEncoder,
        *,
        max_flows: int,
        key: bytes | None = None,
        counted_before: int = 0,
        limit: RateLimit | None = None,
    ) -> None:
        """A new flow's first probe is number `counted_before + 1`. Raise `ValueError` for a bound below 1."""
        if max_flows < 1:
            raise ValueError(f"{max_flows} flows cannot be the bound: at least 1 is needed")
        self._encoder = encoder
        self._max_flows = max_flows
        self._key = key
        self._counted_before = counted_before
        self.limit = limit
        """What `respond_within_limit` asks first; None: nothing is asked."""
        self._flows: OrderedDict[tuple[bytes, Source], _Flow] = OrderedDict()
        """By token and source, in the order in which scans meet them."""
        self._latest: dict[Source, _Flow] = {}
        """By source, one of its flows: nearly always its only one, since a session has a socket of its own."""
        self._latest_of = self._latest.get
        self._dropped: Counter[str] = Counter()
        self._answered = 0
        self._refused = 0
        self._evicted = 0
        self._send_errors = 0

    def respond(self, data: bytes, source: Source) -> bytes | None:
        """The reply to `data` from `source`; None when there is none, which is then counted.

        The hot path: nearly all datagrams are plain requests of their source's flow, of the size that it is prepared for.
        One look-up and two comparisons tell, and one `pack` makes the reply. Attributes that are called are read into
        locals first: CPython 3.11 calls those faster than attributes of slots.
        """
        flow_of = self._latest_of
        flow = flow_of(source)
        if flow is not None:
            unpack = flow.unpack
            try:
                start, seq, padding = unpack(data)
            except struct.error:
                return self._respond_to_any(data, source)
            if flow.start == start and flow.padding == padding:
                flow.count = count = flow.count + 1
                self._answered += 1
                mapped, pack = flow.mapped or flow.mapped_for(seq), flow.pack
                if not flow.counted:
                    return pack(flow.reply_head, seq, mapped, flow.rest)
                try:
                    return pack(flow.reply_head, seq, mapped, flow.rest, count)
                except struct.error:  # the count is past its 32 bits
                    flow.count = count & MAX_COUNT
                    return pack(flow.reply_head, seq, mapped, flow.rest, flow.count)
        return self._respond_to_any(data, source)

    def respond_within_limit(self, data: bytes, source: Source, ip: bytes, now_ns: int) -> bytes | None:
        """As `respond`, if the rate limit lets a datagram from `ip` (4 or 16 bytes) pass at `now_ns`."""
        over = self.limit.refuse(ip, now_ns) if self.limit is not None else None
        if over is not None:
            self._dropped[over] += 1
            return None
        return self.respond(data, source)

    def unsent(self, reply: bytes) -> None:
        """Count a reply that found no room in the socket's send buffer: its request was dropped after all."""
        if is_error_response(reply):
            self._refused -= 1
        else:
            self._answered -= 1
        self._dropped["send-buffer-full"] += 1

    def send_failed(self) -> None:
        """Count a reply that the machine refused to send."""
        self._send_errors += 1

    def forget_flows(self) -> None:
        """Every count starts again."""
        self._flows.clear()
        self._latest.clear()

    def totals(self) -> ServerTotals:
        """What was counted so far."""
        return ServerTotals(
            received=self._answered + self._refused + self._dropped.total(),
            answered=self._answered,
            refused=self._refused,
            dropped=tuple(sorted(self._dropped.items())),
            flows=len(self._flows),
            evicted=self._evicted,
            send_errors=self._send_errors,
        )

    def _respond_to_any(self, data: bytes, source: Source) -> bytes | None:
        if not source[1]:
            self._dropped["source-port-0"] += 1  # nothing can be sent there
            return None
        if self._key is None and is_plain_probe(data):
            transaction_id = data[8:HEADER_SIZE]
        else:
            try:
                request = decode_request(data, self._key)
            except StunError as error:
                self._dropped[error.reason] += 1
                return None
            transaction_id = request.transaction_id
            if request.unknown_required:
                return self._refuse(transaction_id, request.unknown_required, len(data))

        flow = self._flow_for(data[_TOKEN], source, len(data))
        flow.count += 1
        self._answered += 1
        return flow.template.render(transaction_id, flow.count)

    def _flow_for(self, token: bytes, source: Source, size: int) -> _Flow:
        """The flow of a token and a source, prepared for requests of `size` bytes; a new one if it is not known."""
        flow_key = (token, source)
        flow = self._flows.get(flow_key)
        if flow is None:
            if len(self._flows) >= self._max_flows:
                self._evict()
            flow = self._flows[flow_key] = _Flow(self._counted_before)

        if flow.size != size:
            # A STUN client draws a transaction id for each request, so that its source comes again with another token.
            latest = self._latest.get(source)
            if latest is not None and latest.size == size:
                template = latest.template
            else:
                template = self._encoder.template((source[0], source[1]), size)
            flow.prepare(token, template, size)
        self._latest[source] = flow
        return flow

    def _refuse(self, transaction_id: bytes, unknown: tuple[int, ...], limit: int) -> bytes | None:
        reply = self._encoder.encode_unknown(transaction_id, unknown, limit)
        if reply is None:
            self._dropped["unknown-attribute"] += 1
        else:
            self._refused += 1
        return reply

    def _evict(self) -> None:
        """Remove the first flow that was not answered since the last scan, but scan no more than probes can wait for."""
        for _ in range(MAX_EVICTION_SCAN):
            flow_key, flow = next(iter(self._flows.items()))
            if flow.count == flow.scanned_count:
                break
            flow.scanned_count = flow.count
            self._flows.move_to_end(flow_key)
        (_, source), flow = self._flows.popitem(last=False)
        if self._latest.get(source) is flow:
            del self._latest[source]
        self._evicted += 1
