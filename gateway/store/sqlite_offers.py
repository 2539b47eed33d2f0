"""The providers' services, on SQLite."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import apsw
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
from gateway.store.rows import columns, from_row, listed, to_row, to_value
from gateway.store.sqlite_file import SqliteFile, hold
from gateway.store.sqlite_rows import AMONG, select

_OFFER = ("provider", *columns(Offer))
_SAVE = f"INSERT OR REPLACE INTO offers ({listed(_OFFER)}) VALUES ({', '.join('?' * len(_OFFER))})"
_HOLD = (
    f"INSERT OR REPLACE INTO quarantine ({listed(columns(Held))}) "
    f"VALUES ({', '.join('?' * len(columns(Held)))})"
)
_REMEMBER = (
    f"INSERT OR REPLACE INTO changes ({listed(columns(OfferChange))}) "
    f"VALUES ({', '.join('?' * len(columns(OfferChange)))})"
)
_FOR_SALE = (
    "gone_at IS NULL AND NOT EXISTS (SELECT 1 FROM quarantine AS held "
    "WHERE held.provider = offers.provider AND held.offer = offers.id AND held.paused)"
)
_RATES = "SELECT currency, rate, at FROM exchange_rates"
_OFFERED_AT = "SELECT id, rate FROM offers WHERE provider = ? AND gone_at IS NULL ORDER BY id"
_EDITION = "SELECT edition FROM editions WHERE provider = ?"
_PAUSED = "SELECT offer FROM quarantine WHERE provider = ? AND paused"


class SqliteOffers(SqliteFile):
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
            await self._writer.do(partial(_write, provider, part, at, under))

        def finish(db: apsw.Connection) -> int:
            hold(db, under)
            was = db.execute(_EDITION, (provider,)).get or UNFINISHED
            changes = [] if held is None else _replace(provider, held, at, db)
            db.execute("DELETE FROM changes WHERE at < ?", (at - KEPT_CHANGES,))
            if was == UNFINISHED or changes:
                _edition(db, provider, changed=True)
            alone = was == (UNFINISHED if found else since)
            return int(db.execute(_EDITION, (provider,)).get) if alone else UNFINISHED

        return await self._writer.do(finish)

    async def offers(
        self, providers: Sequence[str] | None = None, ids: Collection[str] | None = None
    ) -> dict[str, dict[str, Offer]]:
        """Return the offers that are neither gone nor paused."""
        where = _FOR_SALE if ids is None else f"{_FOR_SALE} AND {AMONG}"

        def run(db: apsw.Connection) -> dict[str, dict[str, Offer]]:
            bindings = () if ids is None else (json.dumps(list(ids)),)
            found: dict[str, dict[str, Offer]] = {}
            parts = (
                [_offers(db, where, *bindings)]
                if providers is None
                else [_offers(db, f"provider = ? AND {where}", one, *bindings) for one in providers]
            )
            for part in parts:
                for provider, known in part.items():
                    found[provider] = {one: offer for one, (offer, _) in known.items()}
            return found

        return await self._apart(run)

    async def known_offers(
        self, provider: str, but: Collection[str] = ()
    ) -> dict[str, tuple[Offer, int | None]]:
        """Return all that a provider has ever offered, but for some."""
        return await self._apart(
            lambda db: _offers(db, "provider = ?", provider, but=but).get(provider, {})
        )

    async def rates(self, provider: str) -> dict[str, str]:
        """Return the rates of all that a provider offers."""
        return await self._apart(lambda db: dict(db.execute(_OFFERED_AT, (provider,))))

    async def edition(self) -> int:
        """Return a number that grows whenever offers change."""
        return int(self._read("SELECT value FROM counters WHERE name = 'offers'")[0][0])

    async def editions(self) -> dict[str, int]:
        """Return the edition in which each provider's offers have changed last."""
        rows = self._read("SELECT provider, edition FROM editions")
        return {str(provider): int(edition) for provider, edition in rows}

    async def hold_back(self, held: Held, under: Lease | None = None) -> None:
        """Remember a list that is not believed."""

        def run(db: apsw.Connection) -> None:
            hold(db, under)
            db.execute(_HOLD, to_row(held))

        await self._writer.do(run)

    async def held(self, provider: str = "") -> list[Held]:
        """Return what waits for the owner's word, and what he has said."""
        where = "?1 = '' OR provider = ?1 ORDER BY provider, at, offer"
        statement = select(Held, "quarantine", where)
        return await self._apart(
            lambda db: [from_row(Held, row) for row in db.execute(statement, (provider,))]
        )

    async def decide(self, held: Sequence[Held], decision: Decision, at: int) -> list[Held]:
        """Accept or reject changes."""

        def run(one: Held, db: apsw.Connection) -> bool:
            key = (one.provider, one.offer, to_value("offered", one.offered), one.services)
            where = "provider = ? AND offer = ? AND offered = ? AND services = ?"
            db.execute(f"UPDATE quarantine SET decision = ? WHERE {where}", (decision, *key))
            if not db.changes():
                return False
            if decision is Decision.ACCEPTED and one.offered is not None:
                db.execute(f"DELETE FROM quarantine WHERE {where}", key)
                known = _offers(db, "provider = ? AND id = ?", one.provider, one.offer)
                was = known.get(one.provider, {}).get(one.offer)
                found = [difference(one.provider, was, one.offered, at)]
                if one.paused:
                    found[0].changes.extend(pauses(one.provider, [one.offer], [], at))
                _write(one.provider, found, at, None, db)
                _edition(db, one.provider, changed=True)
            return True

        return [one for one in held if await self._writer.do(partial(run, one))]

    async def keep_exchange_rates(
        self, rates: Mapping[str, Decimal], at: int, oldest: int, under: Lease | None = None
    ) -> None:
        """Remember exchange rates as they are now; those too old are in force no longer."""

        def run(db: apsw.Connection) -> None:
            hold(db, under)
            changes = rate_changes(_rates(db.execute(_RATES)), rates, oldest, at)
            rows = [(one, f"{rate:f}", at) for one, rate in rates.items()]
            db.executemany("INSERT OR REPLACE INTO exchange_rates VALUES (?, ?, ?)", rows)
            db.execute("UPDATE exchange_rates SET at = 0 WHERE at < ?", (oldest,))
            db.executemany(_REMEMBER, [to_row(one) for one in changes])
            _edition(db, "", changed=bool(changes))

        await self._writer.do(run)

    async def exchange_rates(self) -> dict[str, tuple[Decimal, int]]:
        """Return the exchange rates that are remembered."""
        return _rates(self._read(_RATES))

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
        where = (
            "at >= ?1 AND (?2 = '' OR provider = ?2) AND (?3 = '' OR offer = ?3) "
            "AND (?4 = '[]' OR kind IN (SELECT value FROM json_each(?4))) "
            "ORDER BY at DESC, provider, offer, kind LIMIT ?5"
        )
        statement = select(OfferChange, "changes", where)
        bindings = (since, provider, offer, json.dumps(list(kinds)), limit)
        return await self._apart(
            lambda db: [OfferChange(*row) for row in db.execute(statement, bindings)]
        )


