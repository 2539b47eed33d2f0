"""The load generator: wrk, a closed loop of so many clients that keep their connections."""

import itertools
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.machine import Cores, Process, Trouble, on

_SCRIPT = Path(__file__).with_name("load.lua")
NUMBER = "@" * 8
"""Stands in a body for a running number of that many digits."""


class Requests(msgspec.Struct, frozen=True):
    """What the clients ask, in turn.

    Attributes:
        header: one more header, as ``Name: value``; or several, with tabs between them.
        bodies: forms; each client takes the next one.

    """

    port: int
    path: str
    bodies: Sequence[str] = ("",)
    method: str = "POST"
    header: str = ""


class Sample(msgspec.Struct, frozen=True):
    """What one round showed.

    Attributes:
        requests: answers that came within the round.
        rate: of these, a second.
        size: bytes of an answer, with its headers.
        p50, p99: milliseconds until the answer.
        cpu: milliseconds of the server's CPU for a request.
        beside: the same of what worked for the server, such as a database.

    """

    requests: int
    rate: float
    size: float
    p50: float
    p99: float
    cpu: float
    beside: float = 0.0


class Load:
    """Generates load on a core of its own, from files in a folder."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self._folder = folder
        self._core = cores.loading
        self._numbers = itertools.count(1)
        self._warm: set[Process] = set()

    def run(
        self,
        requests: Requests,
        clients: int,
        seconds: int,
        server: Process,
        beside: Process | None = None,
    ) -> Sample:
        """Ask for so long, and return what came of it; ``Trouble`` if anything failed.

        The first second that a server is asked in does not count.
        """
        if server not in self._warm:
            self._warm.add(server)
            self._asked(requests, clients, 1)
        spent, helped = server.cpu(), beside.cpu() if beside else 0.0
        said = self._asked(requests, clients, seconds)
        spent, helped = server.cpu() - spent, (beside.cpu() if beside else 0.0) - helped
        count = int(said["requests"])
        if not count:
            raise Trouble(f"{server.name}: not one answer in {seconds} s")
        if said["failed"]:
            raise Trouble(f"{server.name}: {said['failed']:g} of {count} requests failed")
        return Sample(
            requests=count,
            rate=count / said["seconds"],
            size=said["size"] / count,
            p50=said["p50"],
            p99=said["p99"],
            cpu=spent * 1000 / count,
            beside=helped * 1000 / count,
        )

    def _asked(self, requests: Requests, clients: int, seconds: int) -> dict[str, float]:
        """Return what wrk says; see ``load.lua``."""
        number = next(self._numbers)
        file = self._folder / f"requests-{number}"
        head = [requests.method, requests.path, requests.header]
        file.write_text("\n".join([*head, *requests.bodies]) + "\n")
        words = [*on(self._core), "wrk", "-t1", f"-c{clients}", f"-d{seconds}s"]
        words += ["--timeout", "30s", "-s", str(_SCRIPT), f"http://127.0.0.1:{requests.port}"]
        # Another million for each round, so that no number comes twice.
        words += ["--", str(file), str(number * 1_000_000 % 100_000_000)]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        file.unlink()
        _, found, figures = run.stdout.rpartition("FIGURES ")
        if run.returncode or not found:
            raise Trouble(f"wrk: {run.stdout} {run.stderr}")
        return msgspec.json.decode(figures, type=dict[str, float])


Round = Callable[[], Sample]
"""Makes one measurement."""


def alternate(rounds: int, first: Round, second: Round) -> tuple[list[Sample], list[Sample]]:
    """Measure A, B, A, B and so on."""
    pairs = [(first(), second()) for _ in range(rounds)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
