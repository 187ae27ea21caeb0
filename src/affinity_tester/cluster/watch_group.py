"""The watches of one run as a group: they share timing, clock, tasks and the way to emit events."""

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
"""Objects in one page of a list, by resource.

A page of about 250 kB is parsed in some milliseconds; probes that are due meanwhile wait for that long.
"""

METADATA_PAGE = 200
"""Objects in one page of a list of metadata."""

KINDS = {"endpointslices": "EndpointSlice", "services": "Service", "nodes": "Node", "pods": "Pod"}
"""The kind of the objects of a resource, for error messages."""

MAX_UNREADABLE_WARNINGS = 20
"""So many unreadable objects get a warning each. Where there are more, all of them are odd in the same way."""


class WatchGroup:
    """Makes reflectors and runs their tasks until `close`. No error of a watch raises into the run."""

    def __init__(
        self, api: Api, subject: str, emit: Callable[[Event], None], now_ns: Callable[[], int], timing: WatchTiming
    ) -> None:
        """`subject` is the Service as namespace/name: warnings about what cannot be watched carry it."""
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
        self,
        path: str,
        keep: Callable[[object], T],
        heard: Listener[T],
        *,
        labels: str = "",
        name: str = "",
        poll_s: float | None = None,
        metadata: Api | None = None,
    ) -> Reflector[T]:
        """Return a reflector of the objects at `path`, selected by `labels` or by `name`; `metadata` asks for that alone.

        `poll_s` is the time between two lists where it may not be watched; None is that of the pool.
        """
        params = [("labelSelector", labels)] if labels else []
        params += [("fieldSelector", f"metadata.name={name}")] if name else []
        resource = path.rpartition("/")[2]

        return Reflector(
            metadata or self._api,
            path,
            tuple(params),
            keep,
            heard,
            kind=KINDS[resource],
            page=METADATA_PAGE if metadata is not None else PAGE_SIZES[resource],
            timing=self.timing,
            poll_s=poll_s,
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
        metadata: Api | None = None,
    ) -> Reflector[T]:
        """Return a reflector of objects that explain changes but are not part of the pool.

        The pool stays known while this reflector is interrupted. Where RBAC forbids its list, the warning names
        `refused` and `namespace`; an empty `refused`: there is no warning. `metadata` asks for objects' metadata alone.
        """
        resource = path.rpartition("/")[2]
        heard: Listener[T] = Listener(
            changed=changed,
            refused=lambda _reason: (
                self.warn_once(ClusterAction.LIST_FORBIDDEN, refused, namespace) if refused else None
            ),
            failed=partial(self.warn_failed, resource),
            listed=listed,
            unwatchable=self.warn_unwatchable,
            unreadable=self.warn_unreadable,
        )

        return self.reflector(path, keep, heard, labels=labels, poll_s=self.timing.context_poll_s, metadata=metadata)

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` as a task until `close`. It replaces the task that ran under this name before."""
        if name in self._tasks:
            self._tasks[name].cancel()

        self._tasks[name] = asyncio.create_task(work, name=f"watch {name}")
        return self._tasks[name]

    def is_running(self, name: str) -> bool:
        """True if the task of this name still runs."""
        return name in self._tasks and not self._tasks[name].done()

    def emit(self, *events: Event) -> None:
        """Emit events until a call of `emit` raises. That error is the run's own: `close` raises it again."""
        for event in events:
            if self._emit_error is None:
                try:
                    self._emit(event)
                except Exception as error:
                    self._emit_error = error

    def warn_once(self, trouble: ClusterAction, resource: str = "", detail: str = "") -> None:
        """Emit a warning about something that cannot be watched, the first time that it is given."""
        if (trouble, resource, detail) not in self._warned:
            self._warned.add((trouble, resource, detail))
            now_ns = self.now_ns()
            event = ClusterEvent(now_ns, ClusterSubject.WATCH, self._subject, trouble, resource=resource, detail=detail)
            self.emit(event)

    def warn_unwatchable(self) -> None:
        """Warn once, for all objects together, that lists stand in for watches: a role lacks the verb for all alike."""
        self.warn_once(ClusterAction.WATCH_FORBIDDEN, detail=f"{self.timing.poll_s:g} s")

    def warn_unreadable(self, error: ObjectError) -> None:
        """Warn once about each unreadable object, and in one warning about all beyond `MAX_UNREADABLE_WARNINGS`."""
        if len(self._unreadable) < MAX_UNREADABLE_WARNINGS:
            self._unreadable.add(str(error))
            self.warn_once(ClusterAction.UNREADABLE, detail=str(error))
        elif str(error) not in self._unreadable:
            self.warn_once(ClusterAction.MORE_UNREADABLE)

    def warned(self, trouble: ClusterAction, resource: str = "", detail: str = "") -> bool:
        """True if this warning was emitted."""
        return (trouble, resource, detail) in self._warned

    def warn_failed(self, what: str, error: Exception) -> None:
        """Warn that this program failed while it watched `what`."""
        self.warn_once(ClusterAction.INTERNAL_ERROR, what, f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """Cancel all tasks and wait for them. Raises the error that `emit` raised, if it did."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

        if self._emit_error is not None:
            raise self._emit_error
