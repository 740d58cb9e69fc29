"""Durable workflows: lists of steps that the job library checkpoints. After a crash a job goes on at its last step.

A step may run again, so each is idempotent; what a step did inside (passages embedded so far) is in our own tables.
Every write carries the job's id, so that a job which no longer owns its document changes nothing.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from dbos import DBOS, StepOptions
from dbos import error as dbos_errors

from pipelines.errors import RagError
from pipelines.ingest import IngestParts, Target, chunk_pages, embed_and_index, flush, remove
from pipelines.types import Chunk, JobState
from services import notes, passwords
from services.jobs import DELETE, DELETE_KNOWLEDGE_BASE, INGEST, JobDead, Superseded
from services.meter import Meter
from services.repair import repair
from services.settings import IngestSettings
from services.store.database import database_errors
from services.store.records import Document
from services.store.store import Store
from services.turns import Turns

log = logging.getLogger(__name__)

#: begun so often without getting anywhere, a job is dead
MAX_ATTEMPTS = 5
#: begun so often, a job is suspected of crashing the worker and works alone
SUSPECT_ATTEMPTS = 2
#: tries of a step, with waits of 1, 2, 4 … s between them: two minutes for a model server to come back
STEP_TRIES = 8
#: passages written to the full-text index at once
WORDS_BATCH = 500

Progress = Callable[[int, int | None], None]


class Parser(Protocol):
    """services.parsing.Parser: parses in a child process."""

    async def parse(
        self, path: Path, out: Path, progress: Progress, *, name: str = "", password: str = "", ocr: bool = True
    ) -> int:
        """Write pages as JSON lines to `out`, give their number. Raises UnsupportedDocument, UnreadableDocument."""


class Workflows:
    """What the worker does, with the parts it needs. `register()` names the workflows to the job library."""

    def __init__(
        self, store: Store, parts: IngestParts, parser: Parser, settings: IngestSettings, data_dir: Path
    ) -> None:
        self._store = store
        self._parts = parts
        self._parser = parser
        self._settings = settings
        self._blobs = data_dir / "blobs"
        self._data_dir = data_dir
        self._work = data_dir / "work"
        self._turns = Turns()
        # documents are parsed while another one is embedded: parsing waits for files, embedding takes every core
        self._parsing = asyncio.Semaphore(settings.parse_processes)
        self._embedding = asyncio.Semaphore(1)
        self.retry_seconds = 1.0

    def register(self) -> None:
        """Before DBOS.launch: workflows are found again by these names after a restart."""
        for name, run in (
            (INGEST, self._run_ingestion),
            (DELETE, self._run_deletion),
            (DELETE_KNOWLEDGE_BASE, self._run_purge),
        ):
            DBOS.workflow(name=name, max_recovery_attempts=100)(_function(run))

    async def _run_ingestion(self, document_id: str, job_id: str) -> str:
        """The outermost boundary of an ingestion: whatever happens ends on the document, in words."""
        try:
            async with self._turns.document(document_id):
                document = await self._store.documents.find(document_id)
                suspect = document is not None and document.attempts >= SUSPECT_ATTEMPTS
                async with self._turns.work(suspect):
                    return await self._ingest(document_id, job_id)
        except Superseded:
            await self._clear(job_id)
            raise
        except RagError as error:
            state: JobState = "dead" if isinstance(error, JobDead) else "failed"
            await self._store.documents.end(document_id, job_id, state, str(error), error.code)
            await self._clear(job_id)
            raise
        except Exception as error:
            log.exception("job %s failed on an error nobody expected", job_id)
            words = f"Deepwell failed on this document ({type(error).__name__}: {error}); the worker's log has more"
            await self._store.documents.end(document_id, job_id, "failed", words, "internal_error")
            raise RagError(words) from error

    async def _ingest(self, document_id: str, job_id: str) -> str:
        async with self._parsing:
            await self._begin(document_id, job_id)
            await self._step("parse", self._parse, document_id, job_id)
            await self._step("split", self._split, document_id, job_id)
        async with self._embedding:
            await self._step("embed", self._embed, document_id, job_id)
            await self._step("index", self._index, document_id, job_id)
            await self._step("publish", self._publish, document_id, job_id)
        await self._step("sweep", self._sweep, document_id)
        await self._clear(job_id)
        return "succeeded"

    async def _begin(self, document_id: str, job_id: str) -> None:
        """Not a step: each run of the job counts, so that one which always crashes is found out."""
        attempts = await self._store.documents.begin(document_id, job_id)
        if attempts is None:
            document = await self._store.documents.find(document_id)
            if document is None or document.job_id != job_id or document.state != "succeeded":
                raise Superseded("a newer job, a cancel or a deletion took the document over")
        elif attempts > MAX_ATTEMPTS:
            raise JobDead(
                f"the worker crashed or was killed {attempts - 1} times while it worked on this document, so it is "
                "left alone now; see the worker's log for the reason, then retry the job"
            )

    async def _step(self, name: str, run: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Run one step: checkpointed, tried again while errors are retryable, given up at once when cancelled."""
        options: StepOptions = {
            "name": name,
            "retries_allowed": True,
            "max_attempts": STEP_TRIES,
            "interval_seconds": self.retry_seconds,
            "should_retry": _retryable,
            "preemptible": True,
        }
        try:
            return await DBOS.run_step_async(options, _function(run), *arguments)
        except dbos_errors.DBOSMaxStepRetriesExceeded as error:
            raise error.errors[-1] from error

    async def _owned(self, document_id: str, job_id: str, **progress: Any) -> Document:
        if not await self._store.documents.update(document_id, job_id, **progress):
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return await self._store.documents.get(document_id)

    async def _parse(self, document_id: str, job_id: str) -> int:
        document = await self._owned(document_id, job_id, step="parsing")
        out = self._pages(job_id)
        with database_errors():
            out.parent.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        meter = Meter(lambda total: self._store.documents.update(document_id, job_id, pages_total=total))

        def progress(_done: int, total: int | None) -> None:
            loop.call_soon_threadsafe(meter.note, total)

        with database_errors():
            pages = await self._parser.parse(
                self._blobs / document.sha256, out, progress, name=document.name, ocr=self._settings.ocr,
                password=await asyncio.to_thread(passwords.read, self._work / job_id),
            )  # fmt: skip
            await asyncio.to_thread(notes.keep, out.with_name(notes.NAME), self._data_dir, document.sha256)
        await meter.settle()
        await self._owned(document_id, job_id, pages_total=pages, step="splitting")
        return pages

    async def _split(self, document_id: str, job_id: str) -> int:
        document = await self._owned(document_id, job_id, step="splitting")
        pages = self._pages(job_id)
        if not pages.exists():  # this step runs after a restart on another machine, or its folder was cleaned
            await self._parse(document_id, job_id)
        target = Target(
            document_id=document_id,
            knowledge_base_id=document.knowledge_base_id,
            document=document.name,
            chunk_tokens=self._settings.chunk_tokens,
            overlap=self._settings.chunk_overlap,
        )
        chunks = await chunk_pages(self._parts.embeddings, pages, target)
        if not await self._store.chunks.stage(document_id, job_id, chunks):
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return len(chunks)

    async def _embed(self, document_id: str, job_id: str) -> int:
        document = await self._owned(document_id, job_id, step="embedding")
        await self._store.knowledge_bases.bind(document.knowledge_base_id, self._parts.embeddings.identity)
        await self._parts.index.ensure(document.knowledge_base_id, self._parts.embeddings.identity)
        total, ready = await self._store.chunks.staged(document_id)
        began, embedded, after = time.monotonic(), 0, -1
        while chunks := await self._store.chunks.to_embed(document_id, self._settings.batch, after):
            await embed_and_index(self._parts, chunks)
            embedded, after = embedded + len(chunks), chunks[-1].position
            done = ready + embedded
            progress = {
                "pages_done": document.pages_total * done // total,
                "eta": round((time.monotonic() - began) / embedded * (total - done), 1),
            }
            if not await self._store.chunks.mark_embedded(document_id, _ids(chunks), job_id, **progress):
                raise Superseded("a newer job, a cancel or a deletion took the document over")
        return embedded

    async def _index(self, document_id: str, job_id: str) -> None:
        document = await self._owned(document_id, job_id, step="finishing", eta=None)
        after, changed = -1, False
        while chunks := await self._store.chunks.to_index(document_id, WORDS_BATCH, after):
            await self._parts.lexical.upsert(chunks)
            after, changed = chunks[-1].position, True
        if changed:
            await flush(self._parts, document.knowledge_base_id)

    async def _publish(self, document_id: str, job_id: str) -> int:
        published = await self._store.chunks.publish(document_id, job_id)
        if published is not None:
            return published
        document = await self._store.documents.find(document_id)
        if document is None or document.job_id != job_id or document.state != "succeeded":
            raise Superseded("a newer job, a cancel or a deletion took the document over")
        return document.chunks  # published just before a crash

    async def _sweep(self, document_id: str) -> int:
        """Take what no version of a document needs any more out of the indexes. Gives how many."""
        swept = 0
        for knowledge_base_id, ids in (await self._store.chunks.stale(document_id)).items():
            await remove(self._parts, knowledge_base_id, ids)
            await self._store.chunks.forget_stale(ids)
            swept += len(ids)
        return swept

    async def sweep(self) -> None:
        """Sweep what jobs left that ended before their last step; documents that a job works on are left to it."""
        for document_id in await self._store.chunks.to_sweep():
            if not self._turns.busy(document_id):
                async with self._turns.document(document_id):
                    await self._sweep(document_id)

    async def repair(self) -> None:
        """Compare both indexes with SQL and make them hold what it says; not while a document is embedded."""
        for knowledge_base in await self._store.knowledge_bases.list():
            async with self._embedding:
                await repair(self._store, self._parts, knowledge_base, self._settings.batch)

    async def _run_deletion(self, document_id: str, job_id: str) -> dict[str, int]:
        async with self._turns.document(document_id):
            chunks = await self._step("retire", self._retire, document_id, job_id)
            swept = await self._step("sweep", self._sweep, document_id)
            rows, files = await self._step("purge", self._store.purge.document, document_id, job_id, self._blobs)
        return {"chunks": chunks, "vectors": swept, "words": swept, "documents": rows, "files": files}

    async def _retire(self, document_id: str, job_id: str) -> int:
        document = await self._store.documents.find(document_id)
        if document is None or document.job_id != job_id:
            raise Superseded("the document was added again before its deletion began")
        return await self._store.chunks.retire(document_id)

    async def _run_purge(self, knowledge_base_id: str, job_id: str) -> dict[str, int]:
        for document in await self._store.documents.being_deleted(job_id):
            async with self._turns.document(document.id):  # an ingestion that was cancelled has let go of it
                pass
        await self._step("vectors", self._parts.index.drop, knowledge_base_id)
        await self._step("words", self._drop_words, knowledge_base_id)
        found: dict[str, int] = await self._step(
            "purge", self._store.purge.knowledge_base, knowledge_base_id, self._blobs
        )
        return found

    async def _drop_words(self, knowledge_base_id: str) -> None:
        await self._parts.lexical.drop(knowledge_base_id)
        await self._parts.lexical.flush()

    async def _clear(self, job_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._work / job_id, ignore_errors=True)

    def _pages(self, job_id: str) -> Path:
        return self._work / job_id / "pages.jsonl"


def _function(run: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The job library writes attributes on what it is given, which methods do not take."""

    async def function(*arguments: Any) -> Any:
        return await run(*arguments)

    return function


def _retryable(error: BaseException) -> bool:
    return isinstance(error, RagError) and error.retryable


def _ids(chunks: list[Chunk]) -> list[str]:
    return [chunk.id for chunk in chunks]
