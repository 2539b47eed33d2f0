"""From a provider's rate to ours: exchange, then markup. Exact, and pure.

Nothing is rounded here: a rate is shown and charged with every digit that it has, and a step that
would lose one raises ``decimal.Inexact``. The one rounding is ``money.charge``.
"""

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from gateway.money import EXACT

_ONE = Decimal(1)


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


def markup(
    *,
    service: Decimal | None = None,
    rule: Decimal | None = None,
    provider: Decimal | None = None,
    tier: Decimal | None = None,
    default: Decimal,
) -> Decimal:
    """Return the markup that holds, as a fraction: the first one given, 0 being given too.

    ======  ==========  ==========================================
    before  given by    where in the owner's file
    ======  ==========  ==========================================
    1       service     ``services: {101: {markup: 30%}}``
    2       rule        ``imports: [{markup: 40%}]``
    3       provider    ``providers: {name: {markup: 20%}}``
    4       tier        ``tiers: {gold: {markup: 10%}}``
    5       default     ``markup: 25%``
    ======  ==========  ==========================================

    A service's fixed ``rate`` comes before all of them: nothing is marked up then.
    """
    return next((m for m in (service, rule, provider, tier) if m is not None), default)


def exchange(rate: Decimal, factor: Decimal) -> Decimal:
    """Return a provider's rate in our currency, ``factor`` being one unit of its own in ours."""
    return EXACT.multiply(rate, factor)


def sell(cost_rate: Decimal, markup: Decimal) -> Decimal:
    """Return what we sell at, per 1000, for what costs us ``cost_rate``, both in our currency."""
    return EXACT.multiply(cost_rate, EXACT.add(_ONE, markup))


def costs_more(cost_micros: int, factor: Decimal, charge_micros: int) -> bool:
    """Say whether a route costs more than the customer is charged for it.

    ``cost_micros`` are millionths of the provider's currency, ``charge_micros`` of ours.
    """
    return EXACT.multiply(Decimal(cost_micros), factor) > charge_micros
