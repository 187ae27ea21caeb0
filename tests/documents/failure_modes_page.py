"""The generated parts of docs/failure-modes.md: what the catalogue and the rules of `core.diagnosis` say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from affinity_tester.core import diagnosis
from affinity_tester.core.diagnosis import CATALOGUE, EQUIVALENCES, Entry

_RULES = Path(diagnosis.__file__).parent
_NO_RULES = {"catalogue.py"}
"""Modules that name faults without looking for them."""


def blocks() -> dict[str, str]:
    """Return the generated parts by the names of their marks."""
    rules = rules_by_fault()
    parts = {"overview": "\n".join(_overview()), "look-alikes": "\n".join(_look_alikes())}
    for entry in CATALOGUE.values():
        parts[f"fault {entry.name}"] = "\n".join(_fault(entry, rules[entry.name]))
    return parts


def rules_by_fault() -> dict[str, list[str]]:
    """Return, for each fault, the functions that can name it, as Markdown: what they look for, and where they are."""
    found: dict[str, list[str]] = {name: [] for name in CATALOGUE}
    for path in sorted(_RULES.glob("*.py")):
        if path.name in _NO_RULES:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef):
                continue
            words = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            for name in sorted(found.keys() & words):
                found[name].append(f"{summary} (`{node.name}` in `core/diagnosis/{path.name}`)")
    return found


def _overview() -> Iterator[str]:
    yield "| name | what happens |"
    yield "|---|---|"
    for entry in CATALOGUE.values():
        yield f"| [`{entry.name}`](#{entry.name}) | {entry.what} |"


def _fault(entry: Entry, rules: list[str]) -> Iterator[str]:
    yield f"What happens: {entry.what}.\n"
    yield f"- Try: {entry.remedy}."
    if entry.references:
        yield f"- Known from: {', '.join(map(_link, entry.references))}."
    for each in EQUIVALENCES:
        if entry.name in each.names:
            others = " and ".join(f"[`{name}`](#{name})" for name in sorted(each.names - {entry.name}))
            yield f"- Looks like {others} when {each.when}."
    for rule in rules:
        yield f"- Rule: {rule}"
    if resources.files("affinity_tester.lab").joinpath(f"plans/{entry.name}.yaml").is_file():
        yield f"- See it: `affinity-tester lab {entry.name}`; [its evidence](diagnosis.md#{entry.name})."


def _look_alikes() -> Iterator[str]:
    yield "| faults | alike when | why | what tells them apart |"
    yield "|---|---|---|---|"
    for each in EQUIVALENCES:
        names = ", ".join(f"[`{name}`](#{name})" for name in sorted(each.names))
        yield f"| {names} | {each.when} | {each.why} | {each.settled_by} |"


def _link(reference: str) -> str:
    """Return an issue, `owner/repository#number`, as a Markdown link; anything else as it is."""
    repository, mark, number = reference.partition("#")
    return f"[{reference}](https://github.com/{repository}/issues/{number})" if mark else reference
