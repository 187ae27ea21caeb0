"""Keeps a second experiment out of a namespace, by a Lease of coordination.k8s.io.

    none there -> create      expired -> take over, unless it is renewed after all      live -> UserError
    every 10 s: renew         at the end: delete

Each write names the resourceVersion that it is about, so that of two that come at once one loses. A Lease of a process of
this machine that is no more has expired, whatever its time says. Two machines' clocks may differ: an expired Lease of
another machine is watched for longer than its holder takes to renew it before it is taken over.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from affinity_tester.cluster.actions.base import COMPONENT, OWN_LABEL, ActionContext
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.originals import is_passing, merged, metadata_of, value_at, version_of
from affinity_tester.cluster.api import CONFLICT, NOT_FOUND, ApiError, Json
from affinity_tester.errors import UserError

LEASE = "affinity-tester-experiment"
UNDO_NOTE = "affinity-tester/experiment-undo"
"""The annotation of the Lease with the command that undoes a user's command: no object of its own could tell that."""

MACHINE = "affinity-tester/experiment-machine"
"""The annotation of the Lease that says where its holder's process number means something."""

DURATION_S = 30
RENEW_S = 10.0

OBSERVE_S = 15.0
"""For how long an expired Lease is observed before it is taken over: half as long again as until it is renewed."""

SURELY_OLD = timedelta(hours=1)
"""No two clocks differ by so much: a Lease that expired so long ago is not observed."""

HOLDER = re.compile(r"(?P<user_host>.*) \(pid (?P<pid>\d+)\)")


