"""Who set a field, from objects as API servers give them, and from odd ones."""

from __future__ import annotations

from typing import Any

import pytest

from affinity_tester.cluster.managed_fields import managers_of, set_by

REPLICAS = {"f:spec": {"f:replicas": {}}}


def obj(*entries: Any) -> dict[str, Any]:
    return {"metadata": {"managedFields": list(entries)}}


def entry(manager: Any, fields: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}


def test_who_has_the_field_is_named_and_nobody_else() -> None:
    owned = obj(entry("kubectl", {"f:spec": {"f:template": {}}}), entry("kube-controller-manager", REPLICAS))
    assert managers_of(owned, "spec", "replicas") == ("kube-controller-manager",)
    assert set_by(owned, "spec", "replicas") == " (set by kube-controller-manager)"
    assert set_by(owned, "spec", "paused") == ""


def test_this_program_is_not_named() -> None:
    """As kube-apiserver 1.20.2 told it after an experiment and a write of the scale subresource."""
    assert set_by(obj(entry("affinity-tester", REPLICAS)), "spec", "replicas") == ""


def test_those_who_apply_the_same_value_are_all_named() -> None:
    shared = obj(entry("helm", REPLICAS), entry("argocd-controller", REPLICAS), entry("helm", REPLICAS))
    assert managers_of(shared, "spec", "replicas") == ("argocd-controller", "helm")


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"metadata": None},
        {"metadata": {"managedFields": None}},
        {"metadata": {"managedFields": {"manager": "a"}}},
        obj("text", None),
        obj(entry("a", None), entry("b", {"f:spec": None}), entry("c", {"f:spec": []}), entry("d", "f:spec")),
        obj(entry("", REPLICAS), entry(None, REPLICAS)),
    ],
)
def test_odd_objects_name_nobody(odd: dict[str, Any]) -> None:
    assert managers_of(odd, "spec", "replicas") == ()
