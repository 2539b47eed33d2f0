"""What only the whole file can show: names that point elsewhere, and keys that exclude each other.

Rules look at the plain data and not at the models, so that they speak even where something else
in the file is wrong. Whatever has the wrong kind is passed over: the models say so.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import NamedTuple

from gateway.config.document import Steps, is_variable, shown, written
from gateway.config.values import CURRENCY, NO_CURRENCY, nearest, seconds
from gateway.order_types import table


class Broken(NamedTuple):
    """A rule that is broken at a place of the file."""

    path: Steps
    text: str
    key: bool = False


_FIELDS = {"key", "action", "service", "order", "orders", "refill", "refills"} | {
    name for row in table() for name in (*row.required, *row.optional)
}


_NO_CURRENCIES = {"from", "every", "max_age", "max_move", "date"}
"""The keys of ``exchange_rates`` that are about all of them."""


def check(data: object, adapters: Mapping[str, str]) -> Iterator[Broken]:
    """Yield every broken rule; ``adapters`` is each adapter's name with its default currency."""
    root = _block(data)
    providers = _block(root.get("providers"))
    yield from _currencies(root, providers, adapters)
    for name, row in providers.items():
        yield from _provider(("providers", name), _block(row), root, adapters)
    for number, row in _block(root.get("services")).items():
        yield from _service(("services", number), _block(row), providers)
    yield from _imports(_list(root.get("imports")), providers)
    yield from _tiers(root)
    yield from _ages(_block(root.get("orders")), _block(root.get("every")))


def _currencies(
    root: dict[str, object], providers: dict[str, object], adapters: Mapping[str, str]
) -> Iterator[Broken]:
    own, rates = root.get("currency"), _block(root.get("exchange_rates"))
    for code in rates:
        if code not in _NO_CURRENCIES and not CURRENCY.fullmatch(code):
            yield Broken(("exchange_rates", code), f"{shown(code)} {NO_CURRENCY}", key=True)
    if not isinstance(own, str):
        return
    rate = rates.get(own)
    if isinstance(rate, str) and _number(rate) not in {None, 1}:
        text = f"{written(own)} is the gateway's own currency, so that its rate is 1; remove it"
        yield Broken(("exchange_rates", own), text, key=True)
    for name, row in providers.items():
        block = _block(row)
        adapter, key = block.get("adapter"), "currency"
        currency = block.get("currency")
        if currency is None and isinstance(adapter, str):
            currency, key = adapters.get(adapter), "adapter"
        known = currency == own or currency in rates or "from" in rates
        if isinstance(currency, str) and not known:
            code = written(currency)
            text = f"{name} charges in {code}, which has no exchange rate; add it to exchange_rates"
            yield Broken(("providers", name, key), text)


def _provider(
    path: Steps, row: dict[str, object], root: dict[str, object], adapters: Mapping[str, str]
) -> Iterator[Broken]:
    adapter, key = row.get("adapter"), row.get("key")
    if isinstance(adapter, str) and adapter not in adapters:
        text = f"there is no adapter `{written(adapter)}`; {nearest(adapter, adapters)}"
        yield Broken((*path, "adapter"), text)
    if isinstance(key, str) and not is_variable(key):
        variable = re.sub(r"\W", "_", str(path[-1]), flags=re.ASCII).upper() + "_KEY"
        text = f"a key is never written in the file; write ${{{variable}}} and set that variable"
        yield Broken((*path, "key"), text)
    taken = {
        name
        for service in _block(root.get("services")).values()
        for kind in ("required", "optional")
        for name in _list(_block(_block(service).get("parameters")).get(kind))
        if isinstance(name, str)
    }
    for ours in _block(_block(row.get("dialect")).get("rename")):
        if ours not in _FIELDS | taken:
            text = f"no call has a field `{ours}`; {nearest(ours, _FIELDS | taken)}"
            yield Broken((*path, "dialect", "rename", ours), text, key=True)


