"""``gateway plan``: what a file would change against what is in force, before anybody sees it."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gateway import imports, pricing
from gateway.adapters import ADAPTERS
from gateway.app import open_store, read_config
from gateway.commands.start import Json, command, load_settings, show_json
from gateway.commands.terminal import err, out, show_table
from gateway.config import Config, placed
from gateway.errors import ConfigError
from gateway.imports import Found, Given
from gateway.model import Action, Customer, Offer
from gateway.money import rate_text
from gateway.services import Catalog, Service
from gateway.settings import Settings

MOST = 20
"""Rows of a table for people; programs get all of them."""

Offers = Mapping[str, Mapping[str, Offer]]
Rates = list[tuple[str, Decimal, Decimal]]
"""Of each price group: its name, the rate that is in force, and the one that would be."""


class Selling(msgspec.Struct):
    """A file, and what is for sale by it."""

    config: Config
    catalog: Catalog
    found: list[Found]

    @classmethod
    def by(cls, config: Config, offers: Offers, given: Given) -> "Selling":
        """Put together what a file sells of these offers; new ids are given in memory alone."""
        found = list(imports.find(config, offers))
        imports.give(given, imports.wanted(config, found, given), config.services)

        def can(provider: str, action: Action) -> bool:
            said = config.providers[provider]
            return action in ADAPTERS[said.adapter].actions - set(said.dialect.without)

        return cls(config, Catalog.make(config, offers, can, "", found, given), found)


class Changes(msgspec.Struct):
    """What a file would change.

    Attributes:
        ok: it can be taken up as it is.
        renamed: services with another name; some clients know them by it.
        rerouted: services with other routes, or of another type: customers may mean another thing.
        at_a_loss: price groups that would pay less for a service than its first route costs.
        customers: those who would pay other rates, or whose price group there is no more.

    """

    ok: bool = True
    mistakes: list[str] = []
    warnings: list[str] = []
    added: list[dict[str, object]] = []
    gone: list[dict[str, object]] = []
    dearer: list[dict[str, object]] = []
    cheaper: list[dict[str, object]] = []
    renamed: list[dict[str, object]] = []
    rerouted: list[dict[str, object]] = []
    at_a_loss: list[dict[str, object]] = []
    tiers: dict[str, list[str | None]] = {}
    customers: list[dict[str, object]] = []


@command
async def plan(
    file: Annotated[
        Path | None, typer.Argument(help="The file; else the one that is used.")
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Show what the owner's file would change against what is in force."""
    found = load_settings(config=file)
    try:
        changes = await _changes(found, read_config(found))
    except ConfigError as error:
        changes = Changes(ok=False, mistakes=list(error.mistakes))
    if json:
        show_json(msgspec.to_builtins(changes))
    else:
        _show(changes, str(found.config))
    if not changes.ok:
        raise typer.Exit(1)


async def _changes(found: Settings, config: Config) -> Changes:
    store = await open_store(found.database_url)
    try:
        kept = await store.kept_configuration()
        offers = await store.offers()
        given = await store.imported()
        customers = await store.customers()
    finally:
        await store.close()
    nothing = config.model_copy(update={"services": {}, "imports": [], "tiers": {}, "text": ""})
    before, warnings = nothing, []
    if kept is not None:
        try:
            before = read_config(found, kept)
        except ConfigError as error:
            warnings = [f"the file in force can't be read any more: {error.mistakes[0]}"]
    old = Selling.by(before, offers, copy.deepcopy(given))
    new = Selling.by(config, offers, copy.deepcopy(given))
    changes = compare(old, new, customers)
    changes.mistakes = placed(config, str(found.config), _ambiguous(config, given))
    changes.ok = not changes.mistakes
    changes.warnings = warnings + placed(config, str(found.config), _doubtful(new, offers))
    return changes


# --- what is not clear ----------------------------------------------------------------------------

Said = Iterator[tuple[tuple[str | int, ...], str]]
"""Places of the file, and what is to be said of them."""


def _ambiguous(config: Config, given: Given) -> Said:
    """Yield ids that customers know as something else."""
    meant = {number: key for key, number in given.ids.items()}
    for number, entry in config.services.items():
        key = meant.get(number)
        if key and key not in {(route.provider, route.service) for route in entry.routes}:
            service = "/".join(key)
            text = f"id {number} was given to {service} by an import, and would mean another"
            yield ("services", str(number)), f"{text} service; give another id, or that route"


def _doubtful(new: Selling, offers: Offers) -> Said:
    """Yield what is legal, and hardly meant."""
    services = new.catalog.services
    for number, entry in new.config.services.items():
        for index, route in enumerate(entry.routes):
            known = offers.get(route.provider)
            if known is None:
                text = f"nothing is known yet of {route.provider}'s catalog"
                yield ("services", str(number), "routes", index), text
            elif route.service not in known:
                text = f"{route.provider} has no service {route.service} now"
                yield ("services", str(number), "routes", index), text
    names = Counter(service.name for service in services.values())
    for number in new.config.services:
        service = services.get(number)
        if service and names[service.name] > 1:
            text = f"{names[service.name]} services would be called {service.name!r}"
            yield ("services", str(number)), f"{text}; some clients know them by their names"
    taken = Counter(one.rule for one in new.found)
    for index in range(len(new.config.imports)):
        if not taken[index]:
            yield ("imports", index), "nothing fits this rule that no rule before it takes"


# --- what would be otherwise ----------------------------------------------------------------------


