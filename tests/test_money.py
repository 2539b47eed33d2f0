"""Amounts are exact, currencies never meet, and roundings happen in two places."""

import decimal
import operator
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import money
from gateway.errors import CurrencyMismatch
from gateway.money import MOST, Money

MICROS = st.integers(-MOST, MOST)
RATES = st.decimals(min_value=0, max_value=10**9, places=15, allow_nan=False)


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ("0.27819", 278_190),
        ("100.84292", 100_842_920),
        (12, 12_000_000),
        (Decimal("-0.000001"), -1),
        ("1e3", 1_000_000_000),
        ("0", 0),
        ("-0", 0),
        ("0.0000010000000000000000000000000000000000000", 1),
        ("9223372036854.775807", MOST),
    ],
)
def test_an_amount_is_read_exactly(written: str | int | Decimal, micros: int) -> None:
    """Texts, whole numbers and decimals become whole millionths."""
    assert Money(micros, "USD") == Money.of(written, "USD")


@pytest.mark.parametrize(
    "written",
    [
        "",
        "much",
        "NaN",
        "sNaN",
        "Infinity",
        "-inf",
        "1,5",
        "1e999999999",
        "1e-9999999",
        "9223372036854.775808",
        "-9223372036854.775808",
        "1e30",
        "-1e30",
        "9" * 200,
        "1." + "1" * 200,
    ],
)
def test_what_is_no_amount_is_refused(written: str) -> None:
    """Nothing is cut off or guessed, and whoever wrote it is told what he wrote."""
    with pytest.raises(ValueError, match=f"^{re.escape(repr(written))} is not an amount$"):
        Money.of(written, "USD")


@pytest.mark.parametrize("written", ["0.0000001", "-1.2345678", Decimal("1E-7")])
def test_what_is_finer_than_a_millionth_is_refused(written: str | Decimal) -> None:
    """Nothing is rounded: there is no such coin."""
    told = f"^{re.escape(repr(written))} has more than six decimals$"
    with pytest.raises(ValueError, match=told):
        Money.of(written, "USD")


@given(st.text() | st.decimals() | st.integers())
def test_reading_an_amount_never_fails_in_another_way(written: str | Decimal | int) -> None:
    """Either the exact amount or ``ValueError``."""
    try:
        amount = Money.of(written, "USD")
    except ValueError:
        return

    assert Fraction(Decimal(written)) == Fraction(amount.micros, 10**6)


@given(MICROS)
def test_an_amount_is_written_as_it_is_read(micros: int) -> None:
    """At least two decimals, never an exponent, nothing lost."""
    written = str(Money(micros, "USD"))

    assert Money(micros, "USD") == Money.of(written, "USD")
    assert len(written.partition(".")[2]) in range(2, 7)
    assert Money(micros, "USD").decimal == Decimal(written)


@pytest.mark.parametrize(
    ("micros", "written"),
    [
        (0, "0.00"),
        (900_000, "0.90"),
        (278_190, "0.27819"),
        (1, "0.000001"),
        (-500_000, "-0.50"),
        (-1, "-0.000001"),
        (MOST, "9223372036854.775807"),
    ],
)
def test_amounts_are_written_with_at_least_two_decimals(micros: int, written: str) -> None:
    """As many more as they need."""
    assert written == money.text(micros)


@pytest.mark.parametrize(
    ("rate", "written"),
    [
        ("0.9", "0.90"),
        ("1E+3", "1000.00"),
        ("1E-7", "0.0000001"),
        ("12.345600", "12.3456"),
        ("0", "0.00"),
    ],
)
def test_a_rate_keeps_every_digit(rate: str, written: str) -> None:
    """Rates are not rounded to millionths."""
    assert written == money.rate_text(Decimal(rate))


def test_sums_of_one_currency_are_sums() -> None:
    """Amounts add and negate as numbers do."""
    one, two = Money(1, "USD"), Money(2, "USD")

    assert two == one + one
    assert one == two - one
    assert Money(-1, "USD") == -one
    assert one
    assert not one - one


COMPARE = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]


