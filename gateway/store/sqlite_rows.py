"""Statements on whole rows, on SQLite."""

from typing import Any

from gateway.store.rows import columns, listed

UNDECIDED = "(state = 'queued' OR state = 'sending' OR state = 'unknown')"
"""What the index of the orders that are not decided holds, word for word: so SQLite sees it."""


def select(kind: type[Any], table: str, where: str) -> str:
    """Return the statement that reads things of a kind."""
    return f"SELECT {listed(columns(kind))} FROM {table} WHERE {where}"


def insert(kind: type[Any], table: str) -> str:
    """Return the statement that writes a thing of a kind."""
    names = columns(kind)
    return f"INSERT INTO {table} ({listed(names)}) VALUES ({', '.join('?' * len(names))})"
