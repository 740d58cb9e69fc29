"""The last step of deletions: rows go, and the content of files that nobody names any more."""

import asyncio
import shutil
import time
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.notes import FOLDER, forget
from services.store.database import Database
from services.store.tables import chunks, documents, knowledge_bases, left_out, sources, staged_chunks, stale_chunks


class Purge:
    """Removes for good what is marked deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def document(self, document: str, job_id: str, blobs: Path) -> tuple[int, int]:
        """Remove the row and, if no other document has the same content, the file. Gives (rows, files) removed."""
        async with self._database.write() as connection:
            row = (
                await connection.execute(
                    documents.delete()
                    .where(documents.c.id == document, documents.c.job_id == job_id, documents.c.deleted.is_not(None))
                    .returning(documents.c.sha256)
                )
            ).first()
        return (1, await self.blob(row[0], blobs)) if row else (0, 0)

    async def blob(self, sha256: str, blobs: Path) -> int:
        """Remove the file with this content if no document names it. Gives the number of files removed.

        The file goes inside the transaction: an upload of the same content waits for it, and then writes it anew.
        """
        async with self._database.write(lock=sha256) as connection:
            named = await connection.execute(sa.select(documents.c.id).where(documents.c.sha256 == sha256).limit(1))
            path = blobs / sha256
            if named.first() is not None or not path.exists():
                return 0
            path.unlink()
            forget(blobs.parent, sha256)
            return 1

    async def rows_of(self, knowledge_base_id: str) -> tuple[int, int]:
        """How many rows hold (passages, documents) of a knowledge base, deleted or not."""
        counts = []
        for table in (chunks, staged_chunks, documents):
            query = sa.select(sa.func.count()).select_from(table).where(table.c.knowledge_base_id == knowledge_base_id)
            counts.append(await self._database.count(query))
        return counts[0] + counts[1], counts[2]

    async def hashes(self, knowledge_base_id: str) -> list[str]:
        """SHA-256 of every content of a knowledge base, deleted or not."""
        query = sa.select(documents.c.sha256).where(documents.c.knowledge_base_id == knowledge_base_id).distinct()
        return sorted(row[0] for row in await self._database.rows(query))

    async def knowledge_base(self, knowledge_base_id: str, blobs: Path) -> None:
        """Remove every row of a knowledge base that is marked deleted, and files that nobody names any more."""
        async with self._database.write() as connection:
            of_base = sa.select(sources.c.id).where(sources.c.knowledge_base_id == knowledge_base_id)
            await connection.execute(left_out.delete().where(left_out.c.source_id.in_(of_base)))
            for table in (chunks, staged_chunks, stale_chunks, sources):
                await _delete(connection, table, knowledge_base_id)
            contents = await connection.execute(
                documents.delete()
                .where(documents.c.knowledge_base_id == knowledge_base_id)
                .returning(documents.c.sha256)
            )
            hashes = [row[0] for row in contents]
            await connection.execute(
                knowledge_bases.delete().where(
                    knowledge_bases.c.id == knowledge_base_id, knowledge_bases.c.deleted.is_not(None)
                )
            )
        for sha256 in sorted(set(hashes)):
            await self.blob(sha256, blobs)

    async def leftovers(self, data_dir: Path, age: float = 3600.0) -> int:
        """Remove what crashes left: contents that nobody names, half uploads, pages of jobs that have ended.

        Only what is older than `age` seconds: an upload keeps its file a moment before it has a document. Gives the
        number of files and folders removed.
        """
        active = await self._database.rows(
            sa.select(documents.c.job_id).where(documents.c.state.in_(("queued", "running", "paused")))
        )
        known = await self._database.rows(sa.select(sources.c.id, sources.c.job_id))
        jobs = {row[0] for row in active} | {row.job_id for row in known}
        removed = 0
        for path in await asyncio.to_thread(_older, data_dir / "blobs", age):
            removed += await self.blob(path.name, path.parent)
        for path in await asyncio.to_thread(_older, data_dir / FOLDER, age):
            if not (data_dir / "blobs" / path.stem).exists():
                await asyncio.to_thread(path.unlink, missing_ok=True)
                removed += 1
        for path in await asyncio.to_thread(_older, data_dir / "incoming", age):
            await asyncio.to_thread(path.unlink, missing_ok=True)
            removed += 1
        for path in await asyncio.to_thread(_older, data_dir / "work", age):
            if path.name not in jobs:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
                removed += 1
        alive = {row.id for row in known}
        for path in await asyncio.to_thread(_older, data_dir / "sources", age):
            if path.name not in alive:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
                removed += 1
        return removed


def _older(folder: Path, age: float) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if time.time() - path.stat().st_mtime > age]


async def _delete(connection: AsyncConnection, table: sa.Table, knowledge_base_id: str) -> None:
    await connection.execute(table.delete().where(table.c.knowledge_base_id == knowledge_base_id))
