"""Damage to what Milvus Lite keeps on disk: a kill or a power cut at any moment is healed, by the real process."""

import asyncio
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.index.milvus import KINDS, MilvusIndex
from connectors.index.milvus_bm25 import MilvusLexicalIndex
from connectors.lite_files import PART, whole_save
from connectors.milvus_client import MilvusConnection
from pipelines.errors import IndexUnavailable
from pipelines.rag import Vectors
from tests.contract.lite import Lite, running
from tests.contract.test_vector_index import IDENTITY, chunks, vectors

ROWS = 600


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    with running(tmp_path_factory.mktemp("damaged")) as server:
        yield server


@pytest.fixture
async def index(lite: Lite) -> AsyncIterator[MilvusIndex]:
    made = MilvusIndex(lite.url)
    await made.drop("kb1")
    await made.drop("kb2")
    yield made
    await made.close()


async def fill(index: MilvusIndex, rows: int = ROWS, knowledge_base: str = "kb1") -> Vectors:
    given = vectors(rows)
    await index.ensure(knowledge_base, IDENTITY)
    await index.upsert(chunks(rows, knowledge_base), given)
    await index.flush(knowledge_base)
    return given


async def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once that is true."""
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < 120
        await asyncio.sleep(0.02)
    return found


def files(lite: Lite, pattern: str, knowledge_base: str = "kb1") -> list[Path]:
    return sorted(lite.directory.glob(f"collections/kb_{knowledge_base}_*/{pattern}"))


async def first(index: MilvusIndex, vector: Vectors) -> str:
    return (await index.search(["kb1"], vector, 3))[0].id


async def test_damaged_index_files_of_every_kind_are_built_anew(lite: Lite) -> None:
    given = vectors(ROWS)
    indexes = {kind.replace("_", ""): MilvusIndex(lite.url, kind=kind) for kind in KINDS}
    for kind, index in indexes.items():
        await fill(index, ROWS, kind)
    whole: dict[str, tuple[Path, bytes]] = {}
    for kind in indexes:
        [path] = await until(lambda kind=kind: files(lite, "partitions/*/indexes/*.idx", kind))
        whole[kind] = path, path.read_bytes()
    assert lite.kill(signal.SIGTERM) == 0
    for n, (path, content) in enumerate(whole.values()):
        path.write_bytes(content[: n % 2 * len(content) // 2])  # empty, or half of it
    lite.start()
    for kind, index in indexes.items():
        for n in (5, ROWS - 1):
            assert (await index.search([kind], given[n], 3))[0].id == f"{kind}-c{n}"
        path, content = whole[kind]
        assert f"{path} cannot be used and is built anew" in lite.said()
        assert path.stat().st_size == len(content)
        await index.drop(kind)
        await index.close()


async def test_another_segments_index_file_is_built_anew(lite: Lite, index: MilvusIndex) -> None:
    given = await fill(index)
    await fill(index, 30, "kb2")
    [path] = await until(lambda: files(lite, "partitions/*/indexes/*.idx"))
    [other] = await until(lambda: files(lite, "partitions/*/indexes/*.idx", "kb2"))
    lite.kill()
    path.write_bytes(other.read_bytes())
    lite.start()
    assert await first(index, given[599]) == "kb1-c599"
    assert "it holds 30 vectors for 600 rows" in lite.said()


async def test_killed_at_any_moment_of_an_index_build_all_is_found(lite: Lite, index: MilvusIndex) -> None:
    given = vectors(200 * 3)
    await index.ensure("kb1", IDENTITY)
    for round_ in range(3):
        rows = slice(200 * round_, 200 * (round_ + 1))
        await index.upsert(chunks(200, first=rows.start), given[rows])
        await index.flush("kb1")
        await asyncio.sleep(0.005 * round_)  # the index is built meanwhile
        lite.kill()
        lite.start()
        assert await first(index, given[rows.stop - 1]) == f"kb1-c{rows.stop - 1}"
    assert len(await index.ids("kb1")) == len(given)


async def test_what_a_kill_left_half_done_is_removed_at_the_start(lite: Lite, index: MilvusIndex) -> None:
    given = await fill(index, 20)
    [path] = await until(lambda: files(lite, "partitions/*/indexes/*.idx"))
    lite.kill()
    part = path.with_name(f"{path.name}.1{PART}")
    part.write_bytes(b"begun")
    unfinished = lite.directory / "collections" / "kb_kb2_00000000"
    unfinished.mkdir()
    lite.start()
    assert not part.exists()
    assert not unfinished.exists()
    assert "kb_kb2_00000000 was never finished" in lite.said()
    assert await first(index, given[3]) == "kb1-c3"
    await fill(index, 10, "kb2")
    assert len(await index.ids("kb2")) == 10


async def test_a_damaged_data_file_costs_its_own_rows_only_and_they_can_be_written_again(
    lite: Lite, index: MilvusIndex
) -> None:
    given = await fill(index)
    await index.upsert(chunks(50, first=ROWS), given[:50])
    await index.delete("kb1", ["kb1-c0"])
    await index.flush("kb1")
    old, _new = files(lite, "partitions/*/data/*.parquet")
    [deleted] = files(lite, "partitions/*/delta/*.parquet")
    lite.kill()
    old.write_bytes(old.read_bytes()[:-2000])
    deleted.write_bytes(b"")
    lite.start()
    survivors = {f"kb1-c{n}" for n in range(ROWS, ROWS + 50)}
    assert set(await index.ids("kb1")) == survivors
    assert f"{old.parent.name}/{old.name}" in lite.said()
    assert "are left out. The worker embeds their passages again" in lite.said()
    await fill(index)
    assert set(await index.ids("kb1")) == survivors | {f"kb1-c{n}" for n in range(ROWS)}
    assert await first(index, given[599]) == "kb1-c599"


@pytest.mark.parametrize("name", ["schema.json", "manifest.json"])
async def test_a_collection_that_cannot_be_read_is_set_aside_and_the_others_answer(
    lite: Lite, index: MilvusIndex, name: str
) -> None:
    given = await fill(index, 20)
    await fill(index, 20, "kb2")
    lite.kill()
    for path in files(lite, f"{name}*"):
        path.write_bytes(b"\0\xff" * 50)
    lite.start()
    assert len(await index.ids("kb2")) == 20
    assert await index.ids("kb1") == []
    assert "cannot be read" in lite.said() and "/damaged/kb_kb1_" in lite.said()
    await fill(index, 20)
    assert await first(index, given[7]) == "kb1-c7"


async def test_a_kill_before_the_index_was_made_is_made_up_for(lite: Lite, index: MilvusIndex) -> None:
    lexical = MilvusLexicalIndex(lite.url)
    await lexical.drop("kb1")
    await lexical.upsert(chunks(3))
    await index.ensure("kb1", IDENTITY)
    connection = MilvusConnection(lite.url)

    def unindexed(client: Any) -> None:
        for name in client.list_collections():
            if "kb1" in name:
                client.release_collection(name)
                client.drop_index(name, client.list_indexes(name)[0])

    await connection.run(unindexed)
    assert await connection.run(lambda client: client.list_indexes("lex_kb1")) == []
    given = await fill(index)
    await until(lambda: files(lite, "partitions/*/indexes/*.idx"))
    assert await first(index, given[3]) == "kb1-c3"
    again = MilvusLexicalIndex(lite.url)
    await again.upsert(chunks(3))
    assert await connection.run(lambda client: client.list_indexes("lex_kb1"))
    await again.drop("kb1")
    for each in (connection, lexical, again):
        await each.close()


async def test_a_full_disk_at_a_flush_loses_nothing(lite: Lite, index: MilvusIndex) -> None:
    given = vectors(300)
    await index.ensure("kb1", IDENTITY)
    await index.upsert(chunks(300), given)
    unlimited = resource.prlimit(lite.process.pid, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        for _ in range(2):
            with pytest.raises(IndexUnavailable, match="File too large"):
                await index.flush("kb1")
            assert await first(index, given[299]) == "kb1-c299"
    finally:
        resource.prlimit(lite.process.pid, resource.RLIMIT_FSIZE, unlimited)
    await index.upsert(chunks(10, first=300), given[:10])
    await index.flush("kb1")
    lite.kill()
    lite.start()
    assert len(await index.ids("kb1")) == 310
    assert await first(index, given[299]) == "kb1-c299"


def test_an_index_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.idx"
    path.write_bytes(b"whole")

    def fails(_index: Any, part: str) -> None:
        Path(part).write_bytes(b"ha")
        raise RuntimeError("write error in faiss")

    whole_save(fails)(np.zeros(1), str(path))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"whole"]
    assert "is built anew at the next start: write error in faiss" in caplog.text
