"""After-sales: what customers ask of orders that they have placed.

A status is answered from what is known. A refill or a cancel is written down and reaches its
provider at once; the customer is answered within ``answer_within``, whatever the provider does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from gateway import transitions
from gateway.catalog import Shop
from gateway.errors import ErrorText, Fault, StoreUnavailable, Unreachable
from gateway.follow import Follow
from gateway.logs import Seldom
from gateway.model import (
    Action,
    Cancel,
    Customer,
    Order,
    Refill,
    RefillStatus,
    Refusal,
    State,
    Status,
)
from gateway.router import Router
from gateway.sending import DATABASE_BACK
from gateway.statuses import Statuses
from gateway.store import Step, Store
from gateway.transitions import Following

T = TypeVar("T")
log = structlog.get_logger()

ONE_REFILL = 24 * transitions.HOUR
"""For how long a refill that is under way answers for any repeat of it."""
NOT_NOW = frozenset({Fault.BUSY, Fault.ACCOUNT})
"""Refusals that say nothing of the order itself: what was wanted is asked for again."""
OURS = frozenset({Fault.ACCOUNT, Fault.BUSY, Fault.SERVICE})
"""Refusals that are between the provider and us: a customer reads that it can't be done now."""


class AfterSales:
    """Answers for placed orders, and takes to their providers what is wanted of them.

    Attributes:
        statuses: what customers read of their orders.

    """

    def __init__(
        self,
        store: Store,
        router: Router,
        shop: Shop,
        statuses: Statuses,
        follow: Follow,
        following: Following,
        answer_within: float,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._router = router
        self._shop = shop
        self.statuses = statuses
        self._follow = follow
        self._following = following
        self._answer_within = answer_within
        self._now = now
        self._telling: set[int] = set()  # orders whose cancel is being told at this moment
        self._work: set[asyncio.Future[Any]] = set()
        self._outage = Seldom()

    # --- refills --------------------------------------------------------------------------

    async def refill(self, customer: Customer, ids: Sequence[int]) -> dict[int, int | ErrorText]:
        """Ask for refills; returns our refill id for each order, or why there is none."""
        orders = await self._mine(customer, ids)
        gone = await self._gone(customer, ids, orders, ErrorText.NO_REFILL)
        answers: dict[int, int | ErrorText] = {}
        wanted = []
        for order_id in ids:
            order = orders.get(order_id)
            if order is None:
                answers[order_id] = gone.get(order_id, ErrorText.INCORRECT_ORDER)
            elif self._refillable(order):
                wanted.append(order)
            else:
                answers[order_id] = ErrorText.NO_REFILL
        # Each has its row before its provider is asked, so that none is asked for and forgotten.
        written = await self._store.add_refills(
            [
                Refill(0, order.id, order.customer, order.provider, created_at=self._now())
                for order in wanted
            ],
            since=self._now() - ONE_REFILL,
        )
        answers |= {refill.order: refill.id for refill, _ in written}
        refills = {refill.order: refill for refill, fresh in written if fresh}
        fresh = [order for order in wanted if order.id in refills]
        answers |= await self._soon(
            self._each_provider(fresh, lambda name, mine: self._ask_refills(name, mine, refills))
        )
        return {order_id: answers[order_id] for order_id in ids}

    def _refillable(self, order: Order) -> bool:
        return (
            order.state is State.PLACED
            and order.status is not Status.CANCELED
            and order.upstream_id != ""
            and self._router.has(order.provider, Action.REFILL)
            and self._allows(order, "refill")
        )

    async def _ask_refills(
        self, provider: str, orders: Sequence[Order], refills: Mapping[int, Refill]
    ) -> dict[int, int | ErrorText]:
        found = await self._router.refill(provider, [order.upstream_id for order in orders])
        tracked = self._router.has(provider, Action.REFILL_STATUS)
        answers: dict[int, int | ErrorText] = {}
        written = []
        for order in orders:
            refill = refills[order.id]
            outcome = found.get(order.upstream_id)
            if isinstance(outcome, str):
                # A dialect without refill ids never says more: the refill stays as it was taken.
                poll_at = self._now() + self._following.every if outcome and tracked else None
                refill = msgspec.structs.replace(refill, upstream_id=outcome, poll_at=poll_at)
            elif isinstance(outcome, Refusal):
                refill = msgspec.structs.replace(refill, status=RefillStatus.REJECTED)
                answers[order.id] = _told(outcome, ErrorText.NO_REFILL)
            elif isinstance(outcome, Unreachable):
                refill = msgspec.structs.replace(refill, status=RefillStatus.REJECTED)
                answers[order.id] = ErrorText.UNAVAILABLE
            written.append(refill)
        await self._kept(lambda: self._store.set_refills(written))
        return answers

    async def refill_statuses(
        self, customer: Customer, ids: Sequence[int]
    ) -> dict[int, RefillStatus]:
        """Return how far a customer's refills are; others' are left out."""
        found = await self._store.refills(ids)
        return {one.id: one.status for one in found.values() if one.customer == customer.id}

    # --- cancels --------------------------------------------------------------------------

    async def cancel(self, customer: Customer, ids: Sequence[int]) -> dict[int, ErrorText | None]:
        """Ask for orders to be canceled; ``None``: the request is taken."""
        orders = await self._mine(customer, ids)
        gone = await self._gone(customer, ids, orders, ErrorText.NO_CANCEL)
        answers: dict[int, ErrorText | None] = {}
        wanted = []
        for order_id in ids:
            order = orders.get(order_id)
            if order is None:
                answers[order_id] = gone.get(order_id, ErrorText.INCORRECT_ORDER)
            elif self._allows(order, "cancel") and transitions.cancelable(order):
                answers[order_id] = None
                wanted.append(order)
            else:
                answers[order_id] = ErrorText.NO_CANCEL
        answers |= await self.ask_cancels(wanted)
        return answers

    async def ask_cancels(self, orders: Sequence[Order]) -> dict[int, ErrorText | None]:
        """Write the wish down, then tell the providers; what they don't hear is asked again."""
        now = self._now()
        marked = await self._follow.advance(
            [Step(order.id, transitions.cancel_wanted(now)) for order in orders]
        )
        # Where another request was faster, it is the one that tells the provider.
        open_ = [
            after
            for before, after in zip(orders, marked, strict=True)
            if isinstance(after, Order)
            and after.version > before.version
            and after.cancel is Cancel.WANTED
            and after.state is State.PLACED
            and after.upstream_id
        ]
        return await self._soon(self._each_provider(open_, self._tell_cancels))

    async def cancel_again(self, limit: int = 1000) -> int:
        """Tell providers of the cancels that they have not heard; returns how many."""
        wanted = await self._store.cancels_wanted(limit)
        orders = [one for one in wanted if one.upstream_id and one.id not in self._telling]
        await self._each_provider(orders, self._tell_cancels)
        return len(orders)

    async def _tell_cancels(
        self, provider: str, orders: Sequence[Order]
    ) -> dict[int, ErrorText | None]:
        if not self._router.has(provider, Action.CANCEL):
            words = f"{provider} has no cancel"
            steps = [
                Step(one.id, transitions.cancel_answered(words, self._now())) for one in orders
            ]
            await self._follow.advance(steps)
            return dict.fromkeys((one.id for one in orders), ErrorText.NO_CANCEL)
        telling = {order.id for order in orders}
        self._telling |= telling
        try:
            found = await self._router.cancel(provider, [order.upstream_id for order in orders])
        finally:
            self._telling -= telling
        answers: dict[int, ErrorText | None] = {}
        steps = []
        for order in orders:
            outcome = found.get(order.upstream_id)
            if outcome is True:
                steps.append(Step(order.id, transitions.cancel_answered(None, self._now())))
            elif isinstance(outcome, Refusal) and outcome.fault not in NOT_NOW:
                words = outcome.words or "refused"
                steps.append(Step(order.id, transitions.cancel_answered(words, self._now())))
                answers[order.id] = _told(outcome, ErrorText.NO_CANCEL)
        if steps:
            await self._kept(lambda: self._follow.advance(steps))
        return answers

    # --- both -----------------------------------------------------------------------------

    async def _mine(self, customer: Customer, ids: Sequence[int]) -> dict[int, Order]:
        found = await self._store.orders(ids)
        return {one.id: one for one in found.values() if one.customer == customer.id}

    async def _gone(
        self, customer: Customer, ids: Sequence[int], orders: Container[int], text: ErrorText
    ) -> dict[int, ErrorText]:
        """Return what is answered of a customer's archived orders: nothing can be done for them."""
        missing = [order for order in ids if order not in orders]
        found = await self._store.archived(missing) if missing else {}
        return {one.id: text for one in found.values() if one.customer == customer.id}

    def _allows(self, order: Order, what: str) -> bool:
        service = self._shop.catalog.services.get(order.service)
        return service is None or bool(getattr(service, what))

    async def _each_provider(
        self,
        orders: Sequence[Order],
        ask: Callable[[str, Sequence[Order]], Awaitable[dict[int, T]]],
    ) -> dict[int, T]:
        groups: dict[str, list[Order]] = {}
        for order in orders:
            if order.provider in self._router.lines:
                groups.setdefault(order.provider, []).append(order)
        answers: dict[int, T] = {}
        for part in await asyncio.gather(*(ask(name, mine) for name, mine in groups.items())):
            answers |= part
        return answers

    async def _kept(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write down what a provider has answered, however long the database takes."""
        while True:
            try:
                await write()
            except StoreUnavailable as error:
                words = "an answer cannot be written down yet"
                self._outage.log(log.error, words, reason=str(error))
                await asyncio.sleep(DATABASE_BACK)
            else:
                return

    async def _soon(self, work: Awaitable[dict[int, T]]) -> dict[int, T]:
        """Return what is known within ``answer_within``; the work itself goes on to its end."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        done, _ = await asyncio.wait({task}, timeout=self._answer_within)
        return task.result() if done else {}

    def _finished(self, task: "asyncio.Future[Any]") -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception():
            log.error("work that outlived its caller failed", exc_info=task.exception())

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109  # a limit, not a failure
        """Wait for the requests that customers no longer wait for."""
        if self._work:
            await asyncio.wait(self._work, timeout=timeout)


def _told(refusal: Refusal, usual: ErrorText) -> ErrorText:
    """Return what a customer reads: never more than that it can't be done, or not now."""
    return ErrorText.UNAVAILABLE if refusal.fault in OURS else usual
