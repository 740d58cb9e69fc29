"""PostgreSQL goes away and comes back: at the start, in the middle of a job, and between questions."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import Unavailable
from services.store.store import Store
from tests.contract import postgres
from tests.contract.job_parts import text_of, wait_for
from tests.contract.test_jobs import Worker, api_for, settings_for, undisturbed


@pytest.fixture
def cluster() -> Iterator[postgres.Cluster]:
    """A server that runs."""
    cluster = postgres.Cluster()
    cluster.start()
    yield cluster
    cluster.stop()
    cluster.remove()


async def test_away_in_the_middle_of_a_job(tmp_path: Path, cluster: postgres.Cluster) -> None:
    settings = settings_for(tmp_path, **{"store.url": postgres.new_database(cluster.url, "outage")})
    worker = Worker(settings, delay=0.1)
    worker.wait_ready()
    try:
        async with api_for(settings) as api:
            base = await api.knowledge_base()
            text = text_of(30, seed="away")
            document = await api.add(base, "a.txt", text)
            wait_for(lambda: len(api.embedded()) > 16, 60)
            cluster.stop()
            with pytest.raises(Unavailable, match=r"the database does not answer \(.*\): check setting store\.url"):
                await api.store.documents.get(document.id)
            await asyncio.sleep(3)
            assert worker.process.poll() is None, worker.log.read_text()
            cluster.start()
            done = await api.done(document, 120)
            assert (done.state, done.error) == ("succeeded", ""), worker.log.read_text()
            chunks, vectors, words = await api.stored(base)
            assert chunks == vectors == words
            assert len(chunks) == len(set(chunks)) == done.chunks
            assert {chunk.text for chunk in await api.store.chunks.of(done.id, 10_000)} == undisturbed(text)
            embedded = Counter(api.embedded())
            assert sum(embedded.values()) <= len(embedded) + 8, "at most the batch in work is embedded twice"
            again = await api.done(await api.add(base, "b.txt", text_of(2, seed="after")), 60)
            assert again.state == "succeeded", "the same worker takes new jobs"
    finally:
        worker.kill()


def test_away_at_the_start(tmp_path: Path, cluster: postgres.Cluster) -> None:
    url = postgres.new_database(cluster.url, "start")
    cluster.stop()
    try:
        with pytest.raises(Unavailable, match="the database does not answer"):
            asyncio.run(Store.open(url))  # type: ignore[arg-type]
        settings = settings_for(tmp_path, **{"store.url": url, "index.url": "http://127.0.0.1:1"})
        for module in ("services.worker", "services.app"):
            done = subprocess.run(
                [sys.executable, "-m", module], env=os.environ | settings.environment(), capture_output=True, text=True,
                timeout=120, check=False,
            )  # fmt: skip
            assert done.returncode not in (0, 78), "78 would say that no restart will help"
            assert "the database does not answer" in done.stderr
            assert "Traceback" not in done.stderr, done.stderr
    finally:
        cluster.start()
