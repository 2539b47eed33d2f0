"""Ids and names of imported services, on PostgreSQL."""

from collections.abc import Sequence

from gateway.imports import Given, Wanted, allocate, without_id
from gateway.store.postgres_base import Look, PostgresBase
from gateway.store.postgres_rows import Connection

# Whoever gives ids waits for another who does; who reads does not.
_LOCK = "LOCK TABLE imported IN EXCLUSIVE MODE"
_OWN = """
    INSERT INTO imported SELECT id, '', id::text FROM unnest($1::bigint[]) AS id
    ON CONFLICT DO NOTHING
"""
_KNOWN = """
    SELECT provider, service, id FROM unnest($1::text[], $2::text[]) AS wanted (provider, service)
    JOIN imported USING (provider, service)
"""
_HIGHEST = "SELECT max(id) FROM imported WHERE provider <> '' AND id >= $1 AND id < $2"
_GIVE = """
    INSERT INTO imported SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])
"""
_NAME = """
    INSERT INTO imported_names SELECT DISTINCT ON (name) name, id
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS wanted (name, id, place)
    ORDER BY name, place ON CONFLICT DO NOTHING
"""
_NAMED = "SELECT name, id FROM imported_names WHERE name = ANY($1::text[])"


class PostgresImports(PostgresBase):
    """See ``Store``."""

    async def imported(self) -> Given:
        """Return every id and every name that was ever given out."""

        def run(look: Look) -> Given:
            rows = look("SELECT provider, service, id FROM imported")
            found = Given({(provider, service): number for provider, service, number in rows})
            names = look("SELECT name, id FROM imported_names")
            found.add({}, {name: number for name, number in names})  # noqa: C416  # rows, not pairs
            return found

        return await self._apart(run)

    async def give(self, wanted: Sequence[Wanted], owners: Sequence[int]) -> Given:
        """Give ids and names, each once and for ever."""

        async def run(db: Connection) -> Given:
            await db.execute(_LOCK)
            await db.execute(_OWN, list(owners))
            given = Given({("", str(number)): number for number in owners})
            keys = [(one.provider, one.service) for one in wanted]
            known = await db.fetch(_KNOWN, [a for a, _ in keys], [b for _, b in keys])
            given.add({(provider, service): number for provider, service, number in known}, {})
            new = without_id(wanted, given)
            ranges = [(one.first, one.below) for one in new]
            highest = {one: await db.fetchval(_HIGHEST, *one) for one in set(ranges)}
            last = await db.fetchval(_HIGHEST, 0, 2**62) or 0
            rows = await db.fetch("SELECT id FROM imported WHERE provider = ''")
            ids = allocate(ranges, highest, last, {row[0] for row in rows})
            fresh = [(n, w.provider, w.service) for n, w in zip(ids, new, strict=True) if n]
            if fresh:
                await db.execute(_GIVE, *(list(column) for column in zip(*fresh, strict=True)))
            given.add({(provider, service): number for number, provider, service in fresh}, {})
            named = [
                (one.name, given.ids[one.provider, one.service])
                for one in wanted
                if one.name and (one.provider, one.service) in given.ids
            ]
            names = [name for name, _ in named]
            await db.execute(_NAME, names, [number for _, number in named])
            given.add({}, dict(await db.fetch(_NAMED, names)))
            return given

        return await self._transact(run)
