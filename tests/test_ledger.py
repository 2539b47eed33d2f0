"""An order's money is a function of the order, and the books prove it after every step."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from fractions import Fraction
from math import ceil
from pathlib import Path

import apsw
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

import build
from build import AT, advance, customer, order, placement
from gateway import ledger, reporting, transitions
from gateway.errors import CustomerError, ErrorText
from gateway.model import Code, Kind, Order, Report, State, Status, Transfer
from gateway.money import Money
from gateway.order_types import SUBSCRIPTIONS
from gateway.store import Balance, Failure, Filter, Placed, Placement, Step, Store, Transition
from gateway.store.sqlite import SqliteStore

MILLION = 1_000_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store on an empty file."""
    opened = await SqliteStore.open(tmp_path / "gateway.db")
    yield opened
    await opened.close()


def placed(**fields: object) -> Order:
    """Return an order that a provider has: 1000 units for 1.00, costing 0.40."""
    usual = {"id": 1, "state": State.PLACED, "provider": "alpha", "cost": 400_000}
    return msgspec.structs.replace(build.draft(1), **(usual | fields))


def subscription(**fields: object) -> Order:
    """Return a subscription to five posts of at most 200 units each, for 1.00."""
    usual = {"type": SUBSCRIPTIONS, "params": {"max": "200", "posts": "5"}}
    return placed(**(usual | fields))


def told(
    status: Status,
    remains: int | None = None,
    charge: int | None = None,
    posts: int | None = None,
    runs: int | None = None,
) -> Transition:
    """Return the transition of a report."""
    said = build.report(status, remains=remains, charge=charge, posts=posts, runs=runs)
    return reporting.reported(said, AT, build.FOLLOWING)


async def money(store: Store, customer: int) -> Balance:
    """Return a customer's accounts, after a clean audit."""
    audit = await store.inspect(ledger.audit)

    assert [] == audit.problems
    (balance,) = (await store.balances([customer]))[customer]
    return balance


async def moves(store: Store, order: int) -> list[tuple[Code, int]]:
    """Return what moved for an order, in turn."""
    return [(one.code, one.amount) for one in (await store.history(order))[1]]


async def running(store: Store, draft: Order, credit: int = MILLION) -> Order:
    """Return an order that its provider took, of a customer with no more than its price."""
    ann = await customer(store, credit=credit)
    build_it = transitions.opened(
        msgspec.structs.replace(draft, state=State.SENDING, customer=ann.id), build.choice(), AT
    )
    fresh = await order(store, Placement(ann.id, build_it, AT))
    return await advance(store, fresh.id, build.accepted("9"))


# --- the rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "remains", "net"),
    [
        (Status.PENDING, None, 1_000_000),
        (Status.PROCESSING, 1000, 1_000_000),
        (Status.IN_PROGRESS, 400, 1_000_000),
        (Status.COMPLETED, 0, 1_000_000),
        (Status.COMPLETED, 400, 1_000_000),
        (Status.COMPLETED, None, 1_000_000),
        (Status.PARTIAL, 400, 600_000),
        (Status.PARTIAL, 0, 1_000_000),
        (Status.PARTIAL, 1000, 0),
        (Status.PARTIAL, 1500, 0),  # never more back than was paid
        (Status.PARTIAL, -200, 1_000_000),  # never charged more than was agreed
        (Status.PARTIAL, None, 1_000_000),  # a share of nobody knows what is not given back
        (Status.CANCELED, 0, 0),
        (Status.CANCELED, 400, 0),
        (Status.CANCELED, None, 0),
        (Status.PAUSED, 400, 1_000_000),
    ],
)
def test_the_net_charge_follows_status_and_remains(
    status: Status, remains: int | None, net: int
) -> None:
    """Canceled: zero. Partial: the share delivered. Else: all."""
    it = placed(status=status, remains=remains)

    assert (net, 0) == (ledger.net(it), ledger.held(it))


def test_a_share_is_rounded_up_and_the_refund_is_the_rest() -> None:
    """Of ten millionths for three units, one unit delivered costs four."""
    it = placed(charge=10, size=3, status=Status.PARTIAL, remains=2)

    assert 4 == ledger.net(it)


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.UNKNOWN])
def test_an_undecided_order_is_held_and_not_charged(state: State) -> None:
    """What nobody has decided is nobody's money yet."""
    it = placed(state=state, status=Status.PENDING)

    assert (1_000_000, 0, 0) == (ledger.held(it), ledger.net(it), ledger.cost(it))


