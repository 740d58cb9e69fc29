"""Durable jobs with a real worker process, killed for real; on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadRequest, Conflict, NotFound, TooLarge, UnreadableDocument, UnsupportedDocument
from services import places
from services.documents import add_document
from services.job import Job
from services.jobs import Jobs
from services.lock import DirectoryLock
from services.reconcile import reconcile
from services.repair import repair, scan
from services.settings import Settings, load_settings
from services.store.records import Document
from services.store.store import Store
from tests.contract import postgres
from tests.contract.job_parts import FileIndex, FileWords, parts, text_of, wait_for

SMALL = {"ingest.chunk_tokens": 32, "ingest.chunk_overlap": 0, "ingest.batch": 8, "server.max_upload_mb": 1}


class Bytes(io.BytesIO):
    """An upload."""

    async def read(self, size: int = -1, /) -> bytes:  # type: ignore[override]
        return super().read(size)


def settings_for(data_dir: Path, **more: Any) -> Settings:
    return load_settings({"data_dir": str(data_dir), **SMALL, **more}, environ={})


class Worker:
    """A worker process in a data directory."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self._settings = settings
        self._options = json.dumps(options)
        self.log = settings.data_dir / "worker.log"
        self.start()

    def start(self) -> None:
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        (self._settings.data_dir / "ready").unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.contract.job_worker", self._options],
                env=os.environ | self._settings.environment(), stdout=log, stderr=log,
            )  # fmt: skip

    def wait_ready(self) -> None:
        wait_for(lambda: (self._settings.data_dir / "ready").exists() or self.process.poll() is not None, 120)
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)


@dataclass
class Api:
    """What the HTTP service has."""

    settings: Settings
    store: Store
    jobs: Jobs

    async def add(self, knowledge_base: str, name: str, text: str) -> Document:
        content = Bytes(text.encode())
        return await add_document(self.settings, self.store, self.jobs, knowledge_base, name, content)

    async def done(self, document: Document, timeout: float = 120.0) -> Document:
        """The document once its job has ended, with what comes after searches see it."""
        end = time.monotonic() + timeout
        while True:  # another process ends it: there is nothing here to wait on
            if await self.status(document.job_id) not in ("ENQUEUED", "PENDING"):
                return await self.store.documents.get(document.id)
            assert time.monotonic() < end, "the job did not end in time"
            await asyncio.sleep(0.05)

    async def status(self, job_id: str) -> str:
        """What the job library says."""
        return (await self.jobs.statuses([job_id]))[job_id].status

    async def knowledge_base(self) -> str:
        return (await self.store.knowledge_bases.create(f"kb-{time.monotonic_ns()}")).id

    async def stored(self, knowledge_base: str) -> tuple[list[str], list[str], list[str]]:
        """Chunk ids in SQL, in the vector index, in the full-text index; sorted."""
        chunks = [
            chunk.id
            for document in await self.store.documents.list(knowledge_base)
            for chunk in await self.store.chunks.of(document.id, 10_000)
        ]
        index, words = FileIndex(self.settings.data_dir / "vectors.db"), FileWords(self.settings.data_dir / "words.db")
        found = sorted(chunks), sorted(await index.ids(knowledge_base)), sorted(await words.ids(knowledge_base))
        await index.close()
        await words.close()
        return found

    def embedded(self) -> list[str]:
        log = self.settings.data_dir / "embedded.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@asynccontextmanager
