"""The core decides by enumerated values, never by words: a reworded line must not switch a rule off."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import affinity_tester.core

CORE = Path(affinity_tester.core.__file__).parent

READERS = {"address.py"}
"""Modules that parse what a user or the network wrote (as all of `stun/` does), not what an event says."""

STRING_METHODS = frozenset(
    {
        *("startswith", "endswith", "removeprefix", "removesuffix", "find", "rfind", "partition", "rpartition"),
        *("split", "rsplit", "splitlines", "casefold", "lower", "upper", "fullmatch", "search"),
    }
)
"""What is asked of a text by one who reads it."""

RECEIVERS = {"noun": "the pluraliser's own argument", "address": "bytes of a packed address"}
"""Names of which a method may be called all the same."""

VALUES = {
    "Local": "externalTrafficPolicy, from the Service's spec",
    "Cluster": "externalTrafficPolicy, from the Service's spec",
    "ClientIP": "sessionAffinity, from the Service's spec",
    "flow-wipe": "the catalogue's name of a fault",
    "ECONNABORTED": "an errno's name",
    "ECONNREFUSED": "an errno's name",
    "EHOSTUNREACH": "an errno's name",
    "EMSGSIZE": "an errno's name",
    "burst": "the sort of an incident's member",
    "outage": "the sort of an incident's member",
}
"""Texts that may be compared with: names that others define, none of them words that an event or a report is given."""


def violations(source: str) -> Iterator[str]:
    """Each place where a text is read rather than a value compared."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=receiver, attr=method)) if method in STRING_METHODS:
                if not (isinstance(receiver, ast.Name) and receiver.id in RECEIVERS):
                    yield f"line {node.lineno}: .{method}() of {ast.unparse(receiver)}"
            case ast.Compare(left=left, comparators=comparators):
                for text in texts(left, *comparators):
                    yield f"line {node.lineno}: compared with {text!r}"
            case ast.MatchValue(value=value):
                for text in texts(value):
                    yield f"line {node.lineno}: matched with {text!r}"


def texts(*operands: ast.expr) -> Iterator[str]:
    """The literal texts among them and in their tuples and sets; f-strings are texts too. The empty one means `nothing`."""
    for operand in operands:
        match operand:
            case ast.Constant(value=str(text)) if text and text not in VALUES:
                yield text
            case ast.JoinedStr():
                yield ast.unparse(operand)
            case ast.Tuple(elts=elements) | ast.Set(elts=elements) | ast.List(elts=elements):
                yield from texts(*elements)
            case ast.Call(func=ast.Name(id="frozenset" | "set"), args=elements):
                yield from texts(*elements)


def test_nothing_in_the_core_reads_text() -> None:
    found = [
        f"{path.relative_to(CORE)}, {violation}"
        for path in sorted(CORE.rglob("*.py"))
        if path.name not in READERS and path.parent.name != "stun"
        for violation in violations(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'event.what.startswith(("load-balancer", "placed"))',
        'event.what == "not Ready"',
        'event.what in {"Ready", "not Ready"}',
        'event.what in frozenset({"Ready"})',
        '"Ready" in sentence',
        "event.what == f'restarted on node {name}'",
        'match event:\n    case ClusterEvent(subject="node"): pass',
        'match event:\n    case ClusterEvent(action="Ready" | "removed"): pass',
        'what.partition(" ")',
    ],
)
def test_it_sees_each_way_to_read_a_text(code: str) -> None:
    assert list(violations(code))


def test_values_may_be_compared() -> None:
    assert not list(violations('event.action is ClusterAction.READY and policy == "Local" and name != ""'))
