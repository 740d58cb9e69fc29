"""`POST /v1/embeddings` as OpenAI's SDKs, Dify, ChatBox, n8n and FastGPT send it.

Fields: platform.openai.com/docs/api-reference/embeddings; `input_type` as Cohere, Voyage and NVIDIA have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from connectors.bodies import base64_floats, json_object, shortened, text_list
from pipelines.errors import BadRequest
from pipelines.rag import Vectors

#: words for texts that are questions; everything else is a passage
QUESTIONS = frozenset({"query", "search_query", "question", "retrieval.query"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """What of a request matters; `user` and others are taken and ignored."""

    texts: list[str]
    #: "" where the protocol names none (TEI)
    model: str = ""
    encoding: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    #: embed the texts as questions, for models that tell questions from passages
    question: bool = False


def parse_embeddings(body: bytes) -> EmbeddingRequest:
    """Read a request body. Raises BadRequest."""
    data = json_object(body, "`model` and `input`")
    model, dimensions = data.get("model") or "", data.get("dimensions")
    if not isinstance(model, str):
        raise BadRequest("`model` must be a string")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise BadRequest("`dimensions` must be a whole number of at least 1")
    encoding = data.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise BadRequest("`encoding_format` must be float or base64")
    return EmbeddingRequest(
        texts=text_list(data.get("input"), "input"),
        model=model,
        encoding="base64" if encoding == "base64" else "float",
        dimensions=dimensions,
        question=bool({str(data.get("input_type")), str(data.get("task"))} & QUESTIONS),
    )


def embeddings_body(request: EmbeddingRequest, model: str, vectors: Vectors, tokens: Sequence[int]) -> dict[str, Any]:
    """The answer; the vectors stay arrays unless base64 was asked for. Raises BadRequest for too many dimensions."""
    rows = shortened(vectors, request.dimensions)
    encode = base64_floats if request.encoding == "base64" else lambda row: row
    data = [{"object": "embedding", "index": i, "embedding": encode(row)} for i, row in enumerate(rows)]
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    return {"object": "list", "data": data, "model": model, "usage": usage}
