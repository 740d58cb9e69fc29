"""Knowledge bases in SQL."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pipelines.errors import Conflict, NotFound
from pipelines.types import EmbeddingIdentity
from services.store.database import Database, Row
from services.store.names import knowledge_base_name, new_id
from services.store.records import KnowledgeBase
from services.store.tables import documents, knowledge_bases, sources, staged_chunks

_ALIVE = knowledge_bases.c.deleted.is_(None)


class KnowledgeBases:
    """What there is to ask. A deleted one is gone but for `unfinished_deletions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, description: str = "") -> KnowledgeBase:
        """A new empty one. Raises BadRequest for a name that cannot be, Conflict if there is one of that name."""
        name = knowledge_base_name(name)
        row = {"id": new_id("kb"), "name": name, "description": description, "created": time.time()}
        try:
            async with self._database.write() as connection:
                await connection.execute(knowledge_bases.insert(), row)
        except IntegrityError:
            raise Conflict(f"there is a knowledge base {name!r} already") from None
        return KnowledgeBase(embedding=None, **row)  # type: ignore[arg-type]

    async def get(self, id_or_name: str) -> KnowledgeBase:
        """One by its id or its name. Raises NotFound."""
        named = sa.or_(knowledge_bases.c.id == id_or_name, knowledge_bases.c.name == id_or_name)
        row = await self._database.row(sa.select(knowledge_bases).where(_ALIVE, named))
        if row is None:
            raise NotFound(f"there is no knowledge base {id_or_name!r}: `deepwell kb list` shows those there are")
        return _record(row)

    async def bind(
        self, knowledge_base_id: str, identity: EmbeddingIdentity, embedder: Mapping[str, str] | None = None
    ) -> None:
        """Say with which embedding its vectors are made, and how it is reached. Raises Conflict if it is another one.

        It stays so until the knowledge base is embedded anew (`rebind`).
        """
        async with self._database.write() as connection:
            await connection.execute(
                knowledge_bases.update()
                .where(knowledge_bases.c.id == knowledge_base_id, knowledge_bases.c.embedding.is_(None))
                .values(embedding=asdict(identity), embedder=embedder)
            )
        row = await self._database.row(
            sa.select(knowledge_bases.c.name, knowledge_bases.c.embedding).where(
                knowledge_bases.c.id == knowledge_base_id
            )
        )
        if row is None:
            raise NotFound("the knowledge base is gone")
        if EmbeddingIdentity(**row.embedding) != identity:
            raise Conflict(
                f"knowledge base {row.name!r} was made with embedding model {_words(row.embedding)}, the one in force "
                f"is {_words(asdict(identity))}: set the first one again, or embed it anew with `deepwell kb reembed`"
            )

    async def rebind(self, knowledge_base_id: str, identity: EmbeddingIdentity, embedder: Mapping[str, str]) -> None:
        """Its vectors come from another embedding from now on. Raises NotFound.

        What jobs had embedded for versions to come was embedded with the old one: it is forgotten.
        """
        async with self._database.write() as connection:
            done = await connection.execute(
                knowledge_bases.update()
                .where(_ALIVE, knowledge_bases.c.id == knowledge_base_id)
                .values(embedding=asdict(identity), embedder=dict(embedder))
            )
            if done.rowcount == 0:
                raise NotFound("the knowledge base is gone")
            await connection.execute(
                staged_chunks.update()
                .where(staged_chunks.c.knowledge_base_id == knowledge_base_id)
                .values(embedded=False)
            )

    async def mark_deleted(self, knowledge_base_id: str, job_id: str) -> None:
        """Make it and its documents invisible at once; its name is free again. The job does the rest."""
        now = time.time()
        async with self._database.write() as connection:
            gone = await connection.execute(
                knowledge_bases.update()
                .where(_ALIVE, knowledge_bases.c.id == knowledge_base_id)
                .values(deleted=now, job_id=job_id, name=f"deleted {knowledge_base_id}")
            )
            if gone.rowcount == 0:
                raise NotFound("there is no such knowledge base")
            await connection.execute(
                documents.update()
                .where(documents.c.knowledge_base_id == knowledge_base_id)
                .values(deleted=now, job_id=job_id, updated=now)
            )
            of_base = sources.c.knowledge_base_id == knowledge_base_id
            for row in await connection.execute(sa.select(sources.c.id).where(of_base)):
                gone_source = {"deleted": now, "job_id": job_id, "name": f"deleted {row.id}"}
                await connection.execute(sources.update().where(sources.c.id == row.id).values(gone_source))

    async def unfinished_deletions(self) -> list[tuple[str, str]]:
        """(id, job id) of those that are marked deleted but not yet purged."""
        rows = await self._database.rows(
            sa.select(knowledge_bases.c.id, knowledge_bases.c.job_id).where(knowledge_bases.c.deleted.is_not(None))
        )
        return [(row.id, row.job_id) for row in rows]

    async def list(self) -> list[KnowledgeBase]:
        """All of them, by name."""
        rows = await self._database.rows(sa.select(knowledge_bases).where(_ALIVE).order_by(knowledge_bases.c.name))
        return [_record(row) for row in rows]


def _record(row: Row) -> KnowledgeBase:
    return KnowledgeBase(
        id=row.id,
        name=row.name,
        description=row.description,
        embedding=EmbeddingIdentity(**row.embedding) if row.embedding else None,
        created=row.created,
        embedder=row.embedder,
        paused=row.paused,
    )


def _words(identity: dict[str, Any]) -> str:
    return f"{identity['model']} ({identity['revision']}, {identity['dimension']} dimensions)"
