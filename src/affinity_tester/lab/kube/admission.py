"""What the API server makes of an object before it is kept: defaults, addresses and node ports, and what it refuses."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.resources import (
    BUDGETS,
    DEPLOYMENTS,
    LEASES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    SLICES,
    Json,
    Resource,
    copied,
)
from affinity_tester.lab.kube.selectors import matches
from affinity_tester.lab.kube.store import Store

NODE_PORTS = range(30_000, 32_768)
"""`--service-node-port-range` by default; no kernel takes one of these for a client's socket by itself."""

AFFINITY_S = 10_800
"""timeoutSeconds of ClientIP affinity by default (types of the core group, DefaultClientIPServiceAffinitySeconds)."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_POLICIES = ("Cluster", "Local")
_AFFINITIES = ("None", "ClientIP")
_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")


class Admission:
    """Completes objects that are created or changed; raises `StatusError` for what cannot be."""

    def __init__(self, store: Store, seed: int, service_net: str) -> None:
        """The seed decides node ports; `service_net` is the first three octets of cluster IPs."""
        self._store = store
        self._ports = random.Random(f"{seed}/node-ports")  # noqa: S311 - repeatable, not secret
        self._net = service_net

    def admit(self, resource: Resource, obj: Json, old: Json | None) -> Json:
        """Return the object as it will be kept; `old` is the one that it replaces, None for a new one."""
        new: Json = copied(obj)
        metadata = new["metadata"]
        name = metadata.get("name") or ""
        if not _NAME.fullmatch(name):
            raise failures.invalid(resource, name, "metadata.name", "Invalid value: a lowercase RFC 1123 subdomain")
        if resource not in (LEASES,) and resource in _WITH_SPEC and not isinstance(new.get("spec"), dict):
            raise failures.invalid(resource, name, "spec", "Required value")

        if resource is SERVICES:
            self._admit_service(new, old)
        elif resource in (DEPLOYMENTS, REPLICA_SETS):
            _admit_workload(resource, new, old)
        elif resource is PODS:
            _admit_pod(new, old)
        elif resource is NODES:
            _admit_node(new)
        elif resource is SLICES:
            raise failures.invalid(resource, name, "endpoints", "Forbidden: the lab's controller alone writes them")
        elif resource is BUDGETS:
            _check_budget(new)
        return new

    def _admit_service(self, new: Json, old: Json | None) -> None:
        spec = new["spec"]
        before = old["spec"] if old else {}
        kind = spec.setdefault("type", "ClusterIP")
        spec.setdefault("sessionAffinity", "None")
        spec.setdefault("internalTrafficPolicy", "Cluster")
        self._check_choices(new, kind)
        for field, value in (("ipFamilies", ["IPv4"]), ("ipFamilyPolicy", "SingleStack")):
            spec.setdefault(field, value)
        if spec["sessionAffinity"] == "ClientIP":
            client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
            client.setdefault("timeoutSeconds", AFFINITY_S)
        else:
            spec.pop("sessionAffinityConfig", None)

        if spec.get("clusterIP") != "None":
            spec["clusterIP"] = before.get("clusterIP") or spec.get("clusterIP") or self._free_cluster_ip()
            spec["clusterIPs"] = [spec["clusterIP"]]
        if kind in {"NodePort", "LoadBalancer"}:
            spec.setdefault("externalTrafficPolicy", "Cluster")
        else:
            spec.pop("externalTrafficPolicy", None)
        self._admit_ports(new, before.get("ports") or [], needs_node_port=kind != "ClusterIP")
        self._admit_health_port(spec, before)
        new.setdefault("status", {"loadBalancer": {}})

    def _check_choices(self, new: Json, kind: str) -> None:
        spec, name = new["spec"], new["metadata"]["name"]
        for field, value, choices in (
            ("spec.type", kind, _TYPES),
            ("spec.sessionAffinity", spec["sessionAffinity"], _AFFINITIES),
            ("spec.externalTrafficPolicy", spec.get("externalTrafficPolicy", "Cluster"), _POLICIES),
        ):
            if value not in choices:
                supported = ", ".join(f'"{each}"' for each in choices)
                problem = f'Unsupported value: "{value}": supported values: {supported}'
                raise failures.invalid(SERVICES, name, field, problem)
        if not spec.get("ports"):
            raise failures.invalid(SERVICES, name, "spec.ports", "Required value")

    def _admit_ports(self, new: Json, before: list[Json], *, needs_node_port: bool) -> None:
        name = new["metadata"]["name"]
        known = {(port.get("name", ""), port["port"]): port.get("nodePort") for port in before}
        taken = self._taken_ports(new)
        for port in new["spec"]["ports"]:
            if not isinstance(port.get("port"), int):
                raise failures.invalid(SERVICES, name, "spec.ports[].port", "Required value")
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
            if not needs_node_port:
                port.pop("nodePort", None)
                continue
            wanted = port.get("nodePort") or known.get((port.get("name", ""), port["port"]))
            if wanted is not None and (wanted not in NODE_PORTS or wanted in taken):
                problem = f"Invalid value: {wanted}: provided port is already allocated, or not in 30000-32767"
                raise failures.invalid(SERVICES, name, "spec.ports[].nodePort", problem)
            port["nodePort"] = wanted or self._free_port(taken)
            taken.add(port["nodePort"])

    def _admit_health_port(self, spec: Json, before: Json) -> None:
        """Give a balanced Service of policy Local the port at which its balancer asks nodes for ready pods (KEP-614)."""
        if spec["type"] == "LoadBalancer" and spec["externalTrafficPolicy"] == "Local":
            known = before.get("healthCheckNodePort") or spec.get("healthCheckNodePort")
            spec["healthCheckNodePort"] = known or self._free_port(self._taken_ports(None))
        else:
            spec.pop("healthCheckNodePort", None)

    def _taken_ports(self, new: Json | None) -> set[int]:
        """Return the node ports of all other Services."""
        return set(self._node_ports(None if new is None else new["metadata"]))

    def _node_ports(self, own: Json | None) -> Iterator[int]:
        for service in self._store.list(SERVICES):
            metadata, spec = service["metadata"], service["spec"]
            if own is None or (metadata["namespace"], metadata["name"]) != (own["namespace"], own["name"]):
                yield from (port["nodePort"] for port in spec["ports"] if "nodePort" in port)
                if "healthCheckNodePort" in spec:
                    yield spec["healthCheckNodePort"]

    def _free_port(self, taken: set[int]) -> int:
        return self._ports.choice([port for port in NODE_PORTS if port not in taken])

    def _free_cluster_ip(self) -> str:
        taken = {service["spec"].get("clusterIP") for service in self._store.list(SERVICES)}
        return next(ip for ip in (f"{self._net}.{number}" for number in range(1, 255)) if ip not in taken)


_WITH_SPEC = (SERVICES, DEPLOYMENTS, REPLICA_SETS, PODS, BUDGETS)


def _admit_workload(resource: Resource, new: Json, old: Json | None) -> None:
    """Default and check a Deployment or ReplicaSet."""
    spec, name = new["spec"], new["metadata"]["name"]
    replicas = spec.setdefault("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        problem = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise failures.invalid(resource, name, "spec.replicas", problem)
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    _check_selector(resource, name, spec.get("selector") or {})
    if not spec.get("selector") or not matches(spec["selector"], labels):
        problem = "Invalid value: `selector` does not match template `labels`"
        raise failures.invalid(resource, name, "spec.template.metadata.labels", problem)
    if old is not None and old["spec"]["selector"] != spec["selector"]:
        raise failures.invalid(resource, name, "spec.selector", "Invalid value: field is immutable")
    if resource is DEPLOYMENTS:
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") != "RollingUpdate":
            problem = f'Unsupported value: "{strategy["type"]}": the lab has RollingUpdate alone'
            raise failures.invalid(resource, name, "spec.strategy.type", problem)
        rolling = strategy.setdefault("rollingUpdate", {})
        for field in ("maxSurge", "maxUnavailable"):
            _check_count(resource, name, f"spec.strategy.rollingUpdate.{field}", rolling.setdefault(field, "25%"))
    _admit_pod_spec(resource, name, template.setdefault("spec", {}))


def _admit_pod(new: Json, old: Json | None) -> None:
    """Default a pod."""
    _admit_pod_spec(PODS, new["metadata"]["name"], new["spec"])
    if old is None:
        new.setdefault("status", {"phase": "Pending", "conditions": []})


def _check_budget(new: Json) -> None:
    """Check a PodDisruptionBudget."""
    spec, name = new["spec"], new["metadata"]["name"]
    _check_selector(BUDGETS, name, spec.get("selector") or {})
    for field in {"minAvailable", "maxUnavailable"} & spec.keys():
        _check_count(BUDGETS, name, f"spec.{field}", spec[field])


def _check_count(resource: Resource, name: str, field: str, value: object) -> None:
    """Raise `StatusError` unless a value is a number or a percentage."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_number and not (isinstance(value, str) and re.fullmatch("[0-9]{1,3}%", value)):
        raise failures.invalid(resource, name, field, f"Invalid value: {value}: must be a number, or a percentage (5%)")


