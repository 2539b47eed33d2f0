"""What every store promises, asked of each one through the ``Store`` protocol alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec
import pytest

import build
from build import AT, advance, claim, customer, order, placement
from databases import database
from gateway import ledger, reporting, transitions
from gateway.errors import (
    ConfigError,
    CustomerError,
    ErrorText,
    LeaseLost,
    StoreUnavailable,
    TransferConflict,
)
from gateway.model import (
    Cancel,
    Code,
    Customer,
    Decision,
    Held,
    Offer,
    Order,
    Refill,
    RefillStatus,
    State,
    Status,
)
from gateway.money import Money
from gateway.store import (
    Balance,
    Change,
    Failure,
    Filter,
    Later,
    Lease,
    Placed,
    Placement,
    Sighting,
    Snapshot,
    Step,
    Store,
)
from gateway.store.offers import CHUNK, KEPT_CHANGES, UNFINISHED
from gateway.store.postgres import PostgresStore
from gateway.store.sqlite import SqliteStore
from gateway.store.writer import migrations

T = TypeVar("T")
MILLION = 1_000_000


class Stores:
    """Opens any number of stores on one database, as several processes would."""

    def __init__(self, opener: Callable[[int], Awaitable[Store]]) -> None:
        self._opener = opener
        self._opened: list[Store] = []

    async def open(self, first_id: int = 1) -> Store:
        """Open one more."""
        store = await self._opener(first_id)
        self._opened.append(store)
        return store

    async def close(self) -> None:
        """Close all of them."""
        while self._opened:
            await self._opened.pop().close()


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    """One empty database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "gateway.db"
        opened = Stores(lambda first_id: SqliteStore.open(path, first_id=first_id))
        yield opened
        await opened.close()
        return
    async with database(request.getfixturevalue("postgres_url")) as url:
        opened = Stores(lambda first_id: PostgresStore.open(url, first_id=first_id))
        yield opened
        await opened.close()


@pytest.fixture
async def store(stores: Stores) -> Store:
    """A store on an empty database."""
    return await stores.open()


async def available(store: Store, customer: int) -> int:
    """Return what a customer can spend."""
    return sum(one.available for one in (await store.balances([customer]))[customer])


async def proven(store: Store) -> ledger.Audit:
    """Return the audit, which must be clean."""
    audit = await store.inspect(ledger.audit)

    assert [] == audit.problems
    return audit


def ids(outcomes: list[Placed | ErrorText]) -> set[int]:
    """Return the ids of the orders that stand."""
    return {one.order.id for one in outcomes if isinstance(one, Placed)}


# --- placing ------------------------------------------------------------------------------------


async def test_an_order_is_written_with_its_hold(store: Store) -> None:
    """What was placed is read back the same, and its charge is set aside."""
    ann = await customer(store, credit=3 * MILLION)
    placed = await order(store, placement(ann.id))

    assert {placed.id: placed} == await store.orders([placed.id, 77])
    assert [Balance("USD", available=2 * MILLION, held=MILLION)] == (
        await store.balances([ann.id])
    )[ann.id]
    await proven(store)


async def test_an_order_that_is_not_covered_leaves_nothing_behind(store: Store) -> None:
    """A refusal for want of funds writes neither order nor hold nor claim."""
    ann = await customer(store, credit=MILLION - 1)
    outcomes = await store.place([placement(ann.id, claim=claim())])

    assert [ErrorText.NOT_ENOUGH_FUNDS] == outcomes
    assert [] == await store.find_orders(Filter())
    assert await store.claimed(ann.id, claim()) is None
    assert MILLION - 1 == await available(store, ann.id)
    await proven(store)


async def test_a_customer_who_was_refused_at_first_can_pay_later(store: Store) -> None:
    """Accounts that came into being with a refused order are gone with it."""
    ann = await customer(store)
    outcomes = await store.place([placement(ann.id)])
    await store.post([ledger.top_up(ann.id, Money(MILLION, "USD"), "late", AT)])

    assert [ErrorText.NOT_ENOUGH_FUNDS] == outcomes
    assert MILLION == await available(store, ann.id)
    assert 0 < (await order(store, placement(ann.id))).id
    await proven(store)


async def test_one_list_of_orders_has_an_outcome_for_each(store: Store) -> None:
    """A customer without money does not stand in the way of the others."""
    ann, bob = await customer(store, credit=MILLION), await customer(store, "bob")
    first, second, third = await store.place(
        [placement(bob.id), placement(ann.id), placement(ann.id)]
    )

    assert (ErrorText.NOT_ENOUGH_FUNDS, ErrorText.NOT_ENOUGH_FUNDS) == (first, third)
    assert isinstance(second, Placed)
    assert ann.id == second.order.customer


async def test_a_purse_that_covers_seven_gives_seven_of_two_hundred(store: Store) -> None:
    """However many orders arrive at once, the balance never goes below zero."""
    ann = await customer(store, credit=7 * MILLION + 999_999)
    outcomes = await asyncio.gather(*(store.place([placement(ann.id)]) for _ in range(200)))

    assert 7 == len(ids([one for (one,) in outcomes]))
    assert 193 == sum(one == [ErrorText.NOT_ENOUGH_FUNDS] for one in outcomes)
    assert 999_999 == await available(store, ann.id)
    await proven(store)


async def test_two_processes_share_one_purse(stores: Stores) -> None:
    """Two stores on one database place at the same time and give out no id and no money twice."""
    one, other = await stores.open(), await stores.open()
    ann = await customer(one, credit=7 * MILLION)
    outcomes = await asyncio.gather(
        *(store.place([placement(ann.id)]) for _ in range(40) for store in (one, other))
    )
    found = [placed.order.id for (placed,) in outcomes if isinstance(placed, Placed)]

    assert 7 == len(found) == len(set(found))
    assert 0 == await available(other, ann.id)
    await proven(other)


async def test_ids_begin_where_the_owner_says(stores: Stores) -> None:
    """``first_id`` lifts the counter, and never lowers it."""
    store = await stores.open(first_id=5000)
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id))
    again = await order(await stores.open(first_id=10), placement(ann.id))

    assert (5000, 5001) == (first.id, again.id)


async def test_what_was_written_is_there_after_a_restart(stores: Stores) -> None:
    """Closing and opening again loses nothing, and changes nothing."""
    store = await stores.open()
    ann = await customer(store, credit=3 * MILLION)
    placed = await order(store, placement(ann.id))
    placed = await advance(store, placed.id, build.accepted("9"))
    before = (await store.history(placed.id), await store.balances([ann.id]), await store.pepper())
    await stores.close()
    store = await stores.open()

    assert before == (
        await store.history(placed.id),
        await store.balances([ann.id]),
        await store.pepper(),
    )
    assert {placed.id: placed} == await store.orders([placed.id])
    await proven(store)


# --- claims -------------------------------------------------------------------------------------


async def test_the_same_claim_finds_the_first_order(stores: Stores) -> None:
    """A repeat gets the first one's id and holds nothing, also after a restart."""
    store = await stores.open()
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id, claim=claim()))
    (again,) = await store.place([placement(ann.id, claim=claim())])
    await stores.close()
    store = await stores.open()
    (later,) = await store.place([placement(ann.id, claim=claim())])

    assert Placed(first, fresh=False) == again == later
    assert first == await store.claimed(ann.id, claim())
    assert 2 * MILLION == await available(store, ann.id)


