"""Documents in SQL, and how far their jobs are.

`job_id` is a fence: what a job writes goes through only while the document still names that job. A newer upload, a
cancel or a deletion puts another id there, and whatever the old job does from then on is without effect.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.errors import NotFound
from pipelines.types import JobState
from services.store.chunks import retire
from services.store.database import Database, Row
from services.store.names import document_id, new_job_id
from services.store.origins import Origin, Upload, adopt, may_change, origin_columns
from services.store.records import Document
from services.store.tables import documents, knowledge_bases

__all__ = ["ACTIVE", "Documents", "Origin", "Upload"]

#: states in which a job is still to do something
ACTIVE: tuple[JobState, ...] = ("queued", "running")
_ALIVE = documents.c.deleted.is_(None)
_FIELDS = [documents.c[field.name] for field in fields(Document)]


class Documents:
    """Documents of all knowledge bases. A deleted one is gone but for methods that say otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, document: str) -> Document:
        """One by its id. Raises NotFound."""
        found = await self.find(document)
        if found is None or found.deleted:
            raise NotFound(f"there is no document {document!r}")
        return found

    async def find(self, document: str) -> Document | None:
        """One by its id, deleted ones too."""
        return (await self.find_all([document])).get(document)

    async def find_all(self, ids: Collection[str]) -> dict[str, Document]:
        """Those of these ids that there are, deleted ones too."""
        rows = await self._database.rows(sa.select(*_FIELDS).where(documents.c.id.in_(ids)))
        return {row.id: _record(row) for row in rows}

    async def counts(self, knowledge_base_id: str | None = None) -> dict[JobState, int]:
        """Documents by state."""
        query = sa.select(documents.c.state, sa.func.count()).where(*_wanted(knowledge_base_id, ()))
        return {row[0]: row[1] for row in await self._database.rows(query.group_by(documents.c.state))}

    async def put(self, connection: AsyncConnection, knowledge_base_id: str, upload: Upload) -> tuple[Document, bool]:
        """Enter an upload; True if there is something to do for a job, whose id the document then has.

        The same content again is free, unless the job for it failed. A deleted document comes back without its old
        passages. To be called in `Database.write`. Raises NotFound if the knowledge base is gone, Conflict if the
        document belongs to another source, or to one and this is a plain upload of something else.
        """
        identity = document_id(knowledge_base_id, upload.name)
        waits = await _paused(connection, knowledge_base_id)
        row = (await connection.execute(sa.select(documents).where(documents.c.id == identity))).first()
        if (
            row
            and row.deleted is None
            and row.sha256 == upload.sha256
            and row.state in (*ACTIVE, "paused", "succeeded")
        ):
            if upload.origin:
                await adopt(connection, row, upload.origin)
            return await _read(connection, identity), False
        if row and row.deleted is None:
            may_change(row, upload)
        now = time.time()
        values: dict[str, Any] = {
            "sha256": upload.sha256,
            "size": upload.size,
            "media_type": upload.media_type,
            "job_id": new_job_id("ingest", identity),
            **origin_columns(row, upload),
            **_fresh(now, waits),
        }
        if row is None:
            values |= {"id": identity, "knowledge_base_id": knowledge_base_id, "name": upload.name, "created": now}
            await connection.execute(documents.insert(), values)
        else:
            if row.deleted is not None:
                await retire(connection, identity)
                values |= {"deleted": None, "indexed_sha256": "", "chunks": 0, "created": now}
            await connection.execute(documents.update().where(documents.c.id == identity).values(values))
        return await _read(connection, identity), True

    async def content(self, connection: AsyncConnection, knowledge_base_id: str, name: str) -> Document | None:
        """What is there under this name before `put`, deleted or not. To be called in `Database.write`."""
        query = sa.select(*_FIELDS).where(documents.c.id == document_id(knowledge_base_id, name))
        row = (await connection.execute(query)).first()
        return _record(row) if row else None

    async def new_job(self, document: str, *, only_if: Sequence[JobState]) -> Document | None:
        """Queue the document again under a new job id, if it is in one of these states; else None."""
        async with self._database.write() as connection:
            row = (await connection.execute(sa.select(documents).where(documents.c.id == document, _ALIVE))).first()
            if row is None or row.state not in only_if:
                return None
            waits = await _paused(connection, row.knowledge_base_id)
            await connection.execute(
                documents.update()
                .where(documents.c.id == document)
                .values(job_id=new_job_id("ingest", document), **_fresh(time.time(), waits))
            )
            return await _read(connection, document)

    async def mark_deleted(self, document: str) -> Document:
        """Make it invisible at once and give it the job that deletes it. Raises NotFound."""
        async with self._database.write() as connection:
            row = (await connection.execute(sa.select(documents).where(documents.c.id == document, _ALIVE))).first()
            if row is None:
                raise NotFound(f"there is no document {document!r}")
            now = time.time()
            await connection.execute(
                documents.update()
                .where(documents.c.id == document)
                .values(deleted=now, updated=now, job_id=new_job_id("delete", document), step="deleting")
            )
            return await _read(connection, document)

    async def begin(self, document: str, job_id: str) -> int | None:
        """Count one more attempt of a job that now starts to work; None if the document is no longer its own."""
        async with self._database.write() as connection:
            row = (
                await connection.execute(
                    documents.update()
                    .where(*_owned(document, job_id))
                    .values(state="running", attempts=documents.c.attempts + 1, updated=time.time())
                    .returning(documents.c.attempts)
                )
            ).first()
        return int(row[0]) if row else None

    async def update(self, document: str, job_id: str, **values: Any) -> bool:
        """Write progress; False if the document is no longer this job's own."""
        async with self._database.write() as connection:
            done = await connection.execute(
                documents.update().where(*_owned(document, job_id)).values(updated=time.time(), **values)
            )
        return bool(done.rowcount)

    async def end(self, document: str, job_id: str, state: JobState, error: str = "", code: str = "") -> bool:
        """A job ends without success; False if the document is no longer its own or has ended already."""
        return await self.update(document, job_id, state=state, error=error, error_code=code, step="", eta=None)

    async def cancel(self, document: str, job_id: str, error: str) -> bool:
        """The same at somebody's wish, of a paused job too."""
        async with self._database.write() as connection:
            done = await connection.execute(
                documents.update()
                .where(*_owned(document, job_id, (*ACTIVE, "paused")))
                .values(state="cancelled", error=error, error_code="cancelled", step="", eta=None, updated=time.time())
            )
        return bool(done.rowcount)

    async def pause_attempts(self) -> None:
        """A clean stop of the worker is nobody's fault: forget the attempts it interrupts."""
        async with self._database.write() as connection:
            await connection.execute(documents.update().where(documents.c.state == "running").values(attempts=0))

    async def of_job(self, job_id: str) -> Document | None:
        """The document whose ingestion this is; None if there is none, or another job has taken it over."""
        row = await self._database.row(sa.select(*_FIELDS).where(documents.c.job_id == job_id, _ALIVE))
        return _record(row) if row else None

    async def active(self) -> "list[Document]":
        """Documents whose ingestion is to do something, those that waited longest first."""
        query = sa.select(*_FIELDS).where(_ALIVE, documents.c.state.in_(ACTIVE)).order_by(documents.c.updated)
        return [_record(row) for row in await self._database.rows(query)]

    async def being_deleted(self, job_id: str | None = None) -> "list[Document]":
        """Documents that are marked deleted: by this job, or each by a job of its own."""
        by = documents.c.job_id.like("delete-doc-%") if job_id is None else documents.c.job_id == job_id
        rows = await self._database.rows(sa.select(*_FIELDS).where(documents.c.deleted.is_not(None), by))
        return [_record(row) for row in rows]

    async def list(
        self,
        knowledge_base_id: str | None = None,
        *,
        states: Sequence[JobState] = (),
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[Document]:
        """By name; of one knowledge base or of all. Without a limit if that is None."""
        query = (
            sa.select(*_FIELDS).where(*_wanted(knowledge_base_id, states)).order_by(documents.c.name, documents.c.id)
        )
        return [_record(row) for row in await self._database.rows(query.limit(limit).offset(offset))]


async def _paused(connection: AsyncConnection, knowledge_base_id: str) -> bool:
    """Whether ingestion waits. Raises NotFound."""
    query = sa.select(knowledge_bases.c.paused).where(
        knowledge_bases.c.id == knowledge_base_id, knowledge_bases.c.deleted.is_(None)
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound("the knowledge base is gone")
    return row[0] is not None


def _wanted(knowledge_base_id: str | None, states: Sequence[JobState]) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = [_ALIVE]
    if knowledge_base_id is not None:
        wanted.append(documents.c.knowledge_base_id == knowledge_base_id)
    if states:
        wanted.append(documents.c.state.in_(states))
    return wanted


def _owned(document: str, job_id: str, states: Sequence[JobState] = ACTIVE) -> list[sa.ColumnElement[bool]]:
    return [documents.c.id == document, documents.c.job_id == job_id, _ALIVE, documents.c.state.in_(states)]


def _fresh(now: float, waits: bool) -> dict[str, Any]:
    return {
        "state": "paused" if waits else "queued",
        "step": "",
        "error": "",
        "error_code": "",
        "pages_done": 0,
        "pages_total": 0,
        "eta": None,
        "attempts": 0,
        "updated": now,
    }


async def _read(connection: AsyncConnection, document: str) -> Document:
    return _record((await connection.execute(sa.select(*_FIELDS).where(documents.c.id == document))).one())


def _record(row: Row) -> Document:
    return Document(**row._mapping)
