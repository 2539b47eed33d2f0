"""What the operations of every kind on PostgreSQL have in common."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from gateway.errors import LeaseLost
from gateway.store import Lease
from gateway.store.postgres_rows import Connection, Row
from gateway.store.postgres_writer import Writer

T = TypeVar("T")


class Look(Protocol):
    """Runs a statement for a thread that waits for it; rows arrive a few at a time."""

    def __call__(self, statement: str, *bindings: object) -> Iterator[Row]:
        """Return the rows."""
        ...


class PostgresBase(ABC):
    """A database, reached one way or another."""

    _writer: Writer

    @abstractmethod
    async def _fetch(self, statement: str, *bindings: object, long: bool = False) -> list[Row]:
        """Return the rows of a statement that changes nothing; ``long``: it may take a while."""

    @abstractmethod
    async def _transact(
        self, work: Callable[[Connection], Awaitable[T]], *, long: bool = False
    ) -> T:
        """Do this in a transaction, again from the start where another one was in its way."""

    @abstractmethod
    async def _apart(self, work: Callable[[Look], T]) -> T:
        """Run ``work`` on a snapshot, in a thread and on a connection of its own."""


async def hold(db: Connection, lease: Lease | None) -> None:
    """Raise ``LeaseLost`` when a lease has passed on; it cannot until the transaction ends."""
    if lease is None:
        return
    fence = await db.fetchval("SELECT fence FROM leases WHERE name = $1 FOR SHARE", lease.name)
    if fence != lease.fence:
        raise LeaseLost(f"{lease.name} is done by somebody else by now")
