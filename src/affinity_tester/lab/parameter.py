"""The values that a plan can give: dataclass fields that know how their text is read and what may be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, dataclass_transform

from affinity_tester.units import parse_duration

SHARE = "a share above 0, at most 1 (0.5)"
SHARE_OR_0 = "a share from 0 to 1 (0.5)"
COUNT = "a whole number from 1 (3)"
TIME = "a time above 0: seconds, or a number with a unit (0.5, 500ms, 2s)"
YES = "yes or no"
TIME_OR_0 = "a time: seconds, or a number with a unit (0, 0.5, 500ms, 2s)"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that a plan can give."""

    field: str
    """Its name in the dataclass."""
    read: Callable[[str], Any]
    """From its text; raises `ValueError`."""
    allowed: str
    """What may be written, in words."""
    text: str
    """What it is, in words."""
    required: bool


def parameter(read: Callable[[str], Any], allowed: str, text: str, *, key: str = "", default: Any = MISSING) -> Any:
    """Return a dataclass field that a plan can set; `key` is its name in the plan, where that differs from the field's."""
    return field(default=default, metadata={"parameter": (key, read, allowed, text)})


def time_parameter(text: str, *, key: str = "", default: Any = MISSING) -> Any:
    """Return a field for a time above 0."""
    return parameter(read_time, TIME, text, key=key, default=default)


def count_parameter(text: str, *, key: str = "", default: Any = MISSING) -> Any:
    """Return a field for a whole number from 1."""
    return parameter(read_count, COUNT, text, key=key, default=default)


def share_parameter(text: str, *, key: str = "", default: Any = MISSING) -> Any:
    """Return a field for a share above 0, at most 1."""
    return parameter(read_share, SHARE, text, key=key, default=default)


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(parameter, time_parameter, count_parameter, share_parameter),
)
class Parameters:
    """The base of classes that a plan describes: each subclass becomes a frozen dataclass of its parameters."""

    def __init_subclass__(cls) -> None:
        """Make the subclass a dataclass: it need not say so."""
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True)(cls)


def parameters(kind: type[Any]) -> dict[str, Parameter]:
    """Return the values that a plan can give to a dataclass, by their names in the plan."""
    found = {}
    for spec in fields(kind):
        if "parameter" in spec.metadata:
            key, read, allowed, text = spec.metadata["parameter"]
            found[key or spec.name] = Parameter(spec.name, read, allowed, text, spec.default is MISSING)
    return found


def read_share(text: str) -> float:
    """Read a share above 0, at most 1."""
    share = float(text)
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def read_share_or_0(text: str) -> float:
    """Read a share from 0 to 1."""
    return 0.0 if float(text) == 0 else read_share(text)


def read_count(text: str) -> int:
    """Read a whole number from 1."""
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def read_time(text: str) -> int:
    """Read a time above 0, in nanoseconds."""
    time_ns = parse_duration(text)
    if time_ns <= 0:
        raise ValueError(text)
    return time_ns


def read_yes(text: str) -> bool:
    """Read `yes` or `no`."""
    return {"yes": True, "true": True, "no": False, "false": False}[text.lower()]
