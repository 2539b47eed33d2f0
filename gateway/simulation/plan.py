"""What a seed stands for: an owner's file, how bad the weather is, and how often things stop."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from gateway import config, sandbox
from gateway.adapters import ADAPTERS
from gateway.config import Config
from gateway.sandbox.catalog import Row

TIMEOUT = 4.0
"""Seconds for a call."""
AFTER = 30.0
"""``settle.after``: seconds by which a balance surely shows what was taken."""
TYPES = ("Default", "Custom Comments", "Package")
SHARED = 900
"""The service that every panel can fulfil."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is decided before a simulation begins.

    Attributes:
        other: the owner's file after he has changed it.
        services: our ids, and what an order of each must say.
        customers: how many there are.
        opening: what each of them begins with, in millionths.
        processes: how many serve the same database.
        doom: the part of all orders whose process is killed or stopped in the middle of it.
        spread: seconds over which the orders come.
        stops: the part of the dooms that are no more than a pause.
        crash_at: this step after the first order has come is the doom; ``None``: chance decides.

    """

    seed: int
    orders: int
    config: Config
    other: Config
    services: dict[int, Row]
    panels: tuple[str, ...]
    customers: int = 2
    opening: int = 20_000_000
    processes: int = 1
    trouble: float = 0.0
    lies: float = 0.0
    lag: float = 0.0
    doom: float = 0.0
    stops: float = 0.5
    unrest: float = 0.0
    spread: float = 60.0
    crash_at: int | None = None


def plan(seed: int, orders: int) -> Plan:
    """Return what a seed stands for."""
    chance = random.Random(f"plan {seed}")  # noqa: S311  # no secrets
    panels = tuple(chance.sample(sandbox.PANELS, chance.choice((1, 2, 2, 3))))
    services = _services(panels, chance)
    wild = chance.random() < 0.5  # noqa: PLR2004
    file = _file(panels, services, chance)
    return Plan(
        seed=seed,
        orders=orders,
        config=_config(file, panels),
        other=_config(_changed(file, chance), panels),
        services={ours: row for ours, (row, _) in services.items()},
        panels=panels,
        customers=chance.randint(1, 3),
        opening=chance.choice((2_000_000, 20_000_000, 200_000_000)),
        processes=chance.choice((1, 2, 2)),
        trouble=chance.choice((0.02, 0.1, 0.3)),
        lies=chance.choice((0.0, 0.0, 0.15)),
        lag=chance.choice((0.0, 0.0, 8.0)),
        doom=chance.choice((0.0, 0.1, 0.3, 0.6)),
        unrest=chance.choice((0.0, 0.5, 1.0)) if wild else 0.0,
        spread=chance.choice((2.0, 10.0, 60.0)),
    )


def crowd(seed: int, orders: int) -> Plan:
    """Return a simulation of three processes, of whose orders most wait for their place."""
    few = {"concurrency": 1, "per_second": 1}
    waits = {"answer_within": "1s", "unavailable": "queue", "queue_for": "1h"}
    small = _small(f"crowd {seed}", limits=few, orders=waits)
    return msgspec.structs.replace(
        small, seed=seed, orders=orders, opening=200_000_000, processes=3, spread=5.0
    )


def single(seed: int, orders: int = 1, *, crash_at: int, stops: bool = False) -> Plan:
    """Return a small simulation: one panel that does what it should, and one doom."""
    return msgspec.structs.replace(
        _small(f"single {seed}"),
        seed=seed,
        orders=orders,
        customers=1,
        spread=0.5,
        stops=float(stops),
        crash_at=crash_at,
    )


def _small(
    name: str, *, limits: Mapping[str, object] = {}, orders: Mapping[str, object] = {}
) -> Plan:
    """Return a simulation of one panel; what is said of its limits and of orders holds."""
    chance = random.Random(name)  # noqa: S311
    panels = (chance.choice(sandbox.PANELS),)
    services = _services(panels, chance)
    file = _file(panels, services, chance)
    file["providers"][panels[0]]["limits"] |= limits
    file["orders"] |= orders
    config = _config(file, panels)
    rows = {ours: row for ours, (row, _) in services.items()}
    return Plan(seed=0, orders=1, config=config, other=config, services=rows, panels=panels)


def _services(
    panels: tuple[str, ...], chance: random.Random
) -> dict[int, tuple[Row, tuple[str, ...]]]:
    """Return our services: one of each panel's, and one that each of them can fulfil."""
    found: dict[int, tuple[Row, tuple[str, ...]]] = {}
    for number, panel in enumerate(panels, 1):
        rows = [row for row in sandbox.CATALOGS[panel] if row.type in TYPES]
        for row in chance.sample(rows, min(3, len(rows))):
            found[100 * number + row.id] = row, (f"{panel}/{row.id}",)
    shared = [next(row for row in sandbox.CATALOGS[one] if row.dripfeed) for one in panels]
    routes = tuple(f"{panel}/{row.id}" for panel, row in zip(panels, shared, strict=True))
    found[SHARED] = max(shared, key=lambda row: row.min), routes
    return found


