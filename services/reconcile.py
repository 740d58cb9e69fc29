"""What two databases say about a job can differ after a crash between two writes. This makes them agree again."""

import logging
import time

from services.job import DELETE_QUEUE, ENDED, INGEST_QUEUE, SYNC_QUEUE, VERSION, state_of
from services.jobs import Jobs
from services.store.records import Document
from services.store.store import Store

log = logging.getLogger(__name__)

#: an upload writes its document first and queues its job a moment later; that is no difference
GRACE_SECONDS = 10.0
#: a deletion that failed is begun again so often: nobody else would, and the document is invisible already
RETRY_SECONDS = 60.0


async def reconcile(store: Store, jobs: Jobs, grace: float = GRACE_SECONDS) -> int:
    """Queue what was never queued, end what has ended, begin failed deletions again. Gives how many were put right.

    The worker calls it at its start and every few seconds.
    """
    ingestions, deletions = await _ingestions(store, jobs, grace), await _deletions(store, jobs, grace)
    return ingestions + deletions + await _syncs(store, jobs, grace)


async def _ingestions(store: Store, jobs: Jobs, grace: float) -> int:
    documents = [document for document in await store.documents.active() if _older(document, grace)]
    known = await jobs.statuses([document.job_id for document in documents])
    changed = 0
    for document in documents:
        status = known.get(document.job_id)
        if status is None:
            log.warning("job %s was never queued: queued now", document.job_id)
            await jobs.ingest(document)
        elif document.state == "queued" and state_of(status.status, status.error) == "cancelled":
            await jobs.restart(document.job_id, INGEST_QUEUE)  # it was paused, and is to go on
        elif (state := state_of(status.status, status.error)) in ENDED:
            log.warning("job %s ended as %s without a word to its document", document.job_id, state)
            words = str(status.error or f"the job ended as {state}; see the worker's log, then retry it")
            ended = "failed" if state == "succeeded" else state
            await store.documents.end(document.id, document.job_id, ended, words, ended)
        elif status.app_version not in (None, VERSION):
            log.warning("job %s was begun by another version of Deepwell: begun again", document.job_id)
            await jobs.restart(document.job_id, INGEST_QUEUE)
        else:
            continue
        changed += 1
    return changed


async def _deletions(store: Store, jobs: Jobs, grace: float) -> int:
    documents = [document for document in await store.documents.being_deleted() if _older(document, grace)]
    purges = await store.knowledge_bases.unfinished_deletions()
    known = await jobs.statuses([document.job_id for document in documents] + [job_id for _, job_id in purges])
    changed = 0
    for document in documents:
        if document.job_id not in known:
            await jobs.resume_deletion(document.id, document.job_id)
            changed += 1
    for knowledge_base_id, job_id in purges:
        if job_id not in known:
            await jobs.resume_purge(knowledge_base_id, job_id)
            changed += 1
    for job_id, status in known.items():
        failed = status.status in ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
        old = status.app_version not in (None, VERSION)
        if (failed and time.time() - (status.updated_at or 0) / 1000 > RETRY_SECONDS) or (old and not failed):
            log.warning("deletion %s is begun again: %s", job_id, status.error or status.status)
            await jobs.restart(job_id, DELETE_QUEUE)
            changed += 1
    return changed


async def _syncs(store: Store, jobs: Jobs, grace: float) -> int:
    now = time.time()
    running = [one for one in await store.sources.list() if one.state in ("queued", "running")]
    removed = await store.sources.being_deleted()
    sources = [one for one in (*running, *removed) if now - one.updated >= grace]
    known = await jobs.statuses([one.job_id for one in sources])
    changed = 0
    for source in sources:
        status = known.get(source.job_id)
        if status is None:
            again = jobs.resume_removal if source.deleted else jobs.resume_sync
            await again(source.id, source.job_id)
        elif (state := state_of(status.status, status.error)) not in ENDED:
            if status.app_version in (None, VERSION):
                continue
            await jobs.restart(source.job_id, SYNC_QUEUE)
        elif source.deleted:
            if now - (status.updated_at or 0) / 1000 < RETRY_SECONDS:
                continue
            await jobs.restart(source.job_id, SYNC_QUEUE)
        else:
            words = str(status.error or f"the sync ended as {state}; see the worker's log, then sync again")
            ended = {"state": "failed", "error": words, "error_code": state, "step": "", "ended": now}
            await store.sources.update(source.id, source.job_id, **ended)
        log.warning("sync %s was put right", source.job_id)
        changed += 1
    return changed


def _older(document: Document, seconds: float) -> bool:
    return time.time() - document.updated >= seconds
