"""File descriptors: raising the soft limit is the tool's job, not the user's."""

from __future__ import annotations

from affinity_tester.errors import UserError

SPARE_DESCRIPTORS = 64
"""For the event loop, the log, the record, the cluster's connections and what the process inherited."""


def raise_descriptor_limit(sockets: int) -> None:
    """Make room for so many sockets. Raises `UserError` when the hard limit is below that."""
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
        todo = f"take at most {fitting} --sessions, or {raising}" if fitting > 0 else raising
        raise UserError(f"{_need(sockets)} {needed} file descriptors, and this process may have {hard}: {todo}")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError) as error:  # macOS caps it below an infinite hard limit
        raise UserError(f"{_need(sockets)} {needed} file descriptors, and the system refuses: {error}") from error


def _need(sockets: int) -> str:
    return "1 session needs" if sockets == 1 else f"{sockets} sessions need"
