"""Orders and money on PostgreSQL, committed together as they arrive together.

While a commit is under way the next operations gather; nobody waits for a timer, and an operation
that arrives alone is committed at once. All that can be is written in one statement, see
``optimistic``, and the rest of a list in one transaction. One customer who places
everything is a list like any other: each of his accounts is written once for all of it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Protocol, TypeVar

from gateway.errors import StoreUnavailable
from gateway.model import Kind, Order
from gateway.store.page import Entry, Found, Made, Needs, work_out
from gateway.store.postgres_optimistic import Ids, PostgresAttempt, PostgresMemory, draw, unused
from gateway.store.postgres_rows import Connection, plain, select
from gateway.store.postgres_sets import GATES, sets
from gateway.store.rows import from_row

MOST = 1000
"""Orders, steps and transfers in one commit; more would make the first wait for the last."""

T = TypeVar("T")
Waiting = tuple[Entry, asyncio.Future[Any]]

_FENCES = "SELECT name, fence FROM leases WHERE name = ANY($1::text[]) ORDER BY name FOR SHARE"
_LOCK = select(
    Order, "orders", "WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE OF orders"
)
_CLAIMS = select(
    Order,
    "orders",
    """RIGHT JOIN claims ON orders.id = claims."order"
    JOIN unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS wanted (customer, key, n)
        ON (claims.customer, claims.key) = (wanted.customer, wanted.key)""",
).replace("SELECT ", 'SELECT n, claims.fingerprint, claims."order", claims.at, ', 1)
_GATES = f"""
    SELECT 1 FROM unnest($1::text[], $2::text[]) AS wanted (owner, currency)
    JOIN accounts USING (owner, currency)
    WHERE accounts.kind IN ({", ".join(f"'{kind}'" for kind in GATES)})
    ORDER BY owner COLLATE "C", currency COLLATE "C" FOR NO KEY UPDATE OF accounts
"""
_ACCOUNTS = """
    SELECT owner, currency, kind, balance
    FROM unnest($1::text[], $2::text[]) AS wanted (owner, currency)
    JOIN accounts USING (owner, currency)
"""
_SPENDING = """
    SELECT customer, day, amount FROM unnest($1::bigint[], $2::bigint[]) AS wanted (customer, day)
    JOIN spending USING (customer, day)
"""
_POSTED = "SELECT key, amount FROM transfers WHERE key = ANY($1::text[])"
_UPSTREAM = """
    SELECT provider, upstream_id, orders.id
    FROM unnest($1::text[], $2::text[]) AS wanted (provider, upstream_id)
    JOIN orders USING (provider, upstream_id) WHERE upstream_id <> ''
"""


class Lanes(Protocol):
    """Connections to commit on."""

    async def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do this in a transaction."""
        ...

    async def at_once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do this in statements that commit themselves.

        Unless it raises ``StoreUnavailable``, nothing was written when it raises.
        """
        ...


class Writer:
    """Commits what arrives, on a few connections of its own."""

    def __init__(self, lanes: Lanes, many: int) -> None:
        self.memory = PostgresMemory()
        self._lanes = lanes
        self._many = many
        self._waiting: deque[Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def do(self, entry: Entry) -> asyncio.Future[Any]:
        """Do an operation in the next commit; the future resolves when it is durable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
            return future
        self._waiting.append((entry, future))
        if len(self._running) < self._many:
            self._running.add(asyncio.create_task(self._run()))
        return future

    async def close(self) -> None:
        """Commit what is waiting."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)

    async def _run(self) -> None:
        lane = asyncio.current_task()
        try:
            while batch := self._take():
                if batch := await self._try(batch):
                    results = await self._commit([entry for entry, _ in batch])
                    for (entry, _), result in zip(batch, results, strict=True):
                        if not isinstance(result, BaseException):
                            self.memory.learn(entry, result)
                    self._tell(batch, results)
        finally:
            # At once: whoever comes in the moment in which it ends would wait for it in vain.
            self._running.discard(lane)

    async def _try(self, batch: list[Waiting]) -> list[Waiting]:
        """Write what can be written without a lock; returns what is left to do."""
        attempt = PostgresAttempt([entry for entry, _ in batch], self.memory)
        if not attempt:
            return batch
        try:
            outcomes = await self._lanes.at_once(attempt)
        except StoreUnavailable as error:
            self._tell(batch, [error] * len(batch))
            return []
        except Exception:  # noqa: BLE001  # if it is more than that, it will come up again
            attempt.give_up()
            return batch
        self._tell([batch[place] for place in outcomes], list(outcomes.values()))
        return [one for place, one in enumerate(batch) if place not in outcomes]

    @staticmethod
    def _tell(batch: list[Waiting], results: list[Any]) -> None:
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue  # whoever waited has given up
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        size = 0
        while self._waiting and (not batch or size + self._waiting[0][0].size <= MOST):
            batch.append(self._waiting.popleft())
            size += batch[-1][0].size
        return batch

    async def _commit(self, entries: list[Entry]) -> list[Any]:
        """Return each operation's outcomes, or the exception that it ended with."""
        commit = Commit(entries, self.memory.ids)
        try:
            outcomes = await self._lanes.transact(commit)
        except StoreUnavailable as error:
            return [error] * len(entries)
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for it
            if len(entries) > 1:
                # One of them is at fault; the others must not pay for it.
                return [(await self._commit([entry]))[0] for entry in entries]
            return [error]
        if commit.unused:
            self.memory.ids.put(commit.unused)
        return outcomes


