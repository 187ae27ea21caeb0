"""Actions that change a field and set it back: scale-up, scale-down, policy-flip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from affinity_tester.cluster.actions.base import Action
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.originals import Change, annotation_path, make_change, restore, value_at
from affinity_tester.cluster.actions.own_pool import (
    OwnPool,
    deployment_path,
    is_own,
    name_of,
    node_of,
    pod_path,
    service_path,
    uid_of,
)
from affinity_tester.cluster.actions.pods import PoolAction
from affinity_tester.cluster.actions.settle import Copies, Resource, wait_until
from affinity_tester.cluster.api import FORBIDDEN, ApiError, Json, list_all
from affinity_tester.cluster.managed_fields import set_by
from affinity_tester.errors import UserError

T = TypeVar("T")

OTHER_POLICY = {"Cluster": "Local", "Local": "Cluster"}
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""The annotation of pods by whose number a ReplicaSet chooses which to delete first (KEP-2255, Kubernetes 1.22)."""

FIRST_TO_GO = str(-(2**31))
"""The lowest number that it takes."""

LARGEST_POOL = 1000
"""Pods: more than anybody means."""


class ChangingAction(Action):
    """An action whose undo is what stands on the objects as annotations."""

    changes: tuple[tuple[Change, Json], ...] = ()
    """What is changed, and the object as it was read. Set by `prepare`."""

    def calls(self) -> tuple[Call, ...]:
        """Return two for each object: the note of the original value, and the change."""
        pairs = ((change.annotate(self.context, self.name, obj), change.change()) for change, obj in self.changes)
        return tuple(call for pair in pairs for call in pair)

    def undo_calls(self) -> tuple[Call, ...]:
        """Return one for each object."""
        return tuple(change.restore(obj) for change, obj in self.changes)

    def reads(self) -> tuple[Right, ...]:
        """To read the objects again before each write."""
        return tuple(
            Right("get", right.group, right.resource, "", right.namespace, right.name)
            for right in (Call(Verb.PATCH, change.path).right for change, _ in self.changes)
        )

    async def act(self) -> None:
        """Change one after the other."""
        for change, _ in self.changes:
            await make_change(self.context, self.name, change)

    async def undo(self) -> None:
        """Set back whatever is changed: one that fails does not keep the others from it."""
        await restore_all(
            lambda change: restore(self.context, change.path, change.what), [change for change, _ in self.changes]
        )


async def restore_all(restore_one: Callable[[T], Awaitable[object]], targets: Iterable[T]) -> None:
    """Restore each. Raises one `ApiError` for all that failed, after the last."""
    results = await asyncio.gather(*(restore_one(each) for each in targets), return_exceptions=True)
    failures = [each for each in results if isinstance(each, BaseException)]
    for failure in failures:
        if not isinstance(failure, ApiError):
            raise failure
    if failures:
        raise ApiError("; ".join(dict.fromkeys(map(str, failures))))


