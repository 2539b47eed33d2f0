"""Statements on whole rows, on SQLite."""

from typing import Any

from gateway.store.rows import columns, listed


def select(kind: type[Any], table: str, where: str) -> str:
    """Return the statement that reads things of a kind."""
    return f"SELECT {listed(columns(kind))} FROM {table} WHERE {where}"


def insert(kind: type[Any], table: str) -> str:
    """Return the statement that writes a thing of a kind."""
    names = columns(kind)
    return f"INSERT INTO {table} ({listed(names)}) VALUES ({', '.join('?' * len(names))})"
