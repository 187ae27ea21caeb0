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
import venv
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from affinity_tester.app import server_archive
from affinity_tester.app.server_archive import build_archive, find_wheels, read_pins
from affinity_tester.core import stun
from affinity_tester.errors import UserError

pytestmark = pytest.mark.xdist_group("server_archive")  # its module's fixture is made once

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version that runs the tests, and so is on this machine."""

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
"""RUNTIME_IMAGE is 3.13; an image of one's own, and `make archive`, may have any that the tool runs on."""

FIND_PYTHON = "import sys; print(sys.base_exec_prefix, '%d.%d' % sys.version_info[:2])"


def prefix_of(version: str) -> Path:
    """Where a version of Python is on this machine, below any environment: the standard library and nothing else."""
    if version == OWN:
        return Path(sys.base_exec_prefix)
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for python in (*sorted(installed.glob(f"{version}.*/bin/python{version}")), f"python{version}"):
        try:
            done = subprocess.run([python, "-c", FIND_PYTHON], capture_output=True, text=True, check=False, timeout=60)
        except OSError:
            continue
        prefix, _, found = done.stdout.strip().rpartition(" ")
        if found == version and (Path(prefix) / f"bin/python{version}").exists():
            return Path(prefix)
    pytest.skip(f"Python {version} is not on this machine")


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
    env -i LD_LIBRARY_PATH=/mnt/python/lib POD_NAME=pod-a PYTHONDONTWRITEBYTECODE=1 "$python" -P -u /mnt/code/server.pyz "$@"
"""
"""A pod's surroundings: nothing can be written anywhere, a numeric user without rights, no HOME, no PATH.

The library path is for builds of Python that look for their own library where they were installed, below root's home.
"""


@pytest.fixture(scope="module")
def archive(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "server.pyz"
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
        *(pin.name.replace("-", "_") for pin in read_pins()),
    }
    assert [name for name in names if not name.endswith(".py") and "/licenses/" not in name] == []
    assert [name for name in names if "/tests/" in name] == []
    # Each package is passed on with its licence.
    assert {name.partition("-")[0] for name in names if "/licenses/" in name} == {
        pin.name.replace("-", "_") for pin in read_pins()
    }


def test_the_same_sources_give_the_same_bytes(wheels: Path, archive: Path) -> None:
    assert build_archive(find_wheels(wheels, pytest.fail)) == archive.read_bytes()


def test_the_pins_name_what_the_tool_asks_for_and_no_host(repo: Path) -> None:
    text = (repo / "src/affinity_tester/app/server-packages.txt").read_text()
    assert "://" not in text
    asked = re.findall(r'^    "([a-z-]+)>=', (repo / "pyproject.toml").read_text(), re.MULTILINE)
    assert {pin.name for pin in read_pins()} == {"click", "colorama", "prometheus-client", "structlog"} <= set(asked)
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


@pytest.mark.parametrize("version", VERSIONS)
def test_it_runs_with_workers_and_nothing_but_python(archive: Path, version: str) -> None:
    python = prefix_of(version) / f"bin/python{version}"
    with started([python, "-P", archive, *ARGS], env={"POD_NAME": "pod-a"}, cwd="/") as (process, port):
        assert {probe(port) for _ in range(8)} == {"pod-a"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    "version", [pytest.param(OWN, marks=pytest.mark.root), *(each for each in VERSIONS if each != OWN)]
)
def test_it_runs_as_the_pod_runs_it(archive: Path, version: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, for a mount namespace in which nothing can be written")
    pod = ["unshare", "--mount", "sh", "-c", POD, "sh", prefix_of(version), archive, f"python{version}"]
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
        " own (IMAGE); 'pip download --no-deps --only-binary=:all: --dest dir echo-pin==1' fills such a directory on a"
        " machine with a package index"
    )


def test_the_line_says_how_to_fill_a_directory_and_names_no_path_of_this_machine(tmp_path: Path) -> None:
    """What stands in it may be copied to another machine: it is all there, with the versions."""
    (tmp_path / "click-0-py3-none-any.whl").mkdir()
    (tmp_path / "gone.whl").symlink_to("nowhere")
    with pytest.raises(UserError) as raised:
        find_wheels(tmp_path, pytest.fail)
    command = re.search(r"'(pip download [^']*)'", str(raised.value))
    assert command is not None
    assert command[1].split() == [
        *("pip", "download", "--no-deps", "--only-binary=:all:", "--dest", "dir"),
        *(f"{pin.name}=={pin.version}" for pin in read_pins()),
    ]


def test_a_wheel_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so the refusal is made here."""
    (tmp_path / "a.whl").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"a\.whl cannot be read, Permission denied"):
        find_wheels(tmp_path, pytest.fail)


def test_a_directory_that_may_not_be_looked_at_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match="closed is no directory: name the one that holds the wheels"):
        find_wheels(Path("closed"), pytest.fail)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UserError, match="no home directory to keep wheels in: set XDG_CACHE_HOME"):
        find_wheels(None, pytest.fail)


def test_an_environment_without_pip_is_told_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: `python -m venv --without-pip`."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare/bin/python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError) as raised:
        find_wheels(None, lambda _: None)
    line = str(raised.value)
    assert f"cannot be downloaded, {python} comes without pip: give it one ('{python} -m ensurepip', or " in line
    assert "(make: WHEELS=dir; else --wheels dir)" in line
    assert "'pip download " in line
    assert "\n" not in line


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"the wheels cannot be kept in \S+, Not a directory: set XDG_CACHE_HOME"):
        find_wheels(None, lambda _: None)


def test_an_archive_too_large_for_a_config_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_archive, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"the servers' archive has \d+ bytes: a ConfigMap holds 1000"):
        build_archive([])


def test_other_commands_than_the_server_say_that_they_are_elsewhere(archive: Path) -> None:
    for command in ("client", "lab"):
        done = subprocess.run([sys.executable, archive, command, "--help"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"error: this copy holds the server alone, as pods run it: install affinity-tester for its '{command}'\n"
        )
