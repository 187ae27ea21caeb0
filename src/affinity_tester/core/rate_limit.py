"""Limits the rate of datagrams that a server answers: one token bucket for all, and one for each source prefix.

Each bucket holds the tokens of one second, so a burst of that size passes. A datagram needs a token from both buckets and
takes none where one is missing. So a source that floods the server uses up its own prefix's tokens, not everybody's.

A prefix stands for one site: /24 for IPv4, /56 for IPv6 (as in DNS response rate limiting). Whoever can send from one
address of a site can send from all of them, and forged requests are aimed at whole sites.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Self

from affinity_tester.units import NS_PER_S

MAX_PREFIXES = 16_384
"""Prefixes whose buckets are kept, some 4 MB. The least recently used is removed first, and starts full when it returns.

Datagrams forged from more prefixes than this pass the limit for each prefix; the limit over all still holds.
"""

IPV4_PREFIX_BYTES = 3
IPV6_PREFIX_BYTES = 7

_IPV4_BYTES = 4
_MAPPED = bytes(10) + b"\xff\xff"
"""The first 12 bytes of an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2)."""


def source_prefix(address: bytes) -> bytes:
    """Return the prefix of an IP address, given as 4 or 16 bytes."""
    if len(address) == _IPV4_BYTES:
        return address[:IPV4_PREFIX_BYTES]
    if address.startswith(_MAPPED):
        return address[len(_MAPPED) :][:IPV4_PREFIX_BYTES]
    return address[:IPV6_PREFIX_BYTES]


class _Rate:
    """The rate of a bucket: `per_s / shares` tokens a second, in integers.

    A token is counted in parts of `1 / (10^9 * shares)`, so that a nanosecond adds exactly `per_s` parts.
    """

    __slots__ = ("capacity", "cost", "per_ns")

    def __init__(self, per_s: int, shares: int) -> None:
        self.per_ns = per_s
        """Parts that a nanosecond adds."""
        self.cost = NS_PER_S * shares
        """Parts of one token."""
        self.capacity = max(per_s * NS_PER_S, self.cost)
        """Parts of a full bucket: what one second adds, and one token at least."""


class _Bucket:
    """A token bucket, full at first."""

    __slots__ = ("_filled_ns", "_level", "_rate")

    def __init__(self, rate: _Rate, now_ns: int) -> None:
        self._rate = rate
        self._level = rate.capacity
        self._filled_ns = now_ns

    def has_token(self, now_ns: int) -> bool:
        """Add what the time since the last call gives; True if there is a token then."""
        rate = self._rate
        self._level = min(rate.capacity, self._level + (now_ns - self._filled_ns) * rate.per_ns)
        self._filled_ns = now_ns
        return self._level >= rate.cost

    def take(self) -> None:
        """Take one token; `has_token` must have been True."""
        self._level -= self._rate.cost


class RateLimit:
    """The limits of one server process. `shares` processes share the rates, each with an equal part."""

    def __init__(
        self, per_s: int, prefix_per_s: int, now_ns: int, *, shares: int = 1, max_prefixes: int = MAX_PREFIXES
    ) -> None:
        """Allow `per_s` datagrams a second in all, and `prefix_per_s` from each prefix; 0 means no limit.

        Times may come from any clock that never runs backwards.
        """
        self._all = _Bucket(_Rate(per_s, shares), now_ns) if per_s else None
        self._prefix_rate = _Rate(prefix_per_s, shares) if prefix_per_s else None
        self._max_prefixes = max_prefixes
        self._prefixes: OrderedDict[bytes, _Bucket] = OrderedDict()
        """Least recently used first."""

    @classmethod
    def of(cls, per_s: int, prefix_per_s: int, now_ns: int, *, shares: int = 1) -> Self | None:
        """Return a limit with these rates; None if both are 0, so that datagrams need no check."""
        return cls(per_s, prefix_per_s, now_ns, shares=shares) if per_s or prefix_per_s else None

    @property
    def prefixes(self) -> int:
        """The number of prefixes that have a bucket."""
        return len(self._prefixes)

    def check(self, address: bytes, now_ns: int) -> str | None:
        """Count a datagram from an IP address (4 or 16 bytes); return the reason to drop it, or None to let it pass.

        A datagram that is dropped takes no tokens.
        """
        own = None
        if self._prefix_rate is not None:
            own = self._bucket_of(source_prefix(address), self._prefix_rate, now_ns)
            if not own.has_token(now_ns):
                return "rate-limit-prefix"

        if self._all is not None:
            if not self._all.has_token(now_ns):
                return "rate-limit"
            self._all.take()

        # Only now: the datagram passed both limits.
        if own is not None:
            own.take()
        return None

    def _bucket_of(self, prefix: bytes, rate: _Rate, now_ns: int) -> _Bucket:
        bucket = self._prefixes.get(prefix)
        if bucket is not None:
            self._prefixes.move_to_end(prefix)
            return bucket

        if len(self._prefixes) >= self._max_prefixes:
            self._prefixes.popitem(last=False)
        bucket = self._prefixes[prefix] = _Bucket(rate, now_ns)
        return bucket
