"""A setting's value reaches the cluster as it was given, or is refused in one line: no value is ever taken for YAML.

The oracle is a YAML parser and a file rendered with a harmless value: nothing but the setting's own fields may differ.
"""

from __future__ import annotations

import string
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from affinity_tester.app.manifests import MANIFESTS, SETTINGS, read_settings, render
from affinity_tester.cli import main
from affinity_tester.errors import UserError

PAIRS = [(name, setting) for name, manifest in MANIFESTS.items() for setting in manifest.settings]

HOSTILE = [
    *("null", "~", "true", "yes", "off", "010", "0o10", "0x1F", "1e3", "1_000", "12:30", ".inf", "-1", "+1", "1.0"),
    *("'", '"', "\\", "a: b", "a:", "- a", "# x", "a #b", "{}", "[]", "&a", "*a", "!x", "|", ">", "%", "@", "`", "?"),
    *(
        "---",
        "a\n---\nkind: Pod",
        "a\nb: c",
        "\r",
        "\t",
        "\x00",
        "\x1b[31m",
        "\x85",
        "\u2028",
        "\ufeff",
        "é",
        "٣",
    ),
    *("", " ", "a ", " a", "$(id)", "`id`", "{{x}}", "x # make: IMAGE", "a" * 5000, "9" * 5000, "1" + "0" * 20),
]

ALMOST = st.text(string.ascii_lowercase + string.digits + "./:-@_m,", min_size=1, max_size=12)
"""Much of this is an image, a namespace, a network or a number, or nearly so."""

VALUES = (
    st.sampled_from(HOSTILE) | ALMOST | st.text(max_size=20) | st.builds("{}{}".format, ALMOST, st.text(max_size=3))
)


def objects(name: str, **given: str) -> list[Any]:
    texts = render(name, read_settings(name, given), lambda: b"code")
    return list(yaml.safe_load_all("---\n".join(texts)))


def outcome(name: str, setting: str, value: str) -> tuple[list[Any], str | None]:
    """Return the objects, or what the refusal says."""
    try:
        return objects(name, **{setting: value}), None
    except UserError as refused:
        return [], str(refused)


def pod(each: dict[str, Any]) -> Any:
    return each["spec"]["template"]["spec"]


def take(name: str, setting: str, found: list[Any]) -> list[object]:
    """Take a setting's own fields out of the objects, and return what stood there."""
    last = found[-1]
    match setting:
        case "IMAGE" | "RUNTIME_IMAGE":
            return [pod(last)["containers"][0].pop("image")]
        case "RUN_AS_USER":
            context = pod(last)["securityContext"]
            return [context.pop("runAsUser", None), context.pop("runAsGroup", None)]
        case "POLICY":
            return [last["spec"].pop("externalTrafficPolicy")]
        case "AFFINITY":
            return [last["spec"].pop("sessionAffinity")]
        case "CLOUD" | "PROVIDER_ID":
            return [last["metadata"].pop("annotations", {})]
        case "IP_FAMILY":
            return [last["spec"].pop("ipFamilyPolicy", None), last["spec"].pop("ipFamilies", None)]
        case "SOURCE_RANGES":
            return [last["spec"].pop("loadBalancerSourceRanges", None)]
        case "NODES":
            return [last["spec"].pop("replicas")]
        case "CPU":
            return [pod(last)["containers"][0]["resources"]["requests"].pop("cpu")]
        case "NAMESPACE":
            return [last["subjects"][0].pop("namespace"), last["metadata"].pop("name")]
    raise AssertionError(f"{name} has {setting}: say where it stands")


def expected(setting: str, value: str) -> list[object]:
    """What must stand there, by the value alone."""
    match setting:
        case "RUN_AS_USER":
            return [int(value)] * 2 if value else [None, None]
        case "NODES":
            return [int(value)]
        case "IP_FAMILY":
            single = ["SingleStack", [value]] if value else [None, None]
            return ["RequireDualStack", ["IPv4", "IPv6"]] if value == "dual" else single
        case "SOURCE_RANGES":
            return [value.split(",") if value else None]
        case "NAMESPACE":
            return [value, f"affinity-tester-client-{value}"]
        case _:
            return [value]


@pytest.mark.parametrize(("name", "setting"), PAIRS)
@given(value=VALUES)
@example(value="null")
@example(value="010")
@example(value="1e3")
@example(value="9" * 5000)
@example(value="a" * 5000)
@example(value="a\n---\nkind: Pod")
@example(value="x # make: IMAGE")
def test_a_value_arrives_as_it_was_given_or_is_refused_in_one_line(name: str, setting: str, value: str) -> None:
    found, refused = outcome(name, setting, value)
    if refused is not None:
        assert refused.startswith(f"{setting}='{value}' ")
        return

    if setting == "IMAGE" and value:
        other = objects(name, IMAGE="other")
    elif setting == "IMAGE":
        return  # not set: the stock image, as in the other manifest
    else:
        other = objects(name)
    stood = take(name, setting, found)
    take(name, setting, other)
    if setting in {"CLOUD", "PROVIDER_ID"}:
        assert all(isinstance(each, str) for each in [*stood[0], *stood[0].values()])  # type: ignore[attr-defined,misc]
    else:
        assert stood == expected(setting, value)
    assert found == other


@pytest.mark.parametrize(("name", "setting"), [pair for pair in PAIRS if pair[0] != "server"])
def test_the_command_prints_objects_or_one_line(name: str, setting: str) -> None:
    for value in HOSTILE:
        done = CliRunner().invoke(main, ["manifests", name, "--set", f"{setting}={value}"])
        if done.exit_code == 0:
            assert all(each["kind"] for each in yaml.safe_load_all(done.stdout))
            continue
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {setting}='")
        assert len(done.stderr.splitlines()) == 1


def test_every_default_is_a_value() -> None:
    for name, setting in PAIRS:
        assert read_settings(name, {setting: SETTINGS[setting].default})[setting] == SETTINGS[setting].default
