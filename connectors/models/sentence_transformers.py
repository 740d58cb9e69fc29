"""Any model of the sentence-transformers library, by its hub name or a local folder. Extra: sentence-transformers.

https://sbert.net/docs/package_reference/sentence_transformer/SentenceTransformer.html
"""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from connectors.rerank_server import probabilities
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.rag import Reranker, TextEmbeddings, Vectors
from pipelines.types import EmbeddingIdentity

BATCH = 32


def embeddings(
    url: str = "",
    model: str = "",
    *,
    api_key: str = "",
    threads: int = 0,
    cache_dir: Path,
    query_prefix: str = "",
    passage_prefix: str = "",
) -> TextEmbeddings:
    """A sentence-transformers model in this process; loaded at once. `api_key` is the hub's token for gated models.

    Empty prefixes take the model's own prompts ("query", and "passage" or "document"), if it has any. Raises
    BadRequest without a model name, ModelUnavailable when the library or the model is not there.
    """
    if not model:
        raise BadRequest(
            "embedding.model is empty: name a sentence-transformers model, such as BAAI/bge-m3, or its folder"
        )
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _missing(error) from error
    if threads:
        torch.set_num_threads(threads)
    try:
        loaded = SentenceTransformer(model, cache_folder=str(cache_dir / "hub"), token=api_key or None)
    except (OSError, ValueError, ImportError) as error:
        raise _unloadable(f"embedding model {model!r}", error) from error
    return SentenceTransformerEmbeddings(loaded, model, query_prefix, passage_prefix)


def reranker(url: str = "", model: str = "", *, api_key: str = "") -> Reranker:
    """A cross-encoder in this process, loaded at once; `api_key` is the hub's token for gated models.

    Raises BadRequest without a model name, ModelUnavailable when the library or the model is not there.
    """
    if not model:
        raise BadRequest("rerank.model is empty: name a cross-encoder, such as BAAI/bge-reranker-v2-m3, or its folder")
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise _missing(error) from error
    try:
        loaded = CrossEncoder(model, token=api_key or None)
    except (OSError, ValueError, ImportError) as error:
        raise _unloadable(f"reranking model {model!r}", error) from error
    return CrossEncoderReranker(loaded, model)


def _missing(error: ImportError) -> ModelUnavailable:
    return ModelUnavailable(
        f"the library sentence-transformers is not installed ({error}): run "
        "`pip install 'deepwell[sentence-transformers]'` (on a machine without GPU, torch's CPU build first)"
    )


def _unloadable(what: str, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(
        f"the {what} cannot be loaded: {error}. Check the name or folder, and the network if it is to be downloaded"
    )


class CrossEncoderReranker:
    """A loaded CrossEncoder; calls run one after the other in a thread of their own."""

    def __init__(self, loaded: Any, name: str) -> None:
        self.model = name
        self._loaded = loaded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rerank")

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score in 0..1 for each text. Raises ModelUnavailable."""
        if not texts:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._scores, question, list(texts))

    def _scores(self, question: str, texts: list[str]) -> list[float]:
        pairs = [(question, text) for text in texts]
        try:
            scores = self._loaded.predict(pairs, batch_size=BATCH, show_progress_bar=False)
        except RuntimeError as error:  # torch: out of memory, device lost
            raise ModelUnavailable(f"the reranking model {self.model} failed: {error}. Use a smaller model") from error
        return probabilities([float(score) for score in np.asarray(scores).reshape(len(texts))])


class SentenceTransformerEmbeddings(TextEmbeddings):
    """A loaded SentenceTransformer; calls run one after the other in a thread of their own."""

    def __init__(self, loaded: Any, name: str, query_prefix: str, passage_prefix: str) -> None:
        prompts: dict[str, str] = dict(loaded.prompts or {})
        self._loaded = loaded
        self._tokenizing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._identity = EmbeddingIdentity(
            model=name,
            revision=_revision(loaded),
            dimension=int(_dimension(loaded)),
            query_prefix=query_prefix or prompts.get("query", ""),
            passage_prefix=passage_prefix or prompts.get("passage", "") or prompts.get("document", ""),
            normalised=True,
            max_tokens=int(loaded.max_seq_length or 512),
        )

    @property
    def identity(self) -> EmbeddingIdentity:
        """Model, revision, dimension, prefixes, normalisation."""
        return self._identity

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's own tokenizer, without special tokens."""
        if not texts:
            return []
        with self._tokenizing:
            encoded = self._loaded.tokenizer(list(texts), add_special_tokens=False, truncation=False)
        return [len(ids) for ids in encoded["input_ids"]]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, shape (len(texts), dimension)."""
        if not texts:
            return np.zeros((0, self._identity.dimension), np.float32)
        return await self._run([self._identity.passage_prefix + text for text in texts])

    async def embed_question(self, text: str) -> Vectors:
        """Vector of a question, shape (dimension,)."""
        one: Vectors = (await self._run([self._identity.query_prefix + text]))[0]
        return one

    async def _run(self, texts: list[str]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, texts)

    def _encode(self, texts: list[str]) -> Vectors:
        # prompt="": the prefix is in the text already, and the model's default prompt must not come on top.
        try:
            vectors = self._loaded.encode(
                texts, prompt="", batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
        except RuntimeError as error:  # torch: out of memory, device lost
            raise ModelUnavailable(
                f"the embedding model {self._identity.model} failed: {error}. Free memory of the device or use a "
                "smaller model"
            ) from error
        return np.asarray(vectors, np.float32)


def _dimension(loaded: Any) -> int:
    # renamed in sentence-transformers 6
    read = getattr(loaded, "get_embedding_dimension", None) or loaded.get_sentence_embedding_dimension
    return int(read())


def _revision(loaded: Any) -> str:
    config = getattr(getattr(loaded[0], "auto_model", None), "config", None)
    return str(getattr(config, "_commit_hash", None) or "")
