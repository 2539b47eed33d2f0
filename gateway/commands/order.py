"""``gateway order …``: what was ordered, what became of it, and what the owner decides."""

from typing import Annotated

import typer

from gateway import transitions
from gateway.app import open_gateway
from gateway.commands.order_facts import (
    Id,
    everything_of,
    evidence_of,
    get_order,
    names_of_customers,
    row_of,
    show_order,
    take_step,
)
from gateway.commands.order_settle import settle
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.commands.terminal import in_force, now, opened_store, out, show_facts, show_table
from gateway.commands.terminal import since as since_
from gateway.config import Config
from gateway.model import Cancel, Order, State, Status
from gateway.store import Filter, Store

app = typer.Typer(no_args_is_help=True, help="Orders, and what the owner decides about them.")

MOST_LATER = 10_000
"""Orders of a customer, the newest ones, among which one is looked for that replaces another."""


async def _see_that_it_is_a_provider(store: Store, config: Config, name: str) -> None:
    """Fail the command when neither the file nor any order names such a provider."""
    if name in ("", *config.providers) or await store.find_orders(Filter(provider=name, limit=1)):
        return
    known = ", ".join(config.providers) or "none"
    fail(f"nothing was ordered from {name}, and the file has no such provider: {known}")


@app.command("list")
@command
async def list_(  # a flag each
    status: Annotated[str, typer.Option(help="As the list shows it, or `unknown`, `failed`.")] = "",
    customer: Annotated[str, typer.Option(help="A customer's name.")] = "",
    provider: Annotated[str, typer.Option(help="A provider's name.")] = "",
    since: Annotated[str, typer.Option(help="An age like 1d, or a date.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,  # noqa: FBT002
) -> None:
    """List orders, newest first."""
    words = {one.casefold() for one in (*Status, "unknown", "failed")}
    if status and status.casefold() not in words:
        fail(f"--status {status}: one of {', '.join((*Status, 'unknown', 'failed'))}")
    async with opened_store() as (store, config):
        names = await names_of_customers(store)
        ids = {name: customer_id for customer_id, name in names.items()}
        if customer and customer not in ids:
            fail(f"there is no customer {customer}; `gateway customer list` shows all")
        wanted = Filter(
            status=status,
            customer=ids.get(customer),
            provider=provider,
            since=since_(since) if since else 0,
            limit=limit,
        )
        orders = await store.find_orders(wanted)
        if not orders:
            await _see_that_it_is_a_provider(store, config, provider)
        rows = [row_of(order, names) for order in orders]
        if status.casefold() == State.UNKNOWN:
            # What is to be decided is listed with what there is to decide it by.
            for row, order in zip(rows, orders, strict=True):
                row["evidence"] = await evidence_of(store, config, order)
    if json:
        show_json(rows)
        return
    columns = (
        ("id>", "id"),
        ("customer", "customer"),
        ("service>", "service"),
        ("provider", "provider"),
        ("their id", "upstream_id"),
        ("quantity>", "quantity"),
        ("charge>", "charge"),
        ("status", "status"),
        ("remains>", "remains"),
        ("created", "created_at"),
    )
    show_table(
        "Orders",
        [title for title, _ in columns],
        [[row[name] for _, name in columns] for row in rows],
    )
    for row in rows:
        if isinstance(evidence := row.get("evidence"), dict):
            out.print(f"\norder {row['id']}", style="bold")
            show_facts({f"  {name}": value for name, value in evidence.items()})


@app.command()
@command
async def show(order_id: Id, json: Json = False) -> None:  # noqa: FBT002
    """Show every attempt, every status change and every movement of money of an order."""
    async with opened_store() as (store, config):
        facts = await everything_of(store, config, await get_order(store, order_id))
    show_order(facts, json=json)


app.command()(settle)


@app.command()
@command
async def cancel(order_id: Id, json: Json = False) -> None:  # noqa: FBT002
    """Ask the provider to cancel an order; one that was not sent yet is canceled at once."""
    found = load_settings()
    async with open_gateway(await in_force(found), found) as gateway:
        order = await get_order(gateway.store, order_id)
        if not transitions.cancelable(order):
            fail(f"order {order_id} is {order.word}; there is nothing to cancel", 1)
        refusals = await gateway.aftersales.ask_cancels([order])
        await gateway.aftersales.drain(gateway.config.orders.answer_within)
        order = await get_order(gateway.store, order_id)
        facts = await everything_of(gateway.store, gateway.config, order)
    show_order(facts, json=json)
    if refusals.get(order_id):
        fail("the provider refused; its words are in the events above", 1)
    if order.cancel is Cancel.WANTED and transitions.awaits_id(order):
        fail(f"{order.provider} cannot be told, since its id of the order is not known", 1)
    if order.cancel is Cancel.WANTED:
        fail("the provider has not heard it yet; the background asks again", 1)


@app.command()
@command
async def retry(order_id: Id, json: Json = False) -> None:  # noqa: FBT002
    """Hold a failed order's charge again, and queue it for the routes that there are now."""
    async with opened_store() as (store, config):
        order = await get_order(store, order_id)
        if order.state is not State.FAILED:
            fail(f"order {order_id} is {order.word}; only failed orders are tried again", 1)
        if order.upstream_id:
            fail(
                f"order {order_id} was taken by {order.provider} as {order.upstream_id}, and here "
                "it is given up; sent again it may be there twice",
                1,
            )
        if (again := await _ordered_again(store, order)) is not None:
            fail(
                f"order {again} is the same, placed since then; with order {order_id} sent as "
                "well, its customer would have it twice, and pay for both",
                1,
            )
        await take_step(store, config, order_id, transitions.retried(now()), json=json)


async def _ordered_again(store: Store, order: Order) -> int | None:
    """Return the order by which a customer has replaced one since it failed, if there is one.

    Whoever hears an error may order the same again, also under the same key.
    """
    _, transfers = await store.history(order.id)
    failed_at = max((one.at for one in transfers), default=order.created_at)
    wanted = Filter(customer=order.customer, since=failed_at, limit=MOST_LATER)
    for later in await store.find_orders(wanted):
        same = (later.service, later.params) == (order.service, order.params)
        if same and later.id > order.id and later.state is not State.FAILED:
            return later.id
    return None
