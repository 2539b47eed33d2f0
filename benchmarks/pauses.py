"""The row of the event loop's pauses, as the gateway's own watchdog finds them."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from benchmarks.figures import Result, at_most, figure
from benchmarks.load import Requests
from benchmarks.machine import Trouble
from benchmarks.rows import ORDER, Group
from benchmarks.stage import Gateway, Plan, Stage, filled
from benchmarks.working import CATALOGS, ROWS, SOLD
from gateway.watchdog import NOTED

CLIENTS = 8
"""Of statuses, and as many of orders."""
OPEN = 20_000
"""Orders whose statuses are asked for meanwhile."""
EVERY = "catalog: 5s, status: 5s"
ROUNDS = 3
"""Times that all rates are new and the file has changed."""
ROUND, SHORT = 10, 8
"""Seconds of each, and of the one in a quick run; both are taken up within."""
SHOWN = 3
"""Places that are named."""
LONGEST = 20
"""Milliseconds that a pause may take."""


class Pause(msgspec.Struct, frozen=True):
    """A line of the watchdog's.

    Attributes:
        ms: how late the loop was.
        cpu_ms: what its thread computed in that time, and in what went before it.
        gc_ms: what the garbage collector took of it.
        where: the stack of the loop's thread, the innermost function first.
        beside: those of other threads that had work.

    """

    event: str
    ms: float = 0.0
    cpu_ms: float = 0.0
    gc_ms: float = 0.0
    where: str = ""
    beside: str = ""


def pauses(stage: Stage) -> Iterator[Result]:
    """Statuses and orders asked for, while catalogs, statuses and the file are taken up."""
    rows, sold, rounds = (ROWS // 4, SOLD // 4, 1) if stage.quick else (ROWS, SOLD, ROUNDS)
    lasting = SHORT if stage.quick else ROUND
    panel = stage.panels(services=rows)
    names = ("panel", *(f"panel{number}" for number in range(1, CATALOGS)))
    url = stage.database("sqlite")
    keys = tuple(filled(url, 1, OPEN, due=0))
    plan = Plan(
        dict.fromkeys(names, panel),
        services=sold,
        orders=OPEN,
        keys=keys,
        every=EVERY,
        log_level="debug",
    )
    with stage.gateway(plan, url) as gateway, ThreadPoolExecutor() as apart:
        time.sleep(lasting / 2)  # what starting has left to do is another matter
        seen = gateway.log.stat().st_size
        status = [f"key={keys[0]}&action=status&order={order}" for order in range(1000, 2000)]
        add = [f"key={keys[0]}&action=add&{ORDER}"]
        load = [
            apart.submit(
                stage.load.run,
                Requests(gateway.port, "/api/v2", forms),
                CLIENTS,
                rounds * lasting,
                gateway,
            )
            for forms in (status, add)
        ]
        for number in range(1, rounds + 1):
            _change(gateway, plan, number)
            panel.ask(f"news={number}")
            time.sleep(lasting)
        asked = [one.result() for one in load]
        said = gateway.log.read_bytes()[seen:]
        taken_up = said.count(b"a changed file is in force")
        if taken_up != rounds:
            raise Trouble(f"{taken_up} of {rounds} changes of the file were taken up")
    yield _found(_read(said), rows, asked[0].rate, asked[1].rate)


def _change(gateway: Gateway, plan: Plan, number: int) -> None:
    changed = msgspec.structs.replace(plan, markup=plan.markup + number)
    gateway.file.write_text(changed.file())


def _read(said: bytes) -> list[Pause]:
    """Return the pauses that a log tells of, the longest first."""
    lines = (line for line in said.splitlines() if b"the event loop was held" in line)
    found = [msgspec.json.decode(line, type=Pause) for line in lines]
    return sorted(found, key=lambda one: -one.ms)


def _found(pauses: list[Pause], rows: int, statuses: float, orders: float) -> Result:
    most = NOTED * 1000  # shorter ones are not told of
    return Result(
        f"longest pause of the loop, {CLIENTS} clients of `status` and {CLIENTS} of `add`",
        f"sync of {CATALOGS} × {rows:,}, polling, a change of the file",
        (
            figure("ms", [max([most, *(one.ms for one in pauses)])], at_most(LONGEST)),
            figure(
                "CPU ms of the loop",
                [max([0.0, *(one.cpu_ms for one in pauses)])],
                at_most(LONGEST),
            ),
            figure(f"pauses over {LONGEST} ms", [sum(one.ms > LONGEST for one in pauses)]),
            figure("`status` a second", [statuses]),
            figure("`add` a second", [orders]),
        ),
        note="; ".join(_told(one) for one in pauses[:SHOWN]),
    )


def _told(one: Pause) -> str:
    found = f"{one.ms:.0f} ms (CPU {one.cpu_ms:.0f}, collector {one.gc_ms:.0f}) in "
    beside = f" beside {one.beside}" if one.beside else ""
    return found + (one.where or "places unseen") + beside


GROUPS = (Group("pauses", pauses),)
