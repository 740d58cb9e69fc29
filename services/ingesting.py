"""The steps of an ingestion: parse, split, embed, index, publish, sweep. services.workflows calls them in order.

A step may run again, so each is idempotent; what a step did inside (passages embedded so far) is in our own tables.
Every write carries the job's id, so that a job which no longer owns its document changes nothing.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pipelines.ingest import IngestParts, Target, chunk_pages, embed_and_index, flush, remove
from pipelines.types import Chunk
from services import notes, passwords
from services.embedders import Embedders
from services.job import Superseded
from services.line import Turn
from services.meter import Meter
from services.settings import IngestSettings
from services.store.database import database_errors
from services.store.records import Document
from services.store.store import Store

#: passages written to the full-text index at once
WORDS_BATCH = 500

Progress = Callable[[int, int | None], None]


class Parser(Protocol):
    """services.parsing.Parser: parses in a child process."""

    async def parse(
        self,
        path: Path,
        out: Path,
        progress: Progress,
        *,
        name: str = "",
        password: str = "",
        ocr: bool = True,
        tables: bool = False,
    ) -> int:
        """Write pages as JSON lines to `out`, give their number. Raises UnsupportedDocument, UnreadableDocument."""


class Ingesting:
    """The steps, with the parts they need."""

    def __init__(
        self,
        store: Store,
        parts: IngestParts,
        embedders: Embedders,
        parser: Parser,
        settings: IngestSettings,
        data_dir: Path,
    ) -> None:
        self._store = store
        self._parts = parts
        self._embedders = embedders
        self._parser = parser
        self._settings = settings
        self._data_dir = data_dir
        self._work = data_dir / "work"
        #: what embedding a page took in the last document; 0 before the first one
        self._page_seconds = 0.0

    async def _owned(self, document_id: str, job_id: str, **progress: Any) -> Document:
        if not await self._store.documents.update(document_id, job_id, **progress):
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return await self._store.documents.get(document_id)

    async def parse(self, document_id: str, job_id: str) -> int:
        """File to pages, in the job's folder; nothing to do where a run before a pause has done it."""
        document = await self._owned(document_id, job_id, step="parsing", pages_done=0)
        out = self._pages(job_id)
        if out.exists():
            pages = await asyncio.to_thread(lambda: sum(1 for _ in out.open("rb")))
            await self._owned(document_id, job_id, pages_total=pages, step="splitting")
            return pages
        loop = asyncio.get_running_loop()
        meter = Meter(
            lambda progress: self._store.documents.update(document_id, job_id, **progress), self._page_seconds
        )

        def progress(done: int, total: int | None) -> None:
            loop.call_soon_threadsafe(meter.note, done, total)

        with database_errors():
            out.parent.mkdir(parents=True, exist_ok=True)
            pages = await self._parser.parse(
                self._data_dir / "blobs" / document.sha256, out, progress, name=document.name, ocr=self._settings.ocr,
                tables=self._settings.pdf_tables,
                password=await asyncio.to_thread(passwords.read, self._work / job_id),
            )  # fmt: skip
            await asyncio.to_thread(notes.keep, out.with_name(notes.NAME), self._data_dir, document.sha256)
        await meter.settle()
        await self._owned(document_id, job_id, pages_total=pages, pages_done=0, step="splitting")
        return pages

    async def split(self, document_id: str, job_id: str) -> int:
        """Pages to passages, staged as the coming version."""
        document = await self._owned(document_id, job_id, step="splitting")
        pages = self._pages(job_id)
        if not pages.exists():  # this step runs after a restart on another machine, or its folder was cleaned
            await self.parse(document_id, job_id)
        target = Target(
            document_id=document_id,
            knowledge_base_id=document.knowledge_base_id,
            document=document.name,
            chunk_tokens=self._settings.chunk_tokens,
            overlap=self._settings.chunk_overlap,
        )
        leg = await self._embedders.of(await self._store.knowledge_bases.get(document.knowledge_base_id))
        chunks = await chunk_pages(leg.embeddings, pages, target)
        if not await self._store.chunks.stage(document_id, job_id, chunks):
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return len(chunks)

    async def embed(self, document_id: str, job_id: str, turn: Turn) -> int:
        """Vectors of what is new, in batches; each batch is marked, so that none is embedded twice."""
        document = await self._owned(document_id, job_id, step="embedding", pages_done=0)
        base = await self._store.knowledge_bases.get(document.knowledge_base_id)
        parts, spec = await self._embedders.parts(self._parts, base), self._embedders.spec_of(base)
        identity = parts.embeddings.identity
        await self._store.knowledge_bases.bind(base.id, identity, spec)
        await parts.index.ensure(base.id, identity)
        total, ready = await self._store.chunks.staged(document_id)
        began, worked, embedded, after = time.monotonic(), 0.0, 0, -1
        while chunks := await self._store.chunks.to_embed(document_id, self._settings.batch, after):
            batch_began = time.monotonic()
            await embed_and_index(parts, chunks)
            worked += time.monotonic() - batch_began
            embedded, after = embedded + len(chunks), chunks[-1].position
            done = ready + embedded
            progress = {
                "pages_done": document.pages_total * done // total,
                "eta": round((time.monotonic() - began) / embedded * (total - done), 1),
            }
            if not await self._store.chunks.mark_embedded(document_id, _ids(chunks), job_id, identity, **progress):
                raise Superseded("a newer job, a cancel or a deletion took the document over")
            await turn.again(total - done)
        if embedded and document.pages_total:
            self._page_seconds = worked * total / embedded / document.pages_total
        return embedded

    async def index(self, document_id: str, job_id: str) -> None:
        """Words of what is new; then both indexes are flushed."""
        document = await self._owned(document_id, job_id, step="finishing", eta=None)
        after, changed = -1, False
        while chunks := await self._store.chunks.to_index(document_id, WORDS_BATCH, after):
            await self._parts.lexical.upsert(chunks)
            after, changed = chunks[-1].position, True
        if changed:
            base = await self._store.knowledge_bases.get(document.knowledge_base_id)
            await flush(await self._embedders.parts(self._parts, base), base.id)

    async def publish(self, document_id: str, job_id: str, turn: Turn) -> int:
        """Swap versions: searches see the coming one from now on. Gives its passages."""
        if await self._store.chunks.to_embed(document_id, 1):  # the model was changed since, see services.reembedding
            await self.embed(document_id, job_id, turn)
            await self.index(document_id, job_id)
        published = await self._store.chunks.publish(document_id, job_id)
        if published is not None:
            return published
        document = await self._store.documents.find(document_id)
        if document is None or document.job_id != job_id or document.state != "succeeded":
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return document.chunks  # published just before a crash

    async def sweep(self, document_id: str) -> int:
        """Take what no version of a document needs any more out of the indexes. Gives how many."""
        swept = 0
        for knowledge_base_id, ids in (await self._store.chunks.stale(document_id)).items():
            await remove(self._parts, knowledge_base_id, ids)
            await self._store.chunks.forget_stale(ids)
            swept += len(ids)
        return swept

    async def clear(self, job_id: str) -> None:
        """Remove the pages of a job that has ended, and its password."""
        await asyncio.to_thread(shutil.rmtree, self._work / job_id, ignore_errors=True)

    def _pages(self, job_id: str) -> Path:
        return self._work / job_id / "pages.jsonl"


def _ids(chunks: list[Chunk]) -> list[str]:
    return [chunk.id for chunk in chunks]
