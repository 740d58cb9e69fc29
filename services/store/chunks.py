"""Passages in SQL: the version that searches see, the version a job is making, and what is to leave the indexes.

A job stages the passages of the new version, brings them into the indexes, and then `publish` swaps versions in one
transaction. Until that moment searches see the whole old version, after it the whole new one.
"""

import time
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from pipelines.errors import Unavailable
from pipelines.types import Chunk, EmbeddingIdentity
from services.store.database import Database, Row
from services.store.tables import chunks, documents, knowledge_bases, staged_chunks, stale_chunks

#: columns that chunks and staged_chunks share
_SHARED = [column.name for column in chunks.columns]
#: rows in one statement: SQLite takes at most 32,766 parameters
BATCH = 500


_CHANGED = "the knowledge base was changed over to another embedding model meanwhile; the passages are embedded again"


class ModelChanged(Unavailable):
    """The knowledge base has another embedding model since the job began its step; the step is done again."""

    code = "model_changed"


class Chunks:
    """Passages by document and job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stage(self, document: str, job_id: str, new: Sequence[Chunk]) -> bool:
        """Make `new` the coming version. False if the document is no longer this job's own.

        Passages with the same id and heading that searches see already are kept: nothing to embed, nothing to index.
        What an earlier, unfinished job embedded of them stays embedded.
        """
        async with self._database.write() as connection:
            if not await _owns(connection, document, job_id):
                return False
            live = await _headings(connection, chunks, document)
            begun = await _headings(
                connection, staged_chunks, document, staged_chunks.c.embedded & ~staged_chunks.c.kept
            )
            rows = [_row(chunk, live, begun) for chunk in new]
            ids = {chunk.id for chunk in new}
            await _add_stale(connection, document, set(begun) - ids - set(live))
            await connection.execute(staged_chunks.delete().where(staged_chunks.c.document_id == document))
            for start in range(0, len(rows), BATCH):
                await connection.execute(staged_chunks.insert(), rows[start : start + BATCH])
            return True

    async def to_embed(self, document: str, limit: int, after: int = -1) -> list[Chunk]:
        """Passages of the coming version that have no vector yet, in order, from position `after` + 1."""
        query = _staged(document, after).where(~staged_chunks.c.kept, ~staged_chunks.c.embedded)
        return await self._read(document, query.limit(limit))

    async def to_index(self, document: str, limit: int, after: int = -1) -> list[Chunk]:
        """Passages of the coming version that are new to the indexes, in order, from position `after` + 1."""
        return await self._read(document, _staged(document, after).where(~staged_chunks.c.kept).limit(limit))

    async def staged(self, document: str) -> tuple[int, int]:
        """How many passages the coming version has, and how many of them have their vector."""
        ready = sa.func.sum(sa.case((staged_chunks.c.kept | staged_chunks.c.embedded, 1), else_=0))
        row = await self._database.row(sa.select(sa.func.count(), ready).where(staged_chunks.c.document_id == document))
        return (row[0], row[1] or 0) if row else (0, 0)

    async def mark_embedded(
        self, document: str, ids: Sequence[str], job_id: str, identity: EmbeddingIdentity, **progress: Any
    ) -> bool:
        """Their vectors are in the index. False if the document is no longer this job's own.

        A job that gets this far has not crashed for nothing: its attempts are forgotten. Raises ModelChanged if the
        knowledge base has another embedding than `identity` by now.
        """
        async with self._database.write() as connection:
            if not await _owns(connection, document, job_id):
                return False
            await _same_model(connection, document, identity)
            await connection.execute(staged_chunks.update().where(staged_chunks.c.id.in_(ids)).values(embedded=True))
            await connection.execute(
                documents.update().where(documents.c.id == document).values(attempts=1, updated=time.time(), **progress)
            )
            return True

    async def publish(self, document: str, job_id: str) -> int | None:
        """Swap: searches see the coming version, the document has succeeded. One transaction.

        Gives the number of passages; None if the document is no longer this job's own. Raises ModelChanged if
        passages have lost their vectors since they were embedded.
        """
        async with self._database.write() as connection:
            if not await _owns(connection, document, job_id):
                return None
            lacking = sa.select(staged_chunks.c.id).where(
                staged_chunks.c.document_id == document, ~staged_chunks.c.kept, ~staged_chunks.c.embedded
            )
            if (await connection.execute(lacking.limit(1))).first() is not None:
                raise ModelChanged(_CHANGED)
            of_staged = sa.select(staged_chunks.c.id).where(staged_chunks.c.document_id == document)
            old = await connection.execute(
                sa.select(chunks.c.id).where(chunks.c.document_id == document, chunks.c.id.not_in(of_staged))
            )
            await _add_stale(connection, document, {row[0] for row in old})
            await connection.execute(chunks.delete().where(chunks.c.document_id == document))
            source = sa.select(*(staged_chunks.c[name] for name in _SHARED))
            await connection.execute(
                chunks.insert().from_select(_SHARED, source.where(staged_chunks.c.document_id == document))
            )
            gone = await connection.execute(staged_chunks.delete().where(staged_chunks.c.document_id == document))
            count = int(gone.rowcount)
            await connection.execute(
                documents.update()
                .where(documents.c.id == document)
                .values(
                    state="succeeded", step="", error="", error_code="", eta=None, attempts=0, chunks=count,
                    pages_done=documents.c.pages_total, indexed_sha256=documents.c.sha256, updated=time.time(),
                )
            )  # fmt: skip
            return count

    async def of(self, document: str, limit: int = 100, offset: int = 0) -> list[Chunk]:
        """Passages that searches see, in order."""
        query = sa.select(chunks).where(chunks.c.document_id == document).order_by(chunks.c.position)
        return await self._read(document, query.limit(limit).offset(offset))

    async def stale(self, document: str) -> dict[str, list[str]]:
        """Ids that are to leave the indexes, by knowledge base. What a version needs again is taken off the list."""
        of_document = stale_chunks.c.document_id == document
        if await self._database.row(sa.select(stale_chunks.c.id).where(of_document).limit(1)) is None:
            return {}
        needed = sa.select(chunks.c.id).where(chunks.c.document_id == document)
        coming = sa.select(staged_chunks.c.id).where(staged_chunks.c.document_id == document)
        async with self._database.write() as connection:
            again = sa.or_(stale_chunks.c.id.in_(needed), stale_chunks.c.id.in_(coming))
            await connection.execute(stale_chunks.delete().where(of_document, again))
            found: dict[str, list[str]] = {}
            for row in await connection.execute(sa.select(stale_chunks).where(of_document)):
                found.setdefault(row.knowledge_base_id, []).append(row.id)
            return found

    async def to_sweep(self) -> list[str]:
        """Documents that have ids on the list."""
        return [row[0] for row in await self._database.rows(sa.select(stale_chunks.c.document_id).distinct())]

    async def known(self, knowledge_base_id: str) -> tuple[set[str], set[str]]:
        """Ids that searches see, and ids that a job or the sweep is still busy with."""
        found = []
        for table in (chunks, staged_chunks, stale_chunks):
            query = sa.select(table.c.id).where(table.c.knowledge_base_id == knowledge_base_id)
            found.append({row[0] for row in await self._database.rows(query)})
        return found[0], found[1] | found[2]

    async def gone(self, ids: Sequence[str]) -> list[str]:
        """Those of these ids that searches do not see any more."""
        seen: set[str] = set()
        for start in range(0, len(ids), BATCH):
            query = sa.select(chunks.c.id).where(chunks.c.id.in_(ids[start : start + BATCH]))
            seen |= {row[0] for row in await self._database.rows(query)}
        return [one for one in ids if one not in seen]

    async def forget_stale(self, ids: Collection[str]) -> None:
        """They have left the indexes."""
        wanted = list(ids)
        async with self._database.write() as connection:
            for start in range(0, len(wanted), BATCH):
                await connection.execute(
                    stale_chunks.delete().where(stale_chunks.c.id.in_(wanted[start : start + BATCH]))
                )

    async def ids_of(self, document: str) -> list[str]:
        """Ids of every passage of a document that an index may hold: seen, coming, or on its way out."""
        found: set[str] = set()
        for table in (chunks, staged_chunks, stale_chunks):
            rows = await self._database.rows(sa.select(table.c.id).where(table.c.document_id == document))
            found |= {row[0] for row in rows}
        return sorted(found)

    async def rows_of(self, document: str) -> int:
        """How many rows hold text of a document."""
        return sum(
            [
                await self._database.count(
                    sa.select(sa.func.count()).select_from(table).where(table.c.document_id == document)
                )
                for table in (chunks, staged_chunks)
            ]
        )

    async def erase(self, document: str, job_id: str) -> bool:
        """Remove every passage of a deleted document, which the indexes no longer hold. False if it is not this job's.

        A document that was added again meanwhile keeps what it has.
        """
        async with self._database.write() as connection:
            mine = sa.select(documents.c.id).where(
                documents.c.id == document, documents.c.job_id == job_id, documents.c.deleted.is_not(None)
            )
            if (await connection.execute(mine)).first() is None:
                return False
            for table in (chunks, staged_chunks, stale_chunks):
                await connection.execute(table.delete().where(table.c.document_id == document))
            return True

    async def count(self, knowledge_base_id: str | None = None) -> int:
        """Passages that searches see."""
        wanted = [] if knowledge_base_id is None else [chunks.c.knowledge_base_id == knowledge_base_id]
        return await self._database.count(sa.select(sa.func.count()).select_from(chunks).where(*wanted))

    async def _read(self, document: str, query: sa.Select[Any]) -> list[Chunk]:
        name = await self._database.row(sa.select(documents.c.name).where(documents.c.id == document))
        return [chunk_of(row, name[0] if name else "") for row in await self._database.rows(query)]


def chunk_of(row: Row, document: str) -> Chunk:
    """A row that begins with the columns of `chunks` as a Chunk of the document of that name."""
    return Chunk(document=document, **dict(zip(_SHARED, row, strict=False)))


async def retire(connection: AsyncConnection, document: str) -> int:
    """Chunks.retire inside a transaction of the caller."""
    seen = 0
    for table in (chunks, staged_chunks):
        rows = await connection.execute(sa.select(table.c.id).where(table.c.document_id == document))
        ids = {row[0] for row in rows}
        seen = seen or len(ids)
        await _add_stale(connection, document, ids)
        await connection.execute(table.delete().where(table.c.document_id == document))
    return seen


def _staged(document: str, after: int) -> sa.Select[Any]:
    of_document = (staged_chunks.c.document_id == document, staged_chunks.c.position > after)
    return sa.select(staged_chunks).where(*of_document).order_by(staged_chunks.c.position)


def _row(chunk: Chunk, live: dict[str, str], begun: dict[str, str]) -> dict[str, Any]:
    values = {name: getattr(chunk, name) for name in _SHARED}
    values["text"] = chunk.text.replace("\0", " ")  # PostgreSQL has no zero characters; offsets stay right
    kept = live.get(chunk.id) == chunk.heading
    return values | {"kept": kept, "embedded": not kept and begun.get(chunk.id) == chunk.heading}


async def _owns(connection: AsyncConnection, document: str, job_id: str) -> bool:
    row = await connection.execute(
        sa.select(documents.c.id).where(
            documents.c.id == document,
            documents.c.job_id == job_id,
            documents.c.state == "running",
            documents.c.deleted.is_(None),
        )
    )
    return row.first() is not None


async def _same_model(connection: AsyncConnection, document: str, identity: EmbeddingIdentity) -> None:
    row = await connection.execute(
        sa.select(knowledge_bases.c.embedding)
        .join(documents, documents.c.knowledge_base_id == knowledge_bases.c.id)
        .where(documents.c.id == document)
    )
    if EmbeddingIdentity(**row.scalar_one()) != identity:
        raise ModelChanged(_CHANGED)


async def _headings(
    connection: AsyncConnection, table: sa.Table, document: str, *more: sa.ColumnElement[bool]
) -> dict[str, str]:
    rows = await connection.execute(
        sa.select(table.c.id, table.c.heading).where(table.c.document_id == document, *more)
    )
    return {row[0]: row[1] for row in rows}


async def _add_stale(connection: AsyncConnection, document: str, ids: Collection[str]) -> None:
    if not ids:
        return
    known = await connection.execute(sa.select(stale_chunks.c.id).where(stale_chunks.c.document_id == document))
    knowledge_base_id = (
        await connection.execute(sa.select(documents.c.knowledge_base_id).where(documents.c.id == document))
    ).scalar_one()
    rows = [
        {"id": one, "document_id": document, "knowledge_base_id": knowledge_base_id}
        for one in sorted(set(ids) - {row[0] for row in known})
    ]
    for start in range(0, len(rows), BATCH):
        await connection.execute(stale_chunks.insert(), rows[start : start + BATCH])
