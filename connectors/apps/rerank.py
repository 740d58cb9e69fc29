"""Rerank as Jina, Cohere, Xinference, GPUStack, LocalAI, Dify and TEI ask for it: one superset answer.

Jina and Cohere send `documents` and read `results`; TEI sends `texts` and reads a bare list.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from connectors.bodies import json_object, text_list, whole
from pipelines.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankRequest:
    """What of a request matters."""

    query: str
    documents: list[str]
    model: str = ""
    #: results wanted, None for all
    top_n: int | None = None
    with_text: bool = False
    #: the request has TEI's shape, and so has the answer
    tei: bool = False


def parse_rerank(body: bytes) -> RerankRequest:
    """Read a request body of either shape. Raises BadRequest."""
    data = json_object(body, "`query` and `documents` (or `texts`)")
    query, model = data.get("query"), data.get("model") or ""
    if not isinstance(query, str) or not query.strip():
        raise BadRequest("`query` must be a string that is not empty")
    if not isinstance(model, str):
        raise BadRequest("`model` must be a string")
    tei = "texts" in data and "documents" not in data
    field = "texts" if tei else "documents"
    return RerankRequest(
        query=query,
        documents=_documents(data.get(field), field),
        model=model,
        top_n=whole(data.get("top_n")),
        with_text=(data.get("return_text") if tei else data.get("return_documents")) is True,
        tei=tei,
    )


def _documents(value: object, field: str) -> list[str]:
    """Texts, given as strings or as objects with `text`; an empty list is a question about nothing."""
    if not isinstance(value, list):
        raise BadRequest(f"`{field}` must be a list of strings, or of objects with `text`")
    texts = [each.get("text", each.get("content")) if isinstance(each, dict) else each for each in value]
    return text_list(texts, field) if texts else []


def ranked(request: RerankRequest, scores: Sequence[float]) -> list[tuple[int, float]]:
    """Position and score, best first; equal ones in the order given. As many as asked for."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [(i, round(scores[i], 6)) for i in order[: request.top_n]]


def rerank_body(request: RerankRequest, model: str, scores: Sequence[float], tokens: int) -> dict[str, Any]:
    """The superset answer: each client finds the fields it indexes unguarded."""
    results: list[dict[str, Any]] = []
    for i, score in ranked(request, scores):
        result: dict[str, Any] = {"index": i, "relevance_score": score}
        if request.with_text:
            result["document"] = {"text": request.documents[i]}
        results.append(result)
    return {
        "id": "rerank-" + secrets.token_hex(12),
        "object": "rerank",
        "model": model,
        "results": results,
        "meta": {
            "api_version": {"version": "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def tei_body(request: RerankRequest, scores: Sequence[float]) -> list[dict[str, Any]]:
    """TEI's bare list."""
    pairs = ranked(request, scores)
    if request.with_text:
        return [{"index": i, "score": score, "text": request.documents[i]} for i, score in pairs]
    return [{"index": i, "score": score} for i, score in pairs]
