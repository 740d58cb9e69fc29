"""The worker process: runs durable jobs until it is told to stop. `deepwell worker`, or `python -m services.worker`."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from pipelines.errors import Conflict, RagError
from pipelines.ingest import IngestParts
from pipelines.rag import DenseLeg
from services import places
from services.embedders import Embedders
from services.ingesting import Parser
from services.job import APPLICATION, DELETE_QUEUE, INGEST_QUEUE, REEMBED_QUEUE, SYNC_QUEUE, VERSION
from services.jobs import Jobs
from services.jobs_database import jobs_url
from services.lock import DirectoryLock, turn
from services.metrics_port import metrics_port
from services.process import process
from services.reconcile import reconcile
from services.schedule import Schedule
from services.settings import Settings
from services.store.store import Store
from services.sync import Syncs
from services.tracing import Tracing
from services.workflows import Workflows

log = logging.getLogger(__name__)

#: jobs taken from the queue at once; most of them wait for their turn to parse or to embed
TAKEN = 8
#: sources synced at once
SYNCED = 4
POLL_SECONDS = 0.2
#: between two looks at a queue that hardly ever has something: looking costs CPU time
RARE_SECONDS = 2.0
RECONCILE_SECONDS = 5.0
#: who tidies up the data directory just now
TIDYING = "tidying.lock"


def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT. Raises Conflict if the data directory has one already."""
    asyncio.run(_main(settings))


async def _main(settings: Settings) -> None:
    from services.build import build_embedders, build_ingest
    from services.parsing import Parser as ChildParser
    from services.telemetry import configure_logging

    configure_logging(settings.log)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    parts = await build_ingest(settings)
    embedders = build_embedders(settings, DenseLeg(embeddings=parts.embeddings, index=parts.index))
    limits = settings.ingest
    parser = ChildParser(
        processes=limits.parse_processes, timeout=limits.parse_timeout, memory_mb=limits.parse_memory_mb
    )
    try:
        async with working(settings, parts, embedders, parser) as workflows:
            watched, wanted = workflows.watched, settings.metrics
            async with metrics_port(wanted.host, wanted.worker_port, watched.text, watched.metrics.content_type):
                log.info("worker is ready")
                await stop.wait()
    finally:
        await parser.close()
        await embedders.close()
        await parts.index.close()
        await parts.lexical.close()


@asynccontextmanager
async def working(
    settings: Settings, parts: IngestParts, embedders: Embedders, parser: Parser
) -> AsyncIterator[Workflows]:
    """Jobs run while this context is open. One at a time in a process; with PostgreSQL, several in a data directory."""
    several = settings.store_url().startswith("postgres")
    name, place = places.take(settings.data_dir, several)
    with contextlib.ExitStack() as stack:
        stack.callback(place.release)
        async with await Store.open(settings.store_url()) as store:
            jobs = await Jobs.open(settings, store)  # makes the job database, too
            workflows = Workflows(store, parts, embedders, parser, jobs, settings.ingest, settings.data_dir)
            watched = workflows.watched
            watched.tracing = Tracing("deepwell-worker", settings.tracing) if settings.tracing.endpoint else None
            workflows.register()
            Syncs(settings, store, jobs, watched).register()
            try:
                await _launch(settings, name)
                with contextlib.suppress(RagError):  # tidied in the background; what cannot be now is later
                    async with turn(settings.data_dir / TIDYING, wait=False):
                        await reconcile(store, jobs, grace=0)
                background = [
                    asyncio.create_task(_tidy(settings, store, jobs, workflows)),
                    asyncio.create_task(_look_after(settings.data_dir, name, place)),
                    asyncio.create_task(Schedule(store, jobs).run()),
                ]
                for task in background:
                    task.add_done_callback(_tell)
                yield workflows
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                await store.documents.pause_attempts()
            finally:
                await jobs.close()
                await _end()
                if watched.tracing is not None:
                    await asyncio.to_thread(watched.tracing.close)


async def _launch(settings: Settings, executor: str) -> None:
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": jobs_url(settings),
            "application_version": VERSION,
            "executor_id": executor,  # the same after a restart: what was running is taken up at once
            "log_level": "WARNING",
            "run_migrations": False,  # Jobs.open has done it
            "use_listen_notify": True,
        }
    )
    DBOS.launch()  # in the event loop's own thread: workflows then run on this loop, beside the parts
    for name, taken in ((INGEST_QUEUE, TAKEN), (DELETE_QUEUE, 1), (REEMBED_QUEUE, 1), (SYNC_QUEUE, SYNCED)):
        poll = RARE_SECONDS if name == REEMBED_QUEUE else POLL_SECONDS
        await DBOS.register_queue_async(name, worker_concurrency=taken, polling_interval_sec=poll)


async def _tidy(settings: Settings, store: Store, jobs: Jobs, workflows: Workflows) -> None:
    """Every few seconds: databases that differ, passages to leave the indexes. Every hour: what crashes left.

    One worker of a data directory does it at a time.
    """
    hourly = 0.0
    while True:
        await asyncio.sleep(RECONCILE_SECONDS)
        try:
            async with turn(settings.data_dir / TIDYING, wait=False):
                await reconcile(store, jobs)
                await workflows.sweep()
                if time.monotonic() > hourly:
                    hourly = time.monotonic() + 3600
                    await store.purge.leftovers(settings.data_dir)
                    await jobs.prune()
                    await workflows.repair()
        except Conflict:
            continue  # another worker is at it
        except RagError as error:
            log.warning("tidying up is put off: %s", error)


async def _look_after(data_dir: Path, own: str, place: DirectoryLock) -> None:
    """Every few seconds: say that this worker is well, and take over the jobs of those that were killed."""
    while True:
        try:
            place.note(port=0)
            await asyncio.to_thread(_take_over, data_dir, own)
        except (RagError, SQLAlchemyError) as error:
            log.warning("looking after other workers is put off: %s", error)
        await asyncio.sleep(RECONCILE_SECONDS)


def _take_over(data_dir: Path, own: str) -> None:
    """Give back to the queue what workers ran that are gone. Their places are held meanwhile: nobody else does it."""
    for name in places.left(data_dir, own):
        for handle in DBOS._recover_pending_workflows([name]):
            log.warning("job %s is queued again: its worker %s is gone", handle.workflow_id, name)


def _tell(tidying: asyncio.Task[None]) -> None:
    if not tidying.cancelled() and (error := tidying.exception()):
        log.error("a task in the background has stopped on an error nobody expected", exc_info=error)


async def _end() -> None:
    """Stop the job library. Running jobs stay pending: the next worker takes them up at their last step."""
    running = [task for task in asyncio.all_tasks() if "_execute_workflow_async" in repr(task.get_coro())]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    own = ThreadPoolExecutor(1)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(own, DBOS.destroy)
    loop.set_default_executor(own)  # the library made its own pool the loop's default, and has just shut it down


if __name__ == "__main__":
    process(run)
