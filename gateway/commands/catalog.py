"""``gateway catalog …``: what has changed at the providers, and what waits for the owner's word."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from gateway.app import Gateway, announce, open_gateway
from gateway.cache import CATALOG
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.commands.terminal import (
    in_force,
    moment,
    now,
    opened_store,
    out,
    show_facts,
    show_table,
    since,
)
from gateway.model import Decision, Held, OfferChange
from gateway.money import EXACT, rate_text
from gateway.services import Service

app = typer.Typer(no_args_is_help=True, help="What we sell, and what our providers make of it.")

MOST = 1000
PERCENT = 100
Ids = Annotated[
    list[str] | None,
    typer.Argument(help="As the quarantine shows them: provider/service, or a provider's list."),
]
Everything = Annotated[bool, typer.Option("--all", help="All that wait, of all providers.")]
Provider = Annotated[str, typer.Option(help="Only this provider's.")]


# --- the quarantine ---------------------------------------------------------------------------


@app.command()
@command
async def quarantine(
    provider: Provider = "",
    rejected: Annotated[  # noqa: FBT002
        bool, typer.Option("--rejected", help="Those too of which you want to hear no more.")
    ] = False,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Show the changes at providers that wait for your word."""
    async with opened_store() as (store, _):
        held = await store.held(provider)
    rows = [_held(one) for one in held if rejected or one.decision is Decision.NONE]
    if json:
        show_json(rows)
    else:
        show_table(
            "Quarantine",
            ("id", "since", "meanwhile", "why", "said"),
            [
                (row["id"], row["since"], row["meanwhile"], row["reason"], row["decision"])
                for row in rows
            ],
        )


def _held(one: Held) -> dict[str, Any]:
    meanwhile = "paused" if one.paused else "as it was"
    return {
        "id": str(one),
        "provider": one.provider,
        "since": moment(one.at),
        "meanwhile": meanwhile,
        "reason": one.reason,
        "decision": str(one.decision),
        "rate": f"{one.offered.rate:f}" if one.offered else None,
        "name": one.offered.name if one.offered else None,
    }


