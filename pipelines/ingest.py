"""From a parsed document to passages in both indexes: the steps, one verb each. A job calls them in order.

Every step may run again after a crash: passages have stable ids, and writes are upserts.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import UnreadableDocument
from pipelines.rag import LexicalIndex, TextEmbeddings, VectorIndex
from pipelines.splitters import passage_text, split
from pipelines.types import Chunk, Page
from pipelines.watch import current, step


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestParts:
    """The parts that ingestion needs, chosen once in services.build."""

    embeddings: TextEmbeddings
    index: VectorIndex
    lexical: LexicalIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The document that passages are made for."""

    document_id: str
    knowledge_base_id: str
    #: what citations call it
    document: str
    #: tokens of a passage and tokens shared by neighbours, in the embedding model's vocabulary
    chunk_tokens: int
    overlap: int


def read_pages(path: Path) -> Iterator[Page]:
    """Pages as a parser wrote them: one JSON object a line with the fields of Page."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Page(**json.loads(line))


async def chunk_pages(embeddings: TextEmbeddings, pages: Path, target: Target) -> list[Chunk]:
    """Cut parsed pages into passages, in a thread. Raises UnreadableDocument if they hold no text."""
    chunks = await asyncio.to_thread(_chunk, embeddings, pages, target)
    if not chunks:
        raise UnreadableDocument(f"{target.document} holds no text that can be read: is it empty, or only pictures?")
    return chunks


def _chunk(embeddings: TextEmbeddings, pages: Path, target: Target) -> list[Chunk]:
    return split(
        list(read_pages(pages)),
        document_id=target.document_id,
        knowledge_base_id=target.knowledge_base_id,
        document=target.document,
        count_tokens=embeddings.count_tokens,
        chunk_tokens=target.chunk_tokens,
        overlap=target.overlap,
    )


async def embed_and_index(parts: IngestParts, chunks: Sequence[Chunk]) -> None:
    """Embed passages of ONE knowledge base and write their vectors. Raises ModelUnavailable, IndexUnavailable."""
    with step("embed batch"):
        vectors = await parts.embeddings.embed_passages([passage_text(chunk) for chunk in chunks])
    with step("write vectors"):
        await parts.index.upsert(chunks, vectors)
    if (watch := current()) is not None:
        watch.passages += len(chunks)


async def remove(parts: IngestParts, knowledge_base_id: str, chunk_ids: Sequence[str], batch: int = 500) -> None:
    """Take passages out of both indexes, vectors first, for good. Raises IndexUnavailable."""
    for start in range(0, len(chunk_ids), batch):
        await parts.index.delete(knowledge_base_id, chunk_ids[start : start + batch])
    for start in range(0, len(chunk_ids), batch):
        await parts.lexical.delete(knowledge_base_id, chunk_ids[start : start + batch])
    await flush(parts, knowledge_base_id)


async def flush(parts: IngestParts, knowledge_base_id: str) -> None:
    """Make what was written durable and visible to searches. Raises IndexUnavailable."""
    await parts.lexical.flush()
    await parts.index.flush(knowledge_base_id)
