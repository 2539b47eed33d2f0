"""What is known of the providers, and who looks after them, on PostgreSQL."""

from collections.abc import Sequence

from gateway.store import Lease, Reading, Sighting
from gateway.store.postgres_base import PostgresBase, hold
from gateway.store.postgres_rows import Connection, Part, Sets, select, things, types
from gateway.store.rows import columns, to_row

KEPT_READINGS = 30 * 24 * 3600 * 1000

_UNDER_WAY = "state IN ('sending', 'unknown')"
_AT_RISK = f"""
    SELECT provider, sum(cost) AS cost FROM orders
    WHERE state = 'placed' AND settled_at IS NULL GROUP BY provider
    UNION ALL SELECT provider, cost FROM orders WHERE {_UNDER_WAY}
"""
_SEEN = types(Sighting)
_SIGHT = f"""
    UPDATE sightings SET
    {", ".join(f'"{name}" = coalesce(new."{name}", sightings."{name}")' for name in _SEEN)}
    FROM {{new}} WHERE sightings.provider = new.provider
"""
_SIGHTED = Part("seen", _SIGHT, _SEEN)
_MEET = (
    "INSERT INTO sightings (provider) SELECT name FROM unnest($1::text[]) AS name ORDER BY name "
    "ON CONFLICT DO NOTHING"
)
_READ = f"""
    INSERT INTO readings SELECT * FROM {{new}} ON CONFLICT (provider, asked_at) DO UPDATE SET
    {", ".join(f'"{name}" = excluded."{name}"' for name in columns(Reading)[2:])}
"""
_REMEMBERED = Part("remembered", _READ, types(Reading))
_LAST = "SELECT text FROM configurations ORDER BY id DESC LIMIT 1"
_LEASE = """
    INSERT INTO leases SELECT name, $2, 1, $4 FROM unnest($1::text[]) AS name
    ON CONFLICT (name) DO UPDATE SET
    fence = leases.fence + (leases.holder <> excluded.holder)::int,
    holder = excluded.holder, expires_at = excluded.expires_at
    WHERE leases.holder = excluded.holder OR leases.expires_at <= $3
    RETURNING name, holder, fence
"""
# Only a name that ends with its holder's is never taken again: any other one keeps its fence. One
# that is renewed at this moment is not waited for.
_FORGET = """
    DELETE FROM leases WHERE name IN (
        SELECT name FROM leases WHERE expires_at <= $1 AND right(name, length(holder)) = holder
        FOR UPDATE SKIP LOCKED
    )
"""


class PostgresProviders(PostgresBase):
    """See ``Store``."""

    async def sight(self, sightings: Sequence[Sighting]) -> None:
        """Write what was seen of providers, keeping what was not looked at."""
        seen: dict[str, list[object]] = {}
        for one in sightings:
            before = seen.get(one.provider) or [None] * len(_SEEN)
            pairs = zip(to_row(one), before, strict=True)
            seen[one.provider] = [old if new is None else new for new, old in pairs]
        rows = [seen[provider] for provider in sorted(seen)]
        sets = Sets()
        sets.add(_SIGHTED, rows)

        async def run(db: Connection) -> None:
            await db.execute(_MEET, list(seen))
            if sets:
                await db.fetchval(sets.statement(), *sets.bindings)

        await self._transact(run)

    async def sightings(self) -> dict[str, Sighting]:
        """Return what was last seen of each provider."""
        found = things(Sighting, await self._fetch(select(Sighting, "sightings", "")))
        return {one.provider: one for one in found}

    async def in_flight(self) -> dict[str, int]:
        """Return how many orders each provider is being sent, or may have been."""
        rows = await self._fetch(
            f"SELECT provider, count(*) FROM orders WHERE {_UNDER_WAY} GROUP BY provider"
        )
        return {provider: int(count) for provider, count in rows}

    async def at_risk(self) -> dict[str, int]:
        """Return what the orders that are not settled should cost, by provider."""
        rows = await self._fetch(
            f"SELECT provider, sum(cost) FROM ({_AT_RISK}) AS one GROUP BY provider"
        )
        return {provider: int(cost) for provider, cost in rows}

    async def add_reading(self, reading: Reading, under: Lease | None = None) -> None:
        """Remember a balance, and forget those of long ago."""
        sets = Sets()
        sets.add(_REMEMBERED, [to_row(reading)])

        async def run(db: Connection) -> None:
            await hold(db, under)
            await db.fetchval(sets.statement(), *sets.bindings)
            await db.execute(
                "DELETE FROM readings WHERE provider = $1 AND asked_at < $2",
                reading.provider,
                reading.asked_at - KEPT_READINGS,
            )

        await self._transact(run)

    async def readings(self, provider: str, since: int) -> list[Reading]:
        """Return the balances that were asked for since, oldest first."""
        rest = "WHERE provider = $1 AND asked_at >= $2 ORDER BY asked_at"
        rows = await self._fetch(select(Reading, "readings", rest), provider, since, long=True)
        return things(Reading, rows)

    # --- the owner's file ----------------------------------------------------------------

    async def keep_configuration(self, text: str, at: int) -> None:
        """Remember the owner's file as it was taken up."""

        async def run(db: Connection) -> None:
            await db.execute("LOCK TABLE configurations IN SHARE ROW EXCLUSIVE MODE")
            if text != await db.fetchval(_LAST):
                await db.execute("INSERT INTO configurations (text, at) VALUES ($1, $2)", text, at)

        await self._transact(run)

    async def kept_configuration(self) -> str | None:
        """Return the owner's file as it was last taken up."""
        rows = await self._fetch(_LAST)
        return str(rows[0][0]) if rows else None

    async def configurations(self, since: int) -> list[str]:
        """Return the owner's files that were in force at or after a time."""
        rows = await self._fetch(
            "SELECT text FROM configurations AS one WHERE NOT EXISTS (SELECT FROM configurations "
            "AS later WHERE later.id > one.id AND later.at < $1) ORDER BY id",
            since,
        )
        return [str(text) for (text,) in rows]

    # --- who does what ------------------------------------------------------------------

    async def lease(
        self, names: Sequence[str], holder: str, now: int, until: int
    ) -> dict[str, Lease]:
        """Take or renew leases until a time."""

        async def run(db: Connection) -> dict[str, Lease]:
            rows = await db.fetch(_LEASE, sorted(set(names)), holder, now, until)
            await db.execute(_FORGET, now)
            return {lease.name: lease for lease in things(Lease, rows)}

        return await self._transact(run)

    async def release(self, holder: str, names: Sequence[str] | None = None) -> None:
        """Give back leases of a holder."""

        async def run(db: Connection) -> None:
            await db.execute(
                "UPDATE leases SET expires_at = 0 "
                "WHERE holder = $1 AND ($2::text[] IS NULL OR name = ANY($2::text[]))",
                holder,
                names if names is None else list(names),
            )

        await self._transact(run)

    async def holders(self, now: int) -> dict[str, str]:
        """Return who holds each lease that has not run out."""
        rows = await self._fetch("SELECT name, holder FROM leases WHERE expires_at > $1", now)
        return {name: holder for name, holder in rows}  # noqa: C416  # rows are no pairs to mypy
