"""What a store does: a few operations, each on a list, each list in one transaction.

An operation takes a list and gives an outcome for each entry, in order. Nothing can be awaited
inside one, so no transaction stays open while a provider dawdles; what arrives while a commit is
under way is committed together with the next one. When a writing operation has returned, what it
did is durable. Any of them raises ``StoreUnavailable`` when the database cannot promise that.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from gateway.errors import ErrorText
from gateway.model import Customer, Event, Order, Refill, State, Transfer
from gateway.store.imports import Imports
from gateway.store.offers import Offers

T = TypeVar("T")
Row = Sequence[Any]

PRESENT = "process "
"""What the name of a lease begins with by which a process tells the others that it is there."""
RESTORED = "restored "
"""What the name of a counter begins with that holds when the books came from a backup."""


class Change(msgspec.Struct, frozen=True, gc=False):
    """An order as it becomes, why, and the money that moves with it.

    Attributes:
        event: what to remember of it; ``None`` for an order's beginning, which is its own record.
        frees: the customer was told that there is no order, so its claim is free again.

    """

    order: Order
    transfers: tuple[Transfer, ...]
    event: Event | None = None
    frees: bool = False


Transition = Callable[[Order], Change | None]
"""From an order as it is to what it becomes; pure, and ``None`` when nothing changes."""


class Claim(msgspec.Struct, frozen=True):
    """What makes a repeated order find the first one.

    Attributes:
        key: the customer's own key, or one made of what is ordered.
        fingerprint: of everything that is ordered.
        since: an earlier claim counts when it was made at or after this time.
        reject: a repeat is an error instead of the first one's id.

    """

    key: str
    fingerprint: bytes
    since: int
    reject: bool = False


class Placement(msgspec.Struct, frozen=True):
    """A new order: ``build`` makes it under the id that the store gives out.

    Attributes:
        cap: what all orders that the customer places that day (UTC) may cost, in millionths.

    """

    customer: int
    build: Callable[[int], Change]
    at: int
    claim: Claim | None = None
    cap: int | None = None


class Placed(msgspec.Struct, frozen=True):
    """An order that stands; ``fresh`` unless it is the one that an earlier claim made."""

    order: Order
    fresh: bool


class Step(msgspec.Struct, frozen=True):
    """One transition of one order.

    Attributes:
        seen: the order as it was read a moment ago; spares reading it again.

    """

    order: int
    change: Transition
    seen: Order | None = None


class Due(msgspec.Struct, frozen=True, gc=False):
    """An order to be asked for, no more of it than that takes; see ``Order``."""

    id: int
    version: int
    upstream_id: str
    created_at: int
    settled_at: int | None
    poll_at: int


class Later(NamedTuple):
    """When to ask for an order next: at a time, or never again.

    Attributes:
        due: when it was to be asked for; where that is not so any more, somebody knows better.

    """

    order: int
    due: int
    at: int | None


class Failure(StrEnum):
    """Why a step changed nothing."""

    NO_ORDER = "there is no such order"
    NO_FUNDS = "the balance does not cover it"
    TAKEN = "another order has this id at this provider"


class Lease(msgspec.Struct, frozen=True):
    """The right to do a piece of background work, for a while.

    Attributes:
        fence: grows with every change of the holder; what a former one writes is refused by it.

    """

    name: str
    holder: str
    fence: int


class Reading(msgspec.Struct, frozen=True):
    """Our balance at a provider, as it said.

    Attributes:
        asked_at, answered_at: the balance was that at some moment between these.
        balance: in millionths of ``currency``.
        checked: every order that was still followed then has been asked for afterwards.

    """

    provider: str
    asked_at: int
    answered_at: int
    balance: int
    currency: str
    checked: bool = False


class Movement(msgspec.Struct, frozen=True):
    """Something booked at a provider.

    Attributes:
        order: the order that it belongs to, as it is now; ``None`` for a deposit.
        since: the last time at which its provider said that the order was otherwise.

    """

    transfer: Transfer
    order: Order | None
    since: int


class Sighting(msgspec.Struct, frozen=True):
    """What was last seen of a provider; ``None`` leaves what was seen before.

    Attributes:
        balance: of our account there, in millionths of ``currency``.
        latency: of its last answer, in milliseconds.
        failures: how many calls in a row came to nothing.
        trouble: the last one's reason, for the owner; empty when all is well.

    """

    provider: str
    balance: int | None = None
    currency: str | None = None
    balance_at: int | None = None
    synced_at: int | None = None
    offers: int | None = None
    answered_at: int | None = None
    latency: int | None = None
    failures: int | None = None
    trouble: str | None = None


class Balance(msgspec.Struct, frozen=True):
    """A customer's accounts in one currency, in millionths; ``owed`` is positive."""

    currency: str
    available: int = 0
    held: int = 0
    sales: int = 0
    owed: int = 0


