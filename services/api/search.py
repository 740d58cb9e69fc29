"""Passages for a question, without a model."""

from fastapi import APIRouter, Request

from pipelines.errors import Forbidden, NotFound
from pipelines.retrieve import retrieve
from services.api.deps import Parts
from services.api.schemas import SearchHit, SearchRequest, SearchResult
from services.auth import Retriever
from services.delivery import addresses_for
from services.errors import responses

router = APIRouter(tags=["search"])


@router.post("/v1/search", responses=responses(NotFound, Forbidden))
async def search(body: SearchRequest, request: Request, caller: Retriever, deepwell: Parts) -> SearchResult:
    """Find the passages that fit a question."""
    hits = await retrieve(
        await deepwell.rag(),
        caller,
        body.query,
        await deepwell.knowledge_base_ids(caller, body.knowledge_bases),
        top_k=body.top_k,
        candidates=max(deepwell.settings.retrieval.candidates, body.top_k),
        min_score=body.min_score,
    )
    url = addresses_for(request).passage
    return SearchResult(hits=[SearchHit.of(hit, url(hit.chunk.id)) for hit in hits])
