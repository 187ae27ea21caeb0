"""The time of an event, for people and for machines: computed from the run's own pair of clocks, never read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

from affinity_tester.core.events import RunStarted
from affinity_tester.units import NS_PER_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS_PER_DAY = 86_400_000
_S_PER_DAY = 86_400


class RunClock:
    """Turns the time of a run into the time of day.

    A step of the wall clock in mid-run does not show: the pair of clocks was read once, and so was the offset from UTC.
    """

    def __init__(self, *, wall_ns: int, at_ns: int, utc_offset_s: int) -> None:
        """Pair Unix time with the run's clock. Raises `ValueError` for an offset of a day or more."""
        if abs(utc_offset_s) >= _S_PER_DAY:
            raise ValueError(f"an offset of {utc_offset_s} s from UTC is no offset")
        self._wall_minus_run_ns = wall_ns - at_ns
        self._offset_s = utc_offset_s

    @classmethod
    def of(cls, started: RunStarted) -> Self:
        """Return the clock of a run."""
        return cls(wall_ns=started.wall_ns, at_ns=started.at_ns, utc_offset_s=started.utc_offset_s)

    def wall_ns(self, at_ns: int) -> int:
        """Return Unix time in nanoseconds."""
        return self._wall_minus_run_ns + at_ns

    def local_ms(self, at_ns: int) -> int:
        """Return milliseconds since 1970 by the local wall clock: two times share a second or a day if their quotients do."""
        return self.wall_ns(at_ns) // NS_PER_MS + self._offset_s * 1_000

    def time_of_day(self, at_ns: int) -> str:
        """Return the local time as `13:35:20.176`; milliseconds are cut, not rounded."""
        seconds, ms = divmod(self.local_ms(at_ns) % _MS_PER_DAY, 1_000)
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        return f"{hour:02}:{minute:02}:{second:02}.{ms:03}"

    def date(self, at_ns: int) -> str:
        """Return the local date as `2026-11-22`."""
        return (_EPOCH + timedelta(milliseconds=self.local_ms(at_ns))).date().isoformat()

    @property
    def utc_offset(self) -> str:
        """Return the offset as `UTC+01:00`."""
        minutes = abs(self._offset_s) // 60
        return f"UTC{'-' if self._offset_s < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}"

    def rfc3339(self, at_ns: int) -> str:
        """Return UTC as `2026-11-22T12:35:20.176042Z`; nanoseconds are cut to microseconds."""
        instant = _EPOCH + timedelta(microseconds=self.wall_ns(at_ns) // 1_000)
        return instant.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
