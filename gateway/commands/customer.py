"""``gateway customer …``: who may order, at which prices, with how much money."""

import secrets
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer

from gateway import auth, ledger
from gateway.app import announce
from gateway.cache import CUSTOMERS
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.commands.terminal import moment, now, opened_store, show_facts, show_table
from gateway.config import Config
from gateway.config.values import network
from gateway.errors import CustomerError, TransferConflict
from gateway.model import Customer, Transfer
from gateway.money import Money, text
from gateway.store import Balance, Store

app = typer.Typer(no_args_is_help=True, help="Customers, their keys and their money.")

MOST_PER_SECOND = 1_000_000
NUMBERS = {"ignore_unknown_options": True}
"""So that an amount below zero is not taken for an option, and what is wrong with it is said."""

Name = Annotated[str, typer.Argument(help="The customer's name.")]
Amount = Annotated[str, typer.Argument(help="An amount in the gateway's currency, like 25.50.")]
Reference = Annotated[
    str | None,
    typer.Option(help="Your own name for this payment; the same one a second time does nothing."),
]


def _amount(written: str, currency: str) -> Money:
    try:
        amount = Money.of(written, currency)
    except ValueError as error:
        fail(f"{error}; write an amount like 25.50")
    if amount.micros <= 0:
        fail(f"{written} is not a positive amount; write one like 25.50")
    return amount


def _tier(config: Config, tier: str) -> str:
    if tier and tier not in config.tiers:
        known = ", ".join(config.tiers) or "none"
        fail(f"{tier} is not a tier in the configuration; there are: {known}")
    return tier


async def _find(store: Store, name: str) -> Customer:
    found = [one for one in await store.customers() if one.name == name]
    if not found:
        fail(f"there is no customer {name}; `gateway customer list` shows all")
    return found[0]


async def _balance(store: Store, customer: Customer, currency: str) -> Balance:
    accounts = (await store.balances([customer.id]))[customer.id]
    return next((one for one in accounts if one.currency == currency), Balance(currency))


async def _facts(store: Store, customer: Customer, config: Config) -> dict[str, object]:
    balance = await _balance(store, customer, config.currency)
    return {
        "id": customer.id,
        "name": customer.name,
        "tier": customer.tier or None,
        "balance": text(balance.available),
        "held": text(balance.held),
        "spent": text(balance.sales),
        "owed": text(balance.owed),
        "currency": config.currency,
        "disabled": customer.disabled,
        "ordered_today": text(await store.ordered(customer.id, now())),
        "daily_cap": None if customer.daily_cap is None else text(customer.daily_cap),
        "addresses": list(customer.addresses),
        "per_second": customer.per_second,
        "created_at": moment(customer.created_at),
    }


@app.command()
@command
async def add(
    name: Name,
    credit: Annotated[str | None, typer.Option(help="Money to begin with.")] = None,
    tier: Annotated[str, typer.Option(help="A price group of the configuration.")] = "",
    json: Json = False,  # noqa: FBT002
) -> None:
    """Add a customer and print the key, this once."""
    async with opened_store() as (store, config):
        if not name.strip():
            fail("a customer needs a name")
        amount = _amount(credit, config.currency) if credit else None
        _tier(config, tier)
        key = auth.new_key()
        digest = auth.digest(await store.pepper(), key)
        draft = Customer(id=0, name=name, tier=tier, created_at=now())
        customer = await store.add_customer(draft, digest)
        await announce(store, load_settings(), CUSTOMERS)
        if customer is None:
            fail(f"there is a customer {name} already", 1)
        if amount:
            await store.post([ledger.top_up(customer.id, amount, "opening", now())])
        balance = await _balance(store, customer, config.currency)
        result = {
            "id": customer.id,
            "name": customer.name,
            "key": key,
            "tier": customer.tier or None,
            "balance": text(balance.available),
        }
        if json:
            show_json(result)
        else:
            show_facts(result | {"": "the key is shown this once; only its digest is kept"})


@app.command("list")
@command
async def list_(json: Json = False) -> None:  # noqa: FBT002
    """List all customers."""
    async with opened_store() as (store, config):
        rows = [await _facts(store, one, config) for one in await store.customers()]
    if json:
        show_json(rows)
    else:
        show_table(
            "Customers",
            ("id>", "name", "tier", "balance>", "held>", "spent>", ""),
            [
                (
                    row["id"],
                    row["name"],
                    row["tier"],
                    row["balance"],
                    row["held"],
                    row["spent"],
                    "disabled" if row["disabled"] else "",
                )
                for row in rows
            ],
        )


@app.command()
@command
async def show(name: Name, json: Json = False) -> None:  # noqa: FBT002
    """Show one customer."""
    async with opened_store() as (store, config):
        facts = await _facts(store, await _find(store, name), config)
    if json:
        show_json(facts)
    else:
        show_facts(facts)


