"""One suite over every full-text index: Tantivy, its twin in memory, and Milvus (Lite stands in for a server)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from connectors.index.memory import MemoryLexicalIndex
from connectors.index.milvus_bm25 import MilvusLexicalIndex
from connectors.index.tantivy import TantivyIndex
from pipelines.errors import Conflict, IndexUnavailable
from pipelines.rag import LexicalIndex
from pipelines.types import Chunk
from tests.contract.lite import Lite, running

TEXTS = {
    "leave": "Employees may take 25 days of annual leave. Requests go to the line manager.",
    "travel": "Travel expenses are refunded within 30 days when receipts are attached.",
    "tokyo": "東京本社の就業規則では、年次有給休暇は二十日とする。",
    "beijing": "北京办公室的员工每年享有十五天带薪年假。",
    "seoul": "서울 사무소 직원은 연차 휴가를 신청할 수 있습니다.",
    "codes": "Error E4711 in module XJ-900 means that the pump is blocked.",
}


def chunk(chunk_id: str, text: str, knowledge_base: str = "kb1", heading: str = "") -> Chunk:
    return Chunk(
        id=chunk_id,
        document_id="d",
        knowledge_base_id=knowledge_base,
        document="d.txt",
        text=text,
        position=0,
        heading=heading,
    )


CHUNKS = [chunk(name, text) for name, text in TEXTS.items()]


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lite]:
    with running(tmp_path_factory.mktemp("lite")) as server:
        yield server


@pytest.fixture(params=["tantivy", "memory", "milvus_bm25"])
async def index(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LexicalIndex]:
    made: LexicalIndex
    if request.param == "milvus_bm25":
        made = MilvusLexicalIndex(request.getfixturevalue("lite").url)
        for knowledge_base in ("kb1", "kb2"):
            await made.drop(knowledge_base)
    else:
        made = TantivyIndex(tmp_path / "words") if request.param == "tantivy" else MemoryLexicalIndex()
    yield made
    await made.close()


async def best(index: LexicalIndex, question: str, *bases: str) -> list[str]:
    return [hit.id for hit in await index.search(bases or ("kb1",), question, 10)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How many days of annual leave?", "leave"),
        ("EXPENSE refund receipt", "travel"),
        ("有給休暇は何日ですか", "tokyo"),
        ("员工有几天年假？", "beijing"),
        ("휴가 신청", "seoul"),
        ("what is e4711", "codes"),
        ("XJ-900", "codes"),
        ("Ｅ４７１１", "codes"),
    ],
)
async def test_finds_words_of_every_language(index: LexicalIndex, question: str, expected: str) -> None:
    await index.upsert(CHUNKS)
    await index.flush()
    assert (await best(index, question))[0] == expected


async def test_scores_are_bm25_and_higher_is_better(index: LexicalIndex) -> None:
    await index.upsert(CHUNKS)
    hits = await index.search(["kb1"], "annual leave days", 10)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)
    other = MemoryLexicalIndex()
    await other.upsert(CHUNKS)
    exact = await other.search(["kb1"], "annual leave days", 10)
    assert [hit.id for hit in hits] == [hit.id for hit in exact]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in exact], rel=0.05)


async def test_coverage_says_how_much_of_the_question_was_found(index: LexicalIndex) -> None:
    await index.upsert(CHUNKS)
    whole = (await index.search(["kb1"], "pump blocked", 1))[0].coverage
    foreign = (await index.search(["kb1"], "どの部品が E4711 を出しますか、そして原因は何でしょうか", 1))[0].coverage
    assert whole is not None
    assert foreign is not None
    assert 0 < foreign < 0.3 < whole <= 1


async def test_a_question_without_a_known_word_finds_nothing(index: LexicalIndex) -> None:
    assert await best(index, "leave") == []
    await index.upsert(CHUNKS)
    assert await best(index, "?!… \n") == []
    assert await best(index, "zebra") == []
    assert await index.search([], "leave", 5) == []
    assert await index.search(["kb1"], "leave", 0) == []


async def test_an_upsert_again_changes_nothing_and_a_new_text_replaces_the_old(index: LexicalIndex) -> None:
    for _ in range(2):
        await index.upsert(CHUNKS)
        await index.flush()
    assert sorted(await index.ids("kb1")) == sorted(TEXTS)
    await index.upsert([chunk("codes", "Something about zebras")])
    assert await best(index, "E4711") == []
    assert await best(index, "zebra") == ["codes"]


async def test_a_heading_is_searched_too(index: LexicalIndex) -> None:
    await index.upsert([*CHUNKS, chunk("h", "It takes two weeks.", heading="Parental > Adoption")])
    assert await best(index, "adoption") == ["h"]


async def test_deleted_and_dropped_chunks_are_gone(index: LexicalIndex) -> None:
    await index.upsert([*CHUNKS, *(chunk(c.id, c.text, "kb2") for c in CHUNKS)])
    assert sorted(await index.having("kb1", ["leave", "nobody", "travel"])) == ["leave", "travel"]
    await index.delete("kb1", ["leave", "nobody"])
    await index.flush()
    assert await index.having("kb1", ["leave", "travel"]) == ["travel"]
    assert await index.having("kb2", ["leave"]) == ["leave"]
    assert await index.having("kb1", []) == []
    assert await best(index, "annual leave") == []
    assert await best(index, "annual leave", "kb2") == ["leave"]
    await index.drop("kb2")
    assert await index.ids("kb2") == []
    assert await best(index, "expenses", "kb1", "kb2") == ["travel"]


async def test_knowledge_bases_do_not_see_each_other(index: LexicalIndex) -> None:
    await index.upsert([chunk("a", "secret plan", "kb1"), chunk("b", "secret plan", "kb2")])
    assert await best(index, "secret", "kb1") == ["a"]
    assert await best(index, "secret", "kb2") == ["b"]
    assert sorted(await best(index, "secret", "kb1", "kb2")) == ["a", "b"]
    assert await best(index, "secret", "kb") == []


async def test_a_question_of_thousands_of_words_is_answered_quickly(index: LexicalIndex) -> None:
    await index.upsert(CHUNKS)
    started = time.perf_counter()
    assert "leave" in await best(index, " ".join([*(f"filler{n}" for n in range(5000)), "annual leave"]))
    assert time.perf_counter() - started < 30


async def test_another_reader_sees_each_write_at_once_and_after_a_restart(tmp_path: Path) -> None:
    writer, reader = TantivyIndex(tmp_path / "words"), TantivyIndex(tmp_path / "words")
    assert await best(reader, "leave") == []
    for name in ("leave", "travel"):
        await writer.upsert([chunk(name, TEXTS[name])])
        assert name in await best(reader, "days")
    await writer.delete("kb1", ["leave"])
    assert await best(reader, "days") == ["travel"]
    await reader.upsert([chunk("codes", TEXTS["codes"])])  # the lock is free between writes
    await writer.close()
    await reader.close()
    again = TantivyIndex(tmp_path / "words")
    assert sorted(await again.ids("kb1")) == ["codes", "travel"]
    await again.ping()
    await again.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from connectors.index.milvus_bm25 import MilvusLexicalIndex
from connectors.index.tantivy import TantivyIndex
from pipelines.types import Chunk

async def main():
    index = TantivyIndex(Path(sys.argv[1]))
    rest = {"document_id": "d", "knowledge_base_id": "kb1", "document": "d", "text": "word", "position": 0}
    for batch in range(10**6):
        await index.upsert([Chunk(id=f"{batch}-{n}", **rest) for n in range(20)])
        print(batch, flush=True)

asyncio.run(main())
"""


