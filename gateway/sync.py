"""A provider's list, fetched, judged, and taken up."""

from collections.abc import Callable, Sequence

from gateway.cache import CATALOG, Cache
from gateway.catalog import Shop
from gateway.errors import CallFailed, Indeterminate
from gateway.router import Router
from gateway.store import Lease, Sighting, Store


class Sync:
    """Keeps what the providers offer fresh in the store, and the catalog with it."""

    def __init__(
        self,
        store: Store,
        router: Router,
        shop: Shop,
        cache: Cache,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._router = router
        self._shop = shop
        self._cache = cache
        self._now = now

    async def refresh(self) -> None:
        """Take up what other processes have fetched."""
        await self._shop.refresh()

    async def fetch(self, provider: str, under: Lease | None = None) -> tuple[int, Sequence[str]]:
        """Fetch a provider's list and take it up; returns how many rows, and what was odd.

        Raises ``CallFailed`` when the provider gave no list, or one that is not believed: then
        what was offered before stays.
        """
        now = self._now()
        try:
            offers, odd = await self._router.services(provider)
            known = len((await self._store.offers()).get(provider, {}))
            free = sum(not offer.rate for offer in offers)
            if len(offers) * 2 < known or not offers:
                msg = f"{provider} lists {len(offers)} services instead of {known}: not believed"
                raise Indeterminate(msg)
            if free * 2 > len(offers):
                msg = f"{provider} lists {free} of {len(offers)} services as free: not believed"
                raise Indeterminate(msg)
        except CallFailed as failure:
            await self._store.sight([Sighting(provider, trouble=str(failure)[:200])])
            raise
        await self._store.save_offers(provider, offers, now, under)
        await self._store.sight([Sighting(provider, synced_at=now, offers=len(offers), trouble="")])
        if await self._shop.refresh():
            await self._cache.tell(CATALOG)
        return len(offers), odd