@app.command()
@command
async def accept(
    ids: Ids = None,
    everything: Everything = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> None:
    """Take over changes: a service's at once, a list when the provider gives it again."""
    await _decide(ids or [], Decision.ACCEPTED, everything=everything, json=json)


@app.command()
@command
async def reject(
    ids: Ids = None,
    everything: Everything = False,  # noqa: FBT002
    json: Json = False,  # noqa: FBT002
) -> None:
    """Leave things as they are; you are asked again when the provider changes them again."""
    await _decide(ids or [], Decision.REJECTED, everything=everything, json=json)


async def _decide(ids: Sequence[str], decision: Decision, *, everything: bool, json: bool) -> None:
    if bool(ids) == everything:
        fail("name what you decide, as gateway catalog quarantine shows it, or say --all")
    async with opened_store() as (store, _):
        held = await store.held()
        if everything:
            wanted = [one for one in held if one.decision is Decision.NONE]
        else:
            found = {str(one): one for one in held}
            if unknown := [one for one in ids if one not in found]:
                fail(f"not in quarantine: {', '.join(unknown)}", 1)
            wanted = [found[one] for one in dict.fromkeys(ids)]
        decided = await store.decide(wanted, decision, now())
        if decided:
            await announce(store, load_settings(), CATALOG)
    changed = [str(one) for one in wanted if one not in decided]
    if json:
        show_json({str(decision): [str(one) for one in decided], "changed_meanwhile": changed})
    else:
        show_table(
            decision.capitalize(), ("id", "why"), [(str(one), one.reason) for one in decided]
        )
    if changed:
        fail(f"changed meanwhile, so look again: {', '.join(changed)}", 1)


# --- what has changed -------------------------------------------------------------------------


@app.command()
@command
async def changes(
    since_: Annotated[str, typer.Option("--since", help="An age like 1d, or a date.")] = "1d",
    provider: Provider = "",
    limit: Annotated[int, typer.Option(min=1, help="The newest ones.")] = MOST,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Show what has changed about the providers' services, the newest first."""
    start = since(since_)
    async with opened_store() as (store, _):
        rows = [_change(one) for one in await store.changes(start, provider=provider, limit=limit)]
    if json:
        show_json(rows)
    else:
        show_table(
            "Changes",
            ("at", "id", "what", "before", "after"),
            [tuple(row.values()) for row in rows],
        )


def _change(one: OfferChange) -> dict[str, Any]:
    return {
        "at": moment(one.at),
        "id": f"{one.provider}/{one.offer}" if one.offer else one.provider,
        "what": one.kind,
        "before": one.before,
        "after": one.after,
    }


# --- one service ------------------------------------------------------------------------------


@app.command()
@command
async def show(
    service: Annotated[int, typer.Argument(help="The id that customers order by.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Show a service with its routes, what they cost, and what is left of each group's rate."""
    found = load_settings()
    config = await in_force(found)
    async with open_gateway(config, found) as gateway:
        held = {str(one): one for one in await gateway.store.held()}
        one = gateway.shop.catalog.services.get(service)
        if one is None:
            fail(f"{service} is {_why_not(gateway, service, held)}", 1)
        history = [
            change
            for route in one.routes
            for change in await gateway.store.changes(
                0, provider=route.provider, offer=route.offer.id, limit=20
            )
        ]
    groups = {"": "no tier", **dict.fromkeys(config.tiers, "")}
    routes = [_route(one, number, groups) for number in range(len(one.routes))]
    for row in routes:
        waits = held.get(row["route"])
        row["held_back"] = waits.reason if waits else None
    rows = [_change(change) for change in sorted(history, key=lambda change: -change.at)]
    if json:
        rates = {tier: rate_text(one.rate(tier)) for tier in groups}
        show_json(
            {
                **{name: getattr(one, name) for name in ("id", "name", "category", "min", "max")},
                "type": one.type.name,
                "rates": rates,
                "currency": config.currency,
                "routes": routes,
                "changes": rows,
            }
        )
        return
    show_facts(
        {
            "service": one.id,
            "name": one.name,
            "category": one.category,
            "type": one.type.name,
            "limits": f"{one.min} to {one.max}",
        }
    )
    for tier, name in groups.items():
        out.print()
        show_table(
            f"{name or tier}: {rate_text(one.rate(tier))} {config.currency}",
            ("route", "its rate>", "", "costs>", "is left>", "of it>", "held back"),
            [
                (
                    *(row[key] for key in ("route", "rate", "currency", "cost")),
                    row["margins"][tier]["margin"],
                    row["margins"][tier]["percent"],
                    row["held_back"],
                )
                for row in routes
            ],
        )
    out.print()
    show_table(
        "Changes", ("at", "id", "what", "before", "after"), [tuple(row.values()) for row in rows]
    )


def _why_not(gateway: Gateway, service: int, held: Mapping[str, Held]) -> str:
    """Return why a service is not there to be shown."""
    if not gateway.shop.declares(service):
        return "not a service of ours"
    waiting = [held[route] for route in _sold_as(gateway, service) if route in held]
    why = [f"; {waits} is paused: {waits.reason}" for waits in waiting if waits.paused]
    see = "; see gateway catalog quarantine --rejected" if why else ""
    return f"unavailable{''.join(why)}{see}"


def _sold_as(gateway: Gateway, service: int) -> list[str]:
    """Return the providers' services that the owner sells as one, as the quarantine names them."""
    if declared := gateway.config.services.get(service):
        return [f"{route.provider}/{route.service}" for route in declared.routes]
    ids = gateway.shop.given.ids if gateway.shop.given else {}
    return [f"{provider}/{one}" for (provider, one), number in ids.items() if number == service]


def _route(service: Service, number: int, groups: dict[str, str]) -> dict[str, Any]:
    route = service.routes[number]
    margins = {}
    for tier in groups:
        rate = service.rate(tier)
        left = EXACT.subtract(rate, route.rate)
        margins[tier] = {
            "margin": f"-{rate_text(-left)}" if left < 0 else rate_text(left),
            "percent": f"{left * PERCENT / rate:.1f}%" if rate else None,
        }
    return {
        "route": f"{route.provider}/{route.offer.id}",
        "name": route.offer.name,
        "rate": f"{route.offer.rate:f}",
        "currency": route.currency,
        "exchange": f"{route.exchange:f}",
        "cost": rate_text(route.rate),
        "min": route.offer.min,
        "max": route.offer.max,
        "margins": margins,
    }
