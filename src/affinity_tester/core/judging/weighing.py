"""When a change is weighed against the client's own NAT: once, as soon as it is known which sessions changed with it.

What is found then stays: a list of the pool may come much later, when the sessions' earlier changes are forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable

from affinity_tester.core.events import Change
from affinity_tester.core.judging.client_nat import NOTHING, ClientNat, Weighed


class Weighing:
    """The changes that wait to be weighed, and what was found for the others."""

    def __init__(self, nat: ClientNat) -> None:
        """Weigh by what `nat` knows."""
        self._nat = nat
        self._asked_ns: dict[Hashable, int] = {}
        """When a change was first asked for that was due: the client must have run from then on."""
        self._found: dict[Hashable, Weighed] = {}
        self.again_ns: int | None = None
        """When to ask again for what was asked for last; None: it is weighed."""

    def weigh(self, key: Hashable, session: str, change: Change, now_ns: int, *, last: bool) -> Weighed | None:
        """Return what the client's side has to do with a change; None: it is not known yet. `last`: by what is known."""
        self.again_ns = None
        found = self._found.get(key)
        if found is not None:
            return found

        due_ns = self._nat.due_ns(session, change)
        if due_ns is None:
            return NOTHING
        if not last and now_ns < due_ns:
            self.again_ns = due_ns
            return None

        ready_ns = self._asked_ns.setdefault(key, now_ns) + self._nat.guard_ns
        if not last and now_ns < ready_ns:
            self.again_ns = ready_ns
            return None
        found = self._found[key] = self._nat.weigh(session, change, now_ns)
        return found

    def forget(self, key: Hashable) -> None:
        """Forget a change that is judged, or has become another one."""
        self._asked_ns.pop(key, None)
        self._found.pop(key, None)
