"""The action that makes the cluster add a node: node-scaleup."""

from __future__ import annotations

from affinity_tester.cluster.actions.base import COMPONENT, PART_OF
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.changes import ChangingAction
from affinity_tester.cluster.actions.originals import (
    Change,
    made_note,
    merged,
    remove_made,
    value_at,
)
from affinity_tester.cluster.actions.own_pool import (
    condition,
    deployment_path,
    is_own,
    listed,
    name_of,
    node_of,
    pod_path,
    trouble_of,
    uid_of,
)
from affinity_tester.cluster.actions.settle import Copies, Resource, wait_until
from affinity_tester.cluster.api import NOT_FOUND, ApiError, Json, list_all
from affinity_tester.errors import UserError
from affinity_tester.units import plural

NODE_SCALEUP = "affinity-tester-node-scaleup"
"""The Deployment of k8s/node-scaleup.yaml."""

NODES = Resource("/api/v1/nodes")


class NodeScaleup(ChangingAction):
    """Ask for pods that no node has room for, so that the autoscaler adds nodes."""

    name = "node-scaleup"

    async def prepare(self) -> None:
        """Read the dummy Deployment, if there is one, and the nodes."""
        namespace = self.context.namespace
        self._path = deployment_path(namespace, NODE_SCALEUP)
        self._what = f"Deployment {namespace}/{NODE_SCALEUP}"
        self._nodes = {
            uid_of(node) for node in await list_all(self.context.api, NODES.path, limit=20) if isinstance(node, dict)
        }
        self._deployment = await self._read()
        self._wanted = self.options.nodes
        """So many pods ask for a node."""
        if self._deployment is None:
            if self.options.node_scaleup is None:
                raise UserError(f"there is no {self._what}: make node-scaleup NODES=0 NAMESPACE={namespace}")
            return
        if not is_own(self._deployment):
            raise UserError(f"{self._what} is not this tool's, and experiments touch no other: delete or rename it")
        before = value_at(self._deployment, "spec.replicas")
        before = 1 if before is None else int(before)
        after = self._wanted = before + self.options.nodes
        change = Change(
            path=self._path,
            what=self._what,
            field="spec.replicas",
            to=after,
            text=f"scale {self._what} from {before} to {after} pods",
        )
        self.changes = ((change, self._deployment),)

    async def _read(self) -> Json | None:
        try:
            return await self.context.api.get(self._path)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    @property
    def text(self) -> str:
        """How many nodes."""
        count = self.options.nodes
        return f"ask for {count} more node{'' if count == 1 else 's'} by {self._what}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Who takes the node away again."""
        return (
            "a new node costs money, and the cluster's autoscaler takes it away when it sees fit, often after 10 minutes",
        )

    def calls(self) -> tuple[Call, ...]:
        """Return the change of the Deployment, or its creation."""
        return super().calls() if self._deployment else (self._creation,)

    def undo_calls(self) -> tuple[Call, ...]:
        """Return the change back, or the deletion."""
        return super().undo_calls() if self._deployment else (Call(Verb.DELETE, self._path),)

    @property
    def _creation(self) -> Call:
        assert self.options.node_scaleup is not None
        note = made_note(self.context, self.name)
        body = merged(
            self.options.node_scaleup,
            {"metadata": {"namespace": self.context.namespace, "name": NODE_SCALEUP, "annotations": note}},
            {"spec": {"replicas": self.options.nodes}},
        )
        return Call(Verb.CREATE, deployment_path(self.context.namespace), body)

    def reads(self) -> tuple[Right, ...]:
        """To read the Deployment, and to see pods and nodes."""
        get = Right("get", "apps", "deployments", "", self.context.namespace, NODE_SCALEUP)
        return (get, *NODES.rights, *self._pods.rights)

    @property
    def _pods(self) -> Resource:
        labels = f"{COMPONENT}=node-scaleup,{PART_OF}=affinity-tester"
        return Resource(pod_path(self.context.namespace), labels=labels)

    async def act(self) -> None:
        """Ask for the pods."""
        if self._deployment:
            await super().act()
        else:
            await self._send(f"create {self._what} with {plural(self.options.nodes, 'pod')}", self._creation)

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until so many nodes have joined and are ready. Raises `UserError` where none will."""

        def missing(copies: Copies) -> str:
            joined = {name_of(node): node for node in copies[NODES] if uid_of(node) not in self._nodes}
            ready = [node for node in joined.values() if condition(node, "Ready").get("status") == "True"]
            if len(ready) >= self.options.nodes:
                return ""
            pods = copies[self._pods]
            if len(pods) >= self._wanted and all(node_of(pod) and node_of(pod) not in joined for pod in pods):
                raise UserError(
                    "the pods that ask for a node found room on nodes that were there, so that none is added: give each node"
                    " an echo server (kubectl scale), or ask for more CPU than any node has left (CPU=...)"
                )
            pending = [f"{name_of(pod)}: {trouble_of(pod)}" for pod in pods if not node_of(pod)]
            said = f" ({listed(pending)})" if pending else ""
            return f"{len(ready)} of {self.options.nodes} nodes joined and ready{said}"

        await wait_until(self.context, (NODES, self._pods), missing, limit_s)

    async def undo(self) -> None:
        """Set the Deployment back, or delete it where it was made."""
        await super().undo()
        await remove_made(self.context, self._path, self._what)

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until the pods that asked for nodes are gone. The nodes are the autoscaler's."""
        wanted = value_at(self._deployment, "spec.replicas") if self._deployment else 0

        def missing(copies: Copies) -> str:
            there = len(copies[self._pods])
            return "" if there == wanted else f"{there} pods that ask for nodes, not {wanted}"

        await wait_until(self.context, (self._pods,), missing, limit_s)
