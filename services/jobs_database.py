"""Where the job library `dbos` keeps its state, and how we connect to it."""

import logging
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipelines.errors import RagError
from services.settings import Settings
from services.store.database import database_errors, sync_url

if TYPE_CHECKING:
    from dbos import DBOSClient


def jobs_url(settings: Settings) -> str:
    """Where the state of workflows is kept: beside our own in PostgreSQL, a file of its own for SQLite."""
    url = sync_url(settings.store_url())
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{settings.data_dir.absolute() / 'jobs.db'}"
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def prepare(url: str) -> None:
    """Create or upgrade the tables of the job library; blocking. Several processes may call it at once."""
    from dbos import DBOS

    logging.getLogger("dbos").setLevel(logging.WARNING)
    if not sa.event.contains(sa.Engine, "connect", _teach_unixepoch):
        sa.event.listen(sa.Engine, "connect", _teach_unixepoch)
    with database_errors():
        if url.startswith("sqlite:///"):
            path = Path(url.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with sqlite3.connect(path, timeout=30) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")  # kept in the file: readers never wait for writers
                connection.close()
            except sqlite3.OperationalError as error:
                raise _sqlite_error(error) from error
        DBOS.migrate(url)


def _teach_unixepoch(connection: object, _record: object) -> None:
    """From Python 3.12 on the library uses `unixepoch('subsec')`, which SQLite has from 3.42 on only.

    Python 3.12 on Debian 12 runs with SQLite 3.40: its unixepoch gives NULL there, and every insert fails.
    """
    if isinstance(connection, sqlite3.Connection) and sqlite3.sqlite_version_info < (3, 42):
        connection.create_function("unixepoch", -1, _unixepoch)


def _unixepoch(*modifiers: object) -> float:
    return time.time() if "subsec" in modifiers else float(int(time.time()))


def _sqlite_error(error: sqlite3.OperationalError) -> RagError:
    from sqlalchemy.exc import OperationalError

    from services.store.database import translate

    found = translate(OperationalError(None, None, error))
    assert found is not None  # every OperationalError has a translation
    return found


def connect(url: str, application: str) -> "DBOSClient":
    """A client of the job library, its database made if needed; blocking. Raises StorageFull, Unavailable."""
    from dbos import DBOSClient

    prepare(url)
    return DBOSClient(system_database_url=url, application_name=application, retry_connection_errors=False)
