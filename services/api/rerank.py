"""Rerank at every path where a client looks for it."""

from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from connectors.apps.rerank import RerankRequest, parse_rerank, rerank_body, tei_body
from connectors.bodies import dumps
from pipelines.errors import NotFound, TooLarge
from services import computing
from services.api.chat import read_body
from services.api.deps import Parts
from services.api.document import count, flag, passages, takes, text
from services.auth import Computer
from services.build import Deepwell
from services.errors import foreign, responses

router = APIRouter(tags=["rerank"])
BODY = takes(
    {"query": text(), "documents": passages()},
    {
        "model": text("Id of the reranker, or deepwell-rerank."),
        "top_n": count("All if left out."),
        "return_documents": flag(),
    },
)


@router.post("/v1/rerank", responses=responses(NotFound, TooLarge), openapi_extra=BODY)
async def rerank(request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Score documents against a query: Jina's, Cohere's, Xinference's shape, or TEI's if the body has `texts`."""
    return await answer(deepwell, parse_rerank(await read_body(request)))


@router.post("/api/rerank", responses=foreign({"error": "…"}, NotFound, TooLarge), openapi_extra=BODY)
async def ollama_rerank(request: Request, caller: Computer, deepwell: Parts) -> Response:
    """The same for Dify's Ollama plugin, which breaks on a `document` that is an object."""
    return await answer(deepwell, replace(parse_rerank(await read_body(request)), with_text=False))


async def answer(deepwell: Deepwell, wanted: RerankRequest) -> Response:
    """The answer in the shape of the request. Raises NotFound, ModelUnavailable."""
    model = computing.check_reranker(deepwell, wanted.model)
    scores = await deepwell.reranker.rerank(wanted.query, wanted.documents)
    if wanted.tei:
        return Response(dumps(tei_body(wanted, scores)), media_type="application/json")
    tokens = sum(await computing.count_tokens(deepwell, [wanted.query, *wanted.documents]))
    return Response(dumps(rerank_body(wanted, model, scores, tokens)), media_type="application/json")
