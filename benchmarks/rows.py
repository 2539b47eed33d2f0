"""What the rows of the table share."""

import statistics
from collections.abc import Callable, Iterator, Sequence

import msgspec

from benchmarks.figures import Figure, Goal, Result, figure
from benchmarks.load import NUMBER, Requests, Sample, alternate
from benchmarks.machine import Process, Trouble, ask
from benchmarks.stage import Stage


class Group(msgspec.Struct, frozen=True):
    """Rows that are measured together, under the name that they are chosen by."""

    name: str
    rows: Callable[[Stage], Iterator[Result]]


class Target(msgspec.Struct, frozen=True):
    """Something that is asked.

    Attributes:
        process: whose CPU is counted.
        beside: what works for it, and is counted apart.
        fixed: all answers are of one size, so that an error among them is noticed.

    """

    process: Process
    requests: Requests
    beside: Process | None = None
    fixed: bool = True


def compared(
    stage: Stage,
    targets: Sequence[Target],
    clients: int,
    seconds: int = 0,
    *,
    judged: bool = True,
) -> tuple[list[Sample], list[Sample]]:
    """Ask the reference and what is measured in turn; returns the samples of each.

    ``seconds``: of a round, where it must be another than usual; ``judged``: there is a goal that
    this can be held against, else half the rounds will do.
    """

    def asking(target: Target) -> Callable[[], Sample]:
        expected = _weight(target) if target.fixed else 0.0

        def once() -> Sample:
            sample = stage.load.run(
                target.requests, clients, seconds or stage.seconds, target.process, target.beside
            )
            # An answer for each client may have come in part when the round was over.
            slack = (1 + 2 * clients / sample.requests) if expected else 0
            if expected and not expected / slack - 1 <= sample.size <= expected * slack + 1:
                raise Trouble(
                    f"{target.process.name}: answers of {sample.size:.0f} bytes instead of "
                    f"{expected:.0f}: among them are errors"
                )
            return sample

        return once

    rounds = stage.rounds if judged else max(stage.rounds // 2, 1)
    return alternate(rounds, *map(asking, targets))


def _weight(target: Target) -> int:
    """Return the bytes of an answer, with its headers."""
    asks = target.requests
    name, _, value = asks.header.partition(": ")
    form = asks.bodies[0] if asks.method == "POST" else None
    answer = ask(asks.port, asks.path, form, {name: value} if name else {})
    if answer.body.startswith(b'{"error"'):
        raise Trouble(f"{target.process.name}: {answer.body.decode()}")
    return answer.size


def ratio(ones: Sequence[Sample], others: Sequence[Sample], goal: Goal | None = None) -> Figure:
    """Return how many times as many requests the second ones answer."""
    pairs = zip(ones, others, strict=True)
    return figure("rate, of the reference's", [two.rate / one.rate for one, two in pairs], goal)


def told(ones: Sequence[Sample], others: Sequence[Sample]) -> list[Figure]:
    """Return what explains the figures of a comparison."""
    said = [
        figure("a second", [one.rate for one in others]),
        figure("reference's a second", [one.rate for one in ones]),
        figure("p50 ms", [one.p50 for one in others]),
        figure("p99 ms", [one.p99 for one in others]),
        figure("reference's CPU ms", [one.cpu for one in ones]),
        figure("reference's p50 ms", [one.p50 for one in ones]),
    ]
    if statistics.median([one.beside for one in others]):
        said.append(figure("database's CPU ms", [one.beside for one in others]))
    return said


NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
ORDER = f"service=1&link=https%3A%2F%2Finstagram.com%2Fp%2F{NUMBER}&quantity=100"
"""The parameters of an order with a link that nobody has used."""
