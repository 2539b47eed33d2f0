"""Statements on whole rows, on SQLite."""

from functools import cache
from typing import Any

from gateway.store.rows import columns, listed

UNDECIDED = "(state = 'queued' OR state = 'sending' OR state = 'unknown')"
"""What the index of the orders that are not decided holds, word for word: so SQLite sees it."""

AMONG = "id IN (SELECT value FROM json_each(?))"
"""A condition with any number of ids, as one JSON list."""


def select(kind: type[Any], table: str, where: str) -> str:
    """Return the statement that reads things of a kind."""
    return f"SELECT {listed(columns(kind))} FROM {table} WHERE {where}"


@cache
def select_at_once(kind: Any, table: str, where: str) -> str:  # noqa: ANN401  # a type
    """Return the statement that reads things of a kind as one JSON text: a list of rows.

    At every row SQLite gives the interpreter away, and a thread that computes keeps it for a turn;
    so what is read on the event loop itself waits for it no more than once.
    """
    row = f"SELECT json_array({listed(columns(kind))}) AS row FROM {table} WHERE {where}"
    return f"SELECT '[' || coalesce(group_concat(row), '') || ']' FROM ({row})"


def insert(kind: type[Any], table: str) -> str:
    """Return the statement that writes a thing of a kind."""
    names = columns(kind)
    return f"INSERT INTO {table} ({listed(names)}) VALUES ({', '.join('?' * len(names))})"
