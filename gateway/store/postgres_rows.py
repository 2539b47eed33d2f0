"""Between lists of things and sets of rows, on PostgreSQL."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import msgspec

from gateway.store.rows import columns, from_row, listed

T = TypeVar("T", bound=msgspec.Struct)

Connection = Any
"""The driver's connection; only ``postgres`` imports the driver."""
Row = Sequence[Any]

NUL, INSTEAD = "\0", "\N{REPLACEMENT CHARACTER}"
_TYPES = {
    int: "bigint",
    int | None: "bigint",
    bool: "boolean",
    bool | None: "boolean",
    bytes: "bytea",
}


class Refused(Exception):  # on its way to another try
    """The server wrote nothing: something is not as it was believed to be."""


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


class Sets:
    """One statement that writes sets of rows to any number of tables.

    Its parts see the tables as they were before all of them, so no row may be in two.
    """

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._guards: list[str] = []
        self.bindings: list[Sequence[Any]] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(
        self,
        part: str,
        statement: str,
        kinds: Mapping[str, str],
        rows: Sequence[Row],
        *,
        every: bool = False,
    ) -> None:
        """Write rows, if there are any; a statement finds them in ``{new}``, by these columns.

        ``every``: unless it returns a row for each of them, nothing of the whole is written.
        """
        if not rows:
            return
        arrays = []
        for kind, column in zip(kinds.values(), zip(*rows, strict=True), strict=True):
            text = kind == "text"
            self.bindings.append([one and plain(one) for one in column] if text else column)
            arrays.append(f"${len(self.bindings)}::{kind}[]")
        new = f"unnest({', '.join(arrays)}) AS new ({listed(tuple(kinds))})"
        self._parts[part] = statement.replace("{new}", new)
        if every:
            self._guards.append(f"(SELECT count(*) FROM {part}) = cardinality({arrays[0]})")

    def statement(self, answer: str = "0") -> str:
        """Return the statement; where a guard does not hold it fails, as a division by zero.

        Guards are looked at one after the other, and before the parts without one are begun.
        """
        parts = ", ".join(f"{name} AS ({text})" for name, text in self._parts.items())
        guarded = f" WHERE 1 / ({' AND '.join(self._guards)})::int = 1" if self._guards else ""
        return f"WITH {parts} SELECT {answer}{guarded}"


def insert(kinds: Mapping[str, str], table: str) -> str:
    """Return the part that writes new rows of a table."""
    names = listed(tuple(kinds))
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {{new}}"
