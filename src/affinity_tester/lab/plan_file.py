"""Fault plans as YAML files, which say how long, with how many sessions, and which faults when.

    seed: 7
    duration: 28s
    sessions: 10
    faults:
      - {fault: node-rehash, at: 5s, fraction: 0.5}

Every value is read from its own text by the parameter's reader, so YAML's guesses at types play no part. What is wrong is
a `UserError` with file and line, and with what may be written there.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from affinity_tester.errors import UserError
from affinity_tester.lab.fault import Fault
from affinity_tester.lab.faults import FAULTS
from affinity_tester.lab.parameter import parameters
from affinity_tester.lab.plan import Plan

LONGEST_PLAN = 1 << 18
"""Characters of a plan: thousands of faults. What is longer is no plan, and would take minutes to read."""

DEEPEST = 16
"""Levels of nesting that are read; a plan has three."""


def builtin_names() -> tuple[str, ...]:
    """Return the names of the plans that come with the package, in order."""
    files = resources.files(__package__).joinpath("plans").iterdir()
    return tuple(sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml")))


def load_plan(name: str) -> Plan:
    """Return a built-in plan by its name, else a file's. Raises `UserError`."""
    if name in builtin_names():
        return builtin(name)
    if not Path(name).exists() and not name.endswith((".yaml", ".yml")):
        like = sorted(each for each in builtin_names() if name in each) or get_close_matches(name, builtin_names())
        hint = f"did you mean {' or '.join(like[:3])}? " if like else ""
        raise UserError(
            f"there is no plan {name!r}, neither a file nor a shipped one: {hint}`affinity-tester lab --list` shows them"
        )
    return load_file(Path(name))


def builtin(name: str) -> Plan:
    """Return a plan that comes with the package."""
    return parse(_builtin_text(name), f"{name}.yaml")


def builtin_comment(name: str) -> str:
    """Return what a built-in plan says of itself in its first line."""
    return _builtin_text(name).splitlines()[0].removeprefix("# ")


def _builtin_text(name: str) -> str:
    return resources.files(__package__).joinpath("plans", f"{name}.yaml").read_text(encoding="utf-8")


def load_file(path: Path) -> Plan:
    """Read a plan; raises `UserError`."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_PLAN + 1)
    except OSError as error:
        raise UserError(f"cannot read the plan {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the plan {path} is not UTF-8 text") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Plan:
    """Read a plan's text; `source` names it in errors. Raises `UserError`."""
    if len(text) > LONGEST_PLAN:
        raise UserError(f"{source}: it is too long for a plan: at most {LONGEST_PLAN >> 10} KiB are read")

    try:
        _check_depth(text, source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{source}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    if root is None:
        raise UserError(f"{source}: the plan is empty")

    reader = _Reader(source)
    values = reader.mapping(root, "a plan")
    faults = reader.faults(values.pop("faults", None))
    plan = Plan(**reader.values(Plan, values, root, "a plan", more=("faults",)), faults=faults)
    for problem in plan.problems():
        raise UserError(f"{source}: {problem}")
    return plan


def _check_depth(text: str, source: str) -> None:
    """Raise `UserError` for what is nested too deeply: it would be read level by level. Raises `yaml.YAMLError` too."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            mark = event.start_mark
            where = f"{source}:{mark.line + 1 if mark else 1}"
            raise UserError(f"{where}: nested too deeply: a plan has lists and mappings in {DEEPEST} levels at most")


class _Reader:
    """Reads YAML nodes, which know their lines."""

    def __init__(self, source: str) -> None:
        self._source = source

    def error(self, node: yaml.Node, text: str) -> UserError:
        return UserError(f"{self._source}:{node.start_mark.line + 1}: {text}")

    def mapping(self, node: yaml.Node, what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} is a mapping, such as {{at: 5s}}")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.scalar(key, "a key")
            if name in values:
                raise self.error(key, f"{name!r} is given twice")
            values[name] = value
        return values

    def scalar(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, f"{what} is a single value")
        return str(node.value)

    def values(
        self, kind: type[Any], given: Mapping[str, yaml.Node], node: yaml.Node, what: str, more: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Return the dataclass's arguments, each read by its parameter."""
        known = parameters(kind)
        result = {}
        for key, value in given.items():
            if key not in known:
                raise self.error(value, f"{what} has no {key!r}; it has {', '.join(sorted((*known, *more)))}")
            text = self.scalar(value, key)
            try:
                result[known[key].field] = known[key].read(text)
            except (ValueError, KeyError, OverflowError) as error:
                raise self.error(value, f"{key}: {text!r} is not {known[key].allowed}") from error

        for key, spec in known.items():
            if spec.required and key not in given:
                raise self.error(node, f"{what} needs {key!r}: {spec.text}")
        return result

    def faults(self, node: yaml.Node | None) -> tuple[Fault, ...]:
        if node is None:
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "faults is a list, such as [{fault: port-rewrite, at: 5s}]")
        return tuple(sorted(map(self.fault, node.value), key=lambda fault: fault.at_ns))

    def fault(self, node: yaml.Node) -> Fault:
        given = self.mapping(node, "a fault")
        if "fault" not in given:
            raise self.error(node, f"a fault needs 'fault', its name: one of {', '.join(sorted(FAULTS))}")
        where = given.pop("fault")
        name = self.scalar(where, "fault")
        if name not in FAULTS:
            raise self.error(where, f"there is no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
        return FAULTS[name](**self.values(FAULTS[name], given, node, name, more=("fault",)))
