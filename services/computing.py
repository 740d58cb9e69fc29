"""Embeddings and reranking as a service: models that touch no document, by the names clients type."""

import asyncio
from collections.abc import Sequence

import numpy as np

from pipelines.errors import UnknownModel
from pipelines.rag import Vectors
from services.build import Deepwell
from services.chat_models import public_id

#: always mean the models in force
EMBEDDING_ALIAS = "deepwell-embedding"
RERANK_ALIAS = "deepwell-rerank"


def embedding_id(deepwell: Deepwell) -> str:
    """The embedding model as clients see it, e.g. "multilingual-e5-small"."""
    return public_id(deepwell.embeddings.identity.model)


def rerank_id(deepwell: Deepwell) -> str:
    """The reranker as clients see it; without one of its own the name says that it is the embedding model's."""
    served = deepwell.settings.rerank
    return public_id(served.model) if served.server else embedding_id(deepwell) + "-rerank"


def is_embedding(deepwell: Deepwell, model: str) -> bool:
    """Whether a name means the embedding model: its id, its full name, or the alias; `:latest` may follow."""
    identity = deepwell.embeddings.identity
    return plain(model) in {name.lower() for name in (embedding_id(deepwell), identity.model, EMBEDDING_ALIAS)}


def is_reranker(deepwell: Deepwell, model: str) -> bool:
    """Whether a name means the reranker: its id, the alias, or the embedding model, which it is made of."""
    names = {rerank_id(deepwell).lower(), RERANK_ALIAS, deepwell.settings.rerank.model.lower() or RERANK_ALIAS}
    return plain(model) in names or is_embedding(deepwell, model)


def plain(model: str) -> str:
    """A name without what Ollama's clients add."""
    return model.lower().removesuffix(":latest")


def check_embedding(deepwell: Deepwell, model: str) -> str:
    """The id of the model named, "" for the only one. Raises UnknownModel with the names there are."""
    if model and not is_embedding(deepwell, model):
        raise UnknownModel(
            f"there is no embedding model {model!r}; there are: {embedding_id(deepwell)}, {EMBEDDING_ALIAS}"
        )
    return embedding_id(deepwell)


def check_reranker(deepwell: Deepwell, model: str) -> str:
    """The id of the reranker named, "" for the only one. Raises UnknownModel with the names there are."""
    if model and not is_reranker(deepwell, model):
        raise UnknownModel(f"there is no reranking model {model!r}; there are: {rerank_id(deepwell)}, {RERANK_ALIAS}")
    return rerank_id(deepwell)


async def embed(deepwell: Deepwell, texts: Sequence[str], *, question: bool = False) -> tuple[Vectors, list[int]]:
    """Vectors of shape (len(texts), dimension) and the tokens of each text. Raises ModelUnavailable."""
    if not question:
        return await deepwell.batcher.passages(texts)
    vectors = await asyncio.gather(*(deepwell.embeddings.embed_question(text) for text in texts))
    return np.stack(vectors), await count_tokens(deepwell, texts)


async def count_tokens(deepwell: Deepwell, texts: Sequence[str]) -> list[int]:
    """Tokens of each text in the embedding model's vocabulary."""
    return await asyncio.to_thread(deepwell.embeddings.count_tokens, texts)
