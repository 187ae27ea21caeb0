"""Credential plugins: what they are told, what they may print, and how long they may take."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affinity_tester.cluster import exec_plugin
from affinity_tester.cluster.exec_plugin import PluginError, _credentials, run_plugin
from fakeapi import until

VERSION = "client.authentication.k8s.io/v1"


def script(folder: Path, text: str, **more: Any) -> dict[str, Any]:
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"apiVersion": VERSION, "command": str(path), **more}


def credential(**status: Any) -> str:
    return json.dumps({"apiVersion": VERSION, "kind": "ExecCredential", "status": status})


async def test_it_is_told_of_the_cluster_and_has_its_arguments_and_environment(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("PEM")
    text = f"echo \"$KUBERNETES_EXEC_INFO\" > {tmp_path}/info; echo '{credential(token='T')}' | sed s/T/$1-$REGION/"
    config = script(
        tmp_path, text, args=["get-token"], env=[{"name": "REGION", "value": "eu"}], provideClusterInfo=True
    )
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    cluster = {"server": "https://c", "certificate-authority": str(tmp_path / "ca"), "extensions": [extension]}
    assert await run_plugin(config, cluster, may_ask=True) == {"token": "get-token-eu"}
    assert json.loads((tmp_path / "info").read_text()) == {
        "apiVersion": VERSION,
        "kind": "ExecCredential",
        "spec": {
            "interactive": False,
            "cluster": {
                "server": "https://c",
                "certificate-authority-data": base64.b64encode(b"PEM").decode(),
                "config": {"audience": "x"},
            },
        },
    }


async def test_a_certificate_instead_of_a_token(tmp_path: Path) -> None:
    config = script(tmp_path, f"echo '{credential(clientCertificateData='C', clientKeyData='K')}'")
    assert await run_plugin(config, {}, may_ask=False) == {
        "client-certificate-data": base64.b64encode(b"C").decode(),
        "client-key-data": base64.b64encode(b"K").decode(),
    }


async def test_what_it_says_is_shown_where_it_succeeds_or_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[bytes] = []
    config = script(tmp_path, f"echo 'it expires soon' >&2; echo '{credential(token='T')}'")
    await run_plugin(config, {}, may_ask=False, show=shown.append)
    assert shown == [b"it expires soon\n"]

    monkeypatch.setattr(exec_plugin, "HOLD_S", 0.1)
    monkeypatch.setattr(exec_plugin, "SILENT_S", 0.3)
    shown.clear()
    config = script(tmp_path, "sleep 1; echo 'no' >&2; exit 4")
    with pytest.raises(PluginError, match=r"failed with exit code 4$"):
        await run_plugin(config, {}, may_ask=False, show=shown.append)
    assert b"".join(shown) == f'waiting for the credential plugin "{tmp_path}/plugin" (Ctrl-C ends)\nno\n'.encode()


async def test_one_that_nobody_can_answer_has_a_bounded_time_and_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_plugin, "PLUGIN_S", 0.5)
    config = script(tmp_path, f"echo 'Password: ' >&2; sleep 600 & echo $! > {tmp_path}/child; read it; wait")
    shown: list[bytes] = []
    with pytest.raises(PluginError, match=r"gave no credentials within 0\.5 s$") as error:
        await run_plugin(config, {}, may_ask=False, show=shown.append)
    assert "log in" in error.value.advice
    assert shown == [b"Password: \n"]
    child = int((tmp_path / "child").read_text())
    await until(lambda: is_gone(child))


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_what_it_leaves_behind_does_not_hold_up_its_credentials(tmp_path: Path) -> None:
    """A browser that it opened inherits its pipes."""
    config = script(tmp_path, f"sleep 30 & echo $! > {tmp_path}/child; echo '{credential(token='T')}'")
    began_s = time.monotonic()
    assert await run_plugin(config, {}, may_ask=False) == {"token": "T"}
    assert time.monotonic() - began_s < 20
    os.kill(int((tmp_path / "child").read_text()), 9)


@pytest.mark.parametrize(
    "config",
    [None, [], "x", {}, {"command": ""}, {"command": 7}, {"command": "a", "apiVersion": None}]
    + [
        {"command": "a", "apiVersion": VERSION, **more}
        for more in (
            {"args": "x"},
            {"env": {"a": "b"}},
            {"env": ["a"]},
            {"env": [{}]},
            {"command": "/", "args": ["\0"]},
        )
    ],
)
async def test_a_configuration_that_is_none(config: Any) -> None:
    with pytest.raises(PluginError) as error:
        await run_plugin(config, {}, may_ask=False)
    assert str(error.value).isprintable()


SOME = st.none() | st.text(max_size=5) | st.integers() | st.lists(st.none(), max_size=1)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=50)
    | SOME.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda kind, version, status: json.dumps({"kind": kind, "apiVersion": version, "status": status}).encode(),
        SOME | st.just("ExecCredential"),
        SOME | st.just(VERSION),
        SOME
        | st.dictionaries(
            st.sampled_from(["token", "clientCertificateData", "clientKeyData", "expirationTimestamp"]), SOME
        ),
    )
)
def test_whatever_it_prints_it_is_credentials_or_one_line(out: bytes) -> None:
    try:
        found = _credentials(out, "plugin", VERSION)
    except PluginError as error:
        said = f"{error}: {error.advice}"
    else:
        assert found.get("token") or found["client-key-data"]
        return
    assert said.isprintable()
