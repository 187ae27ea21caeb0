"""A pytest plugin: what a run tells, without what depends on time or chance, compared with a file under `tests/data/golden`.

`shape` keeps words, marks, levels, indentation, the order of the table at the end, and how often each line of the log is
told. `MASKS` says what it hides. The log's own order is a matter of milliseconds, so its lines are sorted: an incident with
its evidence counts as one of them. `pytest --renew-golden` writes the files anew; `git diff` then shows what users will see.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

WHERE = Path(__file__).resolve().parent / "data" / "golden"

MASKS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\d\d:\d\d:\d\d\.\d{3}", "TIME"),
        (r"^to see it in a browser: .*", "to see it in a browser: COMMAND"),
        (r"\d{4}-\d\d-\d\d UTC\S+\d", "DATE"),
        (r"CLIENT-\d+", "CLIENT"),
        (r'pods? "lab-[a-z0-9]{5}"', 'pod "POD"'),
        (r'"lab-[a-z0-9]{5}"', '"POD"'),
        (r"^lab-[a-z0-9]{5} ", "POD "),
        (r"\bnode-\d+\b", "NODE"),
        (r"\b\d+(?:\.\d+){3}(?::\d+)?", "ADDRESS"),
        (r"(?<![\w#])\d[\d,.]* (?:ns|us|ms|s|min|h)\b", "DURATION"),
        # A letter or a `#` in front makes a number part of a name: p50, kubernetes#139628.
        (r"(?<![\w#])\d(?:[\d,.]*\d)?(?!\w)", "N"),
        # The pool's news and the first packet that it moves come within a millisecond.
        (r"\bDURATION (?:before|after)\b", "DURATION apart"),
        (r"\bDURATION to DURATION apart", "DURATION apart"),
        # Which of these the statistics know of is their timer's matter, and a client may miss a few slots.
        (r"(?:, N (?:late|reordered|duplicate|skipped))+(?=;|$)", ""),
        (r"\bprobe skipped \(", "probes skipped ("),
        # How many items a list has is chance, and so is the width of a table's column.
        (r"(?<!\w)(\S.*?)(?:, \1)+(?!\w)", r"\1"),
        (r"(?<=[^\s\]])  +", "  "),
        # How many judgements come within a second, and are one line, is chance too.
        (r"(?<=    )N sessions: (?=VIOLATION|explained|unknown|pod-silent|idle|client)", ""),
        (r"\((?:CLIENT, )?(changed|unanswered since) TIME(?: to TIME)?\)$", r"(\1 TIME)"),
        (r"^ {10,}", " " * 10),
    )
)

_LOGGED = re.compile(r"TIME \[")
_INCIDENT = re.compile(r"TIME \[\w+\] +incident ")
_EVIDENCE = re.compile(r"TIME \[\w+\] {5,}(?!.*\((?:CLIENT[^)]*|(?:changed|unanswered since) TIME)\)$)")
"""A line below an incident; what ends with a session in brackets is a judgement or a canary's answer, told in between."""

_BY_TIMER = re.compile(
    r"sent N messages of which|a test probe from a new port is answered|\((?:changed|unanswered since) TIME\)$"
)
"""Told as often as the run has time for."""

_BY_CHANCE = re.compile(r"TIME \[\w+\] +incident N .* sessions: N loss bursts?, N probes lost\n")
"""Which losses follow each other closely enough to be a burst, and which bursts are one incident, is chance."""


def masked(line: str) -> str:
    """A line without what depends on time or chance."""
    for pattern, instead in MASKS:
        line = pattern.sub(instead, line)
    return line


def shape(said: str) -> str:
    """What a run said: the log as sorted lines with their number, then the tables, in which equal rows are one."""
    lines = [masked(line) for line in said.splitlines()]
    log = [line for line in lines if _LOGGED.match(line)]
    rest = [line for line in lines if not _LOGGED.match(line)]
    counted = [
        f"{'some' if _BY_TIMER.search(told) else number} x {told}"
        for told, number in _entries(log).items()
        if not _BY_CHANCE.match(told)
    ]
    tables = [line for before, line in zip([None, *rest], rest, strict=False) if line != before]
    return "\n".join([*sorted(counted, key=lambda entry: entry.split(" x ", 1)[1]), *tables, ""])


def _entries(log: Iterable[str]) -> Counter[str]:
    entries: Counter[str] = Counter()
    incident: list[str] = []
    for line in log:
        if incident and _EVIDENCE.match(line):
            incident.append(line)
            continue
        if incident:
            entries["\n    ".join(incident)] += 1
        incident = [line] if _INCIDENT.match(line) else []
        if not incident:
            entries[line] += 1
    if incident:
        entries["\n    ".join(incident)] += 1
    return entries


def keys(said: str) -> str:
    """The names and keys of a run's JSON events, one a line, without values."""
    told = [json.loads(line) for line in said.splitlines()]
    return "\n".join([*sorted({f"{each['event']}: {masked(path)}" for each in told for path in _paths(each)}), ""])


def _paths(value: object, path: str = "") -> Iterator[str]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _paths(inner, f"{path}.{key}" if path else key)
        case list():
            yield f"{path}[]"
            for inner in value:
                if isinstance(inner, dict | list):
                    yield from _paths(inner, f"{path}[]")
        case _:
            yield path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person take what is said now as what should be."""
    parser.addoption("--renew-golden", action="store_true", help="write tests/data/golden anew, from what is said now")


@pytest.fixture
def is_golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Hold a text against the golden file of a name, or make it that."""

    def check(name: str, text: str) -> None:
        file = WHERE / name
        if request.config.getoption("--renew-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert text.splitlines() == file.read_text().splitlines(), f"not as in {file}; on purpose: --renew-golden"

    return check
