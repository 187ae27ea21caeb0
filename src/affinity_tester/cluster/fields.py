"""Reads the fields of JSON objects by the types that the API gives them. Pure.

An optional field may be absent or null: both mean its default. Anything that the API does not allow raises `ObjectError`,
which names the object and the field. A field that cannot be read is unknown; no value is guessed for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from affinity_tester.cluster.api import ApiError

T = TypeVar("T")

MAX_SHOWN = 40
"""So many characters of a wrong value are shown: enough to find it."""


class ObjectError(ApiError):
    """An object is not as the API says. Nothing else is raised in this module."""

    def __init__(self, field: str, problem: str, kind: str = "object", name: str = "") -> None:
        """`field` is the path, as in `spec.ports[0].port`; `problem` is the text after the path."""
        self.field = field
        self.problem = problem
        which = f'{kind} "{name}"' if name else f"a nameless {kind}"
        super().__init__(f"{which} cannot be read: {field} {problem}")


class Fields:
    """The fields of an object, or of a part of it. Each method raises `ObjectError` for a value of a wrong type."""

    __slots__ = ("_at", "_obj")

    def __init__(self, obj: object, at: str = "") -> None:
        """`at` is the path of the part. Raises `ObjectError` if `obj` is no object."""
        if not isinstance(obj, dict):
            raise _wrong_type(at or "all of it", obj, "an object")
        self._obj: dict[str, Any] = obj
        self._at = at

    def text(self, name: str) -> str:
        """Return a text; empty by default."""
        value = self._obj.get(name)
        return "" if value is None else self._text(name, value)

    def needed(self, name: str) -> str:
        """Return a text that must be there and not be empty."""
        text = self.text(name)
        if not text:
            raise ObjectError(self.path(name), "is missing")
        return text

    def flag(self, name: str) -> bool | None:
        """Return a boolean; None by default."""
        value = self._obj.get(name)
        if value is not None and not isinstance(value, bool):
            raise _wrong_type(self.path(name), value, "a boolean")
        return value

    def number(self, name: str, most: int) -> int | None:
        """Return a whole number from 0 to `most`; None by default."""
        value = self._obj.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise _wrong_type(self.path(name), value, f"a whole number from 0 to {most}")
        return value

    def number_or_text(self, name: str, most: int) -> int | str | None:
        """Return an IntOrString of the API; None by default."""
        return self.text(name) if isinstance(self._obj.get(name), str) else self.number(name, most)

    def part(self, name: str) -> Fields:
        """Return the fields of an object; empty by default."""
        value = self._obj.get(name)
        return Fields({} if value is None else value, self.path(name))

    def parts(self, name: str) -> list[Fields]:
        """Return a list of objects; empty by default."""
        path = self.path(name)
        return [Fields(value, f"{path}[{at}]") for at, value in enumerate(self._list(name))]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts; empty by default."""
        return tuple(self._text(f"{name}[{at}]", value) for at, value in enumerate(self._list(name)))

    def pairs(self) -> dict[str, str]:
        """Return all fields, which must be texts, as labels are."""
        return {self._name(key): self._text(key, value) for key, value in self._obj.items()}

    def values(self) -> dict[str, str]:
        """Return all fields, whatever their types are, as compact JSON."""
        return {self._name(key): compact(value) for key, value in self._obj.items()}

    def has(self, name: str) -> bool:
        """True if the field is there and not null."""
        return self._obj.get(name) is not None

    def path(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self._at}.{name}" if self._at else name

    def _list(self, name: str) -> list[object]:
        value = self._obj.get(name)
        if value is not None and not isinstance(value, list):
            raise _wrong_type(self.path(name), value, "a list")
        return value or []

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            raise _wrong_type(self.path(name), value, "a text")
        if not value.isascii() and not _is_unicode(value):
            raise ObjectError(self.path(name), "is no Unicode")
        return value

    def _name(self, key: str) -> str:
        if not key.isascii() and not _is_unicode(key):
            raise ObjectError(self._at or "all of it", "has a field whose name is no Unicode")
        return key


def parser(kind: str) -> Callable[[Callable[[Fields], T]], Callable[[object], T]]:
    """Return a decorator that makes a parser of `Fields` one of objects: its errors name the kind and the object."""

    def of(parse: Callable[[Fields], T]) -> Callable[[object], T]:
        @wraps(parse)
        def parse_object(obj: object) -> T:
            try:
                return parse(Fields(obj))
            except ObjectError as error:
                raise ObjectError(error.field, error.problem, kind, name_of(obj)) from error
            except RecursionError as error:
                raise ObjectError("some field", "is nested too deeply", kind, name_of(obj)) from error

        return parse_object

    return of


def name_of(obj: object) -> str:
    """Return namespace/name of an object, as far as they can be read."""
    try:
        metadata = Fields(obj).part("metadata")
        return "/".join(filter(None, (metadata.text("namespace"), metadata.text("name"))))[: 2 * MAX_SHOWN]
    except ObjectError:
        return ""


def compact(value: object) -> str:
    """Return a value as JSON in a fixed order and without blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _is_unicode(text: str) -> bool:
    """False if a text has halves of surrogate pairs, which JSON can carry and no output can show."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_type(path: str, value: object, wanted: str) -> ObjectError:
    if isinstance(value, str):
        shown = json.dumps(value[:MAX_SHOWN])
    elif isinstance(value, list | dict):
        shown = "a list" if isinstance(value, list) else "an object"
    else:
        shown = json.dumps(value)[:MAX_SHOWN]
    return ObjectError(path, f"is {shown}, not {wanted}")
