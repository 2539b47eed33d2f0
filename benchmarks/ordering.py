"""The rows of placing orders: durable, through a panel that takes its time, or at once."""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import history
from benchmarks.figures import Figure, Goal, Result, at_least, at_most, figure
from benchmarks.load import Requests, Sample, alternate
from benchmarks.machine import Trouble
from benchmarks.rows import NAMES, ORDER, Group, Target, compared, ratio, told
from benchmarks.stage import Gateway, Panels, Plan, Stage, filled

DELAY = 20
"""Milliseconds that the panel takes."""
CUSTOMERS = 16
WAITING = 64
"""Orders that wait for a commit at once."""
SHORT = 2000
"""Orders of a business that has just begun."""
ASKED = 1000
"""The orders that are asked for, spread over the whole history."""
MANY, LONG = 128, 3
"""Clients enough for the panel's time not to be the limit, and seconds enough for them."""


def _target(stage: Stage, gateway: Gateway, customers: int = CUSTOMERS) -> Target:
    forms = [f"key={key}&action=add&{ORDER}" for key in gateway.keys[:customers]]
    requests = Requests(gateway.port, "/api/v2", forms)
    return Target(gateway, requests, stage.beside(gateway.url), fixed=False)


def _cpu(samples: Sequence[Sample]) -> Figure:
    return figure("CPU ms a request", [one.cpu for one in samples])


def _heard(panels: Sequence[Panels], samples: Sequence[Sample], before: int) -> None:
    """See that each answer was an order: the panels have them all."""
    answered = sum(one.requests for one in samples)
    placed = _orders(panels) - before
    if placed < answered:
        raise Trouble(f"{answered} orders were answered, and the panel has only {placed}")


def _orders(panels: Sequence[Panels]) -> int:
    return sum(panel.ask()["orders"] for panel in panels)


def add(stage: Stage) -> Iterator[Result]:
    """Orders through a panel of 20 ms, beside the same calls straight to it."""
    yield from _added(
        stage, "sqlite", {16: (at_least(0.88), at_most(3)), 64: (at_least(0.8), None)}
    )
    yield from _added(
        stage, "postgres", {16: (at_least(0.75), at_most(3)), 64: (at_least(0.75), None)}
    )


def _added(stage: Stage, kind: str, goals: dict[int, tuple[Goal, Goal | None]]) -> Iterator[Result]:
    panel, straight = stage.panels(delay=DELAY), stage.panels(delay=DELAY)
    calls = Requests(straight.port, "/api/v2", [f"action=add&{ORDER}&key=none"])
    plan = Plan({"panel": panel}, customers=CUSTOMERS)
    with stage.gateway(plan, stage.database(kind)) as gateway:
        for clients, (rate, added) in goals.items():
            before = _orders([panel])
            direct = Target(straight, calls, fixed=False)
            ones, others = compared(stage, (direct, _target(stage, gateway)), clients)
            _heard([panel], others, before)
            later = [two.p50 - one.p50 for one, two in zip(ones, others, strict=True)]
            yield Result(
                f"`add` on {NAMES[kind]}, {clients} clients",
                f"the same calls straight to the panel of {DELAY} ms",
                (
                    ratio(ones, others, rate),
                    figure("added to the p50, ms", later, added),
                    _cpu(others),
                    *told(ones, others),
                ),
            )
        if kind == "postgres" and not stage.quick:
            before = _orders([panel])
            many, single = _target(stage, gateway), _target(stage, gateway, customers=1)
            ones, others = compared(stage, (many, single), WAITING)
            _heard([panel], [*ones, *others], before)
            yield Result(
                f"`add` on PostgreSQL, all of one customer, {WAITING} clients",
                f"of {CUSTOMERS} customers",
                (ratio(ones, others, at_least(0.8)), _cpu(others), *told(ones, others)),
            )


def commits(stage: Stage) -> Iterator[Result]:
    """The books alone: what waits is committed together, beside a transaction an order."""
    for kind, name in stage.databases(NAMES).items():
        url = stage.database(kind)
        plan = Plan({"panel": stage.panels()}, customers=CUSTOMERS)
        filled(url, CUSTOMERS)
        counted: list[int] = []

        def run(how: str, url: str = url, counted: list[int] = counted) -> Sample:
            found = stage.sample("commits", url, how, str(WAITING), str(stage.seconds))
            counted.append(found.requests)
            return found

        ones, others = alternate(stage.rounds, lambda: run("single"), lambda: run("together"))
        if (found := stage.audit(plan, url)) < CUSTOMERS + sum(counted):
            raise Trouble(f"{sum(counted)} orders were answered, and the books have only {found}")
        yield Result(
            f"commits alone on {name}, {WAITING} waiting",
            "one transaction an order",
            (ratio(ones, others, at_least(8)), _cpu(others), *told(ones, others)),
        )


