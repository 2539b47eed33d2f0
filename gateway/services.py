"""What is for sale, as values: local ids, the routes that can fulfil each, and their rates.

A ``Catalog`` is one edition of it, never changed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec
import structlog

from gateway import money, order_types, pricing
from gateway.config import Config
from gateway.config import Service as Declared
from gateway.imports import Found, Given, named
from gateway.model import Action, Offer
from gateway.order_form import Form, Limits
from gateway.order_types import OrderType, Size
from gateway.pricing import Place, Price
from gateway.transitions import Choice

log = structlog.get_logger()

NOTHING_GIVEN = Given()
Prices = Mapping[str, Price]
"""What holds for each price group; ``""``: for customers in none."""


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
        routes: in the order in which they are tried; the first one's rate makes ours.
        prices: what holds for each price group; ``""``: for customers in none.
        step: what rates are a multiple of; ``None``: they have all their digits.
        max_loss: the fraction of its charge by which an order may cost us more; ``None``: by
            any.

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
    prices: Prices
    step: Decimal | None
    max_loss: Decimal | None
    posts: int

    def rate(self, tier: str) -> Decimal:
        """Return what 1000 (or one package) cost a customer of this price group."""
        price = self.prices.get(tier) or self.prices[""]
        return price.of(self.routes[0].rate, self.step)

    def charge(self, size: int, tier: str) -> int:
        """Return the price of an order, in millionths."""
        return money.charge(self.rate(tier), size, self.per)

    @property
    def losing(self) -> list[str]:
        """The price groups that pay less than the first route costs us: by a fixed rate alone."""
        cost = self.routes[0].rate
        said = self.prices.items()
        return [tier for tier, price in said if price.rate is not None and price.rate < cost]

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
            loss = self.max_loss is not None and pricing.costs_more(
                cost, route.exchange, charge, self.max_loss
            )
            if fits and not loss:
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
        imported: Iterable[Found] = (),
        given: Given = NOTHING_GIVEN,
    ) -> "Catalog":
        """Put together what the owner declares, what is imported, and what providers offer now."""
        services = {}
        usual = {provider: _prices(config, provider, Place()) for provider in config.providers}
        for service_id, declared in config.services.items():
            service = _declared(service_id, declared, config, offers, actions, usual)
            if service is not None:
                services[service_id] = service
        taken = {service.name for service in services.values()}
        prices = [_prices(config, rule.provider, rule.place) for rule in config.imports]
        rows = {given.ids[one.key]: one for one in imported if one.key in given.ids}
        for number in sorted(rows):  # by numbers alone: quick, for nobody else works meanwhile
            if number not in config.services:
                found = rows[number]
                name = named(found, number, given, taken)
                service = _imported(number, found, name, config, prices, actions)
                if service:
                    services[number] = service
        return cls(services, edition)


Can = Callable[[str, Action], bool]
"""Whether a provider's dialect has an action."""


def _declared(
    service_id: int,
    declared: Declared,
    config: Config,
    offers: Mapping[str, Mapping[str, Offer]],
    actions: Can,
    usual: Mapping[str, Prices],
) -> Service | None:
    """Return a service with the routes that exist now; ``None`` when it has none.

    ``usual``: what holds for each provider's services of which no price is said.
    """
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
    same = [first]
    for route in routes[1:]:
        if _type(declared, route.offer) == kind:
            same.append(route)
            continue
        log.warning(
            "route left out: its type differs",
            service=service_id,
            provider=route.provider,
            type=route.offer.type,
        )
    if declared.routing == "cheapest":
        same.sort(key=lambda route: route.rate)
        first = same[0]
    said = declared.place
    prices = _prices(config, first.provider, said) if said else usual[first.provider]
    return _made(service_id, declared, same, kind, prices, config, actions)


def _imported(
    number: int,
    found: Found,
    name: str,
    config: Config,
    prices: Sequence[Prices],
    actions: Can,
) -> Service | None:
    """Return a service as a rule takes it over; ``None`` when nobody knows what it costs."""
    route = _route(config, found.provider, found.offer)
    if route is None:
        return None
    service = _made(number, _AS_IT_IS, [route], found.type, prices[found.rule], config, actions)
    return msgspec.structs.replace(service, name=name, category=found.category)


_AS_IT_IS = Declared(routes=[])
"""What an owner says of a service who says nothing of it."""


def _made(
    service_id: int,
    declared: Declared,
    routes: Sequence[Route],
    kind: OrderType,
    prices: Prices,
    config: Config,
    actions: Can,
) -> Service:
    provider, offer = routes[0].provider, routes[0].offer

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
        refill=flag(declared.refill, offer.refill, possible=actions(provider, Action.REFILL)),
        cancel=flag(declared.cancel, offer.cancel, possible=actions(provider, Action.CANCEL)),
        dripfeed=flag(declared.dripfeed, offer.dripfeed, possible="runs" in kind.optional),
        routes=tuple(routes),
        prices=prices,
        step=config.round,
        max_loss=None if declared.allow_loss else declared.max_loss,
        posts=config.orders.subscription_posts,
    )


def _routes(
    declared: Declared, config: Config, offers: Mapping[str, Mapping[str, Offer]]
) -> list[Route]:
    found = []
    for one in declared.routes:
        offer = offers.get(one.provider, {}).get(one.service)
        # Whatever is free at a provider is so by mistake, unless we say the price.
        if offer is not None and (offer.rate or declared.rate):
            found.append(_route(config, one.provider, offer))
    return [route for route in found if route]


def _route(config: Config, provider: str, offer: Offer) -> Route | None:
    currency = config.providers[provider].currency
    try:
        exchange = config.exchange.factor(currency)
    except LookupError:
        return None  # nobody knows what it costs us: its exchange rate is not there, or too old
    ours = currency == config.currency  # and then the rate is kept once, not twice
    rate = offer.rate if ours else pricing.exchange(offer.rate, exchange)
    return Route(provider, offer, currency, exchange, rate)


def _type(declared: Declared, offer: Offer) -> OrderType | None:
    if declared.parameters is not None:
        return declared.parameters.order_type(offer.type)
    return order_types.find(offer.type)


def _prices(config: Config, provider: str, said: Place) -> Prices:
    """Return what each price group pays, ``said`` being a service's word, or a rule's."""
    places = (said, config.providers[provider].place, config.place)
    return {tier: pricing.holding(tier, *places) for tier in ("", *config.tiers)}