async def test_a_claim_with_other_content_is_refused(store: Store) -> None:
    """One key stands for one order."""
    ann = await customer(store, credit=3 * MILLION)
    await order(store, placement(ann.id, claim=claim(content=b"one")))
    other = claim(content=b"other")

    assert [ErrorText.KEY_REUSED] == await store.place([placement(ann.id, claim=other)])
    assert ErrorText.KEY_REUSED == await store.claimed(ann.id, other)
    assert 2 * MILLION == await available(store, ann.id)


async def test_a_claim_belongs_to_its_customer(store: Store) -> None:
    """Two customers who choose the same key do not meet."""
    ann = await customer(store, credit=MILLION)
    bob = await customer(store, "bob", credit=MILLION)
    first = await order(store, placement(ann.id, claim=claim()))
    second = await order(store, placement(bob.id, claim=claim(content=b"other")))

    assert (ann.id, bob.id) == (first.customer, second.customer)


async def test_eight_claims_at_the_same_instant_make_one_order(stores: Stores) -> None:
    """Whichever comes first makes it, the others find it, in both processes."""
    one, other = await stores.open(), await stores.open()
    ann = await customer(one, credit=20 * MILLION)
    outcomes = await asyncio.gather(
        *(
            store.place([placement(ann.id, claim=claim())])
            for _ in range(4)
            for store in (one, other)
        )
    )
    found = [placed for (placed,) in outcomes if isinstance(placed, Placed)]

    assert 8 == len(found)
    assert 1 == len({placed.order.id for placed in found})
    assert 1 == sum(placed.fresh for placed in found)
    assert 19 * MILLION == await available(one, ann.id)


async def test_one_list_may_claim_the_same_twice(store: Store) -> None:
    """Two repeats in one commit are repeats all the same."""
    ann = await customer(store, credit=3 * MILLION)
    outcomes = await store.place([placement(ann.id, claim=claim()) for _ in range(2)])

    assert 1 == len(ids(outcomes))
    assert [True, False] == [one.fresh for one in outcomes if isinstance(one, Placed)]


async def test_a_claim_may_reject_its_repeats(store: Store) -> None:
    """With ``reject`` a repeat is an error instead of the first one's id."""
    ann = await customer(store, credit=3 * MILLION)
    strict = claim(reject=True)
    await order(store, placement(ann.id, claim=strict))

    assert [ErrorText.IDENTICAL_ORDER] == await store.place([placement(ann.id, claim=strict)])
    assert ErrorText.IDENTICAL_ORDER == await store.claimed(ann.id, strict)


async def test_a_claim_counts_within_its_window(store: Store) -> None:
    """An older claim is as good as none, and is replaced by the order that follows it."""
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id, claim=claim()))
    within = claim(since=AT)
    after = claim(since=AT + 1)
    assert first == await store.claimed(ann.id, within)
    second = await order(store, placement(ann.id, claim=after, at=AT + 1))

    assert first.id != second.id
    assert second == await store.claimed(ann.id, after)


async def test_a_refusal_that_the_customer_heard_frees_the_claim(store: Store) -> None:
    """He was told that there is no order, so his key makes a new one."""
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id, claim=claim()))
    await advance(store, first.id, build.refused(unheard=first.version))
    assert await store.claimed(ann.id, claim()) is None
    second = await order(store, placement(ann.id, claim=claim(content=b"other")))

    assert first.id != second.id


async def test_a_refusal_that_came_too_late_keeps_the_claim(store: Store) -> None:
    """The customer has the order's id, so a repeat still finds that order."""
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id, claim=claim()))
    failed = await advance(store, first.id, build.refused())

    assert [Placed(failed, fresh=False)] == await store.place([placement(ann.id, claim=claim())])


async def test_old_claims_are_forgotten(store: Store) -> None:
    """``drop_claims`` forgets what is older, and says how many."""
    ann = await customer(store, credit=3 * MILLION)
    await order(store, placement(ann.id, claim=claim("key/old"), at=AT - 1))
    young = await order(store, placement(ann.id, claim=claim("key/young"), at=AT))

    assert 1 == await store.drop_claims(AT)
    assert await store.claimed(ann.id, claim("key/old")) is None
    assert young == await store.claimed(ann.id, claim("key/young"))


# --- advancing ----------------------------------------------------------------------------------


async def test_a_step_changes_the_order_its_money_and_its_history(store: Store) -> None:
    """All of it is written together."""
    ann = await customer(store, credit=3 * MILLION)
    placed = await order(store, placement(ann.id))
    (after,) = await store.advance([Step(placed.id, build.accepted("9", at=AT + 5))])
    events, transfers = await store.history(placed.id)

    assert isinstance(after, Order)
    assert {placed.id: after} == await store.orders([placed.id])
    assert (State.PLACED, "9", 2) == (after.state, after.upstream_id, after.version)
    assert [("accepted", placed.id, 2, AT + 5, "9")] == [
        (one.kind, one.order, one.version, one.at, one.detail["upstream_id"]) for one in events
    ]
    assert [
        (Code.HOLD, MILLION, "USD"),
        (Code.CAPTURE, MILLION, "USD"),
        (Code.COST, 400_000, "INR"),
    ] == [(one.code, one.amount, one.currency) for one in transfers]
    await proven(store)


async def test_the_history_of_an_order_is_its_own(stores: Stores) -> None:
    """Orders 1, 10 and 100 are not mixed up, though their keys begin alike."""
    store = await stores.open()
    ann = await customer(store, credit=300 * MILLION)
    await store.place([placement(ann.id) for _ in range(101)])

    for number in (1, 10, 100):
        _, transfers = await store.history(number)
        assert [number] == [one.order for one in transfers]


async def test_a_step_of_no_order_says_so(store: Store) -> None:
    """There is nothing to take further."""
    assert [Failure.NO_ORDER] == await store.advance([Step(77, build.accepted("9"))])


async def test_a_step_that_changes_nothing_returns_the_order(store: Store) -> None:
    """The outcome is the order as it is."""
    ann = await customer(store, credit=MILLION)
    placed = await order(store, placement(ann.id))

    assert [placed] == await store.advance([Step(placed.id, lambda _: None)])
    assert ([], 1) == ((await store.history(placed.id))[0], placed.version)


async def test_two_orders_cannot_have_one_id_at_a_provider(store: Store) -> None:
    """The second is refused, and is afterwards what it was before."""
    ann = await customer(store, credit=3 * MILLION)
    first, second = [await order(store, placement(ann.id)) for _ in range(2)]
    await advance(store, first.id, build.accepted("9"))
    before = (await store.history(second.id), await store.balances([ann.id]))
    outcomes = await store.advance([Step(second.id, build.accepted("9"))])

    assert [Failure.TAKEN] == outcomes
    assert {second.id: second} == await store.orders([second.id])
    assert before == (await store.history(second.id), await store.balances([ann.id]))
    await proven(store)


async def test_two_providers_may_give_the_same_id(store: Store) -> None:
    """An order's identity is its provider and the id there."""
    ann = await customer(store, credit=3 * MILLION)
    first = await order(store, placement(ann.id))
    second = await order(store, placement(ann.id, route=build.choice("beta")))
    await advance(store, first.id, build.accepted("9"))
    after = await advance(store, second.id, build.accepted("9"))

    assert ("beta", "9") == (after.provider, after.upstream_id)


