"""What is known of the providers, and who looks after them, on SQLite."""

from collections.abc import Sequence

import apsw

from gateway.store import Lease, Reading, Sighting
from gateway.store.rows import columns, from_row, listed, to_row
from gateway.store.sqlite_file import SqliteFile, hold
from gateway.store.sqlite_rows import UNDECIDED, select

KEPT_READINGS = 30 * 24 * 3600 * 1000

_UNDER_WAY = f"{UNDECIDED} AND state <> 'queued'"
_AT_RISK = f"""
    SELECT provider, sum(cost) AS cost FROM orders
    WHERE state = 'placed' AND settled_at IS NULL GROUP BY provider
    UNION ALL SELECT provider, cost FROM orders WHERE {_UNDER_WAY}
"""
# Only a name that ends with its holder's is never taken again: any other one keeps its fence.
_FORGET = "DELETE FROM leases WHERE expires_at <= ? AND substr(name, -length(holder)) = holder"


class SqliteProviders(SqliteFile):
    """See ``Store``."""

    async def sight(self, sightings: Sequence[Sighting]) -> None:
        """Write what was seen of providers, keeping what was not looked at."""

        def run(db: apsw.Connection) -> None:
            for one in sightings:
                fields = dict(zip(columns(Sighting), to_row(one), strict=True))
                seen = {name: value for name, value in fields.items() if value is not None}
                names = listed(tuple(seen))
                values = ", ".join("?" * len(seen))
                updates = ", ".join(f'"{name}" = excluded."{name}"' for name in seen)
                db.execute(
                    f"INSERT INTO sightings ({names}) VALUES ({values}) "  # ours
                    f"ON CONFLICT (provider) DO UPDATE SET {updates}",
                    tuple(seen.values()),
                )

        await self._writer.do(run)

    async def sightings(self) -> dict[str, Sighting]:
        """Return what was last seen of each provider."""
        rows = self._read(select(Sighting, "sightings", "1"))
        return {row[0]: from_row(Sighting, row) for row in rows}

    async def in_flight(self) -> dict[str, int]:
        """Return how many orders each provider is being sent, or may have been."""
        rows = self._read(
            f"SELECT provider, count(*) FROM orders WHERE {_UNDER_WAY} GROUP BY provider"
        )
        return {str(provider): int(count) for provider, count in rows}

    async def at_risk(self) -> dict[str, int]:
        """Return what the orders that are not settled should cost, by provider."""
        rows = self._read(f"SELECT provider, sum(cost) FROM ({_AT_RISK}) GROUP BY provider")
        return {str(provider): int(cost) for provider, cost in rows}

    async def add_reading(self, reading: Reading, under: Lease | None = None) -> None:
        """Remember a balance, and forget those of long ago."""
        names = columns(Reading)

        def run(db: apsw.Connection) -> None:
            hold(db, under)
            db.execute(
                f"INSERT OR REPLACE INTO readings ({listed(names)}) "
                f"VALUES ({', '.join('?' * len(names))})",
                to_row(reading),
            )
            db.execute(
                "DELETE FROM readings WHERE provider = ? AND asked_at < ?",
                (reading.provider, reading.asked_at - KEPT_READINGS),
            )

        await self._writer.do(run)

    async def readings(self, provider: str, since: int) -> list[Reading]:
        """Return the balances that were asked for since, oldest first."""
        where = "provider = ? AND asked_at >= ?"
        statement = select(Reading, "readings", where) + " ORDER BY asked_at"
        return await self._apart(
            lambda db: [from_row(Reading, row) for row in db.execute(statement, (provider, since))]
        )

    # --- the owner's file ----------------------------------------------------------------

    async def keep_configuration(self, text: str, at: int) -> None:
        """Remember the owner's file as it was taken up."""
        await self._writer.do(
            lambda db: db.execute(
                "INSERT INTO configurations (text, at) SELECT ?1, ?2 WHERE ?1 IS NOT "
                "(SELECT text FROM configurations ORDER BY id DESC LIMIT 1)",
                (text, at),
            ).fetchall()
        )

    async def kept_configuration(self) -> str | None:
        """Return the owner's file as it was last taken up."""
        rows = self._read("SELECT text FROM configurations ORDER BY id DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    async def configurations(self, since: int) -> list[str]:
        """Return the owner's files that were in force at or after a time."""
        rows = self._read(
            "SELECT text FROM configurations AS one WHERE NOT EXISTS (SELECT 1 FROM configurations "
            "AS later WHERE later.id > one.id AND later.at < ?) ORDER BY id",
            (since,),
        )
        return [str(text) for (text,) in rows]

    # --- who does what ------------------------------------------------------------------

    async def lease(
        self, names: Sequence[str], holder: str, now: int, until: int
    ) -> dict[str, Lease]:
        """Take or renew leases until a time."""

        def run(db: apsw.Connection) -> dict[str, Lease]:
            held = {}
            for name in names:
                fence = db.execute(
                    "INSERT INTO leases VALUES (?1, ?2, 1, ?4) ON CONFLICT DO UPDATE SET "
                    "fence = fence + (holder <> excluded.holder), "
                    "holder = excluded.holder, expires_at = excluded.expires_at "
                    "WHERE holder = excluded.holder OR expires_at <= ?3 RETURNING fence",
                    (name, holder, now, until),
                ).get
                if fence is not None:
                    held[name] = Lease(name, holder, fence)
            db.execute(_FORGET, (now,))
            return held

        return await self._writer.do(run)

    async def release(self, holder: str, names: Sequence[str] | None = None) -> None:
        """Give back leases of a holder."""

        def run(db: apsw.Connection) -> None:
            everything = "UPDATE leases SET expires_at = 0 WHERE holder = ?"
            if names is None:
                db.execute(everything, (holder,))
            else:
                db.executemany(f"{everything} AND name = ?", [(holder, name) for name in names])

        await self._writer.do(run)

    async def holders(self, now: int) -> dict[str, str]:
        """Return who holds each lease that has not run out."""
        rows = self._read("SELECT name, holder FROM leases WHERE expires_at > ?", (now,))
        return {str(name): str(holder) for name, holder in rows}
