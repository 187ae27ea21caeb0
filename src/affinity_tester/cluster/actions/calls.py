"""Writes to an API server as values: to be shown by a dry run, checked for rights, told to the journal, and sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote

from affinity_tester.cluster.api import Json, WritableApi
from affinity_tester.cluster.fields import compact


class Verb(StrEnum):
    """What a write does, as RBAC names it."""

    CREATE = "create"
    PATCH = "patch"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What RBAC must allow, as a SelfSubjectAccessReview asks for it."""

    verb: str
    group: str
    """The API group; empty is the core group."""
    resource: str
    subresource: str = ""
    namespace: str = ""
    """Empty: of all namespaces, or of the cluster."""
    name: str = ""
    """Empty: of all names."""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        subresource = f"/{self.subresource}" if self.subresource else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {resource}{subresource}{where}"


class Location(NamedTuple):
    """The parts of a path of the API."""

    group: str
    namespace: str
    resource: str
    name: str
    """Empty for a collection."""
    subresource: str

    @classmethod
    def of(cls, path: str) -> Location:
        """Return the parts of a path such as /apis/apps/v1/namespaces/media/deployments/affinity-tester."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        group, rest = (parts[1], parts[3:]) if parts[0] == "apis" else ("", parts[2:])
        namespace = ""
        if rest[0] == "namespaces" and rest[2:]:  # else a Namespace itself
            namespace, rest = rest[1], rest[2:]
        resource, name, subresource, *_ = (*rest, "", "", "")
        return cls(group, namespace, resource, name, subresource)


@dataclass(frozen=True, slots=True)
class Call:
    """One write."""

    verb: Verb
    path: str
    """Of the object, of its subresource, or, to create an object, of its collection."""
    body: Json = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        at = Location.of(self.path)
        resource = f"{at.resource}.{at.group}" if at.group else at.resource
        named = at.name or (self.body.get("metadata") or {}).get("name", "")
        what = "/".join(filter(None, (resource, named, at.subresource)))
        where = f" in {at.namespace}" if at.namespace else ""
        body = f": {compact(self.body)}" if self.body else ""
        return f"{self.verb} {what}{where}{body}"

    @property
    def right(self) -> Right:
        """What RBAC must allow for it."""
        at = Location.of(self.path)
        return Right(self.verb.value, at.group, at.resource, at.subresource, at.namespace, at.name)

    async def send(self, api: WritableApi) -> Json:
        """Send it once. Raises `ApiError`; without a status it may have been done."""
        match self.verb:
            case Verb.CREATE:
                return await api.create(self.path, self.body)
            case Verb.PATCH:
                return await api.patch(self.path, self.body)
            case Verb.DELETE:
                return await api.delete(self.path, self.body)