async def test_a_step_that_is_not_covered_leaves_everything_as_it_was(store: Store) -> None:
    """An order that failed cannot be held again when the money is spent."""
    ann = await customer(store, credit=MILLION)
    first = await order(store, placement(ann.id))
    failed = await advance(store, first.id, build.refused())
    await order(store, placement(ann.id))

    assert [Failure.NO_FUNDS] == await store.advance([Step(first.id, transitions.retried(AT))])
    assert {first.id: failed} == await store.orders([first.id])
    await proven(store)


async def test_steps_of_one_list_follow_each_other(store: Store) -> None:
    """A list may take one order two steps further, and one failure does not stop the rest."""
    ann = await customer(store, credit=MILLION)
    placed = await order(store, placement(ann.id))
    outcomes = await store.advance(
        [
            Step(77, build.accepted("1")),
            Step(placed.id, transitions.unknown("timeout", 1, AT)),
            Step(placed.id, build.accepted("9")),
        ]
    )

    assert [Failure.NO_ORDER, State.UNKNOWN, State.PLACED] == [
        one.state if isinstance(one, Order) else one for one in outcomes
    ]


async def test_two_processes_that_learn_the_same_write_it_once(stores: Stores) -> None:
    """The same report from two sides moves money once."""
    one, other = await stores.open(), await stores.open()
    ann = await customer(one, credit=MILLION)
    placed = await order(one, placement(ann.id))
    await advance(one, placed.id, build.accepted("9"))
    canceled = reporting.reported(build.report(Status.CANCELED), AT, build.FOLLOWING)
    await asyncio.gather(*(each.advance([Step(placed.id, canceled)]) for each in (one, other)))

    assert MILLION == await available(one, ann.id)
    assert 3 == (await one.orders([placed.id]))[placed.id].version
    await proven(one)


# --- money that belongs to no order --------------------------------------------------------------


async def test_what_was_said_of_an_order_under_a_wrong_id_does_not_date_its_movements(
    store: Store,
) -> None:
    """Its refund may have shown at any time since it was placed: nobody had asked for it."""
    one = await customer(store, credit=5_000_000)
    placed = await order(store, placement(one.id))
    named = transitions.settled("8", AT + 1, build.FOLLOWING)
    said = build.report(Status.IN_PROGRESS)
    canceled = build.report(Status.CANCELED)
    early, late = (reporting.reported(said, AT + at, build.FOLLOWING, AT + at) for at in (2, 5))
    await advance(store, placed.id, transitions.unknown("hangs", 1, AT), named, early)
    wrong = transitions.corrected("8", "9", *await store.history(placed.id), AT + 3)
    gone = reporting.reported(canceled, AT + 4, build.FOLLOWING, AT + 4)
    await advance(store, placed.id, wrong, gone)
    *_, unheard = await store.movements("alpha", 0, 10)
    again = reporting.reported(canceled, AT + 6, build.FOLLOWING, AT + 6)
    await advance(store, placed.id, late, again)
    *_, heard = await store.movements("alpha", 0, 10)

    assert [(AT + 4, AT), (AT + 6, AT + 5)] == [
        (one.transfer.at, one.since) for one in (unheard, heard)
    ]


async def test_what_counts_against_a_day_is_what_was_ordered_and_not_given_back(
    store: Store,
) -> None:
    """What a provider has taken counts, though it is canceled there."""
    one = await customer(store, credit=9_000_000)
    drafts = [
        msgspec.structs.replace(build.draft(one.id, amount * 1_000_000), capped=True)
        for amount in (1, 2, 4)
    ]
    taken, failed, _ = [
        await order(store, Placement(one.id, transitions.opened(draft, build.choice(), AT), AT))
        for draft in drafts
    ]
    canceled = reporting.reported(build.report(Status.CANCELED), AT, build.FOLLOWING, AT)
    await advance(store, taken.id, build.accepted("8"), canceled)
    await advance(store, failed.id, build.refused())
    nobody = one.id + 1
    day = 24 * 3600 * 1000

    assert [5_000_000, 0, 0] == [
        await store.ordered(*which) for which in ((one.id, AT), (one.id, AT + day), (nobody, AT))
    ]


async def test_a_lease_of_ones_own_is_forgotten_and_any_other_keeps_its_fence(
    store: Store,
) -> None:
    """Each start of a process has a name of its own, and whoever was stopped has an old fence."""
    for name in ("process a", "work"):
        await store.lease([name], "a", 0, 10)
    found = []
    for now in (9, 10):
        await store.lease(["process b"], "b", now, 20)
        found.append((await store.holders(-1)).keys())
    taken = await store.lease(["work"], "b", 11, 20)

    assert [{"process a", "process b", "work"}, {"process b", "work"}] == found
    assert 2 == taken["work"].fence


async def test_a_reference_moves_money_once(store: Store) -> None:
    """The second time nothing happens, and that is said."""
    ann = await customer(store)
    credit = ledger.top_up(ann.id, Money(5, "USD"), "invoice 1", AT)

    assert [True, False] == await store.post([credit, credit])
    assert [False] == await store.post([credit])
    assert 5 == await available(store, ann.id)


async def test_a_reference_with_another_amount_is_refused(store: Store) -> None:
    """Nothing of the list is posted, for something is wrong with it."""
    ann = await customer(store, credit=5)
    other = ledger.top_up(ann.id, Money(7, "USD"), "opening", AT)
    with pytest.raises(TransferConflict):
        await store.post([ledger.top_up(ann.id, Money(9, "USD"), "new", AT), other])

    assert 5 == await available(store, ann.id)


async def test_a_withdrawal_stops_at_the_floor(store: Store) -> None:
    """Nothing of a list is posted when one of it is not covered."""
    ann = await customer(store, credit=5)
    with pytest.raises(CustomerError, match=ErrorText.NOT_ENOUGH_FUNDS):
        await store.post(
            [
                ledger.withdrawal(ann.id, Money(3, "USD"), "a", AT),
                ledger.withdrawal(ann.id, Money(3, "USD"), "b", AT),
            ]
        )

    assert 5 == await available(store, ann.id)
    assert [True] == await store.post([ledger.withdrawal(ann.id, Money(5, "USD"), "a", AT)])
    await proven(store)


async def test_currencies_are_kept_apart(store: Store) -> None:
    """One customer may have several purses, and none pays for another."""
    ann = await customer(store, credit=5)
    await store.post([ledger.top_up(ann.id, Money(70, "EUR"), "euros", AT)])
    with pytest.raises(CustomerError):
        await store.post([ledger.withdrawal(ann.id, Money(6, "USD"), "a", AT)])

    assert {"USD": 5, "EUR": 70} == {
        one.currency: one.available for one in (await store.balances([ann.id]))[ann.id]
    }


async def test_an_amount_beyond_all_measure_is_refused_and_not_rounded(store: Store) -> None:
    """A sum that no column holds is an error, never a float."""
    ann = await customer(store, credit=2**63 - 1)
    with pytest.raises(CustomerError):
        await store.post([ledger.top_up(ann.id, Money(2**62, "USD"), "more", AT)])

    assert 2**63 - 1 == await available(store, ann.id)
    await proven(store)


# --- what arrives together -----------------------------------------------------------------------


