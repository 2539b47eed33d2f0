"""In what a provider's list differs from what is known of it, by values alone."""

from pathlib import Path

import pytest
from msgspec.structs import replace

import build
from build import AT
from databases import database
from gateway.app import open_store
from gateway.model import Held, Offer
from gateway.store import Store
from gateway.store.offers import compare, offer_row

OLD = build.offer()


def changes(new: Offer) -> list[tuple[str, str, str]]:
    """Return what has changed of the one service that is known."""
    found = compare("p", {"1": (OLD, None)}, [new], AT)
    return [(one.kind, one.before, one.after) for row in found for one in row.changes]


def test_a_rate_that_changes_alone_is_one_change() -> None:
    assert [("rate", "0.90", "0.95")] == changes(build.offer(rate="0.95"))


def test_a_rate_that_changes_with_something_else_hides_nothing() -> None:
    new = replace(build.offer(rate="0.95"), max=7, refill=False)

    assert [
        ("rate", "0.90", "0.95"),
        ("max", str(OLD.max), "7"),
        ("refill", "", "false"),
    ] == changes(new)


def test_a_rate_that_is_only_spelled_otherwise_has_not_changed() -> None:
    assert [] == changes(build.offer(rate="0.9"))


@pytest.mark.parametrize(
    ("rate", "expected"), [("1E+3", "1000"), ("1E-9", "0.000000001"), ("0E-8", "0.00000000")]
)
def test_no_rate_is_written_with_an_exponent(rate: str, expected: str) -> None:
    new = build.offer(rate=rate)

    assert [("rate", "0.90", expected)] == changes(new)
    assert expected == offer_row("p", new)[5]


def test_differences_are_in_the_order_of_the_tables() -> None:
    """So that a commit writes one page after the other."""
    known = {"10": (build.offer("10"), None)}
    for first in (False, True):
        offers = [build.offer(one) for one in ("9", "2", "11")]
        found = compare("p", {} if first else known, offers, AT, first=first)

        assert sorted(one.id for one in found) == [one.id for one in found]


async def _keeps_what_waits(store: Store) -> None:
    held = [Held("p", one, "dearer", paused=True, offered=build.offer(one), at=AT) for one in "12"]
    since = await build.listed(store, "p", [OLD, build.offer("2")], AT, held)
    await store.hold_back(Held("p", "", "lists 1 services instead of 2", services=1, at=AT))
    was = await store.held()
    dearer = compare("p", {"1": (OLD, None)}, [build.offer(rate="0.95")], AT + 1)

    assert since == await store.save_offers("p", [], AT + 1, held=None, since=since)
    assert since < await store.save_offers("p", dearer, AT + 1, held=None, since=since)
    assert (3, was) == (len(was), await store.held())
    assert ["rate"] == [one.kind for one in await store.changes(AT + 1)]


async def test_what_waits_is_left_alone_on_sqlite(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'gateway.db'}")
    await _keeps_what_waits(store)
    await store.close()


async def test_what_waits_is_left_alone_on_postgresql(postgres_url: str) -> None:
    async with database(postgres_url) as url:
        store = await open_store(url)
        await _keeps_what_waits(store)
        await store.close()
