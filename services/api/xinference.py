"""What Xinference's client asks before it uses OpenAI's paths. Errors: {"detail": "…"}."""

from typing import Any

from fastapi import APIRouter, Request

from services import computing
from services.api.deps import Parts
from services.auth import is_open
from services.build import Deepwell

router = APIRouter(tags=["xinference"])


@router.get("/v1/cluster/auth")
async def cluster_auth(request: Request, deepwell: Parts) -> dict[str, bool]:
    """Whether a key is needed. It is asked without one; a client that hears `false` sends none later either."""
    return {"auth": not is_open(request, deepwell.settings)}


def chat_fields(deepwell: Deepwell, model: str) -> dict[str, Any]:
    """What of a chat model's card the client indexes unguarded."""
    settings = deepwell.settings.chat
    return {
        "model_name": model,
        "model_uid": model,
        "model_type": "LLM",
        "model_format": "ggufv2",
        "model_ability": ["chat", "generate", *["tools"] * (deepwell.chat.profile.tools != "none")],
        "max_tokens": settings.max_tokens,
    }


def computing_card(deepwell: Deepwell, model: str) -> dict[str, Any] | None:
    """The card of the embedding model or the reranker; None for another name."""
    identity = deepwell.embeddings.identity
    if computing.is_embedding(deepwell, model):
        name, kind = computing.embedding_id(deepwell), "embedding"
    elif computing.is_reranker(deepwell, model):
        name, kind = computing.rerank_id(deepwell), "rerank"
    else:
        return None
    return {
        "id": model,
        "object": "model",
        "created": 1735689600,
        "owned_by": "deepwell",
        "name": name,
        "model_name": name,
        "model_uid": model,
        "model_type": kind,
        "model_ability": [],
        "model_format": "",
        "dimensions": identity.dimension,
        "context_length": identity.max_tokens,
        "max_tokens": identity.max_tokens,
    }