async def test_a_failure_in_a_commit_does_not_hurt_the_others(store: Store) -> None:
    """Operations that arrive together are committed together, but fail alone."""
    ann = await customer(store, credit=5 * MILLION)

    def broken(_: int) -> Change:
        raise ZeroDivisionError

    wrong = ledger.top_up(ann.id, Money(7, "USD"), "opening", AT)
    good = [store.place([placement(ann.id)]) for _ in range(4)]
    outcomes = await asyncio.gather(
        good[0],
        good[1],
        store.post([wrong]),
        store.place([Placement(ann.id, broken, AT)]),
        good[2],
        good[3],
        return_exceptions=True,
    )

    assert [list, list, TransferConflict, ZeroDivisionError, list, list] == [
        type(one) for one in outcomes
    ]
    assert MILLION == await available(store, ann.id)
    assert 4 == len(await store.find_orders(Filter()))
    await proven(store)


async def test_a_caller_who_gives_up_does_not_stop_the_others(store: Store) -> None:
    """A cancelled wait takes nothing back and breaks nothing."""
    ann = await customer(store, credit=2 * MILLION)
    gone = asyncio.create_task(store.place([placement(ann.id)]))
    await asyncio.sleep(0)
    gone.cancel()
    stayed = await order(store, placement(ann.id))

    assert {stayed.id - 1, stayed.id} == {one.id for one in await store.find_orders(Filter())}
    await proven(store)


# --- reading orders ------------------------------------------------------------------------------


async def several(store: Store) -> dict[str, Order]:
    """Place one order of every state."""
    ann = await customer(store, credit=100 * MILLION)
    bob = await customer(store, "bob", credit=100 * MILLION)
    found = {
        "queued": await order(store, placement(ann.id, route=None)),
        "sending": await order(store, placement(ann.id, at=AT + 1)),
        "unknown": await order(store, placement(ann.id, route=build.choice("beta"), at=AT + 2)),
        "placed": await order(store, placement(bob.id, at=AT + 3)),
        "failed": await order(store, placement(ann.id, at=AT + 4)),
        "canceled": await order(store, placement(ann.id, route=None, at=AT + 5)),
    }
    for name, change in {
        "unknown": transitions.unknown("timeout", 1, AT),
        "placed": build.accepted("9"),
        "failed": build.refused(),
        "canceled": transitions.cancel_wanted(AT),
    }.items():
        found[name] = await advance(store, found[name].id, change)
    return found


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Filter(), "canceled failed placed unknown sending queued"),
        (Filter(limit=2), "canceled failed"),
        (Filter(limit=0), ""),
        (Filter(status="unknown"), "unknown"),
        (Filter(status="FAILED"), "failed"),
        (Filter(status="pending"), "placed sending queued"),
        (Filter(status="canceled"), "canceled"),
        (Filter(status="no such word"), ""),
        (Filter(provider="beta"), "unknown"),
        (Filter(since=AT + 3), "canceled failed placed"),
        (Filter(customer=2), "placed"),
        (Filter(customer=1, provider="alpha"), "failed sending"),
        (Filter(customer=0), ""),
    ],
)
async def test_orders_are_listed_newest_first_as_wanted(
    store: Store, wanted: Filter, names: str
) -> None:
    """Every filter is one more condition; the words are those that people read."""
    orders = await several(store)

    assert [orders[name] for name in names.split()] == await store.find_orders(wanted)


async def test_undecided_orders_are_found_by_their_state(store: Store) -> None:
    """What waits, is being sent or is not known is listed oldest first."""
    orders = await several(store)
    later = await order(store, placement(1))

    assert [orders["queued"]] == await store.undecided(State.QUEUED, 10)
    assert [orders["sending"], later] == await store.undecided(State.SENDING, 10)
    assert [orders["sending"]] == await store.undecided(State.SENDING, 1)
    assert [orders["unknown"]] == await store.undecided(State.UNKNOWN, 10)
    assert {"alpha": 2, "beta": 1} == await store.in_flight()


async def test_wanted_cancels_are_those_that_a_provider_can_be_told(store: Store) -> None:
    """An order that is still being sent has no id there yet."""
    orders = await several(store)
    steps = [Step(orders[name].id, transitions.cancel_wanted(AT)) for name in ("placed", "sending")]
    placed, _ = await store.advance(steps)

    assert [placed] == await store.cancels_wanted(10)


async def test_an_order_is_put_off_once_by_two_who_asked_at_the_same_time(stores: Stores) -> None:
    """Whoever comes second finds that it is due at another time by now."""
    one, other = await stores.open(), await stores.open()
    ann = await customer(one, credit=50 * MILLION)
    placed = await order(one, placement(ann.id))
    await advance(one, placed.id, build.accepted("1"))
    now = AT + build.FOLLOWING.every
    for store, due in [(store, await store.due("alpha", now, 3)) for store in (one, other)]:
        assert [placed.id] == [each.id for each in due]
        at = now + (1 if store is one else 2)
        assert [] == await store.advance([], later=[Later(placed.id, due[0].poll_at, at)])

    assert now + 1 == (await one.orders([placed.id]))[placed.id].poll_at


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_order_that_changed_since_it_was_read_is_taken_further_as_it_is(
    stores: Stores, *, elsewhere: bool
) -> None:
    """Whoever hands over what he has read is spared a read, and never believed."""
    one, other = await stores.open(), await stores.open()
    ann = await customer(one, credit=50 * MILLION)
    placed = await order(one, placement(ann.id))
    seen = await advance(one, placed.id, build.accepted("1"))
    await advance(other if elsewhere else one, placed.id, transitions.cancel_wanted(AT))
    running = reporting.reported(build.report(Status.IN_PROGRESS), AT, build.FOLLOWING)
    (after,) = await one.advance([Step(placed.id, running, seen)])

    assert isinstance(after, Order)
    assert (Status.IN_PROGRESS, Cancel.WANTED) == (after.status, after.cancel)
    assert seen.version + 2 == after.version


async def test_orders_are_put_off_together_with_the_news_of_others(store: Store) -> None:
    """Of one that changes, the change says when to ask again; whoever lost the lease, nothing."""
    ann = await customer(store, credit=50 * MILLION)
    still, new, gone = [await order(store, placement(ann.id)) for _ in range(3)]
    for each in (still, new, gone):
        await advance(store, each.id, build.accepted(f"{each.id}"))
    due = await store.due("alpha", AT * 2, 10)
    never = transitions.settled(None, AT, build.FOLLOWING, denied=True)
    after = await advance(store, gone.id, never)
    later = [Later(each.id, each.poll_at, AT * 3) for each in due]
    running = reporting.reported(build.report(Status.IN_PROGRESS), AT, build.FOLLOWING)
    (lease,) = (await store.lease(["looks"], "me", AT, AT * 2)).values()
    former = Lease("looks", "me", lease.fence - 1)
    with pytest.raises(LeaseLost):
        await store.advance([Step(new.id, running)], former, later)
    assert due == await store.due("alpha", AT * 2, 10) + [one for one in due if one.id == gone.id]
    (became,) = await store.advance([Step(new.id, running)], lease, later)
    found = await store.orders([still.id, new.id, gone.id])

    assert isinstance(became, Order)
    assert Status.IN_PROGRESS is became.status
    assert (AT * 3, None) == (found[still.id].poll_at, after.poll_at)
    assert (became, after) == (found[new.id], found[gone.id])


