"""Knowledge bases."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from pipelines.errors import Conflict, Forbidden, NotFound
from pipelines.ingest import IngestParts
from pipelines.types import JobState
from services.api.deps import Parts, iso
from services.api.documents import removal
from services.api.following import EVENTS, follow
from services.api.job_schemas import Comparison, Job, Jobs, Reembed, Removal
from services.api.jobs import shown as shown_job
from services.api.schemas import KnowledgeBase, KnowledgeBaseCreate, KnowledgeBases
from services.auth import Admin, Ingester, Retriever
from services.build import Deepwell
from services.embedders import FIELDS
from services.errors import responses
from services.repair import scan
from services.store import records
from services.store.documents import ACTIVE
from services.streamed import STREAM_HEADERS

#: states in which a document can be read anew
RESTING: tuple[JobState, ...] = ("succeeded", "failed", "dead", "cancelled")
router = APIRouter(prefix="/v1/knowledge_bases", tags=["knowledge bases"])


@router.get("", responses=responses())
async def list_knowledge_bases(caller: Retriever, deepwell: Parts) -> KnowledgeBases:
    """The knowledge bases that the key may use, by name."""
    return KnowledgeBases(knowledge_bases=[await shown(deepwell, base) for base in await deepwell.visible(caller)])


@router.post("", status_code=201, responses=responses(Conflict, Forbidden))
async def create_knowledge_base(body: KnowledgeBaseCreate, caller: Ingester, deepwell: Parts) -> KnowledgeBase:
    """Make a knowledge base; it is a model id from then on."""
    if caller.knowledge_bases is not None:
        if any(base.name == body.name for base in await deepwell.visible(caller)):
            raise Conflict(f"there is a knowledge base {body.name!r} already")
        raise Forbidden(f"key {caller.name!r} is bound to its knowledge bases and cannot make new ones")
    return await shown(deepwell, await deepwell.store.knowledge_bases.create(body.name, body.description))


@router.get("/{knowledge_base}", responses=responses(NotFound))
async def get_knowledge_base(knowledge_base: str, caller: Retriever, deepwell: Parts) -> KnowledgeBase:
    """One knowledge base, by name or id."""
    return await shown(deepwell, await deepwell.knowledge_base(caller, knowledge_base))


@router.delete("/{knowledge_base}", responses=responses(NotFound, Forbidden))
async def delete_knowledge_base(knowledge_base: str, caller: Ingester, deepwell: Parts) -> Removal:
    """Delete a knowledge base with everything in it. It is invisible at once; the answer comes when it is gone."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    job = await deepwell.jobs.delete_knowledge_base(base.id)
    ended = await deepwell.jobs.wait(job.id)
    return removal(base.id, base.name, ended)


@router.post("/{knowledge_base}/pause", responses=responses(NotFound))
async def pause_knowledge_base(knowledge_base: str, caller: Ingester, deepwell: Parts) -> KnowledgeBase:
    """Let its ingestion wait, of documents that are added meanwhile too. Searches go on."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    await deepwell.jobs.pause_knowledge_base(base.id)
    return await shown(deepwell, await deepwell.store.knowledge_bases.get(base.id))


@router.post("/{knowledge_base}/resume", responses=responses(NotFound))
async def resume_knowledge_base(knowledge_base: str, caller: Ingester, deepwell: Parts) -> KnowledgeBase:
    """Let its ingestion go on, each document where it stopped."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    await deepwell.jobs.resume_knowledge_base(base.id)
    return await shown(deepwell, await deepwell.store.knowledge_bases.get(base.id))


@router.post("/{knowledge_base}/rechunk", status_code=202, responses=responses(NotFound))
async def rechunk_knowledge_base(knowledge_base: str, caller: Ingester, deepwell: Parts) -> Jobs:
    """Read and split every document anew by the settings of today; searches see the old passages meanwhile.

    Passages that stay the same keep their vectors. Documents whose job is under way are left to it.
    """
    base = await deepwell.knowledge_base(caller, knowledge_base)
    documents = await deepwell.store.documents.list(base.id, states=RESTING, limit=1_000_000)
    queued = [await deepwell.jobs.retry(document.id, again=True) for document in documents]
    return Jobs(jobs=[await shown_job(deepwell, job) for job in queued])


@router.get("/{knowledge_base}/check", responses=responses(NotFound))
async def check_knowledge_base(knowledge_base: str, caller: Ingester, deepwell: Parts) -> Comparison:
    """Compare both indexes with SQL: what is missing in them, and what nobody has any more. Changes nothing."""
    base = await deepwell.knowledge_base(caller, knowledge_base)
    leg = await deepwell.embedders.of(base)
    parts = IngestParts(embeddings=leg.embeddings, index=leg.index, lexical=deepwell.lexical)
    found = await scan(deepwell.store, parts, base.id)
    return Comparison(
        knowledge_base=base.name,
        chunks=found.chunks,
        lost_vectors=len(found.lost_vectors),
        lost_words=len(found.lost_words),
        orphans=len(found.orphans),
    )


@router.post("/{knowledge_base}/reembed", status_code=202, responses=responses(NotFound, Conflict))
async def reembed_knowledge_base(knowledge_base: str, body: Reembed, caller: Admin, deepwell: Parts) -> Job:
    """Embed every passage anew by another model, beside the running index. Searches go on, and change over at the end.

    The model is loaded here first: one that does not answer is refused at once.
    """
    base = await deepwell.knowledge_base(caller, knowledge_base)
    given = {name: value for name, value in body.model_dump().items() if value}
    spec = {**({} if "server" in given else deepwell.embedders.spec), **given}
    leg = await deepwell.embedders.of_spec(spec)
    identity = leg.embeddings.identity
    if identity == base.embedding:
        raise Conflict(f"knowledge base {base.name!r} is embedded with {identity.model} already: name another model")
    job = await deepwell.jobs.reembed(base.id, {name: spec.get(name, "") for name in FIELDS})
    return await shown_job(deepwell, job)


@router.get("/{knowledge_base}/events", responses={**EVENTS, **responses(NotFound)}, response_class=StreamingResponse)
async def knowledge_base_events(knowledge_base: str, caller: Ingester, deepwell: Parts) -> StreamingResponse:
    """Follow what is ingested, by server-sent events: `progress` with `knowledge_base` and the `jobs` under way.

    `end` comes when no job is queued or running.
    """
    base = await deepwell.knowledge_base(caller, knowledge_base)

    async def look() -> tuple[dict[str, Any], bool]:
        now = await deepwell.store.knowledge_bases.get(base.id)
        jobs = await deepwell.jobs.ingestions(base.id, ACTIVE, limit=100)
        listed = [(await shown_job(deepwell, job)).model_dump() for job in jobs]
        return {"knowledge_base": (await shown(deepwell, now)).model_dump(), "jobs": listed}, not jobs

    return StreamingResponse(follow(look), media_type="text/event-stream", headers=STREAM_HEADERS)


async def shown(deepwell: Deepwell, base: records.KnowledgeBase) -> KnowledgeBase:
    """A knowledge base with the counts people ask for."""
    counts = await deepwell.store.documents.counts(base.id)
    return KnowledgeBase(
        id=base.id,
        name=base.name,
        description=base.description,
        documents=sum(counts.values()),
        chunks=await deepwell.store.chunks.count(base.id),
        created=iso(base.created),
        paused=base.paused is not None,
        states=dict(sorted(counts.items())),
        embedding=base.embedding.model if base.embedding else None,
    )
