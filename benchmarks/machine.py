"""The machine under a benchmark: pinned child processes, what they cost, and the two C programs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

HERE = Path(__file__).resolve().parent
AFFINITY_TESTER = Path(sys.executable).with_name("affinity-tester")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class UnavailableError(Exception):
    """A benchmark, or one of its contenders, can't run here; the text says why."""


class Cores(NamedTuple):
    """Where processes are pinned: what answers on one core, what asks on another."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Self:
        """The first two cores that this process may use; one for both where there is no other."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[1 % len(allowed)])


class Cost(NamedTuple):
    """What a finished process took (getrusage(2) by wait4)."""

    wall_s: float
    cpu_s: float
    max_rss_kb: int
    exit_code: int


class Child:
    """A pinned process whose output is read line by line with a time limit; it is ended by its pid."""

    def __init__(
        self, command: Sequence[str | Path], *cores: int, stderr: int | None = None, cwd: str | Path | None = None
    ) -> None:
        """Start it on these cores; without any it may use all."""
        self.command = [str(part) for part in command]
        self.started_ns = time.monotonic_ns()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=cwd,
            # No thread runs here, so nothing can hold a lock over the fork.
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,  # noqa: PLW1509
        )
        self.pid = self._process.pid
        self._buffer = b""
        self._cost: Cost | None = None

    def line(self, within_s: float = 30.0) -> str | None:
        """The next line of its output; None at its end. `TimeoutError` when there is none in time."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        deadline_s = time.monotonic() + within_s
        while b"\n" not in self._buffer:
            if not select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise TimeoutError(f"no line from {self.command[0]} within {within_s:g} s")
            data = os.read(fd, 1 << 16)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def read_json(self, within_s: float = 30.0) -> dict[str, Any]:
        """The next line as a JSON object."""
        line = self.line(within_s)
        if line is None:
            raise RuntimeError(f"{self.command[0]} ended with {self.wait().exit_code}")
        data: dict[str, Any] = json.loads(line)
        return data

    def cpu_s(self) -> float:
        """CPU seconds of it and its living descendants so far, kernel time included."""
        return sum(map(_cpu_s, self.tree()))

    def tree(self) -> list[int]:
        """Its pid and those of its descendants."""
        pids = [self.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return pids

    def rss_kb(self) -> int:
        """Resident memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_KB

    def pss_kb(self) -> int:
        """Resident memory now, shared pages divided among those who share them."""
        return _proc_field(f"/proc/{self.pid}/smaps_rollup", "Pss:")

    def wait(self, within_s: float = 60.0) -> Cost:
        """Read what it still says, and wait for its end; one that outlasts the limit is killed."""
        deadline_s = time.monotonic() + within_s
        if self._cost is None:
            with contextlib.suppress(TimeoutError):
                while self.line(max(0.0, deadline_s - time.monotonic())) is not None:
                    pass
            while True:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() > deadline_s:
                    os.kill(self.pid, signal.SIGKILL)
                time.sleep(0.002)
            wall_s = (time.monotonic_ns() - self.started_ns) / 1e9
            cpu_s = usage.ru_utime + usage.ru_stime
            self._process.returncode = os.waitstatus_to_exitcode(status)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._cost = Cost(wall_s, cpu_s, usage.ru_maxrss, self._process.returncode)
        return self._cost

    def end(self, number: int = signal.SIGTERM) -> Cost:
        """Signal it, unless it has ended, and wait."""
        if self._cost is None:
            os.kill(self.pid, number)
        return self.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)


def _cpu_s(pid: int) -> float:
    """The scheduler's own nanoseconds of all threads; the kernel's ticks where it keeps no schedstat."""
    try:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except (OSError, ValueError):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _proc_field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)


def udp_drops(port: int) -> int:
    """Datagrams dropped so far at full buffers of the sockets bound to this port (/proc/net/udp)."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(row[-1]) for row in rows if int(row[1].rpartition(":")[2], 16) == port)


def program(name: str, package: str) -> str:
    """The path of a Debian package's program. Raises `UnavailableError`."""
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"{name} is not installed: apt-get install {package}")
    return path


def compile_c(into: Path) -> None:
    """Compile the C programs of this directory into `into`. Raises `UnavailableError` where there is no compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise UnavailableError("no C compiler (cc): apt-get install gcc libc6-dev")
    for source in sorted(HERE.glob("*.c")):
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", into / source.stem, source], check=True)


def describe() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


@contextlib.contextmanager
def all_ended(children: list[Child]) -> Iterator[None]:
    """Whatever happens, none of these outlives the block."""
    try:
        yield
    finally:
        for child in children:
            child.end(signal.SIGKILL)