async def test_what_is_due_is_known_by_provider_and_time(store: Store) -> None:
    """Oldest first; what is put off to ``None`` is never due again."""
    ann = await customer(store, credit=50 * MILLION)
    late, early, other = [
        await order(store, placement(ann.id, route=build.choice(name)))
        for name in ("alpha", "alpha", "beta")
    ]
    await advance(store, late.id, build.accepted("1", at=AT + 10))
    await advance(store, early.id, build.accepted("2", at=AT))
    await advance(store, other.id, build.accepted("3", at=AT))
    now = AT + 10 + build.FOLLOWING.every

    assert [] == await store.due("alpha", now - 11, 10)
    assert [early.id] == [one.id for one in await store.due("alpha", now, 1)]
    assert [early.id, late.id] == [one.id for one in await build.put_off(store, "alpha", now)]
    assert [] == await store.due("alpha", now + 10**9, 10)
    assert [other.id] == [one.id for one in await store.due("beta", now, 10)]


async def test_a_providers_followed_orders_are_read_by_their_ids(store: Store) -> None:
    """A part at a time, in the order of their ids, until they are never asked for again."""
    ann = await customer(store, credit=50 * MILLION)
    routes = [build.choice(name) for name in ("alpha", "alpha", "alpha", "beta", "alpha")]
    orders = [await order(store, placement(ann.id, route=route)) for route in routes]
    for one in reversed(orders[:4]):
        await advance(store, one.id, build.accepted(f"{one.id}", at=AT - one.id))
    first = await store.followed("alpha", 0, 2)
    then = await store.followed("alpha", first[-1].id, 2)
    await build.put_off(store, "alpha", AT + build.FOLLOWING.every)

    assert [orders[0].id, orders[1].id] == [one.id for one in first]
    assert [orders[2].id] == [one.id for one in then]
    assert [] == await store.followed("alpha", 0, 2)


# --- refills -------------------------------------------------------------------------------------


async def test_refills_are_written_found_and_followed(store: Store) -> None:
    """A refill gets our id, is found by it and by its order, and is due when it says."""
    ann = await customer(store, credit=MILLION)
    placed = await order(store, placement(ann.id))
    asked = Refill(id=0, order=placed.id, customer=ann.id, provider="alpha", created_at=AT)
    [(first, _)] = await store.add_refills([asked], since=AT)
    [(second, _)] = await store.add_refills([asked], since=AT + 1)
    known = msgspec.structs.replace(
        first, upstream_id="7", status=RefillStatus.IN_PROGRESS, poll_at=AT + 5
    )
    await store.set_refills([known])

    assert (1, 2) == (first.id, second.id)
    assert msgspec.structs.replace(asked, id=1) == first
    assert {1: known} == await store.refills([1, 77])
    assert [known, second] == await store.refills_of(placed.id)
    assert [] == await store.refills_of(77)
    assert [] == await store.due_refills("alpha", AT + 4, 10)
    assert [known] == await store.due_refills("alpha", AT + 5, 10)
    assert [] == await store.due_refills("beta", AT + 5, 10)


async def test_a_refill_under_way_answers_for_its_repeats(store: Store) -> None:
    """Eight at once are one; when it has ended, or is too old, there may be another."""
    ann = await customer(store, credit=MILLION)
    placed = await order(store, placement(ann.id))
    asked = Refill(id=0, order=placed.id, customer=ann.id, provider="alpha", created_at=AT)
    written = await asyncio.gather(*(store.add_refills([asked], since=AT) for _ in range(8)))

    assert [1] * 8 == [refill.id for [(refill, _)] in written]
    assert 1 == sum(fresh for [(_, fresh)] in written)

    await store.set_refills([msgspec.structs.replace(asked, id=1, status=RefillStatus.REJECTED)])
    [(another, fresh)] = await store.add_refills([asked], since=AT)
    assert (2, True) == (another.id, fresh)


# --- customers -----------------------------------------------------------------------------------


async def test_a_customer_is_known_by_his_digest(store: Store) -> None:
    """Name and key are each his alone; changing them is seen at once."""
    ann = await store.add_customer(Customer(id=0, name="ann", tier="gold", created_at=AT), b"a")
    bob = await store.add_customer(Customer(id=0, name="bob", created_at=AT), b"b")
    taken = await store.add_customer(Customer(id=0, name="ann", created_at=AT), b"c")
    assert ann is not None
    assert bob is not None
    assert taken is None
    assert Customer(id=1, name="ann", tier="gold", created_at=AT) == ann
    disabled = msgspec.structs.replace(ann, disabled=True, tier="")
    await store.set_customer(ann, disabled)
    await store.set_customer(bob, bob, b"new")
    await store.set_customer(ann, msgspec.structs.replace(ann, per_second=5))
    disabled = msgspec.structs.replace(disabled, per_second=5)  # two commands at once: both count

    assert [disabled, bob] == await store.customers()
    assert disabled == await store.customer_of(b"a")
    assert bob == await store.customer_of(b"new")
    assert await store.customer_of(b"b") is None


async def test_two_processes_add_one_customer_of_a_name(stores: Stores) -> None:
    """The second of two at the same instant hears that the name is taken."""
    one, other = await stores.open(), await stores.open()
    draft = Customer(id=0, name="ann", created_at=AT)
    outcomes = await asyncio.gather(one.add_customer(draft, b"a"), other.add_customer(draft, b"b"))

    assert 1 == sum(outcome is not None for outcome in outcomes)
    assert 1 == len(await other.customers())


async def test_the_pepper_is_one_for_the_whole_installation(stores: Stores) -> None:
    """Every process hashes keys with the same secret."""
    one, other = await stores.open(), await stores.open()

    assert 32 == len(await one.pepper())
    assert await one.pepper() == await other.pepper()


async def test_what_a_customer_may_spend_is_what_it_is_at_that_moment(stores: Stores) -> None:
    """Whoever has moved it, also another process."""
    store, other = await stores.open(), await stores.open()
    ann = await customer(store, credit=5 * MILLION)

    async def spendable(currency: str = "USD") -> int:
        found = store.available(ann.id, currency)
        return found if isinstance(found, int) else await found

    assert (5 * MILLION, 0) == (await spendable(), await spendable("EUR"))
    for place in (store, other, store, other):
        before = await spendable()
        await place.place([placement(ann.id)])
        after = await spendable()
        assert (after, True) == (await available(other, ann.id), after < before)
    assert 0 == await available(store, ann.id + 1)


async def test_a_customer_without_accounts_has_no_balances(store: Store) -> None:
    """Whoever is asked for is in the answer."""
    assert {77: []} == await store.balances([77])


# --- providers -----------------------------------------------------------------------------------


async def test_offers_are_replaced_and_the_edition_grows_with_each_change(store: Store) -> None:
    """What is not listed any more is gone, and comes back under the same id."""
    assert 0 == await store.edition()
    assert {} == await store.offers()
    likes, views = build.offer("1"), build.offer("2", "Views")
    dearer = build.offer("1", rate="12345678901234567890.123456789012345")

    assert 1 == await build.listed(store, "alpha", [likes, views], AT)
    assert 2 == await build.listed(store, "beta", [likes], AT)
    assert 1 == await build.listed(store, "alpha", [likes, views], AT)
    assert 3 == await build.listed(store, "alpha", [dearer], AT)
    assert {"alpha": {"1": dearer}, "beta": {"1": likes}} == await store.offers()
    assert 3 == await build.listed(store, "alpha", [dearer], AT)
    assert 4 == await build.listed(store, "alpha", [dearer, views], AT)
    assert {"alpha": {"1": dearer, "2": views}, "beta": {"1": likes}} == await store.offers()
    assert 4 == await store.edition()


