"""Knowledge bases."""

from fastapi import APIRouter

from pipelines.errors import Conflict, Forbidden, NotFound
from services.api.deps import Parts, iso
from services.api.documents import removal
from services.api.schemas import KnowledgeBase, KnowledgeBaseCreate, KnowledgeBases, Removal
from services.auth import Ingester, Retriever
from services.build import Deepwell
from services.errors import responses
from services.store import records

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
    )
