"""Durable workflows: lists of steps that the job library checkpoints. After a crash a job goes on at its last step.

The steps themselves are in services.ingesting and services.deleting.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dbos import DBOS

from pipelines.errors import Conflict, RagError
from pipelines.ingest import IngestParts
from pipelines.types import JobState
from services.deleting import Deleting
from services.embedders import Embedders
from services.ingesting import Ingesting, Parser
from services.job import DELETE, DELETE_KNOWLEDGE_BASE, INGEST, REEMBED, JobDead, Superseded
from services.jobs import Jobs
from services.line import MANY, Line
from services.receipts import receipt
from services.reembedding import RecallTooLow, Reembedding
from services.repair import repair
from services.settings import IngestSettings
from services.steps import step, workflow
from services.store.store import Store
from services.turns import Turns
from services.watched_jobs import WatchedJobs

log = logging.getLogger(__name__)

#: begun so often without getting anywhere, a job is dead
MAX_ATTEMPTS = 5
#: begun so often, a job is suspected of crashing the worker and works alone
SUSPECT_ATTEMPTS = 2
#: in a receipt, when a content stays
SHARED = "the content is kept: another document has the same"


class Workflows:
    """What the worker does, with the parts it needs. `register()` names the workflows to the job library."""

    def __init__(
        self,
        store: Store,
        parts: IngestParts,
        embedders: Embedders,
        parser: Parser,
        jobs: Jobs,
        settings: IngestSettings,
        data_dir: Path,
    ) -> None:
        self._store = store
        self._parts = parts
        self._embedders = embedders
        self._jobs = jobs
        self._settings = settings
        self._ingesting = Ingesting(store, parts, embedders, parser, settings, data_dir)
        self._reembedding = Reembedding(store, parts, embedders, settings.batch)
        self._deleting = Deleting(store, parts, jobs, data_dir)
        self._turns = Turns(data_dir / "turns")
        # documents are parsed while another one is embedded: parsing waits for files, embedding takes every core
        self._parsing = asyncio.Semaphore(settings.parse_processes)
        self._line = Line()
        self.retry_seconds = 1.0
        self.watched = WatchedJobs()
        #: from the switch to another model until the old vectors go: a search gives up after 10 s
        self.grace_seconds = 15.0

    def register(self) -> None:
        """Before DBOS.launch: workflows are found again by these names after a restart."""
        for name, run in (
            (INGEST, self._run_ingestion),
            (DELETE, self._run_deletion),
            (DELETE_KNOWLEDGE_BASE, self._run_purge),
            (REEMBED, self._run_reembedding),
        ):
            workflow(name, functools.partial(self.watched.run, name, run))

    async def _run_ingestion(self, document_id: str, job_id: str) -> str:
        """The outermost boundary of an ingestion: whatever happens ends on the document, in words."""
        try:
            async with self._turns.document(document_id):
                document = await self._store.documents.find(document_id)
                suspect = document is not None and document.attempts >= SUSPECT_ATTEMPTS
                async with self._turns.work(suspect):
                    return await self._ingest(document_id, job_id)
        except Superseded:
            document = await self._store.documents.find(document_id)
            if document is None or document.job_id != job_id or document.state != "paused":
                await self._ingesting.clear(job_id)
            raise
        except RagError as error:
            state: JobState = "dead" if isinstance(error, JobDead) else "failed"
            await self._store.documents.end(document_id, job_id, state, str(error), error.code)
            await self._ingesting.clear(job_id)
            raise
        except Exception as error:
            log.exception("job %s failed on an error nobody expected", job_id)
            words = f"Deepwell failed on this document ({type(error).__name__}: {error}); the worker's log has more"
            await self._store.documents.end(document_id, job_id, "failed", words, "internal_error")
            raise RagError(words) from error

    async def _ingest(self, document_id: str, job_id: str) -> str:
        async with self._parsing:
            await self._begin(document_id, job_id)
            await self._step("parse", self._ingesting.parse, document_id, job_id)
            passages = await self._step("split", self._ingesting.split, document_id, job_id)
        async with self._line.turn(passages) as turn:
            await self._step("embed", functools.partial(self._ingesting.embed, turn=turn), document_id, job_id)
            await self._step("index", self._ingesting.index, document_id, job_id)
            await self._step("publish", functools.partial(self._ingesting.publish, turn=turn), document_id, job_id)
        await self._step("sweep", self._ingesting.sweep, document_id)
        await self._ingesting.clear(job_id)
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
        return await step(name, run, *arguments, seconds=self.retry_seconds)

    async def sweep(self) -> None:
        """Sweep what jobs left that ended before their last step; documents that a job works on are left to it."""
        for document_id in await self._store.chunks.to_sweep():
            if not self._turns.busy(document_id):
                with contextlib.suppress(Conflict):  # another worker is at it
                    async with self._turns.document(document_id, wait=False):
                        await self._ingesting.sweep(document_id)

    async def repair(self) -> None:
        """Compare both indexes with SQL and make them hold what it says, in turns with documents."""
        for base in await self._store.knowledge_bases.list():
            async with self._line.turn(0) as turn:
                parts = await self._embedders.parts(self._parts, base)
                await repair(self._store, parts, base, self._settings.batch, turn.again)
                if base.embedding == parts.embeddings.identity and not await self._jobs.reembedding(base.id):
                    await self._reembedding.drop(base)  # what a re-embedding left that was cancelled

    async def _run_deletion(self, document_id: str, job_id: str) -> dict[str, Any]:
        steps = self._deleting
        async with self._turns.document(document_id):
            subject, before = await self._step("count", steps.count, document_id, job_id)
            indexed = await self._step("unindex", steps.unindex, document_id, job_id)
            await self._step("erase", steps.erase, subject, job_id)
            after = indexed | await self._step("count again", steps.count_rest, subject)
        return {"receipt": receipt(before, after), "notes": [SHARED] if after["files"] else []}

    async def _run_purge(self, knowledge_base_id: str, job_id: str) -> dict[str, Any]:
        deleted = [document.id for document in await self._store.documents.being_deleted(job_id)]
        for document_id in deleted:
            async with self._turns.document(document_id):  # an ingestion that was cancelled has let go of it
                pass
        steps = self._deleting
        hashes = await self._step("hashes", self._store.purge.hashes, knowledge_base_id)
        before = await self._step("count", steps.count_knowledge_base, knowledge_base_id, hashes)
        await self._step("erase", steps.erase_knowledge_base, knowledge_base_id, deleted)
        after = await self._step("count again", steps.count_knowledge_base, knowledge_base_id, hashes)
        return {"receipt": receipt(before, after), "notes": [SHARED] if after["files"] else []}

    async def _run_reembedding(self, knowledge_base_id: str, job_id: str, spec: dict[str, str]) -> dict[str, Any]:
        steps = self._reembedding

        async def progress(done: int, total: int) -> None:
            await self._jobs.note(job_id, {"done": done, "total": total})

        async def copy() -> None:
            async with self._line.turn(MANY) as turn:  # documents that are added meanwhile go first, mostly
                while await steps.copy(knowledge_base_id, spec, progress):
                    await turn.again(MANY)

        await self._step("copy", copy)
        try:
            found = await self._step("check", steps.check, knowledge_base_id, spec)
        except RecallTooLow:
            await self._step("give up", steps.give_up, knowledge_base_id, spec)
            raise
        async with self._line.turn(0):
            model = await self._step("switch", steps.switch, knowledge_base_id, spec)
        await DBOS.sleep_async(self.grace_seconds)
        base = await self._store.knowledge_bases.get(knowledge_base_id)
        await self._step("drop", steps.drop, base)
        return {"notes": [f"embedded with {model} now: {found}"]}
