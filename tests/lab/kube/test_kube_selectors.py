"""Label and field selectors."""

from __future__ import annotations

import pytest

from affinity_tester.cluster.context_watch import PROXY_LABELS
from affinity_tester.lab.kube.failures import StatusError
from affinity_tester.lab.kube.resources import NODES, PODS, SERVICES
from affinity_tester.lab.kube.selectors import field_selector, label_selector, matches


@pytest.mark.parametrize(
    ("selector", "fitting"),
    [
        ("", "abc"),
        ("app=x", "a"),
        ("app==x,tier!=front", ""),
        ("app!=x", "bc"),
        ("app in (x, y)", "ab"),
        ("app notin (x),tier", "b"),
        ("!app", "c"),
        ("tier", "ab"),
        ("tier=,app", ""),
    ],
)
def test_labels(selector: str, fitting: str) -> None:
    objects = {
        "a": {"app": "x", "tier": "front"},
        "b": {"app": "y", "tier": "back"},
        "c": None,
    }
    fits = label_selector(selector)
    assert "".join(name for name, labels in objects.items() if fits({"metadata": {"labels": labels}})) == fitting


def test_the_proxies_are_found_by_the_selectors_of_the_watch() -> None:
    found = [label_selector(each)({"metadata": {"labels": {"k8s-app": "kube-proxy"}}}) for each in PROXY_LABELS]
    assert found == [True, False, False]
    found = [label_selector(each)({"metadata": {"labels": {"component": "kube-proxy"}}}) for each in PROXY_LABELS]
    assert found == [False, True, False]


@pytest.mark.parametrize("selector", ["app in x", "=x", "app=x y", ","])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(StatusError) as error:
        label_selector(selector)
    assert error.value.code == 400


def test_fields() -> None:
    pod = {"metadata": {"name": "p", "namespace": "d"}, "spec": {}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}
    assert field_selector(PODS, "status.podIP=10.0.0.1,status.phase=Running")(pod)
    assert not field_selector(PODS, "status.phase!=Running")(pod)
    assert field_selector(PODS, "spec.nodeName=")(pod)
    assert field_selector(PODS, "")(pod)
    assert field_selector(NODES, "spec.unschedulable=false")({"metadata": {}, "spec": {}})
    assert field_selector(NODES, "spec.unschedulable=true")({"metadata": {}, "spec": {"unschedulable": True}})


@pytest.mark.parametrize("selector", ["spec.type=NodePort", "metadata.name"])
def test_a_field_that_cannot_be_selected_is_refused(selector: str) -> None:
    with pytest.raises(StatusError) as error:
        field_selector(SERVICES, selector)
    assert error.value.code == 400


def test_selectors_of_objects() -> None:
    def expression(operator: str, *values: str) -> dict[str, object]:
        return {"matchExpressions": [{"key": "app", "operator": operator, "values": list(values)}]}

    labels = {"app": "x"}
    assert matches({"matchLabels": labels}, {"app": "x", "more": "y"})
    assert not matches({"matchLabels": labels}, {"app": "y"})
    assert not matches(None, labels)
    assert matches({}, {})
    assert matches(expression("In", "x"), labels)
    assert not matches(expression("NotIn", "x"), labels)
    assert matches(expression("Exists"), labels)
    assert not matches(expression("DoesNotExist"), labels)