async def test_an_offer_keeps_what_its_provider_did_not_say(store: Store) -> None:
    """No flag is not ``False``."""
    said = msgspec.structs.replace(build.offer(), refill=True, cancel=False, description="ä\n🎈")
    await build.listed(store, "alpha", [said], AT)

    assert {"alpha": {"1": said}} == await store.offers()
    assert said.dripfeed is None


def held(offered: Offer, provider: str = "alpha", *, paused: bool = False, at: int = AT) -> Held:
    return Held(provider, offered.id, "odd", paused=paused, offered=offered, at=at)


async def test_what_is_held_back_waits_until_the_next_list(store: Store) -> None:
    """A list brings all that is held back of its provider, and nothing of another's."""
    likes, other = build.offer("1"), build.offer("2")
    dearer = msgspec.structs.replace(likes, rate=Decimal("9.90"), refill=True, description="ä")
    await build.listed(store, "beta", [other], AT, held=[held(other, "beta")])
    await build.listed(store, "alpha", [likes], AT, held=[held(dearer)])

    assert [held(dearer)] == await store.held("alpha")
    assert [held(dearer), held(other, "beta")] == await store.held()

    await build.listed(store, "alpha", [likes], AT)

    assert [held(other, "beta")] == await store.held()


async def test_a_paused_offer_is_not_for_sale_and_the_edition_says_so(store: Store) -> None:
    likes, views = build.offer("1"), build.offer("2")
    first = await build.listed(store, "alpha", [likes, views], AT)
    paused = [held(likes, paused=True)]
    second = await build.listed(store, "alpha", [likes, views], AT, held=paused)

    assert {"alpha": {"2": views}} == await store.offers()
    assert {"alpha": {"2": views}} == await store.offers(["alpha", "beta"])
    assert {"1": (likes, None), "2": (views, None)} == await store.known_offers("alpha")

    third = await build.listed(store, "alpha", [likes, views], AT, held=paused)
    fourth = await build.listed(store, "alpha", [likes, views], AT, held=[held(likes)])

    assert (second, second, third + 1) == (first + 1, third, fourth)
    assert {"alpha": {"1": likes, "2": views}} == await store.offers()

    await build.listed(store, "alpha", [likes, views], AT + 1, held=paused)
    await store.decide(paused, Decision.ACCEPTED, AT + 2)

    assert ["resumed", "paused"] == [one.kind for one in await store.changes(AT + 1)]


async def test_the_rates_of_all_that_is_not_gone_are_told(store: Store) -> None:
    likes, views = build.offer("1"), build.offer("2", rate="0.10")
    await build.listed(store, "alpha", [likes, views], AT, held=[held(likes, paused=True)])
    await build.listed(store, "beta", [views], AT)

    assert {"1": "0.90", "2": "0.10"} == await store.rates("alpha")

    await build.listed(store, "alpha", [likes], AT + 1)

    assert {"1": "0.90"} == await store.rates("alpha")


async def test_an_accepted_change_is_in_force_at_once_and_remembered(store: Store) -> None:
    likes = build.offer("1")
    dearer = msgspec.structs.replace(likes, rate=Decimal("9.90"))
    new = build.offer("2", rate="7")
    before = await build.listed(store, "alpha", [likes], AT, held=[held(dearer), held(new)])
    decided = await store.decide([held(dearer), held(new)], Decision.ACCEPTED, AT + 1)

    assert [held(dearer), held(new)] == decided
    assert {"alpha": {"1": dearer, "2": new}} == await store.offers()
    assert [] == await store.held()
    assert before < await store.edition()
    assert [("1", "rate", "0.90", "9.90"), ("2", "new", "", "7")] == [
        (one.offer, one.kind, one.before, one.after) for one in await store.changes(AT + 1)
    ]


async def test_a_rejected_change_is_kept_with_what_was_said_of_it(store: Store) -> None:
    likes = build.offer("1")
    dearer = msgspec.structs.replace(likes, rate=Decimal("9.90"))
    await build.listed(store, "alpha", [likes], AT, held=[held(dearer)])
    await store.decide([held(dearer)], Decision.REJECTED, AT)

    assert [Decision.REJECTED] == [one.decision for one in await store.held()]
    assert {"alpha": {"1": likes}} == await store.offers()


async def test_what_has_changed_since_somebody_looked_cannot_be_accepted(store: Store) -> None:
    """He has not seen what he would say yes to."""
    likes = build.offer("1")
    seen, newer = (msgspec.structs.replace(likes, rate=Decimal(rate)) for rate in ("9", "90"))
    await build.listed(store, "alpha", [likes], AT, held=[held(newer)])

    for decision in (Decision.ACCEPTED, Decision.REJECTED):
        assert [] == await store.decide([held(seen)], decision, AT)
    assert [held(newer)] == await store.held()
    assert {"alpha": {"1": likes}} == await store.offers()


async def test_a_list_is_held_back_once_with_the_last_word_on_it(store: Store) -> None:
    whole = Held("alpha", "", "lists 1 services instead of 9", services=1, at=AT)
    await store.hold_back(whole)
    await store.hold_back(whole)

    assert [whole] == await store.held()
    assert [whole] == await store.decide([whole], Decision.ACCEPTED, AT)
    assert [Decision.ACCEPTED] == [one.decision for one in await store.held()]
    assert {} == await store.offers()


async def test_everything_that_changes_about_an_offer_is_remembered(store: Store) -> None:
    """In the words of before and after; a first list in one line."""
    likes = msgspec.structs.replace(build.offer("1"), refill=True)
    other = msgspec.structs.replace(
        likes, name="Views", rate=Decimal("1.10"), min=20, max=30, refill=False, cancel=True
    )
    views = build.offer("2", "Views", "3")
    await build.listed(store, "alpha", [likes], AT)
    await build.listed(store, "alpha", [other, views], AT + 1)
    await build.listed(store, "alpha", [other, views], AT + 2)
    await build.listed(store, "alpha", [other], AT + 3)
    await build.listed(store, "alpha", [other, views], AT + 4)
    await build.listed(store, "beta", [likes], AT + 4)

    found = [
        (one.provider, one.offer, one.at - AT, one.kind, one.before, one.after)
        for one in await store.changes(AT)
    ]
    assert [
        ("alpha", "2", 4, "back", "", "3"),
        ("beta", "", 4, "first", "", "1"),
        ("alpha", "2", 3, "gone", "3", ""),
        ("alpha", "1", 1, "cancel", "", "true"),
        ("alpha", "1", 1, "max", "10000", "30"),
        ("alpha", "1", 1, "min", "10", "20"),
        ("alpha", "1", 1, "name", "Likes", "Views"),
        ("alpha", "1", 1, "rate", "0.90", "1.10"),
        ("alpha", "1", 1, "refill", "true", "false"),
        ("alpha", "2", 1, "new", "", "3"),
        ("alpha", "", 0, "first", "", "1"),
    ] == found


async def test_changes_are_found_by_time_provider_and_id(store: Store) -> None:
    likes, views = build.offer("1"), build.offer("2")
    await build.listed(store, "alpha", [likes], AT)
    await build.listed(store, "beta", [likes], AT)
    await build.listed(store, "alpha", [likes, views], AT + 1)
    await build.listed(store, "alpha", [], AT + 2)

    assert ["first"] == [one.kind for one in await store.changes(0, provider="beta")]
    of_views = await store.changes(0, provider="alpha", offer="2")
    assert ["gone", "new"] == [one.kind for one in of_views]
    assert of_views[:1] == await store.changes(0, provider="alpha", offer="2", limit=1)
    some = await store.changes(AT, kinds=("new", "first"))
    assert ["new", "first", "first"] == [one.kind for one in some]


