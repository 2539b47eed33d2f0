"""The rows of what customers' programs ask most: statuses, the balance, the list of services."""

import gzip
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks.figures import Goal, Result, at_least, at_most, figure
from benchmarks.load import Requests
from benchmarks.machine import ask
from benchmarks.rows import NAMES, Group, Target, compared, ratio, told
from benchmarks.stage import Gateway, Plan, Stage, filled

ASKED = range(1000, 2000)
"""The orders that are asked for, again and again; their numbers have one length."""
COLD = range(100_000, 200_000)
"""So many that none is asked for twice within the time for which an answer is remembered."""
SERVICES = 10_000
DOWNLOADS = 8
"""Clients that fetch whole lists."""


def _asking(gateway: Gateway, action: str, more: Sequence[str] = ("",)) -> Requests:
    forms = [f"key={gateway.keys[0]}&action={action}{one}" for one in more]
    return Requests(gateway.port, "/api/v2", forms)


def _against_constant(
    stage: Stage,
    gateway: Gateway,
    row: str,
    requests: Requests,
    *,
    clients: int = 64,
    rate: Goal | None = None,
    cpu: Goal | None = None,
) -> Result:
    same = msgspec.structs.replace(requests, port=stage.constant.port, bodies=requests.bodies[:1])
    targets = Target(stage.constant.process, same), Target(gateway, requests)
    ones, others = compared(stage, targets, clients, judged=bool(rate or cpu))
    return Result(
        row,
        "a Starlette route with a constant answer",
        (
            ratio(ones, others, rate),
            figure("CPU ms a request", [one.cpu for one in others], cpu),
            *told(ones, others),
        ),
    )


def status(stage: Stage) -> Iterator[Result]:
    """Statuses from memory; in a full run also from the books, and through Redis."""
    orders = ASKED.stop if stage.quick else COLD.stop
    url = stage.database("sqlite")
    plan = Plan({"panel": stage.panels()}, orders=orders, keys=tuple(filled(url, 1, orders)))
    with stage.gateway(plan, url) as gateway:
        one = _asking(gateway, "status", [f"&order={order}" for order in ASKED])
        rate, cpu = at_least(1.25), at_most(0.1)
        for clients in (64,) if stage.quick else (16, 64):
            row = f"`status`, {clients} clients"
            yield _against_constant(stage, gateway, row, one, clients=clients, rate=rate, cpu=cpu)
        hundreds = [ASKED[start : start + 100] for start in range(0, len(ASKED), 100)]
        lists = [f"&orders={'%2C'.join(map(str, some))}" for some in hundreds]
        many = _asking(gateway, "status", lists)
        row = "`status` of 100 orders, 64 clients"
        yield _against_constant(stage, gateway, row, many, rate=at_least(0.35), cpu=at_most(0.5))
        if not stage.quick:
            cold = _asking(gateway, "status", [f"&order={order}" for order in COLD])
            row = "`status`, not in memory, 64 clients"
            yield _against_constant(stage, gateway, row, cold)
    if not stage.quick:
        plan = msgspec.structs.replace(plan, redis=True)
        with stage.gateway(plan, url) as gateway:
            one = _asking(gateway, "status", [f"&order={order}" for order in ASKED])
            yield _against_constant(stage, gateway, "`status` through Redis, 64 clients", one)


def balance(stage: Stage) -> Iterator[Result]:
    """The balance, which is read from the books each time."""
    plan = Plan({"panel": stage.panels()})
    for kind, name in stage.databases(NAMES).items():
        with stage.gateway(plan, stage.database(kind)) as gateway:
            requests = _asking(gateway, "balance")
            yield _against_constant(
                stage, gateway, f"`balance` on {name}, 64 clients", requests, rate=at_least(1.25)
            )


def services(stage: Stage) -> Iterator[Result]:
    """The list of services: whole, compressed, and not changed since."""
    plan = Plan({"panel": stage.panels(services=SERVICES)}, services=SERVICES)
    with stage.gateway(plan, stage.database("sqlite")) as gateway:
        path = f"/api/v2?key={gateway.keys[0]}&action=services"
        whole = ask(gateway.port, path)
        folder = stage.place()
        (folder / "services.json").write_bytes(whole.body)
        (folder / "services.json.gz").write_bytes(gzip.compress(whole.body, 6))
        nginx = stage.nginx(folder)
        kept = ask(nginx.port, "/services.json").headers["etag"]
        tag = whole.headers["etag"]
        gzipped = "Accept-Encoding: gzip"
        rows: tuple[tuple[str, str, str, float, int], ...] = (
            ("whole", "", "", 0.9, DOWNLOADS),
            ("compressed", gzipped, gzipped, 0.9, DOWNLOADS),
            ("unchanged", f"If-None-Match: {tag}", f"If-None-Match: {kept}", 0.25, 64),
        )
        for row, ours, theirs, goal, clients in rows[1 if stage.quick else 0 :]:
            asked = Requests(gateway.port, path, method="GET", header=ours)
            same = Requests(nginx.port, "/services.json", method="GET", header=theirs)
            targets = Target(nginx.process, same), Target(gateway, asked)
            ones, others = compared(stage, targets, clients)
            size = f"{others[0].size:,.0f} bytes, nginx's {ones[0].size:,.0f}"
            yield Result(
                f"`services`, {SERVICES:,} rows, {row}, {clients} clients",
                "nginx with the same bytes",
                (
                    ratio(ones, others, at_least(goal)),
                    figure("CPU ms a request", [one.cpu for one in others]),
                    *told(ones, others),
                ),
                note=size,
            )


GROUPS = (Group("status", status), Group("balance", balance), Group("services", services))
