"""The Grafana dashboard against Grafana's own schema, as the classes of its foundation SDK have it."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

BOARD = Path(__file__).resolve().parents[2] / "k8s" / "grafana-dashboard.json"

OTHERS_OWN = {"$.annotations.list[0].titleFormat"}
"""What the Prometheus data source has of its own in an annotation, where the schema says nothing of it."""

register_default_plugins()


def lost(told: object, understood: object, place: str = "$") -> Iterator[str]:
    """Yield where something is told that Grafana's classes did not keep: a field or a value that they do not know."""
    if isinstance(told, dict) and isinstance(understood, dict):
        for key, value in told.items():
            if key in understood:
                yield from lost(value, understood[key], f"{place}.{key}")
            else:
                yield f"{place}.{key}"
    elif isinstance(told, list) and isinstance(understood, list) and len(told) == len(understood):
        for at, (value, kept) in enumerate(zip(told, understood, strict=True)):
            yield from lost(value, kept, f"{place}[{at}]")
    elif told != understood:
        yield place


def mistyped(value: object, hint: object, place: str = "$") -> Iterator[str]:
    """Yield where a value is not of the type that the schema gives its field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in (object, typing.Any):
        return
    if origin in (typing.Union, types.UnionType):
        if not any(not list(mistyped(value, each)) for each in args):
            yield f"{place}: {value!r} is none of {args}"
    elif origin is typing.Literal:
        if value not in args:
            yield f"{place}: {value!r} is none of {args}"
    elif origin is list and isinstance(value, list):
        for at, each in enumerate(value):
            yield from mistyped(each, args[0], f"{place}[{at}]")
    elif origin is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from mistyped(each, args[1], f"{place}.{key}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in {each.value for each in hint}:
            yield f"{place}: {value!r} is no {hint.__name__}"
    elif hint is float:
        if not isinstance(value, int | float):
            yield f"{place}: {value!r} is no number"
    elif not isinstance(value, origin or hint):  # type: ignore[arg-type]
        yield f"{place}: {value!r} is no {hint}"
    elif hasattr(value, "to_json"):
        for name, field in typing.get_type_hints(type(value)).items():
            yield from mistyped(getattr(value, name), field, f"{place}.{name}")


def problems(board: dict[str, typing.Any]) -> list[str]:
    """Return what Grafana's classes do not know in a dashboard, or know with another type."""
    dashboard = Dashboard.from_json(board)
    back = json.loads(JSONEncoder().encode(dashboard))
    return [*(place for place in lost(board, back) if place not in OTHERS_OWN), *mistyped(dashboard, Dashboard)]


def test_the_dashboard_is_one_by_grafanas_own_schema():
    assert problems(json.loads(BOARD.read_text())) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"titel": "x"}, "$.titel"),
        ({"refresh": 10}, "refresh"),
        ({"schemaVersion": "39"}, "schema_version"),
        ({"panels": [{"type": "stat", "gridPos": {"x": "0", "y": 0, "w": 4, "h": 4}}]}, "panels"),
        ({"panels": [{"type": "stat", "fieldconfig": {}}]}, "$.panels[0].fieldconfig"),
    ],
)
def test_what_grafana_does_not_know_is_found(change, told):
    assert any(told in each for each in problems({**json.loads(BOARD.read_text()), **change}))
