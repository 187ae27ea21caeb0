"""Which experiments a call of `affinity-tester experiment` means, and the options that a suite's file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from affinity_tester.app.experiment_file import Planned, load_suite, planned
from affinity_tester.errors import UserError

_NOT_IN_FILES = frozenset(
    {"listed", "list", "lab", "dry_run", "confirm_context", "kubeconfig", "context", "do", "undo", "node"}
)
"""Options that belong to a call, not to a suite: which cluster it means, and what confirms that; and an experiment's own."""


def read_experiments(names: tuple[str, ...], given: dict[str, Any], said: set[str]) -> tuple[Planned, ...]:
    """Return the experiments that are named; what a file says of options goes into `given` and `said`.

    The command line goes before the file, and the file before the environment.
    """
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    if not files:
        return planned(names)
    if len(names) > 1:
        raise UserError("a FILE.yaml says which experiments are run: give it alone")

    suite = load_suite(Path(files[0]))
    context = click.get_current_context()
    params = {param.name: param for param in context.command.params if isinstance(param, click.Option)}
    for name, value in suite.options.items():
        param = params.get({"output": "outputs", "lab_fault": "lab_faults"}.get(name, name))
        if param is None or name in _NOT_IN_FILES:
            raise UserError(f"{files[0]}: {name.replace('_', '-')!r} is no option of this command")
        if context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            continue
        try:
            given[param.name] = param.process_value(context, value)
        except click.BadParameter as error:
            raise UserError(f"{files[0]}: {name.replace('_', '-')}: {error.message}") from error
        said.add(param.name)
    return suite.experiments