@pytest.mark.parametrize("kind", ["Default", SUBSCRIPTIONS])
def test_a_failed_order_costs_nothing(kind: str) -> None:
    """Neither the customer nor us, and nothing stays set aside for it."""
    it = subscription(state=State.FAILED, billed=400_000, type=kind)

    assert (0, 0, 0) == (ledger.held(it), ledger.net(it), ledger.cost(it))


@pytest.mark.parametrize(
    ("status", "posts", "settled", "net", "held"),
    [
        (Status.PENDING, None, False, 0, 1_000_000),
        (Status.ACTIVE, 0, False, 0, 1_000_000),
        (Status.ACTIVE, 2, False, 400_000, 600_000),
        (Status.PAUSED, 2, False, 400_000, 600_000),
        (Status.ACTIVE, 77, False, 1_000_000, 0),
        (Status.ACTIVE, -3, False, 0, 1_000_000),
        (Status.COMPLETED, 5, True, 1_000_000, 0),
        (Status.COMPLETED, 3, True, 600_000, 0),
        (Status.COMPLETED, None, True, 1_000_000, 0),
        (Status.EXPIRED, 3, True, 600_000, 0),
        (Status.EXPIRED, None, True, 0, 0),
        (Status.CANCELED, 2, True, 400_000, 0),
        (Status.CANCELED, None, True, 0, 0),
    ],
)
def test_a_subscription_is_charged_by_the_post(
    status: Status, posts: int | None, settled: bool, net: int, held: int
) -> None:
    """What is not delivered stays held until the end, and never longer."""
    it = subscription(status=status, posts=posts, settled_at=AT if settled else None)

    assert (net, held) == (ledger.net(it), ledger.held(it))


@pytest.mark.parametrize(
    ("status", "billed", "remains", "cost"),
    [
        (Status.PENDING, None, None, 400_000),  # what was expected, until it says more
        (Status.IN_PROGRESS, 410_000, None, 410_000),
        (Status.COMPLETED, 0, None, 0),
        (Status.CANCELED, 410_000, None, 0),
        (Status.CANCELED, None, None, 0),
        (Status.PARTIAL, None, 400, 240_000),
        (Status.PARTIAL, 400_000, 400, 240_000),  # it says the whole, and refunds the share
        (Status.PARTIAL, 240_000, 400, 240_000),  # it says the share already
        (Status.PARTIAL, 100_000, 400, 100_000),
    ],
)
def test_the_cost_follows_what_the_provider_says(
    status: Status, billed: int | None, remains: int | None, cost: int
) -> None:
    """The lower of its charge and of the share, so that no refund counts twice."""
    assert cost == ledger.cost(placed(status=status, billed=billed, remains=remains))


@pytest.mark.parametrize(
    ("status", "billed", "cost"),
    [
        (Status.ACTIVE, None, 160_000),
        (Status.ACTIVE, 170_000, 170_000),
        (Status.CANCELED, None, 160_000),
        (Status.CANCELED, 160_000, 160_000),  # it says what its posts have come to
        (Status.CANCELED, 400_000, 160_000),  # it says the whole, and gives back the rest
        (Status.CANCELED, 100_000, 100_000),
    ],
)
def test_a_subscription_costs_what_its_posts_do_also_when_it_was_canceled(
    status: Status, billed: int | None, cost: int
) -> None:
    """Two posts of five."""
    assert cost == ledger.cost(subscription(status=status, posts=2, billed=billed))


def test_transfers_are_the_differences_between_before_and_after() -> None:
    """They are named after the order and its new version, so none can happen twice."""
    before = placed(state=State.SENDING, version=1, cost_currency="INR")
    after = msgspec.structs.replace(before, state=State.PLACED, version=2)

    assert (
        Transfer("order/1/2/capture", Code.CAPTURE, "1", 1_000_000, "USD", 1, AT),
        Transfer("order/1/2/cost", Code.COST, "alpha", 400_000, "INR", 1, AT),
    ) == ledger.movements(before, after, AT)
    assert () == ledger.movements(after, after, AT)


def ended(posts: int, status: Status = Status.EXPIRED) -> Order:
    """Return a subscription that has come to its end after so many posts."""
    return subscription(status=status, posts=posts, settled_at=AT)


