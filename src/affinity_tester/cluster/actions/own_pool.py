"""The echo servers that experiments act on: their Deployment, its pods, and the Services under test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from affinity_tester.cluster.actions.base import OWN_LABEL, ActionContext
from affinity_tester.cluster.actions.calls import Right
from affinity_tester.cluster.actions.originals import metadata_of, value_at
from affinity_tester.cluster.actions.settle import Copies, Resource
from affinity_tester.cluster.api import NOT_FOUND, ApiError, Json, list_all
from affinity_tester.cluster.managed_fields import set_by
from affinity_tester.cluster.objects import endpoints_of, parse_slice
from affinity_tester.errors import UserError

SERVICE_NAME = "kubernetes.io/service-name"
ENDED = ("Succeeded", "Failed")
"""Phases of pods that stay as objects and run no more: of evicted ones, for example."""

MAX_NAMED = 3
"""So many objects are named in a text about what is missing."""


def deployment_path(namespace: str, name: str = "") -> str:
    """Return the path of a Deployment, or of all."""
    return (
        f"/apis/apps/v1/namespaces/{quote(namespace, safe='')}/deployments{'/' if name else ''}{quote(name, safe='')}"
    )


def pod_path(namespace: str, name: str = "") -> str:
    """Return the path of a pod, or of all."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods{'/' if name else ''}{quote(name, safe='')}"


def service_path(namespace: str, name: str = "") -> str:
    """Return the path of a Service, or of all."""
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/services{'/' if name else ''}{quote(name, safe='')}"


def selector_text(labels: dict[str, Any]) -> str:
    """Return a label selector for matchLabels."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def is_own(obj: Json) -> bool:
    """True if an object has this tool's label."""
    name, value = OWN_LABEL
    return (metadata_of(obj).get("labels") or {}).get(name) == value


async def read_own_deployment(context: ActionContext) -> Json:
    """Return the echo servers' Deployment. Raises `UserError` where there is none of this tool, and `ApiError`."""
    namespace, name = context.namespace, context.deployment
    try:
        deployment = await context.api.get(deployment_path(namespace, name))
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        raise UserError(
            f"there is no Deployment {name} in namespace {namespace}: make apply-deployment NAMESPACE={namespace}, or name"
            " another with --namespace"
        ) from error
    if not is_own(deployment):
        raise UserError(
            f"Deployment {namespace}/{name} is not this tool's (it lacks the label {'='.join(OWN_LABEL)}), and experiments"
            " touch no other: make apply-deployment"
        )
    return deployment


async def read_own_service(context: ActionContext, name: str, namespace: str) -> Json:
    """Return a Service under test, or as it will be made. Raises `UserError` where there is none, and `ApiError`."""
    try:
        service = await context.api.get(service_path(namespace, name))
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        if name in context.planned_services:
            return context.planned_services[name]
        raise UserError(f"there is no Service {name} in namespace {namespace}: make apply-service") from error
    return service


