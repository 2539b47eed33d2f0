"""From a provider's rate to ours, held to exact fractions."""

import decimal
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import pricing
from gateway.pricing import Exchange

RATES = st.decimals(0, 10**9, places=9)
FACTORS = st.decimals("0.000000001", 10**6, places=9)
MARKUPS = st.decimals(0, 100, places=9)
MICROS = st.integers(0, 2**63 - 1)
GIVERS = ("service", "rule", "provider", "tier")


@given(
    st.fixed_dictionaries({name: st.none() | MARKUPS for name in GIVERS}),
    MARKUPS,
)
def test_the_most_specific_markup_holds(
    given_: dict[str, Decimal | None], default: Decimal
) -> None:
    """Service before rule before provider before tier before the default, 0 % being given too."""
    expected = default
    for name in reversed(GIVERS):
        markup = given_[name]
        if markup is not None:
            expected = markup

    assert expected == pricing.markup(**given_, default=default)


def test_a_markup_of_nothing_is_a_markup() -> None:
    """A service at cost is not sold at the default."""
    assert pricing.markup(service=Decimal(0), tier=Decimal(1), default=Decimal(2)) == 0


@given(RATES, FACTORS)
def test_an_exchanged_rate_is_the_exact_product(rate: Decimal, factor: Decimal) -> None:
    """No digit is lost, however many there are."""
    assert Fraction(rate) * Fraction(factor) == Fraction(pricing.exchange(rate, factor))


@given(RATES, FACTORS, MARKUPS)
def test_a_sold_rate_is_the_exact_cost_and_its_markup(
    rate: Decimal, factor: Decimal, markup: Decimal
) -> None:
    """The whole way from a provider's rate to ours is exact, and never under what it costs."""
    cost = pricing.exchange(rate, factor)

    sold = pricing.sell(cost, markup)

    assert Fraction(rate) * Fraction(factor) * (1 + Fraction(markup)) == Fraction(sold)
    assert sold >= cost


def test_a_rate_is_shown_with_every_digit_it_has() -> None:
    """0.0119 × 75.63 × 1.25 has seven decimals, and they are all there."""
    cost = pricing.exchange(Decimal("75.63"), Decimal("0.0119"))

    assert pricing.sell(cost, Decimal("0.25")) == Decimal("1.12499625")


def test_a_surrounding_context_changes_nothing() -> None:
    """Precision that somebody else has set rounds no rate of ours."""
    with decimal.localcontext(prec=3):
        sold = pricing.sell(Decimal("1.23456789"), Decimal("0.1"))

    assert sold == Decimal("1.358024679")


def test_a_digit_that_would_be_lost_raises() -> None:
    """Nobody sells at a rate that is nearly right."""
    with pytest.raises(decimal.Inexact):
        pricing.exchange(Decimal("1." + "1" * 80), Decimal("1." + "1" * 80))


@given(MICROS, FACTORS, MICROS)
def test_a_cost_is_held_against_the_charge_exactly(cost: int, factor: Decimal, charge: int) -> None:
    """One part in a billion decides."""
    expected = Fraction(cost) * Fraction(factor) > charge

    assert expected == pricing.costs_more(cost, factor, charge)


@given(st.integers(1, 10**12))
def test_a_cost_equal_to_the_charge_is_no_loss(charge: int) -> None:
    """The floor is the cost itself, and a hair above it is a loss."""
    assert not pricing.costs_more(charge, Decimal(1), charge)
    assert pricing.costs_more(charge, Decimal("1.000000000000001"), charge)
    assert not pricing.costs_more(charge, Decimal("0.999999999999999"), charge)


def test_a_loss_beyond_the_twenty_eighth_digit_is_a_loss() -> None:
    """Python's usual precision would call this one even."""
    assert pricing.costs_more(10**18 + 1, Decimal("1.000000000000001"), 10**18 + 1001)


def test_the_own_currency_is_worth_one_and_the_others_what_the_owner_says() -> None:
    """A currency that nobody gave a rate for has none."""
    exchange = Exchange("USD", {"INR": Decimal("0.0119")})

    assert (exchange.factor("USD"), exchange.factor("INR")) == (Decimal(1), Decimal("0.0119"))
    with pytest.raises(LookupError):
        exchange.factor("EUR")
