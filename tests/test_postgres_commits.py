"""What is worked out from memory on PostgreSQL is written only if it is so."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]
import msgspec
import pytest

import build
from build import AT, FOLLOWING, advance, claim, customer, order, placement
from databases import database
from gateway import ledger, reporting, transitions
from gateway.errors import ErrorText, LeaseLost
from gateway.model import Order, State, Status
from gateway.money import Money
from gateway.store import Change, Failure, Later, Placed, Placement, Step, Store
from gateway.store.page import Entry
from gateway.store.postgres import PATIENCE, QUIET, Links, PostgresStore
from gateway.store.postgres_writer import Writer
from test_postgres_faults import Cut

MILLION = 1_000_000


@pytest.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    """Return the URL of an empty database."""
    async with database(postgres_url) as one:
        yield one


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """Open a store; at the end its books are right."""
    one = await PostgresStore.open(url)
    yield one
    audit = await one.inspect(ledger.audit)
    await one.close()

    assert [] == audit.problems


@pytest.fixture
async def other(url: str) -> AsyncIterator[Store]:
    """Open another one on the same database."""
    one = await PostgresStore.open(url)
    yield one
    await one.close()


async def _regular(store: Store, credit: int = 10 * MILLION, name: str = "ann") -> int:
    """Return a customer all of whose accounts are there, so that nothing has to be opened."""
    ann = await customer(store, name, credit=credit + MILLION)
    await advance(store, (await order(store, placement(ann.id))).id, build.accepted(name))
    return ann.id


async def _first(*work: Coroutine[Any, Any, Any]) -> list[bool]:
    """Tell which of these are done first; wait for all of them."""
    tasks = [asyncio.create_task(one) for one in work]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    done = [task.done() for task in tasks]
    await asyncio.gather(*tasks)
    return done


def _through(port: int, url: str) -> str:
    return url.replace(f":{urlsplit(url).port}/", f":{port}/")


async def _is(store: Store, one: Order) -> Order:
    return (await store.orders([one.id]))[one.id]


@pytest.mark.parametrize("many", [1, 64])
async def test_orders_are_placed_in_one_round_trip_and_advanced_in_one(url: str, many: int) -> None:
    """However many wait. Another one draws ids, where there was no order a moment before."""
    cut = Cut(urlsplit(url).port or 0)
    async with cut.listening() as port:
        store = await PostgresStore.open(_through(port, url))
        ann = await customer(store, credit=1000 * MILLION)
        placing, advancing = [], []
        for number in range(4):
            cut.waited = 0
            orders = await asyncio.gather(*(order(store, placement(ann.id)) for _ in range(many)))
            placing.append(cut.waited)
            cut.waited = 0
            steps = [Step(one.id, build.accepted(f"{number}/{one.id}")) for one in orders]
            await asyncio.gather(*(store.advance([step]) for step in steps))
            advancing.append(cut.waited)
        await store.close()

    assert (1, 1) == (min(placing), advancing[-1])
    assert 2 >= placing[-1]


async def test_a_step_from_memory_is_not_taken_when_somebody_else_was_there(
    store: Store, other: Store
) -> None:
    ann = await _regular(store)
    placed = await order(store, placement(ann))
    after = await advance(other, placed.id, build.accepted("9"))

    assert [after] == await store.advance([Step(placed.id, transitions.unknown("gone", 1, AT))])
    assert after == await _is(store, placed)


async def test_no_step_is_lost_of_those_that_two_take_in_turn(store: Store, other: Store) -> None:
    """Also where nothing but the order itself would tell of them."""

    def more(one: Order) -> Change:
        runs = (one.runs or 0) + 1
        return Change(msgspec.structs.replace(one, version=one.version + 1, runs=runs), ())

    ann = await _regular(store)
    placed = await order(store, placement(ann))
    for each in (store, other, store, other):
        await each.advance([Step(placed.id, more)])

    assert (4, 5) == ((await _is(store, placed)).runs, (await _is(store, placed)).version)


async def test_what_stays_as_it_is_in_memory_is_looked_up(store: Store, other: Store) -> None:
    ann = await _regular(store)
    placed, another = [await order(store, placement(ann)) for _ in range(2)]
    after = await advance(other, placed.id, build.accepted("9"))
    outcomes = await asyncio.gather(
        store.advance([Step(placed.id, lambda _: None)]),
        store.advance([Step(another.id, build.accepted("10"))]),
    )

    assert [after] == outcomes[0]


async def test_a_look_that_somebody_else_has_put_off_stays_put_off(
    store: Store, other: Store
) -> None:
    """That is the one change of an order that its version does not count."""
    ann = await _regular(store)
    placed = await order(store, placement(ann))
    due = (await advance(store, placed.id, build.accepted("9"))).poll_at
    assert due is not None
    await build.put_off(other, "alpha", due, due + 77)

    assert due + 77 == (await advance(store, placed.id, transitions.cancel_wanted(AT))).poll_at


async def test_a_look_is_written_at_once(store: Store, url: str) -> None:
    """All that became of what it has read is one statement."""
    cut = Cut(urlsplit(url).port or 0)
    async with cut.listening() as port:
        own = await PostgresStore.open(_through(port, url))
        await _regular(store)
        (lease,) = (await own.lease(["statuses"], "me", AT, AT * 9)).values()
        for status in (Status.IN_PROGRESS, Status.PROCESSING, Status.PENDING):
            running = reporting.reported(build.report(status), AT, FOLLOWING)
            later = [Later(one.id, one.poll_at, None) for one in await own.due("alpha", AT * 2, 9)]
            seen = (await own.orders([1]))[1]
            own._writer.memory.clear()
            cut.waited = 0
            await own.advance([Step(1, running, seen)], lease, later)
            waited = cut.waited
        await own.close()

    assert 1 == waited


async def test_money_that_is_spent_elsewhere_is_not_spent_again(store: Store, other: Store) -> None:
    ann, bob = [await _regular(store, MILLION, name) for name in ("ann", "bob")]
    await other.post([ledger.withdrawal(ann, Money(MILLION, "USD"), "w", AT)])
    placed = await store.place([placement(ann), placement(bob), placement(ann)])

    assert ErrorText.NOT_ENOUGH_FUNDS == placed[0] == placed[2]
    assert isinstance(placed[1], Placed)
    await other.post([ledger.top_up(ann, Money(MILLION, "USD"), "again", AT)])
    assert State.SENDING is (await order(store, placement(ann))).state


async def test_whoever_lacks_money_again_and_again_does_not_hold_up_the_others(
    store: Store,
) -> None:
    ann, bob = await _regular(store, 0), await _regular(store, name="bob")
    await store.place([placement(ann)])

    assert [False, True] == await _first(*(store.place([placement(one)]) for one in (ann, bob)))


async def test_an_account_that_is_not_there_is_opened(store: Store) -> None:
    """A balance is not lost because a statement found no row to add it to."""
    ann = await customer(store, credit=MILLION)
    await order(store, placement(ann.id))
    ((balance,),) = (await store.balances([ann.id])).values()

    assert (0, MILLION) == (balance.available, balance.held)


async def test_what_is_owed_is_paid_from_what_comes_back(store: Store) -> None:
    ann = await _regular(store, MILLION)
    canceled, completed = (
        reporting.reported(build.report(status), AT, FOLLOWING)
        for status in (Status.CANCELED, Status.COMPLETED)
    )
    await advance(store, 1, canceled)
    later = [await order(store, placement(ann)) for _ in range(2)]
    await advance(store, 1, completed)
    ((before,),) = (await store.balances([ann])).values()
    await advance(store, later[0].id, build.refused())
    ((after,),) = (await store.balances([ann])).values()

    assert (MILLION, 0) == (before.owed, after.owed)
    assert (0, 0) == (before.available, after.available)


async def test_a_claim_that_somebody_else_has_made_finds_his_order(
    store: Store, other: Store
) -> None:
    ann = await _regular(store)
    his = await order(other, placement(ann, claim=claim("key/x")))

    assert [Placed(his, fresh=False)] == await store.place([placement(ann, claim=claim("key/x"))])


async def test_an_id_at_a_provider_that_somebody_else_has_written_is_taken(
    store: Store, other: Store
) -> None:
    ann = await _regular(store)
    his, ours = [await order(one, placement(ann)) for one in (other, store)]
    await advance(other, his.id, build.accepted("9"))

    assert [Failure.TAKEN] == await store.advance([Step(ours.id, build.accepted("9"))])
    assert ours == await _is(store, ours)


async def test_a_lease_that_has_passed_on_writes_nothing(store: Store, other: Store) -> None:
    """Neither the first time nor after others were written under it."""
    ann = await _regular(store)
    first, second = [await order(store, placement(ann)) for _ in range(2)]
    mine = (await store.lease(["work"], "me", AT, AT + 1000))["work"]
    await store.advance([Step(first.id, build.accepted("9"))], mine)
    assert await other.lease(["work"], "him", AT + 2000, AT + 3000)

    with pytest.raises(LeaseLost):
        await store.advance([Step(second.id, build.accepted("10"))], mine)
    assert (State.PLACED, State.SENDING) == (
        (await _is(store, first)).state,
        (await _is(store, second)).state,
    )


async def test_one_that_is_done_under_locks_does_not_hold_up_the_others(store: Store) -> None:
    ann = await _regular(store)
    orders = [await order(store, placement(ann)) for _ in range(3)]
    changes = [build.accepted("9"), build.refused(), build.accepted("10")]
    steps = [Step(one.id, change) for one, change in zip(orders, changes, strict=True)]

    assert [True, False, True] == await _first(*(store.advance([step]) for step in steps))
    assert [State.PLACED, State.FAILED, State.PLACED] == [
        (await _is(store, one)).state for one in orders
    ]


async def test_an_order_that_is_gone_is_not_written(store: Store, url: str) -> None:
    """It may have been archived by another process."""
    ann = await _regular(store)
    placed = await order(store, placement(ann))
    db = await asyncpg.connect(url)
    await db.execute("UPDATE orders SET id = -id WHERE id = $1", placed.id)
    gone = await store.advance([Step(placed.id, build.accepted("9"))])
    await db.execute("UPDATE orders SET id = -id WHERE id < 0")
    await db.close()

    assert [Failure.NO_ORDER] == gone


async def test_processes_that_take_the_same_orders_in_any_turn_do_not_stop_each_other(
    store: Store, other: Store
) -> None:
    """Rows are locked in one order everywhere; each step is written once."""
    ann = await _regular(store, 100 * MILLION)
    orders = [await order(store, placement(ann)) for _ in range(20)]
    steps = [Step(one.id, transitions.unknown("gone", 1, AT)) for one in orders]
    await asyncio.gather(
        *(store.advance([step]) for step in steps),
        *(other.advance([step]) for step in reversed(steps)),
        *(store.advance([step]) for step in reversed(steps)),
        *(other.advance([step]) for step in steps),
    )

    assert {(State.UNKNOWN, 2)} == {
        (one.state, one.version)
        for one in (await other.orders([one.id for one in orders])).values()
    }


def _end_later(url: str) -> None:
    time.sleep(QUIET)
    asyncio.run(_end_connections(url))


async def _end_connections(url: str) -> None:
    db = await asyncpg.connect(url)
    await db.fetch(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await db.close()


async def test_an_order_after_a_quiet_time_is_not_lost_with_a_connection_that_is_gone(
    store: Store, url: str
) -> None:
    """Nobody has heard of its end yet, and afterwards nobody could tell what it has done."""
    ann = await _regular(store)
    await order(store, placement(ann))
    ending = Thread(target=_end_later, args=(url,))
    ending.start()
    ending.join()  # so that this loop hears nothing of it meanwhile

    assert State.SENDING is (await order(store, placement(ann))).state


async def test_who_comes_in_the_moment_in_which_a_lane_ends_is_not_forgotten(
    store: Store, url: str
) -> None:
    ann = await _regular(store)
    lanes = Links(url, 1, PATIENCE)
    writer = Writer(lanes, 1)
    async with asyncio.timeout(PATIENCE / 1000):
        for _ in range(3):
            await writer.do(Entry([placement(ann)]))
    await lanes.close()


async def test_text_with_a_nul_is_kept_without_it(store: Store) -> None:
    """PostgreSQL has no NUL; where JSON is kept as text it stands as JSON writes it."""
    ann = await _regular(store)
    draft = build.draft(ann, params={"link": "https://example.com/\0"})
    make = transitions.opened(draft, build.choice(service="a\0b"), AT)
    (placed,) = await store.place([Placement(ann, make, AT)])
    assert isinstance(placed, Placed)
    kept = await _is(store, placed.order)

    assert ("https://example.com/\0", "a\N{REPLACEMENT CHARACTER}b") == (
        kept.params["link"],
        kept.route,
    )
