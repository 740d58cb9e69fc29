"""Bringing the documents of a source up to date: list, fetch what is new, delete what has gone. Durable workflows.

The list is compared once and kept in a file of the job, and what became of each item is noted beside it: a sync that is
killed goes on where it was and ends with the counts of an undisturbed one. Documents that it brings are ingested by
jobs of their own.
"""

import asyncio
import contextlib
import functools
import json
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import connectors.sources
from connectors import seam, source
from connectors.source import Item
from pipelines.errors import NotFound, RagError, SourceUnavailable
from services import comparing, credentials, steps
from services.comparing import Comparison, Plan
from services.fetching import Fetching, Outcome
from services.job import REMOVE_SOURCE, SYNC, JobDead, Superseded
from services.jobs import Jobs
from services.schedule import next_due
from services.settings import Settings
from services.store.database import database_errors
from services.store.records import Source
from services.store.store import Store
from services.turns import Turns
from services.watched_jobs import WatchedJobs

log = logging.getLogger(__name__)

#: begun so often, a sync is given up: it crashes the worker
MAX_ATTEMPTS = 5
#: so many items in a row that cannot be had: the source has gone in the middle of the sync
MAX_IN_A_ROW = 20
#: tries of a listing, with waits of 1 and 2 s between them
LIST_TRIES = 3
PROGRESS_SECONDS = 0.5


