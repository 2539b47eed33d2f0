"""A provider's list, fetched, judged by the firewall, and taken up."""

import asyncio
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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
from gateway.store.offers import UNFINISHED, Difference, compare, rated

log = structlog.get_logger()

TOLD = 20
"""Changes held back of which each is logged; of more, their number."""
AT_ONCE = 4
"""Lists that are fetched, read or taken up at the same time; all of them are in memory."""
DOUBTFUL = 1
"""Of these, lists of providers whose last one came to nothing: the next may take as long again, and
as much memory, so those who answer do not wait for it."""
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
            found.add(offer)
        return found

    def add(self, offer: Offer) -> tuple[int, int]:
        """Add a row; returns its digest, and that of all but its rate."""
        other = hash(replace(offer, rate=FREE))
        row = hash((other, str(offer.rate)))  # a number's own takes three times as long
        self.rows.append(row)
        self.others.append(other)
        return row, other


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
        settled: the ids of what need not be read back: at first of what was there just so.
        rated: what was there at another rate, by id.
        fresh: what is still to be judged: at first the rest.
        digests: of the whole list.

    """

    settled: set[str]
    rated: dict[str, Offer]
    fresh: list[Offer]
    digests: Digests


FREE = Decimal(0)
NOTHING = Digests(array("q"), array("q"))


class Sync:
    """Keeps what the providers offer fresh in the store, and the catalog with it.

    Attributes:
        seen: of each provider, what its list was.

    """

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
        self.seen: dict[str, Seen] = {}
        # Fetched some at the same time, but taken up one after the other: see ``offload``.
        self._room = asyncio.Semaphore(AT_ONCE)
        self._doubtful = asyncio.Semaphore(DOUBTFUL)
        self._failing: set[str] = set()
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
        async with self._doubtful if provider in self._failing else nullcontext():
            with self._wait():
                await self._room.acquire()
            try:
                offers, odd = await self._router.services(provider)
                services = len(offers)
                held = await self._in_turn(provider, offers, under)
            except CallFailed as failure:
                self._failing.add(provider)
                await self._store.sight([Sighting(provider, trouble=str(failure)[:200])])
                raise
            finally:
                self._room.release()
        self._failing.discard(provider)
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
            await let_go(offers)  # before they are read back, or they would be there twice
            if await self.refresh():
                await self._cache.tell(CATALOG)

    async def _take_up(
        self, provider: str, offers: Sequence[Offer], under: Lease | None
    ) -> list[Held]:
        """Judge a list and write down what is believed; returns what waits for the owner's word."""
        now = self._now()
        since = (await self._store.editions()).get(provider, UNFINISHED)
        seen = self.seen.get(provider)
        before = seen.digests if seen and seen.edition == since else NOTHING
        sifted = await offload(lambda: sift(offers, before), len(offers))
        rules = self._rules(provider)
        rates = await self._store.rates(provider) if sifted.rated else {}
        moved, known = await offload(lambda: move(provider, sifted, rates, rules, now), len(rates))
        if not before.rows or len(sifted.settled) < max(len(before.rows), len(offers)):
            known |= await self._store.known_offers(provider, sifted.settled)
        waiting = {one.offer: one for one in await self._store.held(provider)}

        def doubtful() -> str:
            there = len(before.rows) or sum(gone_at is None for _, gone_at in known.values())
            return firewall.disbelief(there, offers)

        if reason := await offload(doubtful, len(offers)):
            try:
                await self._disbelieve(provider, reason, len(offers), waiting.get(""), now, under)
            except Indeterminate:
                await let_go(known, rates, sifted.settled, sifted.fresh, moved)
                raise

        def judged() -> tuple[list[Held], list[Difference], Digests]:
            found = firewall.judge(provider, known, sifted.fresh, waiting, rules, now)
            digests = sifted.digests
            if found.held:  # then it is not the list that is in force
                held = {one.offer for one in found.held}
                listed = (offer for offer in offers if offer.id not in held)
                kept = (offer for offer in found.offers if offer.id in held)
                digests = Digests.of(chain(listed, kept))
            first = not before.rows and not known
            differing = compare(provider, known, found.offers, now, first=first)
            return found.held, moved + differing, digests

        held, differences, digests = await offload(judged, len(sifted.fresh) + len(known))
        as_before = await offload(lambda: waiting == {one.offer: one for one in held}, len(held))
        edition = await self._store.save_offers(
            provider, differences, now, under, held=None if as_before else held, since=since
        )
        if edition != UNFINISHED:
            self.seen[provider] = Seen(edition, digests)
        await self._store.sight([Sighting(provider, synced_at=now, offers=len(offers), trouble="")])
        await let_go(differences, known, rates, sifted.settled)
        undecided = [one for one in held if one.decision is Decision.NONE]
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


def sift(offers: Sequence[Offer], before: Digests) -> Sifted:
    """Take a list apart by what was there before."""
    found = Sifted(set(), {}, [], Digests(array("q"), array("q")))
    rows, others = set(before.rows), set(before.others)
    for offer in offers:
        row, other = found.digests.add(offer)
        if row in rows:
            found.settled.add(offer.id)
        elif other in others:
            found.rated[offer.id] = offer
        else:
            found.fresh.append(offer)
    return found


def move(
    provider: str, sifted: Sifted, rates: Mapping[str, str], rules: Rules, at: int
) -> tuple[list[Difference], dict[str, tuple[Offer, int | None]]]:
    """Settle what differs by its rate alone, where that is nothing for the firewall.

    In most nights that is all that differs, so nothing else is asked of it. Returns the differences
    and, of what is fresh by its rate, what is known of it. ``rates``: of all that is offered.
    """
    differences: list[Difference] = []
    known: dict[str, tuple[Offer, int | None]] = {}
    for one, before in rates.items():
        offer = sifted.rated.pop(one, None)
        if offer is None:
            continue
        sifted.settled.add(one)
        rate = Decimal(before)
        if firewall.harmless(rate, offer, rules):
            if rate != offer.rate:
                differences.append(rated(provider, offer, before, at))
        else:
            known[one] = replace(offer, rate=rate), None
            sifted.fresh.append(offer)
    sifted.fresh.extend(sifted.rated.values())
    return differences, known


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
