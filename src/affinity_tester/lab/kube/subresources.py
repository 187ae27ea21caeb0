"""The subresources that are no part of an object: a pod's eviction and a workload's scale."""

from __future__ import annotations

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.admission import Admission
from affinity_tester.lab.kube.controllers import budget_status
from affinity_tester.lab.kube.patches import apply_patch
from affinity_tester.lab.kube.pods import is_terminating
from affinity_tester.lab.kube.request import CREATED, OK, Answer, Request, check_preconditions, success, version_of
from affinity_tester.lab.kube.resources import BUDGETS, PODS, Json, copied
from affinity_tester.lab.kube.selectors import matches
from affinity_tester.lab.kube.store import Store


def evict(store: Store, request: Request) -> Answer:
    """Delete a pod unless a budget forbids it (registry/core/pod/storage/eviction.go)."""
    target, eviction = request.target, request.object()
    pod = store.get(PODS, target.namespace, target.name)
    options = eviction.get("deleteOptions") or {}
    if "All" in (options.get("dryRun") or ()):
        store = store.scratch()
    check_preconditions(PODS, pod, options.get("preconditions") or {})
    if not is_terminating(pod):
        _check_budgets(store, pod)
    store.delete(PODS, target.namespace, target.name, options.get("gracePeriodSeconds"))
    return Answer(CREATED, success())


def _check_budgets(store: Store, pod: Json) -> None:
    labels = pod["metadata"].get("labels") or {}
    for budget in store.list(BUDGETS, pod["metadata"]["namespace"]):
        if not matches(budget["spec"].get("selector"), labels):
            continue
        status, name = budget_status(store, budget), budget["metadata"]["name"]
        if status["disruptionsAllowed"] <= 0:
            needs = f"{status['desiredHealthy']} healthy pods and has {status['currentHealthy']} currently"
            causes = [{"reason": "DisruptionBudget", "message": f"The disruption budget {name} needs {needs}"}]
            said = "Cannot evict pod as it would violate the pod's disruption budget."
            raise failures.StatusError(429, "TooManyRequests", said, {"causes": causes})


def scale(store: Store, admission: Admission, request: Request) -> Answer:
    """Show or change how many pods a workload is to have."""
    target = request.target
    workload = store.get(target.resource, target.namespace, target.name)
    shown = _scale_of(workload)
    if request.method == "GET":
        return Answer(OK, shown)
    patched = request.method == "PATCH"
    new = apply_patch(request.content_type, shown, request.json()) if patched else request.object()
    changed = copied(workload)
    changed["metadata"] |= version_of(new.get("metadata") or {})
    changed["spec"]["replicas"] = (new.get("spec") or {}).get("replicas", 0)
    admitted = admission.admit(target.resource, changed, workload)
    return Answer(OK, _scale_of(store.update(target.resource, admitted)))


def _scale_of(workload: Json) -> Json:
    metadata = workload["metadata"]
    selector = workload["spec"]["selector"].get("matchLabels") or {}
    fields = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in fields},
        "spec": {"replicas": workload["spec"]["replicas"]},
        "status": {
            "replicas": workload.get("status", {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(selector.items())),
        },
    }
