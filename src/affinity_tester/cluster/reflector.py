"""Keeps a copy of the objects of one resource: list, watch from there, and list again when the watch breaks.

    list  ->  watch  --event, bookmark-->  watch
                |---the server ends it after its time--->  watch on from the last resourceVersion: nothing was missed
                |---no event or bookmark for too long--->  list; if nothing was missed, watch on: a server may send none
                |---broken, 410, or another error--->  report it as lost  ->  wait (backoff)  ->  list  -> ...
    |---refused, though lists are not--->  say so once, and list every `poll_s`, for as long as the run lasts

Without the right to watch, lists alone tell: what differs between two of them happened after the first was asked for, and
before the first page of the second was there, so that an interval is some seconds long instead of milliseconds. An object
that has another version and the same content was changed and changed back between them: the pool is then known to be
unobserved for that interval, and for no longer.

A list after a loss shows what was missed of each object that exists before or after it: every change gives an object a new
resourceVersion, so that a change back and forth shows too. An object that came and went meanwhile does not show. Where
such objects matter (`detect_transient`), the reflector watches from its last resourceVersion up to that of the list, and
if that gives no event, nothing was missed. A newer event or a bookmark ends these events, or else that none comes within
`max_lag_s`. If the API server has forgotten them, as after a restart, something may have been missed.

A change that the watch tells late is dated by the lists before and after it (`resource_versions`): whole lists, and lists
of one object.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from affinity_tester.cluster.api import (
    FORBIDDEN,
    Api,
    ApiError,
    Json,
    WatchRefusedError,
    WatchSilentError,
    pages,
    read_page,
    watch_events,
)
from affinity_tester.cluster.fields import Fields, ObjectError, parser
from affinity_tester.cluster.objects import identity
from affinity_tester.cluster.resource_versions import ListHistory, When, at_least
from affinity_tester.units import NS_PER_S

T = TypeVar("T")


POLL_REST = 9.0
"""After a list that took its time, a reflector that polls rests so many times as long: a tenth of the time is spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """The times of a watch. Tests use shorter ones."""

    silence_s: float = 90.0
    """A watch without an event or a bookmark for so long is checked by a list. API servers send a bookmark a minute."""
    rotate_s: int = 300
    """About the time after which the server ends a watch, and the next one continues. client-go uses 5 to 10 minutes."""
    min_watch_s: float = 1.0
    """A watch that ends sooner, without any event, is broken."""
    backoff_s: float = 0.5
    """The longest wait before the second attempt. It doubles from attempt to attempt, up to `backoff_max_s`."""
    backoff_max_s: float = 10.0
    """The longest wait at all: the run should not be blind for much longer than an outage of the API server lasts."""
    max_lag_s: float = 2.0
    """How long a watch may lag behind a list before it is restarted."""
    poll_s: float = 2.0
    """The time between two lists of the pool where it may not be watched. It is the length of a change's interval."""
    context_poll_s: float = 15.0
    """The same for nodes and pods, which only explain: their lists may be large."""


class Cached(NamedTuple, Generic[T]):
    """An object in the copy."""

    version: str
    """Its own resourceVersion."""
    value: T
    """What the parser made of it."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A consistent list: the state of the resource at one moment."""

    asked_ns: int
    """When it was requested: that moment is not earlier."""
    first_ns: int
    """When its first page was received: that moment is not later."""
    version: str
    """The resourceVersion of all its pages."""
    items: dict[str, Cached[T]]


