"""The second STUN server that `--reference` names."""

from __future__ import annotations

from collections.abc import Callable

from affinity_tester.errors import UserError
from affinity_tester.net.probe_socket import local_source_for
from affinity_tester.net.resolve import Target, resolve_reference
from affinity_tester.settings import DEFAULT_PORT


async def find_reference(reference: str | None, target: Target, warn: Callable[[str], None]) -> Target | None:
    """Look the reference up, and warn if it may see another NAT than the target does; None if none is named.

    Raises `UserError` if it has no address of the target's family, or if there is no way to it.
    """
    if reference is None:
        return None
    found = await resolve_reference(reference, DEFAULT_PORT, target)
    if line := _warning(target, found):
        warn(line)
    return found


def _warning(target: Target, reference: Target) -> str:
    """Return a warning if this machine reaches the reference by another way than the target; empty if not.

    Raises `UserError` if there is no way to the reference.
    """
    source = local_source_for(reference.address, reference.scope_id)
    sources = []
    for address, scope_id in target.destinations:
        try:
            sources.append(local_source_for(address, scope_id))
        except UserError:  # it is not probed; if none is, the run says so itself
            continue
    if not sources or source in sources:
        return ""
    return (
        f"this machine reaches the reference {reference.address} from {source} and the target from {sources[0]}:"
        " it may see another NAT than the target does"
    )
