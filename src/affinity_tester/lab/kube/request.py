"""A request to the emulated API server, and its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from affinity_tester.lab.kube import failures
from affinity_tester.lab.kube.resources import Json, Resource, Target

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


def _no_such_verb() -> str:
    raise failures.method_not_allowed()


def version_of(metadata: Json) -> Json:
    """Return the part of metadata that says which version of an object is meant."""
    return {name: metadata[name] for name in ("resourceVersion", "uid") if metadata.get(name)}


def check_preconditions(resource: Resource, obj: Json, wanted: Json) -> None:
    """Raise `StatusError` (409) where an object is not the one that is meant."""
    metadata = obj["metadata"]
    for field, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        if field in wanted and wanted[field] != metadata[field]:
            has = f"{label} in precondition: {wanted[field]}, {label} in object meta: {metadata[field]}"
            raise failures.conflict(resource, metadata["name"], f"Precondition failed: {has}")


def success(resource: Resource | None = None, obj: Json | None = None) -> Json:
    """Return the Status object of a request that succeeded, about this object."""
    details = {}
    if resource is not None and obj is not None:
        group = {"group": resource.group} if resource.group else {}
        details = {"name": obj["metadata"]["name"], **group, "kind": resource.plural, "uid": obj["metadata"]["uid"]}
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**status, "details": details} if details else status
