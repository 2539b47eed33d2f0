"""The shop: the catalog in force, what an order costs by it, and how it is kept fresh."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import product

import msgspec
import structlog

from gateway import imports
from gateway.config import Config
from gateway.imports import Found, Given, Wanted
from gateway.model import Customer, Offer, OfferChange, Order
from gateway.offload import let_go, offload
from gateway.order_form import Form
from gateway.router import Router
from gateway.services import Catalog, Service
from gateway.store import Store
from gateway.transitions import Choice

log = structlog.get_logger()

LAG = 5_000
"""Milliseconds by which another process may take up an edition later than this one."""
IN_FORCE_BY = 60_000
"""Milliseconds by which a change may be shown later than it was seen."""
SHOWN = ("rate", "exchange")
"""The kinds of changes by which a rate that was shown may have been lower."""
MOST = 1_000_000
"""Of them; a worker that begins after more looks at the last of them alone."""
AT_ONCE = 500
"""Ids that are given in one commit, so that orders need not wait for a whole catalog."""
TOO_OLD = "its catalog is too old to be sold from"


Offers = Mapping[str, Mapping[str, Offer]]
"""By provider and id."""


def undone(offers: Offers, changes: Sequence[OfferChange]) -> tuple[Offers, list[OfferChange]]:
    """Return offers before the last change of the rate of each, and all changes before those.

    ``changes``: the newest first.
    """
    last: dict[tuple[str, str], OfferChange] = {}
    rest = [one for one in changes if last.setdefault((one.provider, one.offer), one) is not one]
    found = {provider: dict(known) for provider, known in offers.items()}
    for (provider, one), change in last.items():
        if offer := found.get(provider, {}).get(one):
            found[provider][one] = msgspec.structs.replace(offer, rate=Decimal(change.before))
    return found, rest


class Lately:
    """Services as they were a moment ago, for orders of what customers have just read."""

    def __init__(self) -> None:
        self._before: list[tuple[int, dict[int, Service]]] = []

    def remember(
        self, services: dict[int, Service], now: int, until: int
    ) -> list[dict[int, Service]]:
        """Remember what a new edition has changed or left out; returns what counts no more."""
        over = [services for until, services in self._before if now >= until]
        self._before = [entry for entry in self._before if now < entry[0]]
        if services:
            self._before.append((until, services))
        return over

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
        now: Callable[[], int],
        before: "Shop | None" = None,
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._now = now
        if before and before.currency != config.currency:
            before = None  # amounts of another currency are no rates to keep to
        self._edition = -1
        self._synced: Mapping[str, int] = {}
        self._refreshing = asyncio.Lock()
        self._began = before is None
        self._editions: dict[str, int] = {}
        self._offers: dict[str, dict[str, Offer]] = {}
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

    def tiers(self, customer: Customer) -> tuple[str, ...]:
        """Return the price groups at whose rates a customer may just have read the list."""
        grace = int(self._config.orders.rate_grace * 1000)
        lately = grace and self._now() < customer.tier_at + grace + LAG
        return (customer.tier, customer.tier_before) if lately else (customer.tier,)

    def charge(self, service: Service, size: int, *tiers: str) -> int:
        """Return the price of an order, in millionths: by no rate above one just shown."""
        shown = (service, *self.lately.of(service, self._now()))
        return min(one.charge(size, tier) for one in shown for tier in tiers)

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

    async def refresh(self) -> bool:
        """Take up what is in the store; returns whether that is newer than what was in force."""
        async with self._refreshing:
            self._synced = {
                provider: one.synced_at or 0
                for provider, one in (await self._store.sightings()).items()
            }
            edition = await self._store.edition()
            if edition == self._edition:
                return False
            await self._load()
            name = f"{self._config.digest[:16]}-{edition}"
            config = await self._exchanged(self._config)
            catalog = await self._make(config, self._offers, name, give=True)
            over = await self._replace(self.catalog, catalog)
            over.append(dict(self.catalog.services))
            self.catalog = catalog
            self._edition = edition
            await offload(self._warn, len(self._config.services))
            if self._began:
                self._began = False
                for config, offers in (await self._shown(self._config, self._offers))[1:]:
                    await self._replace(await self._make(config, offers), catalog)
            for services in over:
                await let_go(services)
            return True

    async def _make(
        self,
        config: Config,
        offers: Offers,
        name: str = "",
        *,
        give: bool = False,
    ) -> Catalog:
        """Put a catalog together, apart; ``give``: ids and names to what has none yet."""
        size = len(config.services) + sum(map(len, offers.values()))
        found = await offload(lambda: list(imports.find(config, offers)), size)
        given = await self._give(found) if give else self.given or Given()
        can = self._router.has
        make = partial(Catalog.make, config, offers, can, name, found, given)
        catalog = await offload(make, size)
        await let_go(found)
        return catalog

    async def _exchanged(self, config: Config) -> Config:
        """Return an owner's file with the exchange rates of its source."""
        if config.exchange_rates.from_ is None:
            return config
        oldest = self._now() - int(config.exchange_rates.max_age * 1000)
        kept = await self._store.exchange_rates()
        fetched = {currency: rate for currency, (rate, at) in kept.items() if at >= oldest}
        return config.model_copy(update={"fetched": fetched})

    async def _load(self) -> None:
        """Read the offers of the providers whose lists have changed, as far as they are sold."""
        editions = await self._store.editions()
        names = [
            name
            for name in self._config.providers
            if name in editions and editions[name] != self._editions.get(name)
        ]
        for name in names:
            sold = await offload(partial(self._sold, name), len(self._config.services))
            offers = (await self._store.offers([name], sold)).get(name, {})
            before, self._offers[name] = self._offers.get(name, {}), offers
            await let_go(before)
            self._editions[name] = editions[name]

    def _sold(self, provider: str) -> set[str] | None:
        """Return which of a provider's services the owner may sell; ``None``: any."""
        if any(one.provider == provider for one in self._config.imports):
            return None
        declared = self._config.services.values()
        return {
            one.service for entry in declared for one in entry.routes if one.provider == provider
        }

    async def _give(self, found: Sequence[Found]) -> Given:
        """Have ids and names given to what has none yet; returns all that were ever given."""
        if self.given is None:
            self.given = await self._store.imported()
        given = self.given

        def lacking() -> tuple[list[int], list[Wanted]]:
            services = self._config.services
            owners = [one for one in services if one not in given.owners]
            return owners, imports.wanted(self._config, found, given)

        owners, wanted = await offload(lacking, len(found) + len(self._config.services))
        for start in range(0, max(len(wanted), len(owners) and 1), AT_ONCE):
            fresh = await self._store.give(wanted[start : start + AT_ONCE], owners)
            given.add(fresh.ids, fresh.names, fresh.owners)
        return given

    # --- what was shown a moment ago ----------------------------------------------------------

    async def succeed(self, config: Config) -> None:
        """Take over from a file that was in force until now, in this process or another."""
        if config.currency == self.currency:
            for file, offers in await self._shown(config, await self._store.offers()):
                await self._replace(await self._make(file, offers), self.catalog)

    async def _shown(self, config: Config, now_offered: Offers) -> list[tuple[Config, Offers]]:
        """Return from what lists may have been made lately, by any process; the last one first."""
        files, offers = [await self._exchanged(config)], [now_offered]
        grace = int(self._config.orders.rate_grace * 1000)
        since = self._now() - grace - IN_FORCE_BY
        changes = await self._store.changes(since, kinds=SHOWN, limit=MOST) if grace else []
        for change in changes:
            if change.kind == "exchange" and config.exchange_rates.from_ is not None:
                words = change.before.split()
                rates = dict(zip(words[::2], map(Decimal, words[1::2]), strict=True))
                files.append(config.model_copy(update={"fetched": rates}))
        while changes := [one for one in changes if one.offer]:
            before, changes = await offload(partial(undone, offers[-1], changes), len(changes))
            offers.append(before)
        return list(product(files, offers))

    async def _replace(self, old: Catalog, new: Catalog) -> list[dict[int, Service]]:
        """Remember for a while what a catalog has otherwise than the one before.

        Returns what need not be remembered any more, to be let go.
        """

        def changed() -> dict[int, Service]:
            found = old.services.values()
            return {one.id: one for one in found if new.services.get(one.id) != one}

        grace = int(self._config.orders.rate_grace * 1000)
        services = await offload(changed, len(old.services)) if grace else {}
        now = self._now()
        return self.lately.remember(services, now, now + grace + LAG)

    def _warn(self) -> None:
        """Tell the owner of fixed rates that have fallen under cost, once and all together."""
        before = self.losing
        found = map(self.catalog.services.get, self._config.services)
        self.losing = {(one.id, tier) for one in found if one for tier in one.losing}
        if fallen := sorted({service for service, _ in self.losing - before}):
            log.warning(
                "fixed rates are below what they cost us",
                services=len(fallen),
                first=fallen[0],
                look="gateway plan",
            )