class Filter(msgspec.Struct, frozen=True):
    """Which orders to list, newest first; empty fields don't filter.

    Attributes:
        status: as ``Order.word`` has it, without regard to case.

    """

    status: str = ""
    customer: int | None = None
    provider: str = ""
    since: int = 0
    limit: int = 100


class Snapshot(Protocol):
    """The books at one moment, whatever is written meanwhile; for the audit."""

    def count_transfers(self) -> int:
        """Return how many transfers there are."""
        ...

    def transfer_sums(self) -> Iterable[tuple[str, str, str, int]]:
        """Return (code, owner, currency, sum) of all transfers."""
        ...

    def accounts(self) -> Iterable[tuple[str, str, str, int]]:
        """Return (kind, owner, currency, balance) of all accounts."""
        ...

    def orders(self) -> Iterator[tuple[Order, Mapping[str, int]]]:
        """Return every order with the sums of its transfers by code."""
        ...

    def violations(self) -> list[str]:
        """Return what the schema promises and yet does not hold."""
        ...

    def rows(self, table: str, key: Sequence[str]) -> tuple[list[str], Iterator[Row]]:
        """Return a table's columns and its rows by their key."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return the last order's id (``order``) and the edition of the offers (``offers``).

        And, under ``RESTORED`` and itself, each time at which the books came from a backup.
        """
        ...


