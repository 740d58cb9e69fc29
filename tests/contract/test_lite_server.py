"""The short cut of our Milvus Lite process finds exactly what the library itself finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_lite.adapter.grpc.server import start_server_in_thread
from milvus_lite.engine import collection

from connectors.index.milvus import MilvusIndex
from connectors.lite_server import READ_AGAINST, _is_plain, live_rows, quick_search
from pipelines.types import Chunk, EmbeddingIdentity

IDENTITY = EmbeddingIdentity(model="test/model", revision="1", dimension=8)


def chunks(numbers: list[int]) -> list[Chunk]:
    return [
        Chunk(id=f"c{n}", document_id="d", knowledge_base_id="kb", document="d", text=str(n), position=n)
        for n in numbers
    ]


async def test_the_short_cut_finds_what_the_library_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = collection.execute_search_with_index
    quick = quick_search(stock)
    short = []

    def both(**request: Any) -> list[list[dict[str, Any]]]:
        expected, found = stock(**request), quick(**request)
        assert [[hit["id"] for hit in hits] for hits in found] == [[hit["id"] for hit in hits] for hits in expected]
        for left, right in zip(found, expected, strict=True):
            assert [hit["distance"] for hit in left] == pytest.approx([hit["distance"] for hit in right], abs=1e-6)
        short.append(_is_plain(request, tuple(each for each in request["segments"] if each.num_rows)))
        return found

    monkeypatch.setattr(collection, "execute_search_with_index", both)
    server, database, port = start_server_in_thread(str(tmp_path / "lite"))
    index = MilvusIndex(f"http://127.0.0.1:{port}", kind="HNSW")
    random = np.random.default_rng(3)
    await index.ensure("kb", IDENTITY)
    alive: set[int] = set()
    for round_ in range(12):  # segments with repeated and deleted keys; enough of them for compactions
        numbers = random.choice(300, 60, replace=False).tolist()
        await index.upsert(chunks(numbers), random.normal(size=(60, 8)).astype(np.float32))
        alive |= set(numbers)
        gone = random.choice(300, 15, replace=False).tolist() if round_ % 3 else []
        await index.delete("kb", [f"c{n}" for n in gone])
        alive -= set(gone)
        for _ in range(3):
            await index.search(["kb"], random.normal(size=8).astype(np.float32), 20)
        await index.flush("kb")
        for _ in range(3):
            await index.search(["kb"], random.normal(size=8).astype(np.float32), 20)
        hits = await index.search(["kb"], random.normal(size=8).astype(np.float32), 300)
        assert {hit.id for hit in hits} == {f"c{n}" for n in alive}
    await index.close()
    server.stop(grace=1).wait()
    database.close()
    assert 20 < sum(short) < len(short)


class Segment:
    def __init__(self, **rows: int) -> None:
        self.pks, self.seqs, self.num_rows = list(rows), np.array(list(rows.values()), dtype=np.uint64), len(rows)


def test_a_row_lives_if_it_is_the_newest_of_its_key_and_not_deleted_later() -> None:
    masks = live_rows([Segment(a=1, b=2, c=3), Segment(a=5, d=6)], {"b": 4, "d": 5})  # type: ignore[list-item]
    assert masks[0] is not None
    assert masks[0].tolist() == [False, False, True]
    assert masks[1] is None


def test_the_short_cut_was_written_against_the_release_that_is_pinned() -> None:
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text()
    assert f"milvus-lite=={READ_AGAINST}\n" in pinned
