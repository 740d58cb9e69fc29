"""`POST /v1/embeddings`."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from connectors.apps.openai_embeddings import EmbeddingRequest, embeddings_body, parse_embeddings
from connectors.bodies import dumps
from pipelines.errors import NotFound, TooLarge
from services import computing
from services.api.chat import read_body
from services.api.deps import Parts
from services.api.document import EMBEDDER, count, takes, text, texts
from services.auth import Computer
from services.build import Deepwell
from services.errors import responses

router = APIRouter(tags=["embeddings"])


@router.post(
    "/v1/embeddings",
    responses=responses(NotFound, TooLarge),
    openapi_extra=takes(
        {"input": texts("At most 2,048.")},
        {
            "model": EMBEDDER,
            "encoding_format": text("float, or base64 of little-endian float32."),
            "dimensions": count("The first so many numbers, at length 1 again."),
            "input_type": text("query: embed as questions; else as passages."),
        },
    ),
)
async def create_embeddings(request: Request, caller: Computer, deepwell: Parts) -> Response:
    """Vectors of texts. Texts of requests that come at the same time are embedded together."""
    wanted = parse_embeddings(await read_body(request))
    return Response(dumps(await embeddings_answer(deepwell, wanted)), media_type="application/json")


async def embeddings_answer(deepwell: Deepwell, wanted: EmbeddingRequest) -> dict[str, Any]:
    """The answer to a request in OpenAI's shape. Raises NotFound, BadRequest, ModelUnavailable."""
    model = computing.check_embedding(deepwell, wanted.model)
    vectors, tokens = await computing.embed(deepwell, wanted.texts, question=wanted.question)
    return embeddings_body(wanted, model, vectors, tokens)