class Syncs:
    """What the worker does with sources. `register()` names the workflows to the job library."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs, watched: WatchedJobs) -> None:
        self._settings = settings
        self._store = store
        self._jobs = jobs
        self._watched = watched
        self._data_dir = settings.data_dir
        self._turns = Turns(settings.data_dir / "turns")
        self._fetching = Fetching(settings, store, jobs)
        self.retry_seconds = 1.0

    def register(self) -> None:
        """Before DBOS.launch: workflows are found again by these names after a restart."""
        steps.workflow(SYNC, functools.partial(self._watched.run, SYNC, self._run))
        steps.workflow(REMOVE_SOURCE, functools.partial(self._watched.run, REMOVE_SOURCE, self._remove))

    async def _run(self, source_id: str, job_id: str) -> dict[str, int]:
        """The outermost boundary of a sync: whatever happens ends on the source, in words."""
        try:
            async with self._turns.document(source_id):
                await self._begin(source_id, job_id)
                await self._step("list", self._list, source_id, job_id, tries=LIST_TRIES)
                await self._step("fetch", self._fetch, source_id, job_id)
                counts: dict[str, int] = await self._step("delete", self._delete, source_id, job_id)
        except Superseded:
            await self._clear(job_id)
            raise
        except RagError as error:
            await self._end(source_id, job_id, state="failed", error=str(error), error_code=error.code)
            raise
        except Exception as error:
            log.exception("sync %s failed on an error nobody expected", job_id)
            words = f"Deepwell failed on this source ({type(error).__name__}: {error}); the worker's log has more"
            await self._end(source_id, job_id, state="failed", error=words, error_code="internal_error")
            raise RagError(words) from error
        await self._end(source_id, job_id, state="succeeded", error="", error_code="")
        return counts

    async def _step(
        self, name: str, run: Callable[..., Awaitable[Any]], *arguments: Any, tries: int = steps.STEP_TRIES
    ) -> Any:
        return await steps.step(name, run, *arguments, seconds=self.retry_seconds, tries=tries)

    async def _begin(self, source_id: str, job_id: str) -> None:
        attempts = await self._store.sources.begin(source_id, job_id)
        if attempts is None:
            raise Superseded("the source was removed, or a newer sync took it over")
        if attempts > MAX_ATTEMPTS:
            raise JobDead(
                f"the worker crashed or was killed {attempts - 1} times during this sync: see the worker's log for the "
                "reason, then sync again"
            )

    async def _owned(self, source_id: str, job_id: str, **progress: Any) -> Source:
        if not await self._store.sources.update(source_id, job_id, **progress):
            raise Superseded("the source was removed, or a newer sync took it over")
        return await self._store.sources.get(source_id)

    async def _list(self, source_id: str, job_id: str) -> int:
        """Compare what the source has with what came of it. Gives the number of items to fetch."""
        found = await self._owned(source_id, job_id, step="listing", done=0, total=0)
        comparison = Comparison(
            await self._store.sources.known(source_id), await self._store.sources.left_out(source_id), found.options
        )
        opened, seen, told = open_source(self._settings, found), 0, time.monotonic()
        try:
            async for one in opened.items():
                comparison.see(one)
                seen += 1
                if time.monotonic() - told > PROGRESS_SECONDS:
                    await self._owned(source_id, job_id, total=seen)
                    told = time.monotonic()
        finally:
            await opened.close()
        plan = comparison.plan()
        comparing.may_delete(plan, plan.gone, found.location, found.allow_empty)
        with database_errors():
            await asyncio.to_thread(plan.write, self._work(job_id) / "plan.json")
        return len(plan.fetch)

    async def _fetch(self, source_id: str, job_id: str) -> int:
        """Fetch every item of the plan that was not fetched before a crash. Gives how many were."""
        plan = await self._plan(source_id, job_id)
        outcomes = await asyncio.to_thread(_outcomes, self._work(job_id))
        todo = [item for item in plan.fetch if item.external_id not in outcomes]
        found = await self._owned(source_id, job_id, step="fetching", done=len(outcomes), total=len(plan.fetch))
        before = (await self._store.sources.known(source_id), await self._store.sources.left_out(source_id))
        opened, told, in_a_row = open_source(self._settings, found), time.monotonic(), 0
        try:
            for start in range(0, len(todo), opened.parallel):
                batch = todo[start : start + opened.parallel]
                made = await self._take(found, opened, batch, before)
                in_a_row = _unavailable_in_a_row(in_a_row, made)
                if in_a_row >= MAX_IN_A_ROW:
                    raise SourceUnavailable(f"{found.location} stopped answering: {made[-1].error}")
                with database_errors():
                    await asyncio.to_thread(_note, self._work(job_id), made)
                if time.monotonic() - told > PROGRESS_SECONDS:
                    await self._owned(source_id, job_id, done=len(outcomes) + start + len(batch))
                    told = time.monotonic()
        finally:
            await opened.close()
        return len(todo)

    async def _take(
        self, found: Source, opened: source.Source, batch: Sequence[Item], before: tuple[Any, Any]
    ) -> list[Outcome]:
        made = await asyncio.gather(
            *(self._fetching.take(found, opened, item, *before) for item in batch), return_exceptions=True
        )
        for one in made:
            if isinstance(one, BaseException):
                raise one
        return [one for one in made if isinstance(one, Outcome)]

    async def _plan(self, source_id: str, job_id: str) -> Plan:
        path = self._work(job_id) / "plan.json"
        if not await asyncio.to_thread(path.exists):  # after a restart on another machine, or the folder was cleaned
            await self._list(source_id, job_id)
        return await asyncio.to_thread(Plan.read, path)

    async def _delete(self, source_id: str, job_id: str) -> dict[str, int]:
        """Delete what has gone at the source, and write down how the sync went."""
        plan = await self._plan(source_id, job_id)
        outcomes = await asyncio.to_thread(_outcomes, self._work(job_id))
        found = await self._owned(source_id, job_id, step="deleting", done=0, total=len(plan.gone))
        known = await self._store.sources.known(source_id)
        gone = [*plan.gone, *(one for one, made in outcomes.items() if made.became == "gone")]
        comparing.may_delete(plan, gone, found.location, found.allow_empty)
        for made in outcomes.values():
            plan.counts["deleted" if made.became == "gone" else made.became] += 1
            if made.error and made.became != "gone":
                plan.problem(made.external_id, made.code, made.error)
        plan.counts["deleted"] += len(plan.gone)
        for external_id in gone:
            if external_id in known:
                with contextlib.suppress(NotFound):  # somebody else has just deleted it
                    await self._jobs.delete_document(known[external_id].document_id)
        for external_id in plan.forget:
            await self._store.sources.leave_out(source_id, external_id, None)
        await self._owned(source_id, job_id, counts=dict(plan.counts), problems=plan.problems)
        return dict(plan.counts)

    async def _end(self, source_id: str, job_id: str, **values: Any) -> None:
        now = time.time()
        if await self._store.sources.update(source_id, job_id, step="", ended=now, **values):
            found = await self._store.sources.get(source_id)
            if (due := next_due(found.schedule, now)) is not None:
                await self._store.sources.mark_due(source_id, due)
        await self._clear(job_id)

    async def _remove(self, source_id: str, job_id: str) -> dict[str, int]:
        async with self._turns.document(source_id):  # a sync that was cancelled has let go of it
            return await self._step("remove", self._erase, source_id)  # type: ignore[no-any-return]

    async def _erase(self, source_id: str) -> dict[str, int]:
        known = await self._store.sources.known(source_id)
        for document in known.values():
            with contextlib.suppress(NotFound):
                await self._jobs.delete_document(document.document_id)
        folder = credentials.folder_of(self._data_dir, source_id)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await self._store.sources.erase(source_id)
        return {"documents": len(known)}

    def _work(self, job_id: str) -> Path:
        return self._data_dir / "work" / job_id

    async def _clear(self, job_id: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._work(job_id), ignore_errors=True)


def open_source(settings: Settings, found: Source) -> source.Source:
    """The source that a row describes. Raises BadRequest."""
    kind = seam.load(connectors.sources, found.kind)
    folder = credentials.folder_of(settings.data_dir, found.id)
    spec = source.Spec(
        location=found.location,
        options=found.options,
        credentials=credentials.read(settings.data_dir, found.id),
        work_dir=folder,
        private_hosts=settings.sync.private_hosts,
    )
    opened: source.Source = kind.open_source(spec)
    return opened


def _note(folder: Path, made: Sequence[Outcome]) -> None:
    with (folder / "outcomes.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps([one.external_id, one.became, one.code, one.error]) + "\n" for one in made)


def _outcomes(folder: Path) -> dict[str, Outcome]:
    path = folder / "outcomes.jsonl"
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # a line cut off by a crash: its item is fetched again
            outcome = Outcome(*json.loads(line))
            found[outcome.external_id] = outcome
    return found


def _unavailable_in_a_row(before: int, made: Sequence[Outcome]) -> int:
    for one in made:
        before = before + 1 if one.code == SourceUnavailable.code else 0
    return before
