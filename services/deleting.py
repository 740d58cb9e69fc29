"""The steps of a deletion: vectors first, then the full-text index, the passages, the content, the rows, the jobs.

The document is invisible since the request: searches end with the texts in SQL, and what is marked deleted is not
given out (services.store.passages). So each step may fail and be done again later, and nobody sees half of it.
"""

import asyncio
import shutil
from pathlib import Path

from pipelines.ingest import IngestParts, remove
from services import receipts
from services.job import Superseded
from services.jobs import Jobs
from services.receipts import Counts, Subject
from services.store.records import Document
from services.store.store import Store


class Deleting:
    """The steps, with the parts they need."""

    def __init__(self, store: Store, parts: IngestParts, jobs: Jobs, data_dir: Path) -> None:
        self._store = store
        self._parts = parts
        self._jobs = jobs
        self._data_dir = data_dir
        self._blobs = data_dir / "blobs"

    async def count(self, document_id: str, job_id: str) -> tuple[Subject, Counts]:
        """What every store has of a document that is marked deleted. Raises Superseded if it came back."""
        document = await self._mine(document_id, job_id)
        base, ids = document.knowledge_base_id, await self._store.chunks.ids_of(document_id)
        subject = Subject(document_id=document_id, knowledge_base_id=base, sha256=document.sha256)
        indexed = await receipts.count_indexed(self._parts, base, ids)
        return subject, indexed | await self.count_rest(subject)

    async def count_rest(self, subject: Subject) -> Counts:
        """What the stores beside the indexes have of it."""
        return await receipts.count_document(self._store, self._jobs, self._data_dir, subject)

    async def unindex(self, document_id: str, job_id: str) -> Counts:
        """Take the passages out of both indexes, vectors first. Gives what the indexes have of them afterwards."""
        document = await self._mine(document_id, job_id)
        ids = await self._store.chunks.ids_of(document_id)
        await remove(self._parts, document.knowledge_base_id, ids)
        return await receipts.count_indexed(self._parts, document.knowledge_base_id, ids)

    async def erase(self, subject: Subject, job_id: str) -> None:
        """Remove passages, parsed text, row, content and jobs; nothing of a document that was added again meanwhile."""
        document_id = subject.document_id
        if await self._store.documents.find(document_id):
            if not await self._store.chunks.erase(document_id, job_id):
                raise Superseded("the document was added again while it was being deleted")
            await self._store.purge.document(document_id, job_id, self._blobs)
        await self._store.purge.blob(subject.sha256, self._blobs)
        for path in await asyncio.to_thread(receipts.parsed, self._data_dir, document_id, ""):
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        await self._jobs.forget(await self._jobs.of_document(document_id))

    async def _mine(self, document_id: str, job_id: str) -> Document:
        document = await self._store.documents.find(document_id)
        if document is None or document.job_id != job_id:
            raise Superseded("the document was added again while it was being deleted")
        return document

    async def count_knowledge_base(self, knowledge_base_id: str, hashes: list[str]) -> Counts:
        """What every store has of a knowledge base; `hashes` are those of its contents."""
        return await receipts.count_knowledge_base(
            self._store, self._parts, self._data_dir, knowledge_base_id, hashes
        )  # fmt: skip

    async def erase_knowledge_base(self, knowledge_base_id: str, document_ids: list[str]) -> None:
        """Remove vectors, then words, then everything else of a knowledge base that is marked deleted."""
        await self._parts.index.drop(knowledge_base_id)
        await self._parts.lexical.drop(knowledge_base_id)
        await self._parts.lexical.flush()
        await self._store.purge.knowledge_base(knowledge_base_id, self._blobs)
        for document_id in document_ids:
            for path in await asyncio.to_thread(receipts.parsed, self._data_dir, document_id, ""):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