@pytest.mark.parametrize("compare", COMPARE)
@pytest.mark.parametrize(("one", "other"), [(1, 2), (2, 1), (1, 1), (-1, 1)])
def test_amounts_of_one_currency_compare_as_numbers_do(
    compare: Callable[[object, object], bool], one: int, other: int
) -> None:
    """Neither of two equal amounts is the greater."""
    assert compare(one, other) is compare(Money(one, "USD"), Money(other, "USD"))


@pytest.mark.parametrize("meet", [operator.add, operator.sub, *COMPARE[:4]])
def test_two_currencies_never_meet(meet: Callable[[Money, Money], object]) -> None:
    """INR 26.88 is not more than USD 0.90, and whoever asks is told what he has mixed."""
    with pytest.raises(CurrencyMismatch, match=r"^26\.88 INR and 0\.90 USD$"):
        meet(Money(26_880_000, "INR"), Money(900_000, "USD"))
    assert Money(1, "INR") != Money(1, "USD")


def test_an_amount_is_a_value() -> None:
    """It stays what it was, and an equal one is the same."""
    amount = Money(1, "USD")
    with pytest.raises(AttributeError):
        setattr(amount, "micros", 2)  # noqa: B010  # what no checker lets pass

    assert {Money(1, "USD")} == {amount, Money(1, "USD")}


def test_a_surrounding_context_changes_nothing() -> None:
    """Precision that somebody else has set costs no amount a digit."""
    with decimal.localcontext(prec=3):
        read = Money.of("-1234.567891", "USD")
        written = (read.decimal.as_tuple(), str(read), money.rate_text(Decimal("1234.5678")))
        charged = money.charge(Decimal("1234.567891"), 1000)

    assert Money(-1_234_567_891, "USD") == read
    assert (Decimal("-1234.567891").as_tuple(), "-1234.567891", "1234.5678") == written
    assert 1_234_567_891 == charged


@pytest.mark.parametrize(
    ("rate", "size", "per", "charge"),
    [
        ("0.90", 1000, 1000, 900_000),
        ("0.90", 1001, 1000, 900_900),
        ("0.0009", 10, 1000, 9),
        ("0.0009", 1, 1000, 1),  # never free
        ("0.000000000000001", 1, 1000, 1),
        ("1.2345678", 7, 1000, 8_642),
        ("2.50", 1, 1, 2_500_000),
        ("0", 1000, 1000, 0),
        ("123456789012345.123456789012345", 10**12, 1000, 123456789012345123456789012345),
    ],
)
def test_a_charge_is_rounded_up(rate: str, size: int, per: int, charge: int) -> None:
    """Whatever is not free costs at least a millionth."""
    assert charge == money.charge(Decimal(rate), size, per)


@given(RATES, st.integers(0, 10**12))
def test_a_charge_is_the_least_amount_that_covers_the_price(rate: Decimal, size: int) -> None:
    """In the arithmetic of schools."""
    assert ceil(Fraction(rate) * size * 1000) == money.charge(rate, size)


@given(st.integers(0, MOST), st.integers(-(10**20), 10**20), st.integers(1, 10**12))
def test_a_share_lies_between_nothing_and_all(amount: int, part: int, whole: int) -> None:
    """A provider that says more than was ordered, or less than nothing, changes nothing."""
    share = money.share(amount, part, whole)

    assert 0 <= share <= amount
    assert ceil(Fraction(amount) * Fraction(min(max(part, 0), whole), whole)) == share


@given(st.integers(0, MOST), st.integers(1, 1000), st.data())
def test_a_share_and_its_refund_are_the_whole(amount: int, whole: int, data: st.DataObject) -> None:
    """More delivered never costs less."""
    part = data.draw(st.integers(0, whole - 1))

    assert money.share(amount, part, whole) <= money.share(amount, part + 1, whole)
    assert amount == money.share(amount, whole, whole)
    assert money.share(amount, 0, whole) == 0


def test_a_bound_is_kept_whatever_the_surrounding_precision() -> None:
    """Half the digits would round an amount to one that the databases hold."""
    with (
        decimal.localcontext(decimal.Context(prec=3)),
        pytest.raises(ValueError, match="is not an amount"),
    ):
        Money.of("9223372036854.775808", "USD")
