"""A Redis of one's own for a test: a free port, nothing on disk, gone when the test run is."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 10.0


def find_server() -> str:
    """Return the server's program; never its real path, for its role follows its name."""
    named = os.environ.get("TEST_REDIS_BIN")
    found = named or shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise RuntimeError("there is no redis-server; ./run test installs it")
    return found


@contextlib.contextmanager
def server(*options: str, port: int = 0) -> Iterator[tuple[str, int]]:
    """Run a Redis; gives its URL and its process id."""
    port = port or _free_port()
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryDirectory(prefix="redistest-") as folder:
        log = Path(folder) / "log"
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        words += ["--save", "", "--appendonly", "no", *options]
        with log.open("wb") as out:
            run = subprocess.Popen(
                [find_server(), *words],
                stdout=out,
                stderr=out,
                preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # noqa: PLW1509  # dies with us
            )
        try:
            _wait(run, port, log)
            yield f"redis://127.0.0.1:{port}/0", run.pid
        finally:
            run.kill()
            run.wait(PATIENCE)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Run a Redis; gives its URL."""
    with server() as (url, _):
        yield url


def _wait(run: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if run.poll() is not None:
            raise RuntimeError(log.read_text())
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1) as line,
        ):
            line.sendall(b"PING\r\n")
            # With a password it asks for one, and is up all the same.
            if line.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                return
        time.sleep(0.01)
    raise RuntimeError("the Redis did not get ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
