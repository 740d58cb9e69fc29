"""Milvus as full-text index too: the server's own BM25 function over words that were cut beforehand.

For a Milvus server of 2.5 or newer, where every process must see one index over the network. NOT RUN AGAINST A SERVER:
no such server can be installed from package registries; written against milvus.io/docs/full-text-search.md, and run
against Milvus Lite 3.2, which offers the same calls (too slow there for daily use: 110 ms a question at 30,000).

Same semantics as `connectors.index.tantivy`, with two differences: idf is of one knowledge base (a collection each),
and `coverage` counts words, as the server does not tell how rare they are.
"""

import asyncio
import heapq
import re
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from connectors.milvus_client import (
    LONG,
    TIMEOUT,
    MilvusConnection,
    about,
    all_ids,
    complete,
    create,
    loaded,
    slug,
    stored,
    within,
)
from pipelines.errors import BadRequest, Conflict
from pipelines.lexical import SEGMENTATION, reachable, segmented, words
from pipelines.splitters import passage_text
from pipelines.types import Chunk, Scored

_BATCH = 1000
#: BM25 of a word that stands once in a passage of usual length is its ceiling divided by this: k1 + 1
ONCE = 2.2
_MOST_BYTES = 65_535


class MilvusLexicalIndex:
    """LexicalIndex by the BM25 function of a Milvus server, one collection for each knowledge base."""

    def __init__(self, url: str, token: str = "", database: str = "") -> None:
        """As for MilvusIndex."""
        self._milvus = MilvusConnection(url, token, database)
        self._ready: set[str] = set()
        self._lite: bool | None = None
        self._known_in = 0

    async def upsert(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks, in requests of at most 1,000 rows."""
        rows: dict[str, list[dict[str, str]]] = {}
        for chunk in chunks:
            text = segmented(passage_text(chunk))
            rows.setdefault(chunk.knowledge_base_id, []).append({"id": chunk.id, "words": _cut(text)})

        def work(client: Any) -> None:
            for knowledge_base, its_rows in rows.items():
                name = self._ensured(client, knowledge_base)
                for start in range(0, len(its_rows), _BATCH):
                    client.upsert(name, its_rows[start : start + _BATCH], timeout=LONG)

        await self._milvus.run(work)

    def _ensured(self, client: Any, knowledge_base_id: str) -> str:
        name = f"lex_{slug(knowledge_base_id)}"
        if self._known_in != self._milvus.generation:
            self._ready, self._known_in = set(), self._milvus.generation
        if name in self._ready:
            return name
        if not client.has_collection(name, timeout=TIMEOUT):
            self._create(client, name)
        elif (cut := about(client, name).get("segmentation")) != SEGMENTATION:
            raise Conflict(
                f"the full-text collection {name} was cut into words by rules {cut!r}, this release uses "
                f"{SEGMENTATION!r}: delete the knowledge base and add its documents again"
            )
        else:
            complete(client, name, _index(client))
        self._ready.add(name)
        return name

    def _create(self, client: Any, name: str) -> None:
        from pymilvus import DataType, Function, FunctionType

        record = f'{{"segmentation": "{SEGMENTATION}"}}'
        # Lite has no white-space tokenizer; its `standard` one is \w+, on our words nearly the same
        analyzer = {"tokenizer": "standard" if self._is_lite(client) else "whitespace"}
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=record)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=128)
        schema.add_field(
            "words", DataType.VARCHAR, max_length=_MOST_BYTES, enable_analyzer=True, analyzer_params=analyzer
        )
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            Function(
                name="bm25",
                input_field_names=["words"],
                output_field_names=["sparse"],
                function_type=FunctionType.BM25,
            )
        )
        create(client, name, schema, _index(client), record)

    def _is_lite(self, client: Any) -> bool:
        if self._lite is None:
            version = str(client.get_server_version(timeout=TIMEOUT))
            self._lite = version.startswith("milvus_lite")
            numbers = re.findall(r"\d+", version)
            if not self._lite and [int(each) for each in numbers[:2]] < [2, 5]:
                raise BadRequest(
                    f"Milvus {version} has no full-text search: use Milvus 2.5 or newer, "
                    "or set DEEPWELL_INDEX__LEXICAL=tantivy"
                )
        return self._lite

    async def flush(self) -> None:
        """Let the server seal and index what was written."""

        def work(client: Any) -> None:
            for name in sorted(self._ready):
                if client.has_collection(name, timeout=TIMEOUT):
                    client.flush(name, timeout=LONG)

        await self._milvus.run(work)

    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        """Best chunks by BM25 (k1 1.2, b 0.75; higher is better)."""
        asked = list(dict.fromkeys(words(text)))
        if not asked or limit <= 0:
            return []
        found = await asyncio.gather(
            *(
                self._milvus.run(partial(self._search, name=f"lex_{slug(each)}", asked=asked, limit=limit, part=part))
                for each in dict.fromkeys(knowledge_base_ids)
                for part in within(only)
            )
        )
        return heapq.nlargest(limit, (hit for hits in found for hit in hits), key=lambda hit: hit.score)

    def _search(self, client: Any, name: str, asked: list[str], limit: int, part: str) -> list[Scored]:
        options = {"anns_field": "sparse", "limit": limit, "output_fields": ["id", "words"], "timeout": TIMEOUT}
        options["filter"] = part
        parameters = {"metric_type": "BM25", "params": {}}
        call = partial(
            client.search,
            name,
            data=[_cut(" ".join(asked))],
            search_params=parameters,
            consistency_level="Bounded",
            **options,
        )
        hits: list[Any] = loaded(client, name, call, absent=[[]])[0]
        found = [set(hit["entity"]["words"].split()) for hit in hits]
        known = {word: 1.0 for word in asked if any(word in its for its in found)}
        most = reachable(known, [word for word in asked if word not in known], rare=1.0)
        # abs: Milvus Lite 3.2 turns the sign of BM25 scores
        return [
            Scored(
                id=hit["id"],
                score=abs(float(hit["distance"])),
                coverage=min(1.0, sum(word in its for word in known) / most / ONCE),
            )
            for hit, its in zip(hits, found, strict=True)
        ]

    async def delete(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> None:
        """Remove chunks by id."""
        ids, name = list(chunk_ids), f"lex_{slug(knowledge_base_id)}"

        def work(client: Any) -> None:
            if client.has_collection(name, timeout=TIMEOUT):
                for start in range(0, len(ids), _BATCH):
                    client.delete(name, ids=ids[start : start + _BATCH], timeout=LONG)

        await self._milvus.run(work)

    async def ids(self, knowledge_base_id: str) -> list[str]:
        """Every chunk id stored."""
        name = f"lex_{slug(knowledge_base_id)}"
        return await self._milvus.run(
            lambda client: loaded(client, name, lambda: all_ids(client, name), absent=list[str]())
        )

    async def having(self, knowledge_base_id: str, chunk_ids: Sequence[str]) -> list[str]:
        """Those of these chunk ids that are stored."""
        ids, name = list(chunk_ids), f"lex_{slug(knowledge_base_id)}"

        def work(client: Any) -> list[str]:
            parts = [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]
            return [row["id"] for part in parts for row in stored(client, name, part, ["id"])]

        return await self._milvus.run(work)

    async def drop(self, knowledge_base_id: str) -> None:
        """Remove everything of one knowledge base."""
        name = f"lex_{slug(knowledge_base_id)}"

        def work(client: Any) -> None:
            if client.has_collection(name, timeout=TIMEOUT):
                client.drop_collection(name, timeout=TIMEOUT)
            self._ready.discard(name)

        await self._milvus.run(work)

    async def ping(self) -> None:
        """Return if the server answers."""
        await self._milvus.ping()

    async def close(self) -> None:
        """Close the connection."""
        await self._milvus.close()


def _cut(text: str) -> str:
    """As many whole words as fit into Milvus's longest string."""
    raw = text.encode()
    return text if len(raw) <= _MOST_BYTES else raw[:_MOST_BYTES].rpartition(b" ")[0].decode()


def _index(client: Any) -> Any:
    index = client.prepare_index_params()
    parameters = {"bm25_k1": 1.2, "bm25_b": 0.75}
    index.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25", params=parameters)
    return index