async def api_for(settings: Settings) -> AsyncIterator[Api]:
    async with await Store.open(settings.store_url()) as store:
        jobs = await Jobs.open(settings, store)
        try:
            yield Api(settings, store, jobs)
        finally:
            await jobs.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A data directory for all tests that kill nobody: with one worker, or two that share a queue in PostgreSQL."""
    more, count = {}, 1
    if request.param == "postgresql":
        more = {"store.url": postgres.new_database(request.getfixturevalue("postgresql"), "running")}
        count = 2
    settings = settings_for(tmp_path_factory.mktemp("jobs"), **more)
    workers = []
    for _ in range(count):
        workers.append(Worker(settings, delay=0.02))
        workers[-1].wait_ready()
    yield settings
    assert [worker.stop() for worker in workers] == [0] * count, workers[0].log.read_text()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture
async def api(running: Settings) -> AsyncIterator[Api]:
    async with api_for(running) as api:
        yield api


async def test_two_documents_at_once(api: Api) -> None:
    base = await api.knowledge_base()
    added = [await api.add(base, f"{name}.txt", text_of(5, seed=name)) for name in ("a", "b")]
    done = [await api.done(document) for document in added]
    assert [(one.state, one.pages_done, one.pages_total, one.error) for one in done] == [("succeeded", 5, 5, "")] * 2
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words
    assert len(chunks) == sum(one.chunks for one in done) > 10
    job = await api.jobs.get(added[0].job_id)
    assert (job.kind, job.state, job.document, job.knowledge_base_id) == ("ingest", "succeeded", "a.txt", base)
    assert job.id in {one.id for one in await api.jobs.list()}


async def test_the_same_content_is_free_and_a_change_embeds_only_what_changed(api: Api) -> None:
    base = await api.knowledge_base()
    text = text_of(12, seed="same")
    document = await api.done(await api.add(base, "a.txt", text))
    before = len(api.embedded())
    assert await api.add(base, "a.txt", text) == document
    changed = await api.done(await api.add(base, "a.txt", text.replace("wsame6x5", "another")))
    assert changed.id == document.id
    assert changed.chunks == document.chunks
    again = len(api.embedded()) - before
    assert 1 <= again <= 3, f"{again} of {changed.chunks} passages embedded again"
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words
    blobs = {path.name for path in (api.settings.data_dir / "blobs").iterdir()}
    assert changed.sha256 in blobs
    assert document.sha256 not in blobs


async def test_a_bad_document_fails_at_once_in_words_and_the_rest_goes_on(api: Api) -> None:
    base = await api.knowledge_base()
    bad, full, good = [
        await api.add(base, name, text)
        for name, text in (("bad.txt", "UNREADABLE"), ("full.txt", "FULL"), ("good.txt", text_of(2, seed="good")))
    ]
    assert (await api.done(good)).state == "succeeded"
    failed = await api.done(bad)
    assert (failed.state, failed.error, failed.error_code) == (
        "failed", "bad.txt is damaged: export it again", "unreadable_document"
    )  # fmt: skip
    assert (await api.done(full)).error_code == "storage_full"
    with pytest.raises(Conflict, match="good"):
        await api.jobs.retry(good.id)
    retried = await api.jobs.retry(bad.id)
    assert retried.id != bad.job_id
    assert (await api.jobs.wait(retried.id, 120)).state == "failed"


async def test_what_is_not_ready_is_tried_again(api: Api) -> None:
    document = await api.done(await api.add(await api.knowledge_base(), "a.txt", "FLAKY " + text_of(1, seed="flaky")))
    assert document.state == "succeeded"


async def test_cancel_and_go_on(api: Api) -> None:
    base = await api.knowledge_base()
    document = await api.add(base, "long.txt", text_of(120, seed="cancel"))

    seen = await asyncio.wait_for(moving(api, document, 10, "embedding"), 120)
    assert seen.state == "running"
    assert seen.eta is not None
    assert (await api.jobs.cancel(document.job_id)).state == "cancelled"
    with pytest.raises(Conflict, match="ended already"):
        await api.jobs.cancel(document.job_id)
    assert (await api.stored(base))[0] == []
    job = await api.jobs.wait((await api.jobs.retry(document.id)).id, 30)
    assert (job.state, job.pages_done) == ("succeeded", 120)
    mine = Counter(text for text in api.embedded() if "wcancel" in text)
    assert sum(mine.values()) <= len(mine) + 8, "what was embedded before the cancel is not embedded again"
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words


async def moving(api: Api, document: Document, pages: int, step: str) -> Document:
    """The document once its job has done so many pages of a step."""
    while True:  # another process does it: there is nothing here to wait on
        found = await api.store.documents.get(document.id)
        if found.step == step and found.pages_done >= pages:
            return found
        await asyncio.sleep(0.02)


async def test_pause_and_resume_go_on_with_what_is_done(api: Api) -> None:
    base, text = await api.knowledge_base(), text_of(120, seed="pause")
    document = await api.add(base, "long.txt", text)
    await asyncio.wait_for(moving(api, document, 10, "embedding"), 120)
    assert (await api.jobs.pause(document.job_id)).state == "paused"
    with pytest.raises(Conflict, match="is paused: only ingestions that are queued or running"):
        await api.jobs.pause(document.job_id)
    with pytest.raises(Conflict, match="is paused: resume it"):
        await api.jobs.retry(document.id)
    while await api.status(document.job_id) not in ("CANCELLED", "ERROR"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    other = await api.done(await api.add(base, "other.txt", text_of(1, seed="meanwhile")))
    assert other.state == "succeeded"
    before = api.embedded()
    assert await reconcile(api.store, api.jobs, grace=0) == 0, "who is paused is left alone"
    assert api.embedded() == before
    assert (api.settings.data_dir / "work" / document.job_id / "pages.jsonl").exists()
    assert (await api.jobs.resume(document.job_id)).id == document.job_id
    with pytest.raises(Conflict, match="not paused"):
        await api.jobs.resume(document.job_id)
    done = await api.done(document)
    assert (done.state, done.pages_done, done.job_id) == ("succeeded", 120, document.job_id)
    mine = Counter(one for one in api.embedded() if "wpause" in one)
    assert sum(mine.values()) <= len(mine) + 8, "what was embedded before the pause is not embedded again"
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words
    assert not (api.settings.data_dir / "work" / document.job_id).exists()


async def test_a_paused_job_can_be_cancelled_and_a_resume_that_crashed_is_made_good(api: Api) -> None:
    base = await api.knowledge_base()
    one, two = [await api.add(base, f"{name}.txt", text_of(120, seed=f"stop{name}")) for name in ("one", "two")]
    for document in (one, two):
        await api.jobs.pause(document.job_id)
    assert (await api.jobs.cancel(one.job_id)).state == "cancelled"
    while await api.status(two.job_id) not in ("CANCELLED", "ERROR"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert await api.store.pauses.resume(two.id, two.job_id)  # and the service dies before it tells the job library
    await reconcile(api.store, api.jobs, grace=0)  # or the worker's own was faster
    assert (await api.done(two)).state == "succeeded"


async def test_a_paused_knowledge_base_takes_files_in_and_waits(api: Api) -> None:
    base = await api.knowledge_base()
    first = await api.add(base, "first.txt", text_of(120, seed="first"))
    assert await api.jobs.pause_knowledge_base(base) == 1
    second = await api.add(base, "second.txt", text_of(2, seed="second"))
    assert (second.state, (await api.jobs.get(second.job_id)).state) == ("paused", "paused")
    assert {job.document for job in await api.jobs.ingestions(base, ("paused",))} == {"first.txt", "second.txt"}
    assert await reconcile(api.store, api.jobs, grace=0) == 0
    assert await api.jobs.resume_knowledge_base(base) == 2
    assert [(await api.done(document)).state for document in (first, second)] == ["succeeded"] * 2
    assert (await api.store.knowledge_bases.get(base)).paused is None


async def test_progress_is_told_while_a_file_is_parsed(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    worker = Worker(settings, parse_delay=0.1)
    worker.wait_ready()
    try:
        async with api_for(settings) as api:
            document = await api.add(await api.knowledge_base(), "slow.txt", text_of(40, seed="slow"))
            seen = await asyncio.wait_for(moving(api, document, 3, "parsing"), 120)
            assert (seen.state, seen.pages_total) == ("running", 40)
            assert seen.pages_done < 40
            assert seen.eta is not None and seen.eta > 0
    finally:
        worker.kill()


async def test_a_document_is_read_anew_by_the_settings_of_today(api: Api) -> None:
    base = await api.knowledge_base()
    document = await api.done(await api.add(base, "a.txt", text_of(6, seed="anew")))
    before = len(api.embedded())
    again = await api.jobs.wait((await api.jobs.retry(document.id, again=True)).id, 30)
    assert (again.state, len(api.embedded())) == ("succeeded", before), "the same passages keep their vectors"
    assert again.id != document.job_id


async def test_a_newer_upload_takes_over(api: Api) -> None:
    base = await api.knowledge_base()
    first = await api.add(base, "a.txt", text_of(120, seed="older"))
    second = await api.done(await api.add(base, "a.txt", text_of(3, seed="newer")))
    assert second.state == "succeeded"
    assert (await api.jobs.wait(first.job_id, 120)).state == "cancelled"
    assert all("wnewer" in chunk.text for chunk in await api.store.chunks.of(second.id))

    async def clean() -> None:
        while len({*map(tuple, await api.stored(base))}) != 1:  # noqa: ASYNC110 another process does it
            await asyncio.sleep(0.1)

    await asyncio.wait_for(clean(), 120)


async def test_delete_leaves_nothing_anywhere(api: Api) -> None:
    base = await api.knowledge_base()
    one = await api.done(await api.add(base, "one.txt", text_of(3, seed="one")))
    two = await api.done(await api.add(base, "two.txt", text_of(3, seed="two")))
    job = await api.jobs.wait((await api.jobs.delete_document(one.id)).id, 120)
    gone = {"before": 1, "after": 0}
    passages = {"before": one.chunks, "after": 0}
    assert job.receipt == {
        "vectors": passages, "words": passages, "chunks": passages, "parsed": {"before": 0, "after": 0},
        "files": gone, "documents": gone, "jobs": gone,
    }  # fmt: skip
    assert job.notes == ()
    with pytest.raises(NotFound):
        await api.jobs.get(one.job_id)
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words
    assert len(chunks) == two.chunks
    with pytest.raises(NotFound):
        await api.jobs.delete_document(one.id)
    again = await api.done(await api.add(base, "one.txt", text_of(3, seed="one")))
    assert (again.state, again.chunks) == ("succeeded", one.chunks)
    job = await api.jobs.wait((await api.jobs.delete_knowledge_base(base)).id, 120)
    assert job.state == "succeeded", job.error
    assert job.receipt["documents"] == job.receipt["files"] == {"before": 2, "after": 0}
    assert job.receipt["vectors"] == job.receipt["words"] == {"before": one.chunks + two.chunks, "after": 0}
    assert await api.stored(base) == ([], [], [])


async def test_a_receipt_says_when_the_content_stays_and_what_was_half_done(api: Api) -> None:
    base, text = await api.knowledge_base(), text_of(120, seed="twice")
    kept = await api.done(await api.add(base, "kept.txt", text))
    gone = await api.add(base, "gone.txt", text)
    while (await api.store.documents.get(gone.id)).pages_done < 10:  # noqa: ASYNC110 another process does it
        await asyncio.sleep(0.02)
    job = await api.jobs.wait((await api.jobs.delete_document(gone.id)).id, 120)
    assert job.state == "succeeded", job.error
    assert job.receipt["files"] == {"before": 1, "after": 1}
    assert job.notes == ("the content is kept: another document has the same",)
    assert 0 < job.receipt["vectors"]["before"] < kept.chunks == job.receipt["chunks"]["before"]
    assert {name: count["after"] for name, count in job.receipt.items() if name != "files"} == dict.fromkeys(
        ("vectors", "words", "chunks", "parsed", "documents", "jobs"), 0
    )
    chunks, vectors, words = await api.stored(base)
    assert chunks == vectors == words
    assert len(chunks) == kept.chunks


async def test_indexes_that_lost_or_kept_something_are_put_right(api: Api) -> None:
    base = await api.knowledge_base()
    await api.done(await api.add(base, "a.txt", text_of(4, seed="repair")))
    whole = await api.stored(base)
    made = parts(api.settings.data_dir)
    knowledge_base = await api.store.knowledge_bases.get(base)
    asked: list[int] = []

    async def again(rest: int) -> None:
        asked.append(rest)

    assert await repair(api.store, made, knowledge_base, 4, again) == 0
    ids = whole[0]
    await made.index.delete(base, ids[:5])
    await made.lexical.delete(base, ids[4:6])
    stranger = (await api.store.passages.get([base], ids[:1]))[ids[0]]
    await made.lexical.upsert([replace(stranger, id="nobody's")])
    await made.lexical.flush()
    found = await scan(api.store, made, base)
    assert (len(found.lost_vectors), len(found.lost_words), found.orphans) == (5, 2, ["nobody's"])
    assert await repair(api.store, made, knowledge_base, 4, again) == 7
    assert asked == [5, 1]
    assert await api.stored(base) == whole


async def test_old_jobs_are_forgotten_and_new_ones_are_not(api: Api) -> None:
    document = await api.done(await api.add(await api.knowledge_base(), "a.txt", text_of(1, seed="prune")))
    assert await api.jobs.prune(days=1) == 0
    assert await api.jobs.prune(days=0) > 0
    assert await api.jobs.statuses([document.job_id]) == {}
    assert (await api.jobs.get(document.job_id)).state == "succeeded", "its document knows"
    with pytest.raises(NotFound):
        await api.jobs.get("ingest-doc-nobody")


async def test_what_cannot_be_taken_in_is_refused_and_leaves_nothing(api: Api) -> None:
    base = await api.knowledge_base()
    for name, text, error in (
        ("empty.txt", "", UnreadableDocument),
        ("program.exe", "MZ\0\1\2\3", UnsupportedDocument),
        ("big.txt", "x" * (1 << 20) + "x", TooLarge),
        ("a\nb.txt", "text", BadRequest),
    ):
        with pytest.raises(error):
            await api.add(base, name, text)
    assert await api.store.documents.list(base) == []
    assert list((api.settings.data_dir / "incoming").iterdir()) == []


def test_only_one_worker_for_a_data_directory_on_sqlite(running: Settings) -> None:
    if not running.store_url().startswith("sqlite"):
        assert {path.name for path in running.data_dir.glob("worker*.lock")} == {"worker.lock", "worker-2.lock"}
        assert [*places.left(running.data_dir, "")] == [], "both are alive"
        return
    with pytest.raises(Conflict, match=r"is in use by process \d+"):
        DirectoryLock(running.data_dir, "worker.lock").acquire()


def undisturbed(text: str) -> set[str]:
    """Texts of the passages of a run that nobody kills, from the same splitter."""
    from pipelines.splitters import split
    from pipelines.types import Page

    pages = [Page(text=page, number=number) for number, page in enumerate(text.split("\f"), 1)]
    count = lambda texts: [len(one.split()) for one in texts]  # noqa: E731
    made = split(
        pages, document_id="d", knowledge_base_id="k", document="d", count_tokens=count, chunk_tokens=32, overlap=0
    )
    return {chunk.text for chunk in made}


async def check_same(api: Api, document: Document, text: str, kills: int) -> None:
    done = await api.done(document)
    assert done.state == "succeeded", done.error
    chunks, vectors, words = await api.stored(document.knowledge_base_id)
    assert chunks == vectors == words
    assert len(set(chunks)) == len(chunks) == done.chunks
    texts = [chunk.text for chunk in await api.store.chunks.of(document.id, 10_000)]
    assert set(texts) == undisturbed(text)
    embedded = Counter(api.embedded())
    assert sum(embedded.values()) <= len(embedded) + kills * 8, "at most the batch in work is embedded twice"


async def kill_matrix(settings: Settings, points: list[tuple[str, str]]) -> None:
    text = text_of(20, seed="kill")
    for number, point in enumerate(points):
        worker = Worker(settings, delay=0.01, kill=point)
        worker.wait_ready()
        try:
            async with api_for(settings) as api:
                base = await api.knowledge_base()
                document = await api.add(base, "a.txt", text + f" run{number}")
                wait_for(lambda worker=worker: worker.process.poll() is not None)
                assert worker.process.returncode == -signal.SIGKILL
                assert (settings.data_dir / "killed").exists()
                worker.start()
                done = await api.done(document)
                assert done.state == "succeeded", (point, done)
                await check_same(api, document, text + f" run{number}", 10)
        finally:
            worker.kill()
            (settings.data_dir / "killed").unlink(missing_ok=True)
            (settings.data_dir / "embedded.log").unlink(missing_ok=True)


async def test_kill_9_on_postgresql(tmp_path: Path, postgresql: str) -> None:
    url = postgres.new_database(postgresql, "jobs")
    await kill_matrix(settings_for(tmp_path, **{"store.url": url}), [("index", "after")])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_kill_9_at_every_step(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    more = {}
    if database == "postgresql":
        more = {"store.url": postgres.new_database(request.getfixturevalue("postgresql"), "matrix")}
    steps = ["parse", "split", "embed", "index", "publish", "sweep"]
    await kill_matrix(settings_for(tmp_path, **more), [(s, w) for s in steps for w in ("before", "after")])


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_kill_9_at_any_moment(tmp_path: Path) -> None:
    """Twelve kills while one document is worked on, wherever they fall."""
    settings = settings_for(tmp_path)
    worker, text = Worker(settings, delay=0.05), text_of(200, seed="any")
    async with api_for(settings) as api:
        document = await api.add(await api.knowledge_base(), "a.txt", text)
        for number in range(12):
            worker.wait_ready()
            await asyncio.sleep(0.2 + 0.09 * number)
            worker.kill()
            worker.start()
        try:
            await check_same(api, document, text, 12)
        finally:
            worker.kill()


async def test_kill_9_while_embedding_and_again_between_swap_and_checkpoint(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    worker, text = Worker(settings, delay=0.03, kill=("publish", "after")), text_of(40, seed="mid")
    try:
        async with api_for(settings) as api:
            document = await api.add(await api.knowledge_base(), "a.txt", text)
            wait_for(lambda: len(api.embedded()) > 20)
            worker.kill()
            assert 0 < (await api.store.documents.get(document.id)).pages_done < 40
            worker.start()
            wait_for(lambda: worker.process.poll() is not None)
            assert (await api.store.documents.get(document.id)).state == "succeeded"
            assert await api.status(document.job_id) == "PENDING"
            worker.start()
            await check_same(api, document, text, 1)
    finally:
        worker.kill()


@pytest.mark.parametrize(("poison", "attempts"), [("CRASH", 1), pytest.param("POISON", 3, marks=pytest.mark.slow)])
async def test_what_kills_the_worker_again_and_again_is_dead_and_takes_nobody_along(
    tmp_path: Path, poison: str, attempts: int
) -> None:
    settings = settings_for(tmp_path)
    async with api_for(settings) as api:
        base = await api.knowledge_base()
        bad = await api.add(base, "bad.txt", poison)
        good = [await api.add(base, f"{name}.txt", text_of(2, seed=name)) for name in "abc"]
        worker = Worker(settings, max_attempts=attempts, suspect_attempts=1)
        deaths = 0
        try:
            while (await api.store.documents.get(bad.id)).state != "dead":
                if worker.process.poll() is not None:
                    deaths += 1
                    worker.start()
                assert deaths <= attempts, worker.log.read_text()
                await asyncio.sleep(0.05)
            assert deaths == attempts
            assert [(await api.done(one)).state for one in good] == ["succeeded"] * 3
            assert f"{attempts} times" in (await api.store.documents.get(bad.id)).error
            job: Job = await api.jobs.get(bad.job_id)
            assert job.state == "dead"
        finally:
            worker.kill()


async def test_two_databases_that_differ_are_made_to_agree(tmp_path: Path) -> None:
    """The service died between the two writes of an upload, and of a deletion."""
    settings = settings_for(tmp_path)
    async with api_for(settings) as api:
        base = await api.knowledge_base()
        never_queued = await api.add(base, "a.txt", text_of(1))
        gone = await api.add(base, "b.txt", text_of(1, seed="b"))
        await api.jobs.stop(gone.job_id)  # cancelled behind the document's back
        row = await api.store.documents.new_job(never_queued.id, only_if=["queued"])
        assert row is not None
        assert await reconcile(api.store, api.jobs) == 0  # younger than the grace
        assert await reconcile(api.store, api.jobs, grace=0) == 2
        assert (await api.jobs.get(row.job_id)).state == "queued"
        assert (await api.store.documents.get(gone.id)).state == "queued"
        assert await api.status(gone.job_id) == "ENQUEUED", "nobody wanted it cancelled: it is as after a resume"
        deletion = await api.store.documents.mark_deleted(gone.id)
        assert await reconcile(api.store, api.jobs, grace=0) == 1
        assert (await api.jobs.get(deletion.job_id)).state == "queued"
        with contextlib.suppress(Conflict):
            await api.jobs.cancel(deletion.job_id)
            raise AssertionError("a deletion was cancelled")
