"""A knowledge base embedded anew beside the running index: real Milvus Lite, models that hash."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.index.memory import MemoryLexicalIndex
from connectors.index.milvus import MilvusIndex
from pipelines.ingest import IngestParts, embed_and_index
from pipelines.rag import DenseLeg, Rag, Vectors
from pipelines.retrieve import retrieve
from pipelines.types import Caller, Chunk, Scored
from services.embedders import Embedders, Spec
from services.reembedding import RecallTooLow, Reembedding
from services.store.records import KnowledgeBase
from services.store.store import Store
from tests.contract.job_parts import HashEmbeddings
from tests.contract.lite import Lite, running
from tests.contract.test_store import ingest, put

CALLER = Caller(name="test", scopes=frozenset({"retrieve"}))
NEW = {"server": "new", "url": "", "model": "", "query_prefix": "", "passage_prefix": ""}


class Words(HashEmbeddings):
    """Vectors that are the same for a text and for a question of the same first words."""

    async def embed_passages(self, texts: Sequence[str]) -> Vectors:
        await super().embed_passages(texts)
        return np.stack([self._vector(self.identity.model + text.removeprefix("H. ")) for text in texts])

    async def embed_question(self, text: str) -> Vectors:
        return self._vector(self.identity.model + text)


class Blind(MilvusIndex):
    """An index that finds little of what it holds."""

    async def search(self, *arguments: Any, **more: Any) -> list[Scored]:
        return (await super().search(*arguments, **more))[-1:]


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    with running(tmp_path_factory.mktemp("lite")) as server:
        yield server


class Bench:
    """A knowledge base of forty passages, made with the old model."""

    def __init__(self, store: Store, lite: Lite, folder: Path, kind: type[MilvusIndex]) -> None:
        self.store, self.made = store, 0
        models = [Words(folder / f"{name}.log", model=name) for name in ("old", "new")]
        self.old = DenseLeg(embeddings=models[0], index=MilvusIndex(lite.url, identity=models[0].identity))
        self.new = DenseLeg(embeddings=models[1], index=kind(lite.url, identity=models[1].identity))
        self.parts = IngestParts(embeddings=models[0], index=self.old.index, lexical=MemoryLexicalIndex())
        self.embedders = Embedders(self.old, {"server": "old"}, self.make)
        self.steps = Reembedding(store, self.parts, self.embedders, 16)
        self.log = folder / "new.log"

    async def make(self, spec: Spec) -> DenseLeg:
        assert spec == NEW
        self.made += 1
        return self.new

    async def fill(self, count: int) -> KnowledgeBase:
        base = await self.store.knowledge_bases.create(f"kb{id(self)}")
        chunks = await ingest(self.store, await put(self.store, base.id), [f"passage {n}" for n in range(count)])
        await self.store.knowledge_bases.rebind(base.id, self.old.embeddings.identity, self.embedders.spec)
        await self.old.index.ensure(base.id, self.old.embeddings.identity)
        await embed_and_index(self.parts, chunks)
        return await self.store.knowledge_bases.get(base.id)

    async def found(self, base: KnowledgeBase, text: str) -> list[Chunk]:
        rag = Rag(
            chat=None,  # type: ignore[arg-type]
            embeddings=self.old.embeddings, index=self.old.index, lexical=self.parts.lexical,
            passages=self.store.passages, legs=partial(self.embedders.legs, self.store.knowledge_bases),
        )  # fmt: skip
        return [hit.chunk for hit in await retrieve(rag, CALLER, text, [base.id], top_k=3)]

    async def close(self) -> None:
        for leg in (self.old, self.new):
            await leg.index.close()


@pytest.fixture(params=[MilvusIndex, Blind])
async def bench(request: pytest.FixtureRequest, lite: Lite, tmp_path: Path) -> AsyncIterator[Bench]:
    async with await Store.open(f"sqlite:///{tmp_path}/state.db") as store:
        made = Bench(store, lite, tmp_path, request.param)
        yield made
        await made.close()


async def nothing(_done: int, _total: int) -> None:
    return None


@pytest.mark.parametrize("bench", [MilvusIndex], indirect=True)
async def test_searches_go_on_and_change_over(bench: Bench) -> None:
    base = await bench.fill(40)
    seen: list[tuple[int, int]] = []

    async def progress(done: int, total: int) -> None:
        seen.append((done, total))

    failed, asked, over = 0, 0, asyncio.Event()

    async def ask() -> None:
        nonlocal failed, asked
        while not over.is_set():
            for number in (3, 17, 39):  # each with its own model's vectors
                found = await bench.found(base, f"passage {number}")
                failed += [chunk.text for chunk in found][:1] != [f"passage {number}"]
                asked += 1

    asking = asyncio.create_task(ask())
    while await bench.steps.copy(base.id, NEW, progress):
        pass
    check = await bench.steps.check(base.id, NEW)
    assert await bench.steps.switch(base.id, NEW) == "new"
    now = await bench.store.knowledge_bases.get(base.id)
    before = asked
    while asked < before + 6 and not asking.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await bench.steps.drop(now) == 1
    before = asked
    while asked < before + 6 and not asking.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    over.set()
    await asking
    assert (failed, asked > 12) == (0, True)
    assert (check.recall, check.questions) == (1.0, 40)
    assert seen[0] == (0, 40)
    assert seen[-1] == (40, 40)
    assert (now.embedding, now.embedder) == (bench.new.embeddings.identity, NEW)
    assert len(await bench.new.index.ids(base.id)) == 40


@pytest.mark.parametrize("bench", [MilvusIndex], indirect=True)
async def test_it_goes_on_where_it_stopped_and_takes_changes_along(bench: Bench) -> None:
    base = await bench.fill(20)
    ids = await bench.old.index.ids(base.id)
    await bench.new.index.ensure(base.id, bench.new.embeddings.identity, beside=True)
    half = await bench.store.passages.get([base.id], ids[:12])
    new = replace(bench.parts, embeddings=bench.new.embeddings, index=bench.new.index)
    await embed_and_index(new, [*half.values()])  # and then the worker is killed
    bench.log.unlink()
    await bench.steps.copy(base.id, NEW, nothing)
    assert len(bench.log.read_text().splitlines()) == 8
    stranger = replace(next(iter(half.values())), id="stranger")
    await embed_and_index(new, [stranger])
    more = await put(bench.store, base.id, name="more.txt", sha256="7" * 64)
    await bench.store.documents.begin(more.id, more.job_id)
    await bench.steps.switch(base.id, NEW)
    assert sorted(await bench.new.index.ids(base.id)) == sorted(ids)


@pytest.mark.parametrize("bench", [Blind], indirect=True)
async def test_an_index_that_misses_too_much_is_not_switched_to(bench: Bench) -> None:
    base = await bench.fill(40)
    while await bench.steps.copy(base.id, NEW, nothing):
        pass
    with pytest.raises(RecallTooLow, match=r"the old vectors stay in use: the new index finds 0\.\d+ .*DEEPWELL_INDEX"):
        await bench.steps.check(base.id, NEW)
    assert await bench.steps.give_up(base.id, NEW) == 1
    assert (await bench.store.knowledge_bases.get(base.id)).embedding == bench.old.embeddings.identity
    assert next(chunk.text for chunk in await bench.found(base, "passage 3")) == "passage 3"
