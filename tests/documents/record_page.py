"""The generated parts of docs/record.md: each event type with its fields, from the types themselves.

The record's own coder (in `affinity_tester.report`) reflects over the same types, so the page follows it by itself.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import sys
import textwrap
import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from affinity_tester import core
from affinity_tester.core.events import Event
from affinity_tester.report.record import FORMAT, MARK

_SCALARS = {int: "integer", float: "number", str: "text", bool: "true or false", bytes: "hex text"}
_UNITS = {"_ns": "ns", "_s": "s", "_size": "bytes"}
_NOTHING = object()


@dataclass(frozen=True)
class _Field:
    """One field of an object as the record has it."""

    name: str
    hint: Any
    doc: str
    default: Any


def blocks() -> dict[str, str]:
    """Return the generated parts by the names of their marks."""
    events = event_types()
    parts = list(_parts_of(events))
    objects = [part for part in parts if not issubclass(part, Enum)]
    enums = [part for part in parts if issubclass(part, Enum)]
    return {
        "header": f"```json\n{json.dumps({'record': MARK, 'format': FORMAT, 'version': '0.1.0'})}\n```",
        "index": "\n".join(_index(events)),
        "base": "\n".join(_bases(events)),
        "events": "\n\n".join(_object(event, own_only=True) for event in events),
        "objects": "\n\n".join(_object(part) for part in objects),
        "values": "\n\n".join(_enumeration(part) for part in enums),
    }


def event_types() -> list[type[Event]]:
    """Return every event type that a record may hold, in the order of the source."""
    _import_core()
    leaves = [event for event in _below(Event) if not _below(event)]
    return sorted(leaves, key=lambda event: (_order(event.__module__), _line(event)))


def _import_core() -> None:
    """Import all of the core: a type that nobody imported would be missing."""
    for module in pkgutil.walk_packages(core.__path__, f"{core.__name__}."):
        importlib.import_module(module.name)


def _below(root: type) -> list[type]:
    """Return all classes below `root`; of a slotted dataclass and the class that it was made from, the finished one."""
    found: dict[tuple[str, str], type] = {}
    for cls in root.__subclasses__():
        for each in (cls, *_below(cls)):
            found[each.__module__, each.__qualname__] = getattr(sys.modules[each.__module__], each.__name__, each)
    return list(found.values())


def _order(module: str) -> int:
    """Return a module's place in the record's page: as the package of events imports its modules, else by name."""
    package = sys.modules[Event.__module__.rpartition(".")[0]]
    names = [getattr(each, "__module__", "") for each in vars(package).values()]
    return names.index(module) if module in names else len(names)


def _line(cls: type) -> int:
    return inspect.getsourcelines(cls)[1]


# --- what is written ---------------------------------------------------------------------------------------------------


def _index(events: Iterable[type]) -> Iterator[str]:
    yield "| event | what it tells |"
    yield "|---|---|"
    for event in events:
        yield f"| [`{event.__name__}`](#{_anchor(event)}) | {_cell(_summary(event))} |"


def _bases(events: Iterable[type]) -> Iterator[str]:
    yield "| field | type | meaning | in |"
    yield "|---|---|---|---|"
    seen: set[str] = set()
    for base in (Event, *(each for each in _below(Event) if _below(each))):
        where = "every event" if base is Event else ", ".join(f"`{e.__name__}`" for e in events if issubclass(e, base))
        for field in _fields(base):
            if field.name not in seen:
                seen.add(field.name)
                yield f"| `{field.name}` | {_type(field)} | {_cell(field.doc)} | {where} |"


def _object(cls: type, *, own_only: bool = False) -> str:
    """Return the section of an event or of a part of one; `own_only`: without what its bases have."""
    inherited = {field.name for base in cls.__bases__ if is_dataclass(base) for field in _fields(base)}
    shown = [field for field in _fields(cls) if not (own_only and field.name in inherited)]
    lines = [f"### {cls.__name__}", "", _doc(cls), ""]
    if not shown:
        return "\n".join([*lines, "No fields of its own."])
    lines += ["| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {_type(field)} | {_cell(field.doc)} |" for field in shown]
    return "\n".join(lines)


def _enumeration(cls: type[Enum]) -> str:
    docs = _field_docs(cls)
    lines = [f"### {cls.__name__}", "", _doc(cls), "", "| value | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{member.value}` | {_cell(docs.get(member.name, ''))} |" for member in cls)])


def _type(field: _Field) -> str:
    """Return a field's type in words, with its unit and its default."""
    unit = next((f", {unit}" for ending, unit in _UNITS.items() if field.name.endswith(ending)), "")
    default = "" if field.default is _NOTHING else f"; if missing: {_default(field.default)}"
    return f"{_type_text(field.hint)}{unit}{default}"


def _default(value: Any) -> str:
    if is_dataclass(value) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return "all its defaults"
    if isinstance(value, tuple | frozenset):
        return "empty" if not value else f"`{json.dumps(list(value))}`"
    return "empty" if value == "" else f"`{json.dumps(value)}`"


def _type_text(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        return " or ".join(_type_text(arg) for arg in args if arg is not types.NoneType) + " or null"
    if origin is frozenset or (origin is tuple and args[1:] == (Ellipsis,)):
        return f"list of {_type_text(args[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_text(arg) for arg in args)}]"
    if hint in _SCALARS:
        return _SCALARS[hint]
    return f"[{hint.__name__}](#{_anchor(hint)})"


def _parts_of(events: Iterable[type]) -> list[type]:
    """Return the objects and enumerations that events are made of, in the order in which they are met."""
    found: dict[type, None] = {}

    def look(hint: Any) -> None:
        for arg in get_args(hint):
            look(arg)
        is_part = isinstance(hint, type) and hint not in _SCALARS and hint is not types.NoneType and not get_args(hint)
        if is_part and hint not in found:
            found[hint] = None
            look_into(hint)

    def look_into(cls: type) -> None:
        if not issubclass(cls, Enum):
            for field in _fields(cls):
                look(field.hint)

    for event in events:
        look_into(event)
    return list(found)


# --- what the types say ------------------------------------------------------------------------------------------------


def _fields(cls: Any) -> list[_Field]:
    """Return the fields of a dataclass or a named tuple, those of its bases first."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base) or hasattr(base, "_fields"):
            docs |= _field_docs(base)
    if is_dataclass(cls):
        defaults = {f.name: _default_of(f) for f in fields(cls)}
    else:
        defaults = {name: cls._field_defaults.get(name, _NOTHING) for name in cls._fields}
    hints = get_type_hints(cls)
    return [_Field(name, hints[name], docs.get(name, ""), default) for name, default in defaults.items()]


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _NOTHING if field.default is MISSING else field.default


def _field_docs(cls: type) -> dict[str, str]:
    """Return the text below each field (or member) of a class, by name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for statement, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign):
            target = statement.targets[0]
        else:
            continue
        text = below.value if isinstance(below, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            found[target.id] = inspect.cleandoc(text.value)
    return found


def _doc(cls: type) -> str:
    return _flat(inspect.getdoc(cls) or "")


def _summary(cls: type) -> str:
    return _doc(cls).partition("\n")[0]


def _flat(text: str) -> str:
    """Return a docstring as Markdown: a line for each paragraph."""
    return "\n\n".join(_in_json(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))


def _cell(text: str) -> str:
    return _in_json(" ".join(text.split())).replace("|", "\\|")


def _in_json(text: str) -> str:
    """Return a docstring's words with JSON's names of Python's values."""
    for python, json_name in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", json_name, text)
    return text


def _anchor(cls: type) -> str:
    return cls.__name__.lower()
