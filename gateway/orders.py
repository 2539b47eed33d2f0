"""The journey of an order, told top to bottom: placed, sent, decided.

Nothing is sent before the order and the hold on the customer's money are durable, and a provider
is asked once: the next route is tried only when the one before provably did not take the order.
What comes after, statuses, refills and cancels, is in ``follow``.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from gateway import money, order_form, transitions
from gateway.catalog import Service, Shop
from gateway.config import Orders as Promises
from gateway.errors import (
    CustomerError,
    ErrorText,
    Fault,
    Indeterminate,
    Rejected,
    StoreUnavailable,
    Unreachable,
    Unsupported,
)
from gateway.flight import Flight
from gateway.model import Customer, Order, State
from gateway.router import Router
from gateway.store import Claim, Failure, Lease, Placed, Placement, Step, Store, Transition
from gateway.transitions import Choice, Following

log = structlog.get_logger()


class After(msgspec.Struct, frozen=True):
    """What follows when a provider has refused an order, or provably never heard of it.

    When neither helps, the customer is told the refusal's own ``text``.

    Attributes:
        another: it may go to its next route.
        later: where the owner says ``unavailable: queue``, it waits for a route to take it.

    """

    another: bool
    later: bool


AFTER: Mapping[Fault, After] = {
    Fault.CUSTOMER: After(another=False, later=False),  # every provider would refuse it
    Fault.ACCOUNT: After(another=True, later=True),  # our key or purse is no matter of the order's
    Fault.SERVICE: After(another=True, later=True),
    Fault.BUSY: After(another=True, later=True),
    Fault.ORDER: After(another=False, later=False),
    Fault.UNKNOWN: After(another=False, later=False),  # nobody knows what follows from it
}
NEVER_HEARD = After(another=True, later=True)
OWNER_ALLOWS = After(another=True, later=False)
"""Instead of ``Fault.UNKNOWN``'s, where the owner says ``unknown_refusals: next``."""

SECOND_LOOK = 0.02
"""Seconds between two looks at an order that another process is sending."""
DATABASE_BACK = 0.5
"""Seconds between two tries to write down what a provider has answered."""
GRACE = 5_000
"""Milliseconds beyond a provider's own time after which nobody is sending an order any more.

It may be short: an answer that comes after all turns an unknown order into what it says.
"""
PAGE = 500
"""Queued orders that are looked at together."""
AT_ONCE = 200
"""Queued orders that are on their way at once."""


