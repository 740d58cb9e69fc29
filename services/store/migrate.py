"""Bring the database to the schema of this version, under a lock, before anything else touches it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from pipelines.errors import Conflict
from services.store.database import database_errors, sync_url
from services.store.tables import SCHEMA

_HERE = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x64656570  # "deep"


def migrate(url: str) -> None:
    """Create or upgrade the tables; blocking, so call it in a thread. Several processes may call it at once.

    Raises Conflict when the database was written by a newer Deepwell, StorageFull, Unavailable.
    """
    target = sync_url(url)
    with database_errors(), _file_lock(target):
        engine = sa.create_engine(target, poolclass=sa.pool.NullPool)
        try:
            with engine.begin() as connection:
                if target.get_backend_name() == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                _upgrade(connection)
        finally:
            engine.dispose()


def revision(connection: sa.Connection) -> str:
    """The schema revision a database is at, "" when it is empty."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() or "")


def _upgrade(connection: sa.Connection) -> None:
    current = revision(connection)
    if current == SCHEMA:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current and current not in known:
        raise Conflict(
            f"the database was written by a newer Deepwell (schema {current}; this version knows {SCHEMA}): "
            "install that version again, or restore a backup made before the upgrade"
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _file_lock(url: sa.URL) -> Iterator[None]:
    """One migration of a SQLite file at a time; PostgreSQL has a lock of its own for that."""
    if url.get_backend_name() != "sqlite" or not url.database:
        yield
        return
    path = Path(url.database)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
