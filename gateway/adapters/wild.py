"""Taming: from a provider's bytes to values that can be relied on, or to nothing.

Every function here is total. Whatever the bytes, it returns what its docstring says; only
``parse`` raises, and only ``ValueError``. Nothing recurses, and no number is expanded before its
size is known.
"""

import decimal
import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import lru_cache, wraps
from typing import Any, TypeAlias, TypeVar

import msgspec

from gateway.money import MOST
from gateway.order_types import fold

T = TypeVar("T")

# A string, since the alias names itself and the ``type`` statement is younger than Python 3.11.
Wild: TypeAlias = "bool | int | Decimal | str | list[Wild] | dict[str, Wild] | Row | None"
"""A JSON value of a provider, before anybody has looked at it."""


class Row(msgspec.Struct, gc=False):
    """A map of a long list of services: what is looked for in it, ``None`` where it is not there.

    There may be a hundred thousand of them, and reading maps would take twice the time.
    """

    service: Any = None
    name: Any = None
    type: Any = None
    category: Any = None
    rate: Any = None
    min: Any = None
    max: Any = None
    refill: Any = None
    cancel: Any = None
    dripfeed: Any = None
    desc: Any = None
    description: Any = None

    @classmethod
    def of(cls, row: "dict[str, Wild]") -> "Row":
        """Return what is looked for of a map."""
        return cls(*map(row.get, cls.__struct_fields__))


BOM = b"\xef\xbb\xbf"
LARGE = 256 * 1024
"""Bytes from which a list is read row by row: the decoder lets nobody else work while it reads."""
SHORT = 32
"""Characters of a text whose meaning is worth remembering."""
PIECE = 16 * 1024
"""Bytes of rows that are read at once."""
LARGEST_ROW = 64 * 1024
MOST_ROWS = 200_000
TOGETHER = 500
"""Rows that are freed in one step."""
ODDEST = 16 * 1024 * 1024
"""Bytes of the largest answer that is read at once, whatever its shape."""
_DECODER: "msgspec.json.Decoder[Wild]" = msgspec.json.Decoder(float_hook=Decimal)
_ROWS = msgspec.json.Decoder(list[Row], float_hook=Decimal)
_MAP: "msgspec.json.Decoder[dict[str, msgspec.Raw]]" = msgspec.json.Decoder(dict[str, msgspec.Raw])
# A map without another one in it.
_ROW = re.compile(rb'\s*+(\{(?:[^{}"]++|"(?:[^"\\]++|\\.)*+")*+\})', re.DOTALL)
_NEXT = re.compile(rb"\s*+([,\]])")

# Wide enough for any number that ``number`` lets through; the default of 28 digits is not.
_WIDE = decimal.Context(prec=60)
_DIGITS = 15
_BINARY = decimal.Context(prec=_DIGITS)
_MILLIONTH = Decimal("0.000001")
_FINEST_RATE = Decimal(1).scaleb(-_DIGITS)

_NUMBER = re.compile(
    r"-?(?:[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?"
)
_LONGEST_NUMBER = 64
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:=+/#-]{0,63}")
# Words that programs write where an id should stand. An order "placed" under one of them would be
# asked after for ever.
_NO_IDS = frozenset(
    {"null", "none", "nil", "undefined", "nan", "true", "false", "yes", "no", "ok", "success"}
    | {"error", "fail", "failed"}
)
_DATE = re.compile(
    r"[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]{1,4}(?:[ T][0-9:.]{4,15}(?:Z|[+-][0-9:]{4,6})?)?"
)
_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_SUCCESS = frozenset({"success", "successful", "ok", "200", "201", "202"})
_MESSAGES = ("message", "msg")
_SHOWN = 60
DEAREST = 10**15
"""A billion in any currency: more than any order costs, and little enough that thousands of such
mistakes still fit into an account."""