async def test_changes_of_long_ago_are_forgotten(store: Store) -> None:
    await build.listed(store, "alpha", [build.offer()], AT)
    await build.listed(store, "beta", [build.offer()], AT + KEPT_CHANGES + 1)

    assert ["beta"] == [one.provider for one in await store.changes(0)]


async def test_each_provider_has_an_edition_of_its_own(store: Store) -> None:
    await build.listed(store, "alpha", [build.offer()], AT)
    await build.listed(store, "beta", [build.offer()], AT)
    await build.listed(store, "alpha", [build.offer(rate="1")], AT)
    await build.listed(store, "beta", [build.offer()], AT)

    assert {"alpha": 3, "beta": 2} == await store.editions()


async def test_a_list_says_whether_the_offers_are_as_it_left_them(store: Store) -> None:
    """What the owner accepts, or another process takes up, in the middle is not of that list."""
    likes, dearer = build.offer(), build.offer(rate="9")
    first = await build.listed(store, "alpha", [likes], AT, held=[held(dearer)])
    assert first == await store.save_offers("alpha", [], AT, held=[held(dearer)], since=first)
    await store.decide([held(dearer)], Decision.ACCEPTED, AT)

    assert UNFINISHED == await store.save_offers("alpha", [], AT, since=first)
    assert {"alpha": first + 1} == await store.editions()


async def test_a_long_list_is_written_in_parts_and_whole_in_the_end(store: Store) -> None:
    many = [build.offer(str(number)) for number in range(2 * CHUNK + 1)]
    await build.listed(store, "alpha", many, AT)
    await build.listed(store, "alpha", many[:1], AT)

    assert {"alpha": {"0": many[0]}} == await store.offers()
    assert 2 * CHUNK + 1 == len(await store.changes(0, limit=10**6))


async def test_exchange_rates_are_kept_and_end_when_they_are_too_old(store: Store) -> None:
    """With a new edition whenever that changes anything; what a rate was stays known."""
    inr, eur = Decimal("0.0119"), Decimal("1.0800")
    before = await store.edition()
    await store.keep_exchange_rates({"INR": inr, "EUR": eur}, AT, 0)
    first = await store.edition()
    await store.keep_exchange_rates({"INR": inr}, AT + 5, 0)

    assert (first, before + 1) == (await store.edition(), first)
    assert {"INR": (inr, AT + 5), "EUR": (eur, AT)} == await store.exchange_rates()

    for _ in range(2):
        await store.keep_exchange_rates({}, AT + 9, AT + 1)

    assert first + 1 == await store.edition()
    assert {"INR": (inr, AT + 5), "EUR": (eur, 0)} == await store.exchange_rates()
    assert ("EUR 1.0800 INR 0.0119", "INR 0.0119") == next(
        (one.before, one.after) for one in await store.changes(AT + 9)
    )


async def test_a_sighting_leaves_what_was_not_looked_at(store: Store) -> None:
    """Each look adds what it saw; an empty trouble is news too."""
    await store.sight([Sighting("alpha", balance=-5, currency="INR", balance_at=1, trouble="slow")])
    await store.sight([Sighting("alpha", latency=20, failures=0, trouble=""), Sighting("beta")])
    found = await store.sightings()

    assert {"alpha", "beta"} == set(found)
    assert (
        Sighting(
            "alpha",
            balance=-5,
            currency="INR",
            balance_at=1,
            latency=20,
            failures=0,
            trouble="",
        )
        == found["alpha"]
    )


# --- the whole -----------------------------------------------------------------------------------


async def test_inspect_sees_one_moment(store: Store) -> None:
    """What is written while somebody looks is not seen by him."""
    ann = await customer(store, credit=5 * MILLION)
    looking, written = threading.Event(), threading.Event()

    def look(books: Snapshot) -> tuple[int, int, int]:
        first = books.count_transfers()
        looking.set()
        written.wait(10)
        return first, books.count_transfers(), sum(1 for _ in books.orders())

    seen = asyncio.create_task(store.inspect(look))
    await asyncio.to_thread(looking.wait, 10)
    await order(store, placement(ann.id))
    written.set()

    assert (1, 1, 0) == await seen
    assert (2, 2, 1) == await store.inspect(look)


async def test_a_closed_store_promises_nothing(stores: Stores) -> None:
    """Reading and writing raise what the endpoint answers 503 to."""
    store = await stores.open()
    ann = await customer(store, credit=MILLION)
    await store.close()
    await store.close()
    for operation in (
        lambda: store.place([placement(ann.id)]),
        lambda: store.orders([1]),
        lambda: store.claimed(ann.id, claim()),
        lambda: store.due("alpha", AT, 1),
    ):
        with pytest.raises(StoreUnavailable):
            await operation()


# --- SQLite alone --------------------------------------------------------------------------------


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store on a SQLite file, whose writer does not wait long for others."""
    opened = await SqliteStore.open(tmp_path / "gateway.db", patience=20)
    yield opened
    await opened.close()


async def together(store: SqliteStore, *operations: Awaitable[T]) -> tuple[list[T], int]:
    """Let operations arrive while the writer is busy; returns their outcomes and the commits."""
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    gate, busy = threading.Event(), threading.Event()

    def hold(_: apsw.Connection) -> None:
        busy.set()
        gate.wait(10)

    store._writer._db.set_commit_hook(count)
    held = store._writer.do(hold)
    await asyncio.to_thread(busy.wait, 10)
    waiting = asyncio.gather(*operations)
    await asyncio.sleep(0)
    gate.set()
    await held
    return list(await waiting), commits - 1


async def test_what_arrives_together_is_committed_together(file: SqliteStore) -> None:
    """Three hundred orders that wait for one commit become one commit."""
    ann = await customer(file, credit=300 * MILLION)
    placed, commits = await together(file, *(file.place([placement(ann.id)]) for _ in range(300)))
    assert 1 == commits
    orders = sorted(ids([one for (one,) in placed]))
    _, commits = await together(
        file, *(file.advance([Step(one, build.accepted(f"{one}"))]) for one in orders)
    )

    assert list(range(1, 301)) == orders
    assert 1 == commits
    await proven(file)


async def test_a_commit_has_a_limit(file: SqliteStore) -> None:
    """More than 512 operations are spread, lest the first wait for the last."""
    ann = await customer(file, credit=1)
    _, commits = await together(file, *(file.place([placement(ann.id)]) for _ in range(1025)))

    assert 3 == commits


async def test_a_failure_makes_the_others_commit_on_their_own(file: SqliteStore) -> None:
    """One of three in a commit fails: the other two are written, each by itself."""
    ann = await customer(file, credit=3 * MILLION)

    async def nobody() -> list[Placed | ErrorText]:
        with pytest.raises(apsw.ConstraintError):
            await file.place([placement(ann.id + 1)])
        return []

    await file.post([ledger.top_up(ann.id + 1, Money(MILLION, "USD"), "opening", AT)])
    placed, commits = await together(
        file, file.place([placement(ann.id)]), nobody(), file.place([placement(ann.id)])
    )

    assert (2, 2) == (commits, len(ids([one for some in placed for one in some])))
    assert MILLION == await available(file, ann.id)


async def test_what_is_refused_keeps_nobody_from_the_common_commit(file: SqliteStore) -> None:
    """One of three raises for what it asks: the other two are committed as if it were not there."""
    ann = await customer(file, credit=3 * MILLION)

    async def conflict() -> list[Placed | ErrorText]:
        with pytest.raises(TransferConflict):
            await file.post([ledger.top_up(ann.id, Money(7, "USD"), "opening", AT)])
        return []

    placed, commits = await together(
        file, file.place([placement(ann.id)]), conflict(), file.place([placement(ann.id)])
    )

    assert (1, {1, 2}) == (commits, ids([one for some in placed for one in some]))
    assert MILLION == await available(file, ann.id)


async def test_a_taken_id_keeps_nobody_from_the_common_commit(file: SqliteStore) -> None:
    """A provider gives one id to two orders: that is found out, and the others go on together."""
    ann = await customer(file, credit=4 * MILLION)
    first, *others = [await order(file, placement(ann.id)) for _ in range(4)]
    await file.advance([Step(first.id, build.accepted("7"))])
    steps = [Step(one.id, build.accepted(their)) for one, their in zip(others, "678", strict=True)]
    outcomes, commits = await together(file, *(file.advance([step]) for step in steps))

    assert 1 == commits
    assert ["6", Failure.TAKEN, "8"] == [
        one.upstream_id if isinstance(one, Order) else one for (one,) in outcomes
    ]
    await proven(file)


async def test_transfers_cannot_be_changed_or_deleted(file: SqliteStore, tmp_path: Path) -> None:
    """Not even with the database's own tools."""
    await customer(file, credit=5)
    db = apsw.Connection(str(tmp_path / "gateway.db"))
    for statement in (
        "UPDATE transfers SET amount = 6",
        "DELETE FROM transfers",
        "UPDATE OR REPLACE transfers SET at = 0",
    ):
        with pytest.raises(apsw.ConstraintError, match="post another one"):
            db.execute(statement)
    with pytest.raises(apsw.ConstraintError, match="balance >= 0"):
        db.execute("UPDATE accounts SET balance = -1 WHERE kind = 'available'")
    db.close()


