"""Who set a field of an object, as its managedFields tell (Kubernetes docs, Server-Side Apply, "Field management")."""

from __future__ import annotations

from affinity_tester.cluster.api import Json

OWN_MANAGER = "affinity-tester"
"""This program's name there: what its User-Agent begins with, as for every client that gives no other."""


def set_by(obj: Json, *path: str) -> str:
    """Return ` (set by NAME)` for a text about a field that is not as it should be; empty where nobody else is told.

    Before Kubernetes 1.22 a write of the scale subresource left the field to its manager before.
    """
    names = [name for name in managers_of(obj, *path) if name != OWN_MANAGER]
    return f" (set by {', '.join(names)})" if names else ""


def managers_of(obj: Json, *path: str) -> tuple[str, ...]:
    """Return who set the field at a path such as ("spec", "replicas") to what it is, by name; empty where nobody is told.

    Whoever changes a field's value becomes its only manager; more than one apply the same value.
    """
    metadata = obj.get("metadata")
    entries = metadata.get("managedFields") if isinstance(metadata, dict) else None
    if not isinstance(entries, list):
        return ()
    owners = (each for each in entries if isinstance(each, dict) and _has(each.get("fieldsV1"), path))
    return tuple(sorted({str(each.get("manager") or "") for each in owners} - {""}))


def _has(fields: object, path: tuple[str, ...]) -> bool:
    """True if a set of fields, written `{"f:spec": {"f:replicas": {}}}`, has one."""
    for name in path:
        if not isinstance(fields, dict) or f"f:{name}" not in fields:
            return False
        fields = fields[f"f:{name}"]
    return True
