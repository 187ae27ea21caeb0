"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""A container's own limit (cgroup v2, cpu.max): `QUOTA PERIOD` in microseconds, or `max PERIOD`."""


def usable_cpus(cpu_max: Path = CPU_MAX) -> int:
    """Those the scheduler grants, or fewer whole ones where a quota (`resources.limits.cpu`) allows less; at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = cpu_max.read_text().split()
        return max(1, min(cpus, int(quota_us) // int(period_us)))
    except (OSError, ValueError):  # no such file, or no limit
        return cpus
