"""SQL is the truth: whatever happened to an index, it is made to hold what SQL says. Nothing to do, as a rule.

Milvus Lite writes its log without waiting for the disk, so a power cut can take vectors that were acknowledged; and
people delete folders. What is missing is embedded and indexed again, what nobody knows is removed.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from pipelines.ingest import IngestParts, embed_and_index, flush, remove
from services.store.records import KnowledgeBase
from services.store.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Chunk ids in which the indexes of a knowledge base differ from SQL."""

    #: passages that searches see
    chunks: int
    lost_vectors: list[str]
    lost_words: list[str]
    #: in an index, and nobody's
    orphans: list[str]


async def scan(store: Store, parts: IngestParts, knowledge_base_id: str) -> Differences:
    """Compare both indexes with SQL, changing nothing. Raises IndexUnavailable.

    The indexes are read before SQL: an id that was in an index by then is in SQL, staged or known to be on its way
    out, or it is nobody's.
    """
    vectors, words = set(await parts.index.ids(knowledge_base_id)), set(await parts.lexical.ids(knowledge_base_id))
    seen, busy = await store.chunks.known(knowledge_base_id)
    return Differences(
        chunks=len(seen),
        lost_vectors=sorted(seen - vectors),
        lost_words=sorted(seen - words),
        orphans=sorted((vectors | words) - seen - busy),
    )


async def repair(
    store: Store, parts: IngestParts, knowledge_base: KnowledgeBase, batch: int, again: Callable[[int], Awaitable[None]]
) -> int:
    """Compare one knowledge base's indexes with SQL and put right what differs. Gives the number of passages.

    `again` is called before each batch with the number of passages left: others embed first if it is their turn.
    Raises IndexUnavailable, ModelUnavailable.
    """
    if knowledge_base.embedding is None or knowledge_base.embedding != parts.embeddings.identity:
        return 0  # empty, or made with another model: that one's vectors are not ours to write
    await parts.index.ensure(knowledge_base.id, parts.embeddings.identity)
    differences = await scan(store, parts, knowledge_base.id)
    lost_vectors, lost_words, orphans = differences.lost_vectors, differences.lost_words, differences.orphans
    if not (lost_vectors or lost_words or orphans):
        return 0
    log.warning(
        "knowledge base %s: %d vectors and %d texts are missing in the indexes, %d are nobody's: put right now",
        knowledge_base.name, len(lost_vectors), len(lost_words), len(orphans),
    )  # fmt: skip
    if orphans:  # before others embed: one of them may be somebody's by then
        await remove(parts, knowledge_base.id, orphans)
    for done, ids in enumerate(_batches(lost_vectors, batch)):
        await again(len(lost_vectors) - done * batch)
        if found := await store.passages.get([knowledge_base.id], ids):
            await embed_and_index(parts, [*found.values()])
    for ids in _batches(lost_words, 500):
        if found := await store.passages.get([knowledge_base.id], ids):
            await parts.lexical.upsert([*found.values()])
    await flush(parts, knowledge_base.id)
    return len({*lost_vectors, *lost_words, *orphans})


def _batches(ids: list[str], size: int) -> Iterator[list[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))
