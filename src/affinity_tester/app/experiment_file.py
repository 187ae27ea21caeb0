"""Reads a suite: experiments with what was chosen for each, and options of the command, from a YAML file.

experiments:                # in this order
- baseline
- scale-up: {pods: 2}
- node-drain: {node: pool1-000003}
- command: {do: "./upgrade.sh", undo: "./downgrade.sh", limit: 45m}
matrix: true                # any option of the command, by its long name
sessions: 48
steady: 20s
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from affinity_tester.cluster.actions.base import ActionOptions
from affinity_tester.core.experiment.catalogue import ALL, EXPERIMENTS
from affinity_tester.errors import UserError
from affinity_tester.units import NS_PER_S, parse_duration

_PARAMETERS: dict[str, dict[str, type]] = {
    "scale-up": {"pods": int},
    "scale-down": {"pods": int},
    "proxy-restart": {"node": str},
    "node-scaleup": {"nodes": int},
    "node-drain": {"node": str, "delete_emptydir_data": bool},
    "command": {"do": str, "undo": str, "limit": str},
}
"""What may be chosen for an experiment, and of which type; for all others nothing."""

_TYPES = {int: "a whole number, 1 or more", str: "a text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Planned:
    """An experiment that is to be run."""

    name: str
    options: ActionOptions = field(default_factory=ActionOptions)


@dataclass(frozen=True, slots=True)
class Suite:
    """What a file asks for."""

    experiments: tuple[Planned, ...]
    options: dict[str, Any]
    """Options of the command by their long names, as YAML has them."""


def planned(names: tuple[str, ...]) -> tuple[Planned, ...]:
    """Return the experiments of these names; `all` means those that touch only this tool's own objects.

    Raises `UserError` for a name that is none.
    """
    found: list[str] = []
    for name in names:
        if name != "all" and name not in EXPERIMENTS:
            raise UserError(f"{name!r} is no experiment, nor a .yaml file: take all, or of {', '.join(EXPERIMENTS)}")
        found += ALL if name == "all" else [name]
    return tuple(Planned(name) for name in dict.fromkeys(found))


def load_suite(path: Path) -> Suite:
    """Read a suite. Raises `UserError`, which names the file and the place."""
    import yaml  # noqa: PLC0415 - only a suite needs it

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise UserError(f"{path}{line}: this is no YAML") from error

    if not isinstance(data, dict) or not isinstance(data.get("experiments"), list) or not data["experiments"]:
        raise UserError(f"{path}: write `experiments:` with a list of names, such as [baseline, pod-delete]")
    rest = {str(name).replace("-", "_"): value for name, value in data.items() if name != "experiments"}
    return Suite(tuple(_read(path, each) for each in data["experiments"]), rest)


def _read(path: Path, entry: object) -> Planned:
    """Return an entry of the list: a name, or a name with what is chosen for it."""
    name, chosen = (next(iter(entry.items()))) if isinstance(entry, dict) and len(entry) == 1 else (entry, {})
    if isinstance(entry, dict) and (len(entry) != 1 or name == "name"):
        raise UserError(f"{path}: {entry!r}: write an experiment as `- NAME`, or as `- scale-up: {{pods: 2}}`")
    if not isinstance(name, str) or name not in EXPERIMENTS:
        raise UserError(f"{path}: {name!r} is no experiment: take of {', '.join(EXPERIMENTS)}")
    chosen = {} if chosen is None else chosen
    if not isinstance(chosen, dict):
        raise UserError(f"{path}: {name}: write what you choose as {{name: value}}")

    parameters = _PARAMETERS.get(name, {})
    values: dict[str, Any] = {}
    for written, value in chosen.items():
        key = str(written).replace("-", "_")
        if key not in parameters:
            known = ", ".join(parameters) or "nothing"
            raise UserError(f"{path}: {name} has no {key!r}: {known} can be chosen")
        if not _fits(value, parameters[key]):
            raise UserError(f"{path}: {name}: {key} wants {_TYPES[parameters[key]]}, not {value!r}")
        values[key] = value
    if "limit" in values:
        try:
            values["command_limit_s"] = parse_duration(values.pop("limit")) / NS_PER_S
        except ValueError as error:
            raise UserError(f"{path}: {name}: limit: {error}") from error
    return Planned(name, ActionOptions(**values))


def _fits(value: object, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return isinstance(value, kind)