class Orders:
    """Places orders, sends them, and settles those whose outcome was not known."""

    def __init__(
        self,
        store: Store,
        router: Router,
        shop: Shop,
        promises: Promises,
        following: Following,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._router = router
        self._shop = shop
        self._promises = promises
        self._following = following
        self._now = now
        self._flights: dict[int, Flight] = {}

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
        charge = service.charge(form.size, customer.tier)
        if charge > money.MOST:
            raise CustomerError(ErrorText.NOT_ENOUGH_FUNDS)
        choices = self._usable(service.choices(form, charge))
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
        )
        # An order that has a place at its provider is marked as being sent in the same commit;
        # one that has to wait for a place is with nobody, and says so.
        flight = Flight()
        if choices:
            flight.choose(self._router.line(choices[0].provider), choices[0].cost)
        try:
            placed = await self._write(flight, customer, draft, choices, claim)
        except BaseException:
            flight.turn_away()
            raise
        if not placed.fresh or not choices:
            flight.turn_away()
            if placed.fresh or claim is None:
                return placed.order.id
            return await self._repeated(customer, claim, placed.order, deadline)
        self._launch(flight, placed.order, choices)
        order = await self._landed(flight, deadline)
        if order.state is State.FAILED and not flight.answered:
            raise CustomerError(ErrorText(order.error))
        return order.id

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
        build = transitions.opened(draft, choice, now, flight.sender)
        placement = Placement(customer.id, build, now, claim, customer.daily_cap)
        (placed,) = await self._store.place([placement])
        if isinstance(placed, ErrorText):
            raise CustomerError(placed)
        return placed

    def _usable(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return the routes that may be tried now, those of slow providers last."""
        usable = [one for one in choices if not self._router.line(one.provider).why_not(one.cost)]
        return sorted(usable, key=lambda one: self._router.line(one.provider).slow)

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
        said = msgspec.json.encode(order_form.canonical(sent))
        fingerprint = hashlib.sha256(said).digest()
        if key:
            return Claim(f"key/{key}", fingerprint, 0)
        since = self._now() - int(self._promises.duplicate_window * 1000)
        return Claim(f"same/{fingerprint.hex()}", fingerprint, since, reject=duplicates == "reject")

    async def _landed(self, flight: Flight, deadline: float) -> Order:
        """Wait for a flight's end until the deadline; after it the order goes on without us."""
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait({flight.task}, timeout=max(left, 0))
        if not flight.task.done():
            if not flight.deciding:
                flight.answered = True
                return flight.order
            await asyncio.wait({flight.task})
        if failure := flight.task.exception():
            # The order stands and may be taken: an error would make its customer order again.
            log.error("an order's sending broke off", order=flight.order.id, exc_info=failure)
            flight.answered = True
            return flight.order
        return flight.task.result()

    async def _repeated(
        self, customer: Customer, claim: Claim, order: Order, deadline: float
    ) -> int:
        """Answer a repeat as the first one is answered, also when another process sends it."""
        if flight := self._flights.get(order.id):
            order = await self._landed(flight, deadline)
        loop = asyncio.get_running_loop()
        while order.state is State.SENDING and loop.time() < deadline:
            await asyncio.sleep(SECOND_LOOK)
            order = (await self._store.orders([order.id]))[order.id]
        # A claim is freed when the first one was told of a refusal; else he has got the id.
        if order.state is State.FAILED and not await self._store.claimed(customer.id, claim):
            raise CustomerError(ErrorText(order.error))
        return order.id

    # --- sent -----------------------------------------------------------------------------

    def _launch(self, flight: Flight, order: Order, choices: Sequence[Choice]) -> None:
        flight.order = order
        self._flights[order.id] = flight
        flight.task = asyncio.create_task(self._send(flight, choices), name=f"order {order.id}")
        flight.task.add_done_callback(lambda _: self._flights.pop(order.id, None))

    async def _send(self, flight: Flight, choices: Sequence[Choice]) -> Order:
        """Try the routes in order, and go on only on proof that one did not take the order."""
        order = flight.order
        rest = list(choices)
        with structlog.contextvars.bound_contextvars(order=order.id):
            try:
                while rest:
                    choice = rest.pop(0)
                    if order.state is State.QUEUED:
                        order = await self._mark(flight, order, choice, rest)
                    if order.state is State.SENDING:
                        if order.sender != flight.sender:  # another process was faster
                            break
                        order = await self._try(flight, order, choice, rest)
                    if order.state not in (State.QUEUED, State.SENDING):
                        break
            finally:
                flight.turn_away()
        return order

    async def _mark(
        self, flight: Flight, order: Order, choice: Choice, rest: Sequence[Choice]
    ) -> Order:
        """Wait for a place at a provider, and mark the order as being sent there."""
        line = self._router.line(choice.provider)
        flight.choose(line, choice.cost)
        if flight.place is None:
            flight.waiting = True
            try:
                flight.enter(await line.place())
            except Unreachable as failure:
                return order if rest else await self._give_up(flight, order, str(failure))
            finally:
                flight.waiting = False
        return await self._decide(order, transitions.sending(choice, self._now(), flight.sender))

    async def _give_up(self, flight: Flight, order: Order, words: str) -> Order:
        """End an order that found no place anywhere, unless it may wait for another time."""
        if flight.patient or self._promises.unavailable == "queue":
            return order
        frees = flight.deciding = not flight.answered
        change = transitions.given_up(
            words, ErrorText.UNAVAILABLE, self._now(), late=flight.answered, frees=frees
        )
        return await self._decide(order, change)

    async def _try(self, flight: Flight, order: Order, choice: Choice, rest: list[Choice]) -> Order:
        """Make one attempt, and write down what it came to."""
        change, upstream_id = await self._attempt(flight, order, choice, rest)
        order = await self._decide(order, change)
        if upstream_id and order.upstream_id != upstream_id and order.state is not State.UNKNOWN:
            log.error("taken by a provider after it was given up", upstream_id=upstream_id)
        return order

    async def _attempt(
        self, flight: Flight, order: Order, choice: Choice, rest: list[Choice]
    ) -> tuple[Transition, str]:
        """Ask one provider, once; return what its answer makes of the order, and the id it gave."""
        attempt = order.attempt
        try:
            upstream_id = await self._router.add(
                choice.provider,
                choice.offer.id,
                order.params,
                order.size,
                place=flight.place,
                not_after=flight.not_after,
            )
        except Rejected as refusal:
            if refusal.fault is Fault.ACCOUNT:
                self._router.line(choice.provider).short_of(choice.cost)
            after = AFTER[refusal.fault]
            if refusal.fault is Fault.UNKNOWN and self._promises.unknown_refusals == "next":
                after = OWNER_ALLOWS
            then = self._next(flight, refusal.text, after, rest)
            kind, words = "refused", refusal.words
        except (Unreachable, Unsupported) as failure:
            then = self._next(flight, ErrorText.UNAVAILABLE, NEVER_HEARD, rest)
            kind, words = "unreachable", str(failure)
        except Exception as failure:
            # Whatever broke, it broke after the provider may have been asked.
            words = str(failure)
            if isinstance(failure, Indeterminate):
                log.warning("outcome not known", provider=choice.provider, reason=words)
            else:
                log.exception("a call broke off", provider=choice.provider)
                words = f"{type(failure).__name__} in the gateway"
            flight.turn_away(taken=True)
            return transitions.unknown(words, attempt, self._now()), ""
        else:
            flight.turn_away(taken=True)
            now = self._now()
            return transitions.accepted(upstream_id, attempt, now, self._following), upstream_id
        frees = flight.deciding
        return transitions.refused(kind, words, attempt, self._now(), then=then, frees=frees), ""

    def _next(
        self, flight: Flight, text: ErrorText, after: After, rest: list[Choice]
    ) -> Choice | ErrorText | None:
        """Return what follows a refusal: the next route, waiting for one, or the end."""
        flight.turn_away()
        rest[:] = self._usable(rest) if after.another else ()
        if rest:
            flight.choose(self._router.line(rest[0].provider), rest[0].cost)
            return rest[0] if flight.place else None
        if after.later and self._promises.unavailable == "queue":
            return None
        flight.deciding = not flight.answered
        return text

    async def _decide(self, order: Order, change: Transition) -> Order:
        """Write down what a provider's answer means, however long the database takes."""
        while True:
            try:
                (after,) = await self._store.advance([Step(order.id, change)])
            except StoreUnavailable as error:
                # What a provider said is said once; it must not be lost while we live.
                log.error("an answer cannot be written down yet", reason=str(error))  # noqa: TRY400
                await asyncio.sleep(DATABASE_BACK)
                continue
            if isinstance(after, Order):
                return after
            log.error("an answer cannot be true", order=order.id, reason=after)
            change = transitions.unknown(after, order.attempt, self._now())

    async def dispatch(self) -> int:
        """Send queued orders for which there is a route, the oldest first; returns how many.

        Of each service the first that has to go on waiting keeps the others behind it. One that
        has waited for longer than ``queue_for`` is canceled, and its hold released.
        """
        sent = last = 0
        blocked: set[int] = set()
        now = self._now()
        while page := await self._store.undecided(State.QUEUED, PAGE, after=last):
            last = page[-1].id
            for order in page:
                if order.id in self._flights:
                    continue
                if now - order.queued_at > self._promises.queue_for * 1000:
                    await self._expire(order)
                elif sent < AT_ONCE and order.service not in blocked:
                    if choices := self._due(order, now):
                        self._launch(Flight(patient=True), order, choices)
                        sent += 1
                    else:
                        blocked.add(order.service)
        return sent

    def _due(self, order: Order, now: int) -> list[Choice]:
        """Return the routes by which a queued order can be sent now."""
        wait = min(1000 << min(order.attempt, 10), 10 * transitions.MINUTE)
        if order.attempt and now - order.attempt_at < wait:
            return []
        service = self._shop.catalog.services.get(order.service)
        if service is None or service.type.name != order.type:
            return []
        form = order_form.Form(order.params, order.size, None)
        return self._usable(service.choices(form, order.charge))

    async def _expire(self, order: Order) -> None:
        words = "no route took it in time"
        change = transitions.given_up(words, ErrorText.UNAVAILABLE, self._now(), late=True)
        await self._store.advance([Step(order.id, change)])
        log.warning("a queued order was canceled", order=order.id, reason=words)

    # --- decided --------------------------------------------------------------------------

    async def leftovers(self, limit: int = 1000, under: Lease | None = None) -> int:
        """Declare unknown what nobody can be sending any more; returns how many orders.

        After a crash an order may have been sent or not; neither is assumed.
        """
        steps = []
        for order in await self._store.undecided(State.SENDING, limit):
            line = self._router.lines.get(order.provider)
            longest = int(2000 * line.timeout) if line else 0
            if order.id not in self._flights and (self._now() - order.attempt_at > longest + GRACE):
                words = "the gateway stopped while the order was being sent"
                steps.append(Step(order.id, transitions.unknown(words, order.attempt, self._now())))
        if steps:
            await self._store.advance(steps, under)
            log.warning("orders were left over by a stop", orders=[one.order for one in steps])
        return len(steps)

    async def settle(self, order: int, upstream_id: str | None) -> Order | Failure:
        """Settle an unknown order by hand: placed under the provider's id, or not placed."""
        step = Step(order, transitions.settled(upstream_id, self._now(), self._following))
        return (await self._store.advance([step]))[0]

    async def retry(self, order: int) -> Order | Failure:
        """Hold a failed order's charge again and queue it for its routes."""
        return (await self._store.advance([Step(order, transitions.retried(self._now()))]))[0]

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109  # a limit, not a failure
        """Wait for the orders under way; returns how many are still unanswered."""
        for flight in self._flights.values():
            if flight.patient and flight.waiting:
                flight.task.cancel()  # it is with nobody, and stays queued
        tasks: set[asyncio.Task[Any]] = {flight.task for flight in self._flights.values()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=timeout)
        return len(tasks)
