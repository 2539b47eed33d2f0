"""Between rows and values, for both databases: plain columns, JSON where a value has parts."""

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from enum import EnumType
from functools import cache
from itertools import compress
from operator import is_not
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec.structs import astuple

from gateway import model

T = TypeVar("T", bound=msgspec.Struct)

JSON = frozenset({"params", "orders", "detail", "addresses", "offered"})
"""Columns that hold JSON."""
_encode = msgspec.json.encode

Value = str | int | bytes | None
HEARD = "'accepted', 'status'"
"""The events in which a provider says how an order is; the others prove nothing about it there."""
CORRECTED = f"'{model.CORRECTED}'"
"""The event before which whatever was said of an order was said of another one."""


def columns(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return a table's columns: the fields of what is kept in it, in order."""
    return kind.__struct_fields__


def listed(names: Sequence[str]) -> str:
    """Return column names for a statement; ``order`` is a word of SQL, so all are quoted."""
    return ", ".join(f'"{name}"' for name in names)


def to_value(name: str, value: Any) -> Value:  # noqa: ANN401  # whatever a field holds
    """Return a field's value as a database keeps it."""
    if name in JSON:
        return _as_json(value)
    return _as_text(value) if isinstance(value, Decimal) else value


def _as_json(value: object) -> str:
    return _encode(value).decode()


def _as_text(value: Decimal | None) -> str | None:
    return None if value is None else f"{value:f}"


def to_row(thing: msgspec.Struct) -> Sequence[Value]:
    """Return all fields of a thing as a row."""
    return row_of(type(thing))(thing)


@cache
def row_of(kind: type[msgspec.Struct]) -> Callable[[Any], Sequence[Value]]:
    """Return what makes rows of things of a kind."""
    written = tuple(_written(kind).items())
    if not written:
        return astuple

    def row(thing: msgspec.Struct) -> list[Value]:
        cells: list[Any] = list(astuple(thing))
        for at, write in written:
            cells[at] = write(cells[at])
        return cells

    return row


def from_row(kind: type[T], row: Sequence[Any]) -> T:
    """Return the thing that a whole row keeps."""
    values = list(row)
    if len(values) != len(columns(kind)):
        msg = f"a row of {len(values)} columns is no {kind.__name__}"
        raise ValueError(msg)
    for at, read in _read(kind):
        if (value := values[at]) is not None:
            values[at] = read(value)
    return kind(*values)  # by position: by name it takes as long as all else of a row


@cache
def from_json(kind: type[T]) -> Callable[[str], list[T]]:
    """Return what makes things of a kind of a JSON list of rows, their JSON columns as such."""
    hints = get_type_hints(kind)
    fields = [(name, hints[name]) for name in columns(kind)]
    row: Any = msgspec.defstruct("Row", fields, array_like=True, gc=False)
    decode = msgspec.json.Decoder(list[row], strict=False).decode  # a bool is kept as a number
    return lambda text: [kind(*astuple(one)) for one in decode(text)]


def changed(before: T, after: T) -> dict[str, Value]:
    """Return the columns in which two versions of the same thing differ."""
    old, new = astuple(before), astuple(after)
    names, written = columns(type(after)), _written(type(after))
    # One is made of the other, so most are not only equal: that is seen at a glance.
    others = compress(range(len(names)), map(is_not, old, new))
    return {
        names[at]: written[at](new[at]) if at in written else new[at]
        for at in others
        if new[at] != old[at]
    }


@cache
def _written(kind: type[msgspec.Struct]) -> dict[int, Callable[[Any], Value]]:
    """Return what writes those columns, by their places, that a database keeps otherwise."""
    hints = get_type_hints(kind)
    return {
        at: _as_json if name in JSON else _as_text
        for at, name in enumerate(columns(kind))
        if name in JSON or Decimal in (hints[name], *get_args(hints[name]))
    }


@cache
def _read(kind: type[msgspec.Struct]) -> list[tuple[int, Callable[[Any], Any]]]:
    """Return what makes our values of those columns that hold something else."""
    hints = get_type_hints(kind)
    readers = ((at, _reader(name, hints[name])) for at, name in enumerate(columns(kind)))
    return [(at, read) for at, read in readers if read]


def _reader(name: str, hint: Any) -> Callable[[Any], Any] | None:  # noqa: ANN401  # any type
    if name in JSON:
        return msgspec.json.Decoder(hint).decode
    if isinstance(hint, EnumType):
        members: Iterable[Any] = hint
        return {str(one): one for one in members}.__getitem__
    kinds = {hint, *get_args(hint)}
    return next((kind for kind in (Decimal, bool) if kind in kinds), None)