class Store(Imports, Offers, Protocol):
    """The truth. Every implementation passes the same tests."""

    # --- orders and money: many at once, in one commit ---

    async def place(self, placements: Sequence[Placement]) -> list[Placed | ErrorText]:
        """Write new orders with their holds, each whole or not at all.

        Outcomes: the order; the one that an earlier claim made; ``NOT_ENOUGH_FUNDS``;
        ``KEY_REUSED`` (the claim's key with another fingerprint); ``IDENTICAL_ORDER``.
        """
        ...

    async def advance(
        self,
        steps: Sequence[Step],
        under: Lease | None = None,
        later: Sequence[Later] = (),
    ) -> list[Order | Failure]:
        """Take each order one transition further; the outcome is the order as it is then.

        ``under``, here and elsewhere: raise ``LeaseLost``, and write nothing, when that lease has
        passed on. ``later``: in the same commit, put off those of these that nothing changes.
        """
        ...

    async def post(self, transfers: Sequence[Transfer]) -> list[bool]:
        """Move money that belongs to no order; ``False`` where the key was used already.

        Raises ``TransferConflict`` when it was used for another amount, and ``CustomerError``
        (not enough funds) when a floor is in the way; then nothing of the list is posted.
        """
        ...

    # --- reading orders ---

    async def due(self, provider: str, now: int, limit: int) -> list[Due]:
        """Return orders whose status is to be asked for, what is due for longest first."""
        ...

    async def orders(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return the orders that exist of these, by id."""
        ...

    async def find_orders(self, wanted: Filter) -> list[Order]:
        """Return orders, newest first."""
        ...

    async def undecided(
        self, state: State, limit: int, *, provider: str = "", after: int = 0
    ) -> list[Order]:
        """Return orders in a state before ``placed``, oldest first, with ids above ``after``."""
        ...

    async def followed(self, provider: str, after: int, limit: int) -> list[Order]:
        """Return a provider's orders that are still asked for, oldest first, above an id."""
        ...

    async def without_id(self, provider: str) -> list[Order]:
        """Return orders that the provider is known to have, but not under which id."""
        ...

    async def neighbours(self, provider: str, order: int, near: int) -> list[Order]:
        """Return orders with an id of the provider's: ``near`` before and after this one."""
        ...

    async def known_ids(self, provider: str, upstream_ids: Sequence[str]) -> set[str]:
        """Return which of these ids of the provider's are orders of ours."""
        ...

    async def cancels_wanted(self, limit: int) -> list[Order]:
        """Return placed orders whose cancel the provider has not heard yet."""
        ...

    async def claimed(self, customer: int, claim: Claim) -> Order | ErrorText | None:
        """Return what ``place`` would say to a repeat; ``None`` when the claim is free."""
        ...

    async def archive(self, before: int, after: int, limit: int) -> tuple[int, int]:
        """Move settled orders to the archive that nothing is asked of any more.

        Those created before a time, with ids after ``after``, that have no refill. Returns how
        many, and the last id that was looked at; 0 when there are no more.
        """
        ...

    async def archived(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return those of these orders that are in the archive."""
        ...

    async def history(self, order: int) -> tuple[list[Event], list[Transfer]]:
        """Return what happened to an order, and every movement of its money."""
        ...

    async def drop_claims(self, before: int) -> int:
        """Forget claims older than this; return how many."""
        ...

    # --- refills ---

    async def add_refills(self, refills: Sequence[Refill], since: int) -> list[tuple[Refill, bool]]:
        """Write new refills; returns each under its id, and whether it is fresh.

        It is not where one of the same order is under way and no older than ``since``: then that
        one answers for it.
        """
        ...

    async def set_refills(self, refills: Sequence[Refill], under: Lease | None = None) -> None:
        """Write refills as they are now."""
        ...

    async def refills(self, ids: Sequence[int]) -> dict[int, Refill]:
        """Return the refills that exist of these, by id."""
        ...

    async def refills_of(self, order: int) -> list[Refill]:
        """Return an order's refills, oldest first."""
        ...

    async def due_refills(self, provider: str, now: int, limit: int) -> list[Refill]:
        """Return refills whose status is due."""
        ...

    # --- customers ---

    async def pepper(self) -> bytes:
        """Return the secret that customers' keys are hashed with."""
        ...

    async def add_customer(self, customer: Customer, digest: bytes) -> Customer | None:
        """Write a new customer; ``None`` when the name is taken."""
        ...

    async def set_customer(
        self, before: Customer, after: Customer, digest: bytes | None = None
    ) -> None:
        """Write in what a customer is different now, and a new key when one is given."""
        ...

    async def customer_of(self, digest: bytes) -> Customer | None:
        """Return who holds the key with this digest."""
        ...

    async def customers(self) -> list[Customer]:
        """Return all customers."""
        ...

    async def balances(self, customers: Sequence[int]) -> dict[int, list[Balance]]:
        """Return the customers' accounts, by currency."""
        ...

    def available(self, customer: int, currency: str) -> int | Awaitable[int]:
        """Return what a customer may spend, in millionths of a currency.

        It is read after this was asked, and at once where that takes no waiting.
        """
        ...

    async def ordered(self, customer: int, at: int) -> int:
        """Return what counts against a customer's cap of the day (UTC) of a time, in millionths."""
        ...

    # --- providers ---

    async def sight(self, sightings: Sequence[Sighting]) -> None:
        """Write what was seen of providers, keeping what was not looked at."""
        ...

    async def sightings(self) -> dict[str, Sighting]:
        """Return what was last seen of each provider."""
        ...

    async def in_flight(self) -> dict[str, int]:
        """Return how many orders each provider is being sent, or may have been."""
        ...

    async def at_risk(self) -> dict[str, int]:
        """Return what the orders that are not settled should cost, by provider, in its currency."""
        ...

    async def add_reading(self, reading: Reading, under: Lease | None = None) -> None:
        """Remember a balance; one that was asked for at the same time is replaced."""
        ...

    async def readings(self, provider: str, since: int) -> list[Reading]:
        """Return the balances that were asked for since, oldest first."""
        ...

    async def movements(self, provider: str, since: int, limit: int) -> list[Movement]:
        """Return what was booked at a provider since, oldest first."""
        ...

    async def taken_too_late(self, provider: str, since: int) -> list[Order]:
        """Return orders that a provider took after they were given up, sent since then."""
        ...

    # --- the owner's file ---

    async def keep_configuration(self, text: str, at: int) -> None:
        """Remember the owner's file as it was taken up, unless it is the one that was last."""
        ...

    async def kept_configuration(self) -> str | None:
        """Return the owner's file as it was last taken up."""
        ...

    async def configurations(self, since: int) -> list[str]:
        """Return the owner's files that were in force at or after a time, the last one last."""
        ...

    # --- who does what ---

    async def lease(
        self, names: Sequence[str], holder: str, now: int, until: int
    ) -> dict[str, Lease]:
        """Take or renew leases until a time; those that somebody else holds are left out.

        One whose name ends with its holder's is his own, and forgotten once it has run out.
        """
        ...

    async def release(self, holder: str, names: Sequence[str] | None = None) -> None:
        """Give back leases of a holder, or all that he has, for others to take at once."""
        ...

    async def holders(self, now: int) -> dict[str, str]:
        """Return who holds each lease that has not run out."""
        ...

    # --- the whole ---

    async def inspect(self, look: Callable[[Snapshot], T]) -> T:
        """Run ``look`` on a snapshot, off the event loop."""
        ...

    async def begin_loading(self, pepper: bytes) -> None:
        """Make ready for the rows of the database that has this secret.

        Raises ``ConfigError`` when there is something else in it than a part of a copy of that,
        which is removed. Until ``end_loading``, ``pepper`` raises ``ConfigError``.
        """
        ...

    async def load(self, table: str, names: Sequence[str], rows: Sequence[Row]) -> None:
        """Write rows of a table."""
        ...

    async def end_loading(self, counters: Mapping[str, int]) -> None:
        """Take up what was loaded: ids go on after the last ones."""
        ...

    async def restores(self) -> list[int]:
        """Return when these books came back from a backup, without what was newer than that."""
        ...

    async def close(self) -> None:
        """Commit what is waiting, and close the database."""
        ...