SENDING = placed(state=State.SENDING)
FAILED = placed(state=State.FAILED)
PARTIAL = placed(status=Status.PARTIAL, remains=400)


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (None, SENDING, [("hold", 1_000_000)]),
        (None, placed(state=State.QUEUED), [("hold", 1_000_000)]),
        (SENDING, placed(state=State.UNKNOWN), []),
        (SENDING, placed(), [("capture", 1_000_000), ("cost", 400_000)]),
        (SENDING, FAILED, [("release", 1_000_000)]),
        (FAILED, placed(state=State.QUEUED), [("hold", 1_000_000)]),
        (placed(), PARTIAL, [("refund", 400_000), ("rebate", 160_000)]),
        (PARTIAL, placed(), [("charge", 400_000), ("cost", 160_000)]),
        (
            placed(state=State.SENDING, charge=1, cost=1),
            placed(charge=1, cost=1),
            [("capture", 1), ("cost", 1)],
        ),
        (placed(state=State.SENDING, charge=0, cost=0), placed(charge=0, cost=0), []),
        (subscription(state=State.SENDING), subscription(), []),
        (subscription(), subscription(posts=2), [("capture", 400_000), ("cost", 160_000)]),
        (
            subscription(posts=4),
            subscription(posts=1),
            [("restore", 600_000), ("rebate", 240_000)],
        ),
        (
            subscription(posts=2),
            ended(posts=3),
            [("capture", 200_000), ("release", 400_000), ("cost", 80_000)],
        ),
        (
            subscription(posts=4),
            ended(posts=1),
            [("release", 200_000), ("refund", 600_000), ("rebate", 240_000)],
        ),
        (ended(posts=3), ended(posts=4), [("charge", 200_000), ("cost", 80_000)]),
    ],
)
def test_money_moves_by_the_shortest_way(
    before: Order | None, after: Order, moved: list[tuple[str, int]]
) -> None:
    """What was held and is not due goes back as it came: it never was a sale."""
    assert moved == [(one.code, one.amount) for one in ledger.movements(before, after, AT)]


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (
            ledger.top_up(7, Money(5, "USD"), "invoice 1", AT),
            Transfer("top_up/7/invoice 1", Code.TOP_UP, "7", 5, "USD", None, AT),
        ),
        (
            ledger.withdrawal(7, Money(5, "USD"), "invoice 1", AT),
            Transfer("withdraw/7/invoice 1", Code.WITHDRAW, "7", 5, "USD", None, AT),
        ),
        (
            ledger.deposit("alpha", Money(5, "INR"), "invoice 1", AT),
            Transfer("deposit/alpha/invoice 1", Code.DEPOSIT, "alpha", 5, "INR", None, AT),
        ),
    ],
)
def test_money_that_a_person_moves_has_his_reference(
    transfer: Transfer, expected: Transfer
) -> None:
    """So that it moves once, though another owner's, or another kind, may have the same one."""
    assert expected == transfer


@pytest.mark.parametrize("amount", [0, -1])
def test_a_transfer_moves_a_positive_amount(amount: int) -> None:
    """Nothing and less than nothing are not moved."""
    with pytest.raises(ValueError, match="not a positive amount"):
        Transfer("k", Code.TOP_UP, "1", amount, "USD")


# --- the rule at work ----------------------------------------------------------------------------


async def test_a_status_that_changes_its_mind_ends_right(store: Store) -> None:
    """Completed, partial, canceled, completed: the customer has paid once."""
    it = await running(store, build.draft(1))
    seen = []
    for status, remains in (
        (Status.COMPLETED, 0),
        (Status.PARTIAL, 400),
        (Status.CANCELED, None),
        (Status.COMPLETED, 0),
    ):
        await advance(store, it.id, told(status, remains=remains))
        balance = await money(store, it.customer)
        seen.append((balance.available, balance.sales))

    assert [
        (0, 1_000_000),
        (400_000, 600_000),
        (1_000_000, 0),
        (0, 1_000_000),
    ] == seen


@pytest.mark.parametrize("word", ["Paused", "Partial", "Canceled", "Completed", "In progress"])
async def test_the_same_report_again_moves_nothing(store: Store, word: str) -> None:
    """A provider may say it at every poll."""
    it = await running(store, build.draft(1))
    say = told(Status(word), remains=400, charge=240_000)
    once = await advance(store, it.id, say)
    before = await moves(store, it.id)

    assert once == await advance(store, it.id, say, say, say)
    assert before == await moves(store, it.id)