async def test_writing_raises_while_another_process_holds_the_file(
    file: SqliteStore, tmp_path: Path
) -> None:
    """Beyond its patience the store promises nothing; reading goes on, and so does it later."""
    ann = await customer(file, credit=MILLION)
    other = apsw.Connection(str(tmp_path / "gateway.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await file.place([placement(ann.id)])
    assert MILLION == await available(file, ann.id)
    other.execute("ROLLBACK")
    other.close()

    assert 1 == (await order(file, placement(ann.id))).id


async def test_writing_raises_when_the_disk_is_full(file: SqliteStore) -> None:
    """Nothing of the order is written, and the next one is welcome when there is room again."""
    ann = await customer(file, credit=3 * MILLION)
    db = file._writer._db
    pages = db.pragma("max_page_count", db.pragma("page_count"))
    assert pages == db.pragma("page_count")
    draft = build.draft(ann.id, params={"comments": "x" * 100_000})
    large = Placement(ann.id, transitions.opened(draft, None, AT), AT, claim())
    with pytest.raises(StoreUnavailable, match="full"):
        await file.place([large])
    db.pragma("max_page_count", 100_000)

    assert await file.claimed(ann.id, claim()) is None
    assert 3 * MILLION == await available(file, ann.id)
    await order(file, large)
    await proven(file)


@pytest.mark.parametrize("content", [None, b"no database, but a letter to a friend\n" * 9])
async def test_a_file_that_is_no_database_is_not_opened(
    tmp_path: Path, content: bytes | None
) -> None:
    """A directory or somebody's letter is refused, and left as it is."""
    path = tmp_path / "letter"
    if content:
        path.write_bytes(content)
    else:
        path.mkdir()
    with pytest.raises(StoreUnavailable):
        await SqliteStore.open(path)

    assert content is None or content == path.read_bytes()


async def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    """The owner is told what to do, and the file stays as it is."""
    path = tmp_path / "gateway.db"
    await (await SqliteStore.open(path)).close()
    newer = migrations()[-1][0] + 1
    with apsw.Connection(str(path)) as db:
        db.pragma("user_version", newer)
    db.close()
    with pytest.raises(ConfigError, match="newer version of the gateway"):
        await SqliteStore.open(path)
    db = apsw.Connection(str(path))

    assert newer == db.pragma("user_version")
    db.close()


async def test_what_has_changed_stays_known_to_a_newer_program(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with apsw.Connection(str(path)) as db:
        for number, statements in migrations()[:9]:
            db.execute(statements)
            db.pragma("user_version", number)
        rows = [("alpha", "1", AT, "rate", "1", "2"), ("beta", "", AT + 1, "first", "", "9")]
        db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.close()
    store = await SqliteStore.open(path)

    assert rows[::-1] == [msgspec.structs.astuple(one) for one in await store.changes(AT)]
    await store.close()


async def test_the_file_is_written_so_that_a_commit_lasts(file: SqliteStore) -> None:
    """A commit waits for the disk, in a log beside the file."""
    db = file._writer._db

    assert ("wal", 2, 1) == (
        db.pragma("journal_mode"),
        db.pragma("synchronous"),  # FULL
        db.pragma("foreign_keys"),
    )


async def test_several_processes_may_start_on_a_new_file_at_once(tmp_path: Path) -> None:
    """Whoever comes first makes the schema; the others find it."""
    opened = await asyncio.gather(*(SqliteStore.open(tmp_path / "gateway.db") for _ in range(6)))
    ann = await customer(opened[0], credit=6 * MILLION)
    orders = [await order(store, placement(ann.id)) for store in opened]
    for store in opened:
        await store.close()

    assert list(range(1, 7)) == [one.id for one in orders]


async def test_a_start_waits_for_another_that_makes_the_file(tmp_path: Path) -> None:
    """A new file gets its log from whoever is first, and the second does not give up."""
    path = tmp_path / "gateway.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE first (x)")
    other.execute("BEGIN IMMEDIATE")
    opening = asyncio.create_task(SqliteStore.open(path))
    await asyncio.wait({opening}, timeout=0.1)
    other.execute("COMMIT")
    other.close()
    store = await opening

    assert [] == await store.customers()
    await store.close()


async def test_a_start_does_not_wait_for_ever(tmp_path: Path) -> None:
    """A file that stays locked is not available."""
    path = tmp_path / "gateway.db"
    other = apsw.Connection(str(path))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await SqliteStore.open(path, patience=20)
    other.close()


# --- the owner's file -----------------------------------------------------------------------------


async def test_the_files_that_were_in_force_since_a_time_are_known(store: Store) -> None:
    """One that was replaced before it is not among them; the last one always is."""
    assert ([], None) == (await store.configurations(0), await store.kept_configuration())
    for at, text in ((10, "a"), (20, "b"), (30, "c"), (30, "c")):
        await store.keep_configuration(text, at)

    found = {since: "".join(await store.configurations(since)) for since in (5, 20, 21, 30, 31, 99)}
    assert {5: "abc", 20: "abc", 21: "bc", 30: "bc", 31: "c", 99: "c"} == found
    assert "c" == await store.kept_configuration()
