"""Label and field selectors, as in requests, and the selectors of objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from affinity_tester.lab.kube.failures import bad_request
from affinity_tester.lab.kube.resources import NODES, PODS, Json, Resource

Fits = Callable[[Json], bool]
"""True for an object that is selected."""

_TERM = re.compile(
    r"\s*(?:(?P<key>[\w./-]+)\s*(?:(?P<set>in|notin)\s*\((?P<several>[^)]*)\)|(?P<sign>==|=|!=)\s*(?P<one>[\w./-]*))"
    r"|(?P<absent>!?)(?P<exists>[\w./-]+))\s*(?:,|$)"
)
"""One term of a label selector: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`."""

_FIELDS = {
    PODS: ("spec.nodeName", "spec.restartPolicy", "status.phase", "status.podIP"),
    NODES: ("spec.unschedulable",),
}
"""The fields beside name and namespace that may be selected (registry/core, SelectableFields)."""


def label_selector(text: str) -> Fits:
    """Return the predicate of a labelSelector. Raises `StatusError`."""
    terms: list[Callable[[Mapping[str, str]], bool]] = []
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or term.end() == at:
            raise bad_request(f"unable to parse requirement: found '{text[at:]}' in the label selector")
        terms.append(_label_term(term))
        at = term.end()
    return lambda obj: all(fits(obj["metadata"].get("labels") or {}) for fits in terms)


def _label_term(term: re.Match[str]) -> Callable[[Mapping[str, str]], bool]:
    if (key := term["exists"]) is not None:
        wanted = not term["absent"]
        return lambda labels: (key in labels) == wanted

    name, several = term["key"], term["several"]
    values = {each.strip() for each in several.split(",")} if several is not None else {term["one"]}
    if (term["sign"] or term["set"]) in {"=", "==", "in"}:
        return lambda labels: labels.get(name) in values
    return lambda labels: labels.get(name) not in values


def field_selector(resource: Resource, text: str) -> Fits:
    """Return the predicate of a fieldSelector. Raises `StatusError` for a field that cannot be selected."""
    known = ("metadata.name", "metadata.namespace", *_FIELDS.get(resource, ()))
    terms: list[tuple[str, str, bool]] = []
    for each in filter(None, text.split(",")):
        path, sign, value = re.match(r"([^!=]*)(!=|==|=)?(.*)", each).groups()  # type: ignore[union-attr]
        if sign is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{each}'")
        if path not in known:
            raise bad_request(f"field label not supported: {path}")
        terms.append((path, value, sign != "!="))
    return lambda obj: all((_field(obj, path) == value) == wanted for path, value, wanted in terms)


def _field(obj: Json, path: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "false" if path == "spec.unschedulable" else ""
    return str(value)


def matches(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """True if an object's LabelSelector (matchLabels, matchExpressions) selects these labels; None selects nothing."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(each, labels) for each in selector.get("matchExpressions") or ())


def _expression(term: Json, labels: Mapping[str, str]) -> bool:
    key, values = term["key"], term.get("values") or ()
    match term["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels
