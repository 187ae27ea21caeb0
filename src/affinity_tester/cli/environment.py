"""Finds names in the environment that look like settings and that nothing reads: silence about them would mislead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

import click

PREFIX = "AFFINITY_"

TESTS_PREFIX = "AFFINITY_TESTS_"
"""Of the settings of the test suite."""

SERVICE_LINK_SUFFIX = "_SERVICE_HOST"
"""The end of one of the variables that Kubernetes sets in pods for each Service; the others have the same beginning."""

TARGET = "TARGET_ADDR"

MIN_SIMILARITY = 0.85
"""Of `difflib`, for a whole name: it takes TARGET_ADR, TARGET_ADDRESS and AFINITY_SESSIONS for ours, not TARGET_ARCH."""


def names_of(command: click.Command) -> set[str]:
    """Return the environment variables that a command reads."""
    names: set[str] = set()
    for parameter in command.params:
        said = parameter.envvar or ()
        names.update((said,) if isinstance(said, str) else said)
    return names


def likely_settings(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Return the names that may be meant as settings and are not `known`; cheap, since every command asks this first."""
    # Kubernetes sets AFFINITY_TESTER_SERVICE_HOST and more of its kind for a Service of our own name.
    links = tuple(
        name.removesuffix(SERVICE_LINK_SUFFIX) + "_" for name in environ if name.endswith(SERVICE_LINK_SUFFIX)
    )
    begins = (PREFIX[:2], TARGET[:6])
    return [
        name
        for name in sorted(environ)
        if name.upper().startswith(begins) and not name.startswith((TESTS_PREFIX, *links)) and name not in known
    ]


def unread_warnings(environ: Mapping[str, str], names: Iterable[str], own: set[str], help_of: str) -> Iterator[str]:
    """Yield a line for each of `names` that is meant as a setting, with the nearest one of the command's `own`."""
    candidates = [name for name in own if name.startswith(PREFIX) or (name == TARGET and not environ.get(TARGET))]
    for name in names:
        upper = name.upper()
        near = difflib.get_close_matches(upper, candidates, 1, MIN_SIMILARITY)
        if upper in {PREFIX + "TARGET", PREFIX + TARGET}:  # the one setting without the prefix
            near = [TARGET]

        if upper.startswith(PREFIX):
            # It is meant for us: a weaker likeness will do, of what follows the prefix.
            endings = [each.removeprefix(PREFIX) for each in candidates if each != TARGET]
            near = near or [PREFIX + each for each in difflib.get_close_matches(upper.removeprefix(PREFIX), endings, 1)]
        elif not near:
            continue
        advice = f"did you mean {near[0]}?" if near else f"{help_of} --help has the names"
        yield f"{name} (environment, env.list) is not read: {advice}"
