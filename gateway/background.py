"""What runs on its own time: catalogs, statuses, refills, balances, what was left over.

Each piece is a loop that survives whatever goes wrong in one round of it: the round is logged and
the next one comes. Of any number of processes one does each piece at a time, under a lease in the
store: it is renewed long before it ends, given back at a stop, and taken over when its holder
falls silent. What a former holder, stopped for a while, still writes is refused by the store.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal

import msgspec
import structlog

from gateway.aftersales import AfterSales
from gateway.config import Config
from gateway.ending import end
from gateway.errors import CallFailed, LeaseLost, StoreUnavailable
from gateway.follow import Follow
from gateway.model import Action, State
from gateway.money import Money
from gateway.orders import Orders
from gateway.router import Router
from gateway.settle import Settler
from gateway.store import PRESENT, Lease, Store
from gateway.sync import Sync

log = structlog.get_logger()

LOOK_FOR_NEWS = 1.0
"""Seconds between two looks for what other processes have changed."""
LEASE = 10.0
"""Seconds until the work of a process that fell silent is taken over."""
RENEWED = 2.5
"""Seconds between two renewals of what a process holds, and two looks for what nobody does."""
SERVING = "server "
"""What the name of a lease begins with by which a process says that it may write, and takes no
share of the work."""
KEPT_CLAIMS = 7 * 24 * 3600 * 1000
"""Milliseconds for which idempotency keys are remembered; a day is promised."""
CALLS_AT_ONCE = 4
"""Batches of statuses that are taken from the store in one round."""
HURRY, HURRIED_FOR = 60.0, 3600_000
"""Seconds between two balances while an order is unknown, and milliseconds for which that helps."""


class Piece(msgspec.Struct, frozen=True):
    """A piece of work that one process at a time does, again and again.

    Attributes:
        round: does it once, under the lease that it is given.
        every: seconds between two rounds.

    """

    name: str
    round: Callable[[Lease], Awaitable[object]]
    every: float


class Background:
    """The loops, started and stopped together."""

    def __init__(  # noqa: PLR0913, PLR0917  # all who have work that nobody waits for
        self,
        config: Config,
        store: Store,
        router: Router,
        sync: Sync,
        orders: Orders,
        follow: Follow,
        aftersales: AfterSales,
        settler: Settler,
        now: Callable[[], int],
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._sync = sync
        self._orders = orders
        self._follow = follow
        self._aftersales = aftersales
        self._settler = settler
        self._now = now
        self._holder = secrets.token_hex(8)
        self._held: dict[str, Lease] = {}
        self._held_until = 0
        self._busy: set[str] = set()
        self._taken = asyncio.Event()
        self._heard = asyncio.Event()
        self._balance_seen: dict[str, int] = {}
        self._away = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *, work: bool = True) -> None:
        """Start every loop; without ``work`` only those that keep this process up to date."""
        loops = [
            self._again("news", self._news, LOOK_FOR_NEWS, self._heard),
            self._again("probes", self._probe, LOOK_FOR_NEWS),
        ]
        if work:
            pieces = list(self._pieces())
            names = [piece.name for piece in pieces]
            loops.append(self._again("leases", lambda: self._hold(names), RENEWED))
            loops += [self._work(piece) for piece in pieces]
        else:
            loops.append(self._again("presence", self._serve, RENEWED))
        self._tasks = [asyncio.create_task(one) for one in loops]

    def _pieces(self) -> Iterator[Piece]:
        every = self._config.every
        yield Piece("leftovers", self._leftovers, max(every.status, 1.0))
        yield Piece("queue", self._queue, LOOK_FOR_NEWS)
        yield Piece("claims", self._claims, 3600.0)
        if self._sync.exchanges:
            every_rates = self._config.exchange_rates.every
            yield Piece("exchange rates", self._sync.fetch_exchange_rates, every_rates)
        for name in self._router.lines:
            yield Piece(f"catalog of {name}", self._of(self._catalog, name), every.catalog)
            yield Piece(f"statuses of {name}", self._of(self._statuses, name), self._tick())
            yield Piece(f"refills of {name}", self._of(self._refills, name), self._tick())
            if self._router.has(name, Action.BALANCE):
                balance = self._of(self._balance, name)
                yield Piece(f"balance of {name}", balance, min(every.balance, HURRY))

    async def stop(self) -> None:
        """Stop every loop where it waits, and hand the work over to whoever else is there."""
        await end(self._tasks)
        self._tasks.clear()  # each leads back to us: a gateway and its file would outlive their use
        self._held.clear()
        try:
            await self._store.release(self._holder)
        except StoreUnavailable as trouble:
            log.warning("the leases run out by themselves", reason=str(trouble))

    def _tick(self) -> float:
        """Return how often to look for what is due: often enough not to be late by much."""
        return min(max(self._config.every.status / 10, 0.1), 5.0)

    @staticmethod
    def _of(
        piece: Callable[[str, Lease], Awaitable[object]], provider: str
    ) -> Callable[[Lease], Awaitable[object]]:
        return lambda lease: piece(provider, lease)

    def hear(self) -> None:
        """Take up at once what somebody has told of."""
        self._heard.set()

    async def _again(
        self,
        name: str,
        piece: Callable[[], Awaitable[object]],
        seconds: float,
        sooner: asyncio.Event | None = None,
    ) -> None:
        sooner = sooner or asyncio.Event()
        while True:
            sooner.clear()
            await self._once(name, piece())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await sooner.wait()

    async def _work(self, piece: Piece) -> None:
        await self._taken.wait()
        while True:
            lease = self._held.get(piece.name)
            if lease is None or self._now() >= self._held_until:
                await asyncio.sleep(min(piece.every, RENEWED))
            else:
                self._busy.add(piece.name)
                await self._once(piece.name, piece.round(lease))
                self._busy.discard(piece.name)
                await asyncio.sleep(piece.every)

    async def _once(self, name: str, work: Awaitable[object]) -> None:
        try:
            await work
        except LeaseLost as lost:
            log.warning("a round was for nothing", piece=name, reason=str(lost))
        except StoreUnavailable as trouble:
            if not self._away:  # else every piece would say so, in every round
                log.error("the database is not available", piece=name, reason=str(trouble))  # noqa: TRY400
            self._away = True
        except CallFailed as failure:
            log.warning("a round came to nothing", piece=name, reason=str(failure))
        except Exception:
            log.exception("a round failed", piece=name)

    # --- who does what --------------------------------------------------------------------

    async def _hold(self, names: list[str]) -> None:
        """Renew what this process does, and take its share of what nobody does.

        Each process also holds a lease that is only its own, by which the others count it.
        """
        now = self._now()
        until = now + int(LEASE * 1000)
        me = f"{PRESENT}{self._holder}"
        held_by = await self._store.holders(now)
        everybody = {name for name in held_by if name.startswith(PRESENT)} | {me}
        share = -(-len(names) // len(everybody))
        mine = [name for name in names if held_by.get(name) == self._holder]
        free = [name for name in names if name not in held_by]
        if surplus := mine[share:]:
            # Not in the middle of a round: what it still writes would be refused.
            surplus = [name for name in surplus if name not in self._busy]
            for name in surplus:
                self._held.pop(name, None)
            await self._store.release(self._holder, surplus)
        kept = [name for name in mine if name not in surplus]
        wanted = [me, *kept, *free[: max(share - len(mine), 0)]]
        self._held = await self._store.lease(wanted, self._holder, now, until)
        self._held_until = until
        self._taken.set()

    async def _serve(self) -> None:
        """Say that this process is there, for those who must not come while anybody writes."""
        now = self._now()
        me = f"{SERVING}{self._holder}"
        await self._store.lease([me], self._holder, now, now + int(LEASE * 1000))

    # --- what every process does ----------------------------------------------------------

    async def _news(self) -> None:
        """Take up what other processes have seen and done; no part of it hinders the others."""
        await self._once("what is for sale", self._sync.refresh())
        await self._once("what was not written", self._orders.take_back())
        await self._once("what is at risk", self._accounts())

    async def _accounts(self) -> None:
        """Take up what the providers' balances are, and what is not settled there."""
        seen = await self._store.sightings()
        limited = any(line.max_unsettled is not None for line in self._router.lines.values())
        # Whatever changes while the store is asked counts twice for a moment, and not never.
        ours = self._orders.being_sent()
        before = {name: line.unsettled for name, line in self._router.lines.items()}
        at_risk = await self._store.at_risk() if limited else {}
        ours &= self._orders.being_sent()
        for name, line in self._router.lines.items():
            reserved = sum(cost for _, provider, cost in ours if provider == name)
            line.unsettled += at_risk.get(name, 0) - reserved - before[name]
            sighting = seen.get(name)
            if sighting and sighting.balance is not None and sighting.balance_at is not None:
                balance = Money(sighting.balance, sighting.currency or "")
                line.saw_purse(balance, sighting.balance_at)
        if self._away:
            log.warning("the database is available again")
            self._away = False

    async def _probe(self) -> None:
        """Find out, by a call that only reads, whether providers in trouble are back."""
        lines = [one for one in self._router.lines.values() if one.look_now()]
        await asyncio.gather(
            *(self._router.look(line.name) for line in lines), return_exceptions=True
        )

    # --- what one process does ------------------------------------------------------------

    async def _catalog(self, provider: str, lease: Lease) -> None:
        found = await self._sync.fetch(provider, lease)
        if odd := found.left_out:
            log.warning("rows left out", provider=provider, rows=found.services, odd=list(odd[:10]))

    async def _statuses(self, provider: str, lease: Lease) -> None:
        if self._router.line(provider).silent:
            return
        limit = self._router.batch(provider, Action.STATUS) * CALLS_AT_ONCE
        while await self._follow.look(provider, limit, lease) == limit:
            pass

    async def _refills(self, provider: str, lease: Lease) -> None:
        if not self._router.line(provider).silent:
            await self._follow.look_refills(provider, 100, lease)

    async def _balance(self, provider: str, lease: Lease) -> None:
        """See our balance: as often as the owner says, or sooner while an order is unknown."""
        now = self._now()
        every = self._config.every.balance
        if every > HURRY and now < self._balance_seen.get(provider, 0) + every * 1000:
            unknown = await self._store.undecided(State.UNKNOWN, 1, provider=provider)
            if not unknown or now - unknown[0].attempt_at > HURRIED_FOR:
                return
        self._balance_seen[provider] = now
        balance = await self._settler.look(provider, lease)
        floor = self._config.providers[provider].low_balance
        if floor is not None and balance.decimal < Decimal(floor):
            log.warning(
                "low balance", provider=provider, balance=str(balance), currency=balance.currency
            )

    async def _leftovers(self, lease: Lease) -> None:
        await self._orders.leftovers(under=lease)
        await self._aftersales.cancel_again()

    async def _queue(self, _: Lease) -> None:
        await self._orders.dispatch()

    async def _claims(self, _: Lease) -> None:
        await self._store.drop_claims(self._now() - KEPT_CLAIMS)