class MissedChanges(NamedTuple):
    """What a watch missed, or may have missed."""

    words: str
    """What happened meanwhile, as the end of a sentence about the loss."""
    first: str = ""
    """The resourceVersion of the first missed change; empty if it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener(Generic[T]):
    """The callbacks of a reflector. They are called from its task and must not block."""

    changed: Callable[[str, T | None, T | None, When | None], None]
    """An object changed: its key, its value before and after, and when. None as time: it is of the first list."""
    refused: Callable[[str], None]
    """RBAC forbids the first list: nothing will follow."""
    failed: Callable[[Exception], None]
    """This program failed; `lost` follows."""
    listed: Callable[[When, bool], None] = lambda _when, _missed: None
    """The copy was replaced by a list. When it was made; and True if something changed that the watch did not tell."""
    lost: Callable[[ApiError], None] = lambda _error: None
    """The watch is interrupted by this error."""
    unwatchable: Callable[[], None] = lambda: None
    """It may be listed and not watched: from now on lists tell."""
    unreadable: Callable[[ObjectError], None] | None = None
    """An object is unreadable and counts as unchanged. None: an unreadable object interrupts the watch."""
    detect_transient: bool = False
    """Objects that came and went while the watch was interrupted count as missed."""


class Reflector(Generic[T]):
    """The copy (`items`, by key), and the task that keeps it up to date (`run`)."""

    def __init__(
        self,
        api: Api,
        path: str,
        params: tuple[tuple[str, str], ...],
        keep: Callable[[object], T],
        listener: Listener[T],
        *,
        kind: str,
        page: int,
        timing: WatchTiming,
        poll_s: float | None = None,
        now_ns: Callable[[], int],
    ) -> None:
        """Reflect the objects at `path` that `params` select. `keep` parses an object; `kind` names it in error messages.

        `poll_s` is the time between two lists where they may not be watched; None is that of the pool.
        """
        self._api = api
        self._path = path
        self._params = params
        self._identify = parser(kind)(identity)
        self._read_version = parser(kind)(_version)
        self._keep = keep
        self._listener = listener
        self._page = page
        self._timing = timing
        self._poll_s = timing.poll_s if poll_s is None else poll_s
        self._now_ns = now_ns
        self.is_polling = False
        """It may not be watched: lists tell what changes, and `poll` makes one at once."""
        self._one_poll = asyncio.Lock()
        self._delay_s = timing.backoff_s
        self._version = ""
        """The resourceVersion up to which the watch has told everything."""
        self._first = True
        self._is_up = False
        """The copy was listed, and no error of the watch is known since."""
        self._lists = ListHistory()
        self._base_ns = 0
        """When the list was requested that the watch continues from: whatever it tells happened after that."""
        self._verified_ns = 0
        """When the newest list was requested that the copy is known to match; 0 before the first."""
        self.items: dict[str, Cached[T]] = {}
        self.first_list_done = asyncio.Event()
        """The first list was read or refused."""

    async def run(self) -> None:
        """Keep the copy up to date until cancelled. Raises nothing; ends only if RBAC forbids the first list."""
        while True:
            retry_s = 0.0
            try:
                await self.poll()
                await self._follow()
            except ApiError as error:
                if error.status == FORBIDDEN and self._first:
                    self._listener.refused(str(error))
                    self.first_list_done.set()
                    return
                self._is_up = False
                self._listener.lost(error)
                retry_s = error.retry_after_s or 0
            except Exception as error:  # an error of this program must not end the run that it only watches
                self._is_up = False
                self._listener.failed(error)
                self._listener.lost(ApiError(f"an internal error ({type(error).__name__})"))

            delay_s = self._delay_s * random.uniform(0.5, 1)  # noqa: S311 - clients shall not come back at once
            await asyncio.sleep(max(delay_s, retry_s))
            self._delay_s = min(2 * self._delay_s, self._timing.backoff_max_s)

    async def poll(self) -> None:
        """List, and make the list the copy. Raises `ApiError`. Only where nothing is watched."""
        async with self._one_poll:  # a list that was asked for before another must not be taken after it
            listing = await self.list()
            missed = None if self._first else await self._changes_missed(listing)
            if missed is not None and self._is_up:
                self._listener.lost(ApiError("something was changed and changed back between two lists"))
            self._replace(listing, missed)

    async def _follow(self) -> None:
        """Watch; list again and again where that is refused. Ends by raising `ApiError` only."""
        try:
            if not self.is_polling:
                await self._watch()
        except WatchRefusedError:
            self.is_polling = True
            self._listener.unwatchable()

        time_s = asyncio.get_running_loop().time
        took_s = 0.0
        while True:
            await asyncio.sleep(max(self._poll_s, took_s * POLL_REST))
            began_s = time_s()
            await self.poll()
            took_s = time_s() - began_s
            self._delay_s = self._timing.backoff_s

    async def list(self) -> Listing[T]:
        """Return a consistent list, and leave the copy as it is. Raises `ApiError`."""
        asked_ns, first_ns = self._now_ns(), None
        version = ""
        items: dict[str, Cached[T]] = {}
        is_whole = True
        async for page in pages(self._api, self._path, self._params, self._page):
            if first_ns is None:
                first_ns, version = self._now_ns(), page.version
                self._lists.note(version, asked_ns, first_ns)
            for obj in page.items:
                is_whole &= self._cache(items, obj)

        if not is_whole:  # an unreadable object may be any of those that seem to be gone
            items = {**self.items, **items}
        return Listing(asked_ns, self._now_ns() if first_ns is None else first_ns, version, items)

    async def sample(self) -> None:
        """List one object, for the version and the times of the list. If there is no other object, it is a whole list.

        Raises `ApiError`.
        """
        asked_ns = self._now_ns()
        page = await read_page(self._api, self._path, self._params, 1)
        heard_ns = self._now_ns()
        self._lists.note(page.version, asked_ns, heard_ns)
        if page.more or not self._is_up:
            return

        items: dict[str, Cached[T]] = {}
        try:
            is_whole = all(self._cache(items, obj) for obj in page.items)
        except ObjectError:  # the watch meets the same object, and reports it
            return

        if is_whole and self.has_caught_up_with(Listing(asked_ns, heard_ns, page.version, items)):
            self.mark_verified(asked_ns)

    def has_caught_up_with(self, listing: Listing[T]) -> bool:
        """True if the watch has told all that a list shows. It may have told more since."""
        for key, item in listing.items.items():
            known = self.items.get(key)
            if not at_least(known.version if known else self._version, item.version):
                return False

        # What the list does not have is gone, unless the watch knows it in a version that is newer than the list.
        gone = self.items.keys() - listing.items.keys()
        return all(_is_newer(self.items[key].version, listing.version) for key in gone)

    def mark_verified(self, asked_ns: int) -> None:
        """Remember that the copy matches a list that was requested at `asked_ns`."""
        self._verified_ns = max(asked_ns, self._verified_ns)

    @property
    def known_ns(self) -> int:
        """Nothing that happened before this time was missed, even if the watch tells nothing now."""
        return max(self._verified_ns, self._lists.asked_up_to(self._version) or 0)

    def _cache(self, items: dict[str, Cached[T]], obj: object) -> bool:
        """Add a list's object to `items`; return False if it is unreadable.

        Raises `ObjectError` for an unreadable object if that interrupts the watch.
        """
        try:
            key, version = self._identify(obj)
            items[key] = Cached(version, self._keep(obj))
        except ObjectError as error:
            if self._listener.unreadable is None:
                raise
            self._listener.unreadable(error)
            return False
        return True

    async def _changes_missed(self, listing: Listing[T]) -> MissedChanges | None:
        """Return what was not told, or may not have been, before a list: by a watch that is down, or by lists alone.

        None if that is nothing. Where lists tell, whatever differs in content is told by them.
        """
        if self.is_polling:
            changed_back = any(self._changed_back(key, item) for key, item in listing.items.items())
            return MissedChanges("while things changed") if changed_back else None

        differs = _versions(listing.items) != _versions(self.items)
        if not differs and (not self._listener.detect_transient or listing.version == self._version):
            return None

        timing = self._timing
        events = watch_events(
            self._api, self._path, self._params, self._version, silence_s=timing.max_lag_s, rotate_s=timing.rotate_s
        )
        newer, why = False, ""
        try:
            # Where the list differs, something was missed at any rate: only when it began is still of interest.
            async with asyncio.timeout(timing.max_lag_s if differs else None), aclosing(events):
                async for kind, obj in events:
                    version = self._read_version(obj)
                    newer = at_least(version, listing.version)
                    if kind != "BOOKMARK" and (version == listing.version or not newer):
                        return MissedChanges("while things changed", version)
                    if newer:
                        break
        except (WatchSilentError, TimeoutError):
            return MissedChanges("while things changed") if differs else None
        except ApiError as error:
            why = f" ({error})"

        if differs:
            return MissedChanges("while things changed")
        return None if newer else MissedChanges(f"and what changed meanwhile cannot be known{why}")

    def _changed_back(self, key: str, item: Cached[T]) -> bool:
        """True if an object of a list has another version than the copy's, and the same content."""
        known = self.items.get(key)
        return known is not None and known.version != item.version and known.value == item.value

    def _replace(self, listing: Listing[T], missed: MissedChanges | None) -> None:
        """Make a list the copy, and report what differs from the copy before."""
        before, first, self._first = self.items, self._first, False
        since_ns = listing.asked_ns if first else self._known_before(listing)
        if missed is not None and missed.first:
            since_ns = max(since_ns, self._lists.asked_below(missed.first) or 0)
        when = When(min(since_ns, listing.first_ns), listing.first_ns, self._now_ns())

        self.items, self._version = listing.items, listing.version
        self._base_ns = listing.asked_ns
        self._is_up = True
        self.mark_verified(listing.asked_ns)

        for key in sorted(before.keys() | listing.items.keys()):
            old, new = before.get(key), listing.items.get(key)
            if old != new:
                self._listener.changed(key, old and old.value, new and new.value, None if first else when)
        self._listener.listed(when, missed is not None)
        self.first_list_done.set()

    def _known_before(self, listing: Listing[T]) -> int:
        """Return the time before which nothing was missed, as known when this list is read."""
        if not at_least(listing.version, self._version):
            # A lower version, or none that compares: the cluster was restored from an older state, and counts anew.
            return self._verified_ns
        return self.known_ns

    async def _watch(self) -> None:
        """Watch from the last resourceVersion, one watch after another. Raises `ApiError` if something may be missed."""
        while True:
            began_ns, heard = self._now_ns(), False
            try:
                rotate_s = round(self._timing.rotate_s * random.uniform(0.8, 1.2))  # noqa: S311 - no lockstep
                events = watch_events(
                    self._api,
                    self._path,
                    self._params,
                    self._version,
                    silence_s=self._timing.silence_s,
                    rotate_s=rotate_s,
                )
                async with aclosing(events):
                    async for kind, obj in events:
                        heard = True
                        self._delay_s = self._timing.backoff_s
                        self._apply(kind, obj)
            except WatchSilentError as silent:
                listing = await self.list()
                missed = await self._changes_missed(listing)
                if missed is not None:
                    raise ApiError(f"{silent} {missed.words}") from silent
                self._replace(listing, None)
                continue

            if not heard and self._now_ns() - began_ns < self._timing.min_watch_s * NS_PER_S:
                raise ApiError("the API server ends the watch as soon as it begins")

    def _apply(self, kind: str, obj: Json) -> None:
        """Take in an event of the watch. Raises `ObjectError` for an unreadable object if that interrupts the watch."""
        heard_ns = self._now_ns()
        try:
            if kind == "BOOKMARK":
                self._version = self._read_version(obj)
                return
            key, version = self._identify(obj)
            new = None if kind == "DELETED" else Cached(version, self._keep(obj))
        except ObjectError as error:
            if self._listener.unreadable is None:
                raise
            self._listener.unreadable(error)
            return

        self._version = version
        old = self.items.pop(key, None)
        if new is not None:
            self.items[key] = new
        self._listener.changed(key, old and old.value, new and new.value, self._date(version, heard_ns))

    def _date(self, version: str, heard_ns: int) -> When:
        """Return when a change happened of which the watch tells now."""
        until_ns = min(heard_ns, self._lists.heard_from(version) or heard_ns)
        since_ns = max(self._base_ns, self._lists.asked_below(version) or 0)
        return When(min(since_ns, until_ns), until_ns, heard_ns)


def _version(obj: Fields) -> str:
    return obj.part("metadata").needed("resourceVersion")


def _versions(items: dict[str, Cached[T]]) -> dict[str, str]:
    return {key: item.version for key, item in items.items()}


def _is_newer(version: str, than: str) -> bool:
    return at_least(version, than) and not at_least(than, version)
