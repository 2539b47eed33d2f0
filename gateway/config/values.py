"""How single values are read from the file's text: durations, percentages, amounts, names.

Each reader takes the text and gives the value, or raises ``ValueError`` with a sentence that says
what is wrong and what would be right. A value that is no text (given by a program rather than a
file) is left to the type that stands beside the reader.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_core import PydanticCustomError

from gateway.config.document import shown, written
from gateway.errors import Fault
from gateway.model import Action
from gateway.order_types import Size

SECOND, MINUTE, HOUR, DAY = 1.0, 60.0, 3600.0, 86400.0
LARGEST_ID = 2_147_483_647

NOTHING = "nothing is given here; give a value"
SAID = "said"
"""The type of every error whose message is one of ours."""


def said(text: str) -> PydanticCustomError:
    """Return a sentence of ours as an error that pydantic carries to its place."""
    return PydanticCustomError(SAID, "{text}", {"text": text})


def misfit(value: object, wanted: str) -> PydanticCustomError:
    """Return the mistake of something of the wrong kind, without repeating any of it."""
    kinds = {"dict": "a block", "list": "a list"}
    return said(f"{kinds.get(type(value).__name__, 'a single value')} stands here; give {wanted}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return what to write instead of ``word``: the known one most like it, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known are {', '.join(names)}" if names else "none is declared yet"


def scalar(read: Callable[[str], object]) -> BeforeValidator:
    """Read a single value of the file with ``read``."""

    def validate(value: object) -> object:
        if isinstance(value, str):
            try:
                return read(value)
            except ValueError as error:
                raise said(str(error)) from None
        if value is None:
            raise said(NOTHING)
        if isinstance(value, dict | list):
            raise misfit(value, "a single value")
        return value

    return BeforeValidator(validate)


def listed(value: object) -> object:
    """Take nothing for an empty list."""
    if isinstance(value, dict | str):
        raise misfit(value, "a list, such as [a, b]")
    return [] if value is None else value


def keyed(value: object) -> object:
    """Take nothing for an empty block."""
    if isinstance(value, list | str):
        raise misfit(value, "a block of keys and values")
    return {} if value is None else value


# --- the readers ----------------------------------------------------------------------------

_UNITS = {"ms": 0.001, "s": SECOND, "": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|)")
_DECIMAL = re.compile(r"(-?)[0-9]{1,15}(\.[0-9]{1,15})?")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,17}")
_PERCENT = re.compile(r"(-?[0-9]{1,6}(?:\.[0-9]{1,9})?) ?%")
_TIMES = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?[x×]?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CURRENCY = re.compile(r"[A-Z]{3,5}")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = {"key", "action", "service", "idempotency_key"}


def duration(least: str, most: str) -> BeforeValidator:
    """Read seconds from ``500ms``, ``30s``, ``10m``, ``2h``, ``30d`` or a bare number."""
    low, high = seconds(least), seconds(most)

    def read(text: str) -> float:
        found = seconds(text)
        if not low <= found <= high:
            msg = f"{shown(text)} is out of bounds; give a duration from {least} to {most}"
            raise ValueError(msg)
        return found

    return scalar(read)


def seconds(text: str) -> float:
    """Read a duration of any length; ``ValueError`` says how one is written."""
    found = _DURATION.fullmatch(text)
    if found is None:
        msg = f"{shown(text)} is not a duration; write one such as 500ms, 30s, 10m, 2h or 30d"
        raise ValueError(msg)
    return float(found[1]) * _UNITS[found[2]]


def percent(text: str) -> Decimal:
    """Read ``25%`` as the exact fraction 0.25."""
    found = _PERCENT.fullmatch(text)
    if found is None:
        msg = f"{shown(text)} is not a percentage; write it with its sign, such as 25%"
        if _DECIMAL.fullmatch(written(text)) and not text.startswith("-"):
            meant = (Decimal(text) * 100).normalize() if Decimal(text) < 1 else Decimal(text)
            msg = f"{shown(text)} is not a percentage; write it with its sign, as {meant:f}%"
        raise ValueError(msg)
    if found[1].startswith("-"):
        msg = f"{shown(text)} is negative, which would sell below cost; give 0% or more"
        raise ValueError(msg)
    return Decimal(found[1]).scaleb(-2)


def stepped(value: object) -> object:
    """Take one percentage for a markup whose only step begins at 0; see ``pricing.Markup``."""
    if value is None:
        raise said(NOTHING)
    if isinstance(value, list):
        raise misfit(value, "a percentage, or a block of them by steps of the rate")
    if not isinstance(value, str):
        if isinstance(value, dict):
            _from_nothing(value)
        return value
    try:
        return {Decimal(0): percent(value)}
    except ValueError as error:
        raise said(str(error)) from None


def _from_nothing(steps: Mapping[object, object]) -> None:
    starts = [Decimal(one) for one in steps if isinstance(one, str) and _DECIMAL.fullmatch(one)]
    if len(set(starts)) < len(starts):
        raise said("two steps begin at the same rate; remove one of them")
    if Decimal(0) not in starts:
        raise said("no step begins at 0, so that small rates have no markup; add one, as 0: 40%")


def once(steps: dict[Decimal, Decimal]) -> dict[Decimal, Decimal]:
    """Return the one markup of all that are equal: ten thousand services may say the same."""
    return _markup(tuple(steps.items()))


@lru_cache(1024)
def _markup(steps: tuple[tuple[Decimal, Decimal], ...]) -> dict[Decimal, Decimal]:
    return dict(steps)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        msg = f"{shown(text)} is not a date; write one such as 2026-11-21"
        raise ValueError(msg) from None


def _times(text: str) -> Decimal:
    found = _TIMES.fullmatch(text)
    if found is None or Decimal(found[1]) <= 1:
        msg = f"{shown(text)} is not a factor above 1; write one such as 3x"
        raise ValueError(msg)
    return Decimal(found[1])


def amount(*, zero: bool) -> BeforeValidator:
    """Read an exact decimal number above zero, or from zero on."""
    least = "0 or more" if zero else "more than 0"

    def read(text: str) -> Decimal:
        if not _DECIMAL.fullmatch(text):
            msg = f"{shown(text)} is not a decimal number; write one such as 1.20"
            raise ValueError(msg)
        value = Decimal(text)
        if value < 0 or (value == 0 and not zero) or text.startswith("-"):
            msg = f"{shown(text)} is too little; give {least}"
            raise ValueError(msg)
        return value

    return scalar(read)


def whole(least: int, most: int, what: str = "a whole number") -> BeforeValidator:
    """Read a whole number within bounds."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            msg = f"{shown(text)} is not {what} from {least} to {most}"
            raise ValueError(msg)
        return int(text)

    return scalar(read)


