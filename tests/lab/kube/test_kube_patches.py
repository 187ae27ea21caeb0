"""The three patches."""

from __future__ import annotations

from typing import Any

import pytest

from affinity_tester.lab.kube.failures import StatusError
from affinity_tester.lab.kube.patches import MERGE, OPERATIONS, STRATEGIC, apply_patch

OBJECT = {
    "metadata": {"name": "a", "annotations": {"x": "1"}},
    "spec": {"replicas": 3, "containers": [{"name": "one", "image": "i:1"}, {"name": "two"}], "args": ["a", "b"]},
}


@pytest.mark.parametrize(
    ("patch", "merged"),  # the cases of RFC 7396, appendix A, that have an object on both sides
    [
        ({"a": "c"}, {"a": "c", "b": {"x": 1}}),
        ({"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": None}, {"b": {"x": 1}}),
        ({"b": {"x": None, "y": [1]}}, {"a": "b", "b": {"y": [1]}}),
        ({"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}, "b": {"x": 1}}),
        ({}, {"a": "b", "b": {"x": 1}}),
    ],
)
def test_a_merge_patch_is_as_the_rfc_says(patch: Any, merged: Any) -> None:
    assert apply_patch(MERGE, {"a": "b", "b": {"x": 1}}, patch) == merged
    assert apply_patch(STRATEGIC, {"a": "b", "b": {"x": 1}}, patch) == merged


def test_a_strategic_patch_merges_lists_that_have_a_key() -> None:
    patch = {"spec": {"containers": [{"name": "one", "image": "i:2"}, {"name": "three"}], "args": ["c"]}}
    spec = apply_patch(f"{STRATEGIC}; charset=utf-8", OBJECT, patch)["spec"]
    assert spec["containers"] == [{"name": "one", "image": "i:2"}, {"name": "two"}, {"name": "three"}]
    assert spec["args"] == ["c"]
    gone = {"spec": {"containers": [{"name": "two", "$patch": "delete"}]}}
    assert apply_patch(STRATEGIC, OBJECT, gone)["spec"]["containers"] == [{"name": "one", "image": "i:1"}]
    ports = {"spec": {"ports": [{"port": 1, "x": 1}]}}
    changed = apply_patch(STRATEGIC, {"spec": {"ports": [{"port": 1}, {"port": 2}]}}, ports)
    assert changed["spec"]["ports"] == [{"port": 1, "x": 1}, {"port": 2}]


def test_a_merge_patch_replaces_every_list() -> None:
    spec = apply_patch(MERGE, OBJECT, {"spec": {"containers": [{"name": "one"}]}})["spec"]
    assert spec["containers"] == [{"name": "one"}]
    assert OBJECT["spec"]["replicas"] == 3, "the object itself is as it was"


@pytest.mark.parametrize(
    ("operation", "path", "value"),
    [
        ({"op": "replace", "path": "/spec/replicas", "value": 4}, ("spec", "replicas"), 4),
        ({"op": "add", "path": "/metadata/annotations/a~1b", "value": "2"}, ("metadata", "annotations", "a/b"), "2"),
        ({"op": "add", "path": "/spec/args/1", "value": "x"}, ("spec", "args"), ["a", "x", "b"]),
        ({"op": "add", "path": "/spec/args/-", "value": "x"}, ("spec", "args"), ["a", "b", "x"]),
        ({"op": "remove", "path": "/spec/args/0"}, ("spec", "args"), ["b"]),
        ({"op": "remove", "path": "/metadata/annotations/x"}, ("metadata", "annotations"), {}),
        ({"op": "test", "path": "/spec/replicas", "value": 3}, ("spec", "replicas"), 3),
        ({"op": "copy", "from": "/spec/replicas", "path": "/spec/more"}, ("spec", "more"), 3),
        ({"op": "move", "from": "/metadata/annotations", "path": "/spec/moved"}, ("spec", "moved"), {"x": "1"}),
        ({"op": "replace", "path": "/spec/args/0", "value": "z"}, ("spec", "args"), ["z", "b"]),
    ],
)
def test_operations(operation: Any, path: tuple[str, ...], value: Any) -> None:
    found: Any = apply_patch(OPERATIONS, OBJECT, [operation])
    for part in path:
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/spec/replicas", "value": 4},
        {"op": "replace", "path": "/spec/none", "value": 4},
        {"op": "remove", "path": "/spec/args/7"},
        {"op": "add", "path": "/spec/args/7", "value": 1},
        {"op": "add", "path": "spec", "value": 1},
        {"op": "other", "path": "/spec"},
        {"path": "/spec"},
        {"op": "add", "path": "", "value": 1},
        7,
    ],
)
def test_an_operation_that_fails_is_invalid(operation: Any) -> None:
    with pytest.raises(StatusError) as error:
        apply_patch(OPERATIONS, OBJECT, [operation])
    assert error.value.code == 422


@pytest.mark.parametrize(
    ("kind", "patch", "code"),
    [
        (MERGE, [], 400),
        (STRATEGIC, {"$retainKeys": []}, 400),
        (STRATEGIC, {"spec": {"containers": [{"image": "x"}]}}, 400),
        (OPERATIONS, {}, 400),
        ("application/apply-patch+yaml", {}, 415),
    ],
)
def test_what_is_no_such_patch_is_refused(kind: str, patch: Any, code: int) -> None:
    with pytest.raises(StatusError) as error:
        apply_patch(kind, OBJECT, patch)
    assert error.value.code == code
