"""Hugging Face's Text Embeddings Inference, a base address for each model: /tei/MODEL. Errors: {"error", "error_type"}.

Source: the OpenAPI document of text-embeddings-inference; Dify's plugin reads `/info` before anything else.
"""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from connectors.apps.openai_embeddings import embeddings_body, parse_embeddings
from connectors.apps.rerank import parse_rerank, tei_body
from connectors.bodies import dumps, json_object, text_list
from pipelines.batching import BATCH
from pipelines.errors import NotFound, TooLarge
from services import computing
from services.api.chat import read_body
from services.api.deps import Parts
from services.api.document import flag, takes, text, texts
from services.auth import Computer
from services.errors import foreign

router = APIRouter(prefix="/tei/{model}", tags=["tei"])
ERRORS = foreign({"error": "…", "error_type": "Validation"}, NotFound, TooLarge)
#: the release whose protocol is spoken
VERSION = "1.8.2"


@router.get("/info", responses=ERRORS)
async def tei_info(model: str, caller: Computer, deepwell: Parts) -> dict[str, Any]:
    """What the model behind this address is: an embedder or a reranker."""
    if computing.is_embedding(deepwell, model):
        name, kind = computing.embedding_id(deepwell), {"embedding": {"pooling": "mean"}}
    else:
        name = computing.check_reranker(deepwell, model)
        kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}  # type: ignore[dict-item]
    longest = deepwell.embeddings.identity.max_tokens
    return {
        "model_id": name,
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": kind,
        "max_concurrent_requests": 512,
        "max_input_length": longest,
        "max_batch_tokens": longest * BATCH,
        "max_batch_requests": None,
        "max_client_batch_size": BATCH,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": VERSION,
        "sha": None,
        "docker_label": None,
    }


@router.get("/health", responses=ERRORS)
async def tei_health(model: str, caller: Computer, deepwell: Parts) -> Response:
    """The model is there."""
    computing.check_reranker(deepwell, model)
    return Response()


@router.post(
    "/rerank",
    responses=ERRORS,
    openapi_extra=takes({"query": text(), "texts": texts()}, {"return_text": flag()}),
)
async def tei_rerank(model: str, request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Score texts against a query."""
    computing.check_reranker(deepwell, model)
    wanted = parse_rerank(await read_body(request))
    scores = await deepwell.reranker.rerank(wanted.query, wanted.documents)
    return Response(dumps(tei_body(wanted, scores)), media_type="application/json")


@router.post("/embed", responses=ERRORS, openapi_extra=takes({"inputs": texts()}))
async def tei_embed(model: str, request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Vectors of texts as a bare list."""
    computing.check_embedding(deepwell, model)
    data = json_object(await read_body(request), "`inputs`")
    vectors, _ = await computing.embed(deepwell, text_list(data.get("inputs"), "inputs"))
    return Response(dumps(list(vectors)), media_type="application/json")


@router.post("/v1/embeddings", responses=ERRORS, openapi_extra=takes({"input": texts()}))
async def tei_openai_embeddings(model: str, request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Vectors of texts in OpenAI's shape; the model is that of the address, whatever the body says."""
    name = computing.check_embedding(deepwell, model)
    wanted = parse_embeddings(await read_body(request))
    vectors, tokens = await computing.embed(deepwell, wanted.texts, question=wanted.question)
    return Response(dumps(embeddings_body(wanted, name, vectors, tokens)), media_type="application/json")
