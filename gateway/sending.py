"""An order on its way: a place at a provider, one attempt, and what its answer makes of it.

A provider is asked once. The next route is tried only when the one before *provably* did not take
the order: it refused in so many words, or not a byte was written. What each refusal leads to is
the table below; which words are which refusal is the adapters'.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog

from gateway import transitions
from gateway.config import Orders as Promises
from gateway.errors import (
    ErrorText,
    Fault,
    Indeterminate,
    Rejected,
    StoreUnavailable,
    Unreachable,
    Unsupported,
)
from gateway.flight import Aloft, Flight
from gateway.logs import Seldom
from gateway.model import Order, State
from gateway.router import Router
from gateway.store import Failure, Step, Store, Transition
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
    Fault.ORDER: After(another=False, later=False),  # no panel says it of a new one
    Fault.UNKNOWN: After(another=False, later=False),  # nobody knows what follows from it
}
NEVER_HEARD = After(another=True, later=True)
OWNER_ALLOWS = After(another=True, later=False)
"""Instead of ``Fault.UNKNOWN``'s, where the owner says ``unknown_refusals: next``."""

UNDER_WAY = frozenset({State.QUEUED, State.SENDING})
DATABASE_BACK = 0.5
"""Seconds between two tries to write down what a provider has answered."""


