"""``gateway store``: moving house, backups, and coming back from one."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from gateway.app import open_store
from gateway.background import SERVING
from gateway.commands.start import Json, command, fail, load_settings, show_json
from gateway.commands.terminal import err, is_there, now, show_facts, since
from gateway.moving import move
from gateway.settings import database
from gateway.store import PRESENT, Store
from gateway.transitions import HOUR

app = typer.Typer(no_args_is_help=True, help="The database: moved, backed up, restored, relieved.")

SQLITE = "sqlite:///"
YOUNGEST = 30 * HOUR * 24
"""Milliseconds before which no order is archived: keys are remembered, providers may refund."""
PAGE = 500
"""Orders that are archived in one commit, so that nobody waits for it."""
STOPPED = "stop it first, so that nothing is written there meanwhile"
MISSING = (
    "what was written after the backup is missing: orders, credits, customers. Set orders.first_id "
    "above every order id given out since then. For 30 days nothing is settled by a balance alone: "
    "orders that are missing may move it"
)


@app.command()
@command
async def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A database URL.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The URL of an empty database.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Copy everything to another database; broken off, it is repeated from the beginning."""
    await _copy(_url(source), _url(target), json=json, live=False)


@app.command()
@command
async def backup(
    file: Annotated[Path, typer.Argument(help="Where to; it must not exist yet.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Write everything into one file, also while the gateway is at work."""
    if file.exists():
        fail(f"{file} exists already; give another name")
    if not file.parent.is_dir():
        fail(f"there is no folder {file.parent}; make it first, or give another name")
    unfinished = file.with_name(f"{file.name}.part")
    source, target = load_settings().database_url, f"{SQLITE}{unfinished}"
    await _copy(source, target, json=json, live=True, named=str(file))
    unfinished.rename(file)


@app.command()
@command
async def restore(
    file: Annotated[Path, typer.Argument(help="What `gateway store backup` has written.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Take everything from a backup into the database of this gateway, which must be empty.

    Orders that are on their way in it become unknown: they may have been sent since.
    """
    url = load_settings().database_url
    await _copy(f"{SQLITE}{file}", url, json=json, live=True, restored_at=now())
    err.print(MISSING, markup=False, soft_wrap=True)


@app.command()
@command
async def archive(
    before: Annotated[str, typer.Option(help="An age of at least 30d, or a date.")],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Move old settled orders out of the way; they can still be read, and the audit counts them."""
    moment = since(before, "--before")
    if moment > now() - YOUNGEST:
        fail(f"--before {before}: orders stay for 30 days at least; write an age like 365d")
    async with _opened(load_settings().database_url, there=True) as store:
        moved = last = 0
        with err.status("archiving") as status:
            while True:
                count, last = await store.archive(moment, last, PAGE)
                if not last:
                    break
                moved += count
                status.update(f"{moved:,} orders")
    if json:
        show_json({"archived": moved})
    else:
        show_facts({"archived": moved})


def _url(written: str) -> str:
    try:
        return database(written)
    except ValueError as error:
        fail(str(error))


async def _copy(
    source: str,
    target: str,
    *,
    json: bool,
    live: bool,
    restored_at: int | None = None,
    named: str = "",
) -> None:
    """Copy, and show the proof; ``live``: the source may go on being written to.

    ``restored_at``: it is a backup, see ``move``; ``named``: what the target will be called.
    """
    async with _opened(source, there=True) as original, _opened(target) as copied:
        for store, url in ((original, source), (copied, target)):
            busy = any(one.startswith((PRESENT, SERVING)) for one in await store.holders(now()))
            if busy and not (live and store is original):
                fail(f"a gateway is at work on {_shown(url)}; {STOPPED}", 1)
        with err.status("copying") as status:
            before, after, doubted = await move(
                original,
                copied,
                lambda table, rows: status.update(f"{table}: {rows:,} rows"),
                restored_at,
            )
    problems = [*before.problems, *after.problems]
    facts: dict[str, object] = {
        "from": _shown(source),
        "to": named or _shown(target),
        "transfers": after.transfers,
        "accounts": after.accounts,
    }
    if restored_at is not None:
        facts["unknown"] = doubted
    if json:
        show_json({**facts, "ok": not problems, "problems": problems})
    else:
        show_facts(facts)
    if problems:
        fail("the books do NOT add up; the copy is not in use: " + "; ".join(problems), 1)


@asynccontextmanager
async def _opened(url: str, *, there: bool = False) -> AsyncIterator[Store]:
    if there and not is_there(url):
        fail(f"there is no file {url.removeprefix(SQLITE)}")
    store = await open_store(url)
    try:
        yield store
    finally:
        await store.close()


def _shown(url: str) -> str:
    """Return a database URL without who opens it and with what password."""
    if url.startswith(SQLITE):
        return os.path.relpath(url.removeprefix(SQLITE))
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