def past(stage: Stage) -> Iterator[Result]:
    """A long history behind the orders, beside a short one."""
    many = 200_000 if stage.quick else 10_000_000
    plans, urls = [], []
    for orders in (SHORT, many):
        urls.append(stage.database("sqlite"))
        keys = tuple(filled(urls[-1], 1, orders))
        plans.append(Plan({"panel": stage.panels()}, orders=orders, keys=keys))
    note = f"{many:,} orders instead of 10,000,000" if stage.quick else ""
    with (
        stage.gateway(plans[0], urls[0]) as short,
        stage.gateway(plans[1], urls[1], audited=False) as long,
    ):
        both = ((short, SHORT), (long, many))
        panels = [plan.panels["panel"] for plan in plans]
        before = _orders(panels)
        ones, others = compared(stage, [_target(stage, one) for one, _ in both], WAITING)
        _heard(panels, [*ones, *others], before)
        against = f"with {SHORT:,}"
        found = (ratio(ones, others, at_least(0.8)), _cpu(others), *told(ones, others))
        yield Result(f"`add` with {many:,} orders stored", against, found, note)
        asking = [
            Target(gateway, Requests(gateway.port, "/api/v2", _spread(gateway, orders)))
            for gateway, orders in both
        ]
        ones, others = compared(stage, asking, WAITING)
        found = (ratio(ones, others, at_least(0.8)), _cpu(others), *told(ones, others))
        yield Result(f"`status` with {many:,} orders stored", against, found, note)
    # The program's own audit reads every order, which takes minutes here.
    history.prove(urls[1], many + panels[1].ask()["orders"])


def _spread(gateway: Gateway, orders: int) -> list[str]:
    """Ask for orders from all over the history; their numbers have one length."""
    least = 10 ** (len(str(orders)) - 1) if orders < 10**6 else orders // 10
    chosen = range(least, orders, max((orders - least) // ASKED, 1))[:ASKED]
    return [f"key={gateway.keys[0]}&action=status&order={order}" for order in chosen]


def workers(stage: Stage) -> Iterator[Result]:
    """Two processes on two cores, beside one on one."""
    cores = stage.cores
    second = cores.beside if cores.beside != cores.loading else cores.loading
    shared = second == cores.loading
    if shared and stage.quick:
        note = "left out of a quick run: two cores, which the load needs as well, tell nothing"
        yield Result("two workers on PostgreSQL", "one worker", note=note)
        return
    note = "the load and the database share the second core" if shared else ""
    panels = [stage.panels(delay=DELAY), stage.panels(delay=DELAY)]
    plans = [Plan({"panel": panel}, customers=CUSTOMERS) for panel in panels]
    double = Plan({"panel": panels[1]}, customers=CUSTOMERS, workers=2)
    with (
        stage.gateway(plans[0], stage.database("postgres")) as one,
        stage.gateway(double, stage.database("postgres"), f"{cores.serving},{second}") as two,
    ):
        for row, forms, clients in (
            ("balance", lambda gateway: [f"key={gateway.keys[0]}&action=balance"], WAITING),
            ("add", None, MANY),
        ):
            yield _workers(stage, (one, two), row, forms, clients, note)


def _workers(
    stage: Stage,
    gateways: tuple[Gateway, Gateway],
    row: str,
    forms: Callable[[Gateway], list[str]] | None,
    clients: int,
    note: str,
) -> Result:
    targets = [
        Target(gateway, Requests(gateway.port, "/api/v2", forms(gateway)))
        if forms
        else _target(stage, gateway)
        for gateway in gateways
    ]
    seconds = LONG if clients == MANY else 0
    ones, others = compared(stage, targets, clients, seconds, judged=not note)
    return Result(
        f"`{row}` by two workers on PostgreSQL, {clients} clients",
        "one worker",
        (ratio(ones, others, at_least(1.6)), _cpu(others), *told(ones, others)),
        note,
    )


GROUPS = (
    Group("add", add),
    Group("commits", commits),
    Group("history", past),
    Group("workers", workers),
)
