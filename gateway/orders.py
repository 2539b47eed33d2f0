"""How an order is placed, and sent again from the queue.

Nothing is sent before the order and the hold on the customer's money are durable. How it is sent
is in ``sending``; what comes after, in ``follow`` and ``aftersales``.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog

from gateway import money, order_form, transitions
from gateway.catalog import Shop
from gateway.config import Orders as Promises
from gateway.errors import CustomerError, ErrorText, StoreUnavailable
from gateway.flight import Aloft, Flight
from gateway.model import Customer, Order, State
from gateway.router import Router
from gateway.sending import UNDER_WAY, Sender
from gateway.services import Service
from gateway.store import Claim, Lease, Placed, Placement, Step, Store, Transition
from gateway.transitions import Choice, Following

log = structlog.get_logger()


SECOND_LOOK = 0.02
"""Seconds between two looks at an order that another process is sending."""
GRACE = 5_000
"""Milliseconds beyond a provider's own time after which nobody is sending an order any more.

It may be short: an answer that comes after all turns an unknown order into what it says.
"""
PAGE = 500
"""Queued orders that are looked at together."""
MOST_UNDECIDED = 100_000
"""Orders under way that are looked through for those to be taken back."""
DAY = 24 * transitions.HOUR
AT_ONCE = 100
"""Queued orders that are on their way to one provider at once."""


class Orders:
    """Places orders, sends them again from the queue, and finds those that a stop left over."""

    def __init__(
        self,
        store: Store,
        router: Router,
        shop: Shop,
        promises: Promises,
        following: Following,
        now: Callable[[], int],
        aloft: Aloft,
    ) -> None:
        self._store = store
        self._router = router
        self._shop = shop
        self._promises = promises
        self._now = now
        self._sender = Sender(store, router, promises, following, now, shop.latest, aloft)
        self._aloft = aloft
        self._capped: dict[int, int] = {}  # customers, and the day for which their cap was told

    # --- placed ---------------------------------------------------------------------------

    async def place(self, customer: Customer, sent: Mapping[str, str], key: str = "") -> int:
        """Place an order; returns its id within ``answer_within``, or raises ``CustomerError``.

        ``sent`` are the customer's parameters; ``key`` is the idempotency key, if there is one.
        """
        deadline = asyncio.get_running_loop().time() + self._promises.answer_within
        claim = self._claim(sent, key)
        if claim and (standing := await self._store.claimed(customer.id, claim)) is not None:
            if isinstance(standing, ErrorText):
                raise CustomerError(standing)
            return await self._repeated(customer, claim, standing, deadline)
        service = self._service(sent)
        form = order_form.read(service.type, sent, service.limits)
        charge = self._shop.charge(service, form.size, *self._shop.tiers(customer))
        if charge > money.MOST:
            raise CustomerError(ErrorText.NOT_ENOUGH_FUNDS)
        choices = self._sender.usable(self._shop.choices(service, form, charge))
        if not choices and self._promises.unavailable == "refuse":
            raise CustomerError(ErrorText.UNAVAILABLE)
        draft = Order(
            customer=customer.id,
            service=service.id,
            type=service.type.name,
            params=form.params,
            size=form.size,
            charge=charge,
            currency=self._shop.currency,
            capped=True,
        )
        # An order that has a place at its provider is marked as being sent in the same commit;
        # one that has to wait for a place is with nobody, and says so.
        flight = self._aloft.flight()
        if choices:
            flight.choose(self._router.line(choices[0].provider), choices[0].cost)
        placed = await self._write(flight, customer, draft, choices, claim)
        if not placed.fresh or not choices:
            flight.turn_away(unused=True)
            if placed.fresh or claim is None:
                return placed.order.id
            return await self._repeated(customer, claim, placed.order, deadline)
        flight = self._sender.launch(flight, placed.order, choices)
        return await self._landed(customer, claim, flight, deadline)

    async def _write(
        self,
        flight: Flight,
        customer: Customer,
        draft: Order,
        choices: Sequence[Choice],
        claim: Claim | None,
    ) -> Placed:
        now = self._now()
        choice = choices[0] if flight.place else None
        build = transitions.opened(draft, choice, now, flight.sender, waits=bool(choices))
        placement = Placement(customer.id, build, now, claim, customer.daily_cap)
        try:
            (placed,) = await self._store.place([placement])
        except BaseException:
            self._aloft.unsure[flight.sender] = 0
            flight.turn_away(unused=True)
            raise
        if isinstance(placed, ErrorText):
            flight.turn_away(unused=True)
            if placed is ErrorText.NOT_ENOUGH_FUNDS and customer.daily_cap is not None:
                await self._tell_of_cap(customer, draft.charge, now)
            raise CustomerError(placed)
        return placed

    async def _tell_of_cap(self, customer: Customer, charge: int, now: int) -> None:
        """Let the owner know, once a day, that a daily cap refuses what the funds would cover."""
        if self._capped.get(customer.id) == now // DAY:
            return
        self._capped[customer.id] = now // DAY  # before a wait: others come at the same time
        covered = False
        with suppress(StoreUnavailable):  # the refusal stands, whether it is told of or not
            available = self._store.available(customer.id, self._shop.currency)
            covered = charge <= (available if isinstance(available, int) else await available)
        if not covered:
            del self._capped[customer.id]
            return
        cap = money.text(customer.daily_cap or 0)
        log.warning("a daily cap refuses orders", customer=customer.id, cap=cap)

    def _service(self, sent: Mapping[str, str]) -> Service:
        named = sent.get("service", "")
        if not named:
            raise CustomerError(ErrorText.INCORRECT_REQUEST)
        service_id = order_form.number(named, ErrorText.INVALID_SERVICE)
        service = self._shop.catalog.services.get(service_id)
        if service is None:
            known = self._shop.declares(service_id)
            raise CustomerError(ErrorText.UNAVAILABLE if known else ErrorText.INVALID_SERVICE)
        return service

    def _claim(self, sent: Mapping[str, str], key: str) -> Claim | None:
        """Return what makes a repeat of this order find it, if anything does.

        A customer who gives each order a key of its own says that they differ, whatever they
        look like; ``duplicates`` is for clients that say nothing.
        """
        duplicates = self._promises.duplicates
        if not key and duplicates == "allow":
            return None
        said = msgspec.json.encode(order_form.canonical(sent, self._shop.parameters))
        fingerprint = hashlib.sha256(said).digest()
        if key:
            return Claim(f"key/{key}", fingerprint, 0)
        since = self._now() - int(self._promises.duplicate_window * 1000)
        return Claim(f"same/{fingerprint.hex()}", fingerprint, since, reject=duplicates == "reject")

    async def _landed(
        self, customer: Customer, claim: Claim | None, flight: Flight, deadline: float
    ) -> int:
        """Wait for a flight's end until the deadline; after it the order goes on without us."""
        await flight.landed(deadline)
        return await self._answer(customer, claim, flight.order)

    async def _repeated(
        self, customer: Customer, claim: Claim, order: Order, deadline: float
    ) -> int:
        """Answer a repeat as the first one is answered, also when another process sends it."""
        loop = asyncio.get_running_loop()
        waits = {State.SENDING} if self._promises.unavailable == "queue" else UNDER_WAY
        while loop.time() < deadline:
            if flight := self._sender.flights.get(order.id):
                return await self._landed(customer, claim, flight, deadline)
            if order.state not in waits:
                break
            await asyncio.sleep(SECOND_LOOK)
            order = (await self._store.orders([order.id]))[order.id]
        return await self._answer(customer, claim, order)

    async def _answer(self, customer: Customer, claim: Claim | None, order: Order) -> int:
        """Return an order's id, or raise what came of it.

        Of one that is still under way the id is told for good first: whoever is about to write a
        refusal finds that out in the same place, and keeps the key; or his refusal was first, and
        is what is heard. An order without that would make its customer order again, so no trouble
        with the database is an answer.
        """
        if order.state in UNDER_WAY:
            if flight := self._sender.flights.get(order.id):
                flight.answered = True
            try:
                (said,) = await self._store.advance([Step(order.id, transitions.told(self._now()))])
            except StoreUnavailable:
                return order.id
            order = said if isinstance(said, Order) else order
        if order.state is State.FAILED and not await self._keeps(customer, claim, order):
            raise CustomerError(ErrorText(order.error))
        return order.id

    async def _keeps(self, customer: Customer, claim: Claim | None, order: Order) -> bool:
        """Tell whether a failed order still has its key, since somebody was given its id."""
        if claim is None:
            return False
        same = msgspec.structs.replace(claim, reject=False)
        standing = await self._store.claimed(customer.id, same)
        return isinstance(standing, Order) and standing.id == order.id

    # --- from the queue -------------------------------------------------------------------

    async def dispatch(self) -> int:
        """Send queued orders for which there is a route, the oldest first; returns how many.

        Of each service the first for which no provider has room keeps the others behind it. One
        that has waited for longer than ``queue_for`` is canceled, and its hold released.
        """
        sent = last = 0
        full: set[int] = set()
        now = self._now()
        under_way = Counter(one.provider for one in self._sender.flights.values() if one.answered)
        young = now - int(self._promises.answer_within * 1000)
        while page := await self._store.undecided(State.QUEUED, PAGE, after=last):
            last = page[-1].id
            for order in page:
                waited_for = not order.attempt and order.attempt_at > young
                if waited_for:
                    continue  # who placed it still sees to it
                if change := self._sender.expired(order):  # also one that waits for its place
                    await self._expire(order, change)
                elif order.id in self._sender.flights:
                    continue
                elif order.service not in full and (choices := self._due(order, now)):
                    usable = self._sender.usable(choices)
                    if usable and under_way[usable[0].provider] < AT_ONCE:
                        flight = self._aloft.flight(answered=True)
                        flight.choose(self._router.line(usable[0].provider), usable[0].cost)
                        self._sender.launch(flight, order, usable)
                        under_way[usable[0].provider] += 1
                        sent += 1
                    else:
                        full.add(order.service)
            await asyncio.sleep(0)  # a long queue must not hold up everybody else
        return sent

    def _due(self, order: Order, now: int) -> list[Choice]:
        """Return the routes that fit a queued order, if it is time to try it again."""
        wait = min(1000 << min(order.attempt, 10), 10 * transitions.MINUTE)
        if order.attempt and now - order.attempt_at < wait:
            return []
        service = self._shop.catalog.services.get(order.service)
        if service is None or service.type.name != order.type:
            return []
        form = order_form.Form(order.params, order.size, None)
        return self._shop.choices(service, form, order.charge)

    async def _expire(self, order: Order, change: Transition) -> None:
        (after,) = await self._store.advance([Step(order.id, change)])
        if isinstance(after, Order) and after.state is State.FAILED:
            log.warning("a queued order was canceled, being too old", order=order.id)

    # --- decided --------------------------------------------------------------------------

    async def leftovers(self, limit: int = 1000, under: Lease | None = None) -> int:
        """Declare unknown what nobody can be sending any more; returns how many orders.

        After a crash an order may have been sent or not; neither is assumed.
        """
        words = "the gateway stopped while the order was being sent"
        now = self._now()
        steps = []
        for order in await self._store.undecided(State.SENDING, limit):
            line = self._router.lines.get(order.provider)
            longest = int(2000 * line.timeout) if line else transitions.MINUTE
            late = now - order.attempt_at > longest + GRACE
            if late and order.id not in self._sender.flights:
                steps.append(Step(order.id, transitions.unknown(words, order.attempt, now)))
        if steps:
            await self._store.advance(steps, under)
            log.warning("orders were left over by a stop", orders=[one.order for one in steps])
        return len(steps)

    async def take_back(self) -> int:
        """Release what was written though its customer was told that it was not; returns how many.

        That happens when the answer to a commit is lost. Such an order was never sent, and only
        the process that was to send it knows that.
        """
        now = self._now()
        unsure = set(self._aloft.unsure)
        if not unsure:
            return 0
        words = "the database did not say that it was written"
        steps = []
        for state in (*UNDER_WAY, State.UNKNOWN):
            steps += [
                Step(order.id, transitions.never_sent(words, order.sender, now))
                for order in await self._store.undecided(state, MOST_UNDECIDED)
                if order.sender in unsure
            ]
        if steps:
            await self._store.advance(steps)
            log.warning("orders were taken back", orders=[one.order for one in steps])
        # A server that was held up may still do it a while after it is back.
        for mark in unsure:
            if not self._aloft.unsure[mark]:
                self._aloft.unsure[mark] = now
            elif now - self._aloft.unsure[mark] > transitions.MINUTE:
                del self._aloft.unsure[mark]
        return len(steps)

    def being_sent(self) -> set[tuple[int, str, int]]:
        """Return the orders that this process has marked: id, provider, cost there."""
        return {
            (order.id, order.provider, order.cost)
            for flight in self._sender.flights.values()
            if (order := flight.order).state is State.SENDING
            and order.provider == flight.provider  # else it is no longer counted on there
        }

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109  # a limit, not a failure
        """Wait for the orders under way; returns how many still are."""
        return await self._sender.drain(timeout)
