"""Jobs: ingestions and deletions, and how far they are."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from pipelines.errors import Conflict, NotFound
from pipelines.types import Caller, JobState
from services import job as jobs
from services.api.deps import Parts, iso
from services.api.following import EVENTS, follow
from services.api.job_schemas import Job, Jobs
from services.auth import Ingester
from services.build import Deepwell
from services.errors import responses
from services.store.documents import ACTIVE
from services.streamed import STREAM_HEADERS

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("", responses=responses(NotFound))
async def list_jobs(
    caller: Ingester,
    deepwell: Parts,
    unfinished: bool = False,
    knowledge_base: Annotated[str, Query(description="Its name or id.")] = "",
    state: Annotated[list[JobState] | None, Query(description="`failed` and `dead`: the dead letters.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Jobs:
    """Jobs of the knowledge bases that the key may use, newest first.

    With `state` or `knowledge_base` the latest ingestion of each document that is in one of these states, by name.
    """
    if state or knowledge_base:
        base = (await deepwell.knowledge_base(caller, knowledge_base)).id if knowledge_base else None
        found = await deepwell.jobs.ingestions(base, state or (), limit=limit, offset=offset)
    elif unfinished:
        deletions = [job for job in await deepwell.jobs.list(limit=limit) if job.kind == "delete"]
        found = [job for job in deletions if job.state not in jobs.ENDED]
        found += await deepwell.jobs.ingestions(None, (*ACTIVE, "paused"), limit=limit, offset=offset)
    else:
        found = await deepwell.jobs.list(limit=limit, offset=offset)
    return Jobs(jobs=[await shown(deepwell, job) for job in found if may_see(caller, job)])


@router.get("/{job}", responses=responses(NotFound))
async def get_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """One job."""
    return await shown(deepwell, await find(deepwell, caller, job))


@router.post("/{job}/cancel", responses=responses(NotFound, Conflict))
async def cancel_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """Stop an ingestion; what searches saw before stays."""
    found = await find(deepwell, caller, job)
    return await shown(deepwell, await deepwell.jobs.cancel(found.id))


@router.post("/{job}/retry", responses=responses(NotFound, Conflict))
async def retry_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """Queue a failed, dead or cancelled ingestion again; what was done is not done twice."""
    found = await find(deepwell, caller, job)
    if found.document_id is None:
        raise Conflict("a deletion goes on by itself; there is nothing to retry")
    return await shown(deepwell, await deepwell.jobs.retry(found.document_id))


@router.post("/{job}/pause", responses=responses(NotFound, Conflict))
async def pause_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """Let an ingestion wait; what is done stays."""
    found = await find(deepwell, caller, job)
    return await shown(deepwell, await deepwell.jobs.pause(found.id))


@router.post("/{job}/resume", responses=responses(NotFound, Conflict))
async def resume_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """Let a paused ingestion go on where it stopped."""
    found = await find(deepwell, caller, job)
    return await shown(deepwell, await deepwell.jobs.resume(found.id))


@router.post("/{job}/rerun", responses=responses(NotFound, Conflict))
async def rerun_job(job: str, caller: Ingester, deepwell: Parts) -> Job:
    """Read and split a document anew by the settings of today; passages that stay the same keep their vectors."""
    found = await find(deepwell, caller, job)
    if found.document_id is None:
        raise Conflict("only ingestions are run again")
    return await shown(deepwell, await deepwell.jobs.retry(found.document_id, again=True))


@router.get("/{job}/events", responses={**EVENTS, **responses(NotFound)}, response_class=StreamingResponse)
async def job_events(job: str, caller: Ingester, deepwell: Parts) -> StreamingResponse:
    """Follow a job by server-sent events: `progress` with the job each time it has moved, `end` with its last state."""
    found = await find(deepwell, caller, job)

    async def look() -> tuple[dict[str, Any], bool]:
        now = await deepwell.jobs.get(found.id)
        return (await shown(deepwell, now)).model_dump(), now.state in jobs.ENDED

    return StreamingResponse(follow(look), media_type="text/event-stream", headers=STREAM_HEADERS)


async def find(deepwell: Deepwell, caller: Caller, job: str) -> jobs.Job:
    """A job that the caller may see. Raises NotFound."""
    found = await deepwell.jobs.get(job)
    if not may_see(caller, found):
        raise NotFound(f"there is no job {job!r}")
    return found


def may_see(caller: Caller, job: jobs.Job) -> bool:
    """Whether the key allows the knowledge base the job works on."""
    return caller.knowledge_bases is None or job.knowledge_base_id in caller.knowledge_bases


async def shown(deepwell: Deepwell, job: jobs.Job) -> Job:
    """A job as the API shows it."""
    return Job(
        id=job.id,
        kind=job.kind,
        document_id=job.document_id,
        document=job.document,
        knowledge_base=await deepwell.knowledge_base_name(job.knowledge_base_id),
        state=job.state,
        step=job.step,
        pages_done=job.pages_done,
        pages_total=job.pages_total or None,
        eta=job.eta,
        error=job.error or None,
        notes=[*job.notes],
        created=iso(job.created),
        updated=iso(job.updated),
    )
