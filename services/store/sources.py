"""Sources in SQL, how their syncs are going, and what they have that no document came of.

`job_id` is a fence, as with documents: what a sync writes goes through only while the source still names that sync.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pipelines.errors import Conflict, NotFound
from services.store.database import Database, Row
from services.store.names import new_id, new_job_id
from services.store.records import Source
from services.store.tables import documents, left_out, sources

ACTIVE = ("queued", "running")
_ALIVE = sources.c.deleted.is_(None)
_FIELDS = [sources.c[field.name] for field in fields(Source)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A document of a source, as the next sync needs it."""

    document_id: str
    name: str
    version: str
    sha256: str
    job_id: str
    #: code of the error if its ingestion failed, else ""
    error_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What a source has and no document came of."""

    version: str
    code: str
    error: str


class Sources:
    """Sources of all knowledge bases. A deleted one is gone but for methods that say otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, **values: Any) -> Source:
        """A new one. Raises Conflict if there is one of that name."""
        now = time.time()
        row = {"id": new_id("src"), "counts": {}, "problems": [], "created": now, "updated": now, **values}
        try:
            async with self._database.write() as connection:
                await connection.execute(sources.insert(), row)
        except IntegrityError:
            raise Conflict(f"there is a source {values['name']!r} already: say --name for this one") from None
        return await self.get(str(row["id"]))

    async def get(self, id_or_name: str) -> Source:
        """One by its id or its name. Raises NotFound."""
        row = await self._database.row(
            sa.select(*_FIELDS).where(_ALIVE, sa.or_(sources.c.id == id_or_name, sources.c.name == id_or_name))
        )
        if row is None:
            raise NotFound(f"there is no source {id_or_name!r}: `deepwell source list` shows those there are")
        return _record(row)

    async def being_deleted(self) -> list[Source]:
        """Those that are marked deleted, each by a job of its own."""
        own = sources.c.job_id.like("remove-%")
        rows = await self._database.rows(sa.select(*_FIELDS).where(sources.c.deleted.is_not(None), own))
        return [_record(row) for row in rows]

    async def configure(self, source: str, **values: Any) -> None:
        """Change what people set: schedule, watch, name, options. Raises Conflict for a name that is taken."""
        try:
            async with self._database.write() as connection:
                change = sources.update().where(sources.c.id == source, _ALIVE)
                await connection.execute(change.values(updated=time.time(), **values))
        except IntegrityError:
            raise Conflict(f"there is a source {values['name']!r} already") from None

    async def queue(self, source: str, allow_empty: bool = False) -> Source | None:
        """Give it a new sync; None if one is under way, which then is followed by another at once."""
        now = time.time()
        async with self._database.write() as connection:
            idle = sources.update().where(sources.c.id == source, _ALIVE, sources.c.state.not_in(ACTIVE))
            values = {"job_id": new_job_id("sync", source), "state": "queued", "step": "", "allow_empty": allow_empty}
            fresh = {"error": "", "error_code": "", "attempts": 0, "done": 0, "total": 0, "due": None, "updated": now}
            done = await connection.execute(idle.values(**values, **fresh))
            if not done.rowcount:
                await connection.execute(sources.update().where(sources.c.id == source, _ALIVE).values(due=now))
                return None
        return await self.get(source)

    async def begin(self, source: str, job_id: str) -> int | None:
        """Count one more attempt of a sync that now starts to work; None if the source is no longer its own."""
        async with self._database.write() as connection:
            values = {"state": "running", "attempts": sources.c.attempts + 1, "began": time.time()}
            mine = sources.update().where(*_owned(source, job_id))
            row = (await connection.execute(mine.values(values).returning(sources.c.attempts))).first()
        return int(row[0]) if row else None

    async def update(self, source: str, job_id: str, **values: Any) -> bool:
        """Write progress; False if the source is no longer this sync's own."""
        async with self._database.write() as connection:
            mine = sources.update().where(*_owned(source, job_id))
            done = await connection.execute(mine.values(updated=time.time(), **values))
        return bool(done.rowcount)

    async def mark_due(self, source: str, when: float) -> None:
        """The next sync is to begin then, or earlier if that was said before."""
        async with self._database.write() as connection:
            later = sa.or_(sources.c.due.is_(None), sources.c.due > when)
            await connection.execute(sources.update().where(sources.c.id == source, _ALIVE, later).values(due=when))

    async def mark_deleted(self, source: str, keep_documents: bool) -> Source:
        """Take it out of sight; its name is free again. With `keep_documents` they are uploads from now on."""
        now = time.time()
        async with self._database.write() as connection:
            values = {"deleted": now, "updated": now, "job_id": f"remove-{source}", "name": f"deleted {source}"}
            await connection.execute(sources.update().where(sources.c.id == source, _ALIVE).values(values))
            if keep_documents:
                plain = {"source_id": None, "external_id": None, "version": None}
                await connection.execute(documents.update().where(documents.c.source_id == source).values(plain))
        row = await self._database.row(sa.select(*_FIELDS).where(sources.c.id == source))
        assert row is not None  # only the job that is made for this removes the row
        return _record(row)

    async def erase(self, source: str) -> None:
        """Remove the rows of one that is marked deleted."""
        async with self._database.write() as connection:
            await connection.execute(left_out.delete().where(left_out.c.source_id == source))
            await connection.execute(sources.delete().where(sources.c.id == source, sources.c.deleted.is_not(None)))

    async def known(self, source: str) -> dict[str, Known]:
        """Its documents by external id."""
        columns = ("external_id", "id", "name", "version", "sha256", "job_id", "state", "error_code")
        query = sa.select(*(documents.c[name] for name in columns))
        rows = await self._database.rows(query.where(documents.c.source_id == source, documents.c.deleted.is_(None)))
        return {
            row.external_id: Known(
                document_id=row.id, name=row.name, version=row.version, sha256=row.sha256, job_id=row.job_id,
                error_code=row.error_code if row.state == "failed" else "",
            )
            for row in rows
        }  # fmt: skip

    async def states(self, source: str) -> dict[str, int]:
        """Its documents by state; those being deleted count as "deleting"."""
        shown = sa.case((documents.c.deleted.is_(None), documents.c.state), else_="deleting")
        query = sa.select(shown, sa.func.count()).where(documents.c.source_id == source).group_by(shown)
        return {row[0]: row[1] for row in await self._database.rows(query)}

    async def left_out(self, source: str) -> dict[str, LeftOut]:
        """What no document came of, by external id."""
        rows = await self._database.rows(sa.select(left_out).where(left_out.c.source_id == source))
        return {row.external_id: LeftOut(version=row.version, code=row.code, error=row.error) for row in rows}

    async def leave_out(self, source: str, external_id: str, reason: LeftOut | None) -> None:
        """Note why no document came of this version; None takes the note back."""
        identity = hashlib.sha256(f"{source}\0{external_id}".encode("utf-8", "surrogatepass")).hexdigest()
        async with self._database.write() as connection:
            await connection.execute(left_out.delete().where(left_out.c.id == identity))
            if reason:
                row = {"version": reason.version, "code": reason.code, "error": reason.error}
                mine = {"id": identity, "source_id": source, "external_id": external_id}
                await connection.execute(left_out.insert(), row | mine)

    async def list(self) -> list[Source]:
        """All of them, by name."""
        return [_record(row) for row in await self._database.rows(sa.select(*_FIELDS).where(_ALIVE).order_by("name"))]


def _owned(source: str, job_id: str) -> Sequence[sa.ColumnElement[bool]]:
    return [sources.c.id == source, sources.c.job_id == job_id, _ALIVE, sources.c.state.in_(ACTIVE)]


def _record(row: Row) -> Source:
    return Source(**row._mapping)
