"""The providers' services, on PostgreSQL."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal

from msgspec.structs import astuple

from gateway.model import Decision, Held, Offer, OfferChange
from gateway.store import Lease
from gateway.store.offers import (
    KEPT_CHANGES,
    UNFINISHED,
    Difference,
    chunks,
    difference,
    known_rows,
    offer_row,
    pauses,
    rate_changes,
)
from gateway.store.postgres_base import Look, PostgresBase, hold
from gateway.store.postgres_rows import Connection, Part, Row, Sets, select, things, types
from gateway.store.rows import columns, listed, to_row, to_value

_OFFER = {"provider": "text", **types(Offer)}
_SAVE = f"""
    INSERT INTO offers ({listed(tuple(_OFFER))}) SELECT * FROM {{new}}
    ON CONFLICT (provider, id) DO UPDATE SET
    {", ".join(f'"{name}" = excluded."{name}"' for name in types(Offer))}, gone_at = NULL
"""
_SAVED = Part("saved", _SAVE, _OFFER)
_GO = """
    UPDATE offers SET gone_at = new.at FROM {new}
    WHERE (offers.provider, offers.id) = (new.provider, new.id)
"""
_GONE = Part("went", _GO, {"at": "bigint", "provider": "text", "id": "text"})
_QUARANTINE = types(Held)
_HOLD = f"""
    INSERT INTO quarantine ({listed(tuple(_QUARANTINE))}) SELECT * FROM {{new}}
    ON CONFLICT (provider, offer) DO UPDATE SET
    {", ".join(f'"{name}" = excluded."{name}"' for name in _QUARANTINE)}
"""
_HELD = Part("held", _HOLD, _QUARANTINE)
_CHANGE = types(OfferChange)
_REMEMBER = f"""
    INSERT INTO changes ({listed(tuple(_CHANGE))}) SELECT * FROM {{new}}
    ON CONFLICT (at, provider, offer, kind) DO UPDATE SET
    before = excluded.before, after = excluded.after
"""
_REMEMBERED = Part("remembered", _REMEMBER, _CHANGE)
_FOR_SALE = (
    "gone_at IS NULL AND NOT EXISTS (SELECT FROM quarantine AS held "
    "WHERE held.provider = offers.provider AND held.offer = offers.id AND held.paused)"
)
_RATES = "SELECT currency, rate, at FROM exchange_rates"
_KEEP = """
    INSERT INTO exchange_rates (currency, rate, at) SELECT currency, rate, at FROM {new}
    ON CONFLICT (currency) DO UPDATE SET rate = excluded.rate, at = excluded.at
"""
_KEPT = Part("kept", _KEEP, {"currency": "text", "rate": "text", "at": "bigint"})
_OFFERED_AT = "SELECT id, rate FROM offers WHERE provider = $1 AND gone_at IS NULL"
_EDITION = "SELECT edition FROM editions WHERE provider = $1"
_LOCK = "SELECT FROM quarantine WHERE provider = $1 FOR UPDATE"
_PAUSED = "SELECT offer FROM quarantine WHERE provider = $1 AND paused"
_DECIDED = {"provider": "text", "offer": "text", "offered": "text", "services": "bigint"}
_DECIDE = f"""
    UPDATE quarantine SET decision = $1
    FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[]) AS new ({listed(tuple(_DECIDED))})
    WHERE (quarantine.provider, quarantine.offer) = (new.provider, new.offer)
    AND (quarantine.offered, quarantine.services) = (new.offered, new.services)
    RETURNING quarantine.provider, quarantine.offer
"""
_BUMP = "UPDATE counters SET value = value + $1 WHERE name = 'offers' RETURNING value"
_MARK = """
    INSERT INTO editions VALUES ($1, $2)
    ON CONFLICT (provider) DO UPDATE SET edition = excluded.edition
