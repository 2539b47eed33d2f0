"""What a store does for the providers' services: what they are, were, and may become."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from sys import intern
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import astuple, replace

from gateway.model import Decision, Held, Known, Offer, OfferChange
from gateway.store.rows import Value, columns

if TYPE_CHECKING:
    from gateway.store import Lease

KEPT_CHANGES = 180 * 24 * 3600 * 1000
"""Milliseconds for which it is known what has changed."""
CHUNK = 1000
"""Rows that are written in one commit: orders wait for no more than that."""
UNFINISHED = 0
"""The edition of a provider's offers while a list is written: some are of it, some from before."""
_FLAGS = {None: None, 0: False, 1: True}


class Offers(Protocol):
    """A part of ``Store``."""

    async def save_offers(
        self,
        provider: str,
        found: Sequence["Difference"],
        at: int,
        under: "Lease | None" = None,
        *,
        held: Sequence[Held] | None = (),
        since: int = UNFINISHED,
    ) -> int:
        """Write in what a provider's list is different, and remember what has changed.

        ``held`` are the changes that wait for the owner's word, in place of those that waited
        before; ``None``: they are the same, which may be thousands. ``since`` is the edition that
        the list was compared with. Returns the edition in which the provider's offers are just what
        the list says; ``UNFINISHED`` when somebody else has changed them meanwhile.
        """
        ...

    async def offers(
        self, providers: Sequence[str] | None = None, ids: Collection[str] | None = None
    ) -> dict[str, dict[str, Offer]]:
        """Return the offers that are neither gone nor paused, by provider and their ids.

        ``ids``: these at the most.
        """
        ...

    async def known_offers(
        self, provider: str, but: Collection[str] = ()
    ) -> dict[str, tuple[Offer, int | None]]:
        """Return all that a provider has ever offered, by its ids, but for some."""
        ...

    async def rates(self, provider: str) -> dict[str, str]:
        """Return the rates of all that a provider offers, by its ids, as they are written."""
        ...

    async def edition(self) -> int:
        """Return a number that grows whenever offers change."""
        ...

    async def editions(self) -> dict[str, int]:
        """Return the edition in which each provider's offers have changed last."""
        ...

    async def hold_back(self, held: Held, under: "Lease | None" = None) -> None:
        """Remember a list that is not believed, in place of the last one."""
        ...

    async def held(self, provider: str = "") -> list[Held]:
        """Return what waits for the owner's word, and what he has said, by provider."""
        ...

    async def decide(self, held: Sequence[Held], decision: Decision, at: int) -> list[Held]:
        """Accept or reject changes; returns those that are still as they were when read.

        An accepted change is in force at once, an accepted list when the provider gives it again.
        """
        ...

    async def keep_exchange_rates(
        self, rates: Mapping[str, Decimal], at: int, oldest: int, under: "Lease | None" = None
    ) -> None:
        """Remember exchange rates as they are now.

        Those from before ``oldest`` are in force no longer: then they are of the time 0.
        A new edition of the offers begins where that changes what anything costs.
        """
        ...

    async def exchange_rates(self) -> dict[str, tuple[Decimal, int]]:
        """Return the exchange rates that are remembered, by currency, and of when they are."""
        ...

    async def changes(
        self,
        since: int,
        *,
        provider: str = "",
        offer: str = "",
        kinds: Collection[str] = (),
        limit: int = 1000,
    ) -> list[OfferChange]:
        """Return what has changed since, the newest first; what is empty may be any."""
        ...


def rate_changes(
    known: Mapping[str, tuple[Decimal, int]], rates: Mapping[str, Decimal], oldest: int, at: int
) -> list[OfferChange]:
    """Return what new exchange rates change, for all providers."""
    after = {one: rate for one, (rate, seen) in known.items() if seen >= oldest} | dict(rates)
    before = {one: rate for one, (rate, seen) in known.items() if seen}
    if before == after:
        return []
    said = (" ".join(f"{one} {rate:f}" for one, rate in sorted(m.items())) for m in (before, after))
    return [OfferChange("", "", at, "exchange", *said)]


class Difference(msgspec.Struct, frozen=True, gc=False):
    """What is to be written of one service.

    Attributes:
        offer: as it is now; ``None``: it is gone.
        changes: what differs.

    """

    id: str
    offer: Offer | None
    changes: list[OfferChange]


