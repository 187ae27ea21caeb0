"""Replies that the server sends by itself some time after it answered: what an inbound call is to a flow that was silent.

A request asks for one by REPLY-DELAY (docs/protocol.md). It is sent to the source of that request, once, and is no longer
than it. Only a request with a valid key gets one: anybody else could let the server send later, and to whom he likes. What
waits is bounded; each request that gets none is counted by its reason:

    no-key       the server has no key, so that anybody may ask
    too-long     the delay is longer than `MAX_DELAY_MS`, or none
    no-room      the request is too short for a reply that says REPLY-DELAY
    repeated     the same request is waiting already (a duplicate, or somebody who sends it again)
    table-full   as many are waiting as may
    send-failed  it was due, and the machine refused to send it
    shutdown     it was waiting when the server ended
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

MAX_DELAY_MS = 3_600_000
"""An hour: longer than any timeout of UDP flows on nodes or balancers."""

MAX_WAITING = 4_096
"""Some 2 MB: more than twice what one measurement asks for."""


@dataclass(frozen=True, slots=True)
class DelayedReply:
    """A reply that is due after a time."""

    transaction_id: bytes
    source: tuple[Any, ...]
    """Where the request came from, and it goes to."""
    limit: int
    """Bytes of the request: it is no longer."""
    delay_ms: int


class DelayedReplies:
    """The replies that wait, and what became of the others."""

    def __init__(self, *, keyed: bool, most: int = MAX_WAITING) -> None:
        """Begin with none. Without a key none is accepted; at most `most` wait at a time."""
        self._keyed = keyed
        self._most = most
        self._waiting: set[tuple[bytes, tuple[Any, ...]]] = set()
        self.sent = 0
        """How many were sent."""
        self.lost: Counter[str] = Counter()
        """Requests that got none, by reason."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def refuse(self, wanted: DelayedReply) -> str:
        """Return why a request gets no delayed reply; empty if it gets one."""
        if not self._keyed:
            return "no-key"
        if not 0 < wanted.delay_ms <= MAX_DELAY_MS:
            return "too-long"
        if (wanted.transaction_id, wanted.source) in self._waiting:
            return "repeated"
        return "table-full" if len(self._waiting) >= self._most else ""

    def add(self, accepted: DelayedReply) -> None:
        """Let one wait that was not refused."""
        self._waiting.add((accepted.transaction_id, accepted.source))

    def end(self, reply: DelayedReply, failure: str = "") -> None:
        """Count one that waited as sent, or as lost for this reason."""
        self._waiting.discard((reply.transaction_id, reply.source))
        if failure:
            self.lost[failure] += 1
        else:
            self.sent += 1
