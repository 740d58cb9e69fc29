"""A knowledge base's vectors anew, by another embedding model, beside the running index.

copy -> check -> switch -> drop. Searches use the old vectors with the old model until the switch, which is one SQL
transaction, and the new ones from then on; the old collection goes 15 s later, when no search can be under way in it.
Each step may run again: what the new index holds already is not embedded twice.
"""

import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.errors import Conflict
from pipelines.ingest import IngestParts, embed_and_index
from pipelines.rag import DenseLeg, Vectors
from services.embedders import Embedders, Spec
from services.store.records import KnowledgeBase
from services.store.store import Store

#: share of the true nearest passages that the new index must find before it is used
RECALL = 0.95
#: questions of the check, and how many passages each is to find
SAMPLE, NEAREST = 100, 10
#: characters of a passage that make a question
_QUESTION = 200
_BATCH = 1000
#: scores that differ by less are the same: indexes keep vectors in 32 bits, or fewer
_EPSILON = 1e-4

Progress = Callable[[int, int], Awaitable[None]]


class RecallTooLow(Conflict):
    """The new vector index misses too much of what exact search finds, so the old one stays in use."""

    code = "recall_too_low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What the recall check found, each 0..1."""

    #: of the true nearest passages by the new vectors, found by the new index
    recall: float
    #: of the nearest passages by the new model, also among the nearest by the old one
    overlap: float
    questions: int

    def __str__(self) -> str:
        return (
            f"the new index finds {self.recall:.3f} of what exact search finds ({self.questions} questions); "
            f"{self.overlap:.2f} of the nearest passages are those of the old model, too"
        )


