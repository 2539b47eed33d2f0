"""Figures, the goals beside them, and how they are shown and compared."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Goal(msgspec.Struct, frozen=True):
    """What a figure should be: ``least`` or ``most``, whichever is set."""

    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Tell whether a figure is as it should be."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    def __str__(self) -> str:
        """Return it as people write it."""
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"


class Figure(msgspec.Struct, frozen=True):
    """One figure of a row: the median of its samples.

    Attributes:
        name: what it is, with its unit.
        goal: ``None`` for what only explains the others.

    """

    name: str
    samples: tuple[float, ...]
    goal: Goal | None = None

    @property
    def median(self) -> float:
        """The figure."""
        return statistics.median(self.samples)

    @property
    def met(self) -> bool:
        """Whether it is as it should be."""
        return self.goal is None or self.goal.met(self.median)


class Result(msgspec.Struct, frozen=True):
    """A row of the table.

    Attributes:
        row: what is measured.
        against: what it is measured beside, in turn.
        note: what else has to be known to read it.
        failure: why there are no figures.

    """

    row: str
    against: str
    figures: tuple[Figure, ...] = ()
    note: str = ""
    failure: str = ""


class Report(msgspec.Struct, frozen=True):
    """A whole run, as it is kept in a file."""

    machine: Mapping[str, str]
    quick: bool
    results: tuple[Result, ...]


def figure(name: str, samples: Iterable[float], goal: Goal | None = None) -> Figure:
    """Return a figure of these samples."""
    return Figure(name, tuple(samples), goal)


def at_least(value: float) -> Goal:
    """Return a goal that is met from a value on."""
    return Goal(least=value)


def at_most(value: float) -> Goal:
    """Return a goal that is met up to a value."""
    return Goal(most=value)


def number(value: float) -> str:
    """Return a figure with as many digits as mean something."""
    size = abs(value)
    if size >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    if size >= 10:  # noqa: PLR2004
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not size else f"{value:.3f}"  # noqa: PLR2004


def table(report: Report, before: Report | None = None) -> list[str]:
    """Return the lines of the table, aligned, as Markdown."""
    head = ["measured", "against", "figure", "median", "spread", "goal", ""]
    if before:
        head[6:6] = ["before", "change"]
    known = _known(before)
    rows = [head]
    for result in report.results:
        first = [result.row, result.against]
        if result.failure:
            rows.append([*first, "", "", "", *[""] * (2 if before else 0), "", "**FAILED**"])
        for one in result.figures:
            if one.goal:
                rows.append([*first, *_cells(one, known.get((result.row, one.name)), before)])
                first = [""] * 2
    return _aligned(rows)


def _cells(one: Figure, was: Figure | None, before: Report | None) -> list[str]:
    spread = f"{number(min(one.samples))}–{number(max(one.samples))}"
    cells = [one.name, number(one.median), spread if len(one.samples) > 1 else "", str(one.goal)]
    if before:
        change = f"{one.median / was.median - 1:+.0%}" if was and was.median else ""
        cells += [number(was.median) if was else "", change]
    return [*cells, "met" if one.met else "**missed**"]


def _known(report: Report | None) -> Mapping[tuple[str, str], Figure]:
    return {
        (result.row, one.name): one
        for result in (report.results if report else ())
        for one in result.figures
    }


def details(report: Report) -> list[str]:
    """Return what explains the figures, a line for each row."""
    lines = []
    for result in report.results:
        said = [f"{one.name} {number(one.median)}" for one in result.figures if not one.goal]
        said += [part for part in (result.note, result.failure) if part]
        if said:
            lines.append(f"* {result.row}: {'; '.join(said)}")
    return lines


def verdict(report: Report) -> str:
    """Return the run in a sentence."""
    goals = [one for result in report.results for one in result.figures if one.goal]
    met = sum(one.met for one in goals)
    failed = [result.row for result in report.results if result.failure]
    said = f"{met} of {len(goals)} goals met"
    return f"{said}; FAILED: {', '.join(failed)}" if failed else said


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
