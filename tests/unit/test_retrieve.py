"""`retrieve` over the twins in memory: access, failures, order, and what is left out."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel

from connectors.index.memory import MemoryLexicalIndex, MemoryVectorIndex
from pipelines.errors import BadRequest, Forbidden, IndexUnavailable, ModelUnavailable, NotFound
from pipelines.rag import Rag, TextEmbeddings, Vectors
from pipelines.retrieve import DeepwellRetriever, retrieve
from pipelines.types import Caller, Chunk, EmbeddingIdentity, Scored

TEXTS = {
    "leave": "Employees may take 25 days of annual leave.",
    "travel": "Travel expenses are refunded within 30 days.",
    "pump": "Error E4711 means that the pump is blocked.",
    "garden": "Roses are watered in the evening.",
}
ANYONE = Caller(name="me", scopes=frozenset({"retrieve"}))


class LetterEmbeddings(TextEmbeddings):
    """Counts of letters as vectors: similar texts are near each other."""

    asked = ""

    @property
    def identity(self) -> EmbeddingIdentity:
        return EmbeddingIdentity(model="letters", revision="1", dimension=26)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], dtype=np.float32)
        return np.asarray(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    async def embed_question(self, text: str) -> Vectors:
        self.asked = text
        return np.asarray((await self.embed_passages([text]))[0], dtype=np.float32)


class StoredPassages:
    """Chunks by id; `gone` holds those of deleted documents."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = {(chunk.knowledge_base_id, chunk.id): chunk for chunk in chunks}
        self.gone: set[str] = set()

    async def get(self, knowledge_base_ids: Sequence[str], chunk_ids: Sequence[str]) -> dict[str, Chunk]:
        return {
            chunk_id: self.chunks[base, chunk_id]
            for base in knowledge_base_ids
            for chunk_id in chunk_ids
            if (base, chunk_id) in self.chunks and chunk_id not in self.gone
        }


async def make(texts: dict[str, dict[str, str]]) -> Rag:
    chunks = [
        Chunk(
            id=f"{base}-{name}",
            document_id="d",
            knowledge_base_id=base,
            document="d.pdf",
            text=text,
            position=n,
            page=n + 1,
        )
        for base, its_texts in texts.items()
        for n, (name, text) in enumerate(its_texts.items())
    ]
    embeddings, index, lexical = LetterEmbeddings(), MemoryVectorIndex(), MemoryLexicalIndex()
    for base in texts:
        await index.ensure(base, embeddings.identity)
    await index.upsert(chunks, await embeddings.embed_passages([chunk.text for chunk in chunks]))
    await lexical.upsert(chunks)
    return Rag(
        chat=FakeListChatModel(responses=["x"]),
        embeddings=embeddings,
        index=index,
        lexical=lexical,
        passages=StoredPassages(chunks),
    )


@pytest.fixture
async def rag() -> Rag:
    return await make({"kb1": TEXTS, "kb2": {"secret": "The secret recipe has annual leave of cinnamon."}})


async def test_the_passage_that_answers_comes_first_with_all_its_scores(rag: Rag) -> None:
    hits = await retrieve(rag, ANYONE, "What does error E4711 mean?", ["kb1"], top_k=2)
    assert hits[0].chunk.text == TEXTS["pump"]
    assert len(hits) == 2
    assert hits[0].score > hits[1].score
    assert 0 < hits[0].score <= 1
    assert hits[0].dense is not None
    assert hits[0].lexical is not None


@pytest.mark.parametrize("scopes", [{"chat"}, {"retrieve"}, {"admin"}])
async def test_a_key_with_the_scope_may_search(rag: Rag, scopes: set[str]) -> None:
    caller = Caller(name="k", scopes=frozenset(scopes), knowledge_bases=frozenset({"kb1"}))  # type: ignore[arg-type]
    assert await retrieve(rag, caller, "annual leave", ["kb1"])


@pytest.mark.parametrize("scopes", [set(), {"ingest"}])
async def test_a_key_without_the_scope_may_not(rag: Rag, scopes: set[str]) -> None:
    caller = Caller(name="k", scopes=frozenset(scopes))  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match="scope"):
        await retrieve(rag, caller, "annual leave", ["kb1"])


