"""One thread that writes to a SQLite file, and commits together what arrives together.

While a commit is under way the next operations gather; nobody waits for a timer, and an
operation that arrives alone is committed at once.
"""

import asyncio
import contextlib
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import apsw
import structlog

from gateway.errors import ConfigError, LeaseLost, StoreUnavailable
from gateway.store.optimistic import Memory
from gateway.store.page import Entry
from gateway.store.sqlite_page import commit

T = TypeVar("T")
Operation = Entry | Callable[[apsw.Connection], Any]
"""Orders and money, as an entry of a page; or what does anything else."""
Waiting = tuple[Operation, "asyncio.Future[Any]"]
"""An operation, and who waits for it."""

OWNERS = 0o600
"""The mode of a new file."""
MOST = 512
"""Operations in one commit; more would make the first of them wait for the last."""
PATIENCE = 5000
"""Milliseconds to wait for another process that is writing."""
_MIGRATION = re.compile(r"(\d{4})_\w+\.sql")

log = structlog.get_logger()


def connect(path: Path, *, write: bool = False, patience: int = PATIENCE) -> apsw.Connection:
    """Open the file; ``StoreUnavailable`` when that is not possible."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if write else 0)
    if write:
        # Customers and digests of keys: the owner's alone, and so is what SQLite puts beside it.
        # Not opened: closing it would give up the locks of whoever in this process has it open.
        with contextlib.suppress(OSError):  # it is there, or SQLite says what is wrong
            os.mknod(path, OWNERS | stat.S_IFREG)
    try:
        db = apsw.Connection(str(path), flags=flags)
        db.set_busy_timeout(patience)
        db.execute("PRAGMA foreign_keys = ON")
        if write:
            _log_ahead(db, patience)
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_size_limit = 67108864")
        else:
            db.execute("PRAGMA query_only = ON")
    except apsw.Error as error:
        msg = f"{path}: {error}"
        raise StoreUnavailable(msg) from error
    return db


def _log_ahead(db: apsw.Connection, patience: int) -> None:
    """Switch to a log beside the file; a new file is switched by the first of several starts.

    SQLite does not wait when somebody else has the file open at that moment, so this does.
    """
    give_up = time.monotonic() + patience / 1000
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def migrations() -> list[tuple[int, str]]:
    """Return the numbered statements that make the schema, in order."""
    files = resources.files("gateway.store").joinpath("migrations/sqlite").iterdir()
    return sorted(
        (int(match[1]), file.read_text())
        for file in files
        if (match := _MIGRATION.fullmatch(file.name))
    )


def migrate(db: apsw.Connection, path: Path) -> None:
    """Bring the schema up to this program's, as a whole; a newer program's file is refused."""
    known = migrations()
    if db.pragma("user_version") == known[-1][0]:
        return  # whoever only opens it waits for nobody who writes
    db.execute("BEGIN EXCLUSIVE")
    try:
        _apply(db, known, path)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _apply(db: apsw.Connection, known: list[tuple[int, str]], path: Path) -> None:
    version = db.pragma("user_version")
    newest = known[-1][0]
    if version > newest:
        raise ConfigError(
            f"{path}: written by a newer version of the gateway "
            f"(schema {version}, this program knows {newest}); install that version"
        )
    for number, statements in known:
        if number > version:
            db.execute(statements)
            db.execute(f"PRAGMA user_version = {number}")


class Commits:
    """Does operations on the one writing connection, many in a transaction."""

    def __init__(self, db: apsw.Connection) -> None:
        self.memory = Memory()
        self._db = db

    def _commit(self, operations: list[Operation], *, look: bool = False) -> list[Any]:
        """Return each operation's result, or the exception that it ended with."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = self._results(operations, look=look)
            self._db.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for it
            self._roll_back()
            self.memory.clear()
            if isinstance(error, apsw.ConstraintError) and not look:
                return self._commit(operations, look=True)
            if len(operations) > 1 and not isinstance(error, apsw.BusyError):
                # One of them is at fault; the others must not pay for it.
                return [self._commit([one], look=look)[0] for one in operations]
            return [_translated(error)] * len(operations)
        return results

    def _results(self, operations: list[Operation], *, look: bool) -> list[Any]:
        """Do operations in turn; entries that follow each other are one page."""
        results: list[Any] = []
        page: list[Entry] = []
        for operation in operations:
            if isinstance(operation, Entry):
                page.append(operation)
                continue
            results += commit(self._db, page, self.memory, look=look)
            results.append(self._result(operation))
            page = []
        return results + commit(self._db, page, self.memory, look=look)

    def _result(self, operation: Callable[[apsw.Connection], Any]) -> object:
        try:
            return operation(self._db)
        except LeaseLost as lost:
            return lost  # nothing was written yet, so the others go on

    def _roll_back(self) -> None:
        try:
            if not self._db.get_autocommit():
                self._db.execute("ROLLBACK")
        except apsw.Error as error:
            log.critical("a rollback failed", reason=str(error))