async def _move(
    make: Callable[[int, Money, str, int], Transfer],
    name: str,
    written: str,
    reference: str | None,
    *,
    opposite: str,
    json: bool,
) -> None:
    """Post one transfer for a customer, and show what he has then.

    ``opposite``: the command that moves money the other way.
    """
    if written[:1] == "-":
        other = f"gateway customer {opposite} {name} {written[1:]}"
        fail(f"{written}: amounts are positive; the other way it is `{other}`")
    async with opened_store() as (store, config):
        customer = await _find(store, name)
        amount = _amount(written, config.currency)
        transfer = make(customer.id, amount, reference or secrets.token_hex(8), now())
        try:
            (fresh,) = await store.post([transfer])
        except CustomerError:
            there = text((await _balance(store, customer, config.currency)).available)
            fail(f"the balance of {name}, {there}, does not cover {amount}", 1)
        except TransferConflict:
            fail("this reference was used for another amount; nothing was moved", 1)
        balance = text((await _balance(store, customer, config.currency)).available)
    if json:
        show_json({"name": name, "balance": balance, "posted": fresh})
    else:
        again = {} if fresh else {"": "this reference was posted before; nothing was moved"}
        show_facts({"balance": balance} | again)


@app.command(context_settings=NUMBERS)
@command
async def credit(
    name: Name,
    amount: Amount,
    reference: Reference = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Credit a customer with money that he paid."""
    await _move(ledger.top_up, name, amount, reference, opposite="debit", json=json)


@app.command(context_settings=NUMBERS)
@command
async def debit(
    name: Name,
    amount: Amount,
    reference: Reference = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Take money from a customer, such as a payment that was charged back."""
    await _move(ledger.withdrawal, name, amount, reference, opposite="credit", json=json)


async def _change(name: str, *, json: bool, **fields: object) -> None:
    async with opened_store() as (store, config):
        customer = await _find(store, name)
        if "tier" in fields:
            _tier(config, str(fields["tier"]))
            if fields["tier"] != customer.tier:
                fields |= {"tier_before": customer.tier, "tier_at": now()}
        await store.set_customer(customer, msgspec.structs.replace(customer, **fields))
        await announce(store, load_settings(), CUSTOMERS)
        facts = await _facts(store, await _find(store, name), config)
    if json:
        show_json(facts)
    else:
        show_facts(facts)


@app.command()
@command
async def tier(
    name: Name,
    tier: Annotated[str, typer.Argument(help="A price group, or '' for none.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Put a customer into a price group."""
    await _change(name, json=json, tier=tier)


@app.command()
@command
async def limit(
    name: Name,
    daily: Annotated[
        str | None,
        typer.Option(help="What all orders of a day (UTC) may cost, refunded ones too, or `none`."),
    ] = None,
    addresses: Annotated[
        str | None,
        typer.Option("--from", help="Addresses and networks that the key works from, or `any`."),
    ] = None,
    per_second: Annotated[
        str | None, typer.Option(help="Requests in a second, or `usual`.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Limit what a key can do, so that a stolen one costs at most so much."""
    fields: dict[str, object] = {}
    if daily is not None:
        fields["daily_cap"] = None if daily == "none" else _amount(daily, "").micros
    if addresses is not None:
        fields["addresses"] = () if addresses == "any" else _networks(addresses)
    if per_second is not None:
        fields["per_second"] = None if per_second == "usual" else _per_second(per_second)
    if not fields:
        fail("say what to limit: --daily 50, --from 203.0.113.7,10.0.0.0/8 or --per-second 20")
    await _change(name, json=json, **fields)


def _networks(written: str) -> tuple[str, ...]:
    try:
        return tuple(network(one) for one in written.split(","))
    except ValueError as error:
        fail(f"--from: {error}")


def _per_second(written: str) -> int:
    if not (written.isascii() and written.isdigit() and 0 < int(written) <= MOST_PER_SECOND):
        fail(f"--per-second {written}: write a whole number from 1 to {MOST_PER_SECOND}, or usual")
    return int(written)


@app.command()
@command
async def key(name: Name, json: Json = False) -> None:  # noqa: FBT002
    """Make a new key for a customer, and end the old one."""
    async with opened_store() as (store, config):
        customer = await _find(store, name)
        new = auth.new_key()
        await store.set_customer(customer, customer, auth.digest(await store.pepper(), new))
        await announce(store, load_settings(), CUSTOMERS)
        balance = await _balance(store, customer, config.currency)
    result = {
        "id": customer.id,
        "name": name,
        "key": new,
        "tier": customer.tier or None,
        "balance": text(balance.available),
    }
    if json:
        show_json(result)
    else:
        show_facts(result | {"": "the old key ends within five seconds"})


@app.command()
@command
async def disable(name: Name, json: Json = False) -> None:  # noqa: FBT002
    """Answer a customer with `Account suspended` from now on."""
    await _change(name, json=json, disabled=True)


@app.command()
@command
async def enable(name: Name, json: Json = False) -> None:  # noqa: FBT002
    """Let a disabled customer order again."""
    await _change(name, json=json, disabled=False)