class Commit:
    """What is done in one transaction: lock and read, work out, write.

    Only what unique indexes are there to find out is tried without a look. When one of them
    refuses, the transaction is done again, and looks up first what was attempted.

    Attributes:
        unused: ids that no order has got.

    """

    unused: Collection[int] = ()

    def __init__(self, entries: list[Entry], ids: Ids) -> None:
        self._entries = entries
        placements = [new for entry in entries for new in entry.placements]
        self._claims = [(new.customer, new.claim.key) for new in placements if new.claim]
        self._new = len(placements)
        self._ids = ids.take(self._new)
        self._steps = sorted({step.order for entry in entries for step in entry.steps})
        self._leases = sorted({entry.under.name for entry in entries if entry.under})
        self._needs = Needs(keys={one.key for entry in entries for one in entry.transfers})

    async def __call__(self, db: Connection) -> list[Any]:
        """Return each operation's outcomes, or what it raised."""
        found = await self._lock(db)
        page, outcomes = work_out(found, self._entries)
        needs: Needs | None = (page.missing() or Needs()).joined(self._needs)
        while needs:
            await _load(db, found, needs)
            page, outcomes = work_out(found, self._entries)
            needs = page.missing()
        written = page.written()
        self.unused = unused(self._ids, written.placed)
        parts = sets(written)
        if parts:
            self._needs = self._needs.joined(page.attempted())
            await db.fetchval(parts.statement(), *parts.bindings)
        return outcomes

    async def _lock(self, db: Connection) -> Found:
        found = Found()
        if self._leases:
            found.fences = dict(await db.fetch(_FENCES, self._leases))
        if self._steps:
            orders = (from_row(Order, row) for row in await db.fetch(_LOCK, self._steps))
            found.orders = {order.id: order for order in orders}
        found.ids = self._ids
        await draw(db, found.ids, self._new)
        await self._read_claims(db, found)
        return found

    async def _read_claims(self, db: Connection, found: Found) -> None:
        wanted = [(customer, plain(key)) for customer, key in self._claims]
        if not wanted:
            return
        rows = await db.fetch(_CLAIMS, *zip(*wanted, strict=True))
        for n, fingerprint, order, at, *row in rows:
            found.claims[self._claims[n - 1]] = Made(fingerprint, order, at)
            if row[0] is not None:
                found.standing[order] = from_row(Order, row)


async def _load(db: Connection, found: Found, needs: Needs) -> None:
    """Lock the accounts of those concerned, in order; what is read after that stays so."""
    if needs.owners:
        owners = tuple(zip(*needs.owners, strict=True))
        await db.fetch(_GATES, *owners)
        found.accounts |= {owner: {} for owner in needs.owners}
        for owner, currency, kind, balance in await db.fetch(_ACCOUNTS, *owners):
            found.accounts[owner, currency][Kind(kind)] = balance
    if needs.spending:
        found.spending |= dict.fromkeys(needs.spending, 0)
        rows = await db.fetch(_SPENDING, *zip(*needs.spending, strict=True))
        found.spending |= {(customer, day): amount for customer, day, amount in rows}
    if needs.keys:
        found.posted |= dict(await db.fetch(_POSTED, [plain(key) for key in needs.keys]))
    if needs.upstream:
        rows = await db.fetch(_UPSTREAM, *zip(*needs.upstream, strict=True))
        found.upstream |= {(provider, theirs): order for provider, theirs, order in rows}
