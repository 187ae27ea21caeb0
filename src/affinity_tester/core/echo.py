"""Makes the echo server's reply to each datagram, and counts; it uses no socket and no clock.

The server is public, so it must be harmless (docs/protocol.md): it answers Binding requests only, so that two servers can
never keep each other busy (CVE-2024-2169), and its memory is bounded.

It keeps flows, each with a prepared reply. At the bound, a new flow takes the place of an old one, chosen by the CLOCK
algorithm: a scan passes over the flows that had a probe since the last scan, and removes the first that had none. So a
probe costs no reordering, and a flow that has long been silent goes before an active one, unless very many are active
(`MAX_EVICTION_SCAN`).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from affinity_tester.core.delayed_replies import MAX_WAITING, DelayedReplies, DelayedReply
from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_totals import ServerTotals
from affinity_tester.core.stun import (
    HEADER_SIZE,
    MAX_COUNT,
    ReplyTemplate,
    ResponseEncoder,
    decode_request_and_delay,
    is_error_response,
    is_plain_probe,
    plain_probe_template,
)
from affinity_tester.errors import StunError

Source = tuple[Any, ...]
"""A socket's peer: (IP address, port), and for IPv6 also flow label and scope."""

MAX_EVICTION_SCAN = 1000
"""The most flows that one scan passes over: about a millisecond of work, during which the receive buffer holds probes."""

_TOKEN = slice(8, 16)
"""The session token in a request: the transaction id's first 8 bytes."""

_NO_REQUEST = b""
"""A request start that no datagram has."""


@lru_cache(maxsize=256)
def _unpacker(size: int) -> Callable[..., tuple[bytes, bytes, bytes]]:
    """Return what unpacks a request of `size` bytes: its first 16 bytes, its sequence number, and up to 4 bytes more.

    It raises `struct.error` for a request of another size.
    """
    more = min(size - HEADER_SIZE, 4)
    return struct.Struct(f"16s4s{more}s{size - HEADER_SIZE - more}x").unpack


@lru_cache(maxsize=256)
def _packer(mapped_size: int, rest_size: int, counted: bool) -> Callable[..., bytes]:
    """Return what packs a reply: first 16 bytes, sequence number, XOR-MAPPED-ADDRESS, rest, and the count if `counted`."""
    return struct.Struct(f">16s4s{mapped_size}s{rest_size}s{'I' if counted else ''}").pack


