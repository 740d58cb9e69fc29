"""Two workers share a queue in a real PostgreSQL; one of them is killed."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.store.records import Document
from tests.contract import postgres
from tests.contract.job_parts import text_of, wait_for
from tests.contract.test_jobs import Api, Worker, api_for, settings_for, undisturbed


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres.server() as url:
        yield url


async def executors(api: Api, documents: list[Document]) -> dict[str, str]:
    """Who runs the jobs of these documents that run, by job."""
    found = await api.jobs.statuses([document.job_id for document in documents])
    return {job: status.executor_id for job, status in found.items() if status.status == "PENDING"}


async def test_a_killed_workers_jobs_are_taken_over_and_nothing_is_lost_or_doubled(
    tmp_path: Path, postgresql: str
) -> None:
    settings = settings_for(tmp_path, **{"store.url": postgres.new_database(postgresql, "two")})
    workers = []
    for _ in range(2):
        workers.append(Worker(settings, delay=0.1))
        workers[-1].wait_ready()
    try:
        async with api_for(settings) as api:
            base = await api.knowledge_base()
            texts = {f"{name}.txt": text_of(12, seed=name) for name in "abcdefghijkl"}
            documents = [await api.add(base, name, text) for name, text in texts.items()]
            await both_embed(api, documents)
            doomed = [job for job, who in (await executors(api, documents)).items() if who == "worker-2"]
            assert doomed, "the second worker has jobs"
            workers[1].kill()
            done = [await api.done(document, 120) for document in documents]
            assert [(one.state, one.error) for one in done] == [("succeeded", "")] * len(done)
            chunks, vectors, words = await api.stored(base)
            assert chunks == vectors == words
            assert len(chunks) == len(set(chunks)) == sum(one.chunks for one in done)
            for one in done:
                held = {chunk.text for chunk in await api.store.chunks.of(one.id, 10_000)}
                assert held == undisturbed(texts[one.name])
            embedded = Counter(api.embedded())
            assert sum(embedded.values()) <= len(embedded) + 8, "at most the batch in work is embedded twice"
            ended = await api.jobs.statuses(doomed)
            assert {status.executor_id for status in ended.values()} == {"worker"}
            log = workers[0].log.read_text()
            assert all(f"job {job} is queued again: its worker worker-2 is gone" in log for job in doomed)
            workers[1].start()  # comes back into its place
            workers[1].wait_ready()
            again = await api.done(await api.add(base, "again.txt", text_of(2, seed="again")))
            assert again.state == "succeeded"
    finally:
        for worker in workers:
            worker.kill()


async def both_embed(api: Api, documents: list[Document]) -> None:
    """Return once each of two workers has jobs, and some passages are embedded."""
    async with asyncio.timeout(60):
        while len(set((await executors(api, documents)).values())) < 2:  # noqa: ASYNC110 other processes do it
            await asyncio.sleep(0.05)
    wait_for(lambda: len(api.embedded()) > 16, 120)


@pytest.mark.slow
async def test_two_versions_of_a_document_do_not_meet_in_two_workers(tmp_path: Path, postgresql: str) -> None:
    settings = settings_for(tmp_path, **{"store.url": postgres.new_database(postgresql, "versions")})
    workers = []
    for _ in range(2):
        workers.append(Worker(settings, delay=0.05))
        workers[-1].wait_ready()
    try:
        async with api_for(settings) as api:
            base = await api.knowledge_base()
            last: Document | None = None
            for number in range(6):
                last = await api.add(base, "a.txt", text_of(20, seed=f"v{number}"))
                await asyncio.sleep(0.3)
            assert last is not None
            done = await api.done(last, 60)
            assert done.state == "succeeded", done.error

            async def clean() -> None:
                while len({*map(tuple, await api.stored(base))}) != 1:  # noqa: ASYNC110 other processes do it
                    await asyncio.sleep(0.1)

            await asyncio.wait_for(clean(), 120)
            assert all("wv5" in chunk.text for chunk in await api.store.chunks.of(done.id, 10_000))
    finally:
        assert [worker.stop() for worker in workers] == [0, 0], workers[0].log.read_text()
