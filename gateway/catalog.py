"""What is for sale: local ids, the routes that can fulfil each, and the rates of each price group.

A ``Catalog`` is one edition, never changed; the ``Shop`` holds the edition in force and makes the
next one when providers' offers change.
"""

import asyncio
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial

import msgspec
import structlog

from gateway import money, order_types, pricing
from gateway.config import Config
from gateway.config import Service as Declared
from gateway.model import Action, Offer
from gateway.offload import offload
from gateway.order_form import Form, Limits
from gateway.order_types import OrderType, Size
from gateway.router import Router
from gateway.store import Store
from gateway.transitions import Choice

log = structlog.get_logger()


class Route(msgspec.Struct, frozen=True, gc=False):
    """A provider's offer that can fulfil a service.

    Attributes:
        currency: the provider's.
        exchange: one unit of it in the gateway's currency.
        rate: what 1000 cost us there, in the gateway's currency.

    """

    provider: str
    offer: Offer
    currency: str
    exchange: Decimal
    rate: Decimal


class Service(msgspec.Struct, frozen=True, gc=False):
    """Something that customers can order.

    Attributes:
        routes: in the order in which they are tried.
        markups: by price group, ``""`` for customers in none; empty when ``fixed`` is set.
        fixed: a rate that the owner set, in the gateway's currency.

    """

    id: int
    name: str
    type: OrderType
    category: str
    description: str
    min: int
    max: int
    refill: bool
    cancel: bool
    dripfeed: bool
    routes: tuple[Route, ...]
    markups: Mapping[str, Decimal]
    fixed: Decimal | None
    allow_loss: bool
    posts: int

    def rate(self, tier: str) -> Decimal:
        """Return what 1000 (or one package) cost a customer of this price group."""
        if self.fixed is not None:
            return self.fixed
        markup = self.markups.get(tier, self.markups[""])
        return pricing.sell(self.routes[0].rate, markup)

    def charge(self, size: int, tier: str) -> int:
        """Return the price of an order, in millionths."""
        return money.charge(self.rate(tier), size, self.per)

    @property
    def per(self) -> int:
        """How many units the rate is for."""
        return 1 if self.type.size is Size.ONE else money.PER

    @property
    def limits(self) -> Limits:
        """What an order form is checked against."""
        return Limits(self.min, self.max, self.dripfeed, self.posts)

    def choices(self, form: Form, charge: int) -> list[Choice]:
        """Return the routes that can take this order without a loss, in order."""
        found = []
        for route in self.routes:
            cost = money.charge(route.offer.rate, form.size, self.per)
            fits = form.quantity is None or route.offer.min <= form.quantity <= route.offer.max
            loss = pricing.costs_more(cost, route.exchange, charge)
            if fits and (self.allow_loss or not loss):
                found.append(
                    Choice(route.provider, route.offer, cost, route.currency, f"{route.exchange:f}")
                )
        return found


class Catalog:
    """One edition of what is for sale."""

    def __init__(self, services: Mapping[int, Service], edition: str) -> None:
        self.services = services
        self.edition = edition

    @classmethod
    def make(
        cls,
        config: Config,
        offers: Mapping[str, Mapping[str, Offer]],
        actions: Callable[[str, Action], bool],
        edition: str = "",
    ) -> "Catalog":
        """Put together what the owner declares and what the providers offer now."""
        services = {}
        for service_id, declared in config.services.items():
            service = _service(service_id, declared, config, offers, actions)
            if service is not None:
                services[service_id] = service
        return cls(services, edition)


