"""Between rows and values, for both databases: plain columns, JSON where a value has parts."""

from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

_JSON = frozenset({"params", "orders", "detail", "addresses", "offered"})
_encode = msgspec.json.encode
_decode = msgspec.json.decode

Value = str | int | bytes | None
HEARD = "'accepted', 'status'"
"""The events in which a provider says how an order is; the others prove nothing about it there."""


def columns(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return a table's columns: the fields of what is kept in it, in order."""
    return kind.__struct_fields__


def listed(names: Sequence[str]) -> str:
    """Return column names for a statement; ``order`` is a word of SQL, so all are quoted."""
    return ", ".join(f'"{name}"' for name in names)


def to_value(name: str, value: Any) -> Value:  # noqa: ANN401  # whatever a field holds
    """Return a field's value as a database keeps it."""
    if name in _JSON:
        return _encode(value).decode()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return value  # type: ignore[no-any-return]


def to_row(thing: msgspec.Struct) -> list[Value]:
    """Return all fields of a thing as a row."""
    row: list[Any] = list(msgspec.structs.astuple(thing))
    for at, name in _special(type(thing)):
        row[at] = to_value(name, row[at])
    return row


def from_row(kind: type[T], row: Sequence[Any]) -> T:
    """Return the thing that a whole row keeps."""
    fields: dict[str, Any] = dict(zip(columns(kind), row, strict=True))
    for _, name in _special(kind):
        if name in _JSON:
            fields[name] = _decode(fields[name])
    return msgspec.convert(fields, kind, strict=False)


def changed(before: T, after: T) -> dict[str, Value]:
    """Return the columns in which two versions of the same thing differ."""
    versions = msgspec.structs.astuple(before), msgspec.structs.astuple(after)
    return {
        name: to_value(name, new)
        for name, old, new in zip(columns(type(after)), *versions, strict=True)
        if new is not old and new != old
    }


@cache
def _special(kind: type[msgspec.Struct]) -> list[tuple[int, str]]:
    """Return where the columns are that a database keeps otherwise than we do."""
    hints = get_type_hints(kind)
    return [
        (at, name)
        for at, name in enumerate(columns(kind))
        if name in _JSON or Decimal in (hints[name], *get_args(hints[name]))
    ]
