"""Waits until objects are as they should be: by lists and watches, never by sleeping.

A copy of each resource is listed after the change that is waited for, so that it has that change, and then watched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from affinity_tester.cluster.actions.base import ActionContext, NotSettledError
from affinity_tester.cluster.actions.calls import Location, Right
from affinity_tester.cluster.api import ApiError, Json
from affinity_tester.cluster.fields import ObjectError
from affinity_tester.cluster.reflector import Listener, Reflector

PAGE = 40
"""Objects in one page of a list: a page of pods is parsed in some milliseconds, and probes that are due wait for it."""


class Resource(NamedTuple):
    """Objects to watch."""

    path: str
    """Of their collection."""
    labels: str = ""
    """A label selector; empty: all."""
    name: str = ""
    """One object's; empty: all."""
    fields: str = ""
    """A field selector instead of the name; empty: all."""

    @property
    def rights(self) -> tuple[Right, ...]:
        """To list and to watch them."""
        at = Location.of(self.path)
        return tuple(Right(verb, at.group, at.resource, "", at.namespace, self.name) for verb in ("list", "watch"))

    @property
    def params(self) -> tuple[tuple[str, str], ...]:
        """The query of a list."""
        labels = (("labelSelector", self.labels),) if self.labels else ()
        fields = f"metadata.name={self.name}" if self.name else self.fields
        return (*labels, ("fieldSelector", fields)) if fields else labels


Copies = Mapping[Resource, Sequence[Json]]
"""The objects of each resource, as they are now."""


async def wait_until(
    context: ActionContext, resources: Iterable[Resource], missing: Callable[[Copies], str], limit_s: float
) -> None:
    """Wait until `missing` says nothing about the objects.

    Raises `NotSettledError` with what it last said after `limit_s`, and `ApiError` where a list is refused.
    """
    waiting = _Waiting(context, resources)
    try:
        async with asyncio.timeout(limit_s):
            await waiting.until(missing)
    except TimeoutError as error:
        said = waiting.said or "the API server did not answer"
        raise NotSettledError(f"not settled within {limit_s:g} s: {said}") from error
    finally:
        await waiting.close()


class _Waiting:
    """The copies, and the tasks that keep them."""

    def __init__(self, context: ActionContext, resources: Iterable[Resource]) -> None:
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self._lost = ""
        self.said = ""
        self._reflectors = {each: self._reflector(context, each) for each in resources}
        self._tasks = [asyncio.create_task(each.run(), name="settle") for each in self._reflectors.values()]

    def _reflector(self, context: ActionContext, resource: Resource) -> Reflector[Json]:
        def failed(error: Exception) -> None:
            self._error = error
            self._news.set()

        def lost(error: ApiError) -> None:
            self._lost = str(error)

        listener: Listener[Json] = Listener(
            changed=lambda *_: self._news.set(),
            listed=lambda *_: self._news.set(),
            refused=lambda text: failed(ApiError(text)),
            failed=failed,
            lost=lost,
        )
        return Reflector(
            context.api,
            resource.path,
            resource.params,
            _as_object,
            listener,
            kind=Location.of(resource.path).resource,
            page=PAGE,
            timing=context.timing,
            now_ns=context.now_ns,
        )

    async def until(self, missing: Callable[[Copies], str]) -> None:
        while True:
            self._news.clear()
            if self._error is not None:
                raise self._error
            if all(each.first_list_done.is_set() for each in self._reflectors.values()):
                self.said = missing(
                    {
                        resource: [item.value for item in reflector.items.values()]
                        for resource, reflector in self._reflectors.items()
                    }
                )
                if not self.said:
                    return
            else:
                self.said = self._lost
            await self._news.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _as_object(obj: object) -> Json:
    if not isinstance(obj, dict):
        raise ObjectError("all of it", "is no object")
    return obj