@dataclass(frozen=True, slots=True)
class OwnPool:
    """The echo servers as they were when they were read."""

    deployment: Json
    pods: tuple[Json, ...]
    """Those that are ready and not told to end, by name."""
    services: tuple[Json, ...]
    """The Services under test."""
    namespace: str

    @classmethod
    async def read(cls, context: ActionContext) -> OwnPool:
        """Read them. Raises `UserError` where the Services under test are not for the Deployment's pods, and `ApiError`."""
        deployment = await read_own_deployment(context)
        labels = value_at(deployment, "spec.template.metadata.labels") or {}
        services = []
        for ref in context.services:
            service = await read_own_service(context, ref.name, ref.namespace)
            selector = value_at(service, "spec.selector") or {}
            if ref.namespace != context.namespace or not selector or not selector.items() <= labels.items():
                raise UserError(
                    f"Service {ref} is not for the pods of Deployment {context.namespace}/{context.deployment}, which the"
                    " experiment acts on: name a Service that is (make apply-service)"
                )
            services.append(service)

        selector = selector_text(value_at(deployment, "spec.selector.matchLabels") or {})
        found = await list_all(context.api, pod_path(context.namespace), [("labelSelector", selector)])
        pods = [pod for pod in found if isinstance(pod, dict) and is_ready(pod)]
        pods.sort(key=name_of)
        return cls(deployment, tuple(pods), tuple(services), context.namespace)

    @property
    def replicas(self) -> int:
        """`spec.replicas`."""
        replicas = value_at(self.deployment, "spec.replicas")
        return 1 if replicas is None else int(replicas)

    @property
    def name(self) -> str:
        """The Deployment's name."""
        return name_of(self.deployment)

    def require(self, count: int, why: str) -> None:
        """Raise `UserError` if fewer pods are ready, or if the pool is not at rest."""
        if len(self.pods) < self.replicas:
            raise UserError(
                f"only {len(self.pods)} of {self.replicas} pods of {self.namespace}/{self.name} are ready: wait until all are"
            )
        restless = _deployment_missing(self.deployment, self.replicas)
        if len(self.pods) > self.replicas:  # of another owner with the same labels, or of a rollout
            restless = f"{len(self.pods)} pods are ready where it asks for {self.replicas}"
        if restless:
            raise UserError(
                f"{self.namespace}/{self.name} is not at rest ({restless}): kubectl -n {self.namespace} rollout status"
                f" deployment/{self.name}"
            )
        if len(self.pods) < count:
            raise UserError(
                f"{self.namespace}/{self.name} has {len(self.pods)} ready pod{'' if len(self.pods) == 1 else 's'}, and {why}"
                f" {count}: kubectl -n {self.namespace} scale deployment/{self.name} --replicas={count}"
            )

    def choose(self, wanted: str) -> Json:
        """Return the ready pod of this name; of none: the first. Raises `UserError` if it is not there."""
        pod = next((pod for pod in self.pods if wanted in ("", name_of(pod))), None)
        if pod is None:
            raise UserError(f"there is no ready pod {wanted} of {self.namespace}/{self.name}")
        return pod

    # --- waiting --------------------------------------------------------------------------------------------------------

    @property
    def _deployments(self) -> Resource:
        return Resource(deployment_path(self.namespace), name=self.name)

    @property
    def _pods(self) -> Resource:
        return Resource(
            pod_path(self.namespace), labels=selector_text(value_at(self.deployment, "spec.selector.matchLabels") or {})
        )

    @property
    def _slices(self) -> Resource:
        names = ",".join(sorted(name_of(service) for service in self.services))
        path = f"/apis/discovery.k8s.io/v1/namespaces/{quote(self.namespace, safe='')}/endpointslices"
        return Resource(path, labels=f"{SERVICE_NAME} in ({names})")

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What is watched to know that it has settled."""
        return (self._deployments, self._pods, *((self._slices,) if self.services else ()))

    @property
    def rights(self) -> tuple[Right, ...]:
        """To read it, and to wait for it."""
        get = [
            Right("get", "apps", "deployments", "", self.namespace, self.name),
            *(Right("get", "", "services", "", self.namespace, name_of(service)) for service in self.services),
        ]
        return (*get, *(right for resource in self.resources for right in resource.rights))

    def live_pods(self, copies: Copies) -> list[Json]:
        """Return the pods that are there and have not ended."""
        return [pod for pod in copies[self._pods] if value_at(pod, "status.phase") not in ENDED]

    def missing(self, copies: Copies, replicas: int, gone: Iterable[str] = ()) -> str:
        """Return why the pool has not settled at so many pods without those of the uids `gone`; empty if it has."""
        deployment = next(iter(copies[self._deployments]), None)
        if deployment is None:
            return f"the Deployment {self.name} is gone"

        pods = self.live_pods(copies)
        return (
            _asks_otherwise(deployment, replicas)
            or _still_there(pods, set(gone))
            or _unready(pods, replicas)
            or _deployment_missing(deployment, replicas)
            or self._slices_missing(copies, pods)
        )

    def _slices_missing(self, copies: Copies, pods: list[Json]) -> str:
        """Return what is missing in the Services' EndpointSlices."""
        uids = {uid_of(pod) for pod in pods}
        for service in self.services:
            name = name_of(service)
            mine = [
                parse_slice(each)
                for each in copies[self._slices]
                if (metadata_of(each).get("labels") or {}).get(SERVICE_NAME) == name
            ]
            endpoints = endpoints_of(mine, None, None)
            ready = {each.uid for each in endpoints if each.ready and not each.terminating}
            if ready != uids or {each.uid for each in endpoints} != uids:
                return f"the endpoints of Service {name} are not yet its pods ({len(ready & uids)} of {len(uids)})"
        return ""


