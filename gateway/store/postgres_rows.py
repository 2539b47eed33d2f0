"""Between lists of things and sets of rows, on PostgreSQL."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar, get_type_hints

import msgspec

from gateway.store.rows import columns, from_row, listed

T = TypeVar("T", bound=msgspec.Struct)

Connection = Any
"""The driver's connection; only ``postgres`` imports the driver."""
Row = Sequence[Any]

_encode = msgspec.json.encode
NUL, INSTEAD = "\0", "\N{REPLACEMENT CHARACTER}"
_TYPES = {
    int: "bigint",
    int | None: "bigint",
    bool: "boolean",
    bool | None: "boolean",
    bytes: "bytea",
}


_READ = {"bytea": "decode({}, 'base64')", "text": "{}"}
"""How a column is read of what JSON makes of it, where a cast is not all."""


def types(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the columns of what is kept in a table, with their types."""
    hints = get_type_hints(kind)
    return {name: _TYPES.get(hints[name], "text") for name in columns(kind)}


def select(kind: type[msgspec.Struct], table: str, rest: str) -> str:
    """Return the statement that reads things of a kind; ``rest`` follows the table's name."""
    names = ", ".join(f'{table}."{name}"' for name in columns(kind))
    return f"SELECT {names} FROM {table} {rest}"


def things(kind: type[T], rows: Iterable[Row]) -> list[T]:
    """Return the things that these rows keep."""
    return [from_row(kind, row) for row in rows]


def plain(text: str) -> str:
    """Return a text as PostgreSQL can hold it, which has no NUL."""
    return text.replace(NUL, INSTEAD)


class Part:
    """A part of a statement that writes a set of rows, in this order of columns and of types.

    Args:
        statement: finds the rows in ``{new}``.
        every: unless it returns a row for each of them, nothing of the whole is written.

    """

    def __init__(
        self, name: str, statement: str, kinds: Mapping[str, str], *, every: bool = False
    ) -> None:
        cells = ", ".join(
            f'{_READ.get(kind, "({})::" + kind).format(f"one->>{at}")} AS "{column}"'
            for at, (column, kind) in enumerate(kinds.items())
        )
        new = f"(SELECT {cells} FROM jsonb_array_elements({{rows}}) AS one) AS new"
        self.name = name
        self.every = every
        self._text = statement.replace("{new}", new)

    def text(self, rows: int) -> str:
        """Return its text in a statement whose binding of this number is the rows."""
        return f"{self.name} AS ({self._text.replace('{rows}', f'${rows}')})"


class Sets:
    """One statement that writes sets of rows to any number of tables.

    Each set travels as one text: the driver takes ten times as long over arrays of as many values.
    Its parts see the tables as they were before all of them, so no row may be in two.
    """

    def __init__(self) -> None:
        self._parts: list[Part] = []
        self.bindings: list[str | int] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, part: Part, rows: Sequence[Row]) -> None:
        """Write rows, if there are any."""
        if rows:
            self._parts.append(part)
            self.bindings.append(_json(rows))
            if part.every:
                self.bindings.append(len(rows))

    def statement(self, answer: str = "0") -> str:
        """Return the statement; where a guard does not hold it fails, as a division by zero.

        Guards are looked at one after the other, and before the parts without one are begun.
        """
        return _statement(tuple(self._parts), answer)


@lru_cache(1000)
def _statement(parts: tuple[Part, ...], answer: str) -> str:
    numbers = count(1)
    texts, guards = [], []
    for part in parts:
        texts.append(part.text(next(numbers)))
        if part.every:
            guards.append(f"(SELECT count(*) FROM {part.name}) = ${next(numbers)}")
    guarded = f" WHERE 1 / ({' AND '.join(guards)})::int = 1" if guards else ""
    return f"WITH {', '.join(texts)} SELECT {answer}{guarded}"


def insert(kinds: Mapping[str, str], table: str) -> str:
    """Return the part that writes new rows of a table."""
    names = listed(tuple(kinds))
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {{new}}"


def _json(rows: Sequence[Row]) -> str:
    text = _encode(rows).decode()
    if "\\u0000" in text:
        text = _encode([[_plain(one) for one in row] for row in rows]).decode()
    return text


def _plain(value: object) -> object:
    return plain(value) if isinstance(value, str) else value
