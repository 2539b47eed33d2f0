"""The store on PostgreSQL, and the only module that speaks to its driver.

Connections are few and mend themselves: one that breaks is dropped, and the next call opens
another. No call waits longer than ``PATIENCE`` for the server, whatever has become of it; then,
and whenever the server cannot promise, it raises ``StoreUnavailable``. What was under way has not
happened, unless the answer to a commit was lost: that nobody knows until he reads it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Self, TypeVar

import asyncpg  # type: ignore[import-untyped]

from gateway.errors import StoreUnavailable
from gateway.offload import apart
from gateway.store import Snapshot
from gateway.store.postgres_archive import PostgresArchive
from gateway.store.postgres_base import Look
from gateway.store.postgres_customers import PostgresCustomers
from gateway.store.postgres_hosts import each
from gateway.store.postgres_imports import PostgresImports
from gateway.store.postgres_loading import PostgresLoading
from gateway.store.postgres_offers import PostgresOffers
from gateway.store.postgres_orders import PostgresOrders
from gateway.store.postgres_providers import PostgresProviders
from gateway.store.postgres_rows import Connection, Row
from gateway.store.postgres_schema import bring_up_to_date
from gateway.store.postgres_snapshot import PostgresSnapshot
from gateway.store.postgres_writer import Writer

T = TypeVar("T")

PATIENCE = 5000
"""Milliseconds that a call waits for the server."""
LONG = 60_000
"""The same for those that may read many rows."""
MIGRATING = 3_600_000
"""The same for a start, which may have much to change, and for what goes through all there is."""
READERS, LANES = 4, 2
"""Connections that read and do small things, and that commit orders and money."""
QUIET = 1.0
"""Seconds after which a connection is asked if it is there before something is lost with it."""
TRIES = 8
"""How often a transaction is done that others are in the way of."""
CHUNK = 2000
"""Rows that a long look takes at a time."""

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BEGIN_LOOK = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WHOLE = f"{_BEGIN_LOOK}; SELECT set_config('search_path', 'whole, ' || current_schema(), true)"
# A commit waits for the disk here, whatever else the server is tuned for. Every statement goes by
# an index: a plan made while a table was small must not be one that reads it from end to end. And
# a process that is stopped in the middle of a transaction keeps others waiting no longer than this.
# Whether there may be writes is the server's word: so its owner freezes it before he moves away.
_SESSION = """
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off';
    SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET jit = off;
    SET plan_cache_mode = force_generic_plan;
    SET lock_timeout = {patience};
    SET idle_in_transaction_session_timeout = {patience};
"""

_IN_THE_WAY = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.DivisionByZeroError,  # a guard of what ``Sets`` writes
)
"""Somebody else wrote at the same moment; nothing of ours was written."""
_GONE = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""The connection has come to its end.

The driver calls it an error of its own when the server has said so, and the line is still open.
"""
_OURS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError, ValueError)
"""What was asked for is at fault, and not the server."""
_DRIVERS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


