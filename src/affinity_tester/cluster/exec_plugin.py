"""Runs the program that a kubeconfig names for credentials (an exec plugin), as kubectl does.

A plugin prints an ExecCredential to standard output (client.authentication.k8s.io). What it says to people goes to standard
error, and is shown as soon as it takes longer than a moment: it may wait for a login, and its prompt says where. It may
read from the terminal where `interactiveMode` and the terminal allow that; then it may take as long as a person does. Where
it may not, it gets a bounded time: nobody can answer it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from affinity_tester.cluster.api import ApiError, Json
from affinity_tester.cluster.response_errors import one_line
from affinity_tester.units import quoted

PLUGIN_S = 20.0
"""How long a plugin that cannot ask anybody may take. Cloud CLIs take up to some seconds."""

HOLD_S = 1.0
"""What a plugin says is held back for so long: if it fails within that time, its last line is part of the error."""

POLL_S = 0.02
"""How often a plugin is looked at."""

DRAIN_S = 0.5
"""How long what a plugin printed may take to arrive after its end."""

READ_SIZE = 4096

SILENT_S = 4.0
"""After so long a plugin that says nothing is named, so that nobody wonders what is waited for."""

MAX_KEPT = 1 << 20
"""So many bytes of a plugin's output are kept. Credentials have some kilobytes."""

GROUP = "client.authentication.k8s.io"
_VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1")


class PluginError(ApiError):
    """A plugin gave no credentials."""


async def run_plugin(config: Any, cluster: Json, *, may_ask: bool, show: Callable[[bytes], None] | None = None) -> Json:
    """Return a plugin's credentials as fields of a kubeconfig's user. Raises `PluginError`.

    `config` is the user's `exec`, `cluster` the context's cluster. `may_ask`: somebody is at the terminal, and waits.
    `show` gets what the plugin says to people.
    """
    command, arguments, version, environ = _read(config)
    interactive = _is_interactive(config, command) if may_ask else False
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": interactive}}
    if config.get("provideClusterInfo"):
        info["spec"]["cluster"] = _cluster_info(cluster)  # type: ignore[index]  # the object above

    process = await _start(
        config, command, arguments, environ | {"KUBERNETES_EXEC_INFO": json.dumps(info)}, interactive
    )
    told = _Told(show or _to_stderr)
    try:
        async with asyncio.timeout(None if interactive else PLUGIN_S):
            out = await _listen(process, told, f"waiting for the credential plugin {quoted(command)} (Ctrl-C ends)\n")
    except TimeoutError as error:
        told.release()
        raise PluginError(
            f"the credential plugin {quoted(command)} gave no credentials within {PLUGIN_S:g} s",
            advice="it may wait for a login: run kubectl once, which asks for it, or log in with the plugin",
        ) from error
    finally:
        code = process.returncode
        await _end(process, whole_group=not interactive)

    if code:
        said = "" if told.released else told.last_line()
        how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        why = f" ({said})" if said else ""
        raise PluginError(f"the credential plugin {quoted(command)} {how}{why}", advice="log in again")
    told.release()
    return _credentials(out, command, version)


def _read(config: Any) -> tuple[str, list[str], str, dict[str, str]]:
    """Return command, arguments, API version and environment of a plugin. Raises `PluginError`."""
    if not isinstance(config, dict) or not isinstance(config.get("command"), str) or not config["command"]:
        raise PluginError("the kubeconfig's `exec` names no command", advice="get the kubeconfig anew")
    command = config["command"]
    version = config.get("apiVersion")
    if version not in _VERSIONS:
        raise PluginError(
            f"the credential plugin {quoted(command)} is configured for apiVersion {one_line(str(version), 60)},"
            f" not {_VERSIONS[0]}",
            advice="update it, and get the kubeconfig anew",
        )

    arguments, variables = config.get("args") or [], config.get("env") or []
    usable = isinstance(arguments, list) and isinstance(variables, list)
    if not usable or not all(isinstance(each, dict) and "name" in each for each in variables):
        raise PluginError(
            f"`args` or `env` of the credential plugin {quoted(command)} are wrong", advice="get the kubeconfig anew"
        )
    extra = {str(each["name"]): str(each.get("value") or "") for each in variables}
    return command, [str(each) for each in arguments], str(version), {**os.environ, **extra}


def _is_interactive(config: Json, command: str) -> bool:
    """True if the plugin may read from the terminal, by its `interactiveMode`. Raises `PluginError` if it must and cannot."""
    mode = config.get("interactiveMode") or "IfAvailable"
    try:
        terminal = sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # standard input is closed
        terminal = False
    if mode == "Always" and not terminal:
        raise PluginError(
            f"the credential plugin {quoted(command)} wants a terminal to ask at, and standard input is none",
            advice="run this in a terminal",
        )
    return terminal and mode != "Never"


def _cluster_info(cluster: Json) -> Json:
    """Return what `provideClusterInfo` tells a plugin of the cluster."""
    fields = ("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data", "proxy-url")
    info = {name: cluster[name] for name in fields if name in cluster}
    file = cluster.get("certificate-authority")
    if file and "certificate-authority-data" not in info:
        with contextlib.suppress(OSError):
            info["certificate-authority-data"] = base64.b64encode(Path(file).read_bytes()).decode()
    for each in cluster.get("extensions") or []:
        if isinstance(each, dict) and each.get("name") == f"{GROUP}/exec":
            info["config"] = each.get("extension")
    return info


