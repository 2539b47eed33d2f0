"""Statements on whole rows, on SQLite."""

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import apsw
import msgspec

from gateway.store.rows import JSON, columns, from_json, listed

T = TypeVar("T", bound=msgspec.Struct)

UNDECIDED = "(state = 'queued' OR state = 'sending' OR state = 'unknown')"
"""What the index of the orders that are not decided holds, word for word: so SQLite sees it."""

AMONG = "id IN (SELECT value FROM json_each(?))"
"""A condition with any number of ids, as one JSON list, see ``among``."""


def select(kind: type[Any], table: str, where: str) -> str:
    """Return the statement that reads things of a kind."""
    return f"SELECT {listed(columns(kind))} FROM {table} WHERE {where}"


def read(
    db: apsw.Connection, kind: type[T], table: str, where: str, *bindings: str | int
) -> list[T]:
    """Return things of a kind, read as one JSON text: a list of rows.

    At every row SQLite gives the interpreter away, and a thread that computes keeps it for a turn;
    so what is read on the event loop itself waits for it no more than once.
    """
    return from_json(kind)(db.execute(_at_once(kind, table, where), bindings).get)


@cache
def _at_once(kind: Any, table: str, where: str) -> str:  # noqa: ANN401  # a type
    names = columns(kind)
    cells = ", ".join(f'json("{name}")' if name in JSON else f'"{name}"' for name in names)
    row = f"SELECT json_array({cells}) AS row FROM {table} WHERE {where}"
    return f"SELECT '[' || coalesce(group_concat(row), '') || ']' FROM ({row})"


def insert(kind: type[Any], table: str) -> str:
    """Return the statement that writes a thing of a kind."""
    names = columns(kind)
    return f"INSERT INTO {table} ({listed(names)}) VALUES ({', '.join('?' * len(names))})"


def among(ids: Iterable[int]) -> str:
    """Return the binding of ``AMONG``."""
    return msgspec.json.encode(list(ids)).decode()
