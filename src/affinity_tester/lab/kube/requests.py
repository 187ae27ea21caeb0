"""What the emulated API server answers to each request but watches, by the rules of `k8s.io/apiserver`. Does no I/O."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.admission import Admission
from affinity_tester.lab.kube.controllers import budget_status
from affinity_tester.lab.kube.patches import apply_patch
from affinity_tester.lab.kube.pods import NewSuffix, is_terminating
from affinity_tester.lab.kube.resources import (
    ACCESS_REVIEWS,
    BUDGETS,
    LEASES,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    SLICES,
    Json,
    Resource,
    Target,
    controller_of,
    copied,
)
from affinity_tester.lab.kube.selectors import Fits, field_selector, label_selector, matches
from affinity_tester.lab.kube.store import Store

KEPT_LISTS = 100
"""Lists of which pages may be asked for; the token of an older one is 410."""

OK, CREATED = 200, 201

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Request(NamedTuple):
    """A request, as far as it matters here."""

    method: str
    target: Target
    query: Mapping[str, str]
    content_type: str
    body: bytes

    @property
    def verb(self) -> str:
        """Return the verb that rights are given for."""
        verb = _VERBS.get(self.method)
        if verb is None:
            raise failures.method_not_allowed()
        if not self.target.name:
            if verb == "get":
                return "watch" if self.query.get("watch") in {"true", "1"} else "list"
            return {"create": "create", "delete": "deletecollection"}.get(verb) or _no_such_verb()
        return verb

    def json(self) -> Any:
        """Return the body. Raises `StatusError`."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise failures.bad_request(f"the body is no JSON: {error}") from error

    def object(self) -> Json:
        """Return the body, an object with metadata. Raises `StatusError`."""
        found = self.json()
        if not isinstance(found, dict) or not isinstance(found.setdefault("metadata", {}), dict):
            raise failures.bad_request("the body is no object")
        return found


class Answer(NamedTuple):
    """An HTTP status and a JSON object."""

    status: int
    body: Json