"""


class PostgresOffers(PostgresBase):
    """See ``Offers``."""

    async def save_offers(
        self,
        provider: str,
        found: Sequence[Difference],
        at: int,
        under: Lease | None = None,
        *,
        held: Sequence[Held] | None = (),
        since: int = UNFINISHED,
    ) -> int:
        """Write in what a provider's list is different, a part at a time."""
        for part in chunks(found):
            sets = _differences(provider, part, at)

            async def write(db: Connection, sets: Sets = sets) -> None:
                await hold(db, under)
                await db.fetchval(sets.statement(), *sets.bindings)
                await db.execute(_MARK, provider, UNFINISHED)

            await self._transact(write)

        async def finish(db: Connection) -> int:
            await hold(db, under)
            await db.execute(_LOCK, provider)
            # After that: the owner can accept nothing of the provider's before this commits.
            was = await db.fetchval(_EDITION, provider) or UNFINISHED
            changes = [] if held is None else await _replace(db, provider, held, at)
            await db.execute("DELETE FROM changes WHERE at < $1", at - KEPT_CHANGES)
            if was == UNFINISHED or changes:
                await _edition(db, [provider], changed=True)
            alone = was == (UNFINISHED if found else since)
            return int(await db.fetchval(_EDITION, provider)) if alone else UNFINISHED

        return await self._transact(finish)

    async def offers(
        self, providers: Sequence[str] | None = None, ids: Collection[str] | None = None
    ) -> dict[str, dict[str, Offer]]:
        """Return the offers that are neither gone nor paused."""
        wanted = {"provider": providers, "id": ids}
        among = {name: list(said) for name, said in wanted.items() if said is not None}
        parts = [f"{name} = ANY(${at}::text[])" for at, name in enumerate(among, 1)]

        def run(look: Look) -> dict[str, dict[str, Offer]]:
            rows = look(_select(" AND ".join((*parts, _FOR_SALE))), *among.values())
            return {
                provider: {one: offer for one, (offer, _) in known.items()}
                for provider, known in known_rows(rows).items()
            }

        return await self._apart(run)

    async def known_offers(
        self, provider: str, but: Collection[str] = ()
    ) -> dict[str, tuple[Offer, int | None]]:
        """Return all that a provider has ever offered, but for some."""
        return await self._apart(
            lambda look: known_rows(look(_select("provider = $1"), provider), but).get(provider, {})
        )

    async def rates(self, provider: str) -> dict[str, str]:
        """Return the rates of all that a provider offers."""
        return await self._apart(
            lambda look: {str(one): str(rate) for one, rate in look(_OFFERED_AT, provider)}
        )

    async def edition(self) -> int:
        """Return a number that grows whenever offers change."""
        ((edition,),) = await self._fetch("SELECT value FROM counters WHERE name = 'offers'")
        return int(edition)

    async def editions(self) -> dict[str, int]:
        """Return the edition in which each provider's offers have changed last."""
        rows = await self._fetch("SELECT provider, edition FROM editions")
        return {provider: int(edition) for provider, edition in rows}

    async def hold_back(self, held: Held, under: Lease | None = None) -> None:
        """Remember a list that is not believed."""

        async def run(db: Connection) -> None:
            await hold(db, under)
            sets = Sets()
            sets.add(_HELD, [to_row(held)])
            await db.fetchval(sets.statement(), *sets.bindings)

        await self._transact(run)

    async def held(self, provider: str = "") -> list[Held]:
        """Return what waits for the owner's word, and what he has said."""
        rest = "WHERE $1 = '' OR provider = $1 ORDER BY provider, at, offer"
        rows = await self._fetch(select(Held, "quarantine", rest), provider, long=True)
        return things(Held, rows)

    async def decide(self, held: Sequence[Held], decision: Decision, at: int) -> list[Held]:
        """Accept or reject changes."""
        decided: list[Held] = []
        for start in range(0, len(held), 1000):
            decided += await self._decide(held[start : start + 1000], decision, at)
        return decided

    async def _decide(self, held: Sequence[Held], decision: Decision, at: int) -> list[Held]:
        keys = [
            (one.provider, one.offer, to_value("offered", one.offered), one.services)
            for one in held
        ]

        async def run(db: Connection) -> list[Held]:
            rows = await db.fetch(_DECIDE, decision, *map(list, zip(*keys, strict=True)))
            found = {(provider, offer) for provider, offer in rows}
            decided = [one for one in held if (one.provider, one.offer) in found]
            if decision is Decision.ACCEPTED:
                await _accept(db, [one for one in decided if one.offered is not None], at)
            return decided

        return await self._transact(run)

    async def keep_exchange_rates(
        self, rates: Mapping[str, Decimal], at: int, oldest: int, under: Lease | None = None
    ) -> None:
        """Remember exchange rates as they are now; those too old are in force no longer."""

        async def run(db: Connection) -> None:
            await hold(db, under)
            await db.execute("LOCK TABLE exchange_rates IN SHARE ROW EXCLUSIVE MODE")
            changes = rate_changes(_rates(await db.fetch(_RATES)), rates, oldest, at)
            sets = Sets()
            rows = [(one, f"{rate:f}", at) for one, rate in rates.items()]
            sets.add(_KEPT, rows)
            sets.add(_REMEMBERED, [to_row(one) for one in changes])
            if sets:
                await db.fetchval(sets.statement(), *sets.bindings)
            await db.execute("UPDATE exchange_rates SET at = 0 WHERE at < $1", oldest)
            await _edition(db, [""], changed=bool(changes))

        await self._transact(run)

    async def exchange_rates(self) -> dict[str, tuple[Decimal, int]]:
        """Return the exchange rates that are remembered."""
        return _rates(await self._fetch(_RATES))

    async def changes(
        self,
        since: int,
        *,
        provider: str = "",
        offer: str = "",
        kinds: Collection[str] = (),
        limit: int = 1000,
    ) -> list[OfferChange]:
        """Return what has changed since, the newest first."""
        rest = (
            "WHERE at >= $1 AND ($2 = '' OR provider = $2) AND ($3 = '' OR offer = $3) "
            "AND ($4::text[] = '{}' OR kind = ANY($4)) "
            "ORDER BY at DESC, provider, offer, kind LIMIT $5"
        )
        statement = select(OfferChange, "changes", rest)
        bindings = (since, provider, offer, list(kinds), limit)
        return [OfferChange(*row) for row in await self._fetch(statement, *bindings, long=True)]


