"""`env.list` has every setting of the client, each with its default, in the form that `docker run --env-file` reads."""

import itertools
import re
from pathlib import Path

import click
import pytest

from affinity_tester.cli import main

LINES = (Path(__file__).resolve().parents[2] / "env.list").read_text().splitlines()
SETTING = re.compile(r"(#?)([A-Z][A-Z0-9_]*)=(.*)")
SETTINGS = {match[2]: match[3] for match in map(SETTING.fullmatch, LINES) if match}


def parameters() -> dict[str, click.Parameter]:
    """The client's parameters by the name that its environment variable has first."""
    client = main.get_command(click.Context(main), "client")
    named = {}
    for parameter in client.params:
        names = parameter.envvar
        if names:
            named[names if isinstance(names, str) else names[0]] = parameter
    return named


def test_each_line_is_a_comment_a_setting_or_empty():
    for line in LINES:
        assert line == "" or line.startswith("# ") or SETTING.fullmatch(line), line


def test_only_the_target_is_set_and_it_is_empty():
    """So what a person sets in the environment, and the defaults, stay what they are."""
    assert [line for line in LINES if line and not line.startswith("#")] == ["TARGET_ADDR="]


def test_values_are_bare():
    for name, value in SETTINGS.items():
        assert value == value.strip(), name
        assert not set("\"'#$`\\") & set(value), name


def test_each_setting_has_a_comment_above_it():
    for above, line in itertools.pairwise(["", *LINES]):
        if SETTING.fullmatch(line):
            assert above.startswith("# "), line


def test_every_setting_of_the_client_is_there_and_no_other():
    assert sorted(SETTINGS) == sorted(parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_what_stands_there_is_the_default_or_an_example_that_the_client_takes(name, monkeypatch):
    for variable in parameters():
        monkeypatch.delenv(variable, raising=False)
    client = main.get_command(click.Context(main), "client")
    option = parameters()[name].name
    default = client.make_context("client", []).params[option]
    monkeypatch.setenv(name, SETTINGS[name])
    taken = client.make_context("client", []).params[option]
    if default in (None, ()) and name != "TARGET_ADDR":
        assert taken
    else:
        assert taken == default


@pytest.mark.parametrize("name", ["client", "server"])
def test_the_readme_lists_every_option_with_its_variables_and_no_other(name):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (table,) = re.findall(
        rf"^{name.capitalize()} \(`affinity-tester {name}`.*?\n\n(.*?)\n\n", readme, re.DOTALL | re.MULTILINE
    )
    listed = {
        (tuple(re.findall(r"`([^`]+)`", options)), tuple(re.findall(r"`([^`]+)`", variables)))
        for options, variables in (row.split("|")[1:3] for row in table.splitlines()[2:])
    }
    command = main.get_command(click.Context(main), name)
    there = {
        (
            tuple(sorted((*each.opts, *each.secondary_opts), key=len))
            if isinstance(each, click.Option)
            else ("TARGET",),
            (each.envvar,) if isinstance(each.envvar, str) else tuple(each.envvar),
        )
        for each in command.params
        if each.envvar
    }
    assert listed == there
