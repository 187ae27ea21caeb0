"""The action that restarts the proxy: proxy-restart. It deletes the pods of the proxy's DaemonSet, on one node, then on all.

A static pod has no DaemonSet: its kubelet runs it from a file, and to delete its mirror from the API server restarts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from affinity_tester.cluster.actions.base import Action
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.drain import is_mirror, namespace_of, owner_kind
from affinity_tester.cluster.actions.originals import metadata_of
from affinity_tester.cluster.actions.own_pool import (
    is_ending,
    is_ready,
    listed,
    name_of,
    node_of,
    pod_path,
    uid_of,
)
from affinity_tester.cluster.actions.settle import Copies, Resource, wait_until
from affinity_tester.cluster.api import CONFLICT, NOT_FOUND, ApiError, Json, list_all
from affinity_tester.cluster.context_watch import PROXY_LABELS
from affinity_tester.errors import UserError

PREFERRED = ("kube-proxy", "cilium", "kube-router", "ovnkube-node", "calico-node")
"""Of several, the first is what forwards a Service's packets: a CNI beside kube-proxy leaves that to it."""


class ProxyRestart(Action):
    """Delete the proxy's pods: of one node, and when its new pod is ready those of all other nodes."""

    name = "proxy-restart"

    async def prepare(self) -> None:
        """Find the proxy's pods. Raises `UserError` where there are none, or where they are static."""
        found: list[Json] = []
        for labels in PROXY_LABELS:
            pods = await list_all(self.context.api, "/api/v1/pods", [("labelSelector", labels)])
            found += [pod for pod in pods if isinstance(pod, dict)]
        proxies = {proxy_name(pod) for pod in found}
        self.proxy = next((name for name in PREFERRED if name in proxies), "")
        mine = [pod for pod in found if proxy_name(pod) == self.proxy]
        if not mine:
            raise UserError(
                f"no proxy's pods were found (labels {', '.join(PREFERRED)}): restart yours with `command --do ...`"
            )
        self.pods = sorted((pod for pod in mine if owner_kind(pod) == "DaemonSet"), key=node_of)
        if not self.pods:
            raise UserError(_not_of_a_daemonset(self.proxy, mine))
        unready = [name_of(pod) for pod in self.pods if not is_ready(pod)]
        if unready:
            raise UserError(f"{listed(unready)} not ready: wait until all pods of {self.proxy} are")
        self._first = self._choose_first()
        self._deleted: set[str] = set()
        self._touched: set[str] = set()

    def _choose_first(self) -> Json:
        wanted = self.options.node
        first = next((pod for pod in self.pods if wanted in ("", node_of(pod))), None)
        if first is None:
            raise UserError(f"{self.proxy} has no pod on node {wanted}: kubectl get pods -A -o wide")
        return first

    @property
    def _others(self) -> list[Json]:
        return [pod for pod in self.pods if pod is not self._first]

    @property
    def text(self) -> str:
        """Which proxy, and where."""
        more = f", then on {len(self._others)} more" if self._others else ""
        return f"restart {self.proxy} on node {node_of(self._first)}{more}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What all users of the cluster may feel."""
        return (
            f"{self.proxy} serves all Services of the cluster: while it starts, none of them follows its endpoints",
        )

    def calls(self) -> tuple[Call, ...]:
        """Return a DELETE for each pod."""
        return tuple(map(_deletion, (self._first, *self._others)))

    def reads(self) -> tuple[Right, ...]:
        """To find the pods in all namespaces, and to see them come back."""
        return (Right("list", "", "pods"), *(right for resource in self._resources for right in resource.rights))

    @property
    def _resources(self) -> tuple[Resource, ...]:
        namespaces = sorted({namespace_of(pod) for pod in self.pods})
        return tuple(Resource(pod_path(each), labels=labels) for each in namespaces for labels in PROXY_LABELS)

    async def act(self) -> None:
        """Delete the first, wait for its new pod, and delete the others. Raises `NotSettledError` if it does not come."""
        await self._delete(self._first)
        await self._wait([self._first], self.context.act_limit_s)
        for pod in self._others:
            await self._delete(pod)

    async def _delete(self, pod: Json) -> None:
        self._touched.add(uid_of(pod))
        try:
            await self._send(f"delete {self.proxy} pod {name_of(pod)} (node {node_of(pod)})", _deletion(pod))
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):  # else it went by itself
                raise
        self._deleted.add(uid_of(pod))

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until each node has a new pod that is ready."""
        await self._wait([pod for pod in self.pods if uid_of(pod) in self._deleted], limit_s)

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until each node where a pod was touched has a pod that is ready, an old or a new one."""
        await self._wait([pod for pod in self.pods if uid_of(pod) in self._touched], limit_s, must_be_new=False)

    async def _wait(self, deleted: Iterable[Json], limit_s: float, *, must_be_new: bool = True) -> None:
        """Wait until the nodes of deleted pods, as far as they still exist, have new ones that are ready."""
        old = {uid_of(pod) for pod in deleted}
        nodes = {node_of(pod) for pod in deleted}

        def missing(copies: Copies) -> str:
            pods = [pod for of in copies.values() for pod in of if proxy_name(pod) == self.proxy]
            left = [name_of(pod) for pod in pods if uid_of(pod) in old and (must_be_new or is_ending(pod))]
            if left:
                return f"{listed(left)} still there"
            waited = sorted(nodes - {node_of(pod) for pod in pods if is_ready(pod)})
            return f"no ready pod of {self.proxy} on {listed(waited)}" if waited else ""

        if old:
            await wait_until(self.context, self._resources, missing, limit_s)


def proxy_name(pod: Json) -> str:
    """Return the proxy that a pod's labels name; empty if they name none. OVN's pods have another `component`."""
    labels = metadata_of(pod).get("labels") or {}
    named = {labels.get(label) for label in ("k8s-app", "component", "app")}
    return next((name for name in PREFERRED if name in named), "")


def _deletion(pod: Json) -> Call:
    body = {"preconditions": {"uid": uid_of(pod)}}
    return Call(Verb.DELETE, pod_path(namespace_of(pod), name_of(pod)), body)


def _not_of_a_daemonset(proxy: str, pods: list[Json]) -> str:
    if any(map(is_mirror, pods)):
        return (
            f"the {len(pods)} pods of {proxy} are static: their nodes' kubelets run them, and to delete their mirrors from"
            f" the API server restarts nothing; restart {proxy} on the nodes with `command --do ...`"
        )
    return f"the pods of {proxy} belong to no DaemonSet, and would not come back: restart it with `command --do ...`"
