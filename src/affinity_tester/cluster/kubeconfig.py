"""Reads kubeconfigs, several as one, by the rules of kubectl, and chooses a context. It opens no connection.

Of several files the first that says something about a name wins: the current context, and each context, cluster and user.
Files of KUBECONFIG that are missing are left out, and an empty file says nothing. Paths in a file are relative to its
folder. Every error is one line that names the file, since people have many of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from affinity_tester.cluster.api import ApiError, Json
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.units import quoted

_SECTIONS = {"contexts": "context", "clusters": "cluster", "users": "user"}
"""The lists of a kubeconfig, and the field that holds what an item names."""

_PATHS = {"clusters": ("certificate-authority",), "users": ("client-certificate", "client-key", "tokenFile")}
"""Fields with paths that are relative to the file's folder."""

_TEXTS = {
    "contexts": ("cluster", "user", "namespace"),
    "clusters": ("server", "certificate-authority", "certificate-authority-data", "tls-server-name", "proxy-url"),
    "users": (
        *("token", "tokenFile", "username", "password"),
        *("client-certificate", "client-certificate-data", "client-key", "client-key-data"),
    ),
}
"""Fields that are texts, where they are there."""

_SKIP_VERIFY = "insecure-skip-tls-verify"

MAX_NAMES = 5
"""So many contexts are named where one has to be chosen."""


class KubeconfigError(ApiError):
    """A kubeconfig cannot be used; the text says which one and why, `advice` what to do."""


@dataclass(slots=True)
class Kubeconfig:
    """What one or more files say."""

    current: str = ""
    contexts: dict[str, Json] = field(default_factory=dict)
    clusters: dict[str, Json] = field(default_factory=dict)
    users: dict[str, Json] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True if the files say nothing at all."""
        return not (self.current or self.contexts or self.clusters or self.users)


@dataclass(frozen=True, slots=True)
class Access:
    """One context: where its API server is, and who asks it."""

    context: str
    namespace: str
    """The context's namespace, or `default`."""
    cluster: Json
    user: Json


def read_kubeconfigs(files: Iterable[Path]) -> Kubeconfig:
    """Return what the files say as one. Missing files are left out. Raises `KubeconfigError`."""
    merged = Kubeconfig()
    for file in files:
        try:
            if file.exists():
                _merge(merged, _load(file), file)
        except OSError as error:
            raise KubeconfigError(f"the kubeconfig {file} cannot be read ({error.strerror})") from error
    return merged


def choose(config: Kubeconfig, wanted: str | None, where: str) -> Access:
    """Return the context of a name; None is the current one. `where` names the files. Raises `KubeconfigError`."""
    if config.is_empty:
        raise KubeconfigError(f"the kubeconfig {where} is empty", advice="get one from your cluster's provider")
    names = sorted(config.contexts)
    has = ", ".join(names[:MAX_NAMES]) + (", …" if len(names) > MAX_NAMES else "") or "none"
    name = wanted or config.current
    if not name:
        raise KubeconfigError(
            f"the kubeconfig {where} has no current-context",
            advice=f"choose one with --context or kubectl config use-context (it has: {has})",
        )
    if name not in config.contexts:
        which = "context" if wanted else "current-context"
        raise KubeconfigError(
            f"the {which} {quoted(name)} is not in the kubeconfig {where}",
            advice=f"choose one with --context (it has: {has})",
        )

    context = config.contexts[name]
    cluster = _named(config.clusters, context, "cluster", name, where)
    user = _named(config.users, context, "user", name, where) if context.get("user") else {}
    if not cluster.get("server"):
        raise KubeconfigError(
            f"the cluster of context {quoted(name)} has no `server` in the kubeconfig {where}",
            advice="get the kubeconfig anew",
        )
    return Access(name, context.get("namespace") or "default", cluster, user)


def _named(section: dict[str, Json], context: Json, kind: str, name: str, where: str) -> Json:
    wanted = context.get(kind) or ""
    if wanted not in section:
        raise KubeconfigError(
            f"context {quoted(name)} names the {kind} {quoted(wanted)}, which is not in the kubeconfig {where}",
            advice="get the kubeconfig anew, or choose another --context",
        )
    return section[wanted]


def _load(file: Path) -> Json:
    """Return the fields of a file; none for an empty one. Raises `KubeconfigError` and `OSError`."""
    try:
        found = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        at = getattr(error, "problem_mark", None)
        line = f" (line {at.line + 1})" if at is not None else ""
        raise KubeconfigError(f"the kubeconfig {file} is no YAML{line}", advice="get it anew") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        kind = "a list" if isinstance(found, list) else "a text"
        raise KubeconfigError(
            f"the kubeconfig {file} is no kubeconfig, but {kind}", advice="name another with --kubeconfig"
        )
    return found


def _merge(into: Kubeconfig, found: Json, file: Path) -> None:
    """Add what a file says about names that no file before it has."""
    current = found.get("current-context") or ""
    into.current = into.current or _text(current, "current-context", file)

    for section, inner in _SECTIONS.items():
        known: dict[str, Json] = getattr(into, section)
        items = found.get(section) or []
        if not isinstance(items, list):
            raise _wrong(section, "a list", file)
        for number, item in enumerate(items):
            where = f"{section}[{number}]"
            if not isinstance(item, dict):
                raise _wrong(where, "an object", file)
            name = _text(item.get("name"), f"{where}.name", file)
            value = item.get(inner)
            value = {} if value is None else value
            if not isinstance(value, dict):
                raise _wrong(f"{where}.{inner}", "an object", file)
            for each in _TEXTS[section]:
                if value.get(each) is not None:
                    _text(value[each], f"{where}.{inner}.{each}", file)
            if not isinstance(value.get(_SKIP_VERIFY) or False, bool):  # "false" is true to a careless reader
                raise _wrong(f"{where}.{inner}.{_SKIP_VERIFY}", "true or false", file)
            known.setdefault(name, _resolved(value, section, file))


def _resolved(value: Json, section: str, file: Path) -> Json:
    """Return an item's fields without nulls, its paths made absolute."""
    fields = {name: each for name, each in value.items() if each is not None and each != ""}
    folder = file.absolute().parent
    fields |= {name: str(folder / fields[name]) for name in _PATHS.get(section, ()) if name in fields}

    plugin = fields.get("exec")
    command = plugin.get("command") if isinstance(plugin, dict) else None
    if isinstance(command, str) and "/" in command:  # a bare name is looked for in PATH
        fields["exec"] = {**fields["exec"], "command": str(folder / command)}
    return fields


def _text(value: Any, where: str, file: Path) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a text", file)
    return value


def _wrong(where: str, kind: str, file: Path) -> KubeconfigError:
    return KubeconfigError(f"the kubeconfig {file} is wrong: {one_line(where)} is not {kind}", advice="get it anew")
