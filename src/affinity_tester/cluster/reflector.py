"""Keeps a copy of one kind of object: list, watch from there, and when the watch breaks list again.

    list  ->  watch  --event, bookmark-->  watch
                |---the server ends it after its time--->  watch on from the last resourceVersion: nothing was missed
                |---silent for longer than bookmarks take--->  list; was nothing missed? watch on: a server may send none
                |---broken, 410, or another error--->  told as lost  ->  wait (backoff)  ->  list  -> ...

A list after a loss shows what was missed of every object that is there before or after it: each change gives an object a
new resourceVersion, so what changed and changed back shows too. What came and went meanwhile does not show. Where that
matters the changes since the last resourceVersion are asked for, up to that of the list; if there are none, nothing was
missed. What is newer marks their end, or a bookmark, else that none came for as long as a watch is trusted to lag. Where
the API server has forgotten them, as one that was restarted has, something may have been missed.

What is told late is dated by the lists made before and after it (`resource_versions`): whole ones, and samples of one object.
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
    WatchSilentError,
    pages,
    read_page,
    watch_events,
)
from affinity_tester.cluster.fields import Fields, ObjectError, parser
from affinity_tester.cluster.objects import identity
from affinity_tester.cluster.resource_versions import ListHistory, When, at_least

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTiming:
    """How patient a watch is; tests are not."""

    silence_s: float = 90.0
    """API servers send a bookmark a minute."""
    rotate_s: int = 300
    """After about so long the server ends a watch, and the next goes on from there; client-go: 5 to 10 minutes."""
    min_watch_s: float = 1.0
    """A watch that ends sooner, with nothing told, is a broken one."""
    backoff_s: float = 0.5
    """Before the second attempt at the latest; it doubles from attempt to attempt..."""
    backoff_max_s: float = 10.0
    """...up to this: an outage of the API server should not blind the run for much longer than it lasts."""
    max_lag_s: float = 2.0
    """How far a watch may lag behind a list before it is not trusted any more."""


class Cached(NamedTuple, Generic[T]):
    """What is kept of an object."""

    version: str
    """Its own resourceVersion."""
    value: T


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A consistent list."""

    asked_ns: int
    """It is not older than this: when it was asked for..."""
    first_ns: int
    """...and no newer than this: when its first page was there."""
    version: str
    items: dict[str, Cached[T]]


class MissedChanges(NamedTuple):
    """What a watch missed, or may have."""

    words: str
    """The end of a sentence."""
    first: str = ""
    """The version of the first of it, where that can be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener(Generic[T]):
    """Who is told what a reflector learns. None of it may wait."""

    changed: Callable[[str, T | None, T | None, When | None], None]
    """An object, by key, before and after, and when; None: it is one of the first list, and no news."""
    refused: Callable[[str], None]
    """The first list is forbidden: nothing more will be told."""
    failed: Callable[[Exception], None]
    """This program erred; `lost` follows."""
    listed: Callable[[When, bool], None] = lambda _when, _missed: None
    """The copy is a new list's; whether it differs from what was known before, and when that came to be."""
    lost: Callable[[ApiError], None] = lambda _error: None
    """The watch is interrupted, and why."""
    unreadable: Callable[[ObjectError], None] | None = None
    """An object cannot be read and counts as unchanged; where this is None, that interrupts the watch."""
    detect_transient: bool = False
    """Objects that came and went while the watch was interrupted were missed, too."""


