"""Text of chunks for retrieval: one query, on a connection kept for it."""

from collections.abc import Sequence

import sqlalchemy as sa

from pipelines.types import Chunk
from services.store.chunks import chunk_of
from services.store.database import Database
from services.store.tables import chunks, documents, knowledge_bases

#: documents that are named in a query: databases limit its values (SQLite and PostgreSQL to about 32,000)
NAMED = 5000
# Built once: building a query costs more than running it. The knowledge base is compared afterwards: given both
# conditions, SQLite reads the whole knowledge base by its index instead of 100 rows by their keys (20 ms, not 1).
_QUERY = (
    sa.select(chunks, documents.c.name)
    .join(documents, documents.c.id == chunks.c.document_id)
    .where(
        chunks.c.id.in_(sa.bindparam("ids", expanding=True)),
        documents.c.deleted.is_(None),
    )
)


class Passages:
    """`pipelines.rag.Passages` over SQL: what is deleted is gone at once, what is being made is not there yet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, knowledge_base_ids: Sequence[str], chunk_ids: Sequence[str]) -> dict[str, Chunk]:
        """Chunks by id, only those of these knowledge bases; ids that are gone are left out."""
        if not knowledge_base_ids or not chunk_ids:
            return {}
        allowed = frozenset(knowledge_base_ids)
        rows = await self._database.rows(_QUERY, {"ids": list(chunk_ids)})
        found = (chunk_of(row, row[-1]) for row in rows)
        return {chunk.id: chunk for chunk in found if chunk.knowledge_base_id in allowed}

    async def around(self, found: Sequence[Chunk], distance: int) -> list[Chunk]:
        """Chunks of the same documents at most `distance` positions from one of these, by document and position."""
        near = [
            sa.and_(
                chunks.c.document_id == each.document_id,
                chunks.c.position.between(each.position - distance, each.position + distance),
            )
            for each in found
        ]
        if not near:
            return []
        rows = await self._database.rows(
            sa.select(chunks, documents.c.name)
            .join(documents, documents.c.id == chunks.c.document_id)
            .where(sa.or_(*near), documents.c.deleted.is_(None))
            .order_by(chunks.c.document_id, chunks.c.position)
        )
        return [chunk_of(row, row[-1]) for row in rows]

    async def places(self, knowledge_base_id: str, document_ids: frozenset[str] | None = None) -> list[Chunk]:
        """Every visible chunk of a knowledge base, or of these documents of it, without its text."""
        asked = [chunks.c.knowledge_base_id == knowledge_base_id, documents.c.deleted.is_(None)]
        if document_ids is not None and len(document_ids) <= NAMED:
            asked.append(chunks.c.document_id.in_(document_ids))
        columns = (chunks.c.id, chunks.c.document_id, chunks.c.position, chunks.c.page, chunks.c.heading)
        rows = await self._database.rows(
            sa.select(*columns, documents.c.name).join(documents, documents.c.id == chunks.c.document_id).where(*asked)
        )
        return [
            Chunk(
                id=row[0],
                document_id=row[1],
                knowledge_base_id=knowledge_base_id,
                document=row[5],
                text="",
                position=row[2],
                page=row[3],
                heading=row[4],
            )
            for row in rows
            if document_ids is None or row[1] in document_ids
        ]

    async def with_neighbours(self, chunk_id: str) -> list[Chunk]:
        """A passage with the one before and the one after it, in reading order; [] if it is gone.

        Whoever calls this has a right to the passage already, see services.citations.
        """
        found = await self._database.row(
            sa.select(chunks, documents.c.name)
            .join(documents, documents.c.id == chunks.c.document_id)
            .join(knowledge_bases, knowledge_bases.c.id == chunks.c.knowledge_base_id)
            .where(chunks.c.id == chunk_id, documents.c.deleted.is_(None), knowledge_bases.c.deleted.is_(None))
        )
        return [] if found is None else await self.around([chunk_of(found, found[-1])], 1)
