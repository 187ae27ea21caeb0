"""What the echo server answers to one datagram, and what it counts: no socket, no clock.

It is public, so it must be harmless (design, section 2): it answers Binding requests and nothing else, so that two
servers can never keep each other busy (CVE-2024-2169), and what it remembers is bounded.

What it remembers are flows, each with its prepared reply. At the bound a flow gives way to a new one: of those that
have been silent since they were last looked at, the one looked at longest ago (second chance: a packet then costs no
reordering). So a flow that has long been silent goes before any that speaks, unless very many speak (`MAX_LOOKS`).
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from affinity_tester.core.rate_limit import RateLimit
from affinity_tester.core.server_events import ServerTotals
from affinity_tester.core.stun import HEADER_SIZE, ResponseEncoder, decode_request, is_plain_probe, plain_probe_marks
from affinity_tester.errors import StunError

_TOKEN = slice(8, 16)
"""The session token in a request: the transaction id's first 8 bytes."""

Source = tuple[Any, ...] | bytes
"""What tells sources apart: a socket's peer, or its sockaddr."""

MAX_LOOKS = 1000
"""Flows passed over for one new flow: about a millisecond, which a socket's receive buffer bridges."""

NEVER = b"never"
"""As a `request_head`: no datagram's first 8 bytes."""


@lru_cache(maxsize=256)
def _packer(*sizes: int) -> Callable[..., None]:
    """Writes byte strings of these sizes, one after the other, and a count of 32 bits."""
    return struct.Struct(f">{''.join(f'{size}s' for size in sizes)}I").pack_into


class Flow:
    """One (session token, reflexive address): how many probes, and the prepared reply to a plain one of their size.

    The request that it is prepared for has `size` bytes, of which the first 8 are `request_head` and those after the
    transaction id `padding`; then `pack(buffer, offset, reply_head, token, sequence number, tail, count)` writes the
    reply, whose `reply_head` has the source before it when that is a sockaddr.
    """

    __slots__ = (
        "count",
        "looked_at",
        "pack",
        "padding",
        "reply_head",
        "reply_size",
        "request_head",
        "size",
        "tail",
        "template",
    )

    def __init__(
        self, source: Source, encoder: ResponseEncoder, address: tuple[str, int], size: int, counted_before: int
    ) -> None:
        self.count = counted_before
        self.looked_at = counted_before + 1
        """The count when it was last looked at to be forgotten, or at its first probe."""
        self.prepare(source, encoder, address, size)

    def prepare(self, source: Source, encoder: ResponseEncoder, address: tuple[str, int], size: int) -> None:
        """Make it that for requests of `size` bytes."""
        self.size = size
        self.template = template = encoder.template(address, size)
        head, self.padding = plain_probe_marks(size)
        self.request_head = head if template.counted and template.key is None else NEVER
        self.reply_head = source + template.head if isinstance(source, bytes) else template.head
        self.tail = None if template.hidden is not None else template.tail(b"")
        """None for IPv6: it depends on the transaction id."""
        tail_size = len(template.tail(bytes(12)))
        self.pack = _packer(len(self.reply_head), 8, 4, tail_size)
        self.reply_size = HEADER_SIZE + tail_size + 4


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
        self.flows: OrderedDict[tuple[bytes, Source], Flow] = OrderedDict()
        """By token and source. Who finds a request here that its flow is prepared for may count and answer it."""
        self._dropped: Counter[str] = Counter()
        self.limit = limit
        """Asked by the readers of the sockets, before they ask for an answer; None: all datagrams are read."""
        self.answered = 0
        """Success responses."""
        self._refused = 0
        self._evicted = 0
        self.send_errors = 0
        """Counted by the readers of the sockets, which hear of them."""

    def respond(self, data: bytes, address: tuple[str, int], source: Source | None = None) -> bytes | None:
        """The reply to `data` from `address` (IP address, port); None when there is none, which is then counted.

        `source` tells sources apart (by default: the address).
        """
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
        source = address if source is None else source
        flow_key = (data[_TOKEN], source)
        flow = self.flows.get(flow_key)
        if flow is None:
            if len(self.flows) >= self._max_flows:
                self._forget_one()
            flow = self.flows[flow_key] = Flow(source, self._encoder, address, len(data), self._counted_before)
        elif flow.size != len(data):
            flow.prepare(source, self._encoder, address, len(data))
        flow.count += 1
        self.answered += 1
        return flow.template.render(transaction_id, flow.count)

    def drop(self, reason: str) -> None:
        """Count a datagram that nobody asks an answer to."""
        self._dropped[reason] += 1

    def unsent(self, reply: bytes) -> None:
        """A reply found no room in the socket's send buffer: the datagram was dropped after all."""
        if reply.startswith(b"\x01\x11"):
            self._refused -= 1
        else:
            self.answered -= 1
        self._dropped["send-buffer-full"] += 1

    def totals(self) -> ServerTotals:
        """What was counted so far."""
        return ServerTotals(
            received=self.answered + self._refused + self._dropped.total(),
            answered=self.answered,
            refused=self._refused,
            dropped=tuple(sorted(self._dropped.items())),
            flows=len(self.flows),
            evicted=self._evicted,
            send_errors=self.send_errors,
        )

    def _refuse(self, transaction_id: bytes, unknown: tuple[int, ...], limit: int) -> bytes | None:
        reply = self._encoder.encode_unknown(transaction_id, unknown, limit)
        if reply is None:
            self._dropped["unknown-attribute"] += 1
        else:
            self._refused += 1
        return reply

    def _forget_one(self) -> None:
        """Pass over flows that have spoken since they were last looked at, but not over so many that probes wait."""
        for _ in range(MAX_LOOKS):
            flow_key, flow = next(iter(self.flows.items()))
            if flow.count == flow.looked_at:
                break
            flow.looked_at = flow.count
            self.flows.move_to_end(flow_key)
        self.flows.popitem(last=False)
        self._evicted += 1
