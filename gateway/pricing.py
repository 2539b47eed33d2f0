"""From a provider's rate to ours: exchange, markup, then the step of rounding. Exact, and pure.

A rate is shown and charged with every digit that it has, unless the owner declares a step; then it
is rounded up to it, once, here. A step that would lose a digit otherwise raises
``decimal.Inexact``. What an order costs is rounded by ``money.charge`` alone.

Which price holds is one rule. Four places of the owner's file may say one; the first of them that
says anything does, and in each of them what it says of the customer's price group comes before
what it says to all:

======  ==========  =============  ====================================================
before  place       for whom       in the owner's file
======  ==========  =============  ====================================================
1       service     a price group  ``services: {101: {tiers: {gold: {rate: "1.10"}}}}``
2       service     everybody      ``services: {101: {markup: 30%}}``, or ``rate: "1.20"``
3       rule        a price group  ``imports: [{tiers: {gold: {markup: 20%}}}]``
4       rule        everybody      ``imports: [{markup: 40%}]``
5       provider    a price group  ``providers: {name: {tiers: {gold: {markup: 5%}}}}``
6       provider    everybody      ``providers: {name: {markup: 20%}}``
7       the file    a price group  ``tiers: {gold: {markup: 10%}}``
8       the file    everybody      ``markup: 25%``
======  ==========  =============  ====================================================

Each of them is a markup, which may go by steps of the rate at the provider in our currency
(``markup: {0: 60%, 1: 40%, 10: 25%}``), or, for a service, a fixed ``rate``, to which nothing is
added and which is not rounded.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import TypeAlias

import msgspec

from gateway.money import EXACT

_ONE = Decimal(1)

Markup: TypeAlias = Mapping[Decimal, Decimal]
"""From which rate at the provider, in our currency, which fraction is added; the first is 0."""


class Exchange(msgspec.Struct, frozen=True):
    """What currencies are worth.

    Attributes:
        currency: what customers are charged in.
        rates: one unit of each other currency, in ``currency``.

    """

    currency: str
    rates: Mapping[str, Decimal] = {}

    def factor(self, currency: str) -> Decimal:
        """Return one unit of ``currency`` in ours; ``LookupError`` when nobody said."""
        return _ONE if currency == self.currency else self.rates[currency]


class Price(msgspec.Struct, frozen=True):
    """What one place of the file says a service costs; nothing, when both are ``None``.

    Attributes:
        rate: fixed, in our currency.

    """

    markup: Markup | None = None
    rate: Decimal | None = None

    def __bool__(self) -> bool:
        return self.markup is not None or self.rate is not None

    def of(self, cost: Decimal, step: Decimal | None = None) -> Decimal:
        """Return the rate that is shown and charged for what costs us ``cost``, both in ours."""
        if self.rate is not None:
            return self.rate
        assert self.markup is not None  # noqa: S101  # the last place of the table has one
        return rounded(sell(cost, fraction(self.markup, cost)), step)


class Place(msgspec.Struct, frozen=True):
    """A place of the file that may say a price: to everybody, and to price groups."""

    price: Price = Price()
    tiers: Mapping[str, Price] = {}

    def __bool__(self) -> bool:
        return bool(self.price or self.tiers)


def holding(tier: str, *places: Place) -> Price:
    """Return the price that holds for a price group, by the table above.

    ``places``: service, rule, provider, the file, in this order; where there is none of them, an
    empty one or none.
    """
    said = (price for place in places for price in (place.tiers.get(tier), place.price))
    return next(price for price in said if price)


def fraction(markup: Markup, cost: Decimal) -> Decimal:
    """Return what is added for a rate: that of the last step which begins at or under it."""
    return markup[max(start for start in markup if start <= cost)]


def exchange(rate: Decimal, factor: Decimal) -> Decimal:
    """Return a provider's rate in our currency, ``factor`` being one unit of its own in ours."""
    return EXACT.multiply(rate, factor)


def sell(cost_rate: Decimal, markup: Decimal) -> Decimal:
    """Return what we sell at, per 1000, for what costs us ``cost_rate``, both in our currency."""
    return EXACT.multiply(cost_rate, EXACT.add(_ONE, markup))


def rounded(rate: Decimal, step: Decimal | None) -> Decimal:
    """Return the rate, or the next multiple of ``step`` above it where it is none."""
    if step is None:
        return rate
    (a, b), (c, d) = rate.as_integer_ratio(), step.as_integer_ratio()
    steps = -(-a * d // (b * c))
    return EXACT.multiply(Decimal(steps), step)


def costs_more(
    cost_micros: int, factor: Decimal, charge_micros: int, max_loss: Decimal = Decimal(0)
) -> bool:
    """Say whether a route costs more than the customer is charged for it.

    ``cost_micros`` are millionths of the provider's currency, ``charge_micros`` of ours;
    ``max_loss`` is the fraction of the charge by which it may.
    """
    most = EXACT.multiply(Decimal(charge_micros), EXACT.add(_ONE, max_loss))
    return EXACT.multiply(Decimal(cost_micros), factor) > most
