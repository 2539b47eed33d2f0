"""A provider's list, fetched, judged by the firewall, and taken up."""

import asyncio
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import chain

import msgspec
import structlog
from msgspec.structs import replace

from gateway import firewall
from gateway.cache import CATALOG, Cache
from gateway.catalog import Shop
from gateway.config import Config
from gateway.errors import CallFailed, Indeterminate
from gateway.exchange import ExchangeSource
from gateway.firewall import Rules
from gateway.listing import Listing
from gateway.model import Decision, Held, Offer
from gateway.offload import gently, let_go, offload
from gateway.router import Router
from gateway.store import Lease, Sighting, Store
from gateway.store.offers import UNFINISHED, Difference, compare

log = structlog.get_logger()

TOLD = 20
"""Changes held back of which each is logged; of more, their number."""
AT_ONCE = 6
"""Lists that are fetched, read or taken up at the same time; all of them are in memory."""
AT_LATEST = 30.0
"""Seconds after which lists that were taken up are sold by, even while others wait their turn."""


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


class Digests(msgspec.Struct, frozen=True):
    """The digests of rows, by which they are known again; nobody else can know, or aim at them.

    Attributes:
        rows: of each row.
        others: of all but the rate of each.

    """

    rows: "array[int]"
    others: "array[int]"

    @classmethod
    def of(cls, offers: Iterable[Offer]) -> "Digests":
        """Return the digests of rows."""
        found = cls(array("q"), array("q"))
        for offer in offers:  # steps, not one for all
            other = hash(replace(offer, rate=FREE))
            found.others.append(other)
            # A number's own hash takes three times as long.
            found.rows.append(hash((other, str(offer.rate))))
        return found


class Seen(msgspec.Struct, frozen=True):
    """What a provider's offers were when its list was last taken up.

    Attributes:
        edition: theirs in the store then.
        digests: of all that was there, so that only what differs needs to be read back.

    """

    edition: int
    digests: Digests


class Sifted(msgspec.Struct, frozen=True):
    """A list by what was there before.

    Attributes:
        same: the ids of what was there just so.
        rated: what was there at another rate, by id.
        fresh: all that was not there just so.
        digests: of the whole list.

    """

    same: set[str]
    rated: dict[str, Offer]
    fresh: list[Offer]
    digests: Digests


FREE = Decimal(0)
NOTHING = Digests(array("q"), array("q"))


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
        self._seen: dict[str, Seen] = {}
        # Fetched some at the same time, but taken up one after the other: see ``offload``.
        self._room = asyncio.Semaphore(AT_ONCE)
        self._one_by_one = asyncio.Lock()
        self._waiting = 0
        self._refreshed = -AT_LATEST

    async def refresh(self) -> bool:
        """Take up what is in the store; returns whether that is news.

        While more lists wait to be taken up it does so only now and then: the last one of them
        does it for all.
        """
        now = asyncio.get_running_loop().time()
        if self._waiting and now < self._refreshed + AT_LATEST:
            return False
        self._refreshed = now
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
        # Others need not wait for what a provider takes its time for.
        with self._wait():
            await self._room.acquire()
        try:
            offers, odd = await self._router.services(provider)
            services = len(offers)
            held = await self._in_turn(provider, offers, under)
            await let_go(offers)
        except CallFailed as failure:
            await self._store.sight([Sighting(provider, trouble=str(failure)[:200])])
            raise
        finally:
            self._room.release()
        return Synced(services, odd, held)

    @contextmanager
    def _wait(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _in_turn(self, provider: str, offers: list[Offer], under: Lease | None) -> list[Held]:
        try:
            with self._wait():
                async with self._one_by_one:
                    with gently():
                        return await self._take_up(provider, offers, under)
        finally:
            if await self.refresh():
                await self._cache.tell(CATALOG)

    async def _take_up(
        self, provider: str, offers: Sequence[Offer], under: Lease | None
    ) -> list[Held]:
        """Judge a list and write down what is believed; returns what waits for the owner's word."""
        now = self._now()
        since = (await self._store.editions()).get(provider, UNFINISHED)
        seen = self._seen.get(provider)
        before = seen.digests if seen and seen.edition == since else NOTHING
        sifted = await offload(lambda: sift(offers, before), len(offers))
        known = await self._known(provider, sifted, len(offers), len(before.rows))
        waiting = {one.offer: one for one in await self._store.held(provider)}
        rules = self._rules(provider)
        there = len(before.rows) or sum(gone_at is None for _, gone_at in known.values())
        if reason := firewall.disbelief(there, offers):
            await self._disbelieve(provider, reason, len(offers), waiting.get(""), now, under)

        def judged() -> tuple[list[Held], list[Difference], Digests]:
            found = firewall.judge(provider, known, sifted.fresh, waiting, rules, now)
            digests = sifted.digests
            if found.held:  # then it is not the list that is in force
                same = (offer for offer in offers if offer.id in sifted.same)
                digests = Digests.of(chain(same, found.offers))
            first = not before.rows and not known
            return found.held, compare(provider, known, found.offers, now, first=first), digests

        held, differences, digests = await offload(judged, len(sifted.fresh) + len(known))
        edition = await self._store.save_offers(
            provider, differences, now, under, held=held, since=since
        )
        if edition != UNFINISHED:
            self._seen[provider] = Seen(edition, digests)
        await self._store.sight([Sighting(provider, synced_at=now, offers=len(offers), trouble="")])
        await let_go(differences)
        await let_go(known)
        undecided = [one for one in held if one.decision is Decision.NONE]
        _tell(provider, [one for one in undecided if one.at == now])
        return undecided

    async def _known(
        self, provider: str, sifted: Sifted, listed: int, before: int
    ) -> dict[str, tuple[Offer, int | None]]:
        """Return what is known of all that is not the same, also of what is gone."""
        rates = await self._store.rates(provider) if sifted.rated else {}

        def at_their_rates() -> dict[str, tuple[Offer, int | None]]:
            return {
                one: (replace(offer, rate=Decimal(rate)), None)
                for one, rate in rates.items()
                if (offer := sifted.rated.get(one))
            }

        known = await offload(at_their_rates, len(rates))
        but = sifted.same | known.keys()
        if not before or len(but) < max(listed, before):
            known |= await self._store.known_offers(provider, but)
        return known

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


def sift(offers: Sequence[Offer], before: Digests) -> Sifted:
    """Take a list apart by what was there before."""
    found = Sifted(set(), {}, [], Digests.of(offers))
    rows, others = set(before.rows), set(before.others)
    for offer, row, other in zip(offers, found.digests.rows, found.digests.others, strict=True):
        if row in rows:
            found.same.add(offer.id)
            continue
        found.fresh.append(offer)
        if other in others:
            found.rated[offer.id] = offer
    return found


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