@pytest.mark.parametrize("asked", [["kb2"], ["kb1", "kb2"], ["nowhere"]])
async def test_a_knowledge_base_outside_the_key_is_not_found(rag: Rag, asked: list[str]) -> None:
    caller = replace(ANYONE, knowledge_bases=frozenset({"kb1"}))
    with pytest.raises(NotFound):
        await retrieve(rag, caller, "secret recipe", asked)
    assert all(hit.chunk.knowledge_base_id == "kb1" for hit in await retrieve(rag, caller, "secret recipe", ["kb1"]))


async def test_several_knowledge_bases_are_searched_together(rag: Rag) -> None:
    hits = await retrieve(rag, ANYONE, "annual leave", ["kb1", "kb2"], top_k=2)
    assert {hit.chunk.id for hit in hits} == {"kb1-leave", "kb2-secret"}


@pytest.mark.parametrize("question", ["", "  \n\t"])
async def test_an_empty_question_is_refused(rag: Rag, question: str) -> None:
    with pytest.raises(BadRequest, match="empty"):
        await retrieve(rag, ANYONE, question, ["kb1"])


async def test_no_knowledge_base_is_refused(rag: Rag) -> None:
    with pytest.raises(BadRequest, match="knowledge base"):
        await retrieve(rag, ANYONE, "leave", [])


async def test_passages_of_deleted_documents_are_left_out_and_others_move_up(rag: Rag) -> None:
    assert isinstance(rag.passages, StoredPassages)
    rag.passages.gone = {"kb1-leave", "kb1-travel"}
    hits = await retrieve(rag, ANYONE, "annual leave", ["kb1"], top_k=2)
    assert {hit.chunk.id for hit in hits} == {"kb1-pump", "kb1-garden"}


async def test_the_same_text_twice_and_parts_of_a_better_passage_are_left_out() -> None:
    rag = await make({"kb1": {**TEXTS, "again": TEXTS["leave"].replace(" ", "\n"), "part": "annual leave."}})
    texts = [" ".join(hit.chunk.text.split()) for hit in await retrieve(rag, ANYONE, TEXTS["leave"], ["kb1"])]
    assert texts.count(TEXTS["leave"]) == 1
    assert "annual leave." not in texts
    assert len(texts) == 4


async def test_hits_below_the_least_score_are_left_out(rag: Rag) -> None:
    every = await retrieve(rag, ANYONE, "pump blocked", ["kb1"])
    some = await retrieve(rag, ANYONE, "pump blocked", ["kb1"], min_score=every[1].score)
    assert [hit.chunk.id for hit in some] == [hit.chunk.id for hit in every[:2]]
    assert await retrieve(rag, ANYONE, "zebras", ["kb1"], min_score=0.9) == []


async def test_a_long_question_is_cut(rag: Rag) -> None:
    assert isinstance(rag.embeddings, LetterEmbeddings)
    await retrieve(rag, ANYONE, "annual leave " * 1000, ["kb1"])
    assert len(rag.embeddings.asked) == 2000


class BrokenVectors(MemoryVectorIndex):
    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        raise IndexUnavailable("the vectors are gone")


class BrokenWords(MemoryLexicalIndex):
    async def search(
        self, knowledge_base_ids: Sequence[str], text: str, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        raise IndexUnavailable("the words are gone")


class BrokenEmbeddings(LetterEmbeddings):
    async def embed_question(self, text: str) -> Vectors:
        raise ModelUnavailable("no embedder")


async def test_half_an_answer_is_never_given(rag: Rag) -> None:
    with pytest.raises(IndexUnavailable, match="vectors"):
        await retrieve(replace(rag, index=BrokenVectors()), ANYONE, "leave", ["kb1"])
    with pytest.raises(IndexUnavailable, match="words"):
        await retrieve(replace(rag, lexical=BrokenWords()), ANYONE, "leave", ["kb1"])
    with pytest.raises(ModelUnavailable):
        await retrieve(replace(rag, embeddings=BrokenEmbeddings()), ANYONE, "leave", ["kb1"])


async def test_langchain_users_get_documents(rag: Rag) -> None:
    retriever = DeepwellRetriever(rag=rag, caller=ANYONE, knowledge_base_ids=["kb1"], top_k=1)
    (document,) = await retriever.ainvoke("What does error E4711 mean?")
    assert document.page_content == TEXTS["pump"]
    assert document.metadata["document"] == "d.pdf"
    assert document.metadata["page"] == 3
    assert document.metadata["chunk_id"] == "kb1-pump"
    assert 0 < document.metadata["score"] <= 1
    with pytest.raises(NotImplementedError, match="ainvoke"):
        retriever.invoke("leave")
