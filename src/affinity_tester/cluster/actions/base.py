"""What all actions of experiments have in common: what they are given, what they tell, and the order of their calls.

    prepare -> calls, rights -> act -> wait_settled -> undo -> wait_undone

`undo` may follow at any point after `prepare`, more than once, and after an `act` that failed or was cancelled halfway.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar

from affinity_tester.cluster.actions.calls import Call, Right
from affinity_tester.cluster.api import Json, WritableApi
from affinity_tester.cluster.connect import Cluster
from affinity_tester.cluster.objects import ServiceRef
from affinity_tester.cluster.reflector import WatchTiming
from affinity_tester.core.experiment.catalogue import EXPERIMENTS, ActionKind
from affinity_tester.errors import AffinityTesterError

OWN_DEPLOYMENT = "affinity-tester"
"""The name of the echo servers' Deployment that k8s/deployment.yaml makes."""

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
OWN_LABEL = (PART_OF, "affinity-tester")
"""The label of all objects of this tool: built-in experiments touch no others."""

ACT_LIMIT_S = 300.0
"""How long an action of several parts waits for one part before the next: for a pod to be pulled and started."""


class NotSettledError(AffinityTesterError):
    """What an action changed, or its undo, has not settled in time; the text says what is missing."""


class StepState(StrEnum):
    """How far a step has come."""

    WILL = "will"
    DID = "did"
    AGAIN = "again"
    """It was not done, and is tried again: `Step.reason` says why."""
    FAILED = "failed"
    """It was not done; or, if `Step.reason` says so, it may have been."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an action tells the journal: once before each write, and once after it."""

    state: StepState
    text: str
    """What is done: `scale affinity-tester from 3 to 4 pods`."""
    undo: bool
    """It brings something back."""
    calls: tuple[Call, ...] = ()
    """The writes; none for a command, and for a step that only reports."""
    reason: str = ""
    """Why it failed; for a command that was done, the last line that it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionOptions:
    """What a user may choose for an action."""

    pod: str = ""
    """pod-delete, pod-kill, not-ready, scale-down: the name of the (first) pod to go; empty: one is chosen."""
    pods: int = 1
    """scale-up, scale-down: so many pods."""
    node: str = ""
    """node-drain, proxy-restart: the (first) node; empty: it is chosen."""
    nodes: int = 1
    """node-scaleup: so many nodes."""
    delete_emptydir_data: bool = False
    """node-drain: evict pods with emptyDir volumes too, whose data is lost (as `kubectl drain` asks)."""
    do: str = ""
    """command: what to run."""
    undo: str = ""
    """command: what undoes it; empty: nothing does."""
    command_limit_s: float = 1800.0
    """command: how long each of them may take. Upgrades of node pools take many minutes."""
    node_scaleup: Json | None = None
    """node-scaleup: the Deployment of k8s/node-scaleup.yaml, made where there is none."""


def holder_identity() -> str:
    """Return who runs this, for people who find its traces: user@host (pid 123)."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the passwd file
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()} (pid {os.getpid()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionContext:
    """Where an action acts, and whom it tells."""

    cluster: Cluster
    namespace: str
    """Of the Deployment and the Services."""
    services: tuple[ServiceRef, ...]
    """The Services under test."""
    emit_step: Callable[[Step], None]
    """Called before and after each write. It must not block."""
    now_ns: Callable[[], int]
    """The run's clock."""
    planned_services: Mapping[str, Json] = field(default_factory=dict)
    """Services under test that are made later, by name: `prepare` takes them for those that are not there yet, so that
    rights and calls are known before anything is made (`MatrixServices.planned`)."""
    deployment: str = OWN_DEPLOYMENT
    client_nodes: tuple[str, ...] = ()
    """Names of the nodes that the client may run on: NODE_NAME."""
    client_addresses: tuple[str, ...] = ()
    """This machine's addresses: a node that has one, other than loopback, is the client's."""
    kubeconfig: str = ""
    """What --kubeconfig or KUBECONFIG names, for `command`; empty: unknown."""
    timing: WatchTiming = field(default_factory=WatchTiming)
    act_limit_s: float = ACT_LIMIT_S
    holder: str = field(default_factory=holder_identity)
    """Who experiments: user@host (pid 123)."""
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def api(self) -> WritableApi:
        """The API server."""
        return self.cluster.api


class Action:
    """Something that an experiment does to a cluster, and its undo; this one does nothing."""

    name: ClassVar[str]
    """As in the catalogue."""
    takes_one_pod: ClassVar[bool] = False
    """It takes a pod away that `ActionOptions.pod` may name."""

    def __init__(self, context: ActionContext, options: ActionOptions) -> None:
        """Read and change nothing yet."""
        self.context = context
        self.options = options

    @property
    def kind(self) -> ActionKind:
        """Who brings the cluster back."""
        return EXPERIMENTS[self.name].kind

    async def prepare(self) -> None:
        """Read what is there, and choose. Raises `UserError` where the action cannot be done, and `ApiError`."""

    @property
    def text(self) -> str:
        """What will be done, or was done, in words: `delete pod affinity-tester-x (node n1)`. After `prepare`."""
        return EXPERIMENTS[self.name].does

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before it is done: what is not brought back, what costs. After `prepare`."""
        return ()

    def calls(self) -> tuple[Call, ...]:
        """Return the writes of `act`, in order. After `prepare`."""
        return ()

    def undo_calls(self) -> tuple[Call, ...]:
        """Return the writes of `undo` after an `act` that was done whole. After `prepare`."""
        return ()

    def reads(self) -> tuple[Right, ...]:
        """Return the rights to read that it needs beside its writes."""
        return ()

    def rights(self) -> tuple[Right, ...]:
        """Return all rights that act, undo and waiting need, each once. After `prepare`."""
        writes = (call.right for call in (*self.calls(), *self.undo_calls()))
        return tuple(dict.fromkeys((*writes, *self.reads())))

    async def act(self) -> None:
        """Do it. Raises `ApiError` or `UserError`; `undo` then brings back what was done so far."""

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until what `act` changed has settled. Raises `NotSettledError` after `limit_s`."""

    async def undo(self) -> None:
        """Bring back what was changed, as far as it still is. Raises `ApiError`."""

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until what `undo` changed has settled. Raises `NotSettledError` after `limit_s`."""

    @property
    def removed_pods(self) -> frozenset[str]:
        """The uids of the pods that it took away, as far as they are known so far."""
        return frozenset()

    @property
    def removed_nodes(self) -> frozenset[str]:
        """The names of the nodes that it took out of the way of packets, as far as they are known so far."""
        return frozenset()

    async def _send(self, text: str, call: Call, *, undo: bool = False) -> Json:
        """Send one write, and tell the journal before and after it. Raises `ApiError`."""
        with self._step(text, (call,), undo=undo):
            return await call.send(self.context.api)

    @contextmanager
    def _step(self, text: str, calls: Sequence[Call] = (), *, undo: bool = False) -> Iterator[None]:
        with told_step(self.context.emit_step, text, calls, undo=undo):
            yield


@contextmanager
def told_step(
    emit_step: Callable[[Step], None],
    text: str,
    calls: Sequence[Call] = (),
    *,
    undo: bool = False,
    retried: Callable[[AffinityTesterError], bool] = lambda _error: False,
) -> Iterator[None]:
    """Tell a step before what is done inside, and after it how it went; `retried`: whether an error is not the end."""
    emit_step(Step(StepState.WILL, text, undo, tuple(calls)))
    try:
        yield
    except asyncio.CancelledError:
        emit_step(Step(StepState.FAILED, text, undo, tuple(calls), "cancelled; it may have been done"))
        raise
    except AffinityTesterError as error:
        state = StepState.AGAIN if retried(error) else StepState.FAILED
        emit_step(Step(state, text, undo, tuple(calls), str(error)))
        raise
    emit_step(Step(StepState.DID, text, undo, tuple(calls)))