async def _start(
    config: Json, command: str, arguments: list[str], environ: dict[str, str], interactive: bool
) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    stdin = None if interactive else asyncio.subprocess.DEVNULL
    try:
        return await asyncio.create_subprocess_exec(
            command,
            *arguments,
            stdin=stdin,
            stdout=pipe,
            stderr=pipe,
            env=environ,
            process_group=None if interactive else 0,  # in another group it could not read from the terminal
        )
    except FileNotFoundError as error:
        hint = config.get("installHint")
        advice = one_line(hint) if isinstance(hint, str) and hint.strip() else "install it, or set PATH"
        raise PluginError(f"the credential plugin {quoted(command)} is not installed", advice=advice) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or one_line(str(error))
        raise PluginError(f"the credential plugin {quoted(command)} cannot be run ({why})") from error


class _Told:
    """What a plugin says to people: held back at first, then shown as it comes."""

    def __init__(self, show: Callable[[bytes], None]) -> None:
        self._show = show
        self._held = b""
        self.released = False
        """What was held back was shown."""

    def take(self, data: bytes) -> None:
        if self.released:
            self._show(data)
        else:
            self._held = (self._held + data)[-MAX_KEPT:]

    def release(self) -> None:
        """Show what was held back, and from now on everything at once."""
        if not self.released and self._held:
            self._show(self._held)
            self.released = True
            self._held = b""

    def last_line(self) -> str:
        lines = [line for line in self._held.decode(errors="replace").splitlines() if line.strip()]
        return one_line(lines[-1]) if lines else ""


async def _listen(process: asyncio.subprocess.Process, told: _Told, waiting: str) -> bytes:
    """Return what a plugin prints until it ends. What is no JSON is said to people, and shown too.

    `waiting` is said for a plugin that says nothing itself for `SILENT_S`: a browser may have opened somewhere.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    out = bytearray()
    begun_s = asyncio.get_running_loop().time()

    async def read_out(stream: asyncio.StreamReader) -> None:
        while data := await stream.read(READ_SIZE):
            out.extend(data[: MAX_KEPT - len(out)])

    async def read_err(stream: asyncio.StreamReader) -> None:
        while data := await stream.read(READ_SIZE):
            told.take(data)

    readers = [asyncio.create_task(read_out(process.stdout)), asyncio.create_task(read_err(process.stderr))]
    shown = 0
    try:
        while process.returncode is None:  # `wait` would also wait for the pipes, which a browser may have inherited
            await asyncio.sleep(POLL_S)
            if asyncio.get_running_loop().time() - begun_s > HOLD_S:
                told.release()
                if len(out) > shown and not out.lstrip().startswith(b"{"):
                    told.take(bytes(out[shown:]))
                    told.release()
                shown = len(out)
            if waiting and asyncio.get_running_loop().time() - begun_s > SILENT_S:
                if not told.released:
                    told.take(waiting.encode())
                    told.release()
                waiting = ""
        await asyncio.wait(readers, timeout=DRAIN_S)
    finally:
        for reader in readers:
            reader.cancel()
    return bytes(out)


async def _ended(process: asyncio.subprocess.Process, most_s: float) -> None:
    """Wait for a process that was killed, for so long at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            while process.returncode is None:  # noqa: ASYNC110 - see `_listen`
                await asyncio.sleep(POLL_S)


async def _end(process: asyncio.subprocess.Process, *, whole_group: bool) -> None:
    """Kill a plugin that still runs, with what it started where nobody else is in its group; and let go of its pipes."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        await _ended(process, DRAIN_S)
    # Nothing public closes pipes that what the plugin started still holds.
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001


def _to_stderr(data: bytes) -> None:
    """Write to standard error as it is, which a plugin writes to itself under kubectl."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()


def _credentials(out: bytes, command: str, version: str) -> Json:
    """Return the credentials that a plugin printed. Raises `PluginError`."""
    named = f"the credential plugin {quoted(command)}"
    try:
        found = json.loads(out)
    except (ValueError, RecursionError) as error:
        said = one_line(out.decode(errors="replace").strip().partition("\n")[0], 80)
        prints = f"prints {quoted(said)} and no JSON" if said else "prints nothing"
        raise PluginError(f"{named} {prints}", advice="run it by hand, and log in if it asks for that") from error

    found = found if isinstance(found, dict) else {}
    status = found.get("status")
    if found.get("kind") != "ExecCredential" or not isinstance(status, dict):
        raise PluginError(f"{named} prints no ExecCredential with a status", advice="log in again, or update it")
    if found.get("apiVersion") != version:
        answered = quoted(one_line(str(found.get("apiVersion")), 60))
        raise PluginError(
            f"{named} answers with apiVersion {answered}, not {version}",
            advice="update it, and get the kubeconfig anew",
        )

    token, certificate, key = (status.get(name) for name in ("token", "clientCertificateData", "clientKeyData"))
    if not all(each is None or isinstance(each, str) for each in (token, certificate, key)):
        raise PluginError(f"{named} prints credentials that are no texts", advice="update it")
    if not token and not certificate and not key:
        raise PluginError(f"{named} prints neither a token nor a certificate", advice="log in again")
    if bool(certificate) != bool(key):
        raise PluginError(f"{named} prints only one of certificate and key", advice="update it")

    user: Json = {"token": token} if token else {}
    if certificate and key:
        user["client-certificate-data"] = base64.b64encode(certificate.encode()).decode()
        user["client-key-data"] = base64.b64encode(key.encode()).decode()
    return user
