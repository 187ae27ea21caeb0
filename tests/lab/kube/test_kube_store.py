"""The store: versions, generations, conflicts, graceful deletion, history."""

from __future__ import annotations

import pytest

from affinity_tester.lab.kube import store as store_module
from affinity_tester.lab.kube.failures import StatusError
from affinity_tester.lab.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, Json
from affinity_tester.lab.kube.store import Change, Store, timestamp
from affinity_tester.units import NS_PER_S


@pytest.fixture
def store() -> Store:
    count = iter(range(100))
    return Store(lambda: 1_800_000_000 * NS_PER_S, lambda: f"uid-{next(count)}")


def config(name: str = "a", **data: str) -> Json:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


def pod(name: str = "p", **spec: object) -> Json:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "node-1", **spec}}


def test_a_new_object_has_all_that_the_server_gives(store: Store) -> None:
    made = store.create(PODS, pod())
    assert made == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "default",
            "uid": "uid-0",
            "creationTimestamp": "2027-01-15T08:00:00Z",
            "generation": 1,
            "resourceVersion": "1001",
        },
        "spec": {"nodeName": "node-1"},
    }
    with pytest.raises(StatusError, match='pods "p" already exists') as error:
        store.create(PODS, pod())
    assert (error.value.code, error.value.reason) == (409, "AlreadyExists")


def test_an_update_of_another_version_is_a_conflict(store: Store) -> None:
    first = store.create(CONFIG_MAPS, config(x="1"))
    second = store.update(CONFIG_MAPS, config(x="2"))
    assert second["metadata"]["resourceVersion"] == "1002"
    with pytest.raises(StatusError, match="the object has been modified") as error:
        store.update(CONFIG_MAPS, {**first, "data": {"x": "3"}})
    assert (error.value.code, error.value.reason) == (409, "Conflict")
    with pytest.raises(StatusError, match="UID in precondition: other"):
        store.update(CONFIG_MAPS, {**config(), "metadata": {**second["metadata"], "uid": "other"}})
    assert store.get(CONFIG_MAPS, "default", "a")["data"] == {"x": "2"}


def test_what_changes_nothing_has_no_revision(store: Store) -> None:
    store.create(CONFIG_MAPS, config(x="1"))
    store.update(CONFIG_MAPS, config(x="1"))
    assert store.revision == 1001


def test_the_generation_counts_changes_of_the_spec_alone(store: Store) -> None:
    made = store.create(PODS, pod())
    made = store.update(PODS, {**made, "status": {"phase": "Running"}})
    assert made["metadata"]["generation"] == 1
    made = store.update(PODS, {**made, "spec": {"nodeName": "node-2"}})
    assert made["metadata"]["generation"] == 2


def test_the_generation_of_a_deployment_counts_its_annotations_but_for_those_of_its_controller(store: Store) -> None:
    made = store.create(DEPLOYMENTS, {"metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": 3}})
    made = store.update(DEPLOYMENTS, {**made, "metadata": {**made["metadata"], "annotations": {"a": "1"}}})
    assert made["metadata"]["generation"] == 2
    made = store.modify(DEPLOYMENTS, made, lambda new: new["metadata"]["annotations"].update(b="2"))
    assert made["metadata"]["generation"] == 2


def test_a_pod_is_deleted_gracefully_and_never_later_than_it_was_told(store: Store) -> None:
    store.create(PODS, pod(terminationGracePeriodSeconds=15))
    ends = store.delete(PODS, "default", "p")["metadata"]
    assert (ends["deletionTimestamp"], ends["deletionGracePeriodSeconds"]) == ("2027-01-15T08:00:15Z", 15)
    assert store.delete(PODS, "default", "p", 30)["metadata"] == ends
    assert store.delete(PODS, "default", "p", 5)["metadata"]["deletionTimestamp"] == "2027-01-15T08:00:05Z"
    store.delete(PODS, "default", "p", 0)
    assert store.find(PODS, "default", "p") is None


def test_a_pod_without_a_node_goes_at_once(store: Store) -> None:
    store.create(PODS, {"metadata": {"name": "p", "namespace": "default"}, "spec": {}})
    store.delete(PODS, "default", "p")
    assert store.list(PODS) == []


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(StatusError) as error:
        store.get(PODS, "default", "p")
    assert error.value.status() == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "p" not found',
        "reason": "NotFound",
        "details": {"name": "p", "kind": "pods"},
        "code": 404,
    }


def test_a_watch_hears_what_begins_and_ceases_to_fit(store: Store) -> None:
    heard: list[Change] = []
    store.listen(heard.append)
    store.create(CONFIG_MAPS, config(x="1"))
    store.update(CONFIG_MAPS, config(x="2"))
    store.update(CONFIG_MAPS, config(x="3"))
    store.delete(CONFIG_MAPS, "default", "a")
    store.unlisten(heard.append)

    def is_two(obj: Json) -> bool:
        return bool(obj["data"]["x"] == "2")

    told = [(event["type"], event["object"]["metadata"]["resourceVersion"]) if event else None for event in
            (each.event(is_two) for each in heard)]  # fmt: skip
    assert told == [None, ("ADDED", "1002"), ("DELETED", "1003"), None]
    told = [each.event(lambda _obj: True) for each in heard]
    assert [event["type"] for event in told if event] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]


def test_history_goes_on_from_a_version_until_it_is_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY", 3)
    for number in range(5):
        store.create(CONFIG_MAPS, config(f"c{number}"))
    assert [change.revision for change in store.since(1003)] == [1004, 1005]
    assert [change.revision for change in store.since(1002)] == [1003, 1004, 1005]
    with pytest.raises(StatusError, match="too old resource version: 1001") as error:
        store.since(1001)
    assert error.value.code == 410
    store.compact()
    with pytest.raises(StatusError):
        store.since(1004)
    assert list(store.since(1005)) == []


def test_a_scratch_copy_changes_nothing(store: Store) -> None:
    store.create(CONFIG_MAPS, config())
    copy = store.scratch()
    copy.delete(CONFIG_MAPS, "default", "a")
    copy.create(CONFIG_MAPS, config("b"))
    assert [obj["metadata"]["name"] for obj in store.list(CONFIG_MAPS)] == ["a"]


def test_times_are_whole_seconds() -> None:
    assert timestamp(1_999_999_999) == "1970-01-01T00:00:01Z"