class Requests:
    """Answers requests about the objects of a store."""

    def __init__(self, store: Store, admission: Admission, new_suffix: NewSuffix, denied: Collection[str] = ()) -> None:
        """`denied` has rights that the user lacks, as `VERB:RESOURCE` (`delete:pods`, `patch:deployments/scale`)."""
        self._store = store
        self._admission = admission
        self._new_suffix = new_suffix
        self._denied = frozenset(denied)
        self._lists: OrderedDict[str, tuple[int, list[Json]]] = OrderedDict()

    def check_right(self, request: Request) -> None:
        """Raise `StatusError` (403) where the user lacks the right."""
        target = request.target
        if target.resource is ACCESS_REVIEWS:
            return
        if self._is_denied(request.verb, target.resource.plural, target.subresource):
            raise failures.forbidden(target.resource, request.verb, target.subresource, target.namespace, target.name)

    def _is_denied(self, verb: str, plural: str, subresource: str) -> bool:
        what = f"{plural}/{subresource}" if subresource else plural
        return bool({f"{verb}:{what}", f"*:{what}", f"{verb}:*"} & self._denied)

    def fits(self, request: Request) -> Fits:
        """Return which objects a list or watch asks for. Raises `StatusError`."""
        target, query = request.target, request.query
        by_label = label_selector(query.get("labelSelector", ""))
        by_field = field_selector(target.resource, query.get("fieldSelector", ""))
        name, namespace = target.name, target.namespace

        def fits(obj: Json) -> bool:
            metadata = obj["metadata"]
            if namespace not in {"", metadata.get("namespace", "")} or name not in {"", metadata["name"]}:
                return False
            return by_label(obj) and by_field(obj)

        return fits

    def answer(self, request: Request) -> Answer:
        """Answer a request. Raises `StatusError`."""
        self.check_right(request)
        target = request.target
        if target.resource is ACCESS_REVIEWS:
            return self._review(request)
        if target.resource.namespaced and target.namespace and request.method != "GET":
            self._store.get(NAMESPACES, "", target.namespace)
        store = self._store.scratch() if self._is_dry(request) else self._store
        match request.verb, target.subresource:
            case "list", _:
                return Answer(OK, self._list(request))
            case "create", "eviction":
                return self._evict(store, request)
            case _, "eviction":
                raise failures.method_not_allowed()
            case (("get" | "update" | "patch"), "scale"):
                return self._scale(store, request)
            case "get", _:
                return Answer(OK, store.get(target.resource, target.namespace, target.name))
            case "create", "" if not target.name:
                return Answer(CREATED, self._create(store, request))
            case (("update" | "patch"), _):
                return Answer(OK, self._change(store, request))
            case "delete", "":
                return Answer(OK, self._delete(store, request, target.name))
            case "deletecollection", _:
                fits = self.fits(request)
                for obj in [each for each in store.list(target.resource, target.namespace) if fits(each)]:
                    self._delete(store, request, obj["metadata"]["name"])
                return Answer(OK, _success())
        raise failures.method_not_allowed()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _list(self, request: Request) -> Json:
        """Return a list or a page of one: all pages show the objects as of the first page's revision."""
        target, query = request.target, request.query
        token, _, at = query.get("continue", "").partition("-")
        if token:
            if token not in self._lists:
                raise failures.expired(
                    "The provided continue parameter is too old to display a consistent list result."
                )
            revision, items = self._lists[token]
            first = int(at)
        else:
            fits = self.fits(request)
            items = [obj for obj in self._store.list(target.resource, target.namespace) if fits(obj)]
            revision, first = self._store.revision, 0
        limit = int(query.get("limit", "0") or "0")
        metadata: Json = {"resourceVersion": str(revision)}
        page = items[first : first + limit] if limit else items[first:]
        if (rest := len(items) - first - len(page)) > 0:
            token = token or self._keep_list(revision, items)
            metadata |= {"continue": f"{token}-{first + len(page)}", "remainingItemCount": rest}
        kind = f"{target.resource.kind}List"
        return {"kind": kind, "apiVersion": target.resource.api_version, "metadata": metadata, "items": page}

    def _keep_list(self, revision: int, items: list[Json]) -> str:
        token = self._new_suffix(10)
        self._lists[token] = revision, items
        while len(self._lists) > KEPT_LISTS:
            self._lists.popitem(last=False)
        return token

    # --- writing ------------------------------------------------------------------------------------------------------

    def _is_dry(self, request: Request) -> bool:
        asked = request.query.get("dryRun", "")
        if not asked and request.method == "DELETE" and request.body:
            asked = ",".join(request.object().get("dryRun") or ())
        if asked not in {"", "All"}:
            raise failures.bad_request(f'dryRun: Unsupported value: "{asked}": supported values: "All"')
        return bool(asked)

    def _create(self, store: Store, request: Request) -> Json:
        target, obj = request.target, request.object()
        metadata = obj["metadata"]
        if target.resource.namespaced:
            if not target.namespace:
                raise failures.bad_request("an empty namespace may not be set during creation")
            if metadata.setdefault("namespace", target.namespace) != target.namespace:
                said = "the namespace of the provided object does not match the namespace sent on the request"
                raise failures.bad_request(said)
        if metadata.get("resourceVersion"):
            raise failures.bad_request("resourceVersion should not be set on objects to be created")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{self._new_suffix(5)}"
        _check_kind(target.resource, obj)
        if "status" in target.resource.subresources:
            obj.pop("status", None)
        return store.create(target.resource, self._admission.admit(target.resource, obj, None))

    def _change(self, store: Store, request: Request) -> Json:
        target = request.target
        old = store.get(target.resource, target.namespace, target.name)
        if request.method == "PATCH":
            new = apply_patch(request.content_type, old, request.json())
        else:
            new = request.object()
            if target.resource is LEASES and not new["metadata"].get("resourceVersion"):
                raise failures.invalid(
                    LEASES, target.name, "metadata.resourceVersion", "Invalid value: 0: must be specified for an update"
                )
        _check_kind(target.resource, new)
        metadata = new.setdefault("metadata", {})
        if (metadata.get("name"), metadata.get("namespace", target.namespace)) != (target.name, target.namespace):
            raise failures.bad_request("the name of the object does not match the name on the URL")
        if target.namespace:
            metadata["namespace"] = target.namespace
        if target.subresource == "status":
            new = {
                **copied(old),
                "status": new.get("status", {}),
                "metadata": {**old["metadata"], **_version(metadata)},
            }
        elif "status" in target.resource.subresources and "status" in old:
            new["status"] = old["status"]
        return store.update(target.resource, self._admission.admit(target.resource, new, old))

    def _delete(self, store: Store, request: Request, name: str) -> Json:
        target = request.target
        options = request.object() if request.body else {}
        old = store.get(target.resource, target.namespace, name)
        _check_preconditions(target.resource, old, options.get("preconditions") or {})
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        if (options.get("propagationPolicy") or request.query.get("propagationPolicy")) == "Orphan":
            _orphan(store, old)
        gone = store.delete(target.resource, target.namespace, name, None if grace is None else int(grace))
        return gone if target.resource is PODS else _success(target.resource, old)

    def _evict(self, store: Store, request: Request) -> Answer:
        """Delete a pod unless a budget forbids it (registry/core/pod/storage/eviction.go)."""
        target, eviction = request.target, request.object()
        pod = store.get(PODS, target.namespace, target.name)
        options = eviction.get("deleteOptions") or {}
        if "All" in (options.get("dryRun") or ()):
            store = store.scratch()
        _check_preconditions(PODS, pod, options.get("preconditions") or {})
        if not is_terminating(pod):
            self._check_budgets(store, pod)
        store.delete(PODS, target.namespace, target.name, options.get("gracePeriodSeconds"))
        return Answer(CREATED, _success())

    def _check_budgets(self, store: Store, pod: Json) -> None:
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

    def _scale(self, store: Store, request: Request) -> Answer:
        target = request.target
        workload = store.get(target.resource, target.namespace, target.name)
        scale = _scale_of(workload)
        if request.method == "GET":
            return Answer(OK, scale)
        patched = request.method == "PATCH"
        new = apply_patch(request.content_type, scale, request.json()) if patched else request.object()
        changed = copied(workload)
        changed["metadata"] |= _version(new.get("metadata") or {})
        changed["spec"]["replicas"] = (new.get("spec") or {}).get("replicas", 0)
        admitted = self._admission.admit(target.resource, changed, workload)
        return Answer(OK, _scale_of(store.update(target.resource, admitted)))

    def _review(self, request: Request) -> Answer:
        """Say whether the user has a right."""
        if request.verb != "create":
            raise failures.method_not_allowed()
        review = request.object()
        asked = (review.get("spec") or {}).get("resourceAttributes") or {}
        denied = self._is_denied(asked.get("verb", ""), asked.get("resource", ""), asked.get("subresource", ""))
        review |= {"kind": ACCESS_REVIEWS.kind, "apiVersion": ACCESS_REVIEWS.api_version}
        review["status"] = {"allowed": not denied, **({"reason": "the lab denies it (--deny)"} if denied else {})}
        return Answer(CREATED, review)


