"""A whole Rag in memory: a scripted model, a bag-of-terms embedding, exact indexes, passages in a dict."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from connectors.index.memory import MemoryLexicalIndex, MemoryVectorIndex
from connectors.models.fake import ScriptedChat
from pipelines.rag import Rag, TextEmbeddings, Vectors
from pipelines.sentences import terms
from pipelines.types import Caller, Chunk, EmbeddingIdentity

ASKER = Caller(name="test", scopes=frozenset({"chat", "retrieve"}))
DIMENSION = 512


class BagEmbeddings(TextEmbeddings):
    """Texts with the same terms point the same way. Knows one language at a time, and is quick."""

    @property
    def identity(self) -> EmbeddingIdentity:
        return EmbeddingIdentity(model="bag", revision="1", dimension=DIMENSION)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vector(text) for text in texts])

    async def embed_question(self, text: str) -> Vectors:
        return self._vector(text)

    def _vector(self, text: str) -> Vectors:
        vector = np.full(DIMENSION, 0.01, dtype=np.float32)
        for term in terms(text):
            vector[crc32(term.encode()) % DIMENSION] += 1
        return vector / np.linalg.norm(vector)  # type: ignore[no-any-return]


class DictPassages:
    """Passages by id."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = {chunk.id: chunk for chunk in chunks}

    async def get(self, knowledge_base_ids: Sequence[str], chunk_ids: Sequence[str]) -> dict[str, Chunk]:
        found = {i: self.chunks[i] for i in chunk_ids if i in self.chunks}
        return {i: chunk for i, chunk in found.items() if chunk.knowledge_base_id in knowledge_base_ids}

    async def around(self, found: Sequence[Chunk], distance: int) -> list[Chunk]:
        near = {(each.document_id, each.position + i) for each in found for i in range(-distance, distance + 1)}
        return [chunk for chunk in self.chunks.values() if (chunk.document_id, chunk.position) in near]


def chunk(n: int, text: str, document: str = "handbook.pdf") -> Chunk:
    return Chunk(id=f"c{n}", document_id="d1", knowledge_base_id="kb", document=document, text=text, position=n, page=n)


async def small_rag(chat: ScriptedChat, *texts: str) -> Rag:
    """A Rag whose knowledge base "kb" holds these passages; passage i is chunk c{i} on page i, from 1."""
    chunks = [chunk(n, text) for n, text in enumerate(texts, 1)]
    embeddings, index, lexical = BagEmbeddings(), MemoryVectorIndex(), MemoryLexicalIndex()
    await index.ensure("kb", embeddings.identity)
    if chunks:
        await index.upsert(chunks, await embeddings.embed_passages(texts))
        await lexical.upsert(chunks)
    return Rag(chat=chat, embeddings=embeddings, index=index, lexical=lexical, passages=DictPassages(chunks))