class _Scale(ChangingAction, PoolAction):
    """Another number of pods."""

    step = 0

    async def prepare(self) -> None:
        """Read the pool."""
        await PoolAction.prepare(self)
        self.before = self.pool.replicas
        self.after = self.before + self.step * self.options.pods
        self._left: frozenset[str] = frozenset()
        if not 1 <= self.after <= LARGEST_POOL:
            raise UserError(
                f"{self.pool.namespace}/{self.pool.name} has {self.before} pods, and would have {self.after}, where 1 to"
                f" {LARGEST_POOL} must be: kubectl -n {self.pool.namespace} scale deployment/{self.pool.name} --replicas=3"
            )
        self.changes = ((self._change(), self.pool.deployment),)

    def _change(self) -> Change:
        what = f"Deployment {self.pool.namespace}/{self.pool.name}"
        return Change(
            path=deployment_path(self.pool.namespace, self.pool.name),
            what=what,
            field="spec.replicas",
            to=self.after,
            text=f"scale {what} from {self.before} to {self.after} pods",
        )

    @property
    def text(self) -> str:
        """From how many to how many."""
        return self._change().text

    def reads(self) -> tuple[Right, ...]:
        """To read what it changes again before each write, the pool, and to wait for it."""
        return (*super().reads(), *self.pool.rights)

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until the pool has the new number of pods, and see which pods left."""

        def missing(copies: Copies) -> str:
            said = self.pool.missing(copies, self.after)
            if not said:
                self._left = frozenset(map(uid_of, self.pool.pods)) - frozenset(
                    map(uid_of, self.pool.live_pods(copies))
                )
            return said

        await wait_until(self.context, self.pool.resources, missing, limit_s)

    @property
    def removed_pods(self) -> frozenset[str]:
        """Those that left: which, its controller chooses. Known when it has settled."""
        return self._left


class ScaleUp(_Scale):
    """Add pods."""

    name = "scale-up"
    step = 1


class ScaleDown(_Scale):
    """Remove pods: first of all one that is chosen, since a pod without sessions would show nothing when it goes.

    Before Kubernetes 1.22 the controller chooses them all.
    """

    name = "scale-down"
    takes_one_pod = True
    step = -1

    async def prepare(self) -> None:
        """Read the pool, and choose the pod."""
        await super().prepare()
        self._first = self.pool.choose(self.options.pod)
        what = f"pod {self.pool.namespace}/{name_of(self._first)}"
        first = Change(
            path=pod_path(self.pool.namespace, name_of(self._first)),
            what=what,
            field=annotation_path(DELETION_COST),
            to=FIRST_TO_GO,
            text=f"have {what} be the first to go",
        )
        self.changes = ((first, self._first), *self.changes)

    @property
    def text(self) -> str:
        """From how many to how many, and which pod goes first."""
        return f"{super().text}, {name_of(self._first)} (node {node_of(self._first)}) first"

    def undo_calls(self) -> tuple[Call, ...]:
        """Return the one for the Deployment: the pod is gone by then."""
        return super().undo_calls()[1:]


class PolicyFlip(ChangingAction):
    """Change the externalTrafficPolicy of each Service under test to the other value."""

    name = "policy-flip"

    async def prepare(self) -> None:
        """Read the Services. Raises `UserError` for one that is not this tool's, or has no such policy."""
        self.pool = await OwnPool.read(self.context)
        self.pool.require(1, "this experiment needs")
        self.changes = tuple((_flip(service), service) for service in self.pool.services)
        if not self.changes:
            raise UserError("policy-flip needs a Service: name one with --service")
        self._removed = await self._nodes_without_pods()

    @property
    def text(self) -> str:
        """Which Services."""
        return "; ".join(change.text for change, _ in self.changes)

    @property
    def _services(self) -> Resource:
        return Resource(service_path(self.context.namespace))

    def reads(self) -> tuple[Right, ...]:
        """To read the Services, and to see them change."""
        return (*self.pool.rights, *self._services.rights)

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until the Services have the policy, their addresses, and their endpoints.

        When a proxy has followed no object tells: that is seen by the sessions alone.
        """
        await self._wait({name_of(service): change.to for change, service in self.changes}, limit_s)

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until the Services have their policy again."""
        await self._wait({name_of(service): policy_of(service) for _, service in self.changes}, limit_s)

    async def _wait(self, policies: dict[str, str], limit_s: float) -> None:
        had_address = {
            name_of(service) for service in self.pool.services if value_at(service, "status.loadBalancer.ingress")
        }

        def missing(copies: Copies) -> str:
            services = {name_of(each): each for each in copies[self._services]}
            for name, policy in policies.items():
                service = services.get(name)
                if service is None:
                    return f"Service {name} is gone"
                if policy_of(service) != policy:
                    by = set_by(service, "spec", "externalTrafficPolicy")
                    return f"Service {name} has the policy {policy_of(service)}{by}, not {policy}"
                if name in had_address and not value_at(service, "status.loadBalancer.ingress"):
                    return f"Service {name} has lost its load balancer's address"
            return self.pool.missing(copies, self.pool.replicas)

        await wait_until(self.context, (*self.pool.resources, self._services), missing, limit_s)

    async def _nodes_without_pods(self) -> frozenset[str]:
        """Return the nodes that a balancer leaves out under policy Local; none where nodes may not be listed."""
        if all(change.to == "Cluster" for change, _ in self.changes):
            return frozenset()
        try:
            nodes = await list_all(self.context.api, "/api/v1/nodes", limit=20)
        except ApiError as error:
            if error.status == FORBIDDEN:
                return frozenset()
            raise
        with_pods = {node_of(pod) for pod in self.pool.pods}
        return frozenset(name_of(node) for node in nodes if isinstance(node, dict)) - with_pods

    @property
    def removed_nodes(self) -> frozenset[str]:
        """The nodes without a pod, which a balancer leaves out under policy Local."""
        return self._removed


def policy_of(service: Json) -> str:
    """Return a Service's externalTrafficPolicy, which an API server sets to Cluster by default."""
    return str(value_at(service, "spec.externalTrafficPolicy") or "Cluster")


def _flip(service: Json) -> Change:
    """Return the change of a Service to its other policy. Raises `UserError` where it has none, or is not this tool's."""
    name, namespace = name_of(service), service["metadata"]["namespace"]
    if not is_own(service):
        raise UserError(
            f"Service {namespace}/{name} is not this tool's (it lacks the label app.kubernetes.io/part-of=affinity-tester),"
            " and policy-flip changes no other: make apply-service"
        )
    kind = value_at(service, "spec.type") or "ClusterIP"
    if kind not in ("NodePort", "LoadBalancer"):
        raise UserError(
            f"Service {namespace}/{name} has the type {kind}, which knows no externalTrafficPolicy: make apply-service"
        )
    policy = policy_of(service)
    what = f"Service {namespace}/{name}"
    return Change(
        path=service_path(namespace, name),
        what=what,
        field="spec.externalTrafficPolicy",
        to=OTHER_POLICY[policy],
        text=f"change externalTrafficPolicy of {what} from {policy} to {OTHER_POLICY[policy]}",
        also=("spec.healthCheckNodePort",),
    )
