"""A real PostgreSQL for a test run: on a free port of loopback, gone with the process.

Debian's programs, under our own hand: no cluster of the system is touched, and as root the
server runs as ``nobody``, since PostgreSQL refuses to be root.
"""

import ctypes
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypedDict

START = 20.0
"""Seconds within which a server must be ready."""

# Nothing here has to survive a power cut.
QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
}
_PLAIN = ("-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_PR_SET_PDEATHSIG = 1


class _Whose(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def programs() -> Path:
    """Return the folder with ``initdb`` and ``postgres``: ``TEST_PG_BIN``, or the newest found."""
    if named := os.environ.get("TEST_PG_BIN"):
        return Path(named)
    found = [one.parent for one in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found:
        raise RuntimeError("no PostgreSQL here: ./run test installs it, or set TEST_PG_BIN")
    return max(found, key=lambda folder: int(folder.parent.name))


class Server:
    """A cluster of its own, which can be stopped, started again and held up.

    Attributes:
        url: of its first database.

    """

    def __init__(self, base: Path, options: Mapping[str, str]) -> None:
        self.base = base
        self.port = _free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._data = base / "data"
        self._options = options
        self._running: subprocess.Popen[bytes] | None = None
        self._whose: _Whose = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(base, nobody.pw_uid, nobody.pw_gid)
            self._whose = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def make(self) -> None:
        """Make the cluster."""
        self._run("initdb", "-U", "postgres", "-A", "trust", *_PLAIN)

    def follow(self, primary: "Server") -> None:
        """Become a standby of another one, which goes on receiving what that one writes."""
        self._run("pg_basebackup", "-d", primary.url, "-R", "-c", "fast", "--no-sync")

    def promote(self) -> None:
        """Make a standby the one that is written to."""
        self._run("pg_ctl", "promote", "-w")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [f"{programs()}/{program}", "-D", f"{self._data}", *words],
            check=False,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            cwd=self.base,
            **self._whose,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        start = [f"{programs()}/postgres", "-D", f"{self._data}", "-p", f"{self.port}"]
        options = [f"--{name}={value}" for name, value in {**QUICK, **self._options}.items()]
        libc = ctypes.CDLL(None)
        with (self.base / "log").open("ab") as log:
            self._running = subprocess.Popen(
                [*start, "-k", f"{self.base}", "-h", "127.0.0.1", *options],
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                cwd=self.base,
                # However the test process ends, the kernel tells the server at once.
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),  # noqa: PLW1509
                **self._whose,
            )
        _await(self._running, self._data, self.base / "log")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT is its "fast" shutdown, SIGQUIT as if the power had gone."""
        if self._running:
            self._running.send_signal(how)
            self._running.wait(START)
            self._running = None

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Stop all of its processes where they are, for as long as the context lasts."""
        assert self._running
        pids = [self._running.pid, *_children(self._running.pid)]
        _tell(pids, signal.SIGSTOP)
        try:
            yield
        finally:
            _tell(pids, signal.SIGCONT)


def _tell(pids: Iterable[int], what: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a connection's process that has just ended
            os.kill(pid, what)


@contextmanager
def server(*, made: bool = True, **options: str) -> Iterator[Server]:
    """Run a server for as long as the context lasts; ``made=False``: its cluster is made later."""
    with tempfile.TemporaryDirectory(prefix="pgtest-", ignore_cleanup_errors=True) as name:
        one = Server(Path(name), options)
        if made:
            one.make()
            one.start()
        try:
            yield one
        finally:
            one.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server for as long as the context lasts; yields the URL of its first database."""
    with server() as one:
        yield one.url


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(running: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Wait until the server says ``ready`` in the eighth line of its pid file."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if running.poll() is not None:
            break
        with suppress(FileNotFoundError, IndexError):
            if (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready":
                return
        time.sleep(0.02)
    raise RuntimeError(f"PostgreSQL did not get ready: {log.read_text()}")
