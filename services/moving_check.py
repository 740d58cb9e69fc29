"""Whether what was moved is the same in both places: counted, and searched."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pipelines.rag import LexicalIndex, VectorIndex
from services.store.records import KnowledgeBase
from services.store.store import Store
from services.store.tables import chunks, documents

#: passages of a knowledge base that are searched for in both places, and hits of each search
SAMPLES, HITS = 20, 10
#: least share: of hits by vector that both places have (an index is approximate, and built anew), and of passages that
#: are found by their own words as they were before. Words are weighed by all that a full-text index holds, so the order
#: of the other hits may differ where other knowledge bases stand beside the moved ones
DENSE, WORDS = 0.9, 0.95


@dataclass(frozen=True, slots=True)
class Places:
    """Old and new, in this order."""

    old: Store
    new: Store
    index: tuple[VectorIndex, VectorIndex]
    words: tuple[LexicalIndex, LexicalIndex]


async def compared(places: Places, base: KnowledgeBase, moved: dict[str, int]) -> dict[str, Any]:
    """Counts of both places and how far their searches agree; "ok" if nothing is missing."""
    ids = {row[0] for row in await places.new.database.rows(_ids(base))}
    vectors = set(await places.index[1].ids(base.id)) if base.embedding else set()
    words = set(await places.words[1].ids(base.id))
    rows = [await store.database.count(_documents(base)) for store in (places.old, places.new)]
    dense, lexical, asked = await _searched(places, base, ids)
    complete = rows[0] <= rows[1] and ids <= vectors and ids <= words
    return {
        "name": base.name,
        **moved,
        "passages": len(ids),
        "vectors": len(ids & vectors),
        "words": len(ids & words),
        "searches": {"asked": asked, "dense": round(dense, 3), "words": round(lexical, 3)},
        "ok": complete and dense >= DENSE and lexical >= WORDS,
    }


async def _searched(places: Places, base: KnowledgeBase, ids: set[str]) -> tuple[float, float, int]:
    """Both shares (see DENSE, WORDS) over passages spread evenly, and how many passages that are."""
    chosen = sorted(ids)[:: max(1, len(ids) // SAMPLES)][:SAMPLES]
    if not chosen:
        return 1.0, 1.0, 0
    texts = await places.new.database.rows(sa.select(chunks.c.id, chunks.c.text).where(chunks.c.id.in_(chosen)))
    vectors = await places.index[0].vectors(base.id, chosen)
    dense, lexical = 0.0, 0.0
    for each in texts:
        near = [await index.search([base.id], vectors[each.id], HITS) for index in places.index]
        like = [await words.search([base.id], each.text[:300], HITS) for words in places.words]
        dense += _share([{hit.id for hit in hits} & ids for hits in near])
        lexical += _share([{hit.id for hit in hits} & {each.id} for hits in like])
    return dense / len(texts), lexical / len(texts), len(texts)


def _share(found: list[set[str]]) -> float:
    old, new = found
    return len(old & new) / len(old) if old else 1.0


def _ids(base: KnowledgeBase) -> sa.Select[Any]:
    return sa.select(chunks.c.id).where(chunks.c.knowledge_base_id == base.id)


def _documents(base: KnowledgeBase) -> sa.Select[Any]:
    alive = (documents.c.knowledge_base_id == base.id, documents.c.deleted.is_(None))
    return sa.select(sa.func.count()).select_from(documents).where(*alive)
