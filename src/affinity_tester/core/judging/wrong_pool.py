"""Pods that answer and were never in the watched pool: the target leads to another cluster or Service."""

from __future__ import annotations

from affinity_tester.core.events import ChangeSeen, Event, FirstAnswer
from affinity_tester.core.pool_timeline import PoolTimeline


class UnknownPods:
    """Remembers the pods that answered and are in no snapshot yet, until a list of the pool decides."""

    def __init__(self, timeline: PoolTimeline, settle_ns: int) -> None:
        """Compare with this timeline, which the caller keeps feeding; a pod has `settle_ns` to show in it."""
        self._timeline = timeline
        self._settle_ns = settle_ns
        self._first_seen_ns: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._first_seen_ns)

    @property
    def next_list_after_ns(self) -> int | None:
        """A list of the pool asked for later than this decides about one of them; None: there is none."""
        return min((seen_ns + self._settle_ns for seen_ns in self._first_seen_ns.values()), default=None)

    def feed(self, event: Event) -> None:
        """Take in who answers."""
        match event:
            case ChangeSeen(change=change):
                self._check_pod(change.before.identity.pod, event.at_ns)
                self._check_pod(change.after.identity.pod, event.at_ns)
            case FirstAnswer(identity=who):
                self._check_pod(who.pod, event.at_ns)
            case _:
                pass

    def find_stranger(self) -> str | None:
        """Return a pod that belongs to another pool; None where there is none, or where it is not known yet."""
        confirmed_ns = self._timeline.confirmed_ns
        if confirmed_ns is None:
            return None
        reach_ns = self._settle_ns
        for pod, seen_ns in list(self._first_seen_ns.items()):
            # It may also have come and gone while nobody looked.
            unobserved = self._timeline.unobserved_within(seen_ns - reach_ns, seen_ns + reach_ns) is not None
            if self._is_known(pod) or unobserved:
                del self._first_seen_ns[pod]
            elif confirmed_ns > seen_ns + reach_ns:
                self._first_seen_ns.clear()
                return pod
        return None

    def _check_pod(self, pod: str | None, at_ns: int) -> None:
        if pod is not None and not self._is_known(pod):
            self._first_seen_ns.setdefault(pod, at_ns)

    def _is_known(self, pod: str) -> bool:
        """Return whether a pod was ever in the pool, or may have been: an endpoint that names no pod may be any."""
        return self._timeline.has_seen(pod) or self._timeline.has_seen("")
