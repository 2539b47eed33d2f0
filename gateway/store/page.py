"""One commit's worth of orders and money, worked out in memory, for both databases.

Everything that a list may change is locked and read first; then its entries are gone through in
turn, each as if the ones before it were written already. What comes of it is lists of rows, which
a database writes as it best can. Nothing here waits or has an effect, so a page is worked out
again whenever something turns out to be missing or to have changed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.errors import CustomerError, ErrorText, LeaseLost
from gateway.model import Event, Kind, Order, Transfer
from gateway.store import Change, Claim, Failure, Later, Lease, Placed, Placement, Step
from gateway.store.books import Books, NoFunds, OptimisticBooks, Owner

DAY = 24 * 3600 * 1000

Spending = tuple[int, int]
"""A customer and a day."""


class Entry(msgspec.Struct, frozen=True):
    """One call of an operation: its list, which is one of the first three.

    Attributes:
        under: the lease under which it is made.
        later: orders that are put off with it.

    """

    placements: Sequence[Placement] = ()
    steps: Sequence[Step] = ()
    transfers: Sequence[Transfer] = ()
    under: Lease | None = None
    later: Sequence[Later] = ()

    @property
    def size(self) -> int:
        """How long its list is."""
        return len(self.placements) + len(self.steps) + len(self.transfers)


class Made(NamedTuple):
    """A claim as it stands."""

    fingerprint: bytes
    order: int
    at: int


class Needs(msgspec.Struct):
    """What has to be locked and read before a page can be worked out.

    Attributes:
        keys: of transfers that may have been posted before.
        upstream: providers and ids there, which other orders may have.
        ids: how many order ids.

    """

    owners: set[Owner] = msgspec.field(default_factory=set)
    spending: set[Spending] = msgspec.field(default_factory=set)
    keys: set[str] = msgspec.field(default_factory=set)
    upstream: set[tuple[str, str]] = msgspec.field(default_factory=set)
    ids: int = 0

    def __bool__(self) -> bool:
        return bool(self.owners or self.spending or self.keys or self.upstream or self.ids)

    def joined(self, other: "Needs") -> "Needs":
        """Return what either of both needs."""
        return Needs(
            self.owners | other.owners,
            self.spending | other.spending,
            self.keys | other.keys,
            self.upstream | other.upstream,
            self.ids + other.ids,
        )


class Found(msgspec.Struct):
    """What has been locked and read.

    Attributes:
        optimistic: nothing is locked, and nobody has looked at accounts: what is written on these
            grounds is written only if it is all so.
        orders: those that steps are about, locked.
        standing: those that earlier claims made.
        results: what builds and transitions have returned, which is the same every time.

    """

    orders: dict[int, Order] = msgspec.field(default_factory=dict)
    fences: dict[str, int] = msgspec.field(default_factory=dict)
    claims: dict[tuple[int, str], Made] = msgspec.field(default_factory=dict)
    standing: dict[int, Order] = msgspec.field(default_factory=dict)
    ids: list[int] = msgspec.field(default_factory=list)
    accounts: dict[Owner, dict[Kind, int]] = msgspec.field(default_factory=dict)
    spending: dict[Spending, int] = msgspec.field(default_factory=dict)
    posted: dict[str, int] = msgspec.field(default_factory=dict)
    upstream: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    results: dict[tuple[int, int], Any] = msgspec.field(default_factory=dict)
    optimistic: bool = False


class Written(msgspec.Struct):
    """What a page writes: for each table the rows that are new and those that change.

    No row is in two lists, so they may be written in any order.

    Attributes:
        placed: new orders.
        advanced: orders as they were found, and as they are now.
        moved: kind, owner and currency of accounts, and what is added to each.
        opened: the same of accounts that were not there when they were looked for; where somebody
            has made one meanwhile, this is added to it.
        spent: customer, day and what is added to it; below zero it takes away, to nothing at most.
        later: orders that nothing changes, and when to ask for them next.
        freed: orders whose claims end.
        claimed: customer, key, fingerprint, order and time of claims on free keys.
        reclaimed: the same of keys whose claims no longer count, and the orders of those.

    """

    transfers: list[Transfer]
    events: list[Event]
    placed: list[Order] = []
    advanced: list[tuple[Order, Order]] = []
    moved: list[tuple[Kind, str, str, int]] = []
    opened: list[tuple[Kind, str, str, int]] = []
    spent: list[tuple[int, int, int]] = []
    later: list[Later] = []
    freed: list[int] = []
    claimed: list[tuple[int, str, bytes, int, int]] = []
    reclaimed: list[tuple[int, str, bytes, int, int, int]] = []


class Page:
    """What becomes of everything that was found, entry by entry.

    Attributes:
        changed: the orders that are written, as they are then.
        changes: how many placements and steps have come to something.
        later: what is put off unless something changes it.

    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._orders = dict(found.orders)
        self._upstream = dict(found.upstream)
        self._claims = dict(found.claims)
        self._spent = dict(found.spending)
        self._ids = iter(found.ids)
        self._books = OptimisticBooks() if found.optimistic else Books(found.accounts, found.posted)
        self.changed: dict[int, Order] = {}
        self.changes = 0
        self._events: list[Event] = []
        self.later: list[Later] = []
        self._freed: set[int] = set()
        self._spending: dict[Spending, int] = {}
        self._uncounted: set[Spending] = set()
        self._lacking = 0  # ids

    def do(self, entry: Entry) -> list[Any]:
        """Return an operation's outcomes; what it raises leaves the page half written."""
        if entry.under and self._found.fences.get(entry.under.name) != entry.under.fence:
            raise LeaseLost(f"{entry.under.name} is done by somebody else by now")
        self.later += entry.later
        if entry.placements:
            return list(map(self._place, entry.placements))
        if entry.steps:
            return list(map(self._advance, entry.steps))
        try:
            return [self._books.post(transfer) for transfer in entry.transfers]
        except NoFunds:
            raise CustomerError(ErrorText.NOT_ENOUGH_FUNDS) from None

    def missing(self) -> Needs | None:
        """Return what was not found since this was asked last; outcomes mean nothing without it."""
        books = self._books
        if not (books.unseen or self._uncounted or self._lacking):
            return None
        needs = Needs(owners=books.unseen, spending=self._uncounted, ids=self._lacking)
        books.unseen, self._uncounted, self._lacking = set(), set(), 0
        return needs

    def attempted(self) -> Needs:
        """Return what a unique index may refuse, to be looked up before the next try."""
        return Needs(
            keys={one.key for one in self._books.transfers},
            upstream={
                (one.provider, one.upstream_id) for one in self.changed.values() if one.upstream_id
            },
        )

    # --- what may be done -----------------------------------------------------------------

    def _place(self, new: Placement) -> Placed | ErrorText:
        if new.claim and (standing := self._standing(new.customer, new.claim)) is not None:
            return standing if isinstance(standing, ErrorText) else Placed(standing, fresh=False)
        order_id = next(self._ids, 0)
        if not order_id:
            self._lacking += 1
        done = (id(new), order_id)
        change: Change | None = self._found.results.get(done)
        if change is None:
            change = self._found.results[done] = new.build(order_id)
        charge = change.order.charge
        day = (new.customer, new.at // DAY)
        if new.cap is not None and not self._within_cap(new.cap, day, charge):
            return ErrorText.NOT_ENOUGH_FUNDS
        if self._write(None, change) is not None:
            return ErrorText.NOT_ENOUGH_FUNDS
        if change.order.capped:
            self._spend(day, charge)
        if new.claim:
            made = Made(new.claim.fingerprint, order_id, new.at)
            self._claims[new.customer, new.claim.key] = made
        return Placed(change.order, fresh=True)

    def _standing(self, customer: int, claim: Claim) -> Order | ErrorText | None:
        made = self._claims.get((customer, claim.key))
        if made is None or made.at < claim.since or made.order in self._freed:
            return None
        return repeated(
            claim, made, self._orders.get(made.order) or self._found.standing.get(made.order)
        )

    def _advance(self, step: Step) -> Order | Failure:
        order = self._orders.get(step.order)
        if order is None:
            return Failure.NO_ORDER
        done = (id(step), id(order))
        made: tuple[Change | None, Order] | None = self._found.results.get(done)
        if made is None:
            # With the order, so that no other one gets its address.
            made = self._found.results[done] = (step.change(order), order)
        change = made[0]
        if change is None:
            return order
        return self._write(order, change) or change.order

    def _write(self, before: Order | None, change: Change) -> Failure | None:
        """Write a change whole, or say why nothing of it is written."""
        order = change.order
        theirs = (order.provider, order.upstream_id)
        if order.upstream_id and self._upstream.get(theirs, order.id) != order.id:
            return Failure.TAKEN
        posted = len(self._books.transfers)
        try:
            for transfer in change.transfers:
                self._books.post(transfer)
        except NoFunds:
            self._books.take_back(posted)
            return Failure.NO_FUNDS
        if order.upstream_id:
            self._upstream[theirs] = order.id
        self._orders[order.id] = self.changed[order.id] = order
        self.changes += 1
        if change.event:
            self._events.append(change.event)
        if change.frees:
            self._freed.add(order.id)
        if before and before.capped and not order.capped:
            self._spend((order.customer, order.created_at // DAY), -order.charge)
        return None

    def _within_cap(self, cap: int, day: Spending, charge: int) -> bool:
        if day not in self._spent:
            self._uncounted.add(day)
        return self._spent.get(day, 0) + charge <= cap

    def _spend(self, day: Spending, amount: int) -> None:
        if day in self._spent:
            amount = max(amount, -self._spent[day])
            self._spent[day] += amount
        self._spending[day] = self._spending.get(day, 0) + amount

    # --- what is written ------------------------------------------------------------------

    def written(self) -> Written:
        """Return what this page writes."""
        written = Written(self._books.transfers, self._events)
        found = self._found
        for order in self.changed.values():
            before = found.orders.get(order.id)
            if before is None:
                written.placed.append(order)
            else:
                written.advanced.append((before, order))
        for (kind, owner, currency), amount in self._books.moved().items():
            there = found.optimistic or kind in found.accounts[owner, currency]
            (written.moved if there else written.opened).append((kind, owner, currency, amount))
        written.spent += [(*day, amount) for day, amount in self._spending.items() if amount]
        written.later = [one for one in self.later if one.order not in self.changed]
        self._write_claims(written)
        return written

    def _write_claims(self, written: Written) -> None:
        gone = set(self._freed)
        for key, made in self._claims.items():
            before = self._found.claims.get(key)
            if made is before or made.order in self._freed:
                continue
            if before is None:
                written.claimed.append((*key, *made))
            else:
                written.reclaimed.append((*key, *made, before.order))
                gone.discard(before.order)
        written.freed += gone


def work_out(found: Found, entries: Sequence[Entry]) -> tuple[Page, list[Any]]:
    """Return a page of all entries and the outcomes of each, or what it raised.

    An entry that raises has no part in the page.
    """
    raised: dict[int, Exception] = {}
    while True:
        page = Page(found)
        outcomes: list[Any] = []
        for number, entry in enumerate(entries):
            try:
                outcomes.append(raised.get(number) or page.do(entry))
            except Exception as error:  # noqa: BLE001  # for whoever waits for this entry
                raised[number] = error
                break
        else:
            return page, outcomes


def repeated(claim: Claim, made: Made, order: Order | None) -> Order | ErrorText | None:
    """Return what a repeat of a claim that counts is told."""
    if made.fingerprint != claim.fingerprint:
        return ErrorText.KEY_REUSED
    return ErrorText.IDENTICAL_ORDER if claim.reject else order
