"""The rows of what the gateway does on its own time, of a single call, and of its memory."""

import time
from collections.abc import Callable, Iterator

import msgspec

from benchmarks.figures import Result, at_most, figure
from benchmarks.load import Sample, alternate
from benchmarks.machine import PATIENCE, Process, Trouble, ask
from benchmarks.rows import NAMES, Group, told
from benchmarks.stage import Gateway, Panels, Plan, Stage, filled

CATALOGS, ROWS = 5, 20_000
"""Catalogs, and the services of each."""
SOLD = 10_000
"""Services that the owner sells of them."""
EVERY, SOON = 15, 6
"""Seconds between two looks at a catalog, or at statuses, and those in a quick run; to take all of
them up must not take so long."""
STARTS = 10
"""Seconds until the first status is due; by then the gateway has started, and was seen idle."""
BATCH = 100
IDLE = 2
MEGABYTE = 1_000_000


def sync(stage: Stage) -> Iterator[Result]:
    """Catalogs fetched anew, taken up, and one price group rendered."""
    rows, sold = (ROWS // 4, SOLD // 4) if stage.quick else (ROWS, SOLD)
    panel = stage.panels(services=rows)
    body = ask(panel.port, "/", "action=services&key=none").body
    names = {f"panel{number}": panel for number in range(CATALOGS)}
    plan = Plan(names, services=sold, every=f"catalog: {SOON if stage.quick else EVERY}s")
    with stage.gateway(plan, stage.database("sqlite")) as gateway:
        parsed = [_parsing(body) for _ in range(stage.rounds)]
        same, fresh = [], []
        for news in range(1, 2 if stage.quick else 3):
            fresh.append(_synced(gateway, panel, sold, news))
            if not stage.quick:
                same.append(_synced(gateway, panel, sold, 0))
        peak = gateway.resident(peak=True) / MEGABYTE
    usual = sorted(parsed)[len(parsed) // 2]
    against = f"parsing the {CATALOGS} lists, {len(body) * CATALOGS / MEGABYTE:.0f} MB"
    row = f"{CATALOGS} catalogs of {rows:,} services"
    note = f"the owner sells {sold:,} of them; msgspec parses in orjson's place"
    yield Result(
        f"{row}, all rates new, one price group rendered",
        against,
        (
            figure("CPU, of the parsing's", [one / usual for one in fresh], at_most(12)),
            figure("memory at its peak, MB", [peak], at_most(250)),
            figure("CPU s", fresh),
            figure("parsing s", parsed),
        ),
        note,
    )
    if same:
        shares = [one / usual for one in same]
        figures = figure("CPU, of the parsing's", shares, at_most(12)), figure("CPU s", same)
        yield Result(f"{row}, nothing new", against, figures)


def _parsing(body: bytes) -> float:
    began = time.process_time()
    for _ in range(CATALOGS):
        msgspec.json.decode(body)
    return time.process_time() - began


def _synced(gateway: Gateway, panel: Panels, sold: int, news: int) -> float:
    """Return the seconds of CPU until lists are fetched, taken up and rendered."""
    _quiet(gateway)
    idle = _idle(gateway)
    shown = _shown(gateway)
    began, spent = time.monotonic(), gateway.cpu()
    before = panel.ask(f"news={news}" if news else "")
    _heard(panel, "services", before["services"] + CATALOGS)
    if news:  # a process that is kept waiting for its core seems to be at rest, too
        _until(lambda: not shown & _shown(gateway), "the new rates are not shown")
    _quiet(gateway)
    answer = ask(gateway.port, f"/api/v2?key={gateway.keys[0]}&action=services")
    if answer.body.count(b'"service":') != sold:
        raise Trouble("services are missing in the list")
    return gateway.cpu() - spent - idle * (time.monotonic() - began)


def _shown(gateway: Gateway) -> set[tuple[int, str]]:
    """Return the rate that is shown of one service of each catalog."""
    ids = ",".join(str(CATALOGS + number) for number in range(1, CATALOGS + 1))
    answer = ask(gateway.port, f"/api/v2?key={gateway.keys[0]}&action=services&ids={ids}")
    return {(row["service"], row["rate"]) for row in msgspec.json.decode(answer.body)}


def _idle(process: Process) -> float:
    """Return the CPU that a process takes when there is nothing to do, as a share."""
    spent = process.cpu()
    time.sleep(IDLE)
    return (process.cpu() - spent) / IDLE


def _quiet(process: Process) -> None:
    """Wait until a process has nothing to do."""
    _until(lambda: _share(process) < 0.1, "it does not come to rest")  # noqa: PLR2004


def _share(process: Process) -> float:
    spent = process.cpu()
    time.sleep(0.5)
    return (process.cpu() - spent) / 0.5


def _heard(panel: Panels, what: str, times: int) -> None:
    """Wait until a panel was asked something so often."""
    _until(lambda: panel.ask()[what] >= times, f"the panel was not asked for {what}")


def _until(ready: Callable[[], bool], trouble: str) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > until:
            raise Trouble(trouble)
        time.sleep(0.05)


def follow(stage: Stage) -> Iterator[Result]:
    """Open orders asked for, all of them: first each has news, then none."""
    orders, every, starts = (20_000, SOON, SOON) if stage.quick else (100_000, EVERY, STARTS)
    panel = stage.panels()
    for kind, name in stage.databases(NAMES).items():
        url = stage.database(kind)
        keys = tuple(filled(url, 1, orders, due=starts * 1000))
        due = time.monotonic() + starts
        plan = Plan({"panel": panel}, orders=orders, keys=keys, every=f"status: {every}s")
        with stage.gateway(plan, url) as gateway:
            idle = _idle(gateway)
            before = panel.ask()
            if time.monotonic() > due:
                raise Trouble("the gateway started too late for the first statuses")
            time.sleep(due - time.monotonic() - 1)
            for what in ("each with news", "none with news"):
                began, spent = time.monotonic(), gateway.cpu()
                _heard(panel, "ids", before["ids"] + orders)
                _quiet(gateway)
                spent, after = gateway.cpu() - spent, panel.ask()
                spent -= idle * (time.monotonic() - began)
                # The first may be due again before the last was asked for.
                asked = after["ids"] - before["ids"]
                calls = after["status"] - before["status"]
                yield Result(
                    f"{orders:,} open orders followed on {name}, {what}",
                    f"{orders // BATCH:,} calls of {BATCH} orders",
                    (
                        figure("calls", [calls * BATCH / asked], at_most(1.1)),
                        figure("CPU µs an order", [spent * 1e6 / asked], at_most(30)),
                    ),
                )
                before = after


def call(stage: Stage) -> Iterator[Result]:
    """A call to a panel that answers at once."""
    port = str(stage.panels().port)

    def run(how: str) -> Sample:
        return stage.sample("calls", port, how, "16", str(stage.seconds))

    ones, others = alternate(stage.rounds, lambda: run("httpx"), lambda: run("gateway"))
    shares = [two.cpu / one.cpu for one, two in zip(ones, others, strict=True)]
    yield Result(
        "a call to a panel, 16 in flight",
        "httpx as it comes",
        (
            figure("CPU, of the reference's", shares, at_most(1 / 6)),
            figure("CPU ms a call", [one.cpu for one in others]),
            *told(ones, others),
        ),
    )


def memory(stage: Stage) -> Iterator[Result]:
    """What a gateway has of memory when nobody asks anything."""
    plan = Plan({"panel": stage.panels(services=SOLD)}, services=SOLD)
    with stage.gateway(plan, stage.database("sqlite")) as gateway:
        ask(gateway.port, f"/api/v2?key={gateway.keys[0]}&action=services")
        _quiet(gateway)
        ours, theirs = gateway.resident(), stage.constant.process.resident()
    yield Result(
        f"memory, idle, {SOLD:,} services",
        "a bare Starlette on uvicorn",
        (
            figure("resident, of the reference's", [ours / theirs], at_most(2.5)),
            figure("MB", [ours / MEGABYTE]),
            figure("reference MB", [theirs / MEGABYTE]),
        ),
    )


GROUPS = (
    Group("sync", sync),
    Group("follow", follow),
    Group("call", call),
    Group("memory", memory),
)