def _still_there(pods: Iterable[Json], gone: set[str]) -> str:
    names = [name_of(pod) for pod in pods if uid_of(pod) in gone]
    return f"{listed(names)} still there" if names else ""


def _unready(pods: list[Json], replicas: int) -> str:
    ending = [name_of(pod) for pod in pods if is_ending(pod)]
    if ending:
        return f"{listed(ending)} still ending"
    ready = [pod for pod in pods if is_ready(pod)]
    if len(ready) == len(pods) == replicas:
        return ""
    troubles = [f"{name_of(pod)}: {trouble}" for pod in pods if not is_ready(pod) and (trouble := trouble_of(pod))]
    return f"{len(ready)} of {replicas} pods ready{f' ({listed(troubles)})' if troubles else ''}"


def _asks_otherwise(deployment: Json, replicas: int) -> str:
    """Return what the Deployment asks for, and who had it so: an autoscaler, or a GitOps controller, sets values back."""
    asked = value_at(deployment, "spec.replicas")
    if asked == replicas:
        return ""
    by = set_by(deployment, "spec", "replicas")
    return f"the Deployment asks for {asked} pods{by}, not {replicas}"


def _deployment_missing(deployment: Json, replicas: int) -> str:
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < metadata_of(deployment).get("generation", 0):
        return "the Deployment's controller has not yet seen the change"
    names = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    counts = {name: status.get(name) or 0 for name in names}
    if set(counts.values()) <= {replicas}:
        return ""
    return "the Deployment's status: " + ", ".join(f"{name} {count} of {replicas}" for name, count in counts.items())


# --- pods -------------------------------------------------------------------------------------------------------------


def name_of(obj: Json) -> str:
    """Return an object's name."""
    return str(metadata_of(obj).get("name", ""))


def uid_of(obj: Json) -> str:
    """Return an object's uid."""
    return str(metadata_of(obj).get("uid", ""))


def node_of(pod: Json) -> str:
    """Return the name of the node that a pod runs on; empty if none yet."""
    return str(value_at(pod, "spec.nodeName") or "")


def is_ending(pod: Json) -> bool:
    """True if a pod was told to end."""
    return metadata_of(pod).get("deletionTimestamp") is not None


def condition(obj: Json, kind: str) -> Json:
    """Return a condition of an object's status; empty if it has none of this type."""
    conditions = value_at(obj, "status.conditions") or []
    return next((each for each in conditions if each.get("type") == kind), {})


def is_ready(pod: Json) -> bool:
    """True if a pod is ready, and was not told to end."""
    return condition(pod, "Ready").get("status") == "True" and not is_ending(pod)


def trouble_of(pod: Json) -> str:
    """Return why a pod is not ready, as far as its status tells."""
    for status in value_at(pod, "status.containerStatuses") or []:
        reason = value_at(status, "state.waiting.reason")
        if reason:
            return str(reason)
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "not scheduled")
    return str(value_at(pod, "status.phase") or "")


def listed(names: list[str]) -> str:
    """Return names for a text, few of them if there are many."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
