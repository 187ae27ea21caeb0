"""Times, counts and names as text: one function of each kind, and the nanoseconds of each unit."""

from __future__ import annotations

import re
from fractions import Fraction

NS_PER_US = 1_000
NS_PER_MS = 1_000 * NS_PER_US
NS_PER_S = 1_000 * NS_PER_MS
NS_PER_MIN = 60 * NS_PER_S
NS_PER_H = 60 * NS_PER_MIN

_UNITS_NS = {"h": NS_PER_H, "m": NS_PER_MIN, "s": NS_PER_S, "ms": NS_PER_MS, "us": NS_PER_US, "ns": 1}
"""Largest first, as `format_exact` tries them."""

_NUMBER = r"(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})"
_PART = re.compile(rf"({_NUMBER})\s*(ns|us|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"{_NUMBER}|(?:{_NUMBER}\s*(?:ns|us|ms|s|m|h))+", re.ASCII)
"""Seconds, or numbers with units, one after the other; so many digits are more than any time here has."""

_MICRO = {ord("\u00b5"): "u", ord("\u03bc"): "u"}
"""Go writes microseconds with the micro sign, and reads the Greek letter as well."""


# --- durations ---------------------------------------------------------------------------------------------------------


def parse_duration(text: str) -> int:
    """Read `0.1`, `100ms`, `1.5h` or, as Go writes it, `1h30m` as integer nanoseconds; a bare number is seconds.

    Exact where it is a whole number of nanoseconds. Raises `ValueError`.
    """
    plain = text.strip().translate(_MICRO)
    if _DURATION.fullmatch(plain) is None:
        raise ValueError(f"{text!r} is not a time: write seconds (0.1) or a number with a unit (100ms, 5s, 1h30m)")
    parts = _PART.findall(plain) or [(plain, "s")]
    return round(sum(Fraction(number.rstrip(".")) * _UNITS_NS[unit] for number, unit in parts))


def format_duration(ns: int) -> str:
    """Return a duration rounded for people: `100 ms`, `1.2 s`, `73 min`."""
    if ns < 999.5 * NS_PER_US:  # above, three digits would round up to 1e+03
        return f"{ns / NS_PER_US:.3g} us"
    if ns < 999.5 * NS_PER_MS:
        return f"{ns / NS_PER_MS:.3g} ms"
    return format_span(ns)


def format_span(ns: int) -> str:
    """Return the length of a run or of a part of it: `0.5 s`, `73 min`; below a second, milliseconds would say too much."""
    if ns < 2 * NS_PER_MIN:
        return f"{ns / NS_PER_S:.3g} s"
    return f"{ns / NS_PER_MIN:.0f} min"


def format_seconds(ns: int) -> str:
    """Return `1.9 s`: in evidence, times stand beside each other, all to the same tenth."""
    return f"{ns / NS_PER_S:.1f} s"


def format_offset(offset_ns: int) -> str:
    """Return `0.8 s before` or `0.8 s after`: how far something is from a case; negative is before it."""
    return f"{format_seconds(abs(offset_ns))} {'before' if offset_ns <= 0 else 'after'}"


def format_exact(ns: int) -> str:
    """Return a duration as `parse_duration` reads it, in the largest unit that keeps it whole: `100ms`, `5s`, `10m`."""
    if ns == 0:
        return "0s"
    unit, size = next((unit, size) for unit, size in _UNITS_NS.items() if ns % size == 0)
    return f"{ns // size}{unit}"


def format_percent(share: float) -> str:
    """Return a share of 1 as `0 %`, `0.13 %`, `3.7 %`, `30 %`: two digits, and what is less than a whole is never 100 %."""
    percent = 100 * share
    if percent >= 99.5:  # noqa: PLR2004 - what would be rounded up to 100
        return "100 %" if share >= 1 else f"{min(percent, 99.99):.2f} %"
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"  # noqa: PLR2004 - from 10 on two digits are whole


def format_share(share: float, decimals: int) -> str:
    """Return a share of 1 as percent with so many digits after the point, for one that is held against a limit: `4.90 %`."""
    return f"{100 * share:.{decimals}f} %"


# --- counts and names --------------------------------------------------------------------------------------------------


def plural(count: int, singular: str, several: str | None = None) -> str:
    """Return `1 session`, `1,000 sessions`, `2 replies`."""
    return f"{count:,} {noun_form(count, singular, several)}"


def noun_form(count: int, singular: str, several: str | None = None) -> str:
    """Return the noun alone as it stands after this number; `several` where its plural is not a regular one."""
    if count == 1:
        return singular
    if several is not None:
        return several
    if singular.endswith("y"):
        return f"{singular[:-1]}ies"
    return f"{singular}es" if singular.endswith("s") else f"{singular}s"


def quoted(text: str | None) -> str:
    """Return `"pod-a"`, or `unknown` for what no reply has said."""
    return "unknown" if text is None else f'"{text}"'