class Sender:
    """Sends orders, each in a task of its own.

    Attributes:
        flights: the orders under way in this process, by their ids, also those that a gateway by
            another file has sent.

    ``latest`` says what a route of an order is by now, and ``None`` where it would be a loss.

    """

    def __init__(
        self,
        store: Store,
        router: Router,
        promises: Promises,
        following: Following,
        now: Callable[[], int],
        latest: Callable[[Order, Choice], Choice | None],
        aloft: Aloft,
    ) -> None:
        self.flights = aloft.flights
        self._launched: set[Flight] = set()
        self._outage = Seldom()
        self._store = store
        self._router = router
        self._promises = promises
        self._following = following
        self._now = now
        self._latest = latest

    def usable(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return the routes that may be tried now, those of slow providers last."""
        usable = []
        for choice in choices:
            if why := self._router.line(choice.provider).why_not(choice.cost):
                log.info("a route is left out", provider=choice.provider, reason=why)
            else:
                usable.append(choice)
        return sorted(usable, key=lambda one: self._router.line(one.provider).slow)

    def launch(self, flight: Flight, order: Order, choices: Sequence[Choice]) -> Flight:
        """Send an order by the first of these routes that takes it; returns who does that."""
        if under_way := self.flights.get(order.id):
            flight.turn_away()
            return under_way
        flight.order = order
        self.flights[order.id] = flight
        flight.task = asyncio.create_task(self._send(flight, choices), name=f"order {order.id}")
        flight.task.add_done_callback(partial(self._ended, flight))
        self._launched.add(flight)
        return flight

    def _ended(self, flight: Flight, task: asyncio.Task[None]) -> None:
        """Forget a flight; whatever broke it off is told, though nobody may wait for it."""
        order = flight.order.id
        del self.flights[order]
        self._launched.discard(flight)
        if not task.cancelled() and (failure := task.exception()):
            log.error("an order's sending broke off", order=order, exc_info=failure)

    async def _send(self, flight: Flight, choices: Sequence[Choice]) -> None:
        """Try the routes in order, and go on only on proof that one did not take the order."""
        order = flight.order
        rest = list(choices)
        structlog.contextvars.bind_contextvars(order=order.id)  # the task's own, and ends with it
        try:
            while rest:
                choice = rest.pop(0)
                if order.state is State.QUEUED:
                    order = flight.order = await self._mark(flight, order, choice, rest)
                if order.state is State.SENDING:
                    if order.sender != flight.sender:  # another process was faster
                        break
                    order = flight.order = await self._try(flight, order, choice, rest)
                if order.state not in UNDER_WAY:
                    break
        finally:
            flight.turn_away()

    async def _mark(
        self, flight: Flight, order: Order, choice: Choice, rest: Sequence[Choice]
    ) -> Order:
        """Wait for a place at a provider, and mark the order as being sent there."""
        try:
            latest = await self._enter(flight, order, choice, patient=not rest)
        except Unreachable as trouble:
            flight.turn_away(unused=True)
            return order if rest else await self._give_up(flight, order, str(trouble))
        return await self._decide(
            flight, order, transitions.sending(latest, self._now(), flight.sender)
        )

    async def _enter(
        self, flight: Flight, order: Order, choice: Choice, *, patient: bool
    ) -> Choice:
        """Wait for a place at a provider; return what the route is when there is one.

        Raises ``Unreachable`` when the provider can't have the order, before or after the wait.
        """
        line = self._router.line(choice.provider)
        admission = flight.choose(line, choice.cost)
        if admission.place is None:
            flight.waiting = True
            try:
                # In the queue nobody waits for it, and its turn there must not be lost.
                admission.place = await line.place(patient=patient and flight.answered)
            finally:
                flight.waiting = False
        if self.expired(order):
            msg = "its turn came too late"
            raise Unreachable(msg)
        latest = self._latest(order, choice)  # its rate may have risen meanwhile
        if latest is None:
            msg = f"{line.name} can't take it for this charge any more"
            raise Unreachable(msg)
        flight.choose(line, latest.cost)
        return latest

    def expired(self, order: Order) -> Transition | None:
        """Return what cancels an order that has been queued for longer than the owner lets it."""
        if self._now() - order.queued_at <= self._promises.queue_for * 1000:
            return None
        words = "no route took it in time"
        return transitions.given_up(words, ErrorText.UNAVAILABLE, self._now(), late=True)

    async def _give_up(self, flight: Flight, order: Order, words: str) -> Order:
        """End an order that found no place anywhere, unless it may wait for another time.

        Whoever has its id already is better served by an order that comes later than by none.
        """
        if flight.answered and (change := self.expired(order)):
            return await self._decide(flight, order, change)
        if flight.answered or self._promises.unavailable == "queue":
            return order
        change = transitions.given_up(
            words, ErrorText.UNAVAILABLE, self._now(), late=False, unheard=order.version
        )
        return await self._decide(flight, order, change)

    async def _try(self, flight: Flight, order: Order, choice: Choice, rest: list[Choice]) -> Order:
        """Make one attempt, and write down what it came to."""
        change, upstream_id = await self._attempt(flight, order, choice, rest)
        order = await self._decide(flight, order, change, upstream_id)
        given_up = order.state is State.FAILED or order.upstream_id != upstream_id
        if upstream_id and given_up and order.state is not State.UNKNOWN:
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
            )
        except Rejected as refusal:
            flight.turn_away()
            if refusal.fault is Fault.ACCOUNT:
                self._router.line(choice.provider).short_of(choice.cost, refusal.words)
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
        unheard = None if flight.answered else order.version
        change = transitions.refused(kind, words, attempt, self._now(), then=then, unheard=unheard)
        return change, ""

    def _next(
        self, flight: Flight, text: ErrorText, after: After, rest: list[Choice]
    ) -> Choice | ErrorText | None:
        """Return what follows a refusal: the next route, waiting for one, or the end."""
        flight.turn_away()
        latest = (self._latest(flight.order, choice) for choice in rest)
        rest[:] = self.usable([one for one in latest if one]) if after.another else ()
        if rest:
            flight.choose(self._router.line(rest[0].provider), rest[0].cost)
            return rest[0] if flight.place else None
        if after.later and self._promises.unavailable == "queue":
            return None
        return text

    async def _decide(
        self, flight: Flight, order: Order, change: Transition, upstream_id: str = ""
    ) -> Order:
        """Write down what a provider's answer means, however long the database takes."""
        while True:
            try:
                (after,) = await self._store.advance([Step(order.id, change)])
            except StoreUnavailable as error:
                # What a provider said is said once; it must not be lost while we live.
                words = "an answer cannot be written down yet"
                self._outage.log(log.error, words, reason=str(error))
                await asyncio.sleep(DATABASE_BACK)
                continue
            if isinstance(after, Order):
                if after.version > order.version + 1:  # somebody else has had to do with it
                    flight.answered = True
                return after
            if after is Failure.NO_ORDER:
                msg = f"order {order.id} is not in the database any more; said: {upstream_id}"
                raise LookupError(msg)
            log.error("an answer cannot be true", order=order.id, reason=after, said=upstream_id)
            words = f"{after}: {upstream_id}"
            change = transitions.unknown(words, order.attempt, self._now())

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109  # a limit, not a failure
        """Wait for the orders under way; returns how many still are."""
        for flight in self._launched:
            if flight.answered and flight.waiting:
                flight.task.cancel()  # it is with nobody, and stays queued
        tasks = {flight.task for flight in self._launched}
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=timeout)
        return len(tasks)
