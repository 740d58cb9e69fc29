"""The embedding models in use: the one in force, and those that knowledge bases were made with.

A knowledge base keeps the model that it was made with, whatever the settings name later, until it is embedded anew
(services.reembedding). How that model is reached is stored with the knowledge base, without keys: those come from the
settings.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from pipelines.ingest import IngestParts
from pipelines.rag import DenseLeg
from services.store.knowledge_bases import KnowledgeBases
from services.store.records import KnowledgeBase

#: server, url, model, query_prefix, passage_prefix: the settings `embedding.*` that say which model it is
Spec = Mapping[str, str]
FIELDS = ("server", "url", "model", "query_prefix", "passage_prefix")


class Embedders:
    """Legs by knowledge base. `make` builds the leg of a spec; raises BadRequest, ModelUnavailable."""

    def __init__(self, in_force: DenseLeg, spec: Spec, make: Callable[[Spec], Awaitable[DenseLeg]]) -> None:
        self.in_force = in_force
        self.spec = {name: spec.get(name, "") for name in FIELDS}
        self._make = make
        self._made: dict[tuple[str, ...], DenseLeg] = {}
        self._making = asyncio.Lock()

    async def of_spec(self, spec: Spec) -> DenseLeg:
        """The leg of a spec, ready to be used. Raises BadRequest, ModelUnavailable."""
        key = tuple(spec.get(name, "") for name in FIELDS)
        if key == tuple(self.spec.values()):
            return self.in_force
        async with self._making:
            if key not in self._made:
                self._made[key] = await self._make(dict(zip(FIELDS, key, strict=True)))
        return self._made[key]

    async def of(self, base: KnowledgeBase) -> DenseLeg:
        """The leg of a knowledge base: of the model it was made with. Raises BadRequest, ModelUnavailable."""
        if base.embedder is None or base.embedding == self.in_force.embeddings.identity:
            return self.in_force
        return await self.of_spec(base.embedder)

    def spec_of(self, base: KnowledgeBase) -> Spec:
        """How the leg of a knowledge base is reached."""
        return base.embedder or self.spec

    async def parts(self, parts: IngestParts, base: KnowledgeBase) -> IngestParts:
        """Ingestion's parts for a knowledge base."""
        leg = await self.of(base)
        return replace(parts, embeddings=leg.embeddings, index=leg.index)

    async def legs(self, bases: KnowledgeBases, ids: Sequence[str]) -> list[tuple[DenseLeg, list[str]]]:
        """Knowledge bases by leg, for searches; ids that are gone belong to the one in force and find nothing."""
        known = {base.id: base for base in await bases.list()}
        found: dict[int, tuple[DenseLeg, list[str]]] = {}
        for each in dict.fromkeys(ids):
            leg = await self.of(known[each]) if each in known else self.in_force
            found.setdefault(id(leg), (leg, []))[1].append(each)
        return list(found.values())

    async def close(self) -> None:
        """Let go of what was made here; the leg in force belongs to whoever gave it."""
        for leg in self._made.values():
            await leg.index.close()
        self._made.clear()
