"""Exact money: whole millionths of a currency, and the two places where a rounding happens.

``charge`` rounds up, so that a rate of 0.0009 per 1000 is never free; ``share`` rounds the charge
for what was delivered up too, and a refund is always the charge less that share. Nothing else
rounds: rates stay exact decimals, and an inexact step raises.
"""

import decimal
from decimal import Decimal
from typing import Self

import msgspec

from gateway.errors import CurrencyMismatch

MILLION = 1_000_000
PER = 1000
"""A rate is the price of this many units, everywhere in API v2."""

# Wide enough for any product of a rate, an exchange rate and a markup; a result that would not
# fit raises instead of losing a digit.
EXACT = decimal.Context(
    prec=100,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
MOST = 2**63 - 1
"""The largest number of millionths that both databases hold."""


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount in one currency.

    Attributes:
        micros: whole millionths of the currency; may be negative.
        currency: its code, as in ``providers.yaml``.

    """

    micros: int
    currency: str

    @classmethod
    def of(cls, amount: str | int | Decimal, currency: str) -> Self:
        """Read an exact amount; ``ValueError`` when it is no number or finer than a millionth."""
        return cls(whole_millionths(amount), currency)

    @property
    def decimal(self) -> Decimal:
        """The amount in units of the currency, exactly."""
        return Decimal(self.micros).scaleb(-6, EXACT)

    def _same(self, other: "Money") -> int:
        if self.currency != other.currency:
            msg = f"{self} {self.currency} and {other} {other.currency}"
            raise CurrencyMismatch(msg)
        return other.micros

    def __add__(self, other: "Money") -> "Money":
        return Money(self.micros + self._same(other), self.currency)

    def __sub__(self, other: "Money") -> "Money":
        return Money(self.micros - self._same(other), self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.micros, self.currency)

    def __lt__(self, other: "Money") -> bool:
        return self.micros < self._same(other)

    def __le__(self, other: "Money") -> bool:
        return self.micros <= self._same(other)

    def __gt__(self, other: "Money") -> bool:
        return self.micros > self._same(other)

    def __ge__(self, other: "Money") -> bool:
        return self.micros >= self._same(other)

    def __bool__(self) -> bool:
        return self.micros != 0

    def __str__(self) -> str:
        return text(self.micros)


def whole_millionths(amount: str | int | Decimal) -> int:
    """Return an exact amount as millionths; ``ValueError`` says why when it is none."""
    try:
        value = Decimal(amount)
        micros = value.scaleb(6, EXACT)
    except decimal.DecimalException:  # no number at all, or more digits than any amount has
        msg = f"{amount!r} is not an amount"
        raise ValueError(msg) from None
    if not micros.is_finite() or micros.copy_abs() > MOST:
        msg = f"{amount!r} is not an amount"
        raise ValueError(msg)
    if micros != micros.to_integral_value():
        msg = f"{amount!r} has more than six decimals"
        raise ValueError(msg)
    return int(micros)


def text(micros: int) -> str:
    """Write millionths as customers read them: at least two decimals, never an exponent."""
    whole, part = divmod(abs(micros), MILLION)
    digits = f"{part:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{digits}"


def rate_text(rate: Decimal) -> str:
    """Write a rate: every digit it has, at least two decimals, never an exponent."""
    whole, _, part = f"{rate:f}".partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"


def charge(rate: Decimal, size: int, per: int = PER) -> int:
    """Return the price of ``size`` units at ``rate`` per ``per``, in millionths, rounded up."""
    # In whole numbers: ``//`` of decimals cuts towards zero and keeps 28 digits.
    numerator, denominator = rate.as_integer_ratio()
    return -(-numerator * size * MILLION // (denominator * per))


def share(amount: int, part: int, whole: int) -> int:
    """Return the price of ``part`` of a ``whole`` that costs ``amount`` millionths, rounded up.

    ``part`` is clamped to 0..``whole``: a provider that reports more than was ordered changes
    nothing.
    """
    part = min(max(part, 0), whole)
    return -(-amount * part // whole)
