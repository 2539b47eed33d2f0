"""Ids and names of imported services, on SQLite."""

from collections.abc import Sequence

import apsw

from gateway.imports import Given, Wanted, allocate, without_id
from gateway.store.sqlite_file import SqliteFile

_KNOWN = "SELECT id FROM imported WHERE provider = ? AND service = ?"
_HIGHEST = "SELECT max(id) FROM imported WHERE provider <> '' AND id >= ? AND id < ?"


class SqliteImports(SqliteFile):
    """See ``Store``."""

    async def imported(self) -> Given:
        """Return every id and every name that was ever given out."""

        def run(db: apsw.Connection) -> Given:
            rows = db.execute("SELECT provider, service, id FROM imported")
            found = Given({(str(one), str(two)): int(number) for one, two, number in rows})
            names = db.execute("SELECT name, id FROM imported_names")
            found.add({}, {str(name): int(number) for name, number in names})
            return found

        return await self._apart(run)

    async def give(self, wanted: Sequence[Wanted], owners: Sequence[int]) -> Given:
        """Give ids and names, each once and for ever."""

        def run(db: apsw.Connection) -> Given:
            db.executemany(
                "INSERT OR IGNORE INTO imported VALUES (?, '', ?)",
                [(number, str(number)) for number in owners],
            )
            given = Given({("", str(number)): number for number in owners})
            for one in wanted:
                key = (one.provider, one.service)
                if (number := db.execute(_KNOWN, key).get) is not None:
                    given.add({key: number}, {})
            new = without_id(wanted, given)
            ranges = [(one.first, one.below) for one in new]
            highest = {one: db.execute(_HIGHEST, one).get for one in set(ranges)}
            last = db.execute("SELECT max(id) FROM imported WHERE provider <> ''").get or 0
            reserved = {
                int(row[0]) for row in db.execute("SELECT id FROM imported WHERE provider = ''")
            }
            for one, number in zip(new, allocate(ranges, highest, last, reserved), strict=True):
                if number is not None:
                    row = (number, one.provider, one.service)
                    db.execute("INSERT INTO imported VALUES (?, ?, ?)", row)
                    given.add({row[1:]: number}, {})
            for one in wanted:
                number = given.ids.get((one.provider, one.service))
                if one.name and number is not None:
                    pair = (one.name, number)
                    db.execute("INSERT OR IGNORE INTO imported_names VALUES (?, ?)", pair)
                    holder = db.execute("SELECT id FROM imported_names WHERE name = ?", pair[:1])
                    given.add({}, {one.name: int(holder.get)})
            return given

        return await self._writer.do(run)
