"""A limit of the datagrams that a server reads: a token bucket over all, and one for each source prefix.

Each bucket holds what one second gives, so that a burst of so many passes. A datagram needs a token of both buckets,
and takes none when it lacks one, so that a source that floods spends its own prefix's tokens and not everybody's.

A prefix is what one site has, since whoever can send from one of its addresses can send from all, and a forger aims
at a whole site: /24 of IPv4, /56 of IPv6 (as response rate limiting of DNS servers has it).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Self

MAX_PREFIXES = 16_384
"""Prefixes whose buckets are kept, some 4 MB; the one longest unheard is forgotten first, and is then full again.

A forger who sends from more of them passes the limits by prefix: that over all is what holds then.
"""

IPV4_PREFIX_BYTES = 3
IPV6_PREFIX_BYTES = 7

_IPV4_BYTES = 4
_NS_PER_S = 1_000_000_000

_MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv4 address starts that is written as one of IPv6 (RFC 4291 section 2.5.5.2)."""


def source_prefix(address: bytes) -> bytes:
    """The prefix of an IP address of 4 or 16 bytes."""
    if len(address) == _IPV4_BYTES:
        return address[:IPV4_PREFIX_BYTES]
    if address.startswith(_MAPPED):
        return address[len(_MAPPED) :][:IPV4_PREFIX_BYTES]
    return address[:IPV6_PREFIX_BYTES]


class _Rate:
    """How many tokens a bucket gets: `per_s / shares` a second, counted in the 10^9 * shares-th part of one."""

    __slots__ = ("cost", "per_ns", "room")

    def __init__(self, per_s: int, shares: int) -> None:
        self.per_ns = per_s
        """Parts a nanosecond."""
        self.cost = _NS_PER_S * shares
        """Parts of a token."""
        self.room = max(per_s * _NS_PER_S, self.cost)
        """Parts that one second gives, but a whole token at least."""


class _Bucket:
    """Full at first."""

    __slots__ = ("_at_ns", "_level", "_rate")

    def __init__(self, rate: _Rate, now_ns: int) -> None:
        self._rate = rate
        self._level = rate.room
        self._at_ns = now_ns

    def has_token(self, now_ns: int) -> bool:
        """Fill it up to now; whether a token is there."""
        rate = self._rate
        self._level = min(rate.room, self._level + (now_ns - self._at_ns) * rate.per_ns)
        self._at_ns = now_ns
        return self._level >= rate.cost

    def take(self) -> None:
        """Take a token that is there."""
        self._level -= self._rate.cost


class RateLimit:
    """The buckets of one process; `shares` processes have the rates together, each an equal part."""

    def __init__(
        self, per_s: int, prefix_per_s: int, now_ns: int, *, shares: int = 1, max_prefixes: int = MAX_PREFIXES
    ) -> None:
        """Limit to `per_s` datagrams a second over all, and `prefix_per_s` of each prefix; 0 is no limit.

        Times are of any clock that does not run backwards.
        """
        self._all = _Bucket(_Rate(per_s, shares), now_ns) if per_s else None
        self._prefix_rate = _Rate(prefix_per_s, shares) if prefix_per_s else None
        self._max_prefixes = max_prefixes
        self._prefixes: OrderedDict[bytes, _Bucket] = OrderedDict()
        """The longest unheard first."""

    @classmethod
    def of(cls, per_s: int, prefix_per_s: int, now_ns: int, *, shares: int = 1) -> Self | None:
        """That of these rates; None where both are off, so that nothing is asked."""
        return cls(per_s, prefix_per_s, now_ns, shares=shares) if per_s or prefix_per_s else None

    @property
    def prefixes(self) -> int:
        """How many are remembered."""
        return len(self._prefixes)

    def refuse(self, address: bytes, now_ns: int) -> str | None:
        """Why a datagram from an IP address of 4 or 16 bytes is over a limit; None for one that is not, which counts."""
        own = None
        if self._prefix_rate is not None:
            own = self._bucket_of(source_prefix(address), self._prefix_rate, now_ns)
            if not own.has_token(now_ns):
                return "rate-limit-prefix"
        if self._all is not None:
            if not self._all.has_token(now_ns):
                return "rate-limit"
            self._all.take()
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
