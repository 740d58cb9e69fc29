"""Passages for a question, without a model."""

from fastapi import APIRouter

from pipelines.errors import Forbidden, NotFound
from pipelines.retrieve import retrieve
from services.api.deps import Parts
from services.api.schemas import SearchHit, SearchRequest, SearchResult
from services.auth import Retriever
from services.errors import responses

router = APIRouter(tags=["search"])


@router.post("/v1/search", responses=responses(NotFound, Forbidden))
async def search(request: SearchRequest, caller: Retriever, deepwell: Parts) -> SearchResult:
    """Find the passages that fit a question."""
    hits = await retrieve(
        await deepwell.rag(),
        caller,
        request.query,
        await deepwell.knowledge_base_ids(caller, request.knowledge_bases),
        top_k=request.top_k,
        candidates=max(deepwell.settings.retrieval.candidates, request.top_k),
        min_score=request.min_score,
    )
    return SearchResult(hits=[SearchHit.of(hit) for hit in hits])