def compare(old: Selling, new: Selling, customers: Sequence[Customer]) -> Changes:
    """Return what would change for whom; mistakes and warnings are not looked for."""
    before, after = old.catalog.services, new.catalog.services
    changes = Changes(
        added=[_row(one) for number, one in after.items() if number not in before],
        gone=[_row(one) for number, one in before.items() if number not in after],
    )
    groups = ["", *dict.fromkeys([*old.config.tiers, *new.config.tiers])]
    dearer, cheaper = Counter[str](), Counter[str]()
    for number, service in after.items():
        changes.at_a_loss += [_loss(service, tier) for tier in service.losing]
        was = before.get(number)
        if was is None:
            continue
        if was.name != service.name:
            changes.renamed.append({"service": number, "before": was.name, "after": service.name})
        if (routes := _routes(was)) != _routes(service) or was.type.name != service.type.name:
            changes.rerouted.append(
                {
                    "service": number,
                    "name": service.name,
                    "before": [was.type.name, *routes],
                    "after": [service.type.name, *_routes(service)],
                }
            )
        rates = [(tier, was.rate(tier), service.rate(tier)) for tier in groups]
        risen = [one for one in rates if one[2] > one[1]]
        fallen = [one for one in rates if one[2] < one[1]]
        dearer.update(tier for tier, *_ in risen)
        cheaper.update(tier for tier, *_ in fallen)
        changes.dearer += [_moved(service, risen)] if risen else []
        changes.cheaper += [_moved(service, fallen)] if fallen else []
    changes.tiers = {
        "added": [one for one in new.config.tiers if one not in old.config.tiers],
        "gone": [one for one in old.config.tiers if one not in new.config.tiers],
        "changed": [one or None for one in groups if dearer[one] or cheaper[one]],
    }
    for customer in customers:
        tier = customer.tier if customer.tier in groups else ""
        if dearer[tier] or cheaper[tier] or tier in changes.tiers["gone"]:
            changes.customers.append(
                {
                    "customer": customer.name,
                    "tier": customer.tier or None,
                    "dearer": dearer[tier],
                    "cheaper": cheaper[tier],
                    "tier_gone": tier in changes.tiers["gone"],
                }
            )
    return changes


def _routes(service: Service) -> list[str]:
    return [f"{route.provider}/{route.offer.id}" for route in service.routes]


def _row(service: Service) -> dict[str, object]:
    return {
        "service": service.id,
        "name": service.name,
        "category": service.category,
        "routes": _routes(service),
        "rates": [
            {"tier": tier or None, "rate": rate_text(service.rate(tier))} for tier in service.prices
        ],
    }


def _moved(service: Service, rates: Rates) -> dict[str, object]:
    return {
        "service": service.id,
        "name": service.name,
        "rates": [
            {"tier": tier or None, "before": rate_text(was), "after": rate_text(will)}
            for tier, was, will in rates
        ],
    }


def _loss(service: Service, tier: str) -> dict[str, object]:
    rate, most = service.rate(tier), service.max_loss
    return {
        "service": service.id,
        "name": service.name,
        "tier": tier or None,
        "rate": rate_text(rate),
        "cost": rate_text(service.routes[0].rate),
        "provider": service.routes[0].provider,
        "sold": most is None
        or any(route.rate <= pricing.sell(rate, most) for route in service.routes),
    }


# --- for people -----------------------------------------------------------------------------------


def _show(changes: Changes, name: str) -> None:
    for line in (*changes.mistakes, *changes.warnings):
        err.print(line, markup=False, soft_wrap=True)
    if changes.mistakes:
        return
    for title in ("added", "gone"):
        _table(title, ("service", "name", "routes", "rates"), getattr(changes, title))
    for title in ("dearer", "cheaper"):
        _table(title, ("service", "name", "rates"), getattr(changes, title))
    _table("renamed", ("service", "before", "after"), changes.renamed)
    _table("rerouted", ("service", "name", "before", "after"), changes.rerouted)
    columns = ("service", "name", "tier", "rate", "cost", "provider", "sold")
    _table("at a loss", columns, _grouped(changes.at_a_loss))
    tiers = [
        {"tier": tier or "(none)", "what": what}
        for what, names in changes.tiers.items()
        for tier in names
    ]
    _table("tiers", ("tier", "what"), tiers)
    touched = ("customer", "tier", "dearer", "cheaper", "tier_gone")
    _table("customers", touched, _grouped(changes.customers))
    moved = changes.dearer, changes.cheaper, changes.renamed, changes.rerouted
    if not any((changes.added, changes.gone, *moved)):
        out.print(f"{name}: every service and every rate stays as it is", markup=False)


def _grouped(rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Return rows in which it stands for people that somebody is in no price group."""
    return [{**row, "tier": row["tier"] or "(none)"} for row in rows]


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        cells = [[_cell(row[column]) for column in columns] for row in rows[:MOST]]
        names = [name.replace("_", " ") for name in columns]
        show_table(f"{title}: {len(rows)}".capitalize(), names, cells)
        if len(rows) > MOST:
            out.print(f"… and {len(rows) - MOST} more; --json has all of them", markup=False)


def _cell(value: object) -> object:
    """Return a list in one line, and each rate with whom it is for."""
    if isinstance(value, list):
        return ", ".join(str(_cell(one)) for one in value)
    if isinstance(value, dict):
        group = f"{value['tier']}: " if value["tier"] else ""
        return f"{group}{value.get('rate') or '{before} → {after}'.format(**value)}"
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
