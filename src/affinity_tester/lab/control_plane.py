"""A model of the API server: what a client's watch and lists tell of the lab's pool, and when.

The truth is the network. `publish` stores it, where each state of the pool has a version; the client learns of it in two
ways, as from a real API server, and gets the events that the cluster watch makes:

- the watch, in order, `watch_ns` after a change was stored;
- lists, asked for at one time and heard at another: whole ones (`CONFIRM_NS`), which show the pool, and lists of one item
  (each half settle time), which show the version alone.

When a change happened is counted from what the client can know, never from the truth: after the newest list was asked for
that does not show it, and before the first list that shows it, or the watch event, was heard (docs/judging.md).

A server that stalls answers nothing for a time: what was under way arrives at the end of it, and what is asked for
meanwhile is looked up then. One that is gone breaks the watch; it comes back restarted, with no memory of what it could
prove, so a new list shows only what the pool is by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from affinity_tester.core.events import (
    ApiServerAnswered,
    ClusterEvent,
    Event,
    NodeAddresses,
    PodAddresses,
    PoolConfirmed,
    PoolObserved,
    PoolUnobserved,
)
from affinity_tester.core.pool import PoolSnapshot, differences
from affinity_tester.lab.network import NetworkModel
from affinity_tester.units import NS_PER_MS

CONFIRM_NS = 500 * NS_PER_MS
"""How long after one whole list was heard the next is asked for."""

ANSWER_NS = 20 * NS_PER_MS
"""How long a list takes, one way and back; the server looks it up as soon as it is asked for."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """A state of the pool, in the API server's store."""

    version: int
    pool: PoolSnapshot


@dataclass(frozen=True, slots=True)
class _WatchEvent:
    """What the watch tells soon."""

    due_ns: int
    events: tuple[Callable[[int], Event], ...]
    """Each is made for the time when it is heard."""
    stored: _Stored | None
    """The pool, if it changed."""


@dataclass(slots=True)
class _Listing:
    """Lists of one kind, at most one of which is under way."""

    every_ns: int
    whole: bool
    next_ns: int = 0
    """When the next one is asked for."""
    asked_ns: int | None = None
    """When the one under way was asked for; None: none is."""
    due_ns: int = 0
    shows: _Stored | None = None
    """What it shows; None: the server has not looked it up yet."""


