"""Sources: a folder of 1,000 files, of which one is changed, one added and one deleted. What is touched, and how fast.

A real worker with real jobs on SQLite; the embedding model is a stand-in that notes each text it is asked for.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from services.store.records import Source
from tests.contract.job_parts import text_of
from tests.contract.test_jobs import Api, Worker, api_for, settings_for
from tests.contract.test_sources import counts, make, settled, write

FILES = 1000


async def timed(api: Api, source: Source) -> tuple[Source, float, float]:
    """Sync; the source, seconds of the sync, seconds until its documents are searchable."""
    began = time.perf_counter()
    await api.jobs.sync(source.id)
    while (found := await api.store.sources.get(source.id)).state in ("queued", "running"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    synced = time.perf_counter() - began
    found = await settled(api, source, timeout=1800)
    return found, synced, time.perf_counter() - began


async def measure(folder: Path) -> dict[str, object]:
    """Counts and seconds of a first sync, one without changes, and one with three."""
    settings = settings_for(folder / "data")
    docs = folder / "docs"
    write(docs, **{f"f{n}": text_of(1, 12, f"bench{n}") for n in range(FILES)})
    worker = Worker(settings)
    worker.wait_ready()
    try:
        async with api_for(settings) as api:
            source = await make(api, docs)
            first, first_sync, first_all = await timed(api, source)
            assert counts(first) == {"listed": FILES, "added": FILES}, first
            embedded, before = len(api.embedded()), await api.store.sources.known(source.id)
            unchanged = []
            for _ in range(3):
                again, seconds, _ = await timed(api, source)
                assert counts(again) == {"listed": FILES, "unchanged": FILES}, again
                unchanged.append(seconds)
            write(docs, f500=text_of(1, 12, "benchchanged"), new=text_of(1, 12, "benchnew"))
            (docs / "f501.txt").unlink()
            os.utime(docs / "f502.txt", (1, 1))
            third, _, changed_all = await timed(api, source)
            after = await api.store.sources.known(source.id)
            figures: dict[str, object] = {
                "counts": counts(third), "embedded": len(api.embedded()) - embedded,
                "jobs_begun": sum(1 for key in after if key not in before or after[key].job_id != before[key].job_id),
                "first_sync_s": first_sync, "first_all_s": first_all, "unchanged_s": min(unchanged),
                "changed_all_s": changed_all,
            }  # fmt: skip
            expected = {"listed": FILES, "added": 1, "changed": 1, "unchanged": FILES - 2, "deleted": 1}
            assert counts(third) == expected, third
            assert (figures["embedded"], figures["jobs_begun"]) == (2, 2), figures
            return figures
    finally:
        worker.stop()


def run() -> dict[str, object]:
    """Print the figures with their targets."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder)))
    print(f"1 changed, 1 added, 1 deleted of {FILES:,}: {figures['counts']}")
    print(f"passages embedded: {figures['embedded']} (target 2), ingestions begun: {figures['jobs_begun']} (target 2)")
    ratio = float(str(figures["first_all_s"])) / float(str(figures["unchanged_s"]))
    rows = (
        ("first sync, files taken in, s", figures["first_sync_s"]),
        ("first sync, all searchable, s", figures["first_all_s"]),
        ("sync without changes (best of 3), s", figures["unchanged_s"]),
        ("sync with three changes, all searchable, s", figures["changed_all_s"]),
        ("first over unchanged (target 50)", ratio),
    )
    for words, value in rows:
        print(f"{words:46}{float(str(value)):9.2f}")
    assert ratio >= 50, f"an unchanged folder is only {ratio:.0f} times faster"
    return figures | {"ratio": ratio}