def _rates(rows: Iterable[Row]) -> dict[str, tuple[Decimal, int]]:
    return {one: (Decimal(rate), int(at)) for one, rate, at in rows}


def _select(where: str) -> str:
    return f"SELECT provider, gone_at, {listed(columns(Offer))} FROM offers WHERE {where}"


def _differences(provider: str, found: Sequence[Difference], at: int) -> Sets:
    sets = Sets()
    saved = [offer_row(provider, one.offer) for one in found if one.offer]
    sets.add(_SAVED, saved)
    sets.add(_GONE, [(at, provider, one.id) for one in found if one.offer is None])
    changes = [astuple(change) for one in found for change in one.changes]
    sets.add(_REMEMBERED, changes)
    return sets


async def _accept(db: Connection, held: Sequence[Held], at: int) -> None:
    """Put accepted changes in force, which wait no longer then."""
    by_provider: dict[str, dict[str, Offer]] = {}
    for one in held:
        if one.offered is not None:
            by_provider.setdefault(one.provider, {})[one.offer] = one.offered
    for provider, offers in sorted(by_provider.items()):
        where = "provider = $1 AND id = ANY($2::text[])"
        rows = await db.fetch(_select(where), provider, list(offers))
        known = known_rows(rows).get(provider, {})
        found = [difference(provider, known.get(one), offer, at) for one, offer in offers.items()]
        paused = [one.offer for one in held if one.provider == provider and one.paused]
        found[0].changes.extend(pauses(provider, paused, [], at))
        sets = _differences(provider, found, at)
        await db.fetchval(sets.statement(), *sets.bindings)
        await db.execute(
            "DELETE FROM quarantine WHERE provider = $1 AND offer = ANY($2::text[])",
            provider,
            list(offers),
        )
    if by_provider:
        await _edition(db, sorted(by_provider), changed=True)


async def _replace(
    db: Connection, provider: str, held: Sequence[Held], at: int
) -> list[OfferChange]:
    """Hold back these changes in place of others; returns what is paused and resumed by that."""
    before = [one for (one,) in await db.fetch(_PAUSED, provider)]
    await db.execute("DELETE FROM quarantine WHERE provider = $1", provider)
    changes = pauses(provider, before, [one.offer for one in held if one.paused], at)
    sets = Sets()
    sets.add(_HELD, [to_row(one) for one in held])
    sets.add(_REMEMBERED, [astuple(one) for one in changes])
    if sets:
        await db.fetchval(sets.statement(), *sets.bindings)
    return changes


async def _edition(db: Connection, providers: Iterable[str], *, changed: bool) -> int:
    edition: int = await db.fetchval(_BUMP, int(changed))
    if changed:
        for provider in providers:
            await db.execute(_MARK, provider, edition)
    return edition
