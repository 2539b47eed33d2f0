"""What becomes of placed orders and refills: their statuses, asked for in the background.

Nobody waits for it. What a provider says is written down, and when to ask again beside it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from gateway import metrics, money, reporting
from gateway.errors import CallFailed, Fault
from gateway.model import Action, Order, RefillStatus, Refusal, Report
from gateway.router import Router
from gateway.statuses import Statuses
from gateway.store import Due, Failure, Later, Lease, Step, Store
from gateway.transitions import Following

log = structlog.get_logger()

NOTICED = 10_000
"""Oddities that are remembered, so that each is logged once."""
A_TURN = 100
"""Orders that are read and looked at before others have a turn."""
KNOWN = 200_000
"""Orders of which what was said last is remembered, in about 100 bytes each."""
ENDED = frozenset({RefillStatus.COMPLETED, RefillStatus.REJECTED})


class Follow:
    """Asks providers for what is due, and takes over what they say."""

    def __init__(
        self,
        store: Store,
        router: Router,
        statuses: Statuses,
        following: Following,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._router = router
        self._statuses = statuses
        self._following = following
        self._now = now
        self._noticed: set[tuple[str, ...]] = set()
        self._known: dict[int, int] = {}  # of each order the report that has nothing new any more

    # --- orders ---------------------------------------------------------------------------

    async def advance(
        self, steps: Sequence[Step], under: Lease | None = None, later: Sequence[Later] = ()
    ) -> list[Order | Failure]:
        """Take orders further, and let their customers see it at once."""
        outcomes = await self._store.advance(steps, under, later)
        self._statuses.changed(step.order for step in steps)
        for step, outcome in zip(steps, outcomes, strict=True):
            if isinstance(outcome, Failure):
                log.error("an order stays as it is", order=step.order, reason=outcome)
        await self._statuses.forget([one for one in outcomes if isinstance(one, Order)])
        return outcomes

    async def look(self, provider: str, limit: int, under: Lease | None = None) -> int:
        """Ask a provider for the orders whose status is due; returns how many there were.

        Nobody else asks without the lease; what is not written with the news is asked for again.
        """
        now = self._now()
        orders = await self._store.due(provider, now, limit)
        later = [Later(one.id, one.poll_at, self._following.next(one, now)) for one in orders]
        try:
            await self.ask(provider, orders, under, later)
        except Exception:  # whatever is wrong with these, the others have their turn
            await self._store.advance([], under, later)
            raise
        return len(orders)

    async def ask(
        self,
        provider: str,
        orders: Sequence[Order | Due],
        under: Lease | None = None,
        later: Sequence[Later] = (),
    ) -> bool:
        """Ask a provider for orders and take over what it says; tells whether all became clear.

        ``later``: when to ask for them next, written together with the news.
        """
        if not orders:
            return True
        asked_at = self._now()
        found = await self._router.status(provider, [order.upstream_id for order in orders])
        fresh, heard = {}, True
        for order in orders:
            outcome = found.get(order.upstream_id)
            if not isinstance(outcome, Report):
                heard = False
                self._miss(provider, order.id, outcome)
            elif self._known.get(order.id) != _digest(order.version, outcome):
                fresh[order.id] = outcome
        steps, clear = await self._judge(fresh, asked_at)
        if steps or later:
            for after in await self.advance(steps, under, later):
                if isinstance(after, Order) and after.reported_at == asked_at:
                    self._remember(after, fresh[after.id])
        return heard and clear

    def _miss(self, provider: str, order: int, outcome: Refusal | CallFailed | None) -> None:
        """Make visible what an order's provider does not say of it."""
        if isinstance(outcome, Refusal) and outcome.fault is Fault.ORDER:
            # An order that it gave us and now denies is a matter for the owner, not a cancel.
            metrics.denied_orders.labels(provider).inc()
            if self._first("denied", provider, str(order)):
                log.error("a provider denies an order", provider=provider, order=order)
        elif outcome is None:
            log.warning("a provider is silent on an order", provider=provider, order=order)

    async def _judge(self, reports: Mapping[int, Report], asked_at: int) -> tuple[list[Step], bool]:
        """Return what reports change, and whether all of them are clear."""
        at = self._now()
        steps, clear = [], True
        ids = list(reports)
        for start in range(0, len(ids), A_TURN):
            await asyncio.sleep(0)  # hundreds of answers must not hold up everybody else
            found = await self._store.orders(ids[start : start + A_TURN])
            for order in found.values():
                report = reports[order.id]
                change = reporting.reported(report, at, self._following, asked_at)
                if not self._notice(order, report):
                    clear = False
                elif change(order):
                    steps.append(Step(order.id, change, order))
                elif order.reported_at <= asked_at:
                    self._remember(order, report)
        return steps, clear

    def _remember(self, order: Order, report: Report) -> None:
        """Remember that a report has nothing new of an order as it is."""
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[order.id] = _digest(order.version, report)

    def _notice(self, order: Order, report: Report) -> bool:
        """Make visible what cannot be true, once for each order; tells whether it is clear."""
        provider = order.provider
        clear = reporting.understood(order, report) is not None
        if not clear:
            metrics.unknown_words.labels(provider).inc()
            if self._first("word", provider, report.word):
                log.warning("a status that says nothing", provider=provider, word=report.word[:60])
        if report.currency not in ("", order.cost_currency):
            if self._first("currency", provider, report.currency):
                log.error(
                    "a provider charges in another currency than declared",
                    provider=provider,
                    declared=order.cost_currency,
                    said=report.currency[:10],
                )
        elif (
            report.charge
            and 0 < order.cost * 101 < report.charge * 100
            and self._first("charge", provider, str(order.id))
        ):
            log.warning(
                "a provider charges more than it listed",
                provider=provider,
                order=order.id,
                listed=money.text(order.cost),
                charged=money.text(report.charge),
            )
        return clear

    def _first(self, *what: str) -> bool:
        """Tell whether this is noticed for the first time; a flood forgets, rather than grows."""
        if what in self._noticed:
            return False
        if len(self._noticed) >= NOTICED:
            self._noticed.clear()
        self._noticed.add(what)
        return True

    # --- refills --------------------------------------------------------------------------

    async def look_refills(self, provider: str, limit: int, under: Lease | None = None) -> int:
        """Ask a provider for the refills whose status is due; returns how many there were."""
        if not self._router.has(provider, Action.REFILL_STATUS):
            return 0
        now = self._now()
        refills = await self._store.due_refills(provider, now, limit)
        if not refills:
            return 0
        found = await self._router.refill_status(provider, [one.upstream_id for one in refills])
        written = []
        for refill in refills:
            outcome = found.get(refill.upstream_id)
            status = outcome if isinstance(outcome, RefillStatus) else refill.status
            age = now - refill.created_at
            late = age > self._following.follow_for
            again = now + max(self._following.every, age // (4 if status in ENDED else 20))
            written.append(
                msgspec.structs.replace(refill, status=status, poll_at=None if late else again)
            )
        await self._store.set_refills(written, under)
        return len(refills)


def _digest(version: int, report: Report) -> int:
    """Return what stands for a report of an order that is in this version."""
    return hash(msgspec.json.encode((version, report)))