class Reembedding:
    """The steps, with the parts they need."""

    def __init__(self, store: Store, parts: IngestParts, embedders: Embedders, batch: int) -> None:
        self._store = store
        self._parts = parts
        self._embedders = embedders
        self._batch = batch

    async def copy(self, knowledge_base_id: str, spec: Spec, progress: Progress) -> bool:
        """Embed one batch of what the new index lacks. True if there was one; False once it lacks nothing.

        Raises NotFound if the knowledge base is gone, ModelUnavailable, IndexUnavailable.
        """
        parts, seen, held = await self._state(knowledge_base_id, spec)
        lacking = sorted(seen - held)
        await progress(len(seen) - len(lacking), len(seen))
        if not lacking:
            return False
        end = time.monotonic() + 5.0  # then others have a turn
        for start in range(0, len(lacking), self._batch):
            await self._embed(parts, knowledge_base_id, lacking[start : start + self._batch])
            if time.monotonic() > end:
                break
        return True

    async def _state(self, knowledge_base_id: str, spec: Spec) -> tuple[IngestParts, set[str], set[str]]:
        """The parts of the new leg, the ids that searches see, and those that the new index holds."""
        await self._store.knowledge_bases.get(knowledge_base_id)
        leg = await self._embedders.of_spec(spec)
        await leg.index.ensure(knowledge_base_id, leg.embeddings.identity, beside=True)
        held = set(await leg.index.ids(knowledge_base_id))
        seen, _ = await self._store.chunks.known(knowledge_base_id)
        return replace(self._parts, embeddings=leg.embeddings, index=leg.index), seen, held

    async def _embed(self, parts: IngestParts, knowledge_base_id: str, ids: Sequence[str]) -> None:
        found = await self._store.passages.get([knowledge_base_id], ids)
        if found:
            await embed_and_index(parts, [*found.values()])
        if gone := await self._store.chunks.gone([*found]):  # deleted while they were embedded
            await parts.index.delete(knowledge_base_id, gone)

    async def check(self, knowledge_base_id: str, spec: Spec) -> Check:
        """Compare the new index with exact search over its own vectors. Raises RecallTooLow."""
        parts, seen, held = await self._state(knowledge_base_id, spec)
        await parts.index.flush(knowledge_base_id)
        sample = random.Random(0).sample(sorted(seen & held), min(SAMPLE, len(seen & held)))
        if not sample:
            return Check(recall=1.0, overlap=1.0, questions=0)
        passages = await self._store.passages.get([knowledge_base_id], sample)
        asked = [re.sub(r"\s+", " ", passage.text)[:_QUESTION] for passage in passages.values()]
        new = DenseLeg(embeddings=parts.embeddings, index=parts.index)
        questions = np.stack([await new.embeddings.embed_question(text) for text in asked])
        least = await self._exact(new, knowledge_base_id, sorted(held), questions)
        old = await self._embedders.of(await self._store.knowledge_bases.get(knowledge_base_id))
        recall, overlap = [], []
        for text, question, score in zip(asked, questions, least, strict=True):
            hits = await new.index.search([knowledge_base_id], question, NEAREST)
            wanted = min(NEAREST, len(held))
            recall.append(min(1.0, sum(hit.score >= score - _EPSILON for hit in hits) / wanted))
            before = await self._by_old(old, knowledge_base_id, text)
            overlap.append(len(before & {hit.id for hit in hits}) / wanted)
        found = Check(recall=float(np.mean(recall)), overlap=float(np.mean(overlap)), questions=len(asked))
        if found.recall < RECALL:
            raise RecallTooLow(
                f"the old vectors stay in use: {found}, and {RECALL:.2f} is asked for; another index type "
                "(DEEPWELL_INDEX__KIND) finds more"
            )
        return found

    async def _by_old(self, old: DenseLeg, knowledge_base_id: str, text: str) -> set[str]:
        """The nearest by the old model; none where its settings are gone."""
        try:
            hits = await old.index.search([knowledge_base_id], await old.embeddings.embed_question(text), NEAREST)
        except Conflict:
            return set()
        return {hit.id for hit in hits}

    async def _exact(self, leg: DenseLeg, knowledge_base_id: str, ids: list[str], questions: Vectors) -> Vectors:
        """For each question the cosine of its NEAREST-th passage of all, shape (questions,)."""
        best = np.full((len(questions), 0), -1.0, np.float32)
        for start in range(0, len(ids), _BATCH):
            stored = await leg.index.vectors(knowledge_base_id, ids[start : start + _BATCH])
            if not stored:
                continue
            vectors = np.stack([*stored.values()])
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            best = np.sort(np.hstack([best, questions @ vectors.T]), axis=1)[:, -NEAREST:]
        return np.asarray(best[:, 0], np.float32)

    async def switch(self, knowledge_base_id: str, spec: Spec) -> str:
        """Bring the new index to the state of SQL and let searches use it. Not while a document is embedded.

        Gives the name of the model.
        """
        parts, seen, held = await self._state(knowledge_base_id, spec)
        for start in range(0, len(lacking := sorted(seen - held)), self._batch):
            await self._embed(parts, knowledge_base_id, lacking[start : start + self._batch])
        if strangers := sorted(held - seen):
            await parts.index.delete(knowledge_base_id, strangers)
        await parts.index.flush(knowledge_base_id)
        await self._store.knowledge_bases.rebind(knowledge_base_id, parts.embeddings.identity, dict(spec))
        # what another worker published between our look and the change; from now on it embeds with the new model
        parts, seen, held = await self._state(knowledge_base_id, spec)
        if lacking := sorted(seen - held):
            await self._embed(parts, knowledge_base_id, lacking)
        return parts.embeddings.identity.model

    async def drop(self, base: KnowledgeBase) -> int:
        """Remove vectors of other models than the one in use. Gives the number of collections."""
        if base.embedding is None:
            return 0
        return await (await self._embedders.of(base)).index.drop_others(base.id, base.embedding)

    async def give_up(self, knowledge_base_id: str, _spec: Mapping[str, str]) -> int:
        """The same after a check that failed: the new vectors are those of another model then."""
        return await self.drop(await self._store.knowledge_bases.get(knowledge_base_id))
