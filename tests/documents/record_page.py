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

_USUAL_MEANINGS = {
    # probes and replies
    "seq": "Sequence number of the probe.",
    "first_seq": "Sequence number of the first of them.",
    "last_seq": "Sequence number of the last of them.",
    "since_seq": "Sequence number of the first unanswered probe: with the session it names the outage.",
    "since_ns": "When it began.",
    "sent_ns": "When the probe was sent.",
    "first_sent_ns": "When the first of them was sent.",
    "last_sent_ns": "When the last of them was sent.",
    "delay_ns": "From sending the probe to receiving its reply.",
    "identity": "What the reply says: who answered, and the address that it saw.",
    "first": "What the first reply says.",
    "second": "What the second reply says.",
    "source": "Where the reply came from.",
    "expected": "Where the probe was sent to.",
    "software": "The reply's SOFTWARE; null: it has none.",
    "local": "The socket's own address and port.",
    "pod": "The pod's name.",
    "pods": "A sample for each pod.",
    "ingress": "A sample for each reflexive IP.",
    "instance": "The instance of the server that answered; null: its replies do not say.",
    "change": "The change.",
    "was": "The change as it was told before.",
    # settings and counts
    "version": "The tool's version.",
    "sessions": "How many sessions.",
    "interval_ns": "From one probe of a session to its next.",
    "loss_threshold_ns": "`--loss-threshold`.",
    "total": "Counted since the start.",
    "delta": "Counted since the line before.",
    "losses": "Lost probes by direction.",
    "up": "Lost on the way to the server.",
    "down": "Lost on the way back.",
    "Losses.unknown": "Lost, and the counts do not tell where.",
    "rtt": "Round-trip times.",
    "kinds": "How many changes of each kind.",
    "longest_gap_ns": "The longest time from sent(P) to the reply of Q over all changes; 0 without one.",
    "serving": "Who answered the newest replied probe; null: nobody yet.",
    "count": "How many were measured.",
    "min_ns": "The shortest.",
    "mean_ns": "The mean.",
    "p50_ns": "Half of them took at most this.",
    "p90_ns": "90 % of them took at most this.",
    "p99_ns": "99 % of them took at most this.",
    "max_ns": "The longest.",
    "sent": "Probes sent.",
    "answered": "Probes whose first reply came within the loss threshold.",
    "lost": "Probes without a reply in that time.",
    "pending": "Probes that may still be answered.",
    "duplicate": "Second replies to a probe.",
    "wrong_source": "Replies from another address than the probe was sent to.",
    "network_errors": "ICMP errors heard.",
    "changes": "How many changes.",
    "outages": "How many outages.",
    "bursts": "How many bursts of loss.",
    # the cluster
    "context": "The kubeconfig's context; empty: the cluster that the client runs in.",
    "reason": "Why, in words.",
    "snapshot": "The pool.",
    "endpoints": "The Service's endpoints of the probed port and address family.",
    "asked_ns": "When the list was asked for.",
    "address": "Its IP address.",
    "ready": "New flows may go to it.",
    "Endpoint.serving": "It answers, terminating or not.",
    "terminating": "It is being deleted.",
    "name": "Its name.",
    "ip": "The IP address.",
    # judging
    "judgement": "The class.",
    "avoidable": "Of an explained one: whether the old pod was still serving; null: not known, or not asked.",
    "reasons": "Why, each fit to stand after the class.",
    "stray": "Which way it arrived.",
    "detail": "More of it, in words.",
    "judgements": "How many of each class.",
    "incident": "The incident.",
    "number": "Its number, from 1.",
    "certainty": "How sure it is.",
    "outcome": "PASS, INCONCLUSIVE or FAIL.",
    "violations": "How many.",
    "judged_pairs": "Pairs of replies that were judged and could have failed.",
    # values
    "Kind.REFLEXIVE_IP": "The IP that the server saw.",
    "Kind.REFLEXIVE_PORT": "The port that the server saw.",
    "Kind.POD": "POD-NAME.",
    "Kind.NODE": "NODE-NAME.",
    "Kind.INSTANCE": "INSTANCE-ID: another start of the server.",
    "Kind.SOFTWARE": "SOFTWARE, of servers that name no pod.",
    "Judgement.POD_RESTART": "Only the instance differs: the container restarted.",
    "Judgement.EXPLAINED": "A pool change accounts for it.",
    "Judgement.IDLE": "The session paused for longer than the affinity window.",
    "Judgement.INFORMATION": "It accuses nobody, whatever the pool did.",
    "Judgement.UNKNOWN": "What is known is not enough to judge it.",
    "Judgement.VIOLATION": "Nothing excuses it: the cluster broke the session.",
    "WRONG_SOURCE": "From another address than the probe was sent to.",
    "CROSS_DELIVERED": "At another session than the one that had sent the probe.",
    "Outcome.PASS": "No violation, and enough was judged.",
    "Outcome.INCONCLUSIVE": "The run proves nothing.",
    "Outcome.FAIL": "A violation, or more loss than allowed.",
}
"""What fields mean that have no text of their own, by name, or by class and name where one name means two things."""


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
    leaves = [event for event in _below(Event) if not _below(event) and event.__module__.startswith(core.__name__)]
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
    if special := _below(cls):
        return "\n".join([*lines, f"One of: {', '.join(_type_text(each) for each in special)}."])
    if not shown:
        return "\n".join([*lines, "No fields of its own."])
    lines += ["| field | type | meaning |", "|---|---|---|"]
    lines += [f"| `{field.name}` | {_type(field)} | {_cell(field.doc)} |" for field in shown]
    return "\n".join(lines)


def _enumeration(cls: type[Enum]) -> str:
    docs = _field_docs(cls)
    lines = [f"### {cls.__name__}", "", _doc(cls), "", "| value | meaning |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{member.value}` | {_cell(_meaning(cls, member.name, docs))} |" for member in cls)])


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
        return " or ".join("null" if arg is types.NoneType else _type_text(arg) for arg in args)
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
            for hint in (*(field.hint for field in _fields(cls)), *_below(cls)):
                look(hint)

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
    return [_Field(name, hints[name], _meaning(cls, name, docs), default) for name, default in defaults.items()]


def _meaning(cls: type, name: str, docs: dict[str, str]) -> str:
    """Return the text of a field or a member; where it has none, what its name usually means."""
    usual = _USUAL_MEANINGS.get(f"{cls.__name__}.{name}") or _USUAL_MEANINGS.get(name, "")
    return docs.get(name) or usual


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
