"""One suite over every vector index: Milvus Lite as a real process, and its twin in memory."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import numpy as np
import pytest

from connectors.index.memory import MemoryVectorIndex
from connectors.index.milvus import KINDS, MilvusIndex, collection_name, lite_command
from pipelines.errors import BadRequest, Conflict, IndexUnavailable
from pipelines.rag import VectorIndex, Vectors
from pipelines.types import Chunk, EmbeddingIdentity
from tests.contract.lite import Lite, running

IDENTITY = EmbeddingIdentity(model="test/model", revision="1", dimension=8)
#: a Milvus server to run the suite against as well; its collections kb_kb1_… are dropped
SERVER = os.environ.get("DEEPWELL_TEST_MILVUS_URL", "")
OTHER = replace(IDENTITY, revision="2")


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    with running(tmp_path_factory.mktemp("lite")) as server:
        yield server


@pytest.fixture(params=["milvus", "memory", "server"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[VectorIndex]:
    made: VectorIndex
    if request.param == "memory":
        made = MemoryVectorIndex()
    elif request.param == "milvus":
        made = MilvusIndex(request.getfixturevalue("lite").url)
    elif SERVER:
        made = MilvusIndex(SERVER, token=os.environ.get("DEEPWELL_TEST_MILVUS_TOKEN", ""))
    else:
        pytest.skip("DEEPWELL_TEST_MILVUS_URL names no Milvus server")
    for knowledge_base in ("kb1", "kb2", "kb-1", "kb_1"):
        await made.drop(knowledge_base)
    yield made
    await made.close()


def chunks(count: int, knowledge_base: str = "kb1", first: int = 0) -> list[Chunk]:
    return [
        Chunk(
            id=f"{knowledge_base}-c{n}",
            document_id="d",
            knowledge_base_id=knowledge_base,
            document="d.txt",
            text=str(n),
            position=n,
        )
        for n in range(first, first + count)
    ]


def vectors(count: int, seed: int = 0) -> Vectors:
    made = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), dtype=np.float32)


async def test_finds_the_nearest_first_with_its_cosine(index: VectorIndex) -> None:
    given = vectors(40)
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(40), given)
    await index.flush("kb1")
    hits = await index.search(["kb1"], given[7], 5)
    exact = np.sort(given @ given[7])[::-1][:5]
    assert hits[0].id == "kb1-c7"
    assert [hit.score for hit in hits] == pytest.approx(exact.tolist(), abs=1e-4)


async def test_an_upsert_again_changes_nothing_and_a_new_vector_replaces_the_old(index: VectorIndex) -> None:
    given = vectors(10)
    await index.ensure("kb1", IDENTITY)
    for _ in range(2):
        await index.upsert(chunks(10), given)
        await index.flush("kb1")
    assert len(await index.ids("kb1")) == 10
    await index.upsert(chunks(1), -given[:1])
    for _ in range(2):
        hits = await index.search(["kb1"], given[0], 20)
        assert len(hits) == len({hit.id for hit in hits}) == 10
        assert hits[-1].id == "kb1-c0"
        assert hits[-1].score == pytest.approx(-1, abs=1e-4)
        await index.flush("kb1")


async def test_only_the_allowed_ones_are_found_however_low_they_rank(index: VectorIndex) -> None:
    given = vectors(1500)
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(1500), given)
    await index.flush("kb1")
    order = np.argsort(given @ given[0])
    worst = [f"kb1-c{n}" for n in order[:3]]
    assert [hit.id for hit in await index.search(["kb1"], given[0], 10, only=worst)] == worst[::-1]
    many = {f"kb1-c{n}" for n in order[:1200]}
    hits = await index.search(["kb1"], given[0], 10, only=many)
    assert [hit.id for hit in hits] == [f"kb1-c{n}" for n in order[:1200][::-1][:10]]
    assert await index.search(["kb1"], given[0], 10, only=[]) == []


async def test_rows_are_found_before_the_flush(index: VectorIndex) -> None:
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(3), vectors(3))
    assert {hit.id for hit in await index.search(["kb1"], vectors(1)[0], 10)} == {"kb1-c0", "kb1-c1", "kb1-c2"}


async def test_what_was_deleted_is_gone_before_and_after_the_flush(index: VectorIndex) -> None:
    given = vectors(20)
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(20), given)
    await index.flush("kb1")
    await index.search(["kb1"], given[0], 20)
    await index.delete("kb1", ["kb1-c0", "kb1-c1", "nobody"])
    for _ in range(2):
        hits = await index.search(["kb1"], given[0], 20)
        assert {hit.id for hit in hits} == {f"kb1-c{n}" for n in range(2, 20)}
        assert sorted(await index.ids("kb1")) == sorted(hit.id for hit in hits)
        await index.flush("kb1")
    await index.upsert(chunks(1), given[:1])
    await index.flush("kb1")
    assert (await index.search(["kb1"], given[0], 1))[0].id == "kb1-c0"


async def test_vectors_are_given_back_as_they_were_written(index: VectorIndex) -> None:
    given = vectors(1200)
    assert await index.vectors("kb1", ["kb1-c1"]) == {}
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(1200), given)
    found = await index.vectors("kb1", [*(f"kb1-c{n}" for n in range(1100)), "nobody"])
    assert len(found) == 1100
    assert found["kb1-c1050"] == pytest.approx(given[1050], abs=1e-6)
    await index.delete("kb1", ["kb1-c7"])
    assert list(await index.vectors("kb1", ["kb1-c7", "kb1-c8"])) == ["kb1-c8"]
    assert await index.vectors("kb1", []) == {}


async def test_knowledge_bases_do_not_see_each_other(index: VectorIndex) -> None:
    given = vectors(5)
    for name in ("kb1", "kb2", "kb-1", "kb_1"):
        await index.ensure(name, IDENTITY)
        await index.upsert(chunks(5, name), given)
        await index.flush(name)
    for name in ("kb1", "kb2", "kb-1", "kb_1"):
        assert {hit.id.rpartition("-c")[0] for hit in await index.search([name], given[0], 50)} == {name}
    both = await index.search(["kb1", "kb2", "kb1"], given[3], 4)
    assert {hit.id for hit in both[:2]} == {"kb1-c3", "kb2-c3"}
    assert len(both) == 4
    assert [hit.score for hit in both] == sorted((hit.score for hit in both), reverse=True)
    await index.drop("kb1")
    assert await index.search(["kb1"], given[0], 5) == []
    assert len(await index.ids("kb2")) == 5


async def test_a_knowledge_base_without_a_collection_holds_nothing(index: VectorIndex) -> None:
    assert await index.search(["kb1"], vectors(1)[0], 5) == []
    assert await index.ids("kb1") == []
    await index.delete("kb1", ["x"])
    await index.flush("kb1")
    with pytest.raises(Conflict, match="ensure"):
        await index.upsert(chunks(1), vectors(1))


async def test_another_embedding_is_refused_in_words(index: VectorIndex) -> None:
    await index.ensure("kb1", IDENTITY)
    await index.ensure("kb1", IDENTITY)
    with pytest.raises(Conflict, match=r"embedded with test/model.*set .*back"):
        await index.ensure("kb1", OTHER)
    await index.drop("kb1")
    await index.ensure("kb1", OTHER)


async def test_two_models_side_by_side_and_the_old_one_dropped(lite: Lite) -> None:
    old, new = MilvusIndex(lite.url, identity=IDENTITY), MilvusIndex(lite.url, identity=OTHER)
    given = vectors(20)
    await old.ensure("kb4", IDENTITY)
    await old.upsert(chunks(20, "kb4"), given)
    with pytest.raises(Conflict, match="kb reembed"):
        await new.ensure("kb4", OTHER)
    await new.ensure("kb4", OTHER, beside=True)
    await new.ensure("kb4", OTHER, beside=True)
    assert await new.ids("kb4") == []
    await new.upsert(chunks(5, "kb4"), -given[:5])
    assert (await old.search(["kb4"], given[3], 1))[0].score == pytest.approx(1, abs=1e-4)
    assert (await new.search(["kb4"], -given[3], 1))[0].score == pytest.approx(1, abs=1e-4)
    await old.delete("kb4", ["kb4-c3"])
    assert [len(await index.ids("kb4")) for index in (old, new)] == [19, 4], "a deletion goes through both"
    assert await new.drop_others("kb4", OTHER) == 1
    assert await new.drop_others("kb4", OTHER) == 0
    assert len(await new.ids("kb4")) == 4
    await old.ensure("kb4", IDENTITY, beside=True)
    await new.drop("kb4")
    assert await old.ids("kb4") == []
    await old.close()
    await new.close()


async def test_searching_with_another_embedding_is_refused(lite: Lite) -> None:
    right, wrong = MilvusIndex(lite.url, identity=IDENTITY), MilvusIndex(lite.url, identity=OTHER)
    await right.ensure("kb9", IDENTITY)
    assert await right.search(["kb9"], vectors(1)[0], 1) == []
    with pytest.raises(Conflict, match=r"embedded with test/model \(1, 8 dimensions\)"):
        await wrong.search(["kb9"], vectors(1)[0], 1)
    await right.drop("kb9")
    await right.close()
    await wrong.close()


async def test_a_collection_made_anew_by_another_process_is_found(lite: Lite) -> None:
    here, there = MilvusIndex(lite.url), MilvusIndex(lite.url)
    await here.ensure("kb8", IDENTITY)
    await here.upsert(chunks(1, "kb8"), vectors(1))
    assert len(await there.search(["kb8"], vectors(1)[0], 5)) == 1
    await here.drop("kb8")
    assert await there.search(["kb8"], vectors(1)[0], 5) == []
    await here.ensure("kb8", OTHER)
    await here.upsert(chunks(2, "kb8"), vectors(2))
    assert len(await there.search(["kb8"], vectors(1)[0], 5)) == 2
    await here.drop("kb8")
    await here.close()
    await there.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_allowed_index_type_survives_a_restart(lite: Lite, kind: str) -> None:
    index = MilvusIndex(lite.url, kind=kind)
    await index.drop("kinds")
    await index.ensure("kinds", IDENTITY)
    given = vectors(600)
    await index.upsert(chunks(600, "kinds"), given)
    await index.flush("kinds")
    if kind == "IVF_SQ8":  # once is enough: a restart takes a second
        lite.kill()
        lite.start()
    assert (await index.search(["kinds"], given[5], 3))[0].id == "kinds-c5"
    await index.close()


def test_other_index_types_are_refused() -> None:
    with pytest.raises(BadRequest, match="AUTOINDEX"):
        MilvusIndex("http://127.0.0.1:1", kind="NONSENSE")


async def test_a_killed_server_is_reported_and_heals_without_losing_rows(lite: Lite) -> None:
    index, given = MilvusIndex(lite.url), vectors(50)
    await index.drop("kb7")
    await index.ensure("kb7", IDENTITY)
    await index.upsert(chunks(30, "kb7"), given[:30])
    await index.flush("kb7")
    await index.upsert(chunks(20, "kb7", first=30), given[30:])
    lite.kill()
    started = time.monotonic()
    with pytest.raises(IndexUnavailable, match="running"):
        await index.ping()
    assert time.monotonic() - started < 30
    with pytest.raises(IndexUnavailable, match=r"127\.0\.0\.1"):
        await index.search(["kb7"], given[0], 5)
    lite.start()
    assert {hit.id for hit in await index.search(["kb7"], given[0], 50)} == {f"kb7-c{n}" for n in range(50)}
    await index.ping()
    await index.drop("kb7")
    await index.close()


async def test_a_restart_between_two_calls_is_not_even_noticed(lite: Lite) -> None:
    index = MilvusIndex(lite.url)
    await index.ensure("kb6", IDENTITY)
    await index.upsert(chunks(3, "kb6"), vectors(3))
    assert lite.kill(signal.SIGTERM) == 0
    lite.start()
    assert len(await index.search(["kb6"], vectors(1)[0], 5)) == 3
    await index.upsert(chunks(4, "kb6"), vectors(4))
    assert len(await index.ids("kb6")) == 4
    await index.drop("kb6")
    await index.close()


def test_a_directory_in_use_is_reported(lite: Lite, free_port: int) -> None:
    done = subprocess.run(
        lite_command(lite.directory, free_port), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3
    assert "in use by another process" in done.stderr
    assert "Traceback" not in done.stderr


async def test_writers_at_the_same_time_lose_nothing(lite: Lite) -> None:
    index, given = MilvusIndex(lite.url), vectors(400)
    await index.drop("kb5")
    await index.ensure("kb5", IDENTITY)
    parts = chunks(400, "kb5")

    async def write(start: int) -> None:
        await index.upsert(parts[start : start + 50], given[start : start + 50])
        await index.flush("kb5")

    await asyncio.gather(*(write(start) for start in range(0, 400, 50)))
    assert len(await index.ids("kb5")) == 400
    await index.drop("kb5")
    await index.close()


async def test_searching_does_not_hold_up_the_event_loop(lite: Lite) -> None:
    index, given = MilvusIndex(lite.url), vectors(2000)
    await index.drop("kb4")
    await index.ensure("kb4", IDENTITY)
    await index.upsert(chunks(2000, "kb4"), given)  # not flushed: each search takes tens of ms in the server
    late = []

    async def watch() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - started - 0.005)

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    await asyncio.gather(*(index.search(["kb4"], given[n], 5) for n in range(20)))
    took = time.perf_counter() - started
    watcher.cancel()
    assert len(late) > 3
    assert sorted(late)[len(late) // 2] < took / 10
    await index.drop("kb4")
    await index.close()


def test_names_of_collections_are_what_milvus_allows_and_never_the_same() -> None:
    names = {collection_name(each, IDENTITY) for each in ("a", "a_b", "a-b", "a_2d_b", "日本")}
    assert len(names) == 5
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in names)
