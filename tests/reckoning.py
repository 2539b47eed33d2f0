"""What the customers were told, what the books say and what the panels have, compared.

Order by order and to the last millionth, when everything has come to rest.
"""

import asyncio
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scenes import CREDITS, ENDS, OFFERS, PATIENCE, RATES, Scene, end
from traffic import Wish

Row = Mapping[str, Any]
AGREED = ("provider", "order", "service", "size")
"""What our books and a panel say of an order in the same words."""
EVERY_ORDER = ("order", "list", "--limit", "1000000")


@dataclass
class Books:
    """What is known when everything is at rest: by the gateway, at the panels, by customers."""

    rows: list[dict[str, Any]]
    taken: list[dict[str, Any]]
    customers: dict[str, dict[str, Any]]
    wishes: list[Wish]

    def rows_of(self, wish: Wish) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["link"] == wish.link]

    def at_panels(self, link: str) -> list[dict[str, Any]]:
        return [one for one in self.taken if one["link"] == link]


def failed(row: Row) -> bool:
    """Tell whether no provider has it: refused, or given up after its customer had the id."""
    return row["upstream_id"] is None and row["status"] in ("failed", "Canceled")


def undecided(row: Row) -> bool:
    """Tell whether an order is queued or being sent."""
    return row["upstream_id"] is None and row["status"] not in ("failed", "Canceled", "unknown")


def restless(row: Row, taken: Mapping[tuple[str, str], Row]) -> bool:
    """Tell whether something must still happen to an order: it is under way, or behind."""
    if row["upstream_id"] is None:
        return undecided(row)
    theirs = taken.get((row["provider"], row["upstream_id"]))
    return theirs is not None and ENDS.get(theirs["status"]) != row["status"]


async def rest(scene: Scene) -> None:
    """Wait until nothing is under way any more, and every order has reached its end."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        await scene.panels.behind("smm1st", "clock", forward=3600)
        # The panels last: else an order sent in between would seem to be at rest.
        rows = await scene.site.command(*EVERY_ORDER)
        taken = await scene.panels.orders(scene.traffic.prefix)
        by_id = {(one["provider"], str(one["order"])): one for one in taken}
        moving = [row for row in rows if restless(row, by_id)]
        if not moving:
            return
        assert loop.time() < until, (moving[:5], scene.site.log())
        await asyncio.sleep(0.3)


async def reckon(scene: Scene) -> Books:
    """Stop everything that is at rest, and compare all that was said, booked and bought."""
    await rest(scene)

    codes = {await end(run, signal.SIGTERM) for run in scene.site.running()}
    assert {0} == codes, (codes, scene.site.log())
    rows = await scene.site.command(*EVERY_ORDER)
    customers = await scene.site.command("customer", "list")
    audit = await scene.site.command("audit")
    taken = await scene.panels.orders(scene.traffic.prefix)
    by_name = {one["name"]: one for one in customers}
    books = Books(rows, taken, by_name, scene.traffic.wishes)
    wrong = [*scene.traffic.surprises, *_told(books), *_bought(books), *_money(books)]
    wrong += audit["problems"]

    assert [] == wrong, "\n".join([*wrong, scene.site.log()])
    return books


def _told(books: Books) -> Iterator[str]:
    """What customers were told is so: an acknowledged order exists, a key has one."""
    by_id = {row["id"]: row for row in books.rows}
    for wish in books.wishes:
        if len(set(wish.ids)) > 1:
            yield f"{wish.link} was given several ids: {wish.ids}"
        for order in set(wish.ids):
            row = by_id.get(order)
            if row is None:
                yield f"order {order} was acknowledged, and does not exist"
            elif row["link"] != wish.link or row["customer"] != wish.customer.name:
                yield f"order {order} was acknowledged for {wish.link}, and is {row}"
        rows = books.rows_of(wish)
        alive = [row["id"] for row in rows if not failed(row)]
        if len(alive) > 1 or (len(rows) > 1 and not wish.key):
            yield f"{wish.link}, wanted once, is the orders {[row['id'] for row in rows]}"
        if wish.refusals and not wish.ids and not wish.lost and alive:
            yield f"order {alive} was refused with {wish.refusals}, and stands"


def _bought(books: Books) -> Iterator[str]:
    """Every order is at its provider once; or it failed, or is not known, and is there or not."""
    orders: dict[str, list[Row]] = {one["link"]: [] for one in books.taken}
    for row in books.rows:
        orders.setdefault(row["link"], []).append(row)
    for link, rows in orders.items():
        there = books.at_panels(link)
        if not rows:
            yield f"{there} is at a provider and in no book"
        if len(there) > 1:
            yield f"{rows} is at the providers more than once: {there}"
        alive = [row for row in rows if not failed(row)]
        if [row["status"] for row in alive] == ["unknown"]:
            continue
        expected = [
            {
                "provider": row["provider"],
                "order": int(row["upstream_id"]),
                "service": OFFERS[row["service"], row["provider"]],
                "size": row["quantity"],
            }
            for row in alive
            if row["upstream_id"]
        ]
        if expected != [{name: one[name] for name in AGREED} for one in there]:
            yield f"the providers should have {expected} of {rows}, and have {there}"


def _money(books: Books) -> Iterator[str]:
    """Each order costs what it should, and each customer has what his orders left him."""
    for name, paid in CREDITS.items():
        mine = [row for row in books.rows if row["customer"] == name]
        for row in mine:
            if Decimal(row["charge"]) != (right := _charge(books, row)):
                yield f"order {row['id']} is charged {row['charge']} instead of {right}: {row}"
        held = sum((_charge(books, row) for row in mine if row["status"] == "unknown"), Decimal(0))
        spent = sum((_charge(books, row) for row in mine), Decimal(0)) - held
        left = Decimal(paid) - held - spent
        due = {"balance": left, "held": held, "spent": spent, "owed": Decimal(0)}
        booked = {what: Decimal(books.customers[name][what]) for what in due}
        if booked != due:
            yield f"{name} has {booked} instead of {due}"


def _charge(books: Books, row: Row) -> Decimal:
    """Return what an order should be charged or held, from what the panel has delivered."""
    if failed(row):
        return Decimal(0)
    rate = RATES[row["service"]]
    if row["status"] in ("unknown", "Completed"):
        return rate * int(row["quantity"])
    if row["status"] == "Canceled":
        return Decimal(0)
    return rate * sum(int(one["done"]) for one in books.at_panels(row["link"]))
