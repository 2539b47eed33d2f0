"""``gateway order …``: what was ordered, what became of it, and what the owner decides."""

import re
from typing import Annotated

import typer

from gateway import ledger, reporting, transitions
from gateway import settle as settle_
from gateway.app import open_gateway
from gateway.commands.terminal import (
    Json,
    command,
    err,
    fail,
    in_force,
    load_settings,
    moment,
    now,
    opened_store,
    out,
    show_facts,
    show_json,
    show_table,
)
from gateway.commands.terminal import since as since_
from gateway.config import Config
from gateway.errors import CallFailed, Fault
from gateway.evidence import Finding, Verdict
from gateway.model import Cancel, Event, Order, Refusal, Report, State, Status, Transfer
from gateway.money import text
from gateway.order_types import SUBSCRIPTIONS
from gateway.router import Router
from gateway.store import Failure, Filter, Step, Store, Transition
from gateway.transitions import Following
from gateway.upstream import Upstream
from gateway.view import remains

app = typer.Typer(no_args_is_help=True, help="Orders, and what the owner decides about them.")

Id = Annotated[int, typer.Argument(help="Our order id.")]
MOST_LATER = 10_000
"""Orders of a customer, the newest ones, among which one is looked for that replaces another."""
_UPSTREAM_ID = re.compile(r"[!-~]{1,64}")


def _row(order: Order, customers: dict[int, str]) -> dict[str, object]:
    charge = order.charge if order.state in ledger.UNDECIDED else ledger.net(order)
    return {
        "id": order.id,
        "customer": customers.get(order.customer, str(order.customer)),
        "service": order.service,
        "provider": order.provider or None,
        "upstream_id": order.upstream_id or None,
        "link": order.params.get("link") or order.params.get("username", ""),
        "quantity": order.size,
        "charge": text(charge),
        "status": order.word,
        "remains": remains(order),
        "created_at": moment(order.created_at),
    }


async def _names(store: Store) -> dict[int, str]:
    return {one.id: one.name for one in await store.customers()}


async def _get(store: Store, order_id: int) -> Order:
    found = await store.orders([order_id]) or await store.archived([order_id])
    if order_id not in found:
        fail(f"there is no order {order_id}")
    return found[order_id]


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
        names = await _names(store)
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
        rows = [_row(order, names) for order in orders]
        if status.casefold() == State.UNKNOWN:
            # What is to be decided is listed with what there is to decide it by.
            for row, order in zip(rows, orders, strict=True):
                row["evidence"] = await _evidence(store, config, order)
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


def _event(event: Event, currency: str) -> dict[str, object]:
    detail: dict[str, object] = dict(event.detail)
    if detail.get("attempt") == 0:  # restored from when it waited for its first
        never = ("attempt", "provider", "service", "began_at")
        detail = {name: value for name, value in detail.items() if name not in never}
        detail["note"] = "by these books no provider was asked for it"
    if isinstance(began := detail.get("began_at"), int):
        detail["began_at"] = moment(began)
    for name in ("charge", "cost"):
        if isinstance(amount := detail.get(name), int):
            detail[name] = f"{text(amount)} {currency}"
    return {"at": moment(event.at), "what": event.kind, **detail}


def _transfer(transfer: Transfer) -> dict[str, object]:
    return {
        "at": moment(transfer.at),
        "code": transfer.code,
        "amount": text(transfer.amount),
        "currency": transfer.currency,
    }


async def _evidence(store: Store, config: Config, order: Order) -> dict[str, object] | None:
    """Return what is to be known of an order whose outcome is not, and how it is decided."""
    command = f"gateway order settle {order.id}"
    if transitions.awaits_id(order):
        says = f"{order.provider} has it, under an id that is not known: it is followed no further"
        if order.cancel is Cancel.WANTED:
            says += f", and {order.provider} cannot be told that its cancel is wanted"
        return {"says": says, "decide": f"{command} --upstream THEIR_ID, or --not-placed"}
    if order.state is State.FAILED and order.upstream_id:
        return {"says": f"{order.provider} took it as {order.upstream_id}, and here it is given up"}
    if order.state is State.QUEUED:
        says = "no provider has it: it waits for a route that can take it, or a free place there"
        how = f"gateway catalog show {order.service} has its routes, gateway provider list their "
        return {"says": says, "decide": f"{how}providers; gateway order cancel {order.id} ends it"}
    if order.state is not State.UNKNOWN:
        return None
    if not order.provider:
        says = "it had no provider when it was backed up, and nobody knows if it was sent since"
        how = f"look for its link at every panel; {command} --not-placed where none has it"
        return {"says": says, "decide": how}
    findings = await settle_.weigh(store, config.providers, order.provider)
    absent = Finding(Verdict.OPEN, f"{order.provider} is not in the configuration")
    if order.provider in config.providers:
        absent = settle_.TOO_MANY
    found = findings.get(order.id, absent)
    decide = {
        Verdict.PLACED: f"{command} --placed, or with its id --upstream THEIR_ID",
        Verdict.NOT_PLACED: f"{command} --not-placed",
    }
    by_hand = f"look at the panel, then {command} --upstream THEIR_ID or --not-placed"
    facts: dict[str, object] = {"says": found.verdict, "why": found.why}
    if found.doubt:
        facts["but"] = found.doubt
    return {**facts, "decide": by_hand if found.doubt else decide.get(found.verdict, by_hand)}