def written_by_a_killed_process(directory: Path) -> int:
    """Batches that a writer process had reported when it was killed in the middle of its work."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(8):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    written = 8 + len(process.stdout.readlines())
    process.wait()
    process.stdout.close()
    return written


async def test_a_killed_writer_loses_nothing_that_was_written_and_leaves_no_half(tmp_path: Path) -> None:
    written = await asyncio.to_thread(written_by_a_killed_process, tmp_path / "words")
    index = TantivyIndex(tmp_path / "words")
    found = len(await index.ids("kb1"))
    assert found in (written * 20, written * 20 + 20)
    await index.upsert([chunk("leave", TEXTS["leave"])])  # the dead writer's lock is free
    assert len(await index.ids("kb1")) == found + 1
    await index.close()


async def test_a_damaged_index_is_reported(tmp_path: Path) -> None:
    index = TantivyIndex(tmp_path / "words")
    await index.upsert(CHUNKS)
    await index.close()
    (tmp_path / "words" / "meta.json").write_text("{")
    with pytest.raises(IndexUnavailable, match="full-text index"):
        await TantivyIndex(tmp_path / "words").ping()


async def test_an_index_of_other_word_rules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "segmentation").write_text("0")
    with pytest.raises(Conflict, match="add the documents again"):
        await TantivyIndex(tmp_path / "words").ping()


async def test_only_the_allowed_ones_are_found_however_low_they_rank(index: LexicalIndex) -> None:
    better = [chunk(f"b{n}", "annual leave") for n in range(1300)]
    await index.upsert([*better, chunk("low", "annual things, and a great many other words beside them in this text")])
    await index.flush()
    assert [hit.id for hit in await index.search(["kb1"], "annual leave", 5, only={"low"})] == ["low"]
    allowed = {f"b{n}" for n in range(100, 1250)} | {"low"}
    hits = await index.search(["kb1"], "annual leave", 7, only=allowed)
    assert len(hits) == 7 and {hit.id for hit in hits} <= allowed
    assert await index.search(["kb1"], "annual leave", 5, only=set()) == []
