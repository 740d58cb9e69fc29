"""Jobs with the real parts: our embedder, Milvus Lite, Tantivy, parsers in child processes; killed for real."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.index.milvus import MilvusIndex
from connectors.index.tantivy import TantivyIndex
from services.documents import add_document
from services.lock import holder
from services.settings import Settings, load_settings
from tests.contract import lite
from tests.contract.job_parts import wait_for
from tests.contract.test_jobs import Api, Bytes, api_for, text_of

ROOT = Path(__file__).parents[2]


def start(settings: Settings) -> "subprocess.Popen[bytes]":
    """The product's own worker."""
    with (settings.data_dir / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "services.worker"], env=os.environ | settings.environment(), stdout=log, stderr=log,
            cwd=ROOT,
        )  # fmt: skip


async def everywhere(settings: Settings, api: Api, base: str) -> list[list[str]]:
    """Chunk ids in SQL, in Milvus, in Tantivy; sorted."""
    index, words = MilvusIndex(settings.index.url), TantivyIndex(settings.data_dir / "lexical")
    try:
        chunks = [
            chunk.id
            for document in await api.store.documents.list(base)
            for chunk in await api.store.chunks.of(document.id, 10_000)
        ]
        return [sorted(chunks), sorted(await index.ids(base)), sorted(await words.ids(base))]
    finally:
        await index.close()
        await words.close()


@pytest.mark.slow
async def test_a_killed_worker_and_a_killed_database_lose_and_double_nothing(tmp_path: Path) -> None:
    pdf = sorted((ROOT / "samples").rglob("*.pdf"))[0]
    with lite.running(tmp_path / "milvus") as milvus:
        settings = load_settings({"data_dir": str(tmp_path), "index.url": milvus.url, "ingest.batch": 16}, environ={})
        worker = start(settings)
        try:
            async with api_for(settings) as api:
                base_calm, base_rough = [
                    (await api.store.knowledge_bases.create(name)).id for name in ("calm", "rough")
                ]
                files = [("a.pdf", pdf.read_bytes()), ("b.txt", text_of(8, 200).encode())]

                async def add(base: str) -> list[str]:
                    return [
                        (await add_document(settings, api.store, api.jobs, base, name, Bytes(content))).id
                        for name, content in files
                    ]

                for document in await add(base_calm):
                    done = await api.done(await api.store.documents.get(document), 120)
                    assert done.state == "succeeded", done.error
                calm_ids = await everywhere(settings, api, base_calm)
                assert calm_ids[0] == calm_ids[1] == calm_ids[2]
                ids = await add(base_rough)
                big = await api.store.documents.get(ids[1])
                while (await api.store.chunks.staged(big.id))[1] < 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
                worker.kill()
                worker.wait(10)
                worker = start(settings)
                wait_for(lambda: holder(tmp_path, "worker.lock"), 30)
                milvus.kill()
                await asyncio.sleep(1)
                milvus.start()
                for document in ids:
                    done = await api.done(await api.store.documents.get(document), 120)
                    assert done.state == "succeeded", done.error
                found = await everywhere(settings, api, base_rough)
                assert found[0] == found[1] == found[2]
                assert len(found[0]) == len(calm_ids[0])
                texts = []
                for base in (base_calm, base_rough):
                    documents = await api.store.documents.list(base)
                    texts.append([c.text for d in documents for c in await api.store.chunks.of(d.id, 10_000)])
                assert texts[0] == texts[1]
                job = await api.jobs.delete_document(ids[0])
                assert (await api.jobs.wait(job.id, 60)).state == "succeeded"
                found = await everywhere(settings, api, base_rough)
                assert found[0] == found[1] == found[2]
                assert 0 < len(found[0]) < len(calm_ids[0])
                worker.terminate()
                assert worker.wait(10) == 0
        finally:
            worker.kill()
