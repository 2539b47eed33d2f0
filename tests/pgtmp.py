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
from collections.abc import Iterator
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


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server for as long as the context lasts; yields the URL of its first database."""
    folder = programs()
    whose: _Whose = {}
    with tempfile.TemporaryDirectory(prefix="pgtest-", ignore_cleanup_errors=True) as name:
        base = Path(name)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(base, nobody.pw_uid, nobody.pw_gid)
            whose = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        data = base / "data"
        init = [f"{folder}/initdb", "-D", f"{data}", "-U", "postgres", "-A", "trust"]
        made = subprocess.run(
            [*init, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"],
            check=False,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            cwd=base,
            **whose,
        )
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stderr}")
        port = _free_port()
        start = [f"{folder}/postgres", "-D", f"{data}", "-p", f"{port}", "-k", f"{base}"]
        options = [f"--{name}={value}" for name, value in QUICK.items()]
        libc = ctypes.CDLL(None)
        with (base / "log").open("wb") as log:
            server = subprocess.Popen(
                [*start, "-h", "127.0.0.1", *options],
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                cwd=base,
                # However the test process ends, the kernel tells the server at once.
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),  # noqa: PLW1509
                **whose,
            )
            try:
                _await(server, data, base / "log")
                yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # its "fast" shutdown
                server.wait(START)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Wait until the server says ``ready`` in the eighth line of its pid file."""
    end = time.monotonic() + START
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        with suppress(FileNotFoundError, IndexError):
            if (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready":
                return
        time.sleep(0.02)
    raise RuntimeError(f"PostgreSQL did not get ready: {log.read_text()}")