def lease_path(namespace: str) -> str:
    """Return the path of a namespace's Lease."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases/{LEASE}"


def note_undo(namespace: str, command: str | None) -> Call:
    """Return the request that writes a command on the Lease, which undoes what was run; None takes it away."""
    return Call(Verb.PATCH, lease_path(namespace), {"metadata": {"annotations": {UNDO_NOTE: command}}})


class ExperimentLease:
    """The Lease of one experiment: `async with` holds it, and renews it in the background."""

    def __init__(
        self,
        context: ActionContext,
        on_lost: Callable[[str], None],
        *,
        observe_s: float = OBSERVE_S,
        machine: str | None = None,
    ) -> None:
        """`on_lost` is called once with a reason, if the Lease is another's or could not be renewed before it expired.

        `machine` names the boot and the process namespace of this process; None: they are read.
        """
        self._context = context
        self._machine = read_machine() if machine is None else machine
        self._on_lost = on_lost
        self._observe_s = observe_s
        self._collection = lease_path(context.namespace).rpartition("/")[0]
        self._path = lease_path(context.namespace)
        self._lease: Json = {}
        self._renewing: asyncio.Task[None] | None = None
        self.took_over = ""
        """Who held it before without giving it back; empty if nobody did. What that run left is to be mended."""

    def rights(self) -> tuple[Right, ...]:
        """Return what RBAC must allow."""
        where = ("coordination.k8s.io", "leases", "", self._context.namespace)
        named = (Right(verb, *where, LEASE) for verb in ("get", "patch", "delete"))
        return (Right("create", *where), *named)

    def calls(self) -> tuple[Call, Call]:
        """Return the requests that take it and give it back; between them it is renewed."""
        return (self._creation(), Call(Verb.DELETE, self._path))

    async def __aenter__(self) -> Self:
        """Take it. Raises `UserError` if another experiment holds it, and `ApiError`."""
        self._lease = await self._take()
        self._renewing = asyncio.create_task(self._renew_until_lost(), name="experiment lease")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Give it back, as far as the API server can be reached: else it expires."""
        assert self._renewing is not None
        self._renewing.cancel()
        with suppress(asyncio.CancelledError):
            await self._renewing
        with suppress(ApiError):  # of another, or gone; else it expires
            await self._give_back()

    async def _give_back(self) -> None:
        try:
            await self._delete(self._lease)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            lease = await self._context.api.get(self._path)
            if holder_of(lease) == self._context.holder:  # a renewal whose answer was not waited for
                await self._delete(lease)

    async def _delete(self, lease: Json) -> None:
        metadata = metadata_of(lease)
        only_this = {"uid": metadata.get("uid", ""), "resourceVersion": metadata.get("resourceVersion", "")}
        await self._context.api.delete(self._path, {"preconditions": only_this})

    async def _take(self) -> Json:
        api = self._context.api
        for _ in range(3):
            try:
                creation = self._creation()
                return await api.create(creation.path, creation.body)
            except ApiError as error:
                if error.status != CONFLICT:
                    raise
            try:
                lease = await api.get(self._path)
                await self._check_expired(lease)
                ours = merged(version_of(lease), {"metadata": {"annotations": {MACHINE: self._machine}}})
                patched = await api.patch(self._path, {**ours, "spec": self._spec()})
            except ApiError as error:
                if error.status not in (CONFLICT, NOT_FOUND):  # else it was given back or taken meanwhile: look again
                    raise
                continue
            self.took_over = holder_of(lease)
            return patched
        raise UserError("another experiment began at the same moment: try again")

    async def _check_expired(self, lease: Json) -> None:
        """Return if a Lease may be taken over. Raises `UserError` if another holds it, and `ApiError`."""
        holder = holder_of(lease)
        machine = (metadata_of(lease).get("annotations") or {}).get(MACHINE)
        if not holder or (machine == self._machine != "" and is_dead_here(holder, self._context.holder)):
            return
        renewed = time_of(value_at(lease, "spec.renewTime"))
        now = self._context.wall()
        duration = timedelta(seconds=value_at(lease, "spec.leaseDurationSeconds") or DURATION_S)
        if renewed is not None and now < renewed + duration:
            raise UserError(self._held(lease, (renewed + duration - now).total_seconds()))
        if renewed is not None and now < renewed + duration + SURELY_OLD:
            await self._observe(lease)

    async def _observe(self, lease: Json) -> None:
        """Wait for longer than a holder takes to renew. Raises `UserError` if this one did: its clock is another one."""
        await asyncio.sleep(self._observe_s)
        later = await self._context.api.get(self._path)
        if version_of(later) != version_of(lease):
            raise UserError(self._held(later, DURATION_S))

    def _held(self, lease: Json, left_s: float) -> str:
        since = value_at(lease, "spec.acquireTime") or "an unknown time"
        namespace = self._context.namespace
        return (
            f"{holder_of(lease)} runs an experiment in namespace {namespace} since {since}: wait until it ends, or, if it was"
            f" killed, for {max(1, round(left_s))} s (kubectl -n {namespace} get lease {LEASE})"
        )

    async def _renew_until_lost(self) -> None:
        loop = asyncio.get_running_loop()
        good_until_s = loop.time() + DURATION_S
        while True:
            await asyncio.sleep(RENEW_S if loop.time() < good_until_s - 2 * RENEW_S else RENEW_S / 4)
            asked_s = loop.time()
            try:
                self._lease = await self._renew()
                good_until_s = asked_s + DURATION_S
            except ApiError as error:
                if error.status in (CONFLICT, NOT_FOUND) or not is_passing(error):
                    self._on_lost(f"the Lease {LEASE} is no longer this experiment's ({error})")
                    return
                if loop.time() >= good_until_s:
                    self._on_lost(f"the Lease {LEASE} could not be renewed for {DURATION_S} s ({error})")
                    return

    async def _renew(self) -> Json:
        """Renew it. Raises `ApiError`, with 409 if it is another's."""
        api = self._context.api
        patch = {**version_of(self._lease), "spec": {"renewTime": self._now()}}
        try:
            return await api.patch(self._path, patch)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            lease = await api.get(self._path)  # a renewal of ours whose answer was lost, or somebody's label
            if holder_of(lease) != self._context.holder:
                raise ApiError(f"{holder_of(lease)} has it", CONFLICT) from error
            return await api.patch(self._path, {**version_of(lease), "spec": {"renewTime": self._now()}})

    def _creation(self) -> Call:
        name, value = OWN_LABEL
        metadata = {
            "name": LEASE,
            "namespace": self._context.namespace,
            "labels": {name: value, "app.kubernetes.io/name": value, COMPONENT: "experiment"},
            "annotations": {MACHINE: self._machine},
        }
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": self._spec(),
        }
        return Call(Verb.CREATE, self._collection, lease)

    def _spec(self) -> Json:
        now = self._now()
        return {
            "holderIdentity": self._context.holder,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": now,
            "renewTime": now,
        }

    def _now(self) -> str:
        """Return the wall clock as a MicroTime."""
        return self._context.wall().astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def holder_of(lease: Json) -> str:
    """Return who holds a Lease; empty if nobody does."""
    return str(value_at(lease, "spec.holderIdentity") or "")


def read_machine() -> str:
    """Return which boot of which machine this is, and which process namespace; empty where that is not told.

    Containers may have their host's name, and number their processes anew.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return ""


def is_dead_here(holder: str, own: str) -> bool:
    """True if a holder is a process of this user and machine that is no more."""
    theirs, ours = HOLDER.fullmatch(holder), HOLDER.fullmatch(own)
    if theirs is None or ours is None or theirs["user_host"] != ours["user_host"]:
        return False
    try:
        os.kill(int(theirs["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def time_of(text: object) -> datetime | None:
    """Return a MicroTime; None for anything else."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None
