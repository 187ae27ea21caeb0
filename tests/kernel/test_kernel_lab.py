"""The lab leaves nothing behind, cleans up after the killed, and says why it may not run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from prober import LabError

from lab import Lab, run, sweep, why_not


def namespaces() -> set[str]:
    return {line.split()[0] for line in run("ip", "netns", "list").splitlines()}


@pytest.mark.root
def test_a_failure_leaves_nothing_behind(lab: Lab) -> None:
    lab.build(["pod-a"])
    server = lab.pods["pod-a"].server
    made = {name for name in namespaces() if name.startswith(lab.ns(""))}
    assert made == {lab.ns(host) for host in ("client", "balancer", "node-1", "pod-a")}
    with pytest.raises(LabError, match="no-such-command"), lab:
        lab.nft("node-1", "no-such-command\n")
    assert not made & namespaces()
    assert server.returncode is not None


@pytest.mark.root
def test_namespaces_of_a_dead_run_are_swept_with_their_processes(lab: Lab) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    left, mine = f"at{dead.pid}-1-pod-a", f"at{os.getpid()}-0-pod-a"
    try:
        for name in (left, mine):
            run("ip", "netns", "add", name)
        with subprocess.Popen(["ip", "netns", "exec", left, "sleep", "60"], stdout=subprocess.PIPE) as process:
            while str(process.pid) not in run("ip", "netns", "pids", left).split():
                assert process.poll() is None
            assert set(sweep()) <= {left}  # or another process that starts with labs has just done it
            assert process.wait(10) != 0
        assert namespaces() & {left, mine} == {mine}
    finally:
        for name in (left, mine):
            if Path("/run/netns", name).exists():
                run("ip", "netns", "delete", name)


def test_a_user_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_not() == "network namespaces need root"


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", {"ip": "/sbin/ip"}.get)
    assert why_not() == "nft is not installed: apt-get install nftables"