def _service(
    service_id: int,
    declared: Declared,
    config: Config,
    offers: Mapping[str, Mapping[str, Offer]],
    actions: Callable[[str, Action], bool],
) -> Service | None:
    """Return a service with the routes that exist now; ``None`` when it has none."""
    routes = _routes(declared, config, offers)
    if not routes:
        return None
    first = routes[0]
    kind = _type(declared, first.offer)
    if kind is None:
        log.warning(
            "not for sale: say under `parameters:` what its type takes",
            service=service_id,
            type=first.offer.type,
            provider=first.provider,
        )
        return None
    # A route of another type would take other parameters than the customer was asked for.
    same = [route for route in routes if _type(declared, route.offer) == kind]
    for route in set(routes) - set(same):
        log.warning(
            "route left out: its type differs",
            service=service_id,
            provider=route.provider,
            type=route.offer.type,
        )
    if declared.routing == "cheapest":
        same.sort(key=lambda route: route.rate)
        first = same[0]
    offer = first.offer

    def flag(own: bool | None, said: bool | None, *, possible: bool) -> bool:  # noqa: FBT001
        # Where the provider does not say, it is asked, and refuses if it must.
        if own is not None:
            return own and possible
        return possible and said is not False

    return Service(
        id=service_id,
        name=declared.name or offer.name,
        type=kind,
        category=declared.category or offer.category,
        description=declared.description or offer.description,
        min=declared.min or offer.min,
        max=declared.max or offer.max,
        refill=flag(declared.refill, offer.refill, possible=actions(first.provider, Action.REFILL)),
        cancel=flag(declared.cancel, offer.cancel, possible=actions(first.provider, Action.CANCEL)),
        dripfeed=flag(declared.dripfeed, offer.dripfeed, possible="runs" in kind.optional),
        routes=tuple(same),
        markups=_markups(declared, config, first.provider),
        fixed=declared.rate,
        allow_loss=declared.allow_loss,
        posts=config.orders.subscription_posts,
    )


def _routes(
    declared: Declared, config: Config, offers: Mapping[str, Mapping[str, Offer]]
) -> list[Route]:
    found = []
    for named in declared.routes:
        offer = offers.get(named.provider, {}).get(named.service)
        if offer is None or not (offer.rate or declared.rate):
            continue  # whatever is free at a provider is so by mistake, unless we say the price
        currency = config.providers[named.provider].currency
        exchange = config.exchange.factor(currency)
        found.append(
            Route(
                named.provider,
                offer,
                currency,
                exchange,
                pricing.exchange(offer.rate, exchange),
            )
        )
    return found


def _type(declared: Declared, offer: Offer) -> OrderType | None:
    if declared.parameters is not None:
        return declared.parameters.order_type(offer.type)
    return order_types.find(offer.type)


def _markups(declared: Declared, config: Config, provider: str) -> dict[str, Decimal]:
    groups: dict[str, Decimal | None] = {"": None}
    groups |= {name: tier.markup for name, tier in config.tiers.items()}
    return {
        name: pricing.markup(
            service=declared.markup,
            rule=None,
            provider=config.providers[provider].markup,
            tier=markup,
            default=config.markup,
        )
        for name, markup in groups.items()
    }


class Shop:
    """The catalog in force, and how it is kept fresh."""

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        now: Callable[[], int],
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._now = now
        self._edition = -1
        self._editions: dict[str, int] = {}
        self._offers: dict[str, dict[str, Offer]] = {}
        self._refreshing = asyncio.Lock()
        self._parameters = frozenset(
            name
            for service in config.services.values()
            if service.parameters
            for name in (*service.parameters.required, *service.parameters.optional)
        )
        self.catalog = Catalog({}, "")

    @property
    def currency(self) -> str:
        """What customers are charged in."""
        return self._config.currency

    def declares(self, service: int) -> bool:
        """Tell whether the owner sells this service, be it available or not."""
        return service in self._config.services

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that the owner has declared, beside those of the order types."""
        return self._parameters

    async def refresh(self) -> bool:
        """Take up what is in the store; returns whether that is newer than what was in force."""
        async with self._refreshing:
            edition = await self._store.edition()
            if edition == self._edition:
                return False
            await self._load()
            name = f"{self._config.digest[:16]}-{edition}"
            make = partial(Catalog.make, self._config, self._offers, self._router.has, name)
            self.catalog = await offload(make, len(self._config.services))
            self._edition = edition
            return True

    async def _load(self) -> None:
        """Read the offers of the providers whose lists have changed, as far as they are sold."""
        editions = await self._store.editions()
        names = [
            name
            for name in self._config.providers
            if name in editions and editions[name] != self._editions.get(name)
        ]
        for name in names:
            offers = (await self._store.offers([name])).get(name, {})
            pick = partial(self._sold, name, offers)
            self._offers[name] = await offload(pick, len(offers) + len(self._config.services))
            self._editions[name] = editions[name]

    def _sold(self, provider: str, offers: Mapping[str, Offer]) -> dict[str, Offer]:
        """Return those of a provider's offers that the owner may sell."""
        if any(one.provider == provider for one in self._config.imports):
            return dict(offers)
        wanted = {
            route.service
            for service in self._config.services.values()
            for route in service.routes
            if route.provider == provider
        }
        return {one: offer for one, offer in offers.items() if one in wanted}
