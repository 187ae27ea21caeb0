"""What the echo server answers to one datagram, and what it counts: no socket, no clock.

It is public, so it must be harmless (design, section 2): it answers Binding requests and nothing else, so that two
servers can never keep each other busy (CVE-2024-2169), and what it remembers is bounded.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

from affinity_tester.core.server_events import ServerTotals
from affinity_tester.core.stun import HEADER_SIZE, ReplyTemplate, ResponseEncoder, decode_request, is_plain_probe
from affinity_tester.errors import StunError

_TOKEN = slice(8, 16)
"""The session token in a request: the transaction id's first 8 bytes."""

FlowKey = tuple[bytes, tuple[str, int]]


class _Flow:
    """One (session token, reflexive address): how many probes, and the prepared reply to one of their size."""

    __slots__ = ("count", "limit", "template")

    def __init__(self, template: ReplyTemplate, limit: int) -> None:
        self.count = 0
        self.template = template
        self.limit = limit


class Responder:
    """The answers of one server instance, for all its sockets."""

    def __init__(self, encoder: ResponseEncoder, *, max_flows: int, key: bytes | None = None) -> None:
        """Raise `ValueError` for a bound below 1."""
        if max_flows < 1:
            raise ValueError(f"{max_flows} flows cannot be the bound: at least 1 is needed")
        self._encoder = encoder
        self._max_flows = max_flows
        self._key = key
        self._flows: OrderedDict[FlowKey, _Flow] = OrderedDict()
        self._dropped: Counter[str] = Counter()
        self._answered = 0
        self._refused = 0
        self._evicted = 0
        self.send_errors = 0
        """Counted by the sockets' protocols, which hear of them."""

    def respond(self, data: bytes, source: tuple[str, int]) -> bytes | None:
        """The reply to `data` from `source` (IP address, port); None when there is none, which is then counted."""
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
        flow_key = (data[_TOKEN], source)
        flow = self._flows.get(flow_key)
        if flow is None:
            flow = self._remember(flow_key, len(data))
        else:
            self._flows.move_to_end(flow_key)
            if flow.limit != len(data):
                flow.template, flow.limit = self._encoder.template(source, len(data)), len(data)
        flow.count += 1
        self._answered += 1
        return flow.template.render(transaction_id, flow.count)

    def drop(self, reason: str) -> None:
        """Count a datagram that its socket could not have answered."""
        self._dropped[reason] += 1

    def totals(self) -> ServerTotals:
        """What was counted so far."""
        return ServerTotals(
            received=self._answered + self._refused + self._dropped.total(),
            answered=self._answered,
            refused=self._refused,
            dropped=tuple(sorted(self._dropped.items())),
            flows=len(self._flows),
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

    def _remember(self, flow_key: FlowKey, limit: int) -> _Flow:
        """A new flow, in the place of the one that was silent for longest when there are too many."""
        if len(self._flows) >= self._max_flows:
            self._flows.popitem(last=False)
            self._evicted += 1
        flow = self._flows[flow_key] = _Flow(self._encoder.template(flow_key[1], limit), limit)
        return flow