def _rates(rows: Iterable[Sequence[Any]]) -> dict[str, tuple[Decimal, int]]:
    return {str(one): (Decimal(rate), int(at)) for one, rate, at in rows}


def _offers(
    db: apsw.Connection, where: str, *bindings: str, but: Collection[str] = ()
) -> dict[str, dict[str, tuple[Offer, int | None]]]:
    statement = f"SELECT provider, gone_at, {listed(columns(Offer))} FROM offers WHERE {where}"
    return known_rows(db.execute(statement, bindings), but)


def _write(
    provider: str, found: Sequence[Difference], at: int, under: Lease | None, db: apsw.Connection
) -> None:
    hold(db, under)
    db.execute("INSERT OR REPLACE INTO editions VALUES (?, ?)", (provider, UNFINISHED))
    db.executemany(_SAVE, [offer_row(provider, one.offer) for one in found if one.offer])
    db.executemany(
        "UPDATE offers SET gone_at = ? WHERE provider = ? AND id = ?",
        [(at, provider, one.id) for one in found if one.offer is None],
    )
    db.executemany(_REMEMBER, [astuple(change) for one in found for change in one.changes])


def _replace(
    provider: str, held: Sequence[Held], at: int, db: apsw.Connection
) -> list[OfferChange]:
    """Hold back these changes in place of others; returns what is paused and resumed by that."""
    before = [one for (one,) in db.execute(_PAUSED, (provider,))]
    db.execute("DELETE FROM quarantine WHERE provider = ?", (provider,))
    db.executemany(_HOLD, [to_row(one) for one in held])
    changes = pauses(provider, before, [one.offer for one in held if one.paused], at)
    db.executemany(_REMEMBER, [astuple(one) for one in changes])
    return changes


def _edition(db: apsw.Connection, provider: str, *, changed: bool) -> int:
    edition = int(
        db.execute(
            "UPDATE counters SET value = value + ? WHERE name = 'offers' RETURNING value",
            (int(changed),),
        ).get
    )
    if changed:
        db.execute("INSERT OR REPLACE INTO editions VALUES (?, ?)", (provider, edition))
    return edition
