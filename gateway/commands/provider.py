"""``gateway provider list`` and ``gateway sync``: what is known of the providers."""

import asyncio
import secrets
from collections import Counter
from typing import Annotated

import msgspec
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway import ledger
from gateway.app import Gateway, open_gateway
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.commands.terminal import (
    err,
    in_force,
    moment,
    now,
    opened_store,
    out,
    show_facts,
    show_table,
)
from gateway.config import Provider
from gateway.errors import CallFailed, Fault, TransferConflict, opening
from gateway.model import Decision
from gateway.money import MILLION, Money, text
from gateway.store import Sighting

_REFUSED = (
    "it refuses our account: is its key right in the environment, and is the account at the panel "
    "open and paid? Its orders take their next route meanwhile, if there is one"
)
_SILENT = "it is asked again by itself; its orders take their next route meanwhile, if there is one"

app = typer.Typer(no_args_is_help=True, help="The panels that we buy from.")


@app.command("list")
@command
async def list_(json: Json = False) -> None:  # noqa: FBT002
    """Show each provider's health, balance, latency, orders in flight and last sync."""
    async with opened_store() as (store, config):
        seen = await store.sightings()
        in_flight = await store.in_flight()
        at_risk = await store.at_risk()
        held = Counter(one.provider for one in await store.held() if one.decision is Decision.NONE)
    rows = []
    oldest = now() - int(config.max_catalog_age * 1000)
    for name, provider in config.providers.items():
        one = seen.get(name, Sighting(name))
        health, advice = _health(provider, one, oldest)
        rows.append(
            {
                "provider": name,
                "adapter": provider.adapter,
                "health": health,
                "balance": None if one.balance is None else text(one.balance),
                "currency": one.currency or provider.currency,
                "latency_ms": one.latency,
                "in_flight": in_flight.get(name, 0),
                "unsettled": text(at_risk.get(name, 0)),
                "services": one.offers,
                "last_sync": moment(one.synced_at),
                "held_back": held[name],
                "advice": advice,
            }
        )
    if json:
        show_json(rows)
    else:
        show_table(
            "Providers",
            (
                "provider",
                "adapter",
                "health",
                "balance>",
                "",
                "latency ms>",
                "in flight>",
                "unsettled>",
                "services>",
                "last sync",
                "held back>",
            ),
            [tuple(row.values())[:-1] for row in rows],
        )
        for row in rows:
            if row["advice"]:
                out.print(f"{row['provider']}: {row['advice']}", markup=False, soft_wrap=True)


def _health(provider: Provider, seen: Sighting, oldest: int) -> tuple[str, str | None]:
    """Return how a provider is, and what its owner can do about it.

    ``oldest``: from a list that was fetched before, nothing is sold.
    """
    if trouble := seen.trouble or "":
        refused = trouble.startswith(opening(Fault.ACCOUNT))
        return trouble, _REFUSED if refused else _SILENT
    if seen.synced_at is None and seen.answered_at is None:
        return "not seen yet", f"`gateway sync {seen.provider}` fetches its list"
    if (seen.synced_at or 0) < oldest:
        return "list too old", f"nothing is sold from it; `gateway sync {seen.provider}` tells why"
    floor = provider.low_balance
    if floor is not None and seen.balance is not None and seen.balance < floor * MILLION:
        return "low balance", (
            f"it is under {floor}; pay in there, and tell of it: "
            f"`gateway provider deposit {seen.provider} AMOUNT`"
        )
    return "ok", None


@app.command(context_settings={"ignore_unknown_options": True})  # an amount may be below zero
@command
async def deposit(
    name: Annotated[str, typer.Argument(help="The provider's name.")],
    amount: Annotated[str, typer.Argument(help="In the provider's currency, like 50.00.")],
    reference: Annotated[
        str | None,
        typer.Option(help="Your own name for this payment; a second time it does nothing."),
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Book money that you paid in at a provider, so that its balance can be explained."""
    async with opened_store() as (store, config):
        if name not in config.providers:
            fail(f"there is no provider {name}; there are: {', '.join(config.providers)}")
        try:
            paid = Money.of(amount, config.providers[name].currency)
        except ValueError as error:
            fail(f"{error}; write an amount like 50.00")
        if paid.micros <= 0:
            fail(f"{amount} is not a positive amount; write one like 50.00")
        try:
            (fresh,) = await store.post(
                [ledger.deposit(name, paid, reference or secrets.token_hex(8), now())]
            )
        except TransferConflict:
            fail("this reference was used for another amount; nothing was booked", 1)
    result = {"provider": name, "deposit": text(paid.micros), "currency": paid.currency}
    if json:
        show_json({**result, "posted": fresh})
    else:
        again = {} if fresh else {"": "this reference was booked before; nothing was done"}
        show_facts({**result, **again})


class Synced(msgspec.Struct):
    """What became of fetching one provider's list."""

    provider: str
    services: int | None = None
    error: str | None = None
    left_out: list[str] = []
    held_back: list[str] = []


async def _sync(gateway: Gateway, name: str) -> Synced:
    try:
        found = await gateway.sync.fetch(name)
    except CallFailed as failure:
        return Synced(name, error=str(failure))
    held = [f"{one}: {one.reason}" for one in found.held]
    return Synced(name, services=found.services, left_out=list(found.left_out), held_back=held)


async def _exchange(gateway: Gateway) -> str:
    """Fetch the exchange rates; returns what was wrong with them."""
    try:
        await gateway.sync.fetch_exchange_rates()
    except CallFailed as failure:
        return str(failure)
    return ""


@command
async def sync(
    provider: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Fetch the providers' catalogs now."""
    found = load_settings()
    config = await in_force(found)
    if provider and provider not in config.providers:
        fail(f"there is no provider {provider}; there are: {', '.join(config.providers)}")
    names = [provider] if provider else list(config.providers)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    async with open_gateway(config, found) as gateway:
        with Progress(*columns, console=err, transient=True, disable=json) as progress:
            progress.add_task(f"fetching {len(names)} catalogs")
            results = await asyncio.gather(*(_sync(gateway, name) for name in names))
            trouble = await _exchange(gateway)
        missing = sorted(set(config.services) - set(gateway.shop.catalog.services))
    if json:
        rows = [msgspec.to_builtins(one) for one in results]
        show_json({"providers": rows, "unavailable": missing})
    else:
        show_table(
            "Catalogs",
            ("provider", "services>", "left out>", "held back>", "trouble"),
            [
                (one.provider, one.services, len(one.left_out), len(one.held_back), one.error)
                for one in results
            ],
        )
        for one in results:
            for words in one.left_out:
                err.print(f"{one.provider}: left out: {words}", markup=False)
            for words in one.held_back:
                err.print(f"held back: {words}", markup=False)
        if missing:
            err.print(f"unavailable: services {', '.join(map(str, missing))}", markup=False)
    if trouble:
        err.print(trouble, markup=False)
    if trouble or any(one.error for one in results):
        raise typer.Exit(1)
