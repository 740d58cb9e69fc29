"""Pausing ingestion: of one document, or of a knowledge base with everything that is added to it meanwhile.

A paused document keeps its job: its pages and what was embedded stay, and the same job goes on.
"""

import time

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.errors import NotFound
from pipelines.types import JobState
from services.store.database import Database
from services.store.tables import documents, knowledge_bases

_WORKED_ON: tuple[JobState, ...] = ("queued", "running")


class Pauses:
    """Who is to wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pause(self, document: str, job_id: str) -> bool:
        """Let a document wait; False if its job has ended, or is another one."""
        async with self._database.write() as connection:
            mine = (documents.c.id == document, documents.c.job_id == job_id)
            return bool(await _set(connection, "paused", _WORKED_ON, *mine))

    async def resume(self, document: str, job_id: str) -> bool:
        """Let a document go on; False if it does not wait."""
        async with self._database.write() as connection:
            mine = (documents.c.id == document, documents.c.job_id == job_id)
            return bool(await _set(connection, "queued", ("paused",), *mine))

    async def pause_base(self, knowledge_base_id: str) -> list[str]:
        """Let every document of a knowledge base wait, those to come too. Gives the ids of their jobs."""
        async with self._database.write() as connection:
            await self._mark(connection, knowledge_base_id, time.time())
            inside = documents.c.knowledge_base_id == knowledge_base_id
            return await _set(connection, "paused", _WORKED_ON, inside)

    async def resume_base(self, knowledge_base_id: str) -> list[str]:
        """Let all of them go on. Gives the ids of their documents."""
        async with self._database.write() as connection:
            await self._mark(connection, knowledge_base_id, None)
            inside = documents.c.knowledge_base_id == knowledge_base_id
            jobs = await _set(connection, "queued", ("paused",), inside)
            rows = await connection.execute(sa.select(documents.c.id, documents.c.job_id).where(inside))
            wanted = set(jobs)
            return [row.id for row in rows if row.job_id in wanted]

    @staticmethod
    async def _mark(connection: AsyncConnection, knowledge_base_id: str, since: float | None) -> None:
        done = await connection.execute(
            knowledge_bases.update()
            .where(knowledge_bases.c.id == knowledge_base_id, knowledge_bases.c.deleted.is_(None))
            .values(paused=since)
        )
        if done.rowcount == 0:
            raise NotFound("the knowledge base is gone")


async def _set(
    connection: AsyncConnection, state: JobState, before: tuple[JobState, ...], *which: sa.ColumnElement[bool]
) -> list[str]:
    """Change the state of documents that are in one of these; the ids of their jobs."""
    rows = await connection.execute(
        documents.update()
        .where(*which, documents.c.deleted.is_(None), documents.c.state.in_(before))
        .values(state=state, eta=None, attempts=0, updated=time.time())
        .returning(documents.c.job_id)
    )
    return [row[0] for row in rows]
