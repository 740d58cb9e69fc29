"""The SQL database: SQLite by default, PostgreSQL by URL. One seam for transactions and for what can go wrong."""

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from pipelines.errors import BadRequest, RagError, StorageFull, Unavailable

Row = sa.Row[*tuple[Any, ...]]

#: synchronous=FULL: what was acknowledged survives a power cut, and the job database, which is fsynced too, never
#: knows of a step whose rows are gone. It costs one fsync for each commit, and commits come once for each batch.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "cache_size=-16000")


def sync_url(url: str) -> sa.URL:
    """The URL for a blocking engine: migrations, and the job library."""
    return _with_driver(url, sqlite="sqlite", postgresql="postgresql+psycopg")


def _with_driver(url: str, *, sqlite: str, postgresql: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise BadRequest("setting store.url is not a database URL: use sqlite:///PATH or postgresql://…") from None
    drivers = {"sqlite": sqlite, "postgresql": postgresql, "postgres": postgresql}
    kind = parsed.get_backend_name() if "+" in parsed.drivername else parsed.drivername
    if kind not in drivers:
        raise BadRequest(f"setting store.url: {kind} is not supported; use sqlite:///PATH or postgresql://…")
    return parsed.set(drivername=drivers[kind])


class Database:
    """Connections for reading (no transaction around single statements) and for writing (one writer at a time)."""

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url, sqlite="sqlite+aiosqlite", postgresql="postgresql+psycopg")
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite:
            self._reader = _sqlite_engine(self.url)
            self._writer = _sqlite_engine(self.url, immediate=True)
        else:
            self._writer = create_async_engine(self.url, pool_pre_ping=True, pool_size=5, max_overflow=5)
            self._reader = self._writer.execution_options(isolation_level="AUTOCOMMIT")

    async def rows(self, statement: sa.Executable, values: dict[str, Any] | None = None) -> list[Row]:
        """All rows of one SELECT."""
        with database_errors():
            async with self._reader.connect() as connection:
                return list((await connection.execute(statement, values)).all())

    async def row(self, statement: sa.Executable) -> Row | None:
        """The first row of one SELECT, or None."""
        found = await self.rows(statement)
        return found[0] if found else None

    async def count(self, statement: sa.Executable) -> int:
        """The number that a `SELECT count(…)` gives."""
        found = await self.row(statement)
        return int(found[0]) if found else 0

    @asynccontextmanager
    async def write(self, lock: str = "") -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end. `lock` names what must not be written by two of them at once."""
        with database_errors():
            async with self._writer.begin() as connection:
                if lock and not self.sqlite:  # SQLite has one writer anyway
                    statement = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(lock)))
                    await connection.execute(statement)
                yield connection

    async def close(self) -> None:
        """Let go of every connection."""
        await self._writer.dispose()
        if self.sqlite:
            await self._reader.dispose()


def _sqlite_engine(url: sa.URL, immediate: bool = False) -> AsyncEngine:
    engine = create_async_engine(url)

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in _PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if immediate:
        # The write lock is taken at the start: a transaction that reads first and writes later would fail at once
        # with "database is locked" when another process wrote in between, busy_timeout or not.
        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn what the database or the disk says into our errors."""
    try:
        yield
    except DBAPIError as error:
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(FULL_MESSAGE) from error
        raise


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_MESSAGE = "the disk that holds Deepwell's data is full: free some space and try again; what is stored is safe"


def translate(error: DBAPIError) -> RagError | None:
    """Our error for the database's; None if it is a matter of the caller (a unique name) or a bug."""
    text = str(error.orig).lower()
    if "disk is full" in text or getattr(error.orig, "sqlstate", None) == "53100":
        return StorageFull(FULL_MESSAGE)
    if "disk i/o error" in text:
        return StorageFull("the disk that holds Deepwell's data does not take more: is it full, or damaged?")
    if "locked" in text or "busy" in text:
        return Unavailable("the database is busy: another process has held it for more than 30 s")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return Unavailable(f"the database does not answer ({_first_line(error)}): check setting store.url")
    return None


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