class Reflector(Generic[T]):
    """The copy, and the task that keeps it."""

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
        now_ns: Callable[[], int],
    ) -> None:
        """Objects of `path` with `params` (selectors), of each of which `keep` makes what is kept; `kind` is for people."""
        self._api = api
        self._path = path
        self._params = params
        self._identify = parser(kind)(identity)
        self._read_version = parser(kind)(_version)
        self._keep = keep
        self._listener = listener
        self._page = page
        self._timing = timing
        self._now_ns = now_ns
        self._delay_s = timing.backoff_s
        self._version = ""
        """The watch has told all up to this one."""
        self._first = True
        self._is_up = False
        """The watch runs, as far as is known."""
        self._lists = ListHistory()
        self._base_ns = 0
        """When the list was asked for from which the watch goes on: all that it tells happened after that."""
        self._verified_ns = 0
        """When the newest list was asked for that the copy was seen level with; 0 before the first."""
        self.items: dict[str, Cached[T]] = {}
        self.first_list_done = asyncio.Event()
        """The first list was read, or refused."""

    async def run(self) -> None:
        """Keep the copy until cancelled. It raises nothing, and ends only where even the first list is forbidden."""
        while True:
            try:
                listing = await self.list()
                self._replace(listing, None if self._first else await self._changes_missed(listing))
                await self._watch()
            except ApiError as error:
                if error.status == FORBIDDEN and self._first:
                    self._listener.refused(str(error))
                    self.first_list_done.set()
                    return
                self._is_up = False
                self._listener.lost(error)
            except Exception as error:  # an error of this program must not end the run that it only watches
                self._is_up = False
                self._listener.failed(error)
                self._listener.lost(ApiError(f"an internal error ({type(error).__name__})"))
            await asyncio.sleep(self._delay_s * random.uniform(0.5, 1))  # noqa: S311 - clients shall not come back at once
            self._delay_s = min(2 * self._delay_s, self._timing.backoff_max_s)

    async def list(self) -> Listing[T]:
        """A consistent list; the copy stays as it is. Raises `ApiError`."""
        asked_ns, first_ns = self._now_ns(), None
        version = ""
        items: dict[str, Cached[T]] = {}
        is_whole = True
        async for page in pages(self._api, self._path, self._params, self._page):
            if first_ns is None:
                first_ns, version = self._now_ns(), page.version
                self._lists.note(version, asked_ns, first_ns)
            for obj in page.items:
                is_whole &= self._put(items, obj)
        if not is_whole:  # what cannot be read may be any of those that seem to be gone
            items = {**self.items, **items}
        return Listing(asked_ns, self._now_ns() if first_ns is None else first_ns, version, items)

    async def sample(self) -> None:
        """List one object: it tells what is older than it, and what is not. Where there are no more, it is a whole list.

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
            is_whole = all(self._put(items, obj) for obj in page.items)
        except ObjectError:  # the watch says so itself
            return
        if is_whole and self.has_caught_up_with(Listing(asked_ns, heard_ns, page.version, items)):
            self.mark_verified(asked_ns)

    def has_caught_up_with(self, listing: Listing[T]) -> bool:
        """Whether the watch has told all that a list shows; it may have told more since."""
        for key, item in listing.items.items():
            known = self.items.get(key)
            if not at_least(known.version if known else self._version, item.version):
                return False
        gone = self.items.keys() - listing.items.keys()
        return all(_is_newer(self.items[key].version, listing.version) for key in gone)

    def mark_verified(self, asked_ns: int) -> None:
        """The copy is level with a list asked for then."""
        self._verified_ns = max(asked_ns, self._verified_ns)

    @property
    def known_ns(self) -> int:
        """Nothing that happened before this was missed, whatever the watch does not tell now."""
        return max(self._verified_ns, self._lists.asked_up_to(self._version) or 0)

    def _put(self, items: dict[str, Cached[T]], obj: object) -> bool:
        """Add a list's object to what is kept. Returns whether it can be read, or raises `ObjectError`."""
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
        """What a watch that is down may have missed before a list; None: nothing."""
        differs = _versions(listing.items) != _versions(self.items)
        if not differs and (not self._listener.detect_transient or listing.version == self._version):
            return None
        timing = self._timing
        events = watch_events(
            self._api, self._path, self._params, self._version, silence_s=timing.max_lag_s, rotate_s=timing.rotate_s
        )
        newer, why = False, ""
        try:
            # That something was missed need not wait; only when it began is asked for.
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

    def _replace(self, listing: Listing[T], missed: MissedChanges | None) -> None:
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
        """Nothing that happened before this was missed until a list."""
        if not at_least(listing.version, self._version):  # the numbers began anew, and can be compared no more
            return self._verified_ns
        return self.known_ns

    async def _watch(self) -> None:
        """Watch on and on from the last resourceVersion; raises `ApiError` when something may have been missed."""
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
            if not heard and self._now_ns() - began_ns < self._timing.min_watch_s * 1e9:
                raise ApiError("the API server ends the watch as soon as it begins")

    def _apply(self, kind: str, obj: Json) -> None:
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
        """When a change happened that the watch tells now."""
        until_ns = min(heard_ns, self._lists.heard_from(version) or heard_ns)
        since_ns = max(self._base_ns, self._lists.asked_below(version) or 0)
        return When(min(since_ns, until_ns), until_ns, heard_ns)


def _version(obj: Fields) -> str:
    return obj.part("metadata").needed("resourceVersion")


def _versions(items: dict[str, Cached[T]]) -> dict[str, str]:
    return {key: item.version for key, item in items.items()}


def _is_newer(version: str, than: str) -> bool:
    return at_least(version, than) and not at_least(than, version)
