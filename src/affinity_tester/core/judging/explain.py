"""Which pool change explains what happened to a session, and how far apart the two were."""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.core.identity import Identity
from affinity_tester.core.judging.reasons import MorePoolChanges, PoolChanged, PoolChangedToo, Reason
from affinity_tester.core.pool import EndpointAction, EndpointChange
from affinity_tester.core.pool_timeline import PoolChange

_MOST = 3
"""Changes that are named at most; the record has the others."""


def explanation(changes: Iterable[PoolChange], old: Identity, new: Identity, case_ns: int) -> tuple[Reason, ...]:
    """Return what explains that a session left `old` for `new` at `case_ns`; empty where nothing changed.

    The session's own pods come first, causes before consequences, and the nearest before the farther ones.
    """
    found = [
        (_rank(change, pool_change, old, new, case_ns), change, pool_change)
        for pool_change in changes
        for change in pool_change.changes
    ]
    if not found:
        return ()

    found.sort(key=lambda entry: entry[0])
    (_, first, together), *others = found

    # Other changes that were told at the same moment belong to the same story: a rolling update, say.
    beside = [change for _, change, pool_change in others if pool_change is together]
    named = beside[: _MOST - 1]
    found_reasons: list[Reason] = [PoolChanged(first, together.to_ns - case_ns), *map(PoolChangedToo, named)]
    if len(beside) > len(named):
        found_reasons.append(MorePoolChanges(len(beside) - len(named)))
    return tuple(found_reasons)


def _rank(
    change: EndpointChange, pool_change: PoolChange, old: Identity, new: Identity, case_ns: int
) -> tuple[bool, int, bool, int]:
    """Return a change's rank as an explanation: the smallest explains best."""
    takes_away = change.action.takes_away
    if old.pod is not None and change.pod == old.pod and takes_away:
        kinship = 0
    elif new.pod is not None and change.pod == new.pod and not takes_away:
        kinship = 1
    elif change.action is EndpointAction.SPEC:
        kinship = 2  # an edited Service moves anybody
    else:
        kinship = 3 if takes_away else 4

    # What was heard later may have happened before, but a cause that was heard before surely did.
    return pool_change.from_ns > case_ns, kinship, pool_change.to_ns > case_ns, abs(case_ns - pool_change.to_ns)
