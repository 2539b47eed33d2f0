"""What runs on its own time: catalogs, statuses, refills, balances, leftovers.

Each piece is a loop that survives whatever goes wrong in one round of it: the round is logged and
the next one comes. What is due is claimed in the store, so a second process does no harm.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal

import structlog

from gateway.catalog import Shop
from gateway.config import Config
from gateway.errors import CallFailed, StoreUnavailable
from gateway.follow import Follow
from gateway.model import Action
from gateway.orders import Orders
from gateway.router import Router
from gateway.store import Sighting, Store

log = structlog.get_logger()

LOOK_FOR_NEWS = 1.0
"""Seconds between two looks for what other processes have changed."""
KEPT_CLAIMS = 7 * 24 * 3600 * 1000
"""Milliseconds for which idempotency keys are remembered; a day is promised."""
CALLS_AT_ONCE = 4
"""Batches of statuses that are taken from the store in one round."""


class Background:
    """The loops, started and stopped together."""

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        shop: Shop,
        orders: Orders,
        follow: Follow,
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._shop = shop
        self._orders = orders
        self._follow = follow
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, work: bool = True) -> None:
        """Start every loop; without ``work`` only the one that takes up what others have done."""
        pieces: list[tuple[str, Callable[[], Awaitable[object]], float]] = [
            ("news", self._shop.refresh, LOOK_FOR_NEWS)
        ]
        if work:
            pieces += self._work()
        self._tasks = [
            asyncio.create_task(self._again(name, piece, seconds), name=name)
            for name, piece, seconds in pieces
        ]

    def _work(self) -> Iterator[tuple[str, Callable[[], Awaitable[object]], float]]:
        every = self._config.every
        yield "leftovers", self._leftovers, max(every.status, 1.0)
        yield "claims", self._claims, 3600.0
        for name in self._router.lines:
            yield f"catalog of {name}", self._of(self._catalog, name), every.catalog
            yield f"statuses of {name}", self._of(self._statuses, name), self._tick()
            yield f"refills of {name}", self._of(self._refills, name), self._tick()
            yield f"balance of {name}", self._of(self._balance, name), every.balance

    async def stop(self) -> None:
        """Stop every loop where it waits; what a provider was asked is asked again later."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _tick(self) -> float:
        """Return how often to look for what is due: often enough not to be late by much."""
        return min(max(self._config.every.status / 10, 0.1), 5.0)

    @staticmethod
    def _of(
        piece: Callable[[str], Awaitable[object]], provider: str
    ) -> Callable[[], Awaitable[object]]:
        return lambda: piece(provider)

    @staticmethod
    async def _again(name: str, piece: Callable[[], Awaitable[object]], seconds: float) -> None:
        while True:
            try:
                await piece()
            except StoreUnavailable as trouble:
                log.error("the database is not available", piece=name, reason=str(trouble))  # noqa: TRY400
            except CallFailed as failure:
                log.warning("a round came to nothing", piece=name, reason=str(failure))
            except Exception:
                log.exception("a round failed", piece=name)
            await asyncio.sleep(seconds)

    async def _catalog(self, provider: str) -> None:
        rows, odd = await self._shop.sync(provider)
        if odd:
            log.warning("rows left out", provider=provider, rows=rows, odd=list(odd[:10]))

    async def _statuses(self, provider: str) -> None:
        limit = self._router.batch(provider, Action.STATUS) * CALLS_AT_ONCE
        while await self._follow.look(provider, limit) == limit:
            pass

    async def _refills(self, provider: str) -> None:
        await self._follow.look_refills(provider, 100)

    async def _balance(self, provider: str) -> None:
        balance = await self._router.balance(provider)
        health = self._router.lines[provider].health
        now = int(time.time() * 1000)
        await self._store.sight(
            [
                Sighting(
                    provider,
                    balance=balance.micros,
                    currency=balance.currency,
                    balance_at=now,
                    answered_at=now,
                    latency=round((health.latency or 0) * 1000),
                    failures=health.failures,
                    trouble="",
                )
            ]
        )
        floor = self._config.providers[provider].low_balance
        if floor is not None and balance.decimal < Decimal(floor):
            log.warning(
                "low balance", provider=provider, balance=str(balance), currency=balance.currency
            )

    async def _leftovers(self) -> None:
        await self._orders.leftovers()
        await self._orders.dispatch()
        await self._follow.cancel_again()

    async def _claims(self) -> None:
        await self._store.drop_claims(int(time.time() * 1000) - KEPT_CLAIMS)