async def test_a_subscription_runs_its_course(store: Store) -> None:
    """Each post is charged as it is reported, and the rest is released at the end."""
    it = await running(store, subscription())
    for status, posts in ((Status.ACTIVE, None), (Status.ACTIVE, 1), (Status.ACTIVE, 3)):
        await advance(store, it.id, told(status, posts=posts))

    balance = await money(store, it.customer)

    assert (0, 400_000, 600_000) == (balance.available, balance.held, balance.sales)
    await advance(store, it.id, told(Status.EXPIRED, posts=3))
    balance = await money(store, it.customer)

    assert (400_000, 0, 600_000) == (balance.available, balance.held, balance.sales)


async def test_fewer_posts_than_before_are_held_again(store: Store) -> None:
    """A customer who has nothing left but this subscription is not asked for more."""
    it = await running(store, subscription())
    await advance(store, it.id, told(Status.ACTIVE, posts=4), told(Status.ACTIVE, posts=1))
    balance = await money(store, it.customer)

    assert (0, 800_000, 200_000) == (balance.available, balance.held, balance.sales)
    assert (Code.RESTORE, 600_000) in await moves(store, it.id)


async def test_a_drip_feed_that_says_only_its_runs_is_shared_by_runs(store: Store) -> None:
    """Two of five runs delivered cost two fifths."""
    params = {"link": "a", "quantity": "200", "runs": "5", "interval": "10"}
    it = await running(store, build.draft(1, params=params))
    after = await advance(store, it.id, told(Status.PARTIAL, runs=2))

    assert 600 == after.remains
    assert 600_000 == (await money(store, it.customer)).available


async def test_what_was_delivered_after_the_refund_was_spent_is_owed(store: Store) -> None:
    """The balance stays at zero, and the next money that comes in pays it."""
    it = await running(store, build.draft(1))
    await advance(store, it.id, told(Status.CANCELED))
    await order(store, placement(it.customer, charge=700_000))
    await advance(store, it.id, told(Status.COMPLETED))

    assert (
        Balance("USD", available=0, held=700_000, sales=1_000_000, owed=700_000)
    ) == await money(store, it.customer)
    await store.post([ledger.top_up(it.customer, Money(500_000, "USD"), "1", AT)])

    assert (0, 200_000) == (
        (balance := await money(store, it.customer)).available,
        balance.owed,
    )
    await store.post([ledger.top_up(it.customer, Money(500_000, "USD"), "2", AT)])

    assert (300_000, 0) == (
        (balance := await money(store, it.customer)).available,
        balance.owed,
    )


async def test_a_release_pays_what_is_owed_first(store: Store) -> None:
    """Every credit does, wherever it comes from."""
    it = await running(store, build.draft(1))
    await advance(store, it.id, told(Status.CANCELED))
    other = await order(store, placement(it.customer, charge=700_000))
    await advance(store, it.id, told(Status.COMPLETED))
    await advance(store, other.id, build.refused())

    assert Balance("USD", sales=1_000_000) == await money(store, it.customer)


async def test_a_customer_takes_back_no_more_than_he_has(store: Store) -> None:
    """A withdrawal is what a top-up is, the other way round."""
    ann = await customer(store, credit=MILLION)
    await store.post([ledger.withdrawal(ann.id, Money(400_000, "USD"), "1", AT)])

    assert Balance("USD", available=600_000) == await money(store, ann.id)
    with pytest.raises(CustomerError):
        await store.post([ledger.withdrawal(ann.id, Money(600_001, "USD"), "2", AT)])
    assert Balance("USD", available=600_000) == await money(store, ann.id)


async def test_a_deposit_stands_in_the_providers_purse(store: Store) -> None:
    """It was paid in by us, and the books stay proven."""
    await store.post([ledger.deposit("alpha", Money(5_000_000, "INR"), "1", AT)])
    audit, accounts = await store.inspect(
        lambda books: (ledger.audit(books), set(books.accounts()))
    )

    assert [] == audit.problems
    assert {
        (Kind.PURSE, "alpha", "INR", 5_000_000),
        (Kind.PAID, "alpha", "INR", -5_000_000),
    } == accounts