def compare(
    provider: str, known: Known, offers: Sequence[Offer], at: int, *, first: bool = False
) -> list[Difference]:
    """Return in what a provider's list differs from what is known of it; ``first``: of nothing.

    The differences are in the order of what is known, and then of the ids: nearly as the tables
    are, so that one page after the other is written, and without a long sorting in most nights.
    """
    new = {offer.id: offer for offer in offers}
    found = []
    for one, (old, gone_at) in known.items():
        offer = new.pop(one, None)
        if offer is not None:
            differing = difference(provider, (old, gone_at), offer, at)
            if differing.changes:
                found.append(differing)
        elif gone_at is None:
            change = OfferChange(provider, one, at, "gone", before=f"{old.rate:f}")
            found.append(Difference(one, None, [change]))
    rest = sorted(new.values(), key=attrgetter("id"))
    if first and rest:  # nobody needs to be told of each
        told = OfferChange(provider, "", at, "first", after=str(len(rest)))
        return [
            Difference(offer.id, offer, [] if number else [told])
            for number, offer in enumerate(rest)
        ]
    return found + [difference(provider, None, offer, at) for offer in rest]


def difference(
    provider: str, known: tuple[Offer, int | None] | None, offer: Offer, at: int
) -> Difference:
    """Return in what one service differs from what is known of it."""
    if known is None:
        new = OfferChange(provider, offer.id, at, "new", after=f"{offer.rate:f}")
        return Difference(offer.id, offer, [new])
    old, gone_at = known
    changes = []
    if gone_at is not None:
        changes.append(OfferChange(provider, offer.id, at, "back", after=f"{offer.rate:f}"))
    elif old.rate != offer.rate and replace(old, rate=offer.rate) == offer:  # as most often
        return rated(provider, offer, _digits(old.rate), at)
    elif old == offer:
        return Difference(offer.id, offer, [])
    for name, was, now in zip(columns(Offer), astuple(old), astuple(offer), strict=True):
        if was != now:
            changes.append(OfferChange(provider, offer.id, at, name, _text(was), _text(now)))
    return Difference(offer.id, offer, changes)


def rated(provider: str, offer: Offer, before: str, at: int) -> Difference:
    """Return in what a service differs of which nothing but the rate was another one before."""
    change = OfferChange(provider, offer.id, at, "rate", before, _digits(offer.rate))
    return Difference(offer.id, offer, [change])


def pauses(
    provider: str, before: Iterable[str], after: Iterable[str], at: int
) -> list[OfferChange]:
    """Return what is new about which services are paused."""
    was, now = set(before), set(after)
    return [OfferChange(provider, one, at, "paused") for one in sorted(now - was)] + [
        OfferChange(provider, one, at, "resumed") for one in sorted(was - now)
    ]


def _text(value: object) -> str:
    if type(value) is Decimal:
        return _digits(value)
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _digits(rate: Decimal) -> str:
    """Write a rate without an exponent: formatting each costs three times as much."""
    text = str(rate)
    return f"{rate:f}" if "E" in text else text


def chunks(found: Sequence[Difference]) -> Iterator[Sequence[Difference]]:
    """Yield what is to be written, as much as goes into one commit at a time."""
    for start in range(0, len(found), CHUNK):
        yield found[start : start + CHUNK]


def offer_row(provider: str, offer: Offer) -> tuple[Value, ...]:
    """Return a provider's offer as a row, ``rows.to_row`` for what there may be a million of."""
    # Field by field: to take all of them and put others among them takes half as long again.
    return (
        provider,
        offer.id,
        offer.name,
        offer.type,
        offer.category,
        _digits(offer.rate),
        offer.min,
        offer.max,
        offer.refill,
        offer.cancel,
        offer.dripfeed,
        offer.description,
    )


def row_offer(row: Sequence[Any]) -> Offer:
    """Return the offer that a row keeps, whose flags a database may have as numbers."""
    one, name, kind, category, rate, least, most, refill, cancel, dripfeed, description = row
    refill, cancel, dripfeed = _FLAGS[refill], _FLAGS[cancel], _FLAGS[dripfeed]
    kind, category = intern(kind), intern(category)  # the same few for all
    return Offer(
        one, name, kind, category, Decimal(rate), least, most, refill, cancel, dripfeed, description
    )


def known_rows(
    rows: Iterable[Sequence[Any]], but: Collection[str] = ()
) -> dict[str, dict[str, tuple[Offer, int | None]]]:
    """Return offers by provider and id, each row with its provider and since when it is gone."""
    found: dict[str, dict[str, tuple[Offer, int | None]]] = {}
    for provider, gone_at, *row in rows:
        if row[0] not in but:
            found.setdefault(provider, {})[row[0]] = (row_offer(row), gone_at)
    return found
