"""The three patches that the emulated API server takes: JSON merge patch, strategic merge patch and JSON patch. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from affinity_tester.lab.kube.failures import StatusError, bad_request, unsupported_media
from affinity_tester.lab.kube.resources import Json, copied

MERGE, STRATEGIC, OPERATIONS = (
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
)

_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
    "topologySpreadConstraints": "topologyKey",
}
"""Lists that a strategic merge patch merges element by element (patchMergeKey of the API's types); `ports` has two."""


def apply_patch(content_type: str, obj: Json, patch: Any) -> Json:
    """Return the object with a patch of this content type applied. Raises `StatusError`."""
    kind = content_type.partition(";")[0].strip()
    match kind:
        case "application/merge-patch+json" | "application/strategic-merge-patch+json":
            if not isinstance(patch, dict):
                raise bad_request("the patch is no JSON object")
            new = copied(obj)
            return _merged(new, patch, strategic=kind == STRATEGIC)
        case "application/json-patch+json":
            if not isinstance(patch, list):
                raise bad_request("the patch is no JSON array")
            return _operated(copied(obj), patch)
    raise unsupported_media(kind, ", ".join((OPERATIONS, MERGE, STRATEGIC)))


def _merged(value: Any, patch: Json, *, strategic: bool) -> Json:
    """Merge as RFC 7396 says: null removes a field, an object goes deeper, and anything else replaces what was there."""
    merged: Json = value if isinstance(value, dict) else {}
    for name, new in patch.items():
        if strategic and name.startswith("$"):
            raise bad_request(f"the lab's API server has no patch directive {name}")
        if new is None:
            merged.pop(name, None)
        elif isinstance(new, dict):
            merged[name] = _merged(merged.get(name), new, strategic=strategic)
        elif strategic and (key := _merge_key(name, new)) is not None:
            merged[name] = _merged_list(merged.get(name) or [], new, key)
        else:
            merged[name] = new
    return merged


def _merge_key(name: str, new: Any) -> str | None:
    if not isinstance(new, list) or not all(isinstance(each, dict) for each in new):
        return None
    if name == "ports":
        return "containerPort" if any("containerPort" in each for each in new) else "port"
    return _MERGE_KEYS.get(name)


def _merged_list(old: list[Json], new: list[Json], key: str) -> list[Json]:
    merged = list(old)
    for each in new:
        if key not in each:
            raise bad_request(f"map: {each} does not contain declared merge key: {key}")
        at = next((i for i, known in enumerate(merged) if known.get(key) == each[key]), None)
        if each.get("$patch") == "delete":
            merged = [known for known in merged if known.get(key) != each[key]]
        elif at is None:
            merged.append(each)
        else:
            merged[at] = _merged(merged[at], each, strategic=True)
    return merged


def _operated(document: Any, operations: list[Any]) -> Json:
    """Apply the operations of RFC 6902 one after the other, all or none."""
    for each in operations:
        try:
            document = _operate(document, each)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            message = f"the server rejected our request due to an error in our request ({each})"
            raise StatusError(422, "Invalid", message) from error
    if not isinstance(document, dict):
        raise StatusError(422, "Invalid", "the server rejected our request: what is left is no object")
    return document


def _operate(document: Any, operation: Json) -> Any:
    path = _pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _put(document, path, operation["value"], _insert)
        case "replace":
            _get(document, path)
            return _put(document, path, operation["value"], _set)
        case "remove":
            return _remove(document, path)
        case "test":
            if _get(document, path) != operation["value"]:
                raise ValueError(operation["path"])
            return document
        case "copy":
            return _put(document, path, copied(_get(document, _pointer(operation["from"]))), _insert)
        case "move":
            start = _pointer(operation["from"])
            value = _get(document, start)
            return _put(_remove(document, start), path, value, _insert)
    raise ValueError(operation["op"])


def _pointer(text: str) -> list[str]:
    """Return the parts of a JSON pointer (RFC 6901)."""
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _get(document: Any, path: list[str]) -> Any:
    for part in path:
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def _put(document: Any, path: list[str], value: Any, put: Callable[[Any, str, Any], None]) -> Any:
    if not path:
        return value
    put(_get(document, path[:-1]), path[-1], value)
    return document


def _insert(parent: Any, name: str, value: Any) -> None:
    if not isinstance(parent, list):
        parent[name] = value
        return
    at = len(parent) if name == "-" else int(name)
    if not 0 <= at <= len(parent):
        raise IndexError(name)
    parent.insert(at, value)


def _set(parent: Any, name: str, value: Any) -> None:
    parent[int(name) if isinstance(parent, list) else name] = value


def _remove(document: Any, path: list[str]) -> Any:
    parent = _get(document, path[:-1])
    del parent[int(path[-1]) if isinstance(parent, list) else path[-1]]
    return document
