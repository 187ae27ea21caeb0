"""The Services of a matrix: each policy with each affinity over the same pods, made for an experiment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

from affinity_tester.cluster.actions.base import COMPONENT, Action, ActionContext, ActionOptions
from affinity_tester.cluster.actions.calls import Call, Right, Verb
from affinity_tester.cluster.actions.changes import restore_all
from affinity_tester.cluster.actions.originals import made_note, metadata_of, remove_made, value_at
from affinity_tester.cluster.actions.own_pool import SERVICE_NAME, name_of, service_path
from affinity_tester.cluster.actions.settle import Copies, Resource, wait_until
from affinity_tester.cluster.api import NOT_FOUND, ApiError, Json
from affinity_tester.cluster.objects import ServiceRef, endpoints_of, parse_slice
from affinity_tester.core.experiment.catalogue import ActionKind
from affinity_tester.errors import UserError

POLICIES = ("Cluster", "Local")
AFFINITIES = ("None", "ClientIP")

EXPERIMENT = "experiment"
"""The value of `app.kubernetes.io/component` of what experiments make."""

ALLOCATED = ("clusterIP", "clusterIPs", "healthCheckNodePort", "loadBalancerIP")
"""Fields of a Service that an API server gives, or that no two Services can share."""

BALANCER_FIELDS = ("loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts")
"""Fields that only a Service of type LoadBalancer may have."""


class Cell(NamedTuple):
    """One Service of a matrix."""

    policy: str
    affinity: str
    ref: ServiceRef


class MatrixServices(Action):
    """Makes the Services (`act`), waits until they can be used (`wait_settled`), and deletes them (`undo`)."""

    name = "matrix"

    def __init__(
        self,
        context: ActionContext,
        service: Callable[[str, str], Json],
        *,
        load_balancer: bool = False,
        policies: Sequence[str] = POLICIES,
        affinities: Sequence[str] = AFFINITIES,
    ) -> None:
        """`service` returns the Service of k8s/service.yaml for a policy and an affinity, with a cloud's annotations.

        `load_balancer`: each gets a load balancer of its own; else node ports alone.
        """
        super().__init__(context, ActionOptions())
        self._type = "LoadBalancer" if load_balancer else "NodePort"
        names = [(policy, affinity) for policy, affinity in product(policies, affinities)]
        self.cells = tuple(
            Cell(policy, affinity, ServiceRef(context.namespace, f"affinity-tester-{policy}-{affinity}".lower()))
            for policy, affinity in names
        )
        self._bodies = [self._body(cell, service(cell.policy, cell.affinity)) for cell in self.cells]

    @property
    def kind(self) -> ActionKind:
        """They are deleted at the end."""
        return ActionKind.UNDONE

    @property
    def text(self) -> str:
        """Which Services."""
        return f"create the Services {', '.join(cell.ref.name for cell in self.cells)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What load balancers cost."""
        if self._type == "NodePort":
            return ()
        return (
            f"{len(self.cells)} load balancers are made: they cost money, quota, and minutes until they have addresses",
        )

    @property
    def planned(self) -> dict[str, Json]:
        """The Services by name, as they will be made: for `ActionContext.planned_services`."""
        return {name_of(body): body for body in self._bodies}

    async def prepare(self) -> None:
        """Raise `UserError` if a Service of such a name is there already; what a killed run left was mended before."""
        for cell in self.cells:
            try:
                await self.context.api.get(service_path(*cell.ref))
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                continue
            raise UserError(
                f"there is a Service {cell.ref} already: kubectl -n {cell.ref.namespace} delete service {cell.ref.name}"
            )

    def calls(self) -> tuple[Call, ...]:
        """Return the creations."""
        return tuple(Call(Verb.CREATE, service_path(self.context.namespace), body) for body in self._bodies)

    def undo_calls(self) -> tuple[Call, ...]:
        """Return the deletions."""
        return tuple(Call(Verb.DELETE, service_path(*cell.ref)) for cell in self.cells)

    def reads(self) -> tuple[Right, ...]:
        """To see them get addresses and endpoints."""
        get = (Right("get", "", "services", "", cell.ref.namespace, cell.ref.name) for cell in self.cells)
        return (*get, *self._services.rights, *self._slices.rights)

    @property
    def _services(self) -> Resource:
        return Resource(service_path(self.context.namespace), labels=f"{COMPONENT}={EXPERIMENT}")

    @property
    def _slices(self) -> Resource:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.context.namespace}/endpointslices"
        return Resource(path, labels=f"{SERVICE_NAME} in ({','.join(cell.ref.name for cell in self.cells)})")

    async def act(self) -> None:
        """Create them."""
        for cell, call in zip(self.cells, self.calls(), strict=True):
            await self._send(f"create Service {cell.ref}", call)

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until each has node ports, or a load balancer's address, and endpoints that are ready."""

        def missing(copies: Copies) -> str:
            services = {name_of(each): each for each in copies[self._services]}
            for cell in self.cells:
                service = services.get(cell.ref.name)
                if service is None:
                    return f"Service {cell.ref} is not there"
                said = self._address_missing(service) or _endpoints_missing(cell, copies[self._slices])
                if said:
                    return said
            return ""

        await wait_until(self.context, (self._services, self._slices), missing, limit_s)

    async def undo(self) -> None:
        """Delete those that are there and were made by an experiment."""
        await restore_all(
            lambda cell: remove_made(self.context, service_path(*cell.ref), f"Service {cell.ref}"), self.cells
        )

    async def wait_undone(self, limit_s: float) -> None:
        """Wait until they are gone: a load balancer's finalizer keeps a Service until the balancer is deleted."""
        names = {cell.ref.name for cell in self.cells}

        def missing(copies: Copies) -> str:
            left = sorted(names & {name_of(each) for each in copies[self._services]})
            return f"{', '.join(left)} still there" if left else ""

        await wait_until(self.context, (self._services,), missing, limit_s)

    def _address_missing(self, service: Json) -> str:
        name = name_of(service)
        if self._type == "LoadBalancer":
            return "" if value_at(service, "status.loadBalancer.ingress") else f"Service {name} has no address yet"
        ports = value_at(service, "spec.ports") or []
        return "" if ports and all(port.get("nodePort") for port in ports) else f"Service {name} has no node port yet"

    def _body(self, cell: Cell, base: Json) -> Json:
        """Return the Service to create."""
        dropped = ALLOCATED if self._type == "LoadBalancer" else (*ALLOCATED, *BALANCER_FIELDS)
        spec = {name: value for name, value in base["spec"].items() if name not in dropped}
        ports = [{name: value for name, value in port.items() if name != "nodePort"} for port in spec["ports"]]
        metadata = metadata_of(base)
        annotations = metadata.get("annotations") or {} if self._type == "LoadBalancer" else {}
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": cell.ref.name,
                "namespace": cell.ref.namespace,
                "labels": {**(metadata.get("labels") or {}), COMPONENT: EXPERIMENT},
                "annotations": {**annotations, **made_note(self.context, self.name)},
            },
            "spec": {
                **spec,
                "type": self._type,
                "externalTrafficPolicy": cell.policy,
                "sessionAffinity": cell.affinity,
                "ports": ports,
            },
        }


def _endpoints_missing(cell: Cell, slices: Sequence[Json]) -> str:
    mine = [each for each in slices if (metadata_of(each).get("labels") or {}).get(SERVICE_NAME) == cell.ref.name]
    endpoints = endpoints_of(map(parse_slice, mine), None, None)
    return "" if any(each.ready for each in endpoints) else f"Service {cell.ref} has no ready endpoint yet"
