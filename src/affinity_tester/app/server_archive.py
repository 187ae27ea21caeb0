"""Builds the archive that a stock Python image runs as the echo server: one zipapp with the tool and what it imports.

The same sources give the same bytes: entries are sorted and have a fixed time, and the packages are those of
`server-packages.txt`, each by the hash of its wheel. The wheels are downloaded once, with pip, or come from a directory.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

from affinity_tester.errors import UserError

_PINS = files("affinity_tester") / "app" / "server-packages.txt"
"""The packages that the archive holds beside the tool, as pip reads them."""

MAX_BYTES = 1_048_576
"""The most that a ConfigMap may hold (its data decoded; the API server refuses more)."""

TIME = (1980, 1, 1, 0, 0, 0)
"""The time of each entry: the earliest that the format has."""

LEFT_OUT = (
    "affinity_tester/app/experiment",
    "affinity_tester/cluster/",
    "affinity_tester/core/comparison/",
    "affinity_tester/core/diagnosis/",
    "affinity_tester/core/experiment/",
    "affinity_tester/core/idle/",
    "affinity_tester/lab/",
    "affinity_tester/report/comparison",
    "affinity_tester/report/experiment",
    "affinity_tester/report/html",
)
"""What the server does without, and what takes most room. The commands that need it say so (`cli`)."""

MAIN = b"from affinity_tester.__main__ import main\n\nmain()\n"

PIN = re.compile(r"(?P<name>\S+)==(?P<version>\S+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")

NO_PIP = re.compile(r"No module named '?pip\b")
"""How an interpreter says that it has none (`-m pip`)."""


class Pin(NamedTuple):
    """One package of the archive."""

    name: str
    version: str
    sha256: str
    """The hash of its wheel, in hexadecimal digits."""


def read_pins() -> list[Pin]:
    """Return the packages that the archive holds beside the tool."""
    lines = _PINS.read_text(encoding="utf-8").splitlines()
    return [Pin(**match.groupdict()) for line in lines if (match := PIN.fullmatch(line))]


def default_wheels() -> Path:
    """Return the directory in which downloaded wheels are kept. Raise `UserError` where there is none."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError("this user has no home directory to keep wheels in: set XDG_CACHE_HOME") from error
    return Path(cache) / "affinity-tester" / "wheels"


def find_wheels(directory: Path | None, say: Callable[[str], None]) -> list[bytes]:
    """Return the packages' wheels from a directory, or those that were downloaded; None: download what is missing.

    `say` is called with a text before a download. Raises `UserError`.
    """
    pins = read_pins()
    if directory is not None:
        if not _is_directory(directory):
            raise UserError(f"{directory} is no directory: name the one that holds the wheels of {_list(pins)}")
        found = _by_hash(directory)
        if missing := [pin for pin in pins if pin.sha256 not in found]:
            raise UserError(
                f"{directory} does not hold the wheel of {_list(missing)}, or another build of it: on a machine with a"
                f" package index run '{_pip_download(pins)}'"
            )
        return [found[pin.sha256].read_bytes() for pin in pins]

    directory = default_wheels()
    found = _by_hash(directory)
    if any(pin.sha256 not in found for pin in pins):
        say(f"Downloading the wheels of {_list(pins)} into {directory}: this once")
        _download(directory, pins)
        found = _by_hash(directory)
    return [found[pin.sha256].read_bytes() for pin in pins]


def build_archive(wheels: list[bytes]) -> bytes:
    """Return the zipapp with the tool and these wheels."""
    tool = _modules(files("affinity_tester"), "affinity_tester/")
    entries = {"__main__.py": MAIN} | {path: data for path, data in tool if not path.startswith(LEFT_OUT)}
    for wheel in wheels:
        with zipfile.ZipFile(io.BytesIO(wheel)) as packed:
            entries |= {name: packed.read(name) for name in packed.namelist() if _belongs(name)}

    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, TIME)
            info.create_system = 3  # Unix, on every machine that builds it
            info.external_attr = 0o644 << 16
            archive.writestr(info, entries[name], zipfile.ZIP_DEFLATED, compresslevel=9)

    if len(written.getvalue()) > MAX_BYTES:
        raise UserError(f"the servers' archive has {len(written.getvalue())} bytes: a ConfigMap holds {MAX_BYTES}")
    return written.getvalue()


def _modules(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the modules below a directory, as (path in the archive, content)."""
    for entry in directory.iterdir():
        if entry.is_dir():
            yield from _modules(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _belongs(name: str) -> bool:
    """True if the archive takes this entry of a wheel: its modules, and the licences that come with them."""
    return (name.endswith(".py") and "/tests/" not in name) or ".dist-info/licenses/" in name


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # this user may not look


def _by_hash(directory: Path) -> dict[str, Path]:
    """Return the wheels in a directory by the SHA-256 of their content."""
    try:
        wheels = [path for path in sorted(directory.glob("*.whl")) if path.is_file()]
        return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in wheels}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read, {error.strerror}") from error


def _download(directory: Path, pins: list[Pin]) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries=1"]
    how = ["download", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--dest={directory}"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with as_file(_PINS) as requirements:
            done = subprocess.run(  # noqa: S603 - this interpreter's own pip
                [*pip, *how, f"--requirement={requirements}"], capture_output=True, text=True, check=False
            )
    except OSError as error:
        raise UserError(f"the wheels cannot be kept in {directory}, {error.strerror}: set XDG_CACHE_HOME") from error

    if not done.returncode:
        return
    otherwise = (
        "or name a directory that holds them (make: WHEELS=dir; else --wheels dir), or run an image of your own (IMAGE);"
        f" '{_pip_download(pins)}' fills such a directory on a machine with a package index"
    )
    if NO_PIP.search(done.stderr):
        raise UserError(
            f"the wheels of {_list(pins)} cannot be downloaded, {sys.executable} comes without pip: give it one"
            f" ('{sys.executable} -m ensurepip', or the system's package python3-pip), {otherwise}"
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    why = said[-1].removeprefix("ERROR: ") if said else f"pip ended with {done.returncode}"
    raise UserError(
        f"the wheels of {_list(pins)} cannot be downloaded ({why}): reach a Python package index, {otherwise}"
    )


def _pip_download(pins: list[Pin]) -> str:
    """Return what fills a directory with the wheels. They are known by their hashes, so it may run anywhere."""
    names = " ".join(f"{pin.name}=={pin.version}" for pin in pins)
    return f"pip download --no-deps --only-binary=:all: --dest dir {names}"


def _list(pins: list[Pin]) -> str:
    return ", ".join(f"{pin.name} {pin.version}" for pin in pins)
