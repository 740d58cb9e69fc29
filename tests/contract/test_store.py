"""Own state on both databases: the same tests on SQLite and on a real PostgreSQL."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from pipelines.errors import BadRequest, Conflict, NotFound, Unavailable
from pipelines.types import Caller, Chunk, EmbeddingIdentity
from services.store import tables
from services.store.chunks import ModelChanged
from services.store.database import sync_url
from services.store.documents import Upload
from services.store.migrate import migrate
from services.store.records import Document
from services.store.store import Store
from tests.contract import postgres

IDENTITY = EmbeddingIdentity(model="m", revision="1", dimension=8)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    return postgres.new_database(request.getfixturevalue("postgresql"), f"t{uuid4().hex}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with await Store.open(url) as opened:
        yield opened


async def put(store: Store, knowledge_base_id: str, name: str = "a.txt", sha256: str = "1" * 64) -> Document:
    async with store.database.write(lock=sha256) as connection:
        upload = Upload(name=name, sha256=sha256, size=3, media_type="text/plain")
        return (await store.documents.put(connection, knowledge_base_id, upload))[0]


def passages(document: Document, texts: list[str]) -> list[Chunk]:
    return [
        Chunk(
            id=f"{document.id}-{text}", document_id=document.id, knowledge_base_id=document.knowledge_base_id,
            document=document.name, text=text, position=position, page=1, page_end=2, heading="H", start=3, end=4,
        )
        for position, text in enumerate(texts)
    ]  # fmt: skip


async def ingest(store: Store, document: Document, texts: list[str]) -> list[Chunk]:
    """What the worker does with a document, without its indexes."""
    chunks = passages(document, texts)
    assert await store.documents.begin(document.id, document.job_id) is not None
    assert await store.chunks.stage(document.id, document.job_id, chunks)
    await embed(store, document, [chunk.id for chunk in chunks])
    assert await store.chunks.publish(document.id, document.job_id) == len(chunks)
    return chunks


async def embed(store: Store, document: Document, ids: list[str]) -> bool:
    await store.knowledge_bases.bind(document.knowledge_base_id, IDENTITY)
    return await store.chunks.mark_embedded(document.id, ids, document.job_id, IDENTITY)


async def test_tables_are_what_the_migrations_make(store: Store, url: str) -> None:
    engine = sa.create_engine(sync_url(url))
    with engine.connect() as connection:
        found = sa.inspect(connection)
        assert {*tables.metadata.tables} | {"alembic_version"} == {*found.get_table_names()}
        for name, table in tables.metadata.tables.items():
            made = {column["name"]: column["nullable"] for column in found.get_columns(name)}
            assert made == {column.name: column.nullable for column in table.columns}, name
            indexes = {tuple(index["column_names"]) for index in found.get_indexes(name)}
            assert {tuple(column.name for column in index.columns) for index in table.indexes} <= indexes, name
    engine.dispose()


async def test_two_processes_may_migrate_at_once_and_a_newer_schema_is_refused(url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrate, url) for _ in range(4)))
    engine = sa.create_engine(sync_url(url))
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM alembic_version")).scalar() == 1
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(Conflict, match=r"newer Deepwell \(schema 9999"):
        await Store.open(url)


async def test_knowledge_bases(store: Store) -> None:
    made = await store.knowledge_bases.create("規程-2026_v1", "leave and travel")
    with pytest.raises(Conflict, match="規程-2026_v1"):
        await store.knowledge_bases.create("規程-2026_v1")
    assert await store.knowledge_bases.get(made.id) == await store.knowledge_bases.get("規程-2026_v1") == made
    with pytest.raises(NotFound, match="nothing"):
        await store.knowledge_bases.get("nothing")
    await store.knowledge_bases.create("a")
    assert [one.name for one in await store.knowledge_bases.list()] == ["a", "規程-2026_v1"]


async def test_the_embedding_is_bound_once(store: Store) -> None:
    made = await store.knowledge_bases.create("a")
    await store.knowledge_bases.bind(made.id, IDENTITY)
    await store.knowledge_bases.bind(made.id, IDENTITY)
    assert (await store.knowledge_bases.get("a")).embedding == IDENTITY
    with pytest.raises(Conflict, match=r"was made with embedding model m .* `deepwell kb reembed`"):
        await store.knowledge_bases.bind(made.id, replace(IDENTITY, model="other"))


async def test_a_deleted_knowledge_base_is_gone_at_once_and_its_name_is_free(store: Store, tmp_path: Path) -> None:
    old = await store.knowledge_bases.create("a")
    document = await put(store, old.id)
    chunks = await ingest(store, document, ["one"])
    await store.knowledge_bases.mark_deleted(old.id, "job")
    assert await store.passages.get([old.id], [chunks[0].id]) == {}
    assert await store.documents.list(old.id) == []
    with pytest.raises(NotFound):
        await store.knowledge_bases.get(old.id)
    new = await store.knowledge_bases.create("a")
    assert new.id != old.id
    assert await store.knowledge_bases.unfinished_deletions() == [(old.id, "job")]
    (tmp_path / document.sha256).touch()
    assert await store.purge.rows_of(old.id) == (1, 1)
    [sha256] = await store.purge.hashes(old.id)
    assert (tmp_path / sha256).exists()
    await store.purge.knowledge_base(old.id, tmp_path)
    assert await store.purge.rows_of(old.id) == (0, 0)
    assert not (tmp_path / sha256).exists()
    assert await store.knowledge_bases.unfinished_deletions() == []


async def test_the_same_content_again_is_free_unless_it_failed(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    first = await put(store, base.id)
    assert first.state == "queued"
    assert await put(store, base.id) == first
    await ingest(store, first, ["one"])
    assert (await put(store, base.id)).job_id == first.job_id
    changed = await put(store, base.id, sha256="2" * 64)
    assert (changed.id, changed.state, changed.chunks) == (first.id, "queued", 1)
    assert changed.job_id != first.job_id
    await store.documents.begin(changed.id, changed.job_id)
    assert await store.documents.end(changed.id, changed.job_id, "failed", "damaged", "unreadable_document")
    again = await put(store, base.id, sha256="2" * 64)
    assert (again.state, again.error) == ("queued", "")
    assert again.job_id not in {changed.job_id, first.job_id}


async def test_searches_see_one_whole_version(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    old = await ingest(store, await put(store, base.id), ["one", "two"])
    wanted = [old[0].id, old[1].id, f"{old[0].document_id}-three"]
    document = await put(store, base.id, sha256="2" * 64)
    await store.documents.begin(document.id, document.job_id)
    assert await store.chunks.stage(document.id, document.job_id, passages(document, ["one", "three"]))
    assert set(await store.passages.get([base.id], wanted)) == {old[0].id, old[1].id}
    new = await store.chunks.to_embed(document.id, 10)
    assert [chunk.text for chunk in new] == ["three"]  # the other one is the same as before
    assert await store.chunks.staged(document.id) == (2, 1)
    assert await embed(store, document, [wanted[2]])
    assert await store.chunks.publish(document.id, document.job_id) == 2
    seen = await store.passages.get([base.id], wanted)
    assert set(seen) == {wanted[0], wanted[2]}
    assert seen[wanted[2]] == passages(document, ["one", "three"])[1]
    assert await store.chunks.to_sweep() == [document.id]
    assert await store.chunks.stale(document.id) == {base.id: [old[1].id]}
    await store.chunks.forget_stale([old[1].id])
    assert await store.chunks.stale(document.id) == {}
    assert await store.chunks.to_sweep() == []


async def test_passages_are_those_of_the_knowledge_bases_asked(store: Store) -> None:
    one, two = await store.knowledge_bases.create("a"), await store.knowledge_bases.create("b")
    chunks = await ingest(store, await put(store, one.id), ["one"])
    ids = [chunks[0].id, "unknown"]
    assert set(await store.passages.get([one.id, two.id], ids)) == {chunks[0].id}
    assert await store.passages.get([two.id], ids) == {}
    assert await store.passages.get([], ids) == await store.passages.get([one.id], []) == {}


async def test_neighbours_are_of_the_same_document_and_not_of_a_deleted_one(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    first = await ingest(store, await put(store, base.id, name="x.txt"), ["one", "two", "three", "four"])
    other = await ingest(store, await put(store, base.id, name="y.txt", sha256="2" * 64), ["five"])
    assert await store.passages.around([first[1], other[0]], 1) == sorted(
        [*first[:3], other[0]], key=lambda each: (each.document_id, each.position)
    )
    assert await store.passages.around([], 1) == []
    await store.documents.mark_deleted(first[0].document_id)
    assert await store.passages.around([first[1]], 1) == []


async def test_what_is_needed_again_is_not_swept(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    document = await put(store, base.id)
    await ingest(store, document, ["one", "two"])
    await ingest(store, await put(store, base.id, sha256="2" * 64), ["one"])
    await ingest(store, await put(store, base.id, sha256="3" * 64), ["two"])
    assert await store.chunks.stale(document.id) == {base.id: [f"{document.id}-one"]}


async def test_a_job_that_lost_its_document_changes_nothing(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    old = await put(store, base.id)
    await store.documents.begin(old.id, old.job_id)
    assert await store.chunks.stage(old.id, old.job_id, passages(old, ["one"]))
    new = await put(store, base.id, sha256="2" * 64)
    assert await store.documents.begin(old.id, old.job_id) is None
    assert not await store.chunks.stage(old.id, old.job_id, passages(old, ["two"]))
    assert not await embed(store, old, [f"{old.id}-one"])
    assert await store.chunks.publish(old.id, old.job_id) is None
    assert not await store.documents.end(old.id, old.job_id, "failed", "x")
    assert (await store.documents.get(old.id)) == new


async def test_what_was_embedded_with_another_model_is_not_published(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    await ingest(store, await put(store, base.id), ["one"])
    document = await put(store, base.id, sha256="2" * 64)
    await store.documents.begin(document.id, document.job_id)
    await store.chunks.stage(document.id, document.job_id, passages(document, ["one", "two"]))
    with pytest.raises(ModelChanged):
        await store.chunks.publish(document.id, document.job_id)
    assert await embed(store, document, [f"{document.id}-two"])
    other = replace(IDENTITY, model="other")
    await store.knowledge_bases.rebind(base.id, other, {"server": "openai"})
    found = await store.knowledge_bases.get(base.id)
    assert (found.embedding, found.embedder) == (other, {"server": "openai"})
    assert [chunk.text for chunk in await store.chunks.to_embed(document.id, 10)] == ["two"]
    with pytest.raises(ModelChanged):
        await store.chunks.mark_embedded(document.id, [f"{document.id}-two"], document.job_id, IDENTITY)
    with pytest.raises(ModelChanged, match="embedded again"):
        await store.chunks.publish(document.id, document.job_id)
    assert await store.chunks.mark_embedded(document.id, [f"{document.id}-two"], document.job_id, other)
    assert await store.chunks.publish(document.id, document.job_id) == 2


async def test_embedded_passages_of_an_unfinished_job_are_kept_or_swept(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    first = await put(store, base.id)
    await store.documents.begin(first.id, first.job_id)
    await store.chunks.stage(first.id, first.job_id, passages(first, ["one", "two", "three"]))
    assert await embed(store, first, [f"{first.id}-one", f"{first.id}-two"])
    second = await put(store, base.id, sha256="2" * 64)
    await store.documents.begin(second.id, second.job_id)
    await store.chunks.stage(second.id, second.job_id, passages(second, ["two", "four"]))
    assert [chunk.text for chunk in await store.chunks.to_embed(second.id, 10)] == ["four"]
    assert await store.chunks.stale(first.id) == {base.id: [f"{first.id}-one"]}


async def test_deletion_is_at_once_and_a_new_upload_brings_nothing_old_back(store: Store, tmp_path: Path) -> None:
    base = await store.knowledge_bases.create("a")
    document = await put(store, base.id)
    chunks = await ingest(store, document, ["one", "two"])
    deletion = await store.documents.mark_deleted(document.id)
    assert await store.passages.get([base.id], [chunks[0].id]) == {}
    assert await store.documents.list(base.id) == []
    with pytest.raises(NotFound):
        await store.documents.get(document.id)
    assert [one.id for one in await store.documents.being_deleted()] == [document.id]
    back = await put(store, base.id)
    assert (back.deleted, back.state, back.chunks) == (None, "queued", 0)
    assert await store.passages.get([base.id], [chunks[0].id]) == {}
    assert await store.purge.document(document.id, deletion.job_id, tmp_path) == (0, 0)


async def test_a_file_goes_with_its_last_document(store: Store, tmp_path: Path) -> None:
    base = await store.knowledge_bases.create("a")
    (tmp_path / ("1" * 64)).touch()
    jobs = []
    for name in ("a.txt", "b.txt"):
        document = await put(store, base.id, name)
        jobs.append((document.id, (await store.documents.mark_deleted(document.id)).job_id))
    assert await store.purge.document(*jobs[0], tmp_path) == (1, 0)
    assert await store.purge.document(*jobs[1], tmp_path) == (1, 1)
    assert not (tmp_path / ("1" * 64)).exists()


async def test_what_crashes_left_is_removed_and_nothing_else(store: Store, tmp_path: Path) -> None:
    base = await store.knowledge_bases.create("a")
    document = await put(store, base.id)
    kept = [tmp_path / "blobs" / document.sha256, tmp_path / "work" / document.job_id, tmp_path / "incoming" / "new"]
    left = [tmp_path / "blobs" / ("9" * 64), tmp_path / "work" / "ingest-ended", tmp_path / "incoming" / "old"]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.parent.name == "work" else path.touch()
        if path.name != "new":
            os.utime(path, (0, 0))
    assert await store.purge.leftovers(tmp_path) == 3
    assert [path.exists() for path in (*kept, *left)] == [True] * 3 + [False] * 3


async def test_nothing_is_put_into_a_knowledge_base_that_is_gone(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    await store.knowledge_bases.mark_deleted(base.id, "job")
    with pytest.raises(NotFound, match="gone"):
        await put(store, base.id)


async def test_zero_characters_and_other_scripts_are_stored(store: Store) -> None:
    base = await store.knowledge_bases.create("a")
    document = await put(store, base.id, name="休暇.txt")
    await store.documents.begin(document.id, document.job_id)
    chunk = replace(passages(document, ["x"])[0], text="有給\0休暇 🏖")
    assert await store.chunks.stage(document.id, document.job_id, [chunk])
    assert await embed(store, document, [chunk.id])
    assert await store.chunks.publish(document.id, document.job_id) == 1
    found = (await store.passages.get([base.id], [chunk.id]))[chunk.id]
    assert (found.text, found.document) == ("有給 休暇 🏖", "休暇.txt")


async def test_keys(store: Store) -> None:
    key, secret = await store.keys.create("Dify", ["chat", "retrieve"], ["kb-1"])
    assert secret.startswith("dw-")
    assert len(secret) == 43
    expected = Caller(
        name="Dify", scopes=frozenset({"chat", "retrieve"}), knowledge_bases=frozenset({"kb-1"}), key_id=key.id
    )
    assert await store.keys.caller(secret) == expected
    assert await store.keys.caller("dw-" + "x" * 40) is None
    assert (await store.keys.get(key.id)).last_used is not None
    rows = await store.database.rows(sa.select(tables.keys))
    assert secret[3:] not in str(rows)
    assert (await store.keys.revoke(key.id)).revoked is not None
    assert await store.keys.caller(secret) is None
    with pytest.raises(BadRequest, match="scopes"):
        await store.keys.create("x", [])


async def test_many_requests_at_once_look_a_key_up_once(store: Store) -> None:
    key, secret = await store.keys.create("a", ["chat"])
    await store.keys.find(secret)  # notes the first use
    store.keys._forget()
    asked: list[str] = []
    engine = store.database._reader.sync_engine
    sa.event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    found = await asyncio.gather(*(store.keys.find(secret) for _ in range(20)))
    assert {each.id for each in found if each is not None} == {key.id}
    assert sum("FROM keys" in statement for statement in asked) == 1
    store.keys._forget()
    lost = [asyncio.create_task(store.keys.find(secret)) for _ in range(3)]
    await asyncio.sleep(0)
    lost[0].cancel()  # whoever asked first leaves; the others get their answer
    assert [each.id for each in await asyncio.gather(*lost[1:]) if each is not None] == [key.id, key.id]


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(store: Store) -> None:
    key, secret = await store.keys.create("a", ["chat"])
    looked_up = [asyncio.create_task(store.keys.find(secret)) for _ in range(20)]
    await asyncio.sleep(0)
    await store.keys.revoke(key.id)
    await asyncio.gather(*looked_up)
    assert await store.keys.find(secret) is None


async def test_many_writers_and_readers_at_once(store: Store, url: str) -> None:
    base = await store.knowledge_bases.create("a")
    async with await Store.open(url) as other:
        names = [f"{number}.txt" for number in range(40)]
        sides = [store if number % 2 else other for number in range(40)]
        await asyncio.gather(*(put(side, base.id, name) for side, name in zip(sides, names, strict=True)))
        assert await other.documents.counts(base.id) == {"queued": 40}


async def test_the_database_that_is_away_is_named() -> None:
    with pytest.raises(Unavailable, match=r"does not answer .* store\.url"):
        await Store.open("postgresql://nobody@127.0.0.1:1/x?connect_timeout=2")
    with pytest.raises(BadRequest, match="mysql"):
        await Store.open("mysql://x/y")


FILL = """
import asyncio, resource, signal, sys
from pipelines.errors import StorageFull
from services.store.store import Store
async def main():
    store = await Store.open(sys.argv[1])
    await store.knowledge_bases.create("before")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        for number in range(2000):
            await store.knowledge_bases.create(f"n{number}", "x" * 2000)
    except StorageFull as error:
        print("full:", error)
        print("left:", (await store.knowledge_bases.get("before")).name)
asyncio.run(main())
"""


def test_a_full_disk_is_said_and_nothing_stored_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    done = subprocess.run(
        [sys.executable, "-c", FILL, f"sqlite:///{path}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "full: the disk" in done.stdout, done.stderr
    assert "left: before" in done.stdout
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_hundred_passages_come_in_two_milliseconds(tmp_path: Path) -> None:
    async with await Store.open(f"sqlite:///{tmp_path / 'state.db'}") as store:
        base = await store.knowledge_bases.create("a")
        chunks = await ingest(
            store, await put(store, base.id), [f"{number} " + "word " * 200 for number in range(3000)]
        )
        times = []
        for start in range(0, 3000, 100):
            began = time.perf_counter()
            found = await store.passages.get([base.id], [chunk.id for chunk in chunks[start : start + 100]])
            times.append(time.perf_counter() - began)
            assert len(found) == 100
        # the best of 30: other work on the machine must not fail it; reading a wrong index would cost 10 times as much
        assert min(times) < 0.004, f"{min(times) * 1000:.1f} ms at best"
