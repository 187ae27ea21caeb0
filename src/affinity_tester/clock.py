"""The one clock of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

now_ns: Callable[[], int]
"""Nanoseconds since a moment of this machine's, which are never set and never run backwards.

On Linux it is CLOCK_BOOTTIME. The monotonic clock stands while the machine sleeps: a pause of ten minutes would look like
none. asyncio's timers run on the monotonic clock, so they take distances of this one, never its times.
"""
if sys.platform == "linux":
    now_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)  # a quarter cheaper than a function of our own
else:
    now_ns = time.monotonic_ns
