"""Sources with a real worker, on SQLite and PostgreSQL: only what changed is touched, and nothing is lost."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from dulwich import porcelain

from pipelines.errors import Conflict, NotFound
from services.store import tables
from services.store.records import Source
from tests.contract import postgres
from tests.contract.job_parts import text_of, wait_for
from tests.contract.test_jobs import Api, Worker, api_for, settings_for
from tests.contract.web_site import site

LOOPBACK = {"sync.private_hosts": "127.0.0.1"}


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A data directory with a worker."""
    data = tmp_path_factory.mktemp("sources")
    if request.param == "sqlite":
        yield from serving(settings_for(data, **LOOPBACK))
    else:
        with postgres.server() as url:
            yield from serving(
                settings_for(data, **{"store.url": postgres.new_database(url, f"s{uuid4().hex}")}, **LOOPBACK)
            )


def serving(made: Any) -> Iterator[Any]:
    worker = Worker(made)
    worker.wait_ready()
    yield made
    assert worker.stop() == 0, worker.log.read_text()


@pytest.fixture
async def api(settings: Any) -> AsyncIterator[Api]:
    async with api_for(settings) as api:
        yield api


def write(folder: Path, **texts: str) -> None:
    """Files whose time of change is past, as those of a folder that is not being written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.write_text(text)
        then = time.time() - 60 + (hash(text) % 1000) / 100
        os.utime(path, (then, then))


async def make(api: Api, folder: Path, base: str = "", watch: bool = False, **options: str) -> Source:
    return await api.store.sources.create(
        knowledge_base_id=base or await api.knowledge_base(), kind="folder", name=f"s-{time.monotonic_ns()}",
        location=str(folder), options=options, schedule="", watch=watch,
    )  # fmt: skip


async def settled(api: Api, source: Source, timeout: float = 120.0) -> Source:
    """The source once its sync has ended, its documents have, and passages of old versions have left the indexes."""
    end = time.monotonic() + timeout
    while True:  # another process does it: there is nothing here to wait on
        found = await api.store.sources.get(source.id)
        states = await api.store.sources.states(source.id)
        ended = found.state not in ("queued", "running") and not {"queued", "running", "deleting"} & set(states)
        if ended and not await api.store.chunks.to_sweep():
            return found
        assert time.monotonic() < end, (found, states)
        await asyncio.sleep(0.05)


async def synced(api: Api, source: Source, allow_empty: bool = False) -> Source:
    await api.jobs.sync(source.id, allow_empty)
    return await settled(api, source)


def counts(source: Source) -> dict[str, int]:
    return {name: count for name, count in source.counts.items() if count}


async def test_only_what_changed_is_embedded_and_what_has_gone_is_deleted(api: Api, tmp_path: Path) -> None:
    seed = tmp_path.name
    write(tmp_path / "docs", **{f"f{n}": text_of(1, 12, f"{seed}{n}") for n in range(12)})
    source = await make(api, tmp_path / "docs")
    first = await synced(api, source)
    assert (first.state, first.error) == ("succeeded", "")
    assert counts(first) == {"listed": 12, "added": 12}
    before = await api.store.sources.known(source.id)
    embedded = len(api.embedded())

    again = await synced(api, source)
    assert counts(again) == {"listed": 12, "unchanged": 12}
    write(tmp_path / "docs", f3=text_of(1, 12, f"{seed}changed"), new=text_of(1, 12, f"{seed}new"))
    (tmp_path / "docs" / "f7.txt").unlink()
    os.utime(tmp_path / "docs" / "f9.txt", (1, 1))  # touched, and the same
    third = await synced(api, source)
    assert counts(third) == {"listed": 12, "added": 1, "changed": 1, "unchanged": 10, "deleted": 1}
    now = await api.store.sources.known(source.id)
    assert set(now) == set(before) - {"f7.txt"} | {"new.txt"}
    assert [name for name in now if name in before and now[name].job_id != before[name].job_id] == ["f3.txt"]
    assert len(api.embedded()) == embedded + 2, "one passage each of the changed and the new file"
    chunks, vectors, words = await api.stored(source.knowledge_base_id)
    assert chunks == vectors == words and len(chunks) == 12


async def test_a_changed_file_embeds_its_changed_passages_only(api: Api, tmp_path: Path) -> None:
    pages = text_of(20, 60, tmp_path.name).split("\f")
    write(tmp_path, long="\f".join(pages))
    source = await make(api, tmp_path)
    await synced(api, source)
    embedded = len(api.embedded())
    pages[10] = text_of(1, 60, f"{tmp_path.name}other")
    write(tmp_path, long="\f".join(pages))
    assert counts(await synced(api, source)) == {"listed": 1, "changed": 1}
    assert 1 <= len(api.embedded()) - embedded <= 5
    assert embedded > 40


async def test_a_source_that_suddenly_has_nothing_deletes_nothing(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    write(folder, a=text_of(1, seed=f"{tmp_path.name}a"), b=text_of(1, seed=f"{tmp_path.name}b"))
    source = await make(api, folder)
    await synced(api, source)
    shutil.move(folder, tmp_path / "away")
    gone = await synced(api, source)
    assert (gone.state, gone.error_code) == ("failed", "source_unavailable")
    assert "cannot be read" in gone.error
    folder.mkdir()  # a mount point without its disk
    empty = await synced(api, source)
    assert (empty.state, empty.error_code) == ("failed", "conflict")
    assert "suddenly has nothing any more, and 2 documents come from it: nothing was deleted" in empty.error
    assert len(await api.store.sources.known(source.id)) == 2
    forced = await synced(api, source, allow_empty=True)
    assert counts(forced) == {"deleted": 2}
    assert await api.store.documents.list(source.knowledge_base_id) == []


async def test_a_subfolder_that_cannot_be_read_keeps_its_documents(api: Api, tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root reads every folder")
    write(tmp_path / "in", a=text_of(1, seed=f"{tmp_path.name}a"))
    write(tmp_path, b=text_of(1, seed=f"{tmp_path.name}b"))
    source = await make(api, tmp_path)
    await synced(api, source)
    (tmp_path / "in").chmod(0)
    try:
        done = await synced(api, source)
    finally:
        (tmp_path / "in").chmod(0o700)
    assert counts(done) == {"listed": 1, "unchanged": 2, "failed": 1}


async def test_bad_files_are_reported_and_stop_nobody(api: Api, tmp_path: Path) -> None:
    write(tmp_path, good=text_of(1, seed=tmp_path.name), broken="UNREADABLE")
    (tmp_path / "program.bin").write_bytes(b"\x7fELF\0\1\2")
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "large.txt").write_text("x" * (1 << 20) + "x")
    (tmp_path / "way-out.txt").symlink_to("/etc/hostname")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("not UTF-8")
    for path in tmp_path.iterdir():  # noqa: ASYNC240
        os.utime(path, (1_000_000, 1_000_000), follow_symlinks=False)
    source = await make(api, tmp_path, prefix="share/")
    for _ in range(2):  # what was left out is not read again, and still reported
        done = await synced(api, source)
        assert done.state == "succeeded"
        by_id = {problem["external_id"]: problem for problem in done.problems}
        assert {key: value["code"] for key, value in by_id.items()} == {
            "program.bin": "unsupported_document", "film.mp4": "unsupported_document",
            "empty.txt": "unsupported_document", "large.txt": "too_large", "caf?.txt": "source_unavailable",
        }  # fmt: skip
        assert (done.counts["skipped"], done.counts["failed"]) == (3, 2)
    assert done.counts["unchanged"] == 2
    documents = await api.store.documents.list(source.knowledge_base_id)
    assert {one.name: one.state for one in documents} == {"share/good.txt": "succeeded", "share/broken.txt": "failed"}
    (tmp_path / "empty.txt").write_text("now it says something")
    (tmp_path / "film.mp4").unlink()
    repaired = await synced(api, source)
    assert (repaired.counts["added"], repaired.counts["skipped"]) == (1, 1)
    assert set(await api.store.sources.left_out(source.id)) == {"program.bin", "large.txt"}


async def test_patterns_choose_what_is_taken(api: Api, tmp_path: Path) -> None:
    for inner in ("", "drafts/", "deep/er/"):
        write(tmp_path / inner, a=text_of(1, seed=f"{tmp_path.name}{inner}"))
        (tmp_path / inner / "b.md").write_text(f"text {tmp_path.name} {inner}")
    source = await make(api, tmp_path, include="*.md, deep/*", exclude="drafts/*")
    await synced(api, source)
    assert set(await api.store.sources.known(source.id)) == {"b.md", "deep/er/a.txt", "deep/er/b.md"}


async def test_two_sources_do_not_take_each_others_documents(api: Api, tmp_path: Path) -> None:
    base = await api.knowledge_base()
    write(tmp_path / "one", a=text_of(1, seed=f"{tmp_path.name}1"))
    write(tmp_path / "two", a=text_of(1, seed=f"{tmp_path.name}2"))
    upload = await api.done(await api.add(base, "a.txt", "an upload of this name is the source's from now on"))
    one, two = await make(api, tmp_path / "one", base), await make(api, tmp_path / "two", base)
    assert counts(await synced(api, one)) == {"listed": 1, "added": 1}
    assert (await api.store.documents.get(upload.id)).source_id == one.id
    refused = await synced(api, two)
    assert counts(refused) == {"listed": 1, "failed": 1}
    assert f"a.txt comes from source {one.id}" in refused.problems[0]["error"]
    with pytest.raises(Conflict, match="which decides what is in it"):
        await api.add(base, "a.txt", "something else")
    await api.jobs.remove_source(two.id)
    assert (await api.store.documents.get(upload.id)).state == "succeeded"


async def test_a_source_goes_with_its_documents_or_without(api: Api, tmp_path: Path) -> None:
    write(tmp_path / "kept", a=text_of(1, seed=f"{tmp_path.name}1"))
    write(tmp_path / "gone", b=text_of(1, seed=f"{tmp_path.name}2"))
    base = await api.knowledge_base()
    kept, gone = await make(api, tmp_path / "kept", base), await make(api, tmp_path / "gone", base)
    for source in (kept, gone):
        await synced(api, source)
    await api.jobs.remove_source(kept.id, keep_documents=True)
    await api.jobs.remove_source(gone.id)
    with pytest.raises(NotFound):
        await api.store.sources.get(gone.id)
    end = time.monotonic() + 60
    while await api.store.sources.states(gone.id) or await api.store.sources.being_deleted():
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    documents = await api.store.documents.list(base)
    assert [(one.name, one.source_id) for one in documents] == [("a.txt", None)]
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words and len(chunks) > 0


async def test_syncs_of_one_source_come_one_after_another(api: Api, tmp_path: Path) -> None:
    write(tmp_path, **{f"f{n}": text_of(1, 12, f"{tmp_path.name}{n}") for n in range(8)})
    source = await make(api, tmp_path)
    await asyncio.gather(*(api.jobs.sync(source.id) for _ in range(5)))
    done = await settled(api, source)
    end = time.monotonic() + 60
    while (done := await api.store.sources.get(source.id)).due is not None or done.state != "succeeded":
        assert time.monotonic() < end, done
        await asyncio.sleep(0.05)
    assert counts(done) == {"listed": 8, "unchanged": 8}, "the second one, for all that were asked for meanwhile"
    assert len(await api.store.documents.list(source.knowledge_base_id)) == 8


async def test_pages_of_a_site_are_followed(api: Api, tmp_path: Path) -> None:
    with site() as served:
        for name in "abc":
            served.page(f"/{name}.txt", f"page {name} {text_of(1, seed=tmp_path.name + name)}", "text/plain")
        served.sitemap("/sitemap.xml", "/a.txt", "/b.txt", "/c.txt", "/missing.txt")
        source = await api.store.sources.create(
            knowledge_base_id=await api.knowledge_base(), kind="sitemap", name=served.url, location=served.url,
            options={}, schedule="", watch=False,
        )  # fmt: skip
        first = await synced(api, source)
        assert (first.error, counts(first)) == ("", {"listed": 4, "added": 3, "deleted": 1})
        served.page("/b.txt", "another text", "text/plain")
        served.pages["/a.txt"] = (500, {}, b"")
        served.pages["/c.txt"] = (410, {}, b"")
        second = await synced(api, source)
        assert counts(second) == {"listed": 4, "changed": 1, "deleted": 2, "failed": 1}
        assert "a.txt answered 500" in second.problems[0]["error"]
        names = {document.name for document in await api.store.documents.list(source.knowledge_base_id)}
        assert names == {f"{served.url}/a.txt", f"{served.url}/b.txt"}
        served.pages["/sitemap.xml"] = (503, {}, b"")
        down = await synced(api, source)
        assert (down.state, down.error_code) == ("failed", "source_unavailable")
        assert len(await api.store.sources.known(source.id)) == 2


async def test_a_repository_is_followed(api: Api, tmp_path: Path) -> None:
    upstream, who = tmp_path / "upstream", b"Test <test@example.com>"
    await asyncio.to_thread(porcelain.init, str(upstream))

    def commit(**texts: str) -> None:
        for name, text in texts.items():
            (upstream / f"{name}.txt").write_text(text)
            porcelain.add(str(upstream), [str(upstream / f"{name}.txt")])
        porcelain.commit(str(upstream), message=b"change", author=who, committer=who)

    await asyncio.to_thread(commit, a=text_of(1, 12, f"{tmp_path.name}a"), b=text_of(1, 12, f"{tmp_path.name}b"))
    source = await api.store.sources.create(
        knowledge_base_id=await api.knowledge_base(), kind="git", name=str(upstream), location=str(upstream),
        options={"prefix": "repo/"}, schedule="", watch=False,
    )  # fmt: skip
    first = await synced(api, source)
    assert (first.error, counts(first)) == ("", {"listed": 2, "added": 2})
    await asyncio.to_thread(commit, b=text_of(1, 12, f"{tmp_path.name}changed"))
    assert counts(await synced(api, source)) == {"listed": 2, "changed": 1, "unchanged": 1}
    found = (await api.store.documents.list(source.knowledge_base_id))[0]
    assert (found.name, found.source, found.external_id) == ("repo/a.txt", f"{upstream}#a.txt", "a.txt")


async def test_what_is_due_is_synced(api: Api, tmp_path: Path) -> None:
    write(tmp_path, a=text_of(1, seed=tmp_path.name))
    source = await make(api, tmp_path)
    await api.store.sources.configure(source.id, schedule="6h")
    await api.store.sources.mark_due(source.id, time.time() - 3600)  # while nobody ran
    end = time.monotonic() + 60
    while (found := await api.store.sources.get(source.id)).state != "succeeded" or found.due is None:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.1)
    assert counts(found) == {"listed": 1, "added": 1}
    assert found.due - time.time() == pytest.approx(6 * 3600, abs=120)


async def test_a_folder_that_cannot_be_watched_says_so(api: Api, tmp_path: Path) -> None:
    source = await make(api, tmp_path / "none", watch=True)
    end = time.monotonic() + 60
    while not (found := await api.store.sources.get(source.id)).watch_error:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.1)
    assert found.watch_error.startswith("changes are not seen at once (")


async def test_sources_go_with_their_knowledge_base(api: Api, tmp_path: Path) -> None:
    write(tmp_path, a=text_of(1, seed=tmp_path.name))
    source = await synced(api, await make(api, tmp_path))
    gone = await api.jobs.delete_knowledge_base(source.knowledge_base_id)
    assert (await api.jobs.wait(gone.id, timeout=60)).state == "succeeded"
    with pytest.raises(NotFound):
        await api.store.sources.get(source.id)
    assert source.id not in {row[0] for row in await api.store.database.rows(sa.select(tables.sources.c.id))}


async def test_a_watched_folder_is_followed(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    write(folder, a=text_of(1, seed=f"{tmp_path.name}a"))
    source = await make(api, folder, watch=True)

    async def names(expected: set[str]) -> None:
        end = time.monotonic() + 60
        while set(await api.store.sources.known(source.id)) != expected:
            assert time.monotonic() < end, await api.store.sources.get(source.id)
            await asyncio.sleep(0.1)

    await names({"a.txt"})
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text(text_of(1, seed=f"{tmp_path.name}b"))
    await names({"a.txt", "sub/b.txt"})
    (folder / "a.txt").unlink()
    await names({"sub/b.txt"})
    assert (await api.store.sources.get(source.id)).watch_error == ""


@asynccontextmanager
async def killed_at(tmp_path: Path, step: str, when: str) -> AsyncIterator[tuple[Api, Source, Worker]]:
    """A sync whose worker is killed at a step."""
    made = settings_for(tmp_path / "data")
    worker = Worker(made, kill=(step, when))
    worker.wait_ready()
    async with api_for(made) as api:
        source = await make(api, tmp_path / "docs")
        await api.jobs.sync(source.id)
        yield api, source, worker
    worker.kill()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["list", "fetch", "delete"])
async def test_a_killed_sync_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path, step: str, when: str) -> None:
    write(tmp_path / "docs", **{f"f{n}": text_of(1, 12, str(n)) for n in range(6)})
    async with killed_at(tmp_path, step, when) as (api, source, worker):
        await asyncio.to_thread(worker.process.wait, 60)
        assert worker.process.returncode == -9
        worker.start()
        worker.wait_ready()
        done = await settled(api, source)
        assert (done.state, counts(done)) == ("succeeded", {"listed": 6, "added": 6})
        chunks, vectors, words = await api.stored(source.knowledge_base_id)
        assert chunks == vectors == words and len(chunks) == 6
        assert len(api.embedded()) == 6
        await asyncio.to_thread(wait_for, lambda: not list((tmp_path / "data" / "work").glob("sync-*")), 60)
