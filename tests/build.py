"""Customers, orders and reports for tests: what is not said is ordinary."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from gateway import ledger, transitions
from gateway.errors import ErrorText
from gateway.model import Customer, Held, Offer, Order, Report, Status
from gateway.money import Money
from gateway.store import Claim, Due, Later, Placed, Placement, Step, Store, Transition
from gateway.store.offers import UNFINISHED, compare
from gateway.transitions import HOUR, Choice, Following

AT = 1_700_000_000_000
FOLLOWING = Following(every=30_000, follow_for=30 * 24 * HOUR)


def offer(service: str = "1", name: str = "Likes", rate: str = "0.90") -> Offer:
    """Return a row of a provider's list."""
    return Offer(service, name, "Default", "First", Decimal(rate), 10, 10_000)


def choice(provider: str = "alpha", service: str = "1", cost: int = 400_000) -> Choice:
    """Return a route that an attempt can take."""
    return Choice(provider, offer(service), cost, "INR", "0.0119")


def claim(
    key: str = "key/a", content: bytes = b"one", since: int = 0, *, reject: bool = False
) -> Claim:
    """Return what makes a repeat find the first order."""
    return Claim(key, content, since, reject)


def draft(
    customer: int,
    charge: int = 1_000_000,
    kind: str = "Default",
    size: int = 1000,
    params: Mapping[str, str] | None = None,
) -> Order:
    """Return an order as it is before the store knows it."""
    return Order(
        customer=customer,
        service=101,
        type=kind,
        params=dict(params or {"link": "https://example.com/a", "quantity": str(size)}),
        size=size,
        charge=charge,
        currency="USD",
    )


def placement(
    customer: int,
    charge: int = 1_000_000,
    *,
    claim: Claim | None = None,
    route: Choice | None = choice(),  # noqa: B008  # a frozen value
    at: int = AT,
) -> Placement:
    """Return a new order as the store takes it; without a route it is queued."""
    build = transitions.opened(draft(customer, charge), route, at)
    return Placement(customer, build, at, claim)


def report(
    status: Status | None = Status.COMPLETED,
    word: str = "",
    *,
    charge: int | None = None,
    remains: int | None = None,
    posts: int | None = None,
    runs: int | None = None,
) -> Report:
    """Return what a provider says of an order."""
    return Report(
        status, word or str(status), charge=charge, remains=remains, posts=posts, runs=runs
    )


def accepted(upstream_id: str, attempt: int = 1, at: int = AT) -> Transition:
    """Return the transition of an order that its provider took."""
    return transitions.accepted(upstream_id, attempt, at, FOLLOWING)


def refused(*, unheard: int | None = None, at: int = AT) -> Transition:
    """Return the transition of an order that its last route refused."""
    return transitions.refused(
        "refused", "no such link", 1, at, then=ErrorText.BAD_LINK, unheard=unheard
    )


async def customer(store: Store, name: str = "ann", credit: int = 0) -> Customer:
    """Write a customer, with this many millionths to spend."""
    draft = Customer(id=0, name=name, created_at=AT)
    added = await store.add_customer(draft, name.encode().ljust(32, b"."))
    if added is None:
        raise ValueError(name)
    if credit:
        await store.post([ledger.top_up(added.id, Money(credit, "USD"), "opening", AT)])
    return added


async def listed(
    store: Store, provider: str, offers: Sequence[Offer], at: int, held: Sequence[Held] = ()
) -> int:
    """Take up a provider's list as it is; returns the edition of its offers."""
    since = (await store.editions()).get(provider, UNFINISHED)
    known = await store.known_offers(provider)
    found = compare(provider, known, offers, at, first=not known)
    return await store.save_offers(provider, found, at, held=held, since=since)


async def order(store: Store, placement: Placement) -> Order:
    """Place an order that must be new, and return it."""
    (placed,) = await store.place([placement])
    if not isinstance(placed, Placed) or not placed.fresh:
        raise ValueError(placed)
    return placed.order


async def put_off(store: Store, provider: str, now: int, at: int | None = None) -> list[Due]:
    """Put off what is due until a time, or for ever, and return it."""
    found = await store.due(provider, now, 1000)
    await store.advance([], later=[Later(one.id, one.poll_at, at) for one in found])
    return found


async def advance(store: Store, order: int, *changes: Transition) -> Order:
    """Take an order further, step by step; every step must be possible."""
    for change in changes:
        (after,) = await store.advance([Step(order, change)])
        if not isinstance(after, Order):
            raise TypeError(after)
    return (await store.orders([order]))[order]
