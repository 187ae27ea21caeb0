"""What the emulated API server answers to each request but watches, by the rules of `k8s.io/apiserver`. Does no I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.admission import Admission
from affinity_tester.lab.kube.patches import apply_patch
from affinity_tester.lab.kube.pods import NewSuffix
from affinity_tester.lab.kube.request import CREATED, OK, Answer, Request, check_preconditions, success, version_of
from affinity_tester.lab.kube.resources import (
    ACCESS_REVIEWS,
    LEASES,
    NAMESPACES,
    PODS,
    REPLICA_SETS,
    SLICES,
    Json,
    Resource,
    controller_of,
    copied,
)
from affinity_tester.lab.kube.selectors import Fits, field_selector, label_selector
from affinity_tester.lab.kube.store import Store
from affinity_tester.lab.kube.subresources import evict, scale

KEPT_LISTS = 100
"""Lists of which pages may be asked for; the token of an older one is 410."""


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
                return evict(store, request)
            case _, "eviction":
                raise failures.method_not_allowed()
            case (("get" | "update" | "patch"), "scale"):
                return scale(store, self._admission, request)
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
                return Answer(OK, success())
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
                "metadata": {**old["metadata"], **version_of(metadata)},
            }
        elif "status" in target.resource.subresources and "status" in old:
            new["status"] = old["status"]
        return store.update(target.resource, self._admission.admit(target.resource, new, old))

    def _delete(self, store: Store, request: Request, name: str) -> Json:
        target = request.target
        options = request.object() if request.body else {}
        old = store.get(target.resource, target.namespace, name)
        check_preconditions(target.resource, old, options.get("preconditions") or {})
        grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
        if (options.get("propagationPolicy") or request.query.get("propagationPolicy")) == "Orphan":
            _orphan(store, old)
        gone = store.delete(target.resource, target.namespace, name, None if grace is None else int(grace))
        return gone if target.resource is PODS else success(target.resource, old)

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


def _check_kind(resource: Resource, obj: Json) -> None:
    """Raise `StatusError` where an object says that it is of another kind."""
    kind, version = obj.get("kind", resource.kind), obj.get("apiVersion", resource.api_version)
    if (kind, version) != (resource.kind, resource.api_version):
        said = f"{version}, Kind={kind} does not match the expected {resource.api_version}, Kind={resource.kind}"
        raise failures.bad_request(f"the object provided is unrecognized: {said}")


def _orphan(store: Store, owner: Json) -> None:
    """Let what an object controls live without it."""
    uid = owner["metadata"]["uid"]
    for resource in (REPLICA_SETS, SLICES, PODS):
        for obj in store.list(resource):
            if controller_of(obj) == uid:
                store.modify(resource, obj, lambda new: new["metadata"].pop("ownerReferences"))
