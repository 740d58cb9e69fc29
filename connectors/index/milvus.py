"""Milvus: the dense leg, embedded (Milvus Lite in a process of its own) or on a server.

One collection for each knowledge base and embedding identity, `kb_<id>_<hash of the identity>`, holding chunk ids and
vectors; texts stay in the store. Run against Milvus Lite 3.2; servers are reached through the same documented calls.
"""

import asyncio
import heapq
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from connectors.milvus_client import (
    LONG,
    TIMEOUT,
    MilvusConnection,
    about,
    all_ids,
    collection_name,
    collections_of,
    complete,
    create,
    is_missing,
    lite_command,
    loaded,
    stored,
    within,
)
from pipelines.errors import BadRequest, Conflict, IndexUnavailable
from pipelines.rag import Vectors
from pipelines.types import Chunk, EmbeddingIdentity, Scored

__all__ = ["KINDS", "MilvusIndex", "collection_name", "lite_command"]

#: index types that Lite really builds and servers have too. Lite accepts any name, searches by brute force and then
#: cannot load the collection after a restart: nothing else may get through
KINDS: dict[str, dict[str, Any]] = {
    "AUTOINDEX": {},
    "HNSW": {"M": 16, "efConstruction": 128},
    "HNSW_SQ": {"M": 16, "efConstruction": 128, "sq_type": "SQ8"},
    "IVF_FLAT": {"nlist": 256},
    "IVF_SQ8": {"nlist": 256},
}
_BATCH = 1000
#: seconds after a write within which a server's Bounded reads may miss it (5 by default)
STALE = 10.0


class _Dropped(Exception):
    """The collection that was remembered is not there."""


