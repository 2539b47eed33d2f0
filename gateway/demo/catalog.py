"""What becomes of a provider's list that cannot be true, or would cost money, in the demonstration.

Played after the orders, with the owner's own commands, on one panel whose list is changed behind
its counter.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from gateway.demo.stage import Stage

PANEL = "smm1st"
JUMPS, REFUSED, FIXED = 501, 502, 902
"""Services of ours: a jump that is accepted, one that is rejected, and a fixed rate."""
UNAVAILABLE = "Service is unavailable"
PATIENCE = 10.0
"""Seconds for the serving process to hear of what a command has changed."""


@dataclass(frozen=True)
class Step:
    """Something that a provider did, or the owner decided.

    Attributes:
        saw: what was to be seen of it.
        wanted: what that must be.

    """

    about: str
    saw: str
    wanted: str


def steps(stage: Stage) -> Iterator[Step]:
    """Play the scene, step by step."""
    before = _rates(stage)
    stage.behind(PANEL, "faults", action="services", fault="short-list")
    said = stage.owner("sync", PANEL, fine=False)["providers"][0]["error"]
    rows = len(_rates(stage))
    yield Step(
        f"{PANEL} lists a fifth of its services",
        f"{said}; customers see {rows}",
        f"{PANEL} lists 2 services instead of 10: not believed; customers see {len(before)}",
    )
    for service, rate in ((1, "9"), (2, "80"), (3, "3.30")):
        stage.behind(PANEL, "services", service=service, rate=rate)
    held = stage.owner("sync", PANEL)["providers"][0]["held_back"]
    yield Step(
        "two of its rates jump tenfold",
        f"held back: {'; '.join(held)}",
        f"held back: {PANEL}/1: its rate was 0.90 and is 9; {PANEL}/2: its rate was 8 and is 80",
    )
    stage.owner("catalog", "accept", f"{PANEL}/1")
    rate = str(Decimal(9) * Decimal("1.25"))
    yield Step(
        "the owner accepts one",
        f"{JUMPS} is sold at {_until(lambda: _rates(stage).get(JUMPS, UNAVAILABLE), rate)}",
        f"{JUMPS} is sold at {rate}",
    )
    stage.owner("catalog", "reject", f"{PANEL}/2")
    yield Step(
        "and rejects the other",
        f"{REFUSED}: an order: {_ordered(stage, REFUSED, comments='Great')}",
        f"{REFUSED}: an order: {UNAVAILABLE}",
    )
    lost = [one for one in stage.owner("plan")["at_a_loss"] if one["tier"] is None]
    told = (f"{one['service']}: sold at {one['rate']}, costs {one['cost']}" for one in lost)
    names = {"quantity": "1000", "usernames": "ann"}
    yield Step(
        "a fixed rate falls below cost",
        f"{'; '.join(told)}; an order: {_ordered(stage, FIXED, **names)}",
        f"{FIXED}: sold at 3.00, costs 3.30; an order: {UNAVAILABLE}",
    )


def _rates(stage: Stage) -> dict[int, str]:
    return {int(row["service"]): str(row["rate"]) for row in stage.ask("services")}


def _ordered(stage: Stage, service: int, **params: str) -> str:
    """Order what must not be sold; returns the customer's error, or the order."""
    answer = stage.ask("add", service=str(service), link="https://instagram.com/p/new", **params)
    return str(answer.get("error", answer))


def _until(look: Callable[[], str], wanted: str) -> str:
    until = time.monotonic() + PATIENCE
    while (seen := look()) != wanted and time.monotonic() < until:
        time.sleep(0.1)
    return seen
