"""What every watch of a run needs: reflectors with one timing and clock, their tasks, and one way to tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from affinity_tester.cluster.api import Api
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.reflector import Listener, Reflector, WatchTiming
from affinity_tester.cluster.resource_versions import When
from affinity_tester.core.events import ClusterAction, ClusterEvent, ClusterSubject, Event

T = TypeVar("T")

PAGE_SIZES = {"endpointslices": 5, "services": 50, "nodes": 20, "pods": 40}
"""Objects parsed at a time, about 250 kB each: the probes' timer waits some milliseconds at most."""

KINDS = {"endpointslices": "EndpointSlice", "services": "Service", "nodes": "Node", "pods": "Pod"}

MAX_UNREADABLE_WARNINGS = 20
"""Objects that cannot be read and are told of; where there are more, they are all odd in the same way."""


class WatchGroup:
    """Its tasks run until `close`; nothing raises into the run."""

    def __init__(
        self, api: Api, subject: str, emit: Callable[[Event], None], now_ns: Callable[[], int], timing: WatchTiming
    ) -> None:
        """`subject`: the Service, under whose name it is told what cannot be watched."""
        self._api = api
        self._subject = subject
        self._emit = emit
        self._emit_error: Exception | None = None
        self.now_ns = now_ns
        self.timing = timing
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._warned: set[tuple[ClusterAction, str, str]] = set()
        self._unreadable: set[str] = set()

    def reflector(
        self, path: str, keep: Callable[[object], T], heard: Listener[T], *, labels: str = "", name: str = ""
    ) -> Reflector[T]:
        """A reflector of the objects at `path`, by label selector or by name."""
        params = [("labelSelector", labels)] if labels else []
        params += [("fieldSelector", f"metadata.name={name}")] if name else []
        what = path.rpartition("/")[2]
        return Reflector(
            self._api,
            path,
            tuple(params),
            keep,
            heard,
            kind=KINDS[what],
            page=PAGE_SIZES[what],
            timing=self.timing,
            now_ns=self.now_ns,
        )

    def context_reflector(
        self,
        path: str,
        keep: Callable[[object], T],
        changed: Callable[[str, T | None, T | None, When | None], None],
        *,
        refused: str,
        namespace: str = "",
        listed: Callable[[When, bool], None] = lambda _when, _missed: None,
        labels: str = "",
    ) -> Reflector[T]:
        """A reflector whose interruptions leave the pool known; where it may not list, `refused` and `namespace` say what."""
        what = path.rpartition("/")[2]
        heard: Listener[T] = Listener(
            changed=changed,
            refused=lambda _reason: self.warn_once(ClusterAction.LIST_FORBIDDEN, refused, namespace),
            failed=partial(self.warn_failed, what),
            listed=listed,
            unreadable=self.warn_unreadable,
        )
        return self.reflector(path, keep, heard, labels=labels)

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run it until `close`, instead of what ran under this name before."""
        if name in self._tasks:
            self._tasks[name].cancel()
        self._tasks[name] = asyncio.create_task(work, name=f"watch {name}")
        return self._tasks[name]

    def is_running(self, name: str) -> bool:
        """Whether what was spawned under this name still runs."""
        return name in self._tasks and not self._tasks[name].done()

    def emit(self, *events: Event) -> None:
        """Nothing is told any more once `emit` failed; its error is the run's own, and `close` raises it."""
        for event in events:
            if self._emit_error is None:
                try:
                    self._emit(event)
                except Exception as error:
                    self._emit_error = error

    def warn_once(self, trouble: ClusterAction, resource: str = "", detail: str = "") -> None:
        """Tell once what cannot be watched."""
        if (trouble, resource, detail) not in self._warned:
            self._warned.add((trouble, resource, detail))
            now_ns = self.now_ns()
            event = ClusterEvent(now_ns, ClusterSubject.WATCH, self._subject, trouble, resource=resource, detail=detail)
            self.emit(event)

    def warn_unreadable(self, error: ObjectError) -> None:
        """Tell once of each object that cannot be read, as long as they are not many."""
        if len(self._unreadable) < MAX_UNREADABLE_WARNINGS:
            self._unreadable.add(str(error))
            self.warn_once(ClusterAction.UNREADABLE, detail=str(error))
        elif str(error) not in self._unreadable:
            self.warn_once(ClusterAction.MORE_UNREADABLE)

    def warned(self, trouble: ClusterAction, resource: str = "", detail: str = "") -> bool:
        """Whether that was told."""
        return (trouble, resource, detail) in self._warned

    def warn_failed(self, what: str, error: Exception) -> None:
        """This program erred."""
        self.warn_once(ClusterAction.INTERNAL_ERROR, what, f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """End all tasks. Raises what `emit` raised."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._emit_error is not None:
            raise self._emit_error
