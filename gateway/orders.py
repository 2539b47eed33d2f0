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
from gateway.model import Customer, Order, State
from gateway.router import Router
from gateway.store import Claim, Failure, Placement, Step, Store, Transition
from gateway.transitions import Choice, Following

log = structlog.get_logger()

ANOTHER_ROUTE: Mapping[Fault, bool] = {
    Fault.CUSTOMER: False,  # every provider would refuse it
    Fault.ACCOUNT: True,  # our key or purse there is no matter of the order's
    Fault.SERVICE: True,
    Fault.BUSY: True,
    Fault.ORDER: False,
    Fault.UNKNOWN: False,  # nobody knows what it said, so nobody knows what follows
}
"""Whether an order that was refused may go to its next route."""

SECOND_LOOK = 0.02
"""Seconds between two looks at an order that another process is sending."""
DATABASE_BACK = 0.5
"""Seconds between two tries to write down what a provider has answered."""
GRACE = 5_000
"""Milliseconds beyond a provider's own time after which nobody is sending an order any more.

It may be short: an answer that comes after all turns an unknown order into what it says.
"""


class Flight:
    """An order that is being sent, and whether its customer still waits for the outcome.

    Attributes:
        answered: the customer has the order's id, whatever comes.
        deciding: a refusal is on its way into the store; from then on the customer waits for it,
            so that he never gets an id for an order that was just refused.

    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.answered = False
        self.deciding = False
        self.task: asyncio.Task[Order]


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
        choices = service.choices(form, charge)
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
        now = self._now()
        build = transitions.opened(draft, choices[0] if choices else None, now)
        (placed,) = await self._store.place([Placement(customer.id, build, now, claim)])
        if isinstance(placed, ErrorText):
            raise CustomerError(placed)
        if claim and not placed.fresh:
            return await self._repeated(customer, claim, placed.order, deadline)
        if placed.order.state is State.QUEUED:
            return placed.order.id
        flight = self._launch(placed.order, choices)
        order = await self._landed(flight, deadline)
        if order.state is State.FAILED and not flight.answered:
            raise CustomerError(ErrorText(order.error))
        return order.id

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

    def _launch(self, order: Order, choices: Sequence[Choice]) -> Flight:
        flight = self._flights[order.id] = Flight(order)
        flight.task = asyncio.create_task(self._send(flight, choices), name=f"order {order.id}")
        flight.task.add_done_callback(lambda _: self._flights.pop(order.id, None))
        return flight

    async def _send(self, flight: Flight, choices: Sequence[Choice]) -> Order:
        """Try the routes in order, and go on only on proof that one did not take the order."""
        order = flight.order
        with structlog.contextvars.bound_contextvars(order=order.id):
            for number, choice in enumerate(choices):
                rest = choices[number + 1 :]
                change, taken = await self._attempt(flight, order, choice, rest)
                order = await self._decide(order, change)
                if taken and order.upstream_id != taken and order.state is not State.UNKNOWN:
                    log.error("taken by a provider after it was given up", upstream_id=taken)
                if order.state is not State.SENDING:
                    break
        return order

    async def _attempt(
        self, flight: Flight, order: Order, choice: Choice, rest: Sequence[Choice]
    ) -> tuple[Transition, str]:
        """Ask one provider, once; return what its answer makes of the order, and the id it gave."""
        attempt = order.attempt
        try:
            upstream_id = await self._router.add(
                choice.provider, choice.offer.id, order.params, order.size
            )
        except Indeterminate as failure:
            log.warning("outcome not known", provider=choice.provider, reason=str(failure))
            return transitions.unknown(str(failure), attempt, self._now()), ""
        except Rejected as refusal:
            another = ANOTHER_ROUTE[refusal.fault]
            then = self._next(flight, refusal.text, rest if another else ())
            kind, words = "refused", refusal.words
        except (Unreachable, Unsupported) as failure:
            then = self._next(flight, ErrorText.UNAVAILABLE, rest)
            kind, words = "unreachable", str(failure)
        except Exception as failure:
            # Whatever broke, it broke after the provider may have been asked.
            log.exception("a call broke off", provider=choice.provider)
            words = f"{type(failure).__name__} in the gateway"
            return transitions.unknown(words, attempt, self._now()), ""
        else:
            now = self._now()
            return transitions.accepted(upstream_id, attempt, now, self._following), upstream_id
        frees = flight.deciding
        return transitions.refused(kind, words, attempt, self._now(), then=then, frees=frees), ""

    def _next(
        self, flight: Flight, text: ErrorText, rest: Sequence[Choice]
    ) -> Choice | ErrorText | None:
        """Return what follows a refusal: the next route, waiting for one, or the end."""
        if rest:
            return rest[0]
        if text is ErrorText.UNAVAILABLE and self._promises.unavailable == "queue":
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

    async def dispatch(self, limit: int = 100) -> int:
        """Send queued orders for which there is a route now; returns how many."""
        sent = 0
        for order in await self._store.undecided(State.QUEUED, limit):
            wait = min(1000 << min(order.attempt, 10), 10 * transitions.MINUTE)
            if order.attempt and self._now() - order.attempt_at < wait:
                continue
            service = self._shop.catalog.services.get(order.service)
            if service is None or service.type.name != order.type:
                continue
            form = order_form.Form(order.params, order.size, None)
            choices = service.choices(form, order.charge)
            if not choices:
                continue
            (taken,) = await self._store.advance(
                [Step(order.id, transitions.sending(choices[0], self._now()))]
            )
            # Somebody else may have taken it between our look and our step.
            if isinstance(taken, Order) and taken.version == order.version + 1:
                self._launch(taken, choices).answered = True
                sent += 1
        return sent

    # --- decided --------------------------------------------------------------------------

    async def leftovers(self, limit: int = 1000) -> int:
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
            await self._store.advance(steps)
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
        tasks: set[asyncio.Task[Any]] = {flight.task for flight in self._flights.values()}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=timeout)
        return len(tasks)
