"""Dify's metadata conditions act before the ranking: a passage that meets them is found however low it ranks."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from connectors.apps.dify import RetrievalRequest, parse_retrieval
from connectors.index.memory import MemoryVectorIndex
from connectors.index.tantivy import TantivyIndex
from pipelines.rag import Rag
from pipelines.retrieve import AMONG_ALL, retrieve
from pipelines.types import Chunk, Hit
from services.api.dify import document_fields, passage_fields, wanted_passages
from services.store.documents import Upload
from services.store.records import Document, KnowledgeBase
from services.store.store import Store
from tests.unit.small_rag import ASKER, BagEmbeddings, small_rag
from tests.unit.test_dify_operators import TABLE

pytestmark = pytest.mark.asyncio(loop_scope="module")
QUESTION = "annual leave days"
#: passages that answer the question better than the one that is wanted
BETTER = 700


@dataclass
class Shelf:
    """A knowledge base with one document of many good passages and two others."""

    store: Store
    base: KnowledgeBase
    rag: Rag
    documents: dict[str, Document]
    chunks: list[Chunk]

    async def find(self, *conditions: tuple[Any, str, Any], operator: str = "and", top_k: int = 4) -> list[Hit]:
        wanted = asked(*conditions, operator=operator)
        only = await wanted_passages(self.store, wanted, self.base, signed)
        return await retrieve(self.rag, ASKER, QUESTION, [self.base.id], top_k=top_k, only=only)


def signed(chunk_id: str) -> str:
    return f"http://x/c/{chunk_id}"


def asked(*conditions: tuple[Any, str, Any], operator: str = "and") -> RetrievalRequest:
    listed = [{"name": name, "comparison_operator": how, "value": value} for name, how, value in conditions]
    condition = {"logical_operator": operator, "conditions": listed}
    return parse_retrieval(
        json.dumps({"knowledge_id": "kb", "query": QUESTION, "metadata_condition": condition}).encode()
    )


TEXTS = {
    "handbook/leave.pdf": [f"annual leave days, rule {n}" for n in range(BETTER)],
    "handbook/travel.pdf": ["hotels and trains and the many other things that people pay for, and leave for"],
    "在宅勤務規程.docx": ["remote work", "remote leave"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shelf(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shelf]:
    folder: Path = tmp_path_factory.mktemp("shelf")
    async with await Store.open(f"sqlite:///{folder / 'state.db'}") as store:
        base = await store.knowledge_bases.create("handbook")
        documents, chunks, identity = {}, [], BagEmbeddings().identity
        await store.knowledge_bases.bind(base.id, identity)
        for name, texts in TEXTS.items():
            async with store.database.write(lock=name) as connection:
                upload = Upload(name=name, sha256=f"{len(name):064}", size=len(texts), media_type="text/plain")
                document, _ = await store.documents.put(connection, base.id, upload)
            made = [
                Chunk(
                    id=f"{document.id}-{n}",
                    document_id=document.id,
                    knowledge_base_id=base.id,
                    document=name,
                    text=text,
                    position=n,
                    page=n + 1 if name.endswith(".pdf") else None,
                )
                for n, text in enumerate(texts)
            ]
            await store.documents.begin(document.id, document.job_id)
            await store.chunks.stage(document.id, document.job_id, made)
            await store.chunks.mark_embedded(document.id, [chunk.id for chunk in made], document.job_id, identity)
            await store.chunks.publish(document.id, document.job_id)
            documents[name] = await store.documents.get(document.id)
            chunks += made
        embeddings, index, lexical = BagEmbeddings(), MemoryVectorIndex(), TantivyIndex(folder / "lexical")
        await index.ensure(base.id, embeddings.identity)
        await index.upsert(chunks, await embeddings.embed_passages([chunk.text for chunk in chunks]))
        await lexical.upsert(chunks)
        rag = replace(await small_rag(None), index=index, lexical=lexical, passages=store.passages)  # type: ignore[arg-type]
        yield Shelf(store, base, rag, documents, chunks)
        await lexical.close()


async def test_a_passage_that_ranks_behind_hundreds_is_found(shelf: Shelf) -> None:
    assert BETTER > AMONG_ALL
    every = await retrieve(shelf.rag, ASKER, QUESTION, [shelf.base.id], top_k=100)
    assert {hit.chunk.document for hit in every} == {"handbook/leave.pdf"}, "it ranks low without a condition"
    for conditions in (
        [("document_name", "is", "handbook/travel.pdf")],
        [("document_name", "end with", ".pdf"), ("size", "<", 2)],
        [("page", "not empty", None), ("document_name", "not contains", "leave")],
    ):
        (hit,) = await shelf.find(*conditions)
        assert hit.chunk.document == "handbook/travel.pdf"


async def test_where_most_are_allowed_the_best_come_first(shelf: Shelf) -> None:
    hits = await shelf.find(("document_name", "contains", "leave"), ("position", "≥", 100), top_k=5)
    assert len(hits) == 5
    assert all(hit.chunk.position >= 100 for hit in hits)


async def test_conditions_that_nothing_meets_find_nothing(shelf: Shelf) -> None:
    assert await shelf.find(("document_name", "is", "nowhere")) == []
    assert await shelf.find(("team", "not empty", None)) == []


#: the fields that the passages really have, for the fields of the table of operators
FIELDS = {"document_name": "document_name", "page": "page", "upload_date": "upload_date", "team": "heading"}


@pytest.mark.parametrize("both", ["and", "or"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
async def test_every_operator_allows_what_plain_python_does(shelf: Shelf, row: Any, both: str) -> None:
    operator, name, value, _ = row
    second = ("position", "<", 3)
    wanted = asked((FIELDS[name], operator, value), second, operator=both)
    allowed = await wanted_passages(shelf.store, wanted, shelf.base, signed)
    documents = {each.id: each for each in shelf.documents.values()}
    plain = {
        chunk.id
        for chunk in shelf.chunks
        if wanted.matches(
            passage_fields(chunk, signed(chunk.id)) | document_fields(documents[chunk.document_id], shelf.base)
        )
    }
    assert allowed == plain
