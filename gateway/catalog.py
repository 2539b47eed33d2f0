"""The shop: the catalog in force, what an order costs by it, and how it is kept fresh."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

import structlog

from gateway import imports, money
from gateway.cache import CATALOG, Cache
from gateway.config import Config
from gateway.errors import CallFailed, Indeterminate
from gateway.imports import Found, Given
from gateway.model import Order
from gateway.order_form import Form
from gateway.router import Router
from gateway.services import Catalog, Service
from gateway.store import Lease, Sighting, Store
from gateway.transitions import Choice

log = structlog.get_logger()

LAG = 5_000
"""Milliseconds by which another process may take up an edition later than this one."""
AT_ONCE = 500
"""Ids that are given in one commit, so that orders need not wait for a whole catalog."""
TOO_OLD = "its catalog is too old to be sold from"


class Lately:
    """Services as they were a moment ago, for orders of what customers have just read."""

    def __init__(self) -> None:
        self._before: list[tuple[int, Mapping[int, Service]]] = []

    def replace(self, old: Catalog, new: Catalog, now: int, until: int) -> None:
        """Remember what a new edition has changed or left out."""
        changed = {one.id: one for one in old.services.values() if new.services.get(one.id) != one}
        self._before = [entry for entry in self._before if now < entry[0]]
        if changed and now < until:
            self._before.append((until, changed))

    def of(self, service: Service, now: int) -> Iterator[Service]:
        """Yield what this service was, as long as that counts."""
        for until, services in self._before:
            before = services.get(service.id)
            if now < until and before is not None and before.type == service.type:
                yield before


class Shop:
    """The catalog in force, and how it is kept fresh.

    ``before`` is the shop of the file that was in force until now.

    Attributes:
        losing: services and price groups that are sold, if at all, below cost.

    """

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        cache: Cache,
        now: Callable[[], int],
        before: "Shop | None" = None,
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._cache = cache
        self._now = now
        if before and before.currency != config.currency:
            before = None  # amounts of another currency are no rates to keep to
        self._edition = -1
        self._synced: Mapping[str, int] = {}
        self._refreshing = asyncio.Lock()
        self.given: Given | None = before.given if before else None
        self.losing: set[tuple[int, str]] = before.losing if before else set()
        self.lately: Lately = before.lately if before else Lately()
        self._parameters = frozenset(
            name
            for service in config.services.values()
            if service.parameters
            for name in (*service.parameters.required, *service.parameters.optional)
        )
        self.catalog: Catalog = before.catalog if before else Catalog({}, "")

    @property
    def currency(self) -> str:
        """What customers are charged in."""
        return self._config.currency

    def declares(self, service: int) -> bool:
        """Tell whether this is a service that the owner sells or has sold by a rule, or not."""
        sold = self.given.sold if self.given else ()
        return service in self._config.services or service in sold

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that the owner has declared, beside those of the order types."""
        return self._parameters

    # --- an order's price and routes --------------------------------------------------------

    def charge(self, service: Service, size: int, tier: str) -> int:
        """Return the price of an order, in millionths: by no rate above one just shown."""
        shown = (service, *self.lately.of(service, self._now()))
        return min(one.charge(size, tier) for one in shown)

    def choices(self, service: Service, form: Form, charge: int) -> list[Choice]:
        """Return the routes that can take this order now without a loss, in order."""
        oldest = self._now() - int(self._config.max_catalog_age * 1000)
        found = []
        for choice in service.choices(form, charge):
            if self._synced.get(choice.provider, 0) < oldest:
                log.debug("a route is left out", provider=choice.provider, reason=TOO_OLD)
            else:
                found.append(choice)
        return found

    def latest(self, order: Order, choice: Choice) -> Choice | None:
        """Return a route of an order as it is by now; ``None`` when it can no longer take it."""
        service = self.catalog.services.get(order.service)
        if service is None or service.type.name != order.type:
            return None
        form = Form(order.params, order.size, None)
        route = (choice.provider, choice.offer.id)
        found = self.choices(service, form, order.charge)
        return next((one for one in found if (one.provider, one.offer.id) == route), None)

    # --- kept fresh ---------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Take up what is in the store, if it is newer than what is in force."""
        async with self._refreshing:
            self._synced = {
                provider: one.synced_at or 0
                for provider, one in (await self._store.sightings()).items()
            }
            edition = await self._store.edition()
            if edition != self._edition:
                offers = await self._store.offers()
                name = f"{self._config.digest[:16]}-{edition}"
                found = list(imports.find(self._config, offers))
                given = await self._give(found)
                catalog = Catalog.make(self._config, offers, self._router.has, name, found, given)
                self._remember(self.catalog, catalog)
                self.catalog = catalog
                self._edition = edition
                self._warn()

    async def _give(self, found: Sequence[Found]) -> Given:
        """Have ids and names given to what has none yet; returns all that were ever given."""
        if self.given is None:
            self.given = await self._store.imported()
        given = self.given
        owners = [one for one in self._config.services if ("", str(one)) not in given.ids]
        wanted = imports.wanted(self._config, found, given)
        for start in range(0, max(len(wanted), len(owners) and 1), AT_ONCE):
            fresh = await self._store.give(wanted[start : start + AT_ONCE], owners)
            given.add(fresh.ids, fresh.names)
        return given

    async def succeed(self, config: Config) -> None:
        """Take over from a file that was in force until now, in this process or another."""
        if config.currency != self.currency:
            return
        offers = await self._store.offers()
        found = list(imports.find(config, offers))
        given = self.given or Given()
        before = Catalog.make(config, offers, self._router.has, "", found, given)
        self._remember(before, self.catalog)

    def _remember(self, old: Catalog, new: Catalog) -> None:
        now, grace = self._now(), int(self._config.orders.rate_grace * 1000)
        self.lately.replace(old, new, now, now + grace + LAG if grace else now)

    def _warn(self) -> None:
        """Tell the owner of fixed rates that have fallen under cost, each once."""
        before, self.losing = self.losing, set()
        for service_id in self._config.services:
            service = self.catalog.services.get(service_id)
            if service is None:
                continue
            for tier in service.losing:
                self.losing.add((service_id, tier))
                if (service_id, tier) not in before:
                    log.warning(
                        "a fixed rate is below what it costs us",
                        service=service_id,
                        tier=tier,
                        rate=money.rate_text(service.rate(tier)),
                        cost=money.rate_text(service.routes[0].rate),
                        provider=service.routes[0].provider,
                    )

    async def listed(self, tier: str) -> tuple[bytes, str]:
        """Return the list for a price group and its ETag; rendered once for all processes."""
        tier = tier if tier in self._config.tiers else ""
        catalog = self.catalog
        if catalog.knows(tier) or not catalog.edition:
            return catalog.rendered(tier)
        key = f"services/{catalog.edition}/{tier}"
        (body,) = await self._cache.get([key])
        if body is not None:
            return catalog.keep(tier, body)
        rendered = catalog.rendered(tier)
        await self._cache.put({key: rendered[0]}, ttl=3600)
        return rendered

    async def sync(self, provider: str, under: Lease | None = None) -> tuple[int, Sequence[str]]:
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
        edition = await self._store.save_offers(provider, offers, now, under)
        await self._store.sight([Sighting(provider, synced_at=now, offers=len(offers), trouble="")])
        if edition != self._edition:
            await self.refresh()
            await self._cache.tell(CATALOG)
        return len(offers), odd