class MilvusIndex:
    """VectorIndex over Milvus."""

    def __init__(
        self,
        url: str,
        token: str = "",
        database: str = "",
        kind: str = "AUTOINDEX",
        identity: EmbeddingIdentity | None = None,
    ) -> None:
        """`identity` is the embedding in force: searching a collection of another one is refused. Raises BadRequest."""
        if kind not in KINDS:
            raise BadRequest(f"unknown index type {kind!r}: set DEEPWELL_INDEX__KIND to one of {', '.join(KINDS)}")
        self._kind, self._identity = kind, identity
        self._milvus = MilvusConnection(url, token, database)
        self._names: dict[str, str] = {}
        self._known_in = 0
        self._written: dict[str, float] = {}
        self._writing: dict[str, threading.Lock] = defaultdict(threading.Lock)

    async def ensure(self, knowledge_base_id: str, identity: EmbeddingIdentity, *, beside: bool = False) -> None:
        """Make the collection if the knowledge base has none, with `beside` none of this identity.

        Raises Conflict if it has one of another identity.
        """
        await self._milvus.run(lambda client: self._ensure(client, knowledge_base_id, identity, beside))

    def _ensure(self, client: Any, knowledge_base_id: str, identity: EmbeddingIdentity, beside: bool) -> None:
        from pymilvus import DataType
        from pymilvus.exceptions import MilvusException

        name = collection_name(knowledge_base_id, identity)
        index = client.prepare_index_params()
        index.add_index("vector", index_type=self._kind, metric_type="COSINE", params=KINDS[self._kind])
        if self._is_complete(client, knowledge_base_id, identity, index, beside):
            return
        record = json.dumps({"knowledge_base_id": knowledge_base_id, "embedding": asdict(identity)})
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=record)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=128)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=identity.dimension)
        try:
            create(client, name, schema, index, record)
        except MilvusException as error:
            if "exist" not in error.message.lower():  # another process was faster
                raise
        self._names[knowledge_base_id] = name

    def _is_complete(
        self, client: Any, knowledge_base_id: str, identity: EmbeddingIdentity, index: Any, beside: bool
    ) -> bool:
        from pymilvus.exceptions import MilvusException

        found = self._find(client, knowledge_base_id)
        if found is None or (beside and found != collection_name(knowledge_base_id, identity)):
            return False
        try:
            self._check(client, found, identity, knowledge_base_id)
            complete(client, found, index)
        except MilvusException as error:
            if not is_missing(error):
                raise
            self._names.pop(knowledge_base_id, None)  # dropped by another process
            return False
        return True

    def _check(self, client: Any, name: str, identity: EmbeddingIdentity | None, knowledge_base_id: str) -> None:
        if identity is None or name == collection_name(knowledge_base_id, identity):
            return
        old = about(client, name).get("embedding", {})
        raise Conflict(
            f"knowledge base {knowledge_base_id} was embedded with {old.get('model', 'another model')} "
            f"({old.get('revision', '?')}, {old.get('dimension', '?')} dimensions), but the embedding in force is "
            f"{identity.model} ({identity.revision}, {identity.dimension} dimensions): set DEEPWELL_EMBEDDING__SERVER "
            f"and DEEPWELL_EMBEDDING__MODEL back, or embed it anew with `deepwell kb reembed {knowledge_base_id}`"
        )

    def _find(self, client: Any, knowledge_base_id: str, anew: bool = False) -> str | None:
        """Name of the knowledge base's collection, best of our identity. Remembered while the connection holds."""
        if anew or self._known_in != self._milvus.generation:
            self._names, self._known_in = {}, self._milvus.generation
        if knowledge_base_id not in self._names:
            found = collections_of(client, knowledge_base_id)
            ours = collection_name(knowledge_base_id, self._identity) if self._identity else ""
            if found and ours and ours not in found:
                return found[-1]  # not remembered: ours may be made at any moment, beside it
            if found:
                self._names[knowledge_base_id] = ours or found[-1]
        return self._names.get(knowledge_base_id)

    async def upsert(self, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        """Write chunks of one knowledge base, in requests of at most 1,000 rows. Raises Conflict without `ensure`."""
        if not chunks:
            return
        if len(chunks) != len(vectors):
            raise BadRequest(f"{len(chunks)} chunks came with {len(vectors)} vectors: one vector for each is needed")
        if len(owners := {chunk.knowledge_base_id for chunk in chunks}) > 1:
            raise BadRequest(f"chunks of {len(owners)} knowledge bases in one write: write them one by one")
        rows = [{"id": chunk.id, "vector": vector} for chunk, vector in zip(chunks, vectors, strict=True)]
        await self._milvus.run(lambda client: self._upsert(client, chunks[0].knowledge_base_id, rows))

    def _upsert(self, client: Any, knowledge_base_id: str, rows: list[dict[str, Any]]) -> None:
        name = self._find(client, knowledge_base_id)
        if name is None:
            raise Conflict(f"knowledge base {knowledge_base_id} has no collection yet: call ensure first")
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            self._write(knowledge_base_id, partial(client.upsert, name, batch, timeout=LONG))

    def _write(self, knowledge_base_id: str, call: Callable[[], Any]) -> None:
        """One writer at a time. Lite may refuse a row that it stored ("current_seq is monotonic"): writes repeat."""
        from pymilvus.exceptions import MilvusException

        with self._writing[knowledge_base_id]:
            for _ in range(3):
                try:
                    call()
                    self._written[knowledge_base_id] = time.monotonic()
                    return
                except MilvusException as error:
                    if is_missing(error):
                        self._names.pop(knowledge_base_id, None)
                    if "monotonic" not in error.message:
                        raise
        raise IndexUnavailable(f"several writers at once in the index of knowledge base {knowledge_base_id}: try again")

    async def flush(self, knowledge_base_id: str) -> None:
        """Write rows to segments and index them: unflushed rows are searched one by one (720 ms at 20,000)."""

        def work(client: Any) -> None:
            if (name := self._find(client, knowledge_base_id, anew=True)) is not None:
                self._write(knowledge_base_id, lambda: client.flush(name, timeout=LONG))

        await self._milvus.run(work)

    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Nearest chunks by cosine, collections searched at the same time. Raises Conflict for another identity."""
        if limit <= 0:
            return []
        bases, parts = dict.fromkeys(knowledge_base_ids), within(only)
        found = await asyncio.gather(*(self._search(each, vector, limit, part) for each in bases for part in parts))
        if len(found) == 1:
            return found[0]
        return heapq.nlargest(limit, (hit for hits in found for hit in hits), key=lambda hit: hit.score)

    async def _search(self, knowledge_base_id: str, vector: Vectors, limit: int, part: str) -> list[Scored]:
        # `ef` belongs to HNSW, `nprobe` to IVF; servers choose for AUTOINDEX themselves and ignore both
        params = {"metric_type": "COSINE", "params": {"ef": max(128, 2 * limit), "nprobe": 32}}

        def work(client: Any) -> list[Scored]:
            if (name := self._find(client, knowledge_base_id)) is None:
                return []
            self._check(client, name, self._identity, knowledge_base_id)
            options = {"limit": limit, "output_fields": ["id"], "search_params": params, "filter": part}
            level = self._consistency(knowledge_base_id)
            call = partial(client.search, name, data=[vector], consistency_level=level, timeout=TIMEOUT, **options)
            if (found := loaded(client, name, call, absent=None)) is None:
                raise _Dropped
            return [Scored(id=hit["id"], score=float(hit["distance"])) for hit in found[0]]

        def twice(client: Any) -> list[Scored]:
            try:
                return work(client)
            except _Dropped:  # by another process, which may have made a new one
                self._names.pop(knowledge_base_id, None)
            try:
                return work(client)
            except _Dropped:
                return []

        return await self._milvus.run(twice)

    def _consistency(self, knowledge_base_id: str) -> str:
        """Bounded (2-4 ms on a server, where Strong takes 200), but a process sees its own writes at once."""
        recent = time.monotonic() - self._written.get(knowledge_base_id, -STALE) < STALE
        return "Strong" if recent else "Bounded"

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id, from collections of every identity."""
        ids = list(chunk_ids)

        def work(client: Any) -> None:
            for name in collections_of(client, knowledge_base_id):
                for start in range(0, len(ids), _BATCH):
                    batch = ids[start : start + _BATCH]
                    self._write(knowledge_base_id, partial(client.delete, name, ids=batch, timeout=LONG))

        await self._milvus.run(work)

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id of the knowledge base, in no order."""

        def work(client: Any) -> list[str]:
            if (name := self._find(client, knowledge_base_id, anew=True)) is None:
                return []
            return loaded(client, name, lambda: all_ids(client, name), absent=[])

        return await self._milvus.run(work)

    async def vectors(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> dict[str, Vectors]:
        """Vectors by chunk id, only those that are stored."""
        ids = list(chunk_ids)

        def work(client: Any) -> dict[str, Vectors]:
            found: dict[str, Vectors] = {}
            if (name := self._find(client, knowledge_base_id, anew=True)) is None:
                return found
            for start in range(0, len(ids), _BATCH):
                for row in stored(client, name, ids[start : start + _BATCH], ["id", "vector"]):
                    found[row["id"]] = np.asarray(row["vector"], np.float32)
            return found

        return await self._milvus.run(work)

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove its collections of every identity."""
        await self._milvus.run(lambda client: self._drop(client, knowledge_base_id, keep=""))

    async def drop_others(self, knowledge_base_id: str, identity: EmbeddingIdentity) -> int:
        """Remove its collections of other identities than this one. Gives how many."""
        keep = collection_name(knowledge_base_id, identity)
        return await self._milvus.run(lambda client: self._drop(client, knowledge_base_id, keep))

    def _drop(self, client: Any, knowledge_base_id: str, keep: str) -> int:
        names = [name for name in collections_of(client, knowledge_base_id) if name != keep]
        for name in names:
            client.drop_collection(name, timeout=TIMEOUT)
        self._names.pop(knowledge_base_id, None)
        return len(names)

    async def ping(self) -> None:
        """Return if Milvus answers within 2 s."""
        await self._milvus.ping()

    async def close(self) -> None:
        """Close the connection."""
        await self._milvus.close()