class Links:
    """A few connections to the server."""

    def __init__(self, url: str, most: int, patience: int) -> None:
        self._servers = each(url)
        self._patience = patience
        self._places = asyncio.Semaphore(most)
        self._idle: list[tuple[float, Connection]] = []
        self._closed = False

    async def close(self) -> None:
        """Close the connections; those in use are closed when they come back."""
        self._closed = True
        self._end_idle()

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop()[1].terminate()

    async def transact(
        self, work: Callable[[Connection], Awaitable[T]], patience: int | None = None
    ) -> T:
        """Do this in a transaction, again from the start where another one was in its way."""

        async def run(db: Connection) -> T:
            tries = 0
            while True:
                tries += 1
                await db.execute(_BEGIN)
                try:
                    result = await work(db)
                except Exception as error:
                    if not db.is_closed():
                        await db.execute("ROLLBACK")
                    if tries == TRIES or not isinstance(error, _IN_THE_WAY):
                        raise
                else:
                    await _commit(db)
                    return result

        return await self.use(run, patience)

    async def at_once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do this in statements that commit themselves; what the server refuses, it raises.

        Where it says nothing, nobody knows what it has done, as when the answer to a commit is
        lost: that is ``StoreUnavailable``.
        """
        try:
            async with (
                asyncio.timeout(self._patience / 1000),
                self._places,
                self._one(sure=True) as db,
            ):
                return await work(db)
        except _OURS:
            raise
        except _DRIVERS as error:
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, _GONE):
                raise
            raise _unavailable(error) from error

    async def use(
        self, work: Callable[[Connection], Awaitable[T]], patience: int | None = None
    ) -> T:
        """Do this on a connection; once more on a new one when that turns out to be gone."""
        try:
            async with asyncio.timeout((patience or self._patience) / 1000), self._places:
                try:
                    async with self._one() as db:
                        return await work(db)
                except _GONE as error:
                    if isinstance(error, _OURS):
                        raise
                    self._end_idle()  # what ended this one has ended them, too
                    async with self._one() as db:
                        return await work(db)
        except asyncpg.DivisionByZeroError as error:
            raise StoreUnavailable("PostgreSQL: somebody else is faster each time") from error
        except _OURS:
            raise
        except _DRIVERS as error:
            raise _unavailable(error) from error

    @asynccontextmanager
    async def _one(self, *, sure: bool = False) -> AsyncIterator[Connection]:
        """Take a connection that is free, or open one; after trouble with it it is closed.

        ``sure``: it answers, also if it was idle for long.
        """
        db = await self._free(sure=sure)
        fine = False
        try:
            yield db
            fine = True
        except Exception as error:
            fine = not isinstance(error, _DRIVERS) or isinstance(error, (*_OURS, *_IN_THE_WAY))
            raise
        finally:
            if not fine or self._closed or db.is_closed() or db.is_in_transaction():
                db.terminate()
            else:
                self._idle.append((asyncio.get_running_loop().time(), db))

    async def _free(self, *, sure: bool) -> Connection:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        while self._idle:
            since, db = self._idle.pop()
            known = not sure or asyncio.get_running_loop().time() - since < QUIET
            if not db.is_closed() and (known or await _answers(db)):
                return db
        return await self.connect(_SESSION)

    async def connect(self, setting: str) -> Connection:
        """Open a connection, and set it up for what it is for.

        Of several servers it is to the one that was reached last, or else to the next that takes
        writes. Each has its share of the time, for one that is held up does not even say no.
        """
        share = self._patience / 1000 / len(self._servers)
        waiting = self._servers.copy()
        while True:
            url = waiting.pop(0)
            try:
                async with asyncio.timeout(share):
                    db = await self._reach(url, setting)
            except _DRIVERS:
                if not waiting:
                    raise
            else:
                self._servers = [url, *(one for one in self._servers if one != url)]
                return db

    async def _reach(self, url: str, setting: str) -> Connection:
        db = await asyncpg.connect(url, max_cached_statement_lifetime=0)
        try:
            await db.execute(setting.format(patience=self._patience))
        except BaseException:
            db.terminate()
            raise
        return db


async def _answers(db: Connection) -> bool:
    fine = False
    try:
        await db.execute("SELECT 1")
        fine = True
    except _DRIVERS:
        pass
    finally:
        if not fine:
            db.terminate()
    return fine


async def _commit(db: Connection) -> None:
    try:
        status = await db.execute("COMMIT")
    except _DRIVERS as error:
        db.terminate()
        raise StoreUnavailable(f"no answer to a commit: {error}") from error
    if status != "COMMIT":
        raise StoreUnavailable(f"a commit was answered with {status}")


def _unavailable(error: Exception) -> StoreUnavailable:
    words = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    return StoreUnavailable(f"PostgreSQL: {words or type(error).__name__}")


class PostgresStore(
    PostgresOrders,
    PostgresArchive,
    PostgresCustomers,
    PostgresProviders,
    PostgresImports,
    PostgresOffers,
    PostgresLoading,
):
    """See ``Store``."""

    def __init__(self, url: str, patience: int) -> None:
        self._links = Links(url, READERS, patience)
        self._lanes = Links(url, LANES, patience)
        self._writer = Writer(self._lanes, LANES)

    @classmethod
    async def open(cls, url: str, *, first_id: int = 1, patience: int = PATIENCE) -> Self:
        """Open the database at ``postgresql://…``, and bring its schema up to date.

        ``patience``: milliseconds to wait for the server, each time.
        """
        store = cls(url, patience)
        try:
            await store._links.use(lambda db: bring_up_to_date(db, first_id), MIGRATING)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Commit what is waiting, and close the connections."""
        await self._writer.close()
        await self._lanes.close()
        await self._links.close()

    async def inspect(self, look: Callable[[Snapshot], T]) -> T:
        """Run ``look`` on a snapshot, in a thread."""

        def run(rows: Look) -> T:
            return look(PostgresSnapshot(rows))

        return await self._apart(run, long=True)

    async def _fetch(self, statement: str, *bindings: object, long: bool = False) -> list[Row]:
        async def work(db: Connection) -> list[Row]:
            rows: list[Row] = await db.fetch(statement, *bindings)
            return rows

        return await self._links.use(work, LONG if long else None)

    async def _transact(
        self, work: Callable[[Connection], Awaitable[T]], *, long: bool = False
    ) -> T:
        return await self._links.transact(work, LONG if long else None)

    async def _apart(self, work: Callable[[Look], T], *, long: bool = False) -> T:
        """Do some work on a snapshot; ``long``: of all there is, and others need not wait."""

        def run() -> T:
            with asyncio.Runner() as runner:
                try:
                    db = runner.run(self._links.connect(_WHOLE if long else _BEGIN_LOOK))
                    try:
                        return work(_look(runner, db, MIGRATING if long else LONG))
                    finally:
                        db.terminate()
                except _DRIVERS as error:
                    raise _unavailable(error) from error

        return await (asyncio.to_thread(run) if long else apart(run))


def _look(runner: asyncio.Runner, db: Connection, patience: int) -> Look:
    """Return what reads rows; ``patience``: milliseconds for the next of them."""

    def answer(asked: Awaitable[T]) -> T:
        async def waited() -> T:
            # Nobody can end a thread that waits for a server which says nothing any more.
            async with asyncio.timeout(patience / 1000):
                return await asked

        return runner.run(waited())

    def rows(statement: str, *bindings: object) -> Iterator[Row]:
        cursor = answer(db.cursor(statement, *bindings))
        while some := answer(cursor.fetch(CHUNK)):
            yield from some

    return rows
