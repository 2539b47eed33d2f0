"""From a provider's rate to ours, held to exact fractions."""

import decimal
import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import pricing
from gateway.pricing import Exchange, Place, Price

RATES = st.decimals(0, 10**9, places=9)
FACTORS = st.decimals("0.000000001", 10**6, places=9)
MARKUPS = st.decimals(0, 100, places=9)
MICROS = st.integers(0, 2**63 - 1)
STEPS = st.decimals("0.000000001", 10**6, places=9)
PRICES = st.builds(Price, st.none() | MARKUPS.map(lambda one: {Decimal(0): one}), st.none() | RATES)
PLACES = st.builds(Place, PRICES, st.dictionaries(st.sampled_from(["gold", "silver"]), PRICES))
FILE = Place(Price({Decimal(0): Decimal("0.25")}))

# The table at the head of the module, as it stands there: place and whom it speaks of.
TABLE = [
    (place, tier) for place in ("service", "rule", "provider", "the file") for tier in ("gold", "")
]


def said_in(row: tuple[str, str], price: Price) -> list[Place]:
    """Return the four places, where only this row of the table says anything."""
    place, tier = row
    said = Place(tiers={tier: price}) if tier else Place(price)
    return [said if name == place else Place() for name, _ in TABLE[::2]]


def merged(*said: list[Place]) -> list[Place]:
    """Return the four places, where each of these says what it says."""
    return [
        Place(
            next((one.price for one in places if one.price), Price()),
            {tier: price for one in places for tier, price in one.tiers.items()},
        )
        for places in zip(*said, strict=True)
    ]


@pytest.mark.parametrize("higher", range(len(TABLE)))
def test_each_row_of_the_table_comes_before_all_below_it(higher: int) -> None:
    """Whatever the rows below say, and only until a row above says something."""
    prices = [Price(rate=Decimal(number)) for number in range(len(TABLE))]
    said = [said_in(row, price) for row, price in zip(TABLE, prices, strict=True)]

    assert prices[higher] == pricing.holding("gold", *merged(*said[higher:]))


@pytest.mark.parametrize("tier", ["", "silver"])
def test_what_one_price_group_pays_is_no_matter_of_another(tier: str) -> None:
    """The rows of gold say nothing to silver, nor to customers in no group."""
    said = [said_in(row, Price(rate=Decimal(9))) for row in TABLE if row[1]]

    assert FILE.price == pricing.holding(tier, *merged(*said, said_in(TABLE[-1], FILE.price)))


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    """Row by row: the place, and whom it speaks of."""
    words = {"": "everybody", "gold": "a price group"}
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = re.findall(r"(?m)^\| (\d) \| (.*?) \| (.*?) \|", readme)
    told = re.findall(r"(?m)^(\d) +(\S+(?: \S+)?) {2,}(\S+(?: \S+)*) {2,}", pricing.__doc__ or "")
    expected = [(str(at), place, words[tier]) for at, (place, tier) in enumerate(TABLE, 1)]

    assert expected == told
    assert expected == rows


@given(st.lists(PLACES, max_size=4), st.sampled_from(["", "gold", "silver", "nobody"]))
def test_the_price_that_holds_is_the_first_one_said(places: list[Place], tier: str) -> None:
    """From the service to the file, and in each place the price group's before everybody's."""
    said = []
    for place in [*places, FILE]:
        said += [place.tiers[tier]] if tier in place.tiers else []
        said += [place.price]
    expected = next(price for price in said if price != Price())

    assert expected == pricing.holding(tier, *places, FILE)


def test_a_markup_of_nothing_is_a_markup() -> None:
    """A service at cost is not sold at the default."""
    at_cost = Place(Price({Decimal(0): Decimal(0)}))

    assert at_cost.price == pricing.holding("", at_cost, FILE)


@given(st.dictionaries(RATES, MARKUPS, max_size=5), MARKUPS, RATES)
def test_a_step_holds_from_its_rate_to_the_next_one(
    steps: dict[Decimal, Decimal], first: Decimal, cost: Decimal
) -> None:
    """Exactly at its beginning, too, and however the file orders them."""
    markup = {**steps, Decimal(0): first}
    expected = first
    for start in sorted(markup):
        if start <= cost:
            expected = markup[start]

    assert expected == pricing.fraction(markup, cost)


@given(RATES, STEPS)
def test_a_rate_is_rounded_up_to_the_next_step_and_no_further(rate: Decimal, step: Decimal) -> None:
    """It is a whole number of steps, at least the rate, and less than a step above it."""
    rounded = Fraction(pricing.rounded(rate, step))

    assert (rounded / Fraction(step)).denominator == 1
    assert Fraction(rate) <= rounded < Fraction(rate) + Fraction(step)


@given(RATES)
def test_without_a_step_a_rate_keeps_every_digit(rate: Decimal) -> None:
    assert rate == pricing.rounded(rate, None)


def test_a_fixed_rate_is_what_the_owner_wrote_whatever_it_costs() -> None:
    """It is neither marked up nor rounded."""
    price = Price(rate=Decimal("1.2345"))

    assert Decimal("1.2345") == price.of(Decimal(5), Decimal("0.1"))


@given(RATES, MARKUPS, STEPS)
def test_a_markup_never_sells_below_cost(cost: Decimal, markup: Decimal, step: Decimal) -> None:
    """With a step of rounding or without one."""
    price = Price({Decimal(0): markup})

    assert cost <= price.of(cost) <= price.of(cost, step)


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


@given(MICROS, FACTORS, MICROS, st.decimals(0, 1, places=4))
def test_a_loss_within_what_the_owner_takes_is_none(
    cost: int, factor: Decimal, charge: int, most: Decimal
) -> None:
    """``max_loss`` is a fraction of the charge, exactly."""
    expected = Fraction(cost) * Fraction(factor) > charge * (1 + Fraction(most))

    assert expected == pricing.costs_more(cost, factor, charge, most)


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