def choice(*known: str) -> BeforeValidator:
    """Read one of a few words."""

    def read(text: str) -> str:
        if text not in known:
            msg = f"{shown(text)} is not known here; {nearest(text, known)}"
            raise ValueError(msg)
        return str(text)

    return scalar(read)


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        msg = f"{shown(text)} is neither true nor false"
        raise ValueError(msg)
    return text == "true"


def _text(text: str) -> str:
    if not text.strip():
        msg = "an empty text; give one, or remove it"
        raise ValueError(msg)
    return str(text)


def _word(pattern: re.Pattern[str], right: str) -> BeforeValidator:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            msg = f"{shown(text)} {right}"
            raise ValueError(msg)
        return str(text)

    return scalar(read)


def _url(text: str) -> str:
    # Owners paste keys into URLs, so that no message repeats one.
    right = "write one such as https://panel.example/api/v2"
    try:
        parts = urlsplit(text)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or re.search(r"\s", text):
        msg = f"this is not a web address; {right}"
        raise ValueError(msg)
    if parts.username is not None or parts.password is not None or parts.fragment:
        msg = f"a web address without a name, password or # is wanted; {right}"
        raise ValueError(msg)
    return str(text)


def _secret(text: str) -> SecretStr:
    return SecretStr(text.strip())


def _parameter(text: str) -> str:
    if not _PARAMETER.fullmatch(text) or text in _RESERVED:
        msg = f"{shown(text)} can't be an order's parameter; name one such as quantity"
        raise ValueError(msg)
    return str(text)