def _check_selector(resource: Resource, name: str, selector: Json) -> None:
    for term in selector.get("matchExpressions") or ():
        if not term.get("key") or term.get("operator") not in {"In", "NotIn", "Exists", "DoesNotExist"}:
            problem = f"Invalid value: {term}: not a valid selector operator"
            raise failures.invalid(resource, name, "spec.selector.matchExpressions", problem)


def _admit_node(new: Json) -> None:
    """Keep the taint of a cordoned node in step with its field (node lifecycle controller)."""
    spec = new.setdefault("spec", {})
    if "podCIDR" not in spec or not new.get("status", {}).get("addresses"):
        problem = "Required value: the lab's nodes come from its autoscaler alone"
        raise failures.invalid(NODES, new["metadata"]["name"], "spec.podCIDR", problem)
    cordon = "node.kubernetes.io/unschedulable"
    taints = [taint for taint in spec.get("taints") or [] if taint["key"] != cordon]
    if spec.get("unschedulable"):
        taints.append({"key": cordon, "effect": "NoSchedule"})
    else:
        spec.pop("unschedulable", None)
    spec.pop("taints", None)
    if taints:
        spec["taints"] = taints


def _admit_pod_spec(resource: Resource, name: str, spec: Json) -> None:
    """Default and check the spec of a pod, or of a template's."""
    containers = spec.get("containers")
    if not containers or not all(each.get("name") and each.get("image") for each in containers):
        raise failures.invalid(resource, name, "spec.containers", "Required value: each with a name and an image")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("restartPolicy", "Always")
    for container in spec.get("containers") or []:
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")
