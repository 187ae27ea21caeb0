"""What the system lets this process have: file descriptors, which it raises by itself, and CPUs."""

from __future__ import annotations

import os
from pathlib import Path

from affinity_tester.errors import UserError

SPARE_DESCRIPTORS = 64
"""Descriptors for the event loop, the log, the record, the cluster's connections and what the process inherited."""

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""A container's own CPU limit (cgroup v2): `QUOTA PERIOD` in microseconds, or `max PERIOD`."""


def raise_descriptor_limit(sockets: int, noun: str = "session") -> None:
    """Raise the soft limit as far as so many sockets need. Raise `UserError` if the hard limit is too low.

    `noun` is what has a socket each, as the option for their number is called.
    """
    try:
        import resource  # noqa: PLC0415 - Unix only
    except ImportError:
        return

    needed = sockets + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return

    if hard != resource.RLIM_INFINITY and hard < needed:
        raising = (
            f"raise the hard limit to {needed} or more (ulimit -Hn as root, LimitNOFILE= of systemd, "
            "--ulimit nofile= of docker)"
        )
        fitting = hard - SPARE_DESCRIPTORS
        todo = f"take at most {fitting} --{noun}s, or {raising}" if fitting > 0 else raising
        raise UserError(f"{_need(sockets, noun)} {needed} file descriptors, and this process may have {hard}: {todo}")

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError) as error:  # macOS has a cap of its own below an infinite hard limit
        raise UserError(f"{_need(sockets, noun)} {needed} file descriptors, and the system refuses: {error}") from error


def usable_cpus(cpu_max: Path = CPU_MAX) -> int:
    """Return how many CPUs this process may use: those of its affinity mask, fewer if the container's limit is lower.

    A limit is rounded down to whole CPUs, but to 1 at least.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = cpu_max.read_text().split()
        return max(1, min(cpus, int(quota_us) // int(period_us)))
    except (OSError, ValueError):  # no such file, or no limit
        return cpus


def _need(sockets: int, noun: str) -> str:
    return f"1 {noun} needs" if sockets == 1 else f"{sockets} {noun}s need"