async def _everything(store: Store, config: Config, order: Order) -> dict[str, object]:
    events, transfers = await store.history(order.id)
    began: dict[str, object] = {"at": moment(order.created_at), "what": "placed"}
    return {
        **_row(order, await _names(store)),
        "state": order.state,
        "type": order.type,
        "params": order.params,
        "currency": order.currency,
        "cost": text(ledger.cost(order)),
        "cost_currency": order.cost_currency or None,
        "start_count": order.start_count,
        "cancel": order.cancel or None,
        "told": order.error or None,
        "next_look": moment(order.poll_at),
        "evidence": await _evidence(store, config, order),
        "events": [began, *(_event(one, order.cost_currency) for one in events)],
        "transfers": [_transfer(one) for one in transfers],
        "refills": [
            {
                "refill": one.id,
                "status": one.status,
                "upstream_id": one.upstream_id or None,
                "created_at": moment(one.created_at),
            }
            for one in await store.refills_of(order.id)
        ],
    }


_TELLING = frozenset({"at", "what", "code", "amount", "currency", "note"})
"""Facts that need no name before them."""


def _show(facts: dict[str, object], *, json: bool) -> None:
    if json:
        show_json(facts)
        return
    lists = {name: facts.pop(name) for name in ("events", "transfers", "refills")}
    params = facts.pop("params")
    evidence = facts.pop("evidence")
    assert isinstance(params, dict)  # noqa: S101  # see _everything
    show_facts({name: value for name, value in facts.items() if value is not None})
    show_facts({f"  {name}": value for name, value in params.items()})
    if isinstance(evidence, dict):
        out.print("\nevidence", style="bold")
        show_facts({f"  {name}": value for name, value in evidence.items()})
    for name, rows in lists.items():
        assert isinstance(rows, list)  # noqa: S101  # see _everything
        if rows:
            out.print(f"\n{name}", style="bold")
        for row in rows:
            said = [
                str(value) if key in _TELLING else f"{key} {value}"
                for key, value in row.items()
                if value is not None
            ]
            out.print("  " + "  ".join(said), markup=False, soft_wrap=True)


@app.command()
@command
async def show(order_id: Id, json: Json = False) -> None:  # noqa: FBT002
    """Show every attempt, every status change and every movement of money of an order."""
    async with opened_store() as (store, config):
        facts = await _everything(store, config, await _get(store, order_id))
    _show(facts, json=json)


def _following(config: Config) -> Following:
    return Following(int(config.every.status * 1000), int(config.orders.follow_for * 1000))


