"""``gateway provider list`` and ``gateway sync``: what is known of the providers."""

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.app import Gateway, open_gateway
from gateway.commands.terminal import (
    Json,
    command,
    err,
    fail,
    load_config,
    load_settings,
    moment,
    opened_store,
    show_json,
    show_table,
)
from gateway.errors import CallFailed
from gateway.money import text
from gateway.store import Sighting

app = typer.Typer(no_args_is_help=True, help="The panels that we buy from.")


@app.command("list")
@command
async def list_(json: Json = False) -> None:  # noqa: FBT002
    """Show each provider's health, balance, latency, orders in flight and last sync."""
    async with opened_store() as (store, config):
        seen = await store.sightings()
        in_flight = await store.in_flight()
    rows = []
    for name, provider in config.providers.items():
        one = seen.get(name, Sighting(name))
        low = (
            provider.low_balance is not None
            and one.balance is not None
            and one.balance < provider.low_balance * 1_000_000
        )
        health = "low balance" if low else "ok"
        if one.trouble:
            health = one.trouble
        elif one.synced_at is None and one.answered_at is None:
            health = "not seen yet"
        rows.append(
            {
                "provider": name,
                "adapter": provider.adapter,
                "health": health,
                "balance": None if one.balance is None else text(one.balance),
                "currency": one.currency or provider.currency,
                "latency_ms": one.latency,
                "in_flight": in_flight.get(name, 0),
                "services": one.offers,
                "last_sync": moment(one.synced_at),
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
                "services>",
                "last sync",
            ),
            [tuple(row.values()) for row in rows],
        )


class Synced(msgspec.Struct):
    """What became of fetching one provider's list."""

    provider: str
    services: int | None = None
    error: str | None = None
    left_out: list[str] = []


async def _sync(gateway: Gateway, name: str) -> Synced:
    try:
        rows, odd = await gateway.shop.sync(name)
    except CallFailed as failure:
        return Synced(name, error=str(failure))
    return Synced(name, services=rows, left_out=list(odd))


@command
async def sync(
    provider: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Fetch the providers' catalogs now."""
    found = load_settings()
    config = load_config(found)
    if provider and provider not in config.providers:
        fail(f"there is no provider {provider}; there are: {', '.join(config.providers)}")
    names = [provider] if provider else list(config.providers)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    async with open_gateway(config, found) as gateway:
        with Progress(*columns, console=err, transient=True, disable=json) as progress:
            progress.add_task(f"fetching {len(names)} catalogs")
            results = await asyncio.gather(*(_sync(gateway, name) for name in names))
        missing = sorted(set(config.services) - set(gateway.shop.catalog.services))
    if json:
        rows = [msgspec.to_builtins(one) for one in results]
        show_json({"providers": rows, "unavailable": missing})
    else:
        show_table(
            "Catalogs",
            ("provider", "services>", "left out>", "trouble"),
            [(one.provider, one.services, len(one.left_out), one.error) for one in results],
        )
        for one in results:
            for words in one.left_out:
                err.print(f"{one.provider}: left out: {words}", markup=False)
        if missing:
            err.print(f"unavailable: services {', '.join(map(str, missing))}", markup=False)
    if any(one.error for one in results):
        raise typer.Exit(1)