class _Flow:
    """One (session token, source): the number of its probes, and a prepared reply.

    The reply is prepared for plain requests of `size` bytes, which consist of `start` (16 bytes, with the token), the
    sequence number, and `padding` (the header of the padding attribute; empty in a bare request). The reply is
    `pack(reply_head, sequence number, mapped, rest, count)`, without the count where it does not fit (`counted`).
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
        """The count when a scan last passed over this flow; before that, the count at its first probe."""
        self.size = -1

    def prepare(self, token: bytes, template: ReplyTemplate, size: int) -> None:
        """Prepare the reply to requests of `size` bytes."""
        head, self.padding = plain_probe_template(size)
        self.size = size
        self.start = head + token if template.key is None else _NO_REQUEST  # a keyed reply cannot be prepared
        self.unpack = _unpacker(size)

        self.template = template
        self.counted = template.counted
        self.reply_head = template.head + token
        mapped = template.mapped(token + bytes(4))
        self.mapped: bytes | None = mapped
        """XOR-MAPPED-ADDRESS; None for IPv6, whose last 4 bytes depend on the sequence number."""
        if template.hidden is not None:
            self.mapped = None
            self.mapped_start, self.mapped_end = mapped[:-4], int.from_bytes(mapped[-4:], "big")
        self.rest = template.rest
        self.pack = _packer(len(mapped), len(template.rest), template.counted)

    def mapped_for(self, seq: bytes) -> bytes:
        """Return the XOR-MAPPED-ADDRESS of IPv6 in the reply to a sequence number."""
        return self.mapped_start + (self.mapped_end ^ int.from_bytes(seq, "big")).to_bytes(4, "big")


class Responder:
    """Makes the replies of one server instance, for all its sockets, and counts."""

    def __init__(
        self,
        encoder: ResponseEncoder,
        *,
        max_flows: int,
        key: bytes | None = None,
        counted_before: int = 0,
        limit: RateLimit | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Keep at most `max_flows` flows. Raise `ValueError` if that is less than 1.

        The first probe of a new flow is number `counted_before + 1` in RECEIVED-COUNT. At most `max_waiting` delayed replies
        wait at a time.
        """
        if max_flows < 1:
            raise ValueError(f"{max_flows} flows cannot be the bound: at least 1 is needed")
        self._encoder = encoder
        self._max_flows = max_flows
        self._key = key
        self._counted_before = counted_before
        self.limit = limit
        """The rate limit that `respond_within_limit` checks; None for no limit."""
        self.delayed = DelayedReplies(keyed=key is not None, most=max_waiting)
        """Replies that wait to be sent."""
        self.accepted: list[DelayedReply] = []
        """Those that were accepted since they were last taken from here: whoever sends replies also sends these when due."""
        self._flows: OrderedDict[tuple[bytes, Source], _Flow] = OrderedDict()
        """By token and source, in the order in which scans come to them."""
        self._latest: dict[Source, _Flow] = {}
        """By source, its latest flow: nearly always the only one, since each session has a socket of its own."""
        self._latest_of = self._latest.get
        self._dropped: Counter[str] = Counter()
        self._answered = 0
        self._refused = 0
        self._evicted = 0
        self._send_errors = 0

    def respond(self, data: bytes, source: Source) -> bytes | None:
        """Return the reply to `data` from `source`; None if it is dropped, which is counted.

        This is the hot path. Nearly all datagrams are plain requests of the size that their source's flow is prepared for:
        one look-up and two comparisons show that, and one `pack` makes the reply. Callables are read into locals first,
        because CPython 3.11 calls a local faster than an attribute in a slot.
        """
        flow_of = self._latest_of
        flow = flow_of(source)
        if flow is not None:
            unpack = flow.unpack
            try:
                start, seq, padding = unpack(data)
            except struct.error:
                return self._respond_unprepared(data, source)
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
        return self._respond_unprepared(data, source)

    def respond_within_limit(self, data: bytes, source: Source, ip: bytes, now_ns: int) -> bytes | None:
        """Return what `respond` does, or None if a datagram from `ip` (4 or 16 bytes) is over the rate limit at `now_ns`."""
        reason = self.limit.check(ip, now_ns) if self.limit is not None else None
        if reason is not None:
            self._dropped[reason] += 1
            return None
        return self.respond(data, source)

    def count_unsent(self, reply: bytes) -> None:
        """Count the request of this reply as dropped after all: the socket's send buffer was full."""
        if is_error_response(reply):
            self._refused -= 1
        else:
            self._answered -= 1
        self._dropped["send-buffer-full"] += 1

    def count_send_error(self) -> None:
        """Count a reply that the machine refused to send."""
        self._send_errors += 1

    def forget_flows(self) -> None:
        """Remove all flows, so that every count starts again."""
        self._flows.clear()
        self._latest.clear()

    def totals(self) -> ServerTotals:
        """Return what was counted so far."""
        return ServerTotals(
            received=self._answered + self._refused + self._dropped.total(),
            answered=self._answered,
            refused=self._refused,
            dropped=tuple(sorted(self._dropped.items())),
            flows=len(self._flows),
            evicted=self._evicted,
            send_errors=self._send_errors,
            delayed=self.delayed.sent,
            not_delayed=tuple(sorted(self.delayed.lost.items())),
        )

    @property
    def keyed(self) -> bool:
        """True if requests must be signed."""
        return self._key is not None

    def render_delayed(self, reply: DelayedReply) -> bytes:
        """Return the datagram of a delayed reply that is due: it says that no other follows."""
        flow = self._flows.get((reply.transaction_id[:8], reply.source))
        source, count = (reply.source[0], reply.source[1]), flow.count if flow is not None else self._counted_before + 1
        data = self._encoder.encode_delayed(reply.transaction_id, source, count, reply.limit, 0)
        assert data is not None, "what was accepted had room"
        return data

    def _respond_unprepared(self, data: bytes, source: Source) -> bytes | None:
        """Return the reply to any datagram, also to one that no flow is prepared for."""
        if not source[1]:
            self._dropped["source-port-0"] += 1  # no reply can be sent there
            return None

        if self._key is None and is_plain_probe(data):
            transaction_id = data[8:HEADER_SIZE]
        else:
            try:
                request, delay_ms = decode_request_and_delay(data, self._key)
            except StunError as error:
                self._dropped[error.reason] += 1
                return None
            transaction_id = request.transaction_id
            if request.unknown_required:
                return self._refuse(transaction_id, request.unknown_required, len(data))
            if delay_ms is not None:
                return self._respond_delayed(data, source, delay_ms)

        flow = self._flow_for(data[_TOKEN], source, len(data))
        flow.count += 1
        self._answered += 1
        return flow.template.render(transaction_id, flow.count)

    def _respond_delayed(self, data: bytes, source: Source, delay_ms: int) -> bytes:
        """Return the reply to a request that asks for another one later: it says whether that follows."""
        transaction_id, limit = data[8:HEADER_SIZE], len(data)
        flow = self._flow_for(data[_TOKEN], source, limit)
        flow.count += 1
        self._answered += 1
        wanted = DelayedReply(transaction_id, source, limit, delay_ms)
        reason = self.delayed.refuse(wanted)
        address = (source[0], source[1])
        reply = self._encoder.encode_delayed(transaction_id, address, flow.count, limit, 0 if reason else delay_ms)
        if reply is None:
            reason = reason or "no-room"
            reply = flow.template.render(transaction_id, flow.count)
        if reason:
            self.delayed.lost[reason] += 1
        else:
            self.delayed.add(wanted)
            self.accepted.append(wanted)
        return reply

    def _flow_for(self, token: bytes, source: Source, size: int) -> _Flow:
        """Return the flow of a token and a source, prepared for requests of `size` bytes; add it if it is new."""
        flow_key = (token, source)
        flow = self._flows.get(flow_key)
        if flow is None:
            if len(self._flows) >= self._max_flows:
                self._evict()
            flow = self._flows[flow_key] = _Flow(self._counted_before)

        if flow.size != size:
            # Other STUN clients draw a whole transaction id for each request, so each has another token: their source's
            # latest flow has a template that fits.
            latest = self._latest.get(source)
            if latest is not None and latest.size == size:
                template = latest.template
            else:
                template = self._encoder.template((source[0], source[1]), size)
            flow.prepare(token, template, size)
        self._latest[source] = flow
        return flow

    def _refuse(self, transaction_id: bytes, unknown: tuple[int, ...], limit: int) -> bytes | None:
        """Return the 420 error response that lists the unknown attributes; None if it is longer than `limit` bytes."""
        reply = self._encoder.encode_unknown(transaction_id, unknown, limit)
        if reply is None:
            self._dropped["unknown-attribute"] += 1
        else:
            self._refused += 1
        return reply

    def _evict(self) -> None:
        """Remove the first flow without a probe since the last scan, or the next one if the scan has taken long enough."""
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