async def test_a_provider_is_paid_in_its_own_currency(store: Store) -> None:
    """What it charges stands in its purse, and never in the customer's currency."""
    it = await running(store, build.draft(1))
    await advance(store, it.id, told(Status.COMPLETED, charge=410_000))
    accounts = set(await store.inspect(lambda books: list(books.accounts())))

    assert {
        (Kind.PURSE, "alpha", "INR", -410_000),
        (Kind.SPENT, "alpha", "INR", 410_000),
        (Kind.SALES, "1", "USD", 1_000_000),
    } <= accounts


# --- any sequence of anything --------------------------------------------------------------------

COUNTS = st.none() | st.integers(-200, 1200) | st.sampled_from([-(10**9), 10**15])
CHARGES = st.none() | st.integers(0, 10**6) | st.sampled_from([-5, 0, 10**12])
REPORTS = st.builds(
    Report,
    status=st.none() | st.sampled_from(Status),
    word=st.just("whatever"),
    charge=CHARGES,
    currency=st.sampled_from(["", "INR", "USD"]),
    remains=COUNTS,
    runs=st.none() | st.integers(-1, 6),
    posts=st.none() | st.integers(-1, 6),
)
SIZE = 1000
KINDS = {
    "Default": {"link": "a", "quantity": str(SIZE)},
    "drip-feed": {"link": "a", "quantity": str(SIZE // 5), "runs": "5", "interval": "1"},
    SUBSCRIPTIONS: {"username": "a", "max": str(SIZE // 5), "posts": "5"},
}


def share(amount: int, part: int) -> int:
    """Return the price of a part of an order, in the arithmetic of schools."""
    return ceil(amount * Fraction(min(max(part, 0), SIZE), SIZE))


def due(it: Order, amount: int) -> int:
    """Return what of an amount an order makes due, as the contract tells it."""
    if it.state is not State.PLACED:
        return 0
    if it.type == SUBSCRIPTIONS:
        if it.posts is None:
            return amount if it.status == "Completed" else 0
        return share(amount, it.posts * SIZE // 5)
    match it.status:
        case "Canceled":
            return 0
        case "Partial" if it.remains is not None:
            return share(amount, SIZE - it.remains)
    return amount


def bought(it: Order) -> int:
    """Return what an order costs us: what its provider says, or the share of what we expect."""
    expected = due(it, it.cost)
    if it.state is not State.PLACED or it.billed is None:
        return expected
    assert it.billed >= 0
    return min(it.billed, expected) if it.status in {"Partial", "Canceled"} else it.billed


class Oracle(RuleBasedStateMachine):
    """Keeps the same books in a dictionary: what came in, less what the orders stand at."""

    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.store = self.runner.run(SqliteStore.open(Path(self.folder.name) / "gateway.db"))
        self.paid_in: dict[int, int] = {}
        self.known: dict[int, Order] = {}
        self.references = 0

    def teardown(self) -> None:
        """Close the store."""
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def worth(self, customer: int) -> int:
        """Return what a customer has left, below zero when he owes."""
        mine = [one for one in self.known.values() if one.customer == customer]
        return self.paid_in[customer] - sum(due(one, one.charge) + self.held(one) for one in mine)

    @staticmethod
    def held(it: Order) -> int:
        """Return what is set aside for an order."""
        if it.state in {"queued", "sending", "unknown"}:
            return it.charge
        ongoing = it.type == SUBSCRIPTIONS and it.state == "placed" and it.settled_at is None
        return it.charge - due(it, it.charge) if ongoing else 0

    def take(self, number: int, change: Transition) -> Order | Failure:
        """Take an order one step further."""
        (after,) = self.runner.run(self.store.advance([Step(number, change)]))
        if isinstance(after, Order):
            self.known[number] = after
        return after

    @initialize(target=orders, rest=st.tuples(st.integers(0, 500_000), st.integers(0, 500_000)))
    def begin(self, rest: tuple[int, int]) -> object:
        """Begin with some orders."""
        self.open_accounts(rest)
        return multiple(*self.known)

    def open_accounts(self, rest: tuple[int, int]) -> None:
        """Two customers have an order of every kind at a provider, and this much money left."""
        charge = 300_000
        for name, left in zip(("ann", "bob"), rest, strict=True):
            credit = left + len(KINDS) * charge
            added = self.runner.run(customer(self.store, name, credit=credit))
            self.paid_in[added.id] = credit
            for kind in KINDS:
                self.place(customer=added.id, charge=charge, kind=kind, until="placed")

    @rule(customer=st.integers(1, 2), amount=st.integers(1, 2_000_000))
    def top_up(self, customer: int, amount: int) -> None:
        """Money comes in."""
        self.references += 1
        credit = ledger.top_up(customer, Money(amount, "USD"), f"{self.references}", AT)

        assert [True] == self.runner.run(self.store.post([credit]))
        self.paid_in[customer] += amount

    @rule(customer=st.integers(1, 2), amount=st.integers(1, 2_000_000))
    def withdraw(self, customer: int, amount: int) -> None:
        """Money goes out, if it is there."""
        self.references += 1
        debit = ledger.withdrawal(customer, Money(amount, "USD"), f"{self.references}", AT)
        covered = amount <= self.worth(customer)
        try:
            self.runner.run(self.store.post([debit]))
        except CustomerError:
            assert not covered
        else:
            assert covered
            self.paid_in[customer] -= amount

    @rule(
        target=orders,
        customer=st.integers(1, 2),
        charge=st.integers(0, 600_000),
        kind=st.sampled_from(sorted(KINDS)),
        until=st.sampled_from(["queued", "sending", "placed", "placed"]),
    )
    def order(self, customer: int, charge: int, kind: str, until: str) -> object:
        """A customer orders; exactly what he can pay is taken."""
        known = set(self.known)
        self.place(customer, charge, kind, until)
        return multiple(*(self.known.keys() - known))

    def place(self, customer: int, charge: int, kind: str, until: str) -> None:
        """Place an order, and let it come as far as this."""
        name = SUBSCRIPTIONS if kind == SUBSCRIPTIONS else "Default"
        draft = build.draft(customer, charge, name, SIZE, KINDS[kind])
        route = None if until == "queued" else build.choice(cost=charge // 2)
        new = Placement(customer, transitions.opened(draft, route, AT), AT)
        covered = charge <= max(self.worth(customer), 0)
        (outcome,) = self.runner.run(self.store.place([new]))

        assert covered is isinstance(outcome, Placed)
        if isinstance(outcome, Placed):
            number = outcome.order.id
            self.known[number] = outcome.order
            if until == "placed":
                self.take(number, build.accepted(f"of {number}"))

    @rule(number=orders, stale=st.booleans(), upstream=st.integers(1, 40))
    def accept(self, number: int, stale: bool, upstream: int) -> None:
        """A provider gives an id, which another order may have."""
        attempt = self.known[number].attempt - stale
        self.take(number, build.accepted(str(upstream), attempt))

    @rule(
        number=orders,
        then=st.sampled_from([None, ErrorText.BAD_LINK, build.choice("beta", cost=300_000)]),
    )
    def refuse(self, number: int, then: transitions.Choice | ErrorText | None) -> None:
        """A provider refuses; another one follows, or waiting, or the end."""
        attempt = self.known[number].attempt
        after = self.take(number, transitions.refused("refused", "no", attempt, AT, then=then))

        assert isinstance(after, Order)

    @rule(number=orders, upstream=st.none() | st.integers(1, 40))
    def lose_sight(self, number: int, upstream: int | None) -> None:
        """An outcome is unknown, and the owner settles it."""
        self.take(number, transitions.unknown("timeout", self.known[number].attempt, AT))
        their_id = None if upstream is None else str(upstream)
        self.take(number, transitions.settled(their_id, AT, build.FOLLOWING))

    @rule(number=orders)
    def send(self, number: int) -> None:
        """A queued order finds a route."""
        assert isinstance(self.take(number, transitions.sending(build.choice(), AT)), Order)

    @rule(number=orders)
    def cancel(self, number: int) -> None:
        """The customer wants it canceled."""
        assert isinstance(self.take(number, transitions.cancel_wanted(AT)), Order)

    @rule(number=orders)
    def retry(self, number: int) -> None:
        """The owner sends a failed order again, if the customer can still pay it."""
        it = self.known[number]
        covered = it.state is not State.FAILED or it.charge <= max(self.worth(it.customer), 0)
        after = self.take(number, transitions.retried(AT))

        assert covered is isinstance(after, Order)

    @rule(
        number=orders,
        reports=st.lists(st.tuples(REPORTS, st.integers(1, 2)), min_size=1, max_size=3),
    )
    def report(self, number: int, reports: list[tuple[Report, int]]) -> None:
        """A provider says anything at all, once or twice; nothing that it says can fail."""
        for report, times in reports:
            self.hear(number, report, times)

    def hear(self, number: int, report: Report, times: int) -> None:
        """Take over a report; the second time it changes nothing."""
        seen = []
        understood = reporting.understood(self.known[number], report)
        for _ in range(times):
            after = self.take(number, reporting.reported(report, AT, build.FOLLOWING))
            assert isinstance(after, Order)
            seen.append(after)

        assert seen[0] == seen[-1]
        if seen[0].state is State.PLACED and understood is not None:
            assert understood == seen[0].status

    @invariant()
    def the_books_agree(self) -> None:
        """The audit is clean, and every balance is what the dictionary says."""
        audit, accounts = self.runner.run(
            self.store.inspect(lambda books: (ledger.audit(books), list(books.accounts())))
        )

        assert [] == audit.problems
        balances = self.runner.run(self.store.balances(list(self.paid_in)))
        for ours in self.paid_in:
            worth = self.worth(ours)
            mine = [one for one in self.known.values() if one.customer == ours]

            assert [
                Balance(
                    "USD",
                    available=max(worth, 0),
                    held=sum(self.held(one) for one in mine),
                    sales=sum(due(one, one.charge) for one in mine),
                    owed=max(-worth, 0),
                )
            ] == balances[ours]
        spent = sum(balance for kind, _, _, balance in accounts if kind == Kind.SPENT)

        assert sum(bought(one) for one in self.known.values()) == spent
        for currency in ("USD", "INR"):
            assert 0 == sum(balance for _, _, code, balance in accounts if code == currency)


@given(st.tuples(st.just(0), st.integers(0, 9)), st.lists(st.tuples(st.integers(1, 6), REPORTS)))
@settings(max_examples=50, deadline=None, database=None)
def test_whatever_providers_say_the_books_agree(
    rest: tuple[int, int], said: list[tuple[int, Report]]
) -> None:
    """Customers who have nothing left are charged and refunded by the rule all the same."""
    oracle = Oracle()
    try:
        oracle.open_accounts(rest)
        for number, report in said:
            oracle.hear(number, report, 2)
            oracle.the_books_agree()
    finally:
        oracle.teardown()


TestAnySequence = Oracle.TestCase
TestAnySequence.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# --- the audit -----------------------------------------------------------------------------------


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, apsw.Connection]]:
    """Clean books with an order of 1.00 delivered in part, and a way to damage them."""
    path = tmp_path / "gateway.db"
    store = await SqliteStore.open(path)
    it = await running(store, build.draft(1), credit=3 * MILLION)
    await advance(store, it.id, told(Status.PARTIAL, remains=400))
    await order(store, placement(it.customer))
    db = apsw.Connection(str(path))
    db.execute("DROP TRIGGER transfers_are_not_changed; DROP TRIGGER transfers_are_not_deleted")
    db.execute("PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF")
    yield store, db
    db.close()
    await store.close()


async def test_clean_books_are_proven(books: tuple[SqliteStore, apsw.Connection]) -> None:
    """The audit says how much it has recomputed."""
    store, _ = books

    assert ledger.Audit(ok=True, transfers=7, accounts=6, problems=[]) == await store.inspect(
        ledger.audit
    )


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(
            "UPDATE accounts SET balance = balance + 1 WHERE kind = 'available'",
            [
                "account available of 1 (USD) says 1.400001, its transfers say 1.40",
                "the accounts in USD add up to 0.000001 instead of nothing",
            ],
            id="a balance",
        ),
        pytest.param(
            "UPDATE accounts SET balance = -1400000 WHERE kind = 'available'",
            [
                "account available of 1 (USD) is below zero: -1.40",
                "the database: CHECK constraint failed in accounts",
            ],
            id="a floor",
        ),
        pytest.param(
            "UPDATE accounts SET balance = -1 WHERE kind = 'held'",
            ["account held of 1 (USD) is below zero: -0.000001"],
            id="a floor by a hair",
        ),
        pytest.param(
            "DELETE FROM accounts WHERE kind = 'held'",
            ["account held of 1 (USD) is missing; its transfers say 1.00"],
            id="no account",
        ),
        pytest.param(
            "UPDATE accounts SET currency = 'EUR' WHERE kind = 'held'",
            [
                "account held of 1 (EUR) says 1.00, its transfers say 0.00",
                "account held of 1 (USD) is missing; its transfers say 1.00",
                "the accounts in EUR add up to 1.00 instead of nothing",
            ],
            id="an account's currency",
        ),
        pytest.param(
            "DELETE FROM transfers WHERE code = 'refund'",
            [
                "account sales of 1 (USD) says 0.60, its transfers say 1.00",
                "order 1: charged 1.00 in the books, 0.60 by its state (placed, Partial)",
            ],
            id="no transfer",
        ),
        pytest.param(
            "UPDATE transfers SET amount = amount + 1 WHERE code = 'cost'",
            [
                "account purse of alpha (INR) says -0.24, its transfers say -0.240001",
                "order 1: cost 0.240001 in the books, 0.24 by its state (placed, Partial)",
            ],
            id="an amount",
        ),
        pytest.param(
            "UPDATE transfers SET code = 'gift' WHERE code = 'refund'",
            ["transfers of 1 have an undeclared code 'gift'"],
            id="a code",
        ),
        pytest.param(
            "UPDATE transfers SET \"order\" = 77 WHERE code = 'refund'",
            [
                "transfer order/1/3/refund is of order 77, which does not exist",
                "order 1: charged 1.00 in the books, 0.60 by its state (placed, Partial)",
            ],
            id="an orphan",
        ),
        pytest.param(
            "UPDATE transfers SET \"order\" = NULL WHERE code = 'refund'",
            ["order 1: charged 1.00 in the books, 0.60 by its state (placed, Partial)"],
            id="a transfer of no order",
        ),
        pytest.param(
            "INSERT INTO transfers (key, code, owner, amount, currency, at) "
            "VALUES ('x', 'release', '1', -5, 'USD', 0)",
            ["the database: CHECK constraint failed in transfers"],
            id="no amount",
        ),
        pytest.param(
            """
            UPDATE transfers SET currency = 'EUR' WHERE "order" = 2;
            UPDATE accounts SET balance = 0 WHERE kind = 'held';
            UPDATE accounts SET balance = balance + 1000000 WHERE kind = 'available';
            INSERT INTO accounts (kind, owner, currency, balance)
                VALUES ('held', '1', 'EUR', 1000000), ('available', '1', 'EUR', -1000000);
            """,
            ["transfer order/2/1/hold is of another owner or currency than order 2"],
            id="a transfer's currency",
        ),
        pytest.param(
            "UPDATE orders SET customer = 77 WHERE id = 2",
            [
                "transfer order/2/1/hold is of another owner or currency than order 2",
                "the database: row 2 of orders names no row of customers",
            ],
            id="an order's customer",
        ),
        pytest.param(
            "UPDATE orders SET provider = 'beta' WHERE id = 1",
            [
                "transfer order/1/2/cost is of another owner or currency than order 1",
                "transfer order/1/3/rebate is of another owner or currency than order 1",
            ],
            id="an order's provider",
        ),
        pytest.param(
            "UPDATE orders SET charge = 1000001 WHERE id = 2",
            ["order 2: held 1.00 in the books, 1.000001 by its state (sending, Pending)"],
            id="an order's charge",
        ),
        pytest.param(
            "UPDATE orders SET status = 'Canceled' WHERE id = 1",
            [
                "order 1: charged 0.60 in the books, 0.00 by its state (placed, Canceled)",
                "order 1: cost 0.24 in the books, 0.00 by its state (placed, Canceled)",
            ],
            id="an order's status",
        ),
        pytest.param(
            "UPDATE orders SET state = 'failed' WHERE id = 2",
            ["order 2: held 1.00 in the books, 0.00 by its state (failed, Pending)"],
            id="an order's state",
        ),
        pytest.param(
            "DELETE FROM orders WHERE id = 2",
            ["transfer order/2/1/hold is of order 2, which does not exist"],
            id="no order",
        ),
    ],
)
async def test_damage_is_named(
    books: tuple[SqliteStore, apsw.Connection], damage: str, named: list[str]
) -> None:
    """Whatever somebody does to the file, the audit says where it does not add up."""
    store, db = books
    db.execute(damage)
    audit = await store.inspect(ledger.audit)

    assert not audit.ok
    assert [] == [one for one in named if one not in audit.problems]


async def test_the_audit_reads_orders_that_moved_no_money(store: Store) -> None:
    """A free order, or one beside it, is not mistaken for its neighbour."""
    ann = await customer(store, credit=2 * MILLION)
    for charge in (0, 5, 0, 7):
        await order(store, placement(ann.id, charge=charge))
    audit = await store.inspect(ledger.audit)

    assert [] == audit.problems
    assert 4 == len(await store.find_orders(Filter()))