def _template(needed: str) -> BeforeValidator:
    """Read a text in which ``{name}`` and ``{category}`` stand for the provider's own."""

    def read(text: str) -> str:
        used = re.findall(r"\{[^{}]*\}?|\}", text)
        if wrong := [one for one in used if one not in {"{name}", "{category}"}]:
            msg = f"{shown(wrong[0])} stands for nothing; known are {{name}} and {{category}}"
            raise ValueError(msg)
        if needed and needed not in used:
            msg = f"{shown(text)} would be the name of all its services; put {needed} into it"
            raise ValueError(msg)
        return _text(text)

    return scalar(read)


SIZES = {
    "quantity": Size.QUANTITY,
    "runs": Size.RUNS,
    "1": Size.ONE,
    "comments": Size.COMMENTS,
    "usernames": Size.USERNAMES,
}
"""What an order type that is not in our table may count; ``runs`` is quantity times runs."""


def network(text: str) -> str:
    """Read an address, or a network such as ``10.0.0.0/8``; returns it in its usual form."""
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        msg = f"{shown(text)} is no address; write one such as 203.0.113.7 or 10.0.0.0/8"
        raise ValueError(msg) from None


def _size(text: str) -> Size:
    if text not in SIZES:
        msg = f"{shown(text)} can't be counted; known are {', '.join(SIZES)}"
        raise ValueError(msg)
    return SIZES[text]


Percent = Annotated[Decimal, scalar(percent)]
Rate = Annotated[Decimal, amount(zero=False)]
Amount = Annotated[Decimal, amount(zero=True)]
Markup = Annotated[dict[Amount, Percent], BeforeValidator(stepped), AfterValidator(once)]
Day = Annotated[date, scalar(_day)]
Times = Annotated[Decimal, scalar(_times)]
Flag = Annotated[bool, scalar(_flag)]
Text = Annotated[str, scalar(_text)]
NameTemplate = Annotated[str, _template("{name}")]
Template = Annotated[str, _template("")]
Instead = Annotated[str, scalar(str)]
Url = Annotated[str, scalar(_url)]
Secret = Annotated[SecretStr, scalar(_secret)]
Parameter = Annotated[str, scalar(_parameter)]
Counted = Annotated[Size, scalar(_size)]
NO_CURRENCY = "is not a currency; write its code in capitals, such as USD"
Currency = Annotated[str, _word(CURRENCY, NO_CURRENCY)]
Name = Annotated[str, _word(_NAME, "is not a name; use letters, digits, dots, - and _")]
Id = Annotated[int, whole(1, LARGEST_ID, "an id; give a whole number")]
Count = Annotated[int, whole(1, 10**12)]
Few = Annotated[int, whole(1, 10_000)]
Many = Annotated[int, whole(1, 1_000_000)]
Network = Annotated[str, scalar(network)]
Reach = Annotated[int, whole(0, 10_000)]
Interval = Annotated[float, duration("10ms", "7d")]
Patience = Annotated[float, duration("10ms", "10m")]
Grace = Annotated[float, duration("0s", "1d")]
Span = Annotated[float, duration("10ms", "3650d")]
Verb = Annotated[Action, choice(*Action)]
Batched = Annotated[
    Action, choice(Action.STATUS, Action.REFILL, Action.REFILL_STATUS, Action.CANCEL)
]
Routing = Annotated[Literal["preferred", "cheapest"], choice("preferred", "cheapest")]
Unavailable = Annotated[Literal["refuse", "queue"], choice("refuse", "queue")]
UnknownRefusals = Annotated[Literal["stop", "next"], choice("stop", "next")]
SettleMode = Annotated[Literal["suggest", "auto"], choice("suggest", "auto")]
Quarantine = Annotated[Literal["keep", "pause"], choice("keep", "pause")]
Blame = Annotated[Fault, choice(Fault.CUSTOMER, Fault.ACCOUNT, Fault.SERVICE, Fault.BUSY)]
Duplicates = Annotated[Literal["allow", "same", "reject"], choice("allow", "same", "reject")]