def _service(path: Steps, row: dict[str, object], providers: dict[str, object]) -> Iterator[Broken]:
    routes = row.get("routes")
    if "routes" in row and routes in (None, []):
        yield Broken((*path, "routes"), "a service needs a route; write one such as panel/1")
    seen: set[str] = set()
    for index, route in enumerate(_list(routes)):
        if not isinstance(route, str):
            continue
        provider, slash, _ = route.partition("/")
        if slash and provider and provider not in providers:
            named = written(route).partition("/")[0]
            text = f"there is no provider `{named}`; {nearest(provider, providers)}"
            yield Broken((*path, "routes", index), text)
        if route in seen:
            text = f"route {shown(route)} stands here twice; remove one of them"
            yield Broken((*path, "routes", index), text)
        seen.add(route)
    yield from _price(path, row)
    least, most = _number(row.get("min")), _number(row.get("max"))
    if least is not None and most is not None and least > most:
        text = "min is more than max; give a smaller one"
        yield Broken((*path, "min"), text)
    yield from _parameters((*path, "parameters"), _block(row.get("parameters")))


def _price(path: Steps, row: dict[str, object]) -> Iterator[Broken]:
    if row.get("rate") is not None and row.get("markup") is not None:
        text = "a service has a rate or a markup, not both; remove one of them"
        yield Broken((*path, "rate"), text, key=True)
    for tier, said in _block(row.get("tiers")).items():
        given = {"rate", "markup"} & _block(said).keys()
        if isinstance(said, dict) and len(given) != 1:
            text = "a price group has a rate or a markup here, and one of them; such as rate: 1.10"
            yield Broken((*path, "tiers", tier), text, key=True)
    if row.get("allow_loss") == "true" and row.get("max_loss") is not None:
        text = "with allow_loss any loss is taken, so that max_loss says nothing; remove one"
        yield Broken((*path, "max_loss"), text, key=True)


_COUNTED = {
    "quantity": "quantity",
    "runs": "quantity",
    "comments": "comments",
    "usernames": "usernames",
}


def _parameters(path: Steps, row: dict[str, object]) -> Iterator[Broken]:
    required = _list(row.get("required"))
    counted = _COUNTED.get(str(row.get("size")))
    if isinstance(row.get("required"), list) and counted and counted not in required:
        text = f"size counts {counted}, which is not required; add it to required"
        yield Broken((*path, "size"), text)
    seen = []
    for kind in ("required", "optional"):
        for index, name in enumerate(_list(row.get(kind))):
            if name in seen and isinstance(name, str):
                text = f"parameter {shown(name)} is named twice; remove one of them"
                yield Broken((*path, kind, index), text)
            seen.append(name)


def _imports(imports: list[object], providers: dict[str, object]) -> Iterator[Broken]:
    first: set[str] = set()
    for index, item in enumerate(imports):
        row = _block(item)
        provider, ids_from = row.get("provider"), row.get("ids_from")
        if isinstance(provider, str) and provider not in providers:
            text = f"there is no provider `{written(provider)}`; {nearest(provider, providers)}"
            yield Broken(("imports", index, "provider"), text)
        if isinstance(ids_from, str):
            if ids_from in first:
                text = f"another import begins at {written(ids_from)} too; give each its own ids"
                yield Broken(("imports", index, "ids_from"), text)
            first.add(ids_from)


def _tiers(root: dict[str, object]) -> Iterator[Broken]:
    """Yield price groups that a part of the file knows and the file does not."""
    known = _block(root.get("tiers"))
    parts: list[tuple[Steps, object]] = [
        ((kind, name), row)
        for kind in ("providers", "services")
        for name, row in _block(root.get(kind)).items()
    ]
    parts += [(("imports", index), row) for index, row in enumerate(_list(root.get("imports")))]
    for path, row in parts:
        for tier in _block(_block(row).get("tiers")):
            if tier not in known:
                text = f"there is no price group `{written(tier)}`; {nearest(tier, known)}"
                yield Broken((*path, "tiers", tier), text, key=True)


def _ages(orders: dict[str, object], every: dict[str, object]) -> Iterator[Broken]:
    oldest, between = orders.get("max_catalog_age"), every.get("catalog", "10m")
    if isinstance(oldest, str) and isinstance(between, str):
        with suppress(ValueError):
            if seconds(oldest) <= seconds(between):
                text = "nothing would be sold between two catalogs; give more than every: catalog"
                yield Broken(("orders", "max_catalog_age"), text)


def _block(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _number(value: object) -> Decimal | None:
    fits = isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", value)
    return Decimal(str(value)) if fits else None