@app.command()
@command
async def settle(
    order_id: Id,
    upstream: Annotated[str | None, typer.Option(help="Placed, under this id of theirs.")] = None,
    placed: Annotated[  # noqa: FBT002
        bool, typer.Option("--placed", help="They have it; under which id is not known.")
    ] = False,
    not_placed: Annotated[  # noqa: FBT002
        bool, typer.Option("--not-placed", help="They have no such order.")
    ] = False,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Decide an order whose outcome is not known; or name, or end, one that is placed.

    ``--not-placed`` ends one that is placed without an id, or under an id that they deny. Where an
    order was given a wrong id, ``--upstream`` gives it the right one, ``--placed`` takes it away.
    """
    if (upstream is not None) + placed + not_placed != 1:
        fail("say one of --upstream THEIR_ID, --placed and --not-placed")
    if upstream is not None and not _UPSTREAM_ID.fullmatch(upstream):
        fail(f"--upstream {upstream}: write the provider's order id, such as 23501")
    async with opened_store() as (store, config):
        order = await _get(store, order_id)
        denied = not_placed and order.state is State.PLACED and transitions.cancelable(order)
        nameless = upstream is not None and transitions.awaits_id(order)
        its_id = "" if placed else upstream
        events, transfers = await store.history(order_id)
        wrong = transitions.is_wrong(order, its_id, events)
        if order.state is not State.UNKNOWN and not (nameless or denied or wrong):
            fail(_not_settled(order), 1)
        if not (not_placed or order.provider):
            fail(f"order {order_id} had no provider when it was backed up; say --not-placed", 1)
        words = await _denial(config, order) if denied else ""
        if upstream is not None:
            await _see_that_it_is_known(config, order, upstream)
        change = transitions.settled(its_id, now(), _following(config), why=words, denied=denied)
        if wrong:
            change = transitions.corrected(
                order.upstream_id, its_id or "", events, transfers, now()
            )
        await _step(store, config, order_id, change, json=json)


def _not_settled(order: Order) -> str:
    by = f"; {order.provider} has it as {order.upstream_id}" if order.upstream_id else ""
    return f"order {order.id} is {order.word}{by}; only unknown orders are settled"


async def _denial(config: Config, order: Order) -> str:
    """Return how a provider denies an order; fails the command unless it does.

    Empty where there is nobody to be asked, or no id to ask for: then the owner's word is enough.
    """
    if not order.upstream_id or order.provider not in config.providers:
        return ""
    said = await _said(config, order.provider, order.upstream_id)
    if isinstance(said, Report):
        fail(f"{order.provider} has it as {order.upstream_id}: {said.word}", 1)
    if not isinstance(said, Refusal) or said.fault is not Fault.ORDER:
        fail(_unasked(order.provider, order.upstream_id, said), 1)
    return said.words


async def _see_that_it_is_known(config: Config, order: Order, upstream_id: str) -> None:
    """Fail the command when the provider denies that id; warn where it means another order."""
    provider = order.provider
    if provider not in config.providers:
        return
    said = await _said(config, provider, upstream_id)
    if isinstance(said, Refusal) and said.fault is Fault.ORDER:
        fail(f"{provider} has no order {upstream_id}: {said.words}", 1)
    if not isinstance(said, Report):
        err.print(_unasked(provider, upstream_id, said), markup=False, soft_wrap=True)
    elif order.type != SUBSCRIPTIONS and reporting.contradicts(order, said):
        charge = "" if said.charge is None else f" at {text(said.charge)}"
        quantity = "" if said.quantity is None else f" of {said.quantity}"
        costs = f"order {order.id} is of {order.size} and should cost {text(order.cost)}"
        again = f"if that is another one, say order settle {order.id} again, with the right id"
        words = f"{provider} has {upstream_id}{quantity}{charge}, while {costs}; {again}"
        err.print(words, style="yellow", markup=False, soft_wrap=True)


def _unasked(provider: str, upstream_id: str, said: Refusal | CallFailed | None) -> str:
    why = said.words if isinstance(said, Refusal) else said or "it left it out"
    return f"{provider} could not be asked for {upstream_id}: {why}"


async def _said(
    config: Config, provider: str, upstream_id: str
) -> Report | Refusal | CallFailed | None:
    """Return what a provider says of an order; ``None``: nothing."""
    upstream = Upstream()
    try:
        router = Router(config.providers, upstream, now)
        return (await router.status(provider, [upstream_id])).get(upstream_id)
    finally:
        await upstream.aclose()


async def _step(
    store: Store, config: Config, order_id: int, change: Transition, *, json: bool
) -> None:
    (after,) = await store.advance([Step(order_id, change)])
    if isinstance(after, Failure):
        fail(f"order {order_id} stays as it is: {after}", 1)
    _show(await _everything(store, config, after), json=json)


@app.command()
@command
async def cancel(order_id: Id, json: Json = False) -> None:  # noqa: FBT002
    """Ask the provider to cancel an order; one that was not sent yet is canceled at once."""
    found = load_settings()
    async with open_gateway(await in_force(found), found) as gateway:
        order = await _get(gateway.store, order_id)
        if not transitions.cancelable(order):
            fail(f"order {order_id} is {order.word}; there is nothing to cancel", 1)
        refusals = await gateway.follow.ask_cancels([order])
        await gateway.follow.drain(gateway.config.orders.answer_within)
        order = await _get(gateway.store, order_id)
        facts = await _everything(gateway.store, gateway.config, order)
    _show(facts, json=json)
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
        order = await _get(store, order_id)
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
        await _step(store, config, order_id, transitions.retried(now()), json=json)


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
