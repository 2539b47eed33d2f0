"""What customers read of their orders: remembered for a moment, else from the books.

Programs ask for the same orders again and again, often for a hundred at once, so a row is kept as
it is put among others: as JSON, under its name.
"""

from collections.abc import Container, Iterable, Mapping, Sequence

import msgspec

from gateway.cache import Cache
from gateway.model import Customer, Order
from gateway.store import Store
from gateway.view import view

FRESH_FOR = 5.0
"""Seconds for which a cached status may differ from what another process has written."""


class Statuses:
    """The statuses of orders as JSON; nobody is told of another customer's."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self._store = store
        self._cache = cache
        self._readers: list[set[int]] = []  # and what has changed while they read

    def known(self, customer: Customer, names: Sequence[str]) -> list[bytes] | None:
        """Return the rows of orders, if all can be told without waiting.

        Each is under its name, ``"17":{…}``; an id that is spelled otherwise is not known.
        """
        key = _key(customer.id, "")
        return self._cache.at_once([key + name for name in names])

    async def read(self, customer: Customer, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the statuses of a customer's orders; others' orders are left out."""
        kept = await self._cache.get([_key(customer.id, order) for order in ids])
        found = {
            order: unnamed(row) for order, row in zip(ids, kept, strict=True) if row is not None
        }
        if missing := [order for order in ids if order not in found]:
            changed: set[int] = set()
            self._readers.append(changed)
            try:
                rows = {
                    order.id: msgspec.json.encode(view(order))
                    for order in (await self._orders(missing)).values()
                    if order.customer == customer.id
                }
                await self._keep(customer, rows, changed)
            finally:
                self._readers.remove(changed)
            found |= rows
        return found

    async def _keep(
        self, customer: Customer, rows: Mapping[int, bytes], changed: Container[int]
    ) -> None:
        """Remember rows, but none that has changed since it was read, or on its way there."""
        kept = [order for order in rows if order not in changed]
        named = {_key(customer.id, order): b'"%d":%b' % (order, rows[order]) for order in kept}
        await self._cache.put(named, FRESH_FOR)
        if late := [_key(customer.id, order) for order in kept if order in changed]:
            await self._cache.drop(late)

    async def _orders(self, ids: Sequence[int]) -> dict[int, Order]:
        """Return orders, those in the archive too."""
        found = await self._store.orders(ids)
        if gone := [order for order in ids if order not in found]:
            found |= await self._store.archived(gone)
        return found

    def changed(self, orders: Iterable[int]) -> None:
        """Take note that orders are not what they were; whoever reads them now keeps nothing."""
        found = set(orders)
        for reader in self._readers:
            reader.update(found)

    async def forget(self, orders: Iterable[Order]) -> None:
        """Read these anew when they are asked for."""
        await self._cache.drop([_key(order.customer, order.id) for order in orders])


def unnamed(row: bytes) -> bytes:
    """Return a row without the name before it."""
    return row[row.index(b":") + 1 :]


def _key(customer: int, order: int | str) -> str:
    return f"row/{customer}/{order}"