File = dict[str, Any]


def _file(
    panels: tuple[str, ...],
    services: dict[int, tuple[Row, tuple[str, ...]]],
    chance: random.Random,
) -> File:
    """Return what stands in the owner's file."""
    provider: dict[str, object] = {
        "timeout": f"{TIMEOUT:g}s",
        "limits": {
            "concurrency": chance.choice((1, 2, 8)),
            "per_second": chance.choice((1, 1, 3, 10)),
        },
        "settle": {
            "mode": chance.choice(("auto", "auto", "suggest")),
            "after": f"{AFTER:g}s",
            "probe_ids": chance.choice((0, 100)),
        },
    }
    if chance.random() < 0.3:  # noqa: PLR2004
        provider["max_unsettled"] = chance.choice((1, 10))
    return {
        "currency": "USD",
        "exchange_rates": {"INR": "0.0119"},
        "markup": "25%",
        "every": {"catalog": "20s", "status": "10s", "balance": "10s"},
        "providers": {
            name: provider
            | {
                "adapter": name.replace("-", "_").replace(".", "_"),
                "url": f"http://panel/{name}",
                "key": f"${{KEY_{number}}}",
            }
            for number, name in enumerate(panels)
        },
        "services": {
            str(ours): {"routes": list(routes)} | ({"rate": "2.00"} if ours == SHARED else {})
            for ours, (_, routes) in services.items()
        },
        "orders": {
            "answer_within": chance.choice(("1s", "3s", "10s")),
            "unavailable": chance.choice(("refuse", "queue")),
            "queue_for": chance.choice(("10s", "40s", "1h")),
            "unknown_refusals": chance.choice(("stop", "next")),
            "duplicates": chance.choice(("allow", "same")),
            "duplicate_window": "10m",
        },
    }


def _changed(file: File, chance: random.Random) -> File:
    """Return the file with other prices, and other patience with the providers' answers."""
    orders = file["orders"] | {"answer_within": chance.choice(("1s", "3s"))}
    return file | {"markup": chance.choice(("20%", "30%")), "orders": orders}


def _config(file: File, panels: tuple[str, ...]) -> Config:
    """Return the file as the gateway reads it; JSON is YAML."""
    keys = {f"KEY_{number}": sandbox.key(name) for number, name in enumerate(panels)}
    adapters = {name: adapter.currency for name, adapter in ADAPTERS.items()}
    text = "\n".join(f"{name}: {json.dumps(block)}" for name, block in file.items())
    for ours in file["services"]:
        text = text.replace(f'"{ours}":', f"{ours}:")
    return config.parse(text, "providers.yaml", keys, adapters)


def form(row: Row, target: str, chance: random.Random) -> dict[str, str]:
    """Return what a customer sends for an order of a service."""
    sent = {"link": target}
    if row.type == "Default":
        sent["quantity"] = str(chance.randint(max(row.min, 100), min(row.max, 2000)))
    elif row.type != "Package":
        sent["comments"] = "\n".join(f"comment {one}" for one in range(chance.randint(1, 9)))
    return sent


JUMPS = tuple(Decimal(one) for one in ("0.5", "0.9", "1.1", "1.5", "3"))
"""By how much a price jumps at once."""


@dataclass
class Wish:
    """An order that a customer wants: once.

    Attributes:
        key: his idempotency key; empty: he sends none.
        repeats: whether he may ask again without ordering twice.
        open: how many of his requests have had no end yet.
        got: the order ids that he was given.

    """

    customer: str
    service: int
    target: str
    params: dict[str, str]
    key: str
    repeats: bool
    open: int = 0
    lost: bool = False
    got: set[int] = field(default_factory=set)
    refused: str = ""