class ControlPlane:
    """The API server, and what a client's watch and lists hear from it. `advance` lets time pass."""

    def __init__(
        self,
        network: NetworkModel,
        emit: Callable[[Event], None],
        *,
        one_item_ns: int,
        watch_ns: int = 0,
        changed: Callable[[int], None] = lambda _at_ns: None,
    ) -> None:
        """Tell nothing before `start_watch`.

        A list of one item is asked for `one_item_ns` after the one before; `changed` is told when the pool truly changed.
        """
        self._network = network
        self._emit = emit
        self._watch_ns = watch_ns
        self._changed = changed
        self._stored: _Stored | None = None
        self._nodes: tuple[tuple[str, str], ...] = ()
        self._proxies: tuple[tuple[str, str], ...] = ()
        self._happened: list[ClusterEvent] = []
        self._watch_queue: deque[_WatchEvent] = deque()
        self._lists = (_Listing(one_item_ns, whole=False), _Listing(CONFIRM_NS, whole=True))
        self._known: _Stored | None = None
        """What the client knows."""
        self._listed_ns = 0
        """When the newest list was asked for that shows no more than the client knows."""
        self._ahead: list[tuple[int, int]] = []
        """Lists that show more than the client knows, as (version, when it was asked for)."""
        self._stalled_until_ns = 0
        self._gone = False

    # --- the cluster's side ------------------------------------------------------------------------------------------

    def add_cluster_event(self, event: ClusterEvent) -> None:
        """Note what happened in the cluster: the next `publish` stores it, and it is told when the watch hears of it."""
        self._happened.append(event)

    def start_watch(self, now_ns: int) -> None:
        """Answer the client's first lists: what there is."""
        self._nodes = self._node_addresses()
        self._emit(NodeAddresses(now_ns, self._nodes))
        self._proxies = self._proxy_addresses()
        if self._proxies:
            self._emit(PodAddresses(now_ns, self._proxies))
        self._stored = self._known = _Stored(1, self._network.pool())
        self._listed_ns = now_ns
        for listing in self._lists:
            listing.next_ns = now_ns + listing.every_ns
        self._emit(PoolObserved(now_ns, now_ns, now_ns, self._known.pool, asked_ns=now_ns))

    def publish(self, now_ns: int) -> None:
        """Store what is new, and let the client hear of it if the watch is that fast."""
        self.store(now_ns)
        self.advance(now_ns)

    def store(self, now_ns: int) -> None:
        """Store what is new; the client hears of it as soon as time passes. Nothing is new before `start_watch`."""
        happened, self._happened = self._happened, []
        if self._stored is None:
            return

        pool = self._network.pool()
        stored = None
        if pool != self._stored.pool:
            stored = self._stored = _Stored(self._stored.version + 1, pool)
            self._changed(now_ns)
        if self._gone:
            return
        events: list[Callable[[int], Event]] = [partial(_told, each) for each in happened]
        nodes = self._node_addresses()
        if nodes != self._nodes:
            self._nodes = nodes
            events.append(lambda at_ns: NodeAddresses(at_ns, nodes))
        proxies = self._proxy_addresses()
        if proxies != self._proxies:
            self._proxies = proxies
            events.append(lambda at_ns: PodAddresses(at_ns, proxies))
        if events or stored is not None:
            self._watch_queue.append(_WatchEvent(now_ns + self._watch_ns, tuple(events), stored))

    def stall(self, now_ns: int, for_ns: int) -> None:
        """Answer nothing, and let the watch tell nothing, for a time."""
        self.advance(now_ns)
        self._stalled_until_ns = now_ns + for_ns

    def disconnect(self, now_ns: int) -> None:
        """Take the API server away: the watch breaks, and what was under way is lost."""
        self.publish(now_ns)
        self._gone = True
        self._watch_queue.clear()
        for listing in self._lists:
            listing.asked_ns = None
        self._emit(PoolUnobserved(now_ns, self._listed_ns, "the API server does not answer"))

    def reconnect(self, now_ns: int) -> None:
        """Restart the API server: the watch begins anew with a whole list, which may miss what came and went."""
        self.publish(now_ns)
        self._gone = False
        assert self._stored is not None, "it was there before"
        assert self._known is not None, "the client has begun"
        changes = differences(self._known.pool, self._stored.pool)
        self._known = self._stored
        since_ns, self._listed_ns = self._listed_ns, now_ns
        self._ahead.clear()
        for listing in self._lists:
            listing.next_ns = now_ns + listing.every_ns
        self._emit(PoolObserved(now_ns, since_ns, now_ns, self._known.pool, now_ns, changes))
        self.publish(now_ns)  # the nodes, which are told by name

    # --- the client's side -------------------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> None:
        """Let time pass: tell what was heard by now, and ask for the lists that are due."""
        if self._stored is None or self._gone:
            return
        answers = now_ns >= self._stalled_until_ns
        if answers:
            while self._watch_queue and self._watch_queue[0].due_ns <= now_ns:
                self._deliver(self._watch_queue.popleft(), now_ns)

        for listing in self._lists:
            if answers and listing.asked_ns is not None:
                if listing.shows is None:  # asked for in a stall: it is looked up when that is over
                    listing.shows, listing.due_ns = self._stored, now_ns + ANSWER_NS
                if listing.due_ns <= now_ns:
                    self._answer(listing, now_ns)
            if listing.asked_ns is None and listing.next_ns <= now_ns:
                listing.asked_ns = now_ns
                listing.shows = self._stored if answers else None
                listing.due_ns = now_ns + ANSWER_NS

    def _deliver(self, told: _WatchEvent, now_ns: int) -> None:
        for event in told.events:
            self._emit(event(now_ns))
        if told.stored is not None:
            self._observe(told.stored, now_ns, None)

    def _answer(self, listing: _Listing, now_ns: int) -> None:
        asked_ns, shown = listing.asked_ns, listing.shows
        assert asked_ns is not None, "it is under way"
        assert shown is not None, "the server has looked"
        assert self._known is not None, "the client has begun"
        listing.asked_ns = listing.shows = None
        listing.next_ns = now_ns + listing.every_ns

        if not listing.whole:
            self._emit(ApiServerAnswered(now_ns, asked_ns))
        if shown.version > self._known.version and listing.whole:
            self._observe(shown, now_ns, asked_ns)
        elif shown.version == self._known.version and listing.whole:
            self._emit(PoolConfirmed(now_ns, asked_ns))
        self._ahead.append((shown.version, asked_ns))
        self._count_lists()

    def _observe(self, shown: _Stored, now_ns: int, asked_ns: int | None) -> None:
        assert self._known is not None, "the client has begun"
        if shown.version <= self._known.version:
            return  # a list showed it before the watch told it
        changes = differences(self._known.pool, shown.pool)
        self._known = shown
        self._emit(PoolObserved(now_ns, self._listed_ns, now_ns, shown.pool, asked_ns, changes))
        self._count_lists()

    def _count_lists(self) -> None:
        """Note that what comes next happened after all lists were asked for that show no more than is known."""
        assert self._known is not None, "the client has begun"
        for version, asked_ns in list(self._ahead):
            if version <= self._known.version:
                self._listed_ns = max(self._listed_ns, asked_ns)
                self._ahead.remove((version, asked_ns))

    # --- the truth ---------------------------------------------------------------------------------------------------

    def _node_addresses(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((node.ip, node.name) for node in self._network.nodes.values() if not node.is_proxy))

    def _proxy_addresses(self) -> tuple[tuple[str, str], ...]:
        """Return whose the proxies' addresses are; those of proxies that are gone stay known."""
        proxies = (node for node in self._network.nodes.values() if node.is_proxy)
        return tuple(sorted({*self._proxies, *((node.ip, f"edge/proxy-{node.name}") for node in proxies)}))


def _told(event: ClusterEvent, at_ns: int) -> Event:
    return replace(event, at_ns=at_ns)
