"""Actions that take pods away, which their controller makes anew: pod-delete, pod-kill, not-ready, rollout."""

from __future__ import annotations

from typing import ClassVar

from affinity_tester.cluster.actions.base import Action
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.originals import nested, value_at
from affinity_tester.cluster.actions.own_pool import OwnPool, deployment_path, name_of, node_of, pod_path, uid_of
from affinity_tester.cluster.actions.settle import wait_until
from affinity_tester.cluster.api import CONFLICT, NOT_FOUND, ApiError, Json
from affinity_tester.errors import UserError

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
"""The annotation of a pod template that `kubectl rollout restart` sets."""

DRAIN_S = 5
"""The servers answer for so long after they were told to end (settings: AFFINITY_DRAIN)."""


class PoolAction(Action):
    """An action on the echo servers' pool, after which the pool has its pods again."""

    needs_pods: ClassVar[int] = 1
    needs_why: ClassVar[str] = "this experiment needs"

    async def prepare(self) -> None:
        """Read the pool. Raises `UserError` where it is too small or not whole."""
        self.pool = await OwnPool.read(self.context)
        self.pool.require(self.needs_pods, self.needs_why)

    def reads(self) -> tuple[Right, ...]:
        """To read the pool and to wait for it."""
        return self.pool.rights

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until the pods that were taken away are gone, and the controller has made others."""
        await self._wait_for_pool(self.removed_pods, limit_s)

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until the pool is whole, whether the action came to something or not."""
        await self._wait_for_pool(frozenset(), limit_s)

    async def _wait_for_pool(self, gone: frozenset[str], limit_s: float) -> None:
        replicas = self.pool.replicas
        await wait_until(
            self.context, self.pool.resources, lambda copies: self.pool.missing(copies, replicas, gone), limit_s
        )


class PodDelete(PoolAction):
    """Delete a pod, with the grace that it asks for."""

    name = "pod-delete"
    takes_one_pod = True
    needs_pods = 2
    grace_s: ClassVar[int | None] = None
    """None: the pod's own."""

    async def prepare(self) -> None:
        """Read the pool, and choose the pod: the one that was named, else the first by name."""
        await super().prepare()
        self.pod = self.pool.choose(self.options.pod)
        self._begun = False

    @property
    def text(self) -> str:
        """Which pod."""
        how = "kill" if self.grace_s == 0 else "delete"
        return f"{how} pod {name_of(self.pod)} (node {node_of(self.pod)})"

    def calls(self) -> tuple[Call, ...]:
        """Return the DELETE."""
        body: Json = {"preconditions": {"uid": uid_of(self.pod)}}
        if self.grace_s is not None:
            body["gracePeriodSeconds"] = self.grace_s
        return (Call(Verb.DELETE, pod_path(self.pool.namespace, name_of(self.pod)), body),)

    async def act(self) -> None:
        """Delete it. Raises `UserError` if it went by itself meanwhile."""
        self._begun = True
        (call,) = self.calls()
        try:
            await self._send(self.text, call)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # 409: another uid
                raise
            self._begun = False
            raise UserError(f"pod {name_of(self.pod)} went by itself before it was deleted: try again") from error

    @property
    def removed_pods(self) -> frozenset[str]:
        """The pod."""
        return frozenset({uid_of(self.pod)} if self._begun else ())


class PodKill(PodDelete):
    """Delete a pod with no grace: its process is killed, and its endpoint is gone at once."""

    name = "pod-kill"
    grace_s = 0


class NotReady(PodDelete):
    """Tell a pod to end: until it has, its endpoint serves and is not ready (KEP-1672)."""

    name = "not-ready"

    async def prepare(self) -> None:
        """Read the pool, and choose the pod. Raises `UserError` if it has no time to drain."""
        await super().prepare()
        grace_s = value_at(self.pod, "spec.terminationGracePeriodSeconds")
        if grace_s is not None and grace_s < DRAIN_S:
            raise UserError(
                f"the pods of {self.pool.namespace}/{self.pool.name} have {grace_s} s to end, and the servers drain for"
                f" {DRAIN_S} s: set terminationGracePeriodSeconds to 15, as k8s/deployment.yaml does"
            )

    @property
    def text(self) -> str:
        """Which pod."""
        return f"tell pod {name_of(self.pod)} (node {node_of(self.pod)}) to end"


class Rollout(PoolAction):
    """Replace every pod, as `kubectl rollout restart` does."""

    name = "rollout"

    async def prepare(self) -> None:
        """Read the pool. Raises `UserError` if the Deployment is paused: nothing would follow."""
        await super().prepare()
        if value_at(self.pool.deployment, "spec.paused"):
            raise UserError(f"Deployment {self.pool.namespace}/{self.pool.name} is paused: kubectl rollout resume it")
        self._at = self.context.wall().isoformat(timespec="seconds")
        self._begun = False

    @property
    def text(self) -> str:
        """How many pods."""
        return f"replace all {len(self.pool.pods)} pods of {self.pool.namespace}/{self.pool.name}"

    def calls(self) -> tuple[Call, ...]:
        """Return the patch of the pod template."""
        body = nested("spec.template.metadata.annotations", {RESTARTED_AT: self._at})
        return (Call(Verb.PATCH, deployment_path(self.pool.namespace, self.pool.name), body),)

    async def act(self) -> None:
        """Set the annotation."""
        self._begun = True
        await self._send(self.text, *self.calls())

    @property
    def removed_pods(self) -> frozenset[str]:
        """All that were there."""
        return frozenset(uid_of(pod) for pod in self.pool.pods) if self._begun else frozenset()
