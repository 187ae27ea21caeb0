"""The archive that a stock Python image runs as the server: what is in it, and that it runs as the pod runs it."""

import hashlib
import io
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from affinity_tester.app import server_archive
from affinity_tester.app.server_archive import build_archive, find_wheels, read_pins
from affinity_tester.core import stun
from affinity_tester.errors import UserError

PYTHON = Path(sys.base_exec_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
"""The interpreter below the environment of the tests: it has the standard library and nothing else."""

ARGS = ["server", "--host=127.0.0.1", "--port=0", "--health-port=0", "--drain=0", "--workers=2"]
STARTED = re.compile(r'pod "pod-a" answers at 127\.0\.0\.1:(\d+) with 2 workers')

POD = """\
set -e
mount -t tmpfs none /mnt
mkdir /mnt/python /mnt/code
mount --bind "$1" /mnt/python
cp "$2" /mnt/code/server.pyz
for each in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o ro none $each; done
mount -o remount,ro /mnt
mount -o remount,bind,ro /
python=/mnt/python/bin/$3
shift 3
cd /
exec setpriv --reuid=65532 --regid=65532 --clear-groups --no-new-privs --bounding-set=-all \\
    env -i POD_NAME=pod-a PYTHONDONTWRITEBYTECODE=1 "$python" -P -u /mnt/code/server.pyz "$@"
"""
"""A pod's surroundings: nothing can be written anywhere, a numeric user without rights, no HOME, no PATH."""


@pytest.fixture
def archive(wheels: Path, tmp_path: Path) -> Path:
    path = tmp_path / "server.pyz"
    path.write_bytes(build_archive(find_wheels(wheels, pytest.fail)))
    return path


def test_it_is_small_and_pure_python_without_tests(archive: Path) -> None:
    assert archive.stat().st_size < 700_000
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        assert {info.date_time for info in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == sorted(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "__main__.py",
        "affinity_tester",
        *(pin.name for pin in read_pins()),
    }
    assert [name for name in names if not name.endswith(".py") and "/licenses/" not in name] == []
    assert [name for name in names if "/tests/" in name] == []
    # Each package is passed on with its licence.
    assert {name.partition("-")[0] for name in names if "/licenses/" in name} == {pin.name for pin in read_pins()}


def test_the_same_sources_give_the_same_bytes(wheels: Path, archive: Path) -> None:
    assert build_archive(find_wheels(wheels, pytest.fail)) == archive.read_bytes()


def test_the_pins_name_what_the_tool_asks_for_and_no_host(repo: Path) -> None:
    text = (repo / "src/affinity_tester/app/server-packages.txt").read_text()
    assert "://" not in text
    asked = re.findall(r'^    "([a-z]+)>=', (repo / "pyproject.toml").read_text(), re.MULTILINE)
    assert {pin.name for pin in read_pins()} == {"click", "colorama", "structlog"} <= set(asked)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(read_pins())


@contextmanager
def started(command: list[str | Path], **how):
    """Run a server, wait until it answers, and give process and port."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **how
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            told = STARTED.search(line)
            assert told, line + process.stdout.read()
            yield process, int(told[1])
        finally:
            process.kill()


def probe(port: int) -> str:
    """Ask once, and give the pod's name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.sendto(
            stun.new_request(stun.pack_transaction_id(random.getrandbits(64), 1), 288, None), ("127.0.0.1", port)
        )
        return stun.decode_response(sock.recv(2048), None).identity.pod


def test_it_runs_with_workers_and_nothing_but_python(archive: Path) -> None:
    with started([PYTHON, "-P", archive, *ARGS], env={"POD_NAME": "pod-a"}, cwd="/") as (process, port):
        assert {probe(port) for _ in range(8)} == {"pod-a"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.root
def test_it_runs_as_the_pod_runs_it(archive: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, for a mount namespace in which nothing can be written")
    pod = ["unshare", "--mount", "sh", "-c", POD, "sh", Path(sys.base_exec_prefix), archive, PYTHON.name]
    with started([*pod, *ARGS]) as (process, port):
        assert {probe(port) for _ in range(8)} == {"pod-a"}
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "\nUid:\t65532\t65532" in status
        assert (
            subprocess.run(
                ["nsenter", f"--mount=/proc/{process.pid}/ns/mnt", "touch", "/tmp/x", "/x", "/mnt/code/x"],
                capture_output=True,
                text=True,
                check=False,
            ).stderr.count("Read-only file system")
            == 3
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_wheels_are_known_by_their_hash(wheels: Path, tmp_path: Path) -> None:
    """A wheel of the right name and another content is not taken, and the line says how to fill the directory."""
    shutil.copytree(wheels, tmp_path / "wheels")
    (click,) = (tmp_path / "wheels").glob("click-*.whl")
    click.write_bytes(b"other")
    with pytest.raises(UserError, match=r"wheels does not hold the wheel of click \S+, or another build of it: on a"):
        find_wheels(tmp_path / "wheels", pytest.fail)
    with pytest.raises(UserError, match="no such is no directory: name the one that holds the wheels of click"):
        find_wheels(Path("no such"), pytest.fail)


def test_wheels_are_downloaded_once_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an index of one's own, here: a directory."""
    index, said = tmp_path / "index", []
    index.mkdir()
    name = "echo_pin-1-py3-none-any.whl"
    with zipfile.ZipFile(index / name, "w") as packed:
        packed.writestr("echo_pin/__init__.py", "")
        packed.writestr("echo_pin-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: echo-pin\nVersion: 1\n")
        packed.writestr("echo_pin-1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    pins = tmp_path / "pins.txt"
    pins.write_text(f"echo-pin==1 --hash=sha256:{hashlib.sha256((index / name).read_bytes()).hexdigest()}\n")
    monkeypatch.setattr(server_archive, "_PINS", pins)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{variable}", value)

    kept = tmp_path / "cache/affinity-tester/wheels"
    (wheel,) = find_wheels(None, said.append)
    assert said == [f"Downloading the wheels of echo-pin 1 into {kept}: this once"]
    assert zipfile.ZipFile(io.BytesIO(wheel)).namelist()[0] == "echo_pin/__init__.py"
    assert find_wheels(None, pytest.fail) == [wheel]

    shutil.rmtree(kept)
    (index / name).unlink()
    with pytest.raises(UserError) as raised:
        find_wheels(None, said.append)
    assert str(raised.value) == (
        "the wheels of echo-pin 1 cannot be downloaded (No matching distribution found for echo-pin==1): reach a Python"
        " package index, or name a directory that holds them (make: WHEELS=dir; else --wheels dir), or run an image of your"
        " own (IMAGE)"
    )


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the wheels cannot be kept in \S+, Not a directory: set XDG_CACHE_HOME"):
        find_wheels(None, lambda _: None)


def test_an_archive_too_large_for_a_config_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_archive, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"the servers' archive has \d+ bytes: a ConfigMap holds 1000"):
        build_archive([])
