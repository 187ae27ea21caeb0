"""The limit of datagrams, against an oracle that keeps every prefix and counts in fractions."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity_tester.core.rate_limit import RateLimit, source_prefix

NS = 1_000_000_000


def packed(text: str) -> bytes:
    return ip_address(text).packed


class Oracle:
    """Tokens as the definition has them: what came in, less what went out, and never more than a second's."""

    def __init__(self, per_s: int, prefix_per_s: int, shares: int) -> None:
        self.rates = {"rate-limit": Fraction(per_s, shares), "rate-limit-prefix": Fraction(prefix_per_s, shares)}
        self.levels: dict[tuple[str, bytes], Fraction] = {}
        self.at_ns = 0

    def check(self, prefix: bytes, now_ns: int) -> str | None:
        passed_s = Fraction(now_ns - self.at_ns, NS)
        self.at_ns = now_ns
        for key, level in self.levels.items():
            self.levels[key] = min(self.most(key[0]), level + passed_s * self.rates[key[0]])
        asked = [key for key in (("rate-limit-prefix", prefix), ("rate-limit", b"")) if self.rates[key[0]]]
        for key in asked:
            if self.levels.setdefault(key, self.most(key[0])) < 1:
                return key[0]
        for key in asked:
            self.levels[key] -= 1
        return None

    def most(self, kind: str) -> Fraction:
        return max(self.rates[kind], Fraction(1))


def arrivals(data: st.DataObject) -> Iterator[tuple[bytes, int]]:
    now_ns = 0
    for _ in range(data.draw(st.integers(0, 60))):
        now_ns += data.draw(st.sampled_from((0, 0, 1, 1_000, 333_333_333, NS, 5 * NS)) | st.integers(0, 2 * NS))
        yield bytes((10, 0, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 255)))), now_ns


@pytest.mark.worlds
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 7), st.data())
def test_it_agrees_with_the_oracle(per_s: int, prefix_per_s: int, shares: int, data: st.DataObject) -> None:
    limit, oracle = RateLimit(per_s, prefix_per_s, 0, shares=shares), Oracle(per_s, prefix_per_s, shares)
    for address, now_ns in arrivals(data):
        assert limit.check(address, now_ns) == oracle.check(address[:3], now_ns)


@pytest.mark.worlds
@given(st.integers(1, 50), st.integers(1, 7), st.data())
def test_shares_are_together_what_one_is(per_s: int, shares: int, data: st.DataObject) -> None:
    """In any stretch of time all processes together let no more pass than the rate, and a second's burst."""
    limits = [RateLimit(per_s, 0, 0, shares=shares) for _ in range(shares)]
    passed, now_ns = 0, 0
    for address, at_ns in arrivals(data):
        now_ns = at_ns
        passed += sum(limit.check(address, at_ns) is None for limit in limits)
    assert passed <= max(per_s, shares) + Fraction(per_s * now_ns, NS)


def test_off_it_refuses_nothing_and_remembers_nothing() -> None:
    limit = RateLimit(0, 0, 0)
    assert [limit.check(packed("10.0.0.1"), 0) for _ in range(1000)] == [None] * 1000
    assert limit.prefixes == 0
    assert RateLimit.of(0, 0, 0) is None
    assert isinstance(RateLimit.of(0, 1, 0), RateLimit)


def test_what_floods_spends_its_own_prefixs_tokens() -> None:
    limit = RateLimit(10, 2, 0)
    flood = [limit.check(packed(f"203.0.113.{number}"), 0) for number in range(100)]
    assert flood == [None] * 2 + ["rate-limit-prefix"] * 98
    others = [limit.check(packed(f"198.51.{number}.1"), 0) for number in range(9)]
    assert others == [None] * 8 + ["rate-limit"]
    assert limit.check(packed("198.51.8.1"), NS // 10) is None  # its own prefix lost nothing meanwhile


def test_prefixes_are_bounded_and_the_longest_unheard_is_forgotten() -> None:
    limit = RateLimit(0, 1, 0, max_prefixes=2)
    one, two, three = map(packed, ("10.0.1.0", "10.0.2.0", "10.0.3.0"))
    assert [limit.check(each, 0) for each in (one, two, one, three)] == [None, None, "rate-limit-prefix", None]
    assert limit.prefixes == 2
    assert [limit.check(each, 0) for each in (one, two)] == ["rate-limit-prefix", None]
    assert limit.prefixes == 2


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("203.0.113.1", "203.0.113.254", True),
        ("203.0.113.1", "203.0.114.1", False),
        ("2001:db8:0:ff00::1", "2001:db8:0:ffff:8::2", True),
        ("2001:db8:0:ff00::1", "2001:db8:0:fe00::1", False),
        ("::ffff:203.0.113.1", "203.0.113.254", True),
        ("::ffff:203.0.113.1", "::ffff:203.0.114.1", False),
    ],
)
def test_the_prefix_of_a_source(one: str, other: str, is_same: bool) -> None:
    assert (source_prefix(packed(one)) == source_prefix(packed(other))) is is_same
