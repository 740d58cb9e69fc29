"""Twins of the indexes in memory: exact cosine and exact BM25. For tests, and to measure what the real ones miss."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from pipelines.errors import Conflict
from pipelines.lexical import reachable, words
from pipelines.rag import Vectors
from pipelines.splitters import passage_text
from pipelines.types import Chunk, EmbeddingIdentity, Scored

_K1, _B = 1.2, 0.75


class MemoryVectorIndex:
    """VectorIndex that compares a question with every vector."""

    def __init__(self, identity: EmbeddingIdentity | None = None) -> None:
        """`identity` is the embedding in force: searching a collection of another one is refused."""
        self._identity = identity
        self._made_for: dict[str, EmbeddingIdentity] = {}
        self._vectors: dict[str, dict[str, Vectors]] = {}

    async def ensure(self, knowledge_base_id: str, identity: EmbeddingIdentity, *, beside: bool = False) -> None:
        """Make the collection, or raise Conflict if it is there for another identity, also with `beside`: a twin
        holds vectors of one model.
        """
        self._check(knowledge_base_id, identity)
        self._made_for[knowledge_base_id] = identity
        self._vectors.setdefault(knowledge_base_id, {})

    def _check(self, knowledge_base_id: str, identity: EmbeddingIdentity | None) -> None:
        made_for = self._made_for.get(knowledge_base_id)
        if identity is not None and made_for is not None and made_for != identity:
            raise Conflict(
                f"knowledge base {knowledge_base_id} was embedded with {made_for.model}, not {identity.model}: "
                "set the embedding back, or `deepwell kb reembed`"
            )

    async def upsert(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Write chunks. Raises Conflict without `ensure`."""
        for chunk, vector in zip(chunks, vectors, strict=True):
            if chunk.knowledge_base_id not in self._vectors:
                raise Conflict(f"knowledge base {chunk.knowledge_base_id} has no collection yet: call ensure first")
            self._vectors[chunk.knowledge_base_id][chunk.id] = vector / max(float(np.linalg.norm(vector)), 1e-12)

    async def flush(self, knowledge_base_id: str) -> None:
        """Nothing to do."""

    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Nearest chunks by cosine."""
        for knowledge_base in knowledge_base_ids:
            self._check(knowledge_base, self._identity)
        rows = [row for each in dict.fromkeys(knowledge_base_ids) for row in self._vectors.get(each, {}).items()]
        rows = [row for row in rows if only is None or row[0] in only]
        if not rows:
            return []
        scores = np.stack([row[1] for row in rows]) @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        best = np.argsort(-scores, kind="stable")[:limit]
        return [Scored(id=rows[i][0], score=float(scores[i])) for i in best]

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id."""
        for chunk_id in chunk_ids:
            self._vectors.get(knowledge_base_id, {}).pop(chunk_id, None)

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id stored."""
        return list(self._vectors.get(knowledge_base_id, {}))

    async def vectors(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> dict[str, Vectors]:
        """Vectors by chunk id, only those that are stored."""
        stored = self._vectors.get(knowledge_base_id, {})
        return {each: stored[each] for each in chunk_ids if each in stored}

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove the collection."""
        self._vectors.pop(knowledge_base_id, None)
        self._made_for.pop(knowledge_base_id, None)

    async def drop_others(self, knowledge_base_id: str, identity: EmbeddingIdentity) -> int:
        """There are none."""
        return 0

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryLexicalIndex:
    """LexicalIndex that scores every chunk: BM25 as in Lucene and Tantivy, lengths not rounded."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], Counter[str]] = {}

    async def upsert(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks."""
        for chunk in chunks:
            self._words[chunk.knowledge_base_id, chunk.id] = Counter(words(passage_text(chunk)))

    async def flush(self) -> None:
        """Nothing to do."""

    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Best chunks by BM25, with the share of the question's weight that they have."""
        asked, number = list(dict.fromkeys(words(text))), len(self._words)
        having = {word: sum(word in counts for counts in self._words.values()) for word in asked}
        idf = {word: math.log(1 + (number - n + 0.5) / (n + 0.5)) for word, n in having.items()}
        usual = sum(counts.total() for counts in self._words.values()) / max(number, 1)
        known, unknown = {word: idf[word] for word in asked if having[word]}, [w for w in asked if not having[w]]
        most = (_K1 + 1) * reachable(known, unknown, rare=math.log(1 + (number + 0.5) / 0.5))
        found = []
        for (knowledge_base, chunk_id), counts in self._words.items():
            if knowledge_base not in knowledge_base_ids or (only is not None and chunk_id not in only):
                continue
            rest = _K1 * (1 - _B + _B * counts.total() / usual) if usual else _K1
            score = sum(idf[w] * (_K1 + 1) * counts[w] / (counts[w] + rest) for w in asked if w in counts)
            if score > 0:
                found.append(Scored(id=chunk_id, score=score, coverage=min(1.0, score / most)))
        return sorted(found, key=lambda hit: -hit.score)[:limit]

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id."""
        for chunk_id in chunk_ids:
            self._words.pop((knowledge_base_id, chunk_id), None)

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id stored."""
        return [chunk_id for knowledge_base, chunk_id in self._words if knowledge_base == knowledge_base_id]

    async def having(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> list[str]:
        """Those of these chunk ids that are stored."""
        return [chunk_id for chunk_id in chunk_ids if (knowledge_base_id, chunk_id) in self._words]

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove everything of one knowledge base."""
        self._words = {key: counts for key, counts in self._words.items() if key[0] != knowledge_base_id}

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """Nothing to let go of."""
