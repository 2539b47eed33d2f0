"""What commands for people share: results as tables and facts, times, an opened store."""

import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.app import find_config, open_store, read_config
from gateway.commands.start import fail, load_settings
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.settings import Settings
from gateway.store import Store

# A pipe has no width; a table in it must not be folded to fit eighty columns.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
err = Console(stderr=True, highlight=False)


async def in_force(found: Settings) -> Config:
    """Return the owner's file; with mistakes in it, the last good one, by which we go on serving.

    Raises ``ConfigError`` where there is none: nothing is made for that, no database either.
    """
    try:
        return read_config(found)
    except ConfigError:
        if not is_there(found.database_url):
            raise
    store = await open_store(found.database_url)
    try:
        config, mistakes = await find_config(found, store)
    finally:
        await store.close()
    for mistake in mistakes:
        err.print(mistake, style="yellow", markup=False, soft_wrap=True)
    err.print("the last good file is in force, and this goes by it", style="yellow")
    return config


def is_there(url: str) -> bool:
    """Tell whether there is a database; of a server that is found out by asking it."""
    scheme, _, path = url.partition("://")
    return scheme != "sqlite" or Path(path.removeprefix("/")).is_file()


@asynccontextmanager
async def opened_store() -> AsyncIterator[tuple[Store, Config]]:
    """Open the database for one command."""
    found = load_settings()
    config = await in_force(found)
    if not is_there(found.database_url):
        # From another folder it would be another one, and an audit of nothing always adds up.
        err.print(f"a new database: {found.database_url}, in {Path.cwd()}", markup=False)
    store = await open_store(found.database_url, first_id=config.orders.first_id)
    try:
        yield store, config
    finally:
        await store.close()


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "none"
) -> None:
    """Print a result for people; columns that end in ``>`` are aligned to the right."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name in columns:
        right = name.endswith(">")
        table.add_column(name.rstrip(">"), justify="right" if right else "left", overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        count += 1
    out.print(table if count else f"{title}: {empty}")


def show_facts(facts: Mapping[str, object]) -> None:
    """Print one thing for people, a fact a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(Text(name, "bold"), Text("" if value is None else str(value)))
    out.print(table)


def now() -> int:
    """Return the time in milliseconds."""
    return int(time.time() * 1000)


def moment(at: int | None) -> str | None:
    """Return a time as people and programs read it: ISO 8601, in UTC."""
    if at is None:
        return None
    return (
        datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )


def since(text: str, flag: str = "--since") -> int:
    """Read ``1d``, ``2h`` or a date as the time since when; in milliseconds."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] in units and text[:-1].isascii() and text[:-1].isdigit():
        return now() - int(text[:-1]) * units[text[-1]] * 1000
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{flag} {text}: write an age like 1d or 12h, or a date like 2026-11-21")
    return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
