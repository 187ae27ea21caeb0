"""Events to plain JSON values and back, by reflection over their types: a new field or class needs no line here.

`encode` writes `{"event": <class name>, <field>: <value>, ...}`. A field whose type is a base class, such as a judgement's
reasons, is written as `{"kind": <class name>, <field>: <value>, ...}`. `decode` checks every value against the field's type,
as a record may come from anywhere; a field that is missing and has a default is allowed, an unknown one is not.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from affinity_tester.errors import AffinityTesterError

_T = TypeVar("_T")
_INT_BITS = 63
_Coder = Callable[[Any], Any]


class CodecError(AffinityTesterError):
    """A value does not fit the type of its field; the text says which."""


def encode(event: object) -> dict[str, Any]:
    """Return an event as JSON values, with its class's name under `event`."""
    cls: Any = type(event)
    return {"event": cls.__name__, **_object_encoder(cls)(event)}


def decode(data: object, root: type[_T]) -> _T:
    """Return the event that `encode` wrote, of a subclass of `root`. Raises `CodecError` for anything else."""
    if not isinstance(data, dict):
        raise CodecError("not an object")
    rest = dict(data)
    name = rest.pop("event", None)
    base: Any = root
    cls = _classes(base).get(name) if isinstance(name, str) else None
    if cls is None:
        raise CodecError(f"unknown event {name!r}")
    event: _T = _decoder(cls)(rest)
    return event


@cache
def _classes(root: Any) -> dict[str, Any]:
    """Return `root` and every class below it, by name."""
    found = {root.__name__: root}
    for cls in root.__subclasses__():
        # A slotted dataclass may still be listed as it was before it got its slots; the finished one comes after it.
        found |= _classes(cls)
    return found


@cache
def _encoder(hint: Any) -> _Coder | None:
    """Return the function that makes JSON of a value of this type; None where it is JSON already, as counters are."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        inner = _encoder(_present(hint, args))
        return inner and (lambda value: None if value is None else inner(value))
    if origin is tuple:
        if args[1:] == (Ellipsis,):
            each = _encoder(args[0])
            return (lambda value: [each(item) for item in value]) if each else list
        coders = [_encoder(arg) or _same for arg in args]
        return lambda value: [coder(item) for coder, item in zip(coders, value, strict=True)]
    if origin is frozenset:
        member = _encoder(args[0]) or _same
        return lambda value: [member(item) for item in sorted(value)]
    if hint is bytes:
        return bytes.hex
    if _is_base(hint):
        return _base_encoder
    if _is_object(hint):
        return _object_encoder(hint)
    return None  # an enumeration is its own text


def _same(value: Any) -> Any:
    return value


@cache
def _object_encoder(kind: Any) -> Callable[[Any], dict[str, Any]]:
    names = tuple(get_type_hints(kind))
    coders = [(name, coder) for name, hint in get_type_hints(kind).items() if (coder := _encoder(hint))]
    values: _Coder = _values_of(names)

    def plain(value: Any) -> dict[str, Any]:
        data = dict(zip(names, values(value), strict=True))
        for name, coder in coders:
            data[name] = coder(data[name])
        return data

    return plain


def _values_of(names: tuple[str, ...]) -> _Coder:
    """Return what takes these fields of an object, as a tuple; `attrgetter` does so from two names on."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: tuple(getattr(value, name) for name in names)


def _is_object(hint: Any) -> bool:
    """True for a type that becomes a JSON object: a dataclass or a named tuple."""
    return isinstance(hint, type) and (is_dataclass(hint) or hasattr(hint, "_fields"))


def _base_encoder(value: object) -> dict[str, Any]:
    cls: Any = type(value)
    return {"kind": cls.__name__, **_object_encoder(cls)(value)}


def _is_base(hint: Any) -> bool:
    """True for a base class: the class of a value must be written, too."""
    return isinstance(hint, type) and is_dataclass(hint) and bool(hint.__subclasses__())


def _present(hint: Any, args: tuple[Any, ...]) -> Any:
    """Return the T of `T | None`. Raises `TypeError` for any other union, which a reader could not tell apart."""
    present = [arg for arg in args if arg is not types.NoneType]
    if len(present) != 1 or len(present) == len(args):
        raise TypeError(f"no event may have a field of type {hint}")
    return present[0]


@cache
def _decoder(hint: Any) -> _Coder:
    """Return the function that checks and rebuilds a value of this type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (types.UnionType, Union):
        inner = _decoder(_present(hint, args))
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_decoder(args)
    if origin is frozenset:
        members = _tuple_decoder((args[0], Ellipsis))
        return lambda value: frozenset(members(value))
    if hint is bytes:
        return _bytes
    if hint in (int, float, str, bool):
        return _scalar_decoder(hint)
    if _is_base(hint):
        return _base_decoder(hint)
    if _is_object(hint):
        return _object_decoder(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_decoder(hint)
    raise TypeError(f"no event may have a field of type {hint}")


def _scalar_decoder(kind: type) -> _Coder:
    def scalar(value: Any) -> Any:
        if type(value) is not kind:
            raise CodecError(f"{value!r:.60} is no {kind.__name__}")
        if isinstance(value, int) and value.bit_length() > _INT_BITS:
            raise CodecError(f"{value!r:.60} does not fit 64 bits")
        return value

    return scalar


def _bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise CodecError(f"{value!r:.60} is no hex text") from None


def _enum_decoder(kind: type[StrEnum]) -> _Coder:
    def enum(value: Any) -> StrEnum:
        try:
            return kind(value)
        except ValueError:
            raise CodecError(f"{value!r:.60} is no {kind.__name__}") from None

    return enum


def _tuple_decoder(args: tuple[Any, ...]) -> _Coder:
    endless = len(args) > 1 and args[1] is Ellipsis
    inner = [_decoder(arg) for arg in args if arg is not Ellipsis]

    def rebuilt(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not (endless or len(value) == len(inner)):
            raise CodecError(f"{value!r:.60} is no list of the right length")
        return tuple((inner[0] if endless else inner[i])(item) for i, item in enumerate(value))

    return rebuilt


def _required(kind: Any) -> Iterable[str]:
    """Return the fields without a default."""
    if is_dataclass(kind):
        return (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    return kind._fields[: len(kind._fields) - len(kind._field_defaults)]  # type: ignore[no-any-return]


def _base_decoder(base: Any) -> _Coder:
    def rebuilt(value: Any) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"{value!r:.60} is no {base.__name__}")
        rest = dict(value)
        name = rest.pop("kind", None)
        kind = _classes(base).get(name) if isinstance(name, str) else None
        if kind is None or kind is base:
            raise CodecError(f"unknown {base.__name__} {name!r:.60}")
        return _decoder(kind)(rest)

    return rebuilt


def _object_decoder(kind: type) -> _Coder:
    decoders = {name: _decoder(hint) for name, hint in get_type_hints(kind).items()}
    required = set(_required(kind))

    def rebuilt(value: Any) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"{value!r:.60} is no {kind.__name__}")
        if not required <= value.keys() <= decoders.keys():
            wrong = ", ".join(sorted((required - value.keys()) | (value.keys() - decoders.keys())))
            raise CodecError(f"{kind.__name__} lacks or does not have: {wrong:.100}")
        arguments = {}
        for name, item in value.items():
            try:
                arguments[name] = decoders[name](item)
            except CodecError as error:
                raise CodecError(f"{kind.__name__}.{name}: {error}") from None
        return kind(**arguments)

    return rebuilt
