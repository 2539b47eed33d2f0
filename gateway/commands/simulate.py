"""``gateway simulate``: bad luck of every kind, seeded, and what must hold whatever happens."""

import contextlib
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from gateway import simulation
from gateway.commands.start import Json, fail, show_json
from gateway.commands.terminal import err, out, show_facts
from gateway.simulation.planted import PLANTED

COUNTS = ("states", "settled", "happened", "calls", "troubles")


def simulate(
    seed: Annotated[int | None, typer.Option(help="By chance, if it is not given.")] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many are placed.")] = 20,
    seeds: Annotated[str | None, typer.Option(metavar="A-B", help="All of these seeds.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="So many seeds, from --seed on.")] = 1,
    plant: Annotated[
        str | None, typer.Option(metavar="BUG", help=f"Plant one: {', '.join(PLANTED)}.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Put the gateway's own code through crashes and panels that fail in every way."""
    if plant is not None and plant not in PLANTED:
        fail(f"--plant {plant}: one of {', '.join(PLANTED)}")
    chosen = _seeds(seed, seeds, runs)
    results = []
    with PLANTED[plant]() if plant else contextlib.nullcontext():
        for one in chosen:
            results.append(simulation.simulate(simulation.plan(one, orders)))
            if results[-1].violated:
                break
    if json:
        show_json([msgspec.to_builtins(one) for one in results])
    else:
        show_facts(_facts(results))
    if results[-1].violated:
        if not json:
            _tell(results[-1], plant)
        raise typer.Exit(1)


def _seeds(seed: int | None, seeds: str | None, runs: int) -> Sequence[int]:
    if seeds is not None:
        first, _, last = seeds.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            fail(f"--seeds {seeds}: write the first and the last, like 1-100")
        return range(int(first), int(last) + 1)
    first_seed = secrets.randbelow(1_000_000) if seed is None else seed
    return range(first_seed, first_seed + runs)


def _facts(results: Sequence[simulation.Result]) -> dict[str, object]:
    """Return what happened in all, a line for each kind of thing."""
    facts: dict[str, object] = {
        "seeds": f"{results[0].seed}-{results[-1].seed}" if results[1:] else results[0].seed,
        "orders": sum(one.orders for one in results),
        "steps": sum(one.step for one in results),
        "simulated": f"{sum(one.seconds for one in results)} s",
    }
    for name in COUNTS:
        total: Counter[str] = Counter()
        for one in results:
            total += Counter(getattr(one, name))
        facts[name] = ", ".join(f"{count} {kind}" for kind, count in total.most_common()) or "none"
    facts["digest"] = results[-1].digest
    facts["violated"] = results[-1].violated or "nothing"
    return facts


def _tell(result: simulation.Result, plant: str | None) -> None:
    """Say what was violated, what came before it, and how to see it again."""
    for line in result.trace:
        out.print(line, style="dim", markup=False, soft_wrap=True)
    again = f"gateway simulate --seed {result.seed} --orders {result.orders}"
    again += f" --plant {plant}" if plant else ""
    words = f"seed {result.seed}, step {result.step}: {result.violated}"
    err.print(words, style="red", markup=False, soft_wrap=True)
    err.print(f"again: {again}", markup=False, soft_wrap=True)