def parse(body: bytes, *, services: bool = False) -> Wild:
    """Read one JSON value, floats as exact decimals; ``ValueError`` says why when it is none.

    ``services``: of the maps in a long list nothing is looked for but what ``Row`` has.
    """
    try:
        return _decoded(body.removeprefix(BOM), _ROWS if services else _DECODER)
    except (ValueError, ArithmeticError, RecursionError) as wrong:
        raise ValueError(f"not JSON: {wrong}") from None


def _decoded(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Wild:
    if len(body) <= LARGE:
        return _DECODER.decode(body)
    if body[:1] == b"{" and len(body) <= ODDEST:
        found = _MAP.decode(body).items()
        return {name: _listed(bytes(value), decoder) for name, value in found}
    return _listed(body, decoder)


def _listed(body: bytes, decoder: "msgspec.json.Decoder[Any]") -> Wild:
    """Read a long list of flat maps, one after the other; anything else at once."""
    rows: list[Wild] = []
    at = 1
    while len(body) > LARGE and body[:1] == b"[":
        end = _piece(body, at, rows, decoder) or _row(body, at, rows, decoder)
        found = _NEXT.match(body, end) if end else None
        if found is None:
            break
        if len(rows) > MOST_ROWS:
            while rows:  # else all go in one step, with the error, and everybody waits for that
                del rows[-TOGETHER:]
            raise ValueError(f"a list of more than {MOST_ROWS} rows")
        if found[1] == b"]":
            if body[found.end() :].strip():
                raise ValueError("something stands behind the list")
            return rows
        at = found.end()
    if len(body) > ODDEST:
        raise ValueError(f"{len(body)} bytes that are no list of rows")
    return _DECODER.decode(body)


def _piece(body: bytes, at: int, rows: list[Wild], decoder: "msgspec.json.Decoder[Any]") -> int:
    """Read some rows at once; returns where they end, 0 when that is in the middle of one."""
    end = body.rfind(b"}", at, at + PIECE) + 1
    try:
        rows += decoder.decode(b"[%b]" % body[at:end]) if end else []
    except ValueError:
        return 0
    return end


def _row(body: bytes, at: int, rows: list[Wild], decoder: "msgspec.json.Decoder[Any]") -> int:
    """Read one flat row; returns where it ends, 0 when there is none."""
    found = _ROW.match(body, at, at + LARGEST_ROW)
    if found is None:
        return 0
    rows += decoder.decode(b"[%b]" % found[1])
    return found.end()


def _known(read: "Callable[[Wild], T]") -> "Callable[[Wild], T]":
    """Remember what texts are read as: in a list of services the same few stand in every row.

    Most fields of a row are not there at all, so what that means is remembered, too.
    """
    remembered = lru_cache(4096)(read)

    @wraps(read)
    def known(value: Wild) -> T:
        if value is None or (type(value) is str and len(value) < SHORT):
            return remembered(value)
        return read(value)

    return known


@_known
def number(value: Wild) -> Decimal | None:
    """Read a number or a string like ``$0.9`` or ``1,200.00``; ``None`` unless it is finite.

    More than fifteen digits before the point are no number that a panel means. A JSON number of
    more than fifteen digits in all is a binary one that was printed (``26.879999999999999``), and
    is read as what it was before (26.88).
    """
    if isinstance(value, str):
        digits = value.strip(" $€£₹₽\t\r\n")
        if len(digits) > _LONGEST_NUMBER or not _NUMBER.fullmatch(digits):
            return None
        exact = Decimal(digits.replace(",", ""))
    elif isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    else:
        exact = Decimal(value)
    if not exact.is_finite() or (exact and exact.adjusted() >= _DIGITS):
        return None
    if isinstance(value, Decimal) and len(exact.as_tuple().digits) > _DIGITS:
        exact = _BINARY.plus(exact).normalize()
    return exact or Decimal(0)


@_known
def rate(value: Wild) -> Decimal | None:
    """Read a rate: never negative, exact to its fifteenth decimal; ``None`` when it is none."""
    exact = number(value)
    if exact is None or exact < 0:
        return None
    rounded = exact.quantize(_FINEST_RATE, ROUND_HALF_EVEN, _WIDE)
    if exact and not rounded:
        return None
    return exact if exact == rounded else rounded


@_known
def whole(value: Wild) -> int | None:
    """Read a count; a fraction is dropped. ``None`` when it is no number."""
    exact = number(value)
    return None if exact is None else int(exact.quantize(Decimal(1), ROUND_FLOOR, _WIDE))


@_known
def count(value: Wild) -> int | None:
    """Read a count of something that can't be fewer than none."""
    counted = whole(value)
    return counted if counted is not None and counted >= 0 else None


@_known
def millionths_up(value: Wild) -> int | None:
    """Read an amount that is owed: millionths, rounded up; ``None`` when it cannot be one."""
    micros = _millionths(value, ROUND_CEILING)
    return micros if micros is not None and 0 <= micros <= DEAREST else None


def millionths_down(value: Wild) -> int | None:
    """Read an amount that is owned: millionths, rounded down; ``None`` when it cannot be one."""
    return _millionths(value, ROUND_FLOOR)


def _millionths(value: Wild, rounding: str) -> int | None:
    exact = number(value)
    if exact is None:
        return None
    micros = int(exact.quantize(_MILLIONTH, rounding, _WIDE).scaleb(6, _WIDE))
    return micros if abs(micros) <= MOST else None


def flag(value: Wild) -> bool | None:
    """Read ``true``, ``1``, ``"1"``, ``"true"`` and their opposites; else ``None``."""
    return value if value is None or isinstance(value, bool) else _flag(value)


@_known
def _flag(value: Wild) -> bool | None:
    word = _word(value)
    if word in _YES:
        return True
    return False if word in _NO else None


def _word(value: Wild) -> str:
    """Fold a scalar to a word, so that ``True``, ``1`` and ``"1"`` can be looked up alike."""
    return fold(str(value).strip()) if isinstance(value, bool | int | str) else ""


def identity(value: Wild) -> str:
    """Read an id: a positive integer or a short string without spaces or commas; else ``""``."""
    if type(value) is int and value > 0:
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    name = str(value).strip()
    if not _ID.fullmatch(name) or not name.strip("0.") or name.casefold() in _NO_IDS:
        return ""
    return name


@_known
def folded(value: Wild) -> str:
    """Fold a text, so that it can be looked up: case, spaces, ``_`` and ``-`` don't count."""
    return fold(text(value))


def text(value: Wild) -> str:
    """Read a text, or a number as one; without NUL, which no PostgreSQL column takes."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.replace("\x00", "").strip()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


@_known
def date(value: Wild) -> str:
    """Read a date as it is written; empty when it is none, such as a word or zeros."""
    written = text(value)
    return written if _DATE.fullmatch(written) and written.strip("0-/.: ") else ""


def error(answer: Wild) -> str | None:
    """Return the words of an answer's or a row's ``error``.

    ``None``: it has none (``"error": null``, ``""``, ``false`` beside a result are none).
    ``""``: it has one that says nothing (``{"error": true}``).
    """
    if not isinstance(answer, dict):
        return None
    said = answer.get("error")
    if isinstance(said, str):
        return text(said) if said.strip() else None
    if not said:
        return None
    if isinstance(said, dict):
        return message(said)
    if isinstance(said, list):
        return text(said[0])
    return message(answer)


def message(row: dict[str, Wild]) -> str:
    """Return the sentence that stands beside a result; empty when there is none."""
    return next((said for said in (text(row.get(name)) for name in _MESSAGES) if said), "")


def done(row: dict[str, Wild]) -> bool | None:
    """Read a sentence: ``{"status": "Success", "message": …}`` and its like.

    ``True``: it says that it did. ``False``: that it did not, or something else in words.
    ``None``: neither.
    """
    said = row.get("status", row.get("success"))
    if flag(said) or _word(said) in _SUCCESS:
        return True
    if flag(said) is False or (said is not None and message(row)):
        return False
    return None


def show(value: Wild) -> str:
    """Write a value for a log line: short, and never the inside of something nested."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value)}"
    shown = "null" if value is None else repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
