"""Dates changes by the resourceVersions of lists that were made before and after them. Pure.

resourceVersions of a resource grow, and a list has every change up to its own version. So a change with a higher version
than a list happened after that list was requested, and one with a lower or equal version happened before the first page
of the list was received. Only a list that is requested without a resourceVersion is as new as its request.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

MAX_LISTS = 1000
"""Lists that are remembered. With a list every 5 s that is more than an hour."""

MAX_DIGITS = 20
"""The longest number of a 64-bit resourceVersion."""


class When(NamedTuple):
    """The interval in which something happened, and when this client heard of it."""

    since_ns: int
    """It happened after this time."""
    until_ns: int
    """It happened at this time at the latest."""
    heard_ns: int


class ListTimes(NamedTuple):
    """The version of a list, whole or of one object, and when it was made."""

    version: int
    asked_ns: int
    heard_ns: int
    """When its first page was received. All pages of a list have the same version."""


class ListHistory:
    """The newest `MAX_LISTS` lists of one resource."""

    def __init__(self) -> None:
        """Start without any list."""
        self._made: deque[ListTimes] = deque(maxlen=MAX_LISTS)

    def note(self, version: str, asked_ns: int, heard_ns: int) -> None:
        """Remember a list. One whose version is not a number is left out: it cannot be compared."""
        number = as_number(version)
        if number is None:
            return
        if any(made.version > number and made.heard_ns < asked_ns for made in self._made):
            # A newer list with a lower version: the cluster was restored from an older state, and counts anew.
            self._made.clear()
        self._made.append(ListTimes(number, asked_ns, heard_ns))

    def asked_below(self, version: str) -> int | None:
        """Return when the newest list without a change of this version was requested; None if there is no such list."""
        number = as_number(version)
        if number is None:
            return None
        return max((made.asked_ns for made in self._made if made.version < number), default=None)

    def asked_up_to(self, version: str) -> int | None:
        """Return when the newest list with nothing newer than this version was requested; None if there is no such list."""
        number = as_number(version)
        if number is None:
            return None
        return max((made.asked_ns for made in self._made if made.version <= number), default=None)

    def heard_from(self, version: str) -> int | None:
        """Return when the first list with a change of this version was received; None if there is no such list."""
        number = as_number(version)
        if number is None:
            return None
        return min((made.heard_ns for made in self._made if made.version >= number), default=None)


def as_number(version: str) -> int | None:
    """Return a resourceVersion as a number that can be compared (KEP-5504); None for any other text."""
    return int(version) if version.isascii() and version.isdigit() and len(version) <= MAX_DIGITS else None


def at_least(version: str, wanted: str) -> bool:
    """True if a resourceVersion is known to be at least as new as `wanted`. What is no number is only equal to itself."""
    numbers = as_number(version), as_number(wanted)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] >= numbers[1]
    return version == wanted
