"""The cluster's objects as YAML: the files of `k8s/` with settings put in.

Each file is valid as it stands. A comment at the end of a line says which setting the line depends on:

    replicas: 1 # make: NODES              the setting's value stands there; where it is empty, the line is left out
    command: [...] # make: without IMAGE   the line is left out where the setting has a value
    # make: SOURCE_RANGES                  on a line of its own: the lines that the setting adds stand there
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from affinity_tester.app.clouds import CLOUDS, cloud_notes, service_annotations
from affinity_tester.cluster.providers import cloud_of
from affinity_tester.errors import UserError


class Setting(NamedTuple):
    """What a setting may be."""

    default: str
    pattern: str
    """A regular expression of all valid values."""
    wrong: str
    """What another value is said to be, after NAME='value'."""


IMAGE_NAME = r"[A-Za-z0-9][A-Za-z0-9._/:@-]*"
NETWORK = "[0-9A-Fa-f.:]+/(0|[1-9][0-9]{0,2})"
CLOUD_NAMES = f"{', '.join(CLOUDS[:-1])} and {CLOUDS[-1]}"

SETTINGS = {
    "IMAGE": Setting("", f"({IMAGE_NAME})?", "is not the name of an image"),
    "RUNTIME_IMAGE": Setting("docker.io/library/python:3.13-slim", IMAGE_NAME, "is not the name of an image"),
    "RUN_AS_USER": Setting(
        "65532",
        r"([1-9][0-9]*)?",
        "is not the number of a user other than root, nor empty (the cluster then gives one)",
    ),
    "POLICY": Setting("Cluster", "Cluster|Local", "is neither Cluster nor Local"),
    "AFFINITY": Setting("None", "None|ClientIP", "is neither None nor ClientIP"),
    "CLOUD": Setting("", "|".join(("", *CLOUDS)), f"is none of {CLOUD_NAMES}"),
    "PROVIDER_ID": Setting("", r"\S*", "is not a node's providerID"),
    "IP_FAMILY": Setting("", "(IPv4|IPv6|dual)?", "is none of IPv4, IPv6 and dual"),
    "SOURCE_RANGES": Setting(
        "",
        rf"({NETWORK}(,{NETWORK})*)?",
        "is not a list of networks (203.0.113.0/24,2001:db8::/32)",
    ),
    "NODES": Setting("1", r"0|[1-9][0-9]*", "is not a whole number"),
    "CPU": Setting("2", r"[0-9]+(\.[0-9]+|m)?", "is not a number of CPUs (2, 0.5, 500m)"),
    "NAMESPACE": Setting("default", "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "is not the name of a namespace"),
}


class Manifest(NamedTuple):
    """One thing that can be applied."""

    files: tuple[str, ...]
    settings: tuple[str, ...]


MANIFESTS = {
    "server": Manifest(("server-code.yaml", "deployment.yaml"), ("IMAGE", "RUNTIME_IMAGE", "RUN_AS_USER")),
    "service": Manifest(
        ("service.yaml",), ("POLICY", "AFFINITY", "CLOUD", "PROVIDER_ID", "IP_FAMILY", "SOURCE_RANGES")
    ),
    "node-scaleup": Manifest(("node-scaleup.yaml",), ("NODES", "CPU", "RUN_AS_USER")),
    "rbac": Manifest(("rbac.yaml",), ("NAMESPACE",)),
    "experiment-rbac": Manifest(("experiment-rbac.yaml",), ()),
    "monitoring": Manifest(("monitoring.yaml",), ()),
}

NUMBERS = frozenset({"NODES", "RUN_AS_USER"})
LARGEST = 2_147_483_647
"""The most that Kubernetes takes for either."""

QUOTED = frozenset({"IMAGE", "CPU", "NAMESPACE"})
"""Settings that YAML might read as something else than text: `null`, `true`, `010`."""

KIND = re.compile(r"^kind: (\w+)$", re.MULTILINE)
MARK = re.compile(r"(?P<indent> *)(?P<text>\S.*?)? ?# make: (?P<without>without )?(?P<name>[A-Z_]+)")


def read_settings(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """Return all settings of a manifest. Raise `UserError` for one that it has not, or for a value that cannot be."""
    known = MANIFESTS[name].settings
    for each in given:
        if each not in known:
            raise UserError(f"{each} is no setting of {name}: {', '.join(known)} are")

    settings = {each: given.get(each, SETTINGS[each].default) for each in known}
    for each, value in settings.items():
        setting = SETTINGS[each]
        if not re.fullmatch(setting.pattern, value) or (each == "SOURCE_RANGES" and not _are_networks(value)):
            raise UserError(f"{each}='{value}' {setting.wrong}")
        # By its length first: Python reads no number of thousands of digits.
        if each in NUMBERS and (len(value) > len(str(LARGEST)) or int(value or 0) > LARGEST):
            raise UserError(f"{each}='{value}' is more than {LARGEST}")
    if chosen_cloud(settings) == "oci" and settings.get("AFFINITY") == "ClientIP":
        # oci-cloud-controller-manager: "OCI only supports SessionAffinity "None" currently".
        raise UserError(
            "AFFINITY='ClientIP' is refused by OCI's balancer: use AFFINITY=None, or a node port (CLOUD=none)"
        )
    return settings


def render(name: str, settings: Mapping[str, str], archive: Callable[[], bytes], kind: str | None = None) -> list[str]:
    """Return a manifest's objects, with its settings put in; with `kind`, those of that kind alone.

    `archive` is called for the servers' code where it is needed. Raises `UserError` where there is none of that kind.
    """
    sources = MANIFESTS[name].files[1:] if settings.get("IMAGE") else MANIFESTS[name].files
    texts = [text for source in sources for text in read_source(source).split("---\n")]
    kinds = [found[1] for text in texts if (found := KIND.search(text))]
    if kind is not None and kind not in kinds:
        image = " with an IMAGE" if settings.get("IMAGE") else ""
        raise UserError(f"{name}{image} has no object of the kind '{kind}': its kinds are {', '.join(kinds)}")

    values: dict[str, list[str] | str] = {}
    if name == "server":
        values["IMAGE"] = settings["IMAGE"] or settings["RUNTIME_IMAGE"]
        values["RUN_AS_USER"] = settings["RUN_AS_USER"]
        if not settings["IMAGE"]:
            code = archive()
            values["CODE_NAME"] = code_name(code)
            values["CODE"] = f'{{"server.pyz": "{base64.b64encode(code).decode()}"}}'
    elif name == "service":
        values |= settings
        values["CLOUD"] = _annotation_lines(settings)
        values["IP_FAMILY"] = _ip_family_lines(settings["IP_FAMILY"])
        values["SOURCE_RANGES"] = _source_range_lines(settings["SOURCE_RANGES"])
    else:
        values |= settings
        if name == "rbac":
            values["BINDING_NAME"] = f"affinity-tester-client-{settings['NAMESPACE']}"

    with_value = {each for each, value in settings.items() if value}
    return [
        "".join(f"{line}\n" for line in _put(text, values, with_value))
        for text, each in zip(texts, kinds, strict=True)
        if kind in {None, each}
    ]


def code_name(archive: bytes) -> str:
    """Return the name of the ConfigMap with an archive: another archive has another one."""
    return f"affinity-tester-server-{hashlib.sha256(archive).hexdigest()[:12]}"


def chosen_cloud(settings: Mapping[str, str]) -> str:
    """Return the cloud whose annotations a Service gets: the one that is named, or that of the nodes' providerID."""
    return settings.get("CLOUD", "") or cloud_of(settings.get("PROVIDER_ID", ""))


