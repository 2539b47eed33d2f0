"""A Redis of one's own for a test: free ports, nothing on disk, gone when the test run is.

One server, three of a cluster, or two with Sentinels that watch them.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import trustme
from redis import Redis, RedisError

PATIENCE = 10.0


def find_server() -> str:
    """Return the server's program; never its real path, for its role follows its name."""
    named = os.environ.get("TEST_REDIS_BIN")
    found = named or shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise RuntimeError("there is no redis-server; ./run test installs it")
    return found


@contextlib.contextmanager
def server(*options: str, port: int = 0, sentinel: Path | None = None) -> Iterator[tuple[str, int]]:
    """Run a Redis, or a Sentinel by this file; gives its URL and its process id."""
    port = port or _free_port()
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryDirectory(prefix="redistest-") as folder:
        log = Path(folder) / "log"
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        if sentinel:
            words = [str(sentinel), "--sentinel", *words]
        else:
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


def ask(port: int, *words: object, password: str = "") -> Any:
    """Give a Redis one command, past all that is tested; returns its answer."""
    client = Redis(port=port, password=password or None, protocol=2, decode_responses=True)
    with contextlib.closing(client):
        return client.execute_command(*words)  # type: ignore[no-untyped-call]


def _until(ports: Iterable[int], look: Callable[[int], object]) -> None:
    """Wait until a look at each is content; that a Redis does not answer yet is no mistake."""
    end = time.monotonic() + 2 * PATIENCE
    for port in ports:
        content = False
        while not content:
            if time.monotonic() > end:
                raise RuntimeError("what was waited for did not come")
            with contextlib.suppress(RedisError):
                content = bool(look(port))
            time.sleep(0.02)


@contextlib.contextmanager
def encrypted(folder: Path, *options: str) -> Iterator[tuple[int, str]]:
    """Run a Redis with TLS; gives its port, and the file of who vouches for it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(str(folder / "key.pem"))
    own.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    port = _free_port()
    words = ["--tls-port", str(port), "--tls-ca-cert-file", str(folder / "ca.pem")]
    words += [
        "--tls-key-file",
        str(folder / "key.pem"),
        "--tls-cert-file",
        str(folder / "cert.pem"),
    ]
    with server(*words, "--tls-auth-clients", "no", *options):
        yield port, str(folder / "ca.pem")


@contextlib.contextmanager
def cluster() -> Iterator[dict[int, int]]:
    """Run a cluster of three; gives the process id of each port."""
    with contextlib.ExitStack() as running:
        nodes: dict[int, int] = {}
        buses: dict[int, int] = {}
        for _ in range(3):
            port, bus = _free_port(), _free_port()
            words = ["--cluster-enabled", "yes", "--cluster-port", str(bus)]
            words += ["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"]
            _, nodes[port] = running.enter_context(server(*words, port=port))
            buses[port] = bus
        first, *_ = nodes
        for place, port in enumerate(nodes):
            ask(port, "CLUSTER", "ADDSLOTSRANGE", place * 5462, min(place * 5462 + 5461, 16383))
            ask(port, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            if port != first:
                ask(first, "CLUSTER", "MEET", "127.0.0.1", port, buses[port])
        _until(nodes, lambda port: len(ask(port, "CLUSTER", "SLOTS")) == len(nodes))
        _until(nodes, lambda port: "cluster_state:ok" in str(ask(port, "CLUSTER", "INFO")))
        yield nodes


SERVICE = "ours"


@contextlib.contextmanager
def watched(folder: Path, password: str = "") -> Iterator[tuple[dict[int, int], list[int]]]:
    """Run a Redis and its replica under two Sentinels.

    Gives the process id of each port, the first of them being the master's, and the ports of the
    Sentinels.
    """
    secret = ["--requirepass", password, "--masterauth", password] if password else []
    with contextlib.ExitStack() as running:
        url, pid = running.enter_context(server(*secret))
        master = port_of(url)
        url, other = running.enter_context(server("--replicaof", f"127.0.0.1 {master}", *secret))
        sentinels: list[int] = []
        for _ in range(2):
            port = _free_port()
            file = folder / f"sentinel-{port}.conf"
            lines = [f"sentinel monitor {SERVICE} 127.0.0.1 {master} 1"]
            lines += [f"sentinel down-after-milliseconds {SERVICE} 500"]
            lines += [f"sentinel failover-timeout {SERVICE} 2000"]
            lines += [f"sentinel auth-pass {SERVICE} {password}"] if password else []
            file.write_text("\n".join(lines) + "\n")
            running.enter_context(server(sentinel=file, port=port))
            sentinels.append(port)
        _until(sentinels, lambda port: len(ask(port, "SENTINEL", "REPLICAS", SERVICE)) == 1)
        _until(sentinels, lambda port: len(ask(port, "SENTINEL", "SENTINELS", SERVICE)) == 1)
        yield {master: pid, port_of(url): other}, sentinels


def port_of(url: str) -> int:
    """Return the port of a URL that was given here."""
    return int(url.rpartition(":")[2].partition("/")[0])


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
