"""Cores, processes, and what they cost by the operating system's own accounting."""

import contextlib
import ctypes
import os
import platform
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection
from importlib import metadata
from pathlib import Path

import apsw
import msgspec

PATIENCE = 120.0
"""Seconds within which a server must be ready, or have come to its end."""
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Trouble(Exception):
    """A measurement failed: it has no figure, and the run is a failed one."""


class Cores(msgspec.Struct, frozen=True):
    """Which core does what.

    Attributes:
        serving: the gateway's and the references', one after the other.
        loading: the load generator's.
        beside: that of the panels and the databases; the load generator's if there are but two.

    """

    serving: int
    loading: int
    beside: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Give each its own, as far as there are enough of them."""
        found = sorted(os.sched_getaffinity(0))
        return cls(found[0], found[-1], found[1 if len(found) > 2 else -1])  # noqa: PLR2004


class Process:
    """A program on a core, in a folder; it ends when this process does."""

    def __init__(
        self,
        name: str,
        words: Sequence[str | Path],
        folder: Path,
        core: int | str,
        *,
        environment: Mapping[str, str] | None = None,
        whose: tuple[int, int] | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._end = end
        with self.log.open("ab") as log:
            self.run = subprocess.Popen(
                [*on(core), *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=None if environment is None else dict(environment),
                user=whose and whose[0],
                group=whose and whose[1],
                extra_groups=[] if whose else None,
                preexec_fn=lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, end),  # noqa: PLW1509
            )

    def wait(self, ready: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until it is ready; raises ``Trouble`` with its log when it is not in time."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if self.run.poll() is not None:
                raise self.trouble("ended")
            with contextlib.suppress(OSError):
                if ready():
                    return
            time.sleep(0.02)
        raise self.trouble("did not get ready")

    def trouble(self, what: str) -> Trouble:
        """Return what went wrong with it, and the end of what it said."""
        return Trouble(f"{self.name} {what}: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Stop it in order, and wait for its end."""
        if self.run.poll() is None:
            self.run.send_signal(self._end)
            try:
                self.run.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.run.kill()
                self.run.wait()

    def cpu(self) -> float:
        """Return the seconds of CPU that it and its children have had so far."""
        return sum(_cpu(pid) for pid in self.family())

    def resident(self, *, peak: bool = False) -> int:
        """Return the bytes of memory that it and its children have, or the most they ever had."""
        field = "VmHWM:" if peak else "VmRSS:"
        return sum(_status(pid, field) for pid in self.family())

    def family(self) -> list[int]:
        """Return its process id and its descendants'."""
        found = [self.run.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (thread / "children").read_text().split())
        return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # User and system time, its own and that of the children that have ended; see proc(5).
    return sum(map(int, fields[11:15])) / TICK


def _status(pid: int, field: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def on(core: int | str) -> list[str]:
    """Return the words that put a program on a core, or on several."""
    return ["taskset", "-c", str(core)]


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Answer(msgspec.Struct, frozen=True):
    """An answer to one request; ``size`` counts its headers, too."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int


def ask(
    port: int, path: str, form: str | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Ask once: a GET, or a POST of a form."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    sent = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
    method = "GET" if form is None else "POST"
    try:
        connection.request(method, path, form, sent | dict(headers or {}))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", ""]
    lines += [f"{name}: {value}" for name, value in answer.getheaders()]
    size = sum(len(line) + 2 for line in lines) + len(body)
    found = {name.lower(): value for name, value in answer.getheaders()}
    return Answer(answer.status, found, body, size)


def described(cores: Cores, folder: Path) -> dict[str, str]:
    """Return what somebody else needs to know of this machine, and no name of it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    count = len(os.sched_getaffinity(0))
    return {
        "cores": f"{count} of {model}; gateway on {cores.serving}, load on {cores.loading},"
        f" panels and databases on {cores.beside}",
        "load": f"{os.getloadavg()[0]:.1f} before; figures are steady only on a quiet machine",
        "kernel": platform.release(),
        "fsync": f"{_fsync(folder):.2f} ms for 4 KiB",
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: metadata.version(name) for name in ("uvicorn", "httpx", "starlette")},
        **{name: _version(words) for name, words in _PROGRAMS.items()},
    }


_PROGRAMS = {
    "postgres": ["postgres", "--version"],
    "wrk": ["wrk", "-v"],
    "nginx": ["nginx", "-v"],
    "redis": ["redis-server", "--version"],
}


def program(name: str) -> str:
    """Return the path of a program that is on this machine."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: int(one.parent.name))
    for folder in (*newest[::-1], *os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"):
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise Trouble(f"there is no {name}: ./run bench installs it")


def _version(words: list[str]) -> str:
    run = subprocess.run(
        [program(words[0]), *words[1:]], capture_output=True, text=True, check=False
    )
    found = re.search(r"\d+\.\d+[.\d]*", run.stdout + run.stderr)
    return found[0] if found else ""


def _fsync(folder: Path) -> float:
    """Return the milliseconds that a small durable write takes there; the median of many."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return sorted(took)[100] * 1000
