"""Jobs as the HTTP service sees them: enqueue, look, pause, cancel, run again. The worker runs them (workflows.py).

Durable workflows come from the library `dbos`; services/jobs_database.py, workflows.py and worker.py import it.
docs/concepts/jobs.md tells the whole story.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from pipelines.errors import Conflict, NotFound
from pipelines.types import JobState
from services.job import (
    APPLICATION,
    DELETE,
    DELETE_KNOWLEDGE_BASE,
    DELETE_QUEUE,
    ENDED,
    INGEST,
    INGEST_QUEUE,
    REEMBED,
    REEMBED_QUEUE,
    REMOVE_SOURCE,
    SYNC,
    SYNC_QUEUE,
    VERSION,
    Job,
    JobDead,
    Superseded,
    job_of,
    of_document,
    subject,
)
from services.jobs_database import connect, jobs_url
from services.settings import Settings
from services.store.database import database_errors
from services.store.documents import ACTIVE
from services.store.names import new_job_id
from services.store.records import Document
from services.store.store import Store

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

#: the last two are here for errors that older versions wrote: the job library finds them by this module's name
__all__ = ["JobDead", "Jobs", "Superseded"]


class Jobs:
    """What can be done about jobs without running any. `await Jobs.open(settings, store)`, `close()` at the end."""

    def __init__(self, store: Store, client: "DBOSClient") -> None:
        self._store = store
        self._client = client

    @classmethod
    async def open(cls, settings: Settings, store: Store) -> Self:
        """Connect to the job database, making it if needed. Raises StorageFull, Unavailable."""
        return cls(store, await asyncio.to_thread(connect, jobs_url(settings), APPLICATION))

    async def close(self) -> None:
        """Let go of connections."""
        await asyncio.to_thread(self._client.destroy)

    async def ingest(self, document: Document) -> None:
        """Queue the job that the document names, unless it is paused. Doing it twice is doing it once."""
        if document.state == "paused":
            return
        await self._enqueue(INGEST, INGEST_QUEUE, document.job_id, document.id, document.job_id)

    async def delete_document(self, document_id: str) -> Job:
        """Make a document invisible now and queue what removes it from every store. Raises NotFound."""
        before = await self._store.documents.get(document_id)
        document = await self._store.documents.mark_deleted(document_id)
        await self.stop(before.job_id)
        await self.resume_deletion(document.id, document.job_id)
        return await self.get(document.job_id)

    async def delete_knowledge_base(self, knowledge_base_id: str) -> Job:
        """Make a knowledge base invisible now and queue what removes it from every store. Raises NotFound."""
        job_id = f"delete-{knowledge_base_id}"
        running = await self._store.documents.list(knowledge_base_id, states=ACTIVE, limit=1_000_000)
        await self._store.knowledge_bases.mark_deleted(knowledge_base_id, job_id)
        reembedding = await self.reembedding(knowledge_base_id)
        await self._cancel_workflows([*(document.job_id for document in running), *reembedding])
        await self.resume_purge(knowledge_base_id, job_id)
        return await self.get(job_id)

    async def reembed(self, knowledge_base_id: str, spec: Mapping[str, str]) -> Job:
        """Queue a knowledge base to be embedded anew by another model. Raises Conflict if that is under way."""
        if running := await self.reembedding(knowledge_base_id):
            raise Conflict(f"it is being embedded anew already: wait for job {running[0]}, or cancel it")
        job_id = new_job_id("reembed", knowledge_base_id)
        await self._enqueue(REEMBED, REEMBED_QUEUE, job_id, knowledge_base_id, job_id, dict(spec))
        return await self.get(job_id)

    async def reembedding(self, knowledge_base_id: str) -> list[str]:
        """Ids of the jobs that embed a knowledge base anew and have not ended."""
        with database_errors():
            found = await self._client.list_workflows_async(
                workflow_id_prefix=f"reembed-{knowledge_base_id}-",
                status=["ENQUEUED", "DELAYED", "PENDING"],
                load_input=False,
                load_output=False,
            )
        return [status.workflow_id for status in found]

    async def note(self, job_id: str, progress: dict[str, int]) -> None:
        """Keep how far a job is that works on a whole knowledge base."""
        with database_errors():
            await self._client.update_workflow_attributes_async(job_id, progress)

    async def resume_deletion(self, document_id: str, job_id: str) -> None:
        """Queue the deletion of a document that is marked deleted. Doing it twice is doing it once."""
        await self._enqueue(DELETE, DELETE_QUEUE, job_id, document_id, job_id)

    async def resume_purge(self, knowledge_base_id: str, job_id: str) -> None:
        """Queue the deletion of a knowledge base that is marked deleted. Doing it twice is doing it once."""
        await self._enqueue(DELETE_KNOWLEDGE_BASE, DELETE_QUEUE, job_id, knowledge_base_id, job_id)

    async def sync(self, source_id: str, allow_empty: bool = False) -> None:
        """Queue a sync of a source; while one is under way, another comes at once after it."""
        if source := await self._store.sources.queue(source_id, allow_empty):
            await self.resume_sync(source.id, source.job_id)

    async def resume_sync(self, source_id: str, job_id: str) -> None:
        """Queue the sync that a source names. Doing it twice is doing it once."""
        await self._enqueue(SYNC, SYNC_QUEUE, job_id, source_id, job_id)

    async def remove_source(self, source_id: str, keep_documents: bool = False) -> None:
        """Make a source invisible now and queue what removes it, with its documents unless they are kept."""
        before = await self._store.sources.get(source_id)
        source = await self._store.sources.mark_deleted(before.id, keep_documents)
        await self.stop(before.job_id)
        await self.resume_removal(source.id, source.job_id)

    async def resume_removal(self, source_id: str, job_id: str) -> None:
        """Queue the removal of a source that is marked deleted. Doing it twice is doing it once."""
        await self._enqueue(REMOVE_SOURCE, SYNC_QUEUE, job_id, source_id, job_id)

    async def cancel(self, job_id: str) -> Job:
        """Stop an ingestion; what searches saw before stays. Raises NotFound, Conflict if it has ended already."""
        job = await self.get(job_id)
        if job.kind == "reembed" and job.state not in ENDED:
            await self._cancel_workflows([job_id])
            return await self.get(job_id)
        if job.kind == "delete" or job.document_id is None:
            raise Conflict("a deletion cannot be cancelled: the document is invisible already; add it again instead")
        words = "cancelled; `deepwell add` the file again, or retry the job, to go on"
        if not await self._store.documents.cancel(job.document_id, job_id, words):
            raise Conflict(f"job {job_id} has ended already: {job.state}")
        await self._cancel_workflows([job_id])
        return await self.get(job_id)

    async def pause(self, job_id: str) -> Job:
        """Let an ingestion wait: what is done stays, the worker goes on with others. Raises NotFound, Conflict."""
        job = await self.get(job_id)
        if job.document_id is None or not await self._store.pauses.pause(job.document_id, job_id):
            raise Conflict(f"job {job_id} is {job.state}: only ingestions that are queued or running can be paused")
        await self._cancel_workflows([job_id])
        return await self.get(job_id)

    async def resume(self, job_id: str) -> Job:
        """Let a paused ingestion go on where it stopped. Raises NotFound, Conflict."""
        job = await self.get(job_id)
        if job.document_id is None or not await self._store.pauses.resume(job.document_id, job_id):
            raise Conflict(f"job {job_id} is {job.state}, not paused")
        await self.take_up([await self._store.documents.get(job.document_id)])
        return await self.get(job_id)

    async def pause_knowledge_base(self, knowledge_base_id: str) -> int:
        """Let every ingestion of a knowledge base wait, those to come too. Gives how many do now. Raises NotFound."""
        waiting = await self._store.pauses.pause_base(knowledge_base_id)
        await self._cancel_workflows(waiting)
        return len(waiting)

    async def resume_knowledge_base(self, knowledge_base_id: str) -> int:
        """Let all of them go on. Gives how many. Raises NotFound."""
        found = await self._store.documents.find_all(await self._store.pauses.resume_base(knowledge_base_id))
        await self.take_up(list(found.values()))
        return len(found)

    async def take_up(self, waiting: Sequence[Document]) -> None:
        """Queue documents that are no longer paused: a job that had begun goes on, one that had not begins."""
        known = await self.statuses([document.job_id for document in waiting])
        for document in waiting:
            if document.job_id in known:
                await self.restart(document.job_id, INGEST_QUEUE)
            else:
                await self.ingest(document)

    async def retry(self, document_id: str, *, again: bool = False) -> Job:
        """Queue a document again whose job failed, died or was cancelled; what is done is not done again.

        `again` does so for one that succeeded, too: it is read and split anew, by the settings of today, and searches
        see what they saw until that is done. Raises NotFound, Conflict if there is nothing to retry.
        """
        states: tuple[JobState, ...] = ("failed", "dead", "cancelled")
        document = await self._store.documents.new_job(document_id, only_if=ENDED if again else states)
        if document is None:
            found = await self._store.documents.get(document_id)
            fix = "resume it" if found.state == "paused" else "only failed, dead or cancelled ones are retried"
            raise Conflict(f"document {found.name!r} is {found.state}: {fix}")
        await self.ingest(document)
        return await self.get(document.job_id)

    async def get(self, job_id: str) -> Job:
        """One job. Raises NotFound."""
        found = await self.statuses([job_id])
        if job_id in found and found[job_id].name not in (SYNC, REMOVE_SOURCE):  # those are shown with their source
            return (await self._shown([found[job_id]]))[0]
        document = await self._store.documents.of_job(job_id)  # added while paused, or the job's record is too old
        if document is None:
            raise NotFound(f"there is no job {job_id!r}")
        return of_document(document)

    async def wait(self, job_id: str, timeout: float = 600.0, poll: float = 0.2) -> Job:
        """The job once it has ended, or as it is after `timeout` seconds. Raises NotFound."""
        end = time.monotonic() + timeout
        while True:  # another process ends it: there is nothing here to wait on
            job = await self.get(job_id)
            if job.state in ENDED or time.monotonic() > end:
                return job
            await asyncio.sleep(poll)

    async def statuses(self, job_ids: Sequence[str]) -> "dict[str, WorkflowStatus]":
        """What the job library knows of these jobs."""
        if not job_ids:
            return {}
        with database_errors():
            found = await self._client.list_workflows_async(workflow_ids=[*job_ids])
        return {status.workflow_id: status for status in found}

    async def stop(self, job_id: str) -> None:
        """Stop a job that no longer owns its document; not an error if it has ended."""
        await self._cancel_workflows([job_id])

    async def restart(self, job_id: str, queue: str) -> None:
        """Run a job that has ended, or that an older version began, again from its first step under the same id."""
        with database_errors():
            await self._client.cancel_workflow_async(job_id)
            await self._client.rewind_workflow_async(job_id, application_version=VERSION, queue_name=queue)

    async def prune(self, days: float = 30.0) -> int:
        """Forget jobs that ended so long ago. Gives how many."""
        before = datetime.fromtimestamp(time.time() - days * 86400, UTC).isoformat()
        with database_errors():
            old = await self._client.list_workflows_async(
                completed_before=before, limit=1000, load_input=False, load_output=False
            )
            if old:
                await self._client.delete_workflows_async([status.workflow_id for status in old])
        return len(old)

    async def of_document(self, document_id: str) -> list[str]:
        """Ids of the ingestions of a document that the job library still knows."""
        with database_errors():
            found = await self._client.list_workflows_async(
                workflow_id_prefix=f"ingest-{document_id}-", load_input=False, load_output=False
            )
        return [status.workflow_id for status in found]

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Remove jobs that have ended from the job library's books."""
        if job_ids:
            with database_errors():
                await self._client.delete_workflows_async([*job_ids])

    async def _shown(self, found: "Sequence[WorkflowStatus]") -> list[Job]:
        documents = await self._store.documents.find_all({subject(status) for status in found})
        return [job_of(status, documents.get(subject(status))) for status in found]

    async def _cancel_workflows(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            with database_errors():
                await self._client.cancel_workflows_async([*job_ids])

    async def _enqueue(self, name: str, queue: str, job_id: str, *arguments: str | dict[str, str]) -> None:
        with database_errors():
            await self._client.enqueue_async(
                {"workflow_name": name, "queue_name": queue, "workflow_id": job_id, "app_version": VERSION}, *arguments
            )

    async def ingestions(
        self, knowledge_base_id: str | None, states: Sequence[JobState], *, limit: int = 100, offset: int = 0
    ) -> list[Job]:
        """The latest ingestion of each document in these states, by name: `failed` and `dead` are the dead letters."""
        found = await self._store.documents.list(knowledge_base_id, states=states, limit=limit, offset=offset)
        return [of_document(document) for document in found]

    async def list(self, *, limit: int = 100, offset: int = 0) -> list[Job]:
        """Jobs, newest first; deletions too."""
        with database_errors():
            found = await self._client.list_workflows_async(
                name=[INGEST, DELETE, DELETE_KNOWLEDGE_BASE, REEMBED], limit=limit, offset=offset, sort_desc=True
            )
        return await self._shown(found)
