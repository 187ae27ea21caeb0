"""What left the pool in an experiment, and when: by each pod's uid, so that a pod of the same name is another pod.

As everything of the pool it is dated as a span (`core.pool_timeline`): it happened at some moment in (from_ns, to_ns].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from affinity_tester.core.events import Event, PoolConfirmed, PoolObserved, PoolUnobserved, WrongPool
from affinity_tester.core.pool import Endpoint, EndpointAction, EndpointChange
from affinity_tester.core.pool_timeline import PoolTimeline, Span


@dataclass(frozen=True, slots=True)
class Stop:
    """A pod left the pool, or stopped serving."""

    endpoint: Endpoint
    """As it was then."""
    span: Span
    """When it stopped."""
    touched_ns: int
    """Not before this was anything taken away from it: it was not even told to end. At most `span.from_ns`."""
    back_ns: int | None = None
    """When it was heard to serve again; None: it did not."""


@dataclass(frozen=True, slots=True)
class SpecChange:
    """A field of the Service that steers flows was edited."""

    field: str
    old: str
    new: str
    span: Span


@dataclass(frozen=True, slots=True)
class _Joined:
    """A pod of a name joined the pool."""

    uid: str
    node: str
    span: Span


class PoolHistory:
    """Take in what is told of the pool. `feed` takes every event, in order."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self.timeline = PoolTimeline()
        self.trusted = True
        """False: the watched pool is not the one that answers."""
        self.stops: list[Stop] = []
        """In the order in which they were told."""
        self._stopped: dict[str, int] = {}
        """By uid, of pods that do not serve again: which of the stops is theirs."""
        self.spec_changes: list[SpecChange] = []
        self.drained: set[str] = set()
        """Pods, by uid, that were seen to serve and not to be ready."""
        self._touched_ns: dict[str, int] = {}
        """By uid, when something was first taken away from it."""
        self._serving: dict[str, Endpoint] = {}
        """The pods that serve, by uid."""
        self._joined: dict[str, list[_Joined]] = {}
        """By pod's name."""
        self._local: list[tuple[int, frozenset[str]]] = []
        """Under policy Local: from when on, and which nodes had a ready pod."""

    def feed(self, event: Event) -> None:
        """Take in an event."""
        match event:
            case PoolObserved():
                self._observe(event)
            case PoolConfirmed(asked_ns=asked_ns):
                self.timeline.confirmed(asked_ns)
            case PoolUnobserved(since_ns=since_ns):
                self.timeline.unobserved(since_ns)
            case WrongPool():
                self.trusted = False
            case _:
                pass

    # --- what is known -------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """True if the pool is watched, and the right one."""
        return self.trusted and self.timeline.watched

    def spec(self, name: str) -> str | None:
        """Return a field of the Service's spec as it is; None: not known."""
        snapshot = self.timeline.snapshot
        return None if snapshot is None else dict(snapshot.spec).get(name)

    def spec_at(self, name: str, at_ns: int) -> str | None:
        """Return a field of the Service's spec as it was at a time, or perhaps a moment later; None: not known."""
        later = [change for change in self.spec_changes if change.field == name and change.span.to_ns > at_ns]
        return later[0].old if later else self.spec(name)

    def uids_of(self, pod: str | None, at_ns: int) -> list[str]:
        """Return the uids of the pods that may have had a name at a time, the oldest first; empty: none is known."""
        joined = self._joined.get(pod or "", [])
        surely = [position for position, each in enumerate(joined) if each.span.to_ns <= at_ns]
        first = surely[-1] if surely else 0
        return [each.uid for each in joined[first:] if each.span.from_ns <= at_ns] or [each.uid for each in joined[:1]]

    def node_of(self, pod: str | None) -> str | None:
        """Return the node of the newest pod of a name; None: not known."""
        joined = self._joined.get(pod or "", [])
        return joined[-1].node or None if joined else None

    def was_replaced(self, pod: str | None, from_ns: int, to_ns: int) -> bool:
        """True if another pod may have taken over a name within these times."""
        joined = self._joined.get(pod or "", [])[1:]
        return any(each.span.from_ns < to_ns and each.span.to_ns > from_ns for each in joined)

    def nodes_ready_throughout(self, from_ns: int) -> frozenset[str] | None:
        """Return the nodes that had a ready pod whenever the policy was Local, later than this; None: it never was."""
        ready = [nodes for at_ns, nodes in self._local if at_ns > from_ns]
        return frozenset.intersection(*ready) if ready else None

    @property
    def local_nodes(self) -> frozenset[str] | None:
        """The nodes that have a ready pod, where the policy is Local; None where it is not."""
        return self._local[-1][1] if self._local and self.spec("externalTrafficPolicy") == "Local" else None

    # --- collecting ----------------------------------------------------------------------------------------------------

    def _observe(self, event: PoolObserved) -> None:
        first = not self.timeline.watched
        span = Span(min(event.since_ns, event.until_ns), event.until_ns)
        self.timeline.observed(event.since_ns, event.until_ns, event.snapshot, event.changes, event.asked_ns)
        if first:
            for endpoint in event.snapshot.endpoints:
                self._join(endpoint, span)
        for change in event.changes:
            self._note_change(change, span)
        if first or event.changes:
            self._note_serving(event, span)

    def _note_change(self, change: EndpointChange, span: Span) -> None:
        endpoint = change.endpoint
        if endpoint is None:
            self.spec_changes.append(SpecChange(change.field, change.old, change.new, span))
        elif change.action is EndpointAction.JOINED:
            self._join(endpoint, span)
        elif change.action is EndpointAction.READY:
            self._touched_ns.pop(endpoint.uid, None)
        elif change.action.takes_away:
            self._touched_ns.setdefault(endpoint.uid, span.from_ns)

    def _join(self, endpoint: Endpoint, span: Span) -> None:
        if endpoint.pod:  # a slice may name none
            self._joined.setdefault(endpoint.pod, []).append(_Joined(endpoint.uid, endpoint.node, span))

    def _note_serving(self, event: PoolObserved, span: Span) -> None:
        """Keep who stopped serving, who serves without being ready, and where policy Local has ready pods."""
        serving = {each.uid: each for each in event.snapshot.endpoints if each.serving}
        for uid in self._stopped.keys() & serving.keys():
            number = self._stopped.pop(uid)
            self.stops[number] = replace(self.stops[number], back_ns=span.to_ns)
        for uid, endpoint in self._serving.items():
            if uid not in serving:
                self._stopped[uid] = len(self.stops)
                self.stops.append(Stop(endpoint, span, self._touched_ns.get(uid, span.from_ns)))
        self._serving = serving
        self.drained |= {uid for uid, endpoint in serving.items() if not endpoint.ready}

        if dict(event.snapshot.spec).get("externalTrafficPolicy") == "Local":
            ready = frozenset(endpoint.node for endpoint in event.snapshot.endpoints if endpoint.ready)
            self._local.append((event.until_ns, ready))