def _no_such_verb() -> str:
    raise failures.method_not_allowed()


def _version(metadata: Json) -> Json:
    """Return the part of metadata that says which version of an object is meant."""
    return {name: metadata[name] for name in ("resourceVersion", "uid") if metadata.get(name)}


def _check_kind(resource: Resource, obj: Json) -> None:
    """Raise `StatusError` where an object says that it is of another kind."""
    kind, version = obj.get("kind", resource.kind), obj.get("apiVersion", resource.api_version)
    if (kind, version) != (resource.kind, resource.api_version):
        said = f"{version}, Kind={kind} does not match the expected {resource.api_version}, Kind={resource.kind}"
        raise failures.bad_request(f"the object provided is unrecognized: {said}")


def _check_preconditions(resource: Resource, obj: Json, wanted: Json) -> None:
    metadata = obj["metadata"]
    for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if field in wanted and wanted[field] != metadata[field]:
            has = f"{label} in precondition: {wanted[field]}, {label} in object meta: {metadata[field]}"
            raise failures.conflict(resource, metadata["name"], f"Precondition failed: {has}")


def _orphan(store: Store, owner: Json) -> None:
    """Let what an object controls live without it."""
    uid = owner["metadata"]["uid"]
    for resource in (REPLICA_SETS, SLICES, PODS):
        for obj in store.list(resource):
            if controller_of(obj) == uid:
                store.modify(resource, obj, lambda new: new["metadata"].pop("ownerReferences"))


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


def _success(resource: Resource | None = None, obj: Json | None = None) -> Json:
    details = {}
    if resource is not None and obj is not None:
        group = {"group": resource.group} if resource.group else {}
        details = {"name": obj["metadata"]["name"], **group, "kind": resource.plural, "uid": obj["metadata"]["uid"]}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**status, "details": details} if details else status
