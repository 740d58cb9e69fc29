"""The parts a pipeline works with, and the seams for what LangChain has no interface for.

LangChain's own interfaces are used where they exist: `BaseChatModel`, `Embeddings`, `Document`, `BaseRetriever`.
"""

import abc
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from numpy.typing import NDArray

from pipelines.types import Chunk, EmbeddingIdentity, Scored

Vectors = NDArray[np.float32]


class TextEmbeddings(Embeddings, abc.ABC):
    """LangChain embeddings that say what they are, count tokens, and hand out arrays.

    `aembed_documents` and `aembed_query` (lists of floats) stay available to LangChain users.
    """

    @property
    @abc.abstractmethod
    def identity(self) -> EmbeddingIdentity:
        """Model, revision, dimension, prefixes, normalisation."""

    @abc.abstractmethod
    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text in this model's vocabulary, without prefix and special tokens."""

    @abc.abstractmethod
    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages, shape (len(texts), dimension), float32. Adds the prefix. Raises ModelUnavailable."""

    @abc.abstractmethod
    async def embed_question(self, text: str) -> Vectors:
        """Vector of a question, shape (dimension,), float32. Prefix is added here. Raises ModelUnavailable."""

    async def prepare(self) -> None:
        """Load the model, so that the first question does not wait for it. Raises ModelUnavailable."""
        return

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """LangChain's form of embed_passages."""
        return (await self.embed_passages(texts)).tolist()  # type: ignore[no-any-return]

    async def aembed_query(self, text: str) -> list[float]:
        """LangChain's form of embed_question."""
        return (await self.embed_question(text)).tolist()  # type: ignore[no-any-return]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """For LangChain callers outside an event loop."""
        import asyncio

        return asyncio.run(self.aembed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """For LangChain callers outside an event loop."""
        import asyncio

        return asyncio.run(self.aembed_query(text))


@runtime_checkable
class VectorIndex(Protocol):
    """The dense leg: one collection for each knowledge base and embedding identity. Raises IndexUnavailable."""

    async def ensure(self, knowledge_base_id: str, identity: EmbeddingIdentity, *, beside: bool = False) -> None:
        """Make the collection, or check that the one that is there was made for this identity (else Conflict).

        `beside` makes it although there is one of another identity, which stays as it is.
        """

    async def upsert(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Write chunks of ONE knowledge base; vectors have shape (len(chunks), dimension). Idempotent by chunk id."""

    async def flush(self, knowledge_base_id: str) -> None:
        """Make what was written durable and fast to search. Call once after each job."""

    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Nearest chunks by cosine similarity (-1..1), best first, at most `limit` over all knowledge bases together.

        `only` are the ids of the chunks that may be found, however low they rank; None for all.
        A knowledge base without a collection holds nothing yet: no error, no hits.
        """

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id, from collections of every identity. Unknown ids are not an error."""

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id stored, for counting, receipts and the orphan scan."""

    async def vectors(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> dict[str, Vectors]:
        """Vectors by chunk id, only those that are stored; each of shape (dimension,), float32."""

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove the knowledge base's collections of every identity. Not an error if there is none."""

    async def drop_others(self, knowledge_base_id: str, identity: EmbeddingIdentity) -> int:
        """Remove its collections of other identities than this one. Gives how many."""

    async def ping(self) -> None:
        """Return if the database answers within 2 s, else raise IndexUnavailable."""

    async def close(self) -> None:
        """Let go of connections."""


@runtime_checkable
class LexicalIndex(Protocol):
    """The full-text leg (BM25 over words; bigrams for Japanese and Chinese). Raises IndexUnavailable."""

    async def upsert(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks. Idempotent by chunk id."""

    async def flush(self) -> None:
        """Make what was written durable and visible to searches in every process."""

    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Best chunks by BM25, best first; [] when the question has no word to look for. `only` as in VectorIndex."""

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id. Unknown ids are not an error."""

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id stored."""

    async def having(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> list[str]:
        """Those of these chunk ids that are stored."""

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove everything of one knowledge base."""

    async def ping(self) -> None:
        """Return if the index can be read, else raise IndexUnavailable."""

    async def close(self) -> None:
        """Let go of files and threads."""


@runtime_checkable
class Passages(Protocol):
    """Text of chunks by id. A chunk of a deleted document is not returned: deletion is real at once."""

    async def get(self, knowledge_base_ids: Sequence[str], chunk_ids: Sequence[str]) -> dict[str, Chunk]:
        """Chunks by id, only those of these knowledge bases; ids that are gone are left out."""

    async def around(self, found: Sequence[Chunk], distance: int) -> list[Chunk]:
        """Chunks of the same documents at most `distance` positions from one of these, these included, in order.

        Whoever calls this has a right to `found`; its neighbours are in the same documents.
        """


@runtime_checkable
class Reranker(Protocol):
    """Scores passages against a question, 0..1, in the order given."""

    async def rerank(self, question: str, texts: Sequence[str]) -> list[float]:
        """One score for each text. Raises ModelUnavailable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLeg:
    """An embedding model with the index that holds its vectors."""

    embeddings: TextEmbeddings
    index: VectorIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Rag:
    """The parts, chosen once in services.build and handed to every pipeline."""

    chat: BaseChatModel
    embeddings: TextEmbeddings
    index: VectorIndex
    lexical: LexicalIndex
    passages: Passages
    reranker: Reranker | None = None
    #: knowledge bases by the leg that their vectors belong to; None where all belong to `embeddings` and `index`
    legs: Callable[[Sequence[str]], Awaitable[list[tuple[DenseLeg, list[str]]]]] | None = None
