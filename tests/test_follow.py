"""Asking for what is due, and what is written of it: once, whatever happens in between."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import apsw
import pytest

import build
from build import AT, FOLLOWING, advance, customer, order, placement
from gateway import reporting
from gateway.cache import MemoryCache
from gateway.errors import LeaseLost
from gateway.follow import Follow
from gateway.model import Order, Report, Status
from gateway.router import Router
from gateway.statuses import Statuses
from gateway.store import Lease, Store
from gateway.store.sqlite import SqliteStore

NOW = AT + FOLLOWING.every
RUNNING, PROCESSING = build.report(Status.IN_PROGRESS), build.report(Status.PROCESSING)


class Provider:
    """In a router's place: says the same of every order, after something has happened."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    async def status(self, _: str, ids: Sequence[str]) -> dict[str, Report]:
        if self.meanwhile:
            await self.meanwhile()
        return dict.fromkeys(ids, self.report)


async def _placed(folder: Path) -> tuple[Store, Order]:
    store = await SqliteStore.open(folder / "gateway.db")
    ann = await customer(store, credit=10_000_000)
    placed = await order(store, placement(ann.id))
    return store, await advance(store, placed.id, build.accepted("9"))


def _follow(store: Store, provider: Provider, now: Callable[[], int]) -> Follow:
    statuses = Statuses(store, MemoryCache())
    return Follow(store, cast("Router", provider), statuses, FOLLOWING, now)


async def test_what_was_asked_and_not_written_is_asked_again_and_taken_once(tmp_path: Path) -> None:
    """As after a crash: nothing was put off before there was an answer to write."""
    store, placed = await _placed(tmp_path)
    (lease,) = (await store.lease(["looks"], "me", AT, AT * 2)).values()
    follow = _follow(store, Provider(RUNNING), lambda: NOW)
    with pytest.raises(LeaseLost):
        await follow.look("alpha", 9, Lease("looks", "me", lease.fence - 1))
    assert placed == (await store.orders([placed.id]))[placed.id]
    looks = [await follow.look("alpha", 9, lease) for _ in range(2)]
    after = (await store.orders([placed.id]))[placed.id]
    await store.close()

    assert [1, 0] == looks
    assert (placed.version + 1, Status.IN_PROGRESS) == (after.version, after.status)
    assert FOLLOWING.next(placed, NOW) == after.poll_at


async def test_what_cannot_be_asked_for_does_not_keep_others_from_their_turn(
    tmp_path: Path,
) -> None:
    """Whatever goes wrong with it, it is asked for again when it is its turn."""
    store, placed = await _placed(tmp_path)
    provider = Provider(RUNNING)

    async def fail() -> None:
        raise ZeroDivisionError

    provider.meanwhile = fail
    follow = _follow(store, provider, lambda: NOW)
    with pytest.raises(ZeroDivisionError):
        await follow.look("alpha", 9)
    after = (await store.orders([placed.id]))[placed.id]
    again = await follow.look("alpha", 9)
    await store.close()

    assert (FOLLOWING.next(placed, NOW), 0) == (after.poll_at, again)
    assert placed.version == after.version


async def test_an_answer_that_came_too_late_is_news_when_it_is_said_again(tmp_path: Path) -> None:
    """Only what was not too old to be taken over is remembered as said."""
    store, placed = await _placed(tmp_path)
    provider = Provider(RUNNING)
    clock = [NOW]

    async def another() -> None:
        provider.meanwhile = None
        said = reporting.reported(PROCESSING, NOW + 5, FOLLOWING, NOW + 5)
        await advance(store, placed.id, said)

    provider.meanwhile = another
    follow = _follow(store, provider, lambda: clock[0])
    found = []
    for _ in range(3):
        await follow.look("alpha", 9)
        found.append((await store.orders([placed.id]))[placed.id])
        clock[0] += 10 * FOLLOWING.every
    await store.close()

    assert [Status.PROCESSING, Status.IN_PROGRESS, Status.IN_PROGRESS] == [
        one.status for one in found
    ]
    assert found[1].version == found[2].version


async def test_what_was_said_before_is_news_when_it_was_otherwise_in_between(
    tmp_path: Path,
) -> None:
    """Also where it was somebody else who heard of that."""
    store, placed = await _placed(tmp_path)
    clock = [NOW]
    follow = _follow(store, Provider(RUNNING), lambda: clock[0])
    await follow.look("alpha", 9)
    said = reporting.reported(PROCESSING, NOW + 5, FOLLOWING, NOW + 5)
    await advance(store, placed.id, said)
    clock[0] += 10 * FOLLOWING.every
    await follow.look("alpha", 9)
    after = (await store.orders([placed.id]))[placed.id]
    await store.close()

    assert Status.IN_PROGRESS is after.status


async def test_an_order_without_news_is_not_even_read(tmp_path: Path) -> None:
    """All that is written of it is when to ask for it next."""
    store, _ = await _placed(tmp_path)
    (lease,) = (await store.lease(["looks"], "me", AT, AT * 2)).values()
    clock = [NOW]
    follow = _follow(store, Provider(RUNNING), lambda: clock[0])
    statements: list[list[str]] = []

    def note(event: dict[str, str]) -> None:
        statements[-1].append(event["sql"])

    assert isinstance(store, SqliteStore)
    for db in (store._reader, store._writer._db):
        db.trace_v2(apsw.SQLITE_TRACE_PROFILE, note)
    for _ in range(2):
        statements.append([])
        await follow.look("alpha", 9, lease)
        clock[0] += 10 * FOLLOWING.every
    await store.close()

    assert [True, False] == [any('"params"' in one for one in look) for look in statements]
    assert ["UPDATE orders SET poll_at"] == [
        one.partition(" = ")[0] for one in statements[1] if one.startswith("UPDATE")
    ]


async def test_what_is_not_clear_stays_so_however_often_it_is_said(tmp_path: Path) -> None:
    """Who wants to know whether all was said clearly must not be told so the second time."""
    store, placed = await _placed(tmp_path)
    clear = []
    for said in (build.report(None, "odd"), RUNNING):
        follow = _follow(store, Provider(said), lambda: NOW)
        clear += [await follow.ask("alpha", [placed]) for _ in range(2)]
        (placed,) = (await store.orders([placed.id])).values()
    await store.close()

    assert [False, False, True, True] == clear
