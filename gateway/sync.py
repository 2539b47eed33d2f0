"""A provider's list, fetched, judged by the firewall, and taken up."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from gateway import firewall
from gateway.cache import CATALOG, Cache
from gateway.catalog import Shop
from gateway.config import Config
from gateway.errors import CallFailed, Indeterminate
from gateway.exchange import ExchangeSource
from gateway.firewall import Judged, Rules
from gateway.listing import Listing
from gateway.model import Decision, Held, Offer
from gateway.offload import gently, let_go, offload
from gateway.router import Router
from gateway.store import Lease, Sighting, Store

log = structlog.get_logger()

TOLD = 20
"""Changes held back of which each is logged; of more, their number."""


class Synced(msgspec.Struct, frozen=True):
    """What became of a list.

    Attributes:
        services: rows that could be read.
        left_out: what was wrong with rows that could not be read.
        held: changes that wait for the owner's word.

    """

    services: int
    left_out: Sequence[str]
    held: Sequence[Held]


class Sync:
    """Keeps what the providers offer fresh in the store, and the catalog with it."""

    def __init__(
        self,
        config: Config,
        store: Store,
        router: Router,
        shop: Shop,
        listing: Listing,
        exchange: ExchangeSource,
        cache: Cache,
        now: Callable[[], int],
    ) -> None:
        self._config = config
        self._store = store
        self._router = router
        self._shop = shop
        self._listing = listing
        self._exchange = exchange
        self._cache = cache
        self._now = now
        # Fetched all at the same time, but taken up one after the other: see ``offload``.
        self._one_by_one = asyncio.Lock()

    async def refresh(self) -> bool:
        """Take up what is in the store; returns whether that is news."""
        with gently():
            news = await self._shop.refresh()
        if news:
            self._listing.warm()
        return news

    @property
    def exchanges(self) -> bool:
        """Whether there are exchange rates to look after."""
        return self._exchange.declared

    async def fetch_exchange_rates(self, under: Lease | None = None) -> None:
        """Ask the owner's source of exchange rates; see ``ExchangeSource.fetch``."""
        try:
            await self._exchange.fetch(under)
        finally:
            if await self.refresh():
                await self._cache.tell(CATALOG)

    async def fetch(self, provider: str, under: Lease | None = None) -> Synced:
        """Fetch a provider's list and take it up.

        Raises ``CallFailed`` when the provider gave no list, or one that is not believed: then
        what was offered before stays.
        """
        try:
            offers, odd = await self._router.services(provider)
            async with self._one_by_one:
                with gently():
                    held = await self._take_up(provider, offers, under)
        except CallFailed as failure:
            await self._store.sight([Sighting(provider, trouble=str(failure)[:200])])
            raise
        if await self.refresh():
            await self._cache.tell(CATALOG)
        services = len(offers)
        await let_go(offers)
        return Synced(services, odd, held)

    async def _take_up(
        self, provider: str, offers: Sequence[Offer], under: Lease | None
    ) -> list[Held]:
        """Judge a list and write down what is believed; returns what waits for the owner's word."""
        now = self._now()
        waiting = {one.offer: one for one in await self._store.held(provider)}
        known = await self._store.known_offers(provider)
        rules = self._rules(provider)

        def judged() -> tuple[str, Judged]:
            reason = firewall.disbelief(known, offers)
            return reason, firewall.judge(provider, known, offers, waiting, rules, now)

        reason, found = await offload(judged, len(offers))
        if reason:
            await self._disbelieve(provider, reason, len(offers), waiting.get(""), now, under)
        await self._store.save_offers(provider, found.offers, now, under, held=found.held)
        await self._store.sight([Sighting(provider, synced_at=now, offers=len(offers), trouble="")])
        await let_go(known)
        await let_go(found.offers)
        undecided = [one for one in found.held if one.decision is Decision.NONE]
        _tell(provider, [one for one in undecided if one.at == now])
        return undecided

    def _rules(self, provider: str) -> Rules:
        of_all, its_own = self._config, self._config.providers[provider]
        return Rules(
            its_own.price_jump or of_all.price_jump, its_own.quarantine or of_all.quarantine
        )

    async def _disbelieve(
        self,
        provider: str,
        reason: str,
        services: int,
        was: Held | None,
        now: int,
        under: Lease | None,
    ) -> None:
        """Raise ``Indeterminate`` for a list, unless the owner has accepted one as short.

        An empty one cannot be accepted: a provider without services is taken out of the file.
        """
        if services:
            if was and was.decision is Decision.ACCEPTED and services >= was.services:
                return
            if was is None or was.services != services:
                held = Held(provider, "", reason, services=services, at=now)
                await self._store.hold_back(held, under)
        msg = f"{provider} {reason}: not believed"
        raise Indeterminate(msg)


def _tell(provider: str, fresh: Sequence[Held]) -> None:
    for one in fresh[:TOLD]:
        log.warning(
            "a change is held back",
            provider=provider,
            service=one.offer,
            reason=one.reason,
            paused=one.paused,
            decide=f"gateway catalog accept {one}, or reject",
        )
    if len(fresh) > TOLD:
        log.warning("more changes are held back", provider=provider, changes=len(fresh) - TOLD)