def setting_notes(name: str, settings: Mapping[str, str]) -> list[str]:
    """Return what a user should know of a manifest with these settings, a line each."""
    if name != "service":
        return []
    cloud = chosen_cloud(settings)
    by_node = f"CLOUD={cloud}, by a node's providerID {settings['PROVIDER_ID']}"
    found = [by_node] if settings["PROVIDER_ID"] and not settings["CLOUD"] else []
    return found + cloud_notes(cloud, settings) + _range_notes(settings)


def read_source(name: str) -> str:
    """Return a file of `k8s/`: the package's own, or the checkout's."""
    packaged: Traversable = files("affinity_tester") / "k8s"
    directory = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "k8s"
    return (directory / name).read_text(encoding="utf-8")


def _put(text: str, values: Mapping[str, list[str] | str], with_value: set[str]) -> Iterator[str]:
    """Yield the lines of a file with the values put in."""
    for line in text.splitlines():
        mark = MARK.fullmatch(line)
        if mark is None:
            yield line
        elif mark["without"]:
            if mark["name"] not in with_value:
                yield line
        elif mark["text"] is None:
            yield from (f"{mark['indent']}{added}" for added in values[mark["name"]])
        elif value := values.get(mark["name"], ""):
            key = mark["text"].partition(": ")[0]
            shown = json.dumps(value) if mark["name"] in QUOTED else value
            yield f"{mark['indent']}{key}: {shown} # make: {mark['name']}"


def _are_networks(value: str) -> bool:
    try:
        return all(ipaddress.ip_network(each) for each in value.split(",")) if value else True
    except ValueError:
        return False


def _range_notes(settings: Mapping[str, str]) -> list[str]:
    """Return that nobody gets in, where no source range is of the one family that the Service is asked to have."""
    ranges, family = settings["SOURCE_RANGES"], settings["IP_FAMILY"]
    versions = {f"IPv{ipaddress.ip_network(each).version}" for each in ranges.split(",")} if ranges else set()
    if not versions or family in {"", "dual"} or family in versions:
        return []
    return [f"SOURCE_RANGES has no {family} network, and IP_FAMILY={family}: nobody is let in over {family}"]


def _annotation_lines(settings: Mapping[str, str]) -> list[str]:
    found = service_annotations(chosen_cloud(settings), settings["POLICY"], settings["IP_FAMILY"])
    lines = [f'  {each.name}: "{each.value}" # {each.reason}' for each in found]
    return ["annotations:", *lines] if lines else []


def _ip_family_lines(family: str) -> list[str]:
    match family:
        case "":
            return []  # as the cluster has it
        case "dual":
            return ["ipFamilyPolicy: RequireDualStack", "ipFamilies: [IPv4, IPv6]"]
        case _:
            return ["ipFamilyPolicy: SingleStack", f"ipFamilies: [{family}]"]


def _source_range_lines(ranges: str) -> list[str]:
    return ["loadBalancerSourceRanges:", *(f'  - "{each}"' for each in ranges.split(","))] if ranges else []