class Rehearsal(Commits):
    """Commits on the event loop itself, at the end of the turn in which an operation arrived.

    With no thread there is no chance, so a run can be repeated step by step; it is for those who
    rehearse what may happen, since everybody waits while it writes.
    """

    def __init__(self, db: apsw.Connection) -> None:
        super().__init__(db)
        self._waiting: list[Waiting] = []

    def do(self, operation: Entry | Callable[[apsw.Connection], T]) -> "asyncio.Future[T]":
        """Do an operation in the next commit; the future resolves when it is done."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._turn)
        self._waiting.append((operation, future))
        return future

    async def close(self) -> None:
        """Commit what is waiting, and close the connection."""
        self._turn()
        self._db.close()

    def _turn(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            results = self._commit([operation for operation, _ in batch])
            _resolve([(future, result) for (_, future), result in zip(batch, results, strict=True)])


class Writer(Commits):
    """The one writing connection of this process, on its own thread."""

    def __init__(self, db: apsw.Connection) -> None:
        super().__init__(db)
        self._waiting: queue.SimpleQueue[list[Waiting]] = queue.SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}  # in its turn
        self._left: list[Waiting] = []  # for the thread's next commit
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()
        self._closed = False

    def do(self, operation: Entry | Callable[[apsw.Connection], T]) -> "asyncio.Future[T]":
        """Do an operation in the next commit; the future resolves when it is durable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._closed:
            future.set_exception(StoreUnavailable("the store is closed"))
            return future
        # Each time that the thread is woken, it takes the interpreter from everybody else: once
        # in a turn of the loop is enough.
        if loop not in self._gathered:
            self._gathered[loop] = []
            loop.call_soon(self._hand_over, loop)
        self._gathered[loop].append((operation, future))
        return future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if gathered := self._gathered.pop(loop, None):
            self._waiting.put(gathered)

    async def close(self) -> None:
        """Commit what is waiting, and end the thread."""
        if not self._closed:
            self._closed = True
            for loop in tuple(self._gathered):
                self._hand_over(loop)
            self._waiting.put([])
            await asyncio.to_thread(self._thread.join)
            self._db.close()

    def _run(self) -> None:
        while batch := self._next():
            self._answer(batch, self._commit([operation for operation, _ in batch]))

    def _next(self) -> list[Waiting]:
        """Wait for what is to be done, and return what there is of it; nothing at the end."""
        batch = self._left or list(self._waiting.get())
        while batch and len(batch) < MOST and not self._waiting.empty():
            if not (handed := self._waiting.get()):
                self._waiting.put(handed)
                break
            batch += handed
        self._left = batch[MOST:]
        return batch[:MOST]

    @staticmethod
    def _answer(batch: list[Waiting], results: list[Any]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for (_, future), result in zip(batch, results, strict=True):
            loops.setdefault(future.get_loop(), []).append((future, result))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, answers)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.debug("a commit outlived its event loop", operations=len(answers))


def _resolve(answers: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in answers:
        if future.cancelled():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


def _translated(error: Exception) -> Exception:
    """Return what the rest of the program knows: only the database's own troubles change."""
    if isinstance(error, apsw.Error) and not isinstance(error, apsw.ConstraintError):
        unavailable = StoreUnavailable(str(error))
        unavailable.__cause__ = error
        return unavailable
    return error
