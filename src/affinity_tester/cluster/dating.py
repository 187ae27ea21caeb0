"""When a change happened, as far as the lists of its resource tell. Pure.

Changes have numbers that grow, and a list says up to which number it has all: so a change above the number of a list was
not yet there when that list was asked for, and one below was there by the time when the first of the list was heard
(docs/judging.md#dating). Only lists that were asked for without a resourceVersion are as new as the request.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

KEPT = 1000
"""Lists that are remembered: of more than an hour, where one is made each 5 s."""

DIGITS = 20
"""A resourceVersion has 64 bits."""


class When(NamedTuple):
    """When something became so, and when that was heard."""

    since_ns: int
    """Later than this..."""
    until_ns: int
    """...and at this time at the latest."""
    heard_ns: int


class Made(NamedTuple):
    """A list, whole or of one object."""

    version: int
    asked_ns: int
    heard_ns: int
    """When its first page was there, which is of the same version as the rest."""


class Lists:
    """Those that were made of one resource, the newest `KEPT`."""

    def __init__(self) -> None:
        """None yet."""
        self._made: deque[Made] = deque(maxlen=KEPT)

    def note(self, version: str, asked_ns: int, heard_ns: int) -> None:
        """A list was made; what has no number tells nothing."""
        number = as_number(version)
        if number is None:
            return
        if any(made.version > number and made.heard_ns < asked_ns for made in self._made):
            self._made.clear()  # the numbers began anew: the cluster was restored from an older state
        self._made.append(Made(number, asked_ns, heard_ns))

    def asked_below(self, version: str) -> int | None:
        """When the newest list was asked for that cannot show a change of this version; None: none is known."""
        number = as_number(version)
        if number is None:
            return None
        return max((made.asked_ns for made in self._made if made.version < number), default=None)

    def asked_up_to(self, version: str) -> int | None:
        """When the newest list was asked for that shows nothing newer than this version; None: none is known."""
        number = as_number(version)
        if number is None:
            return None
        return max((made.asked_ns for made in self._made if made.version <= number), default=None)

    def heard_from(self, version: str) -> int | None:
        """When a list that is no older than a change of this version was first heard; None: none is known."""
        number = as_number(version)
        if number is None:
            return None
        return min((made.heard_ns for made in self._made if made.version >= number), default=None)


def as_number(version: str) -> int | None:
    """A resourceVersion by which others can be compared (KEP-5504); None for one that is not."""
    return int(version) if version.isascii() and version.isdigit() and len(version) <= DIGITS else None


def has_reached(version: str, wanted: str) -> bool:
    """Whether one resourceVersion is known to be as new as another."""
    numbers = as_number(version), as_number(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] >= numbers[1]
    return version == wanted
