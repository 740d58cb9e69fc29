"""When sources are looked at again: by a schedule, and as soon as something changes in a watched folder."""

import asyncio
import logging
import re
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from croniter import croniter

from pipelines.errors import BadRequest, RagError
from services.jobs import Jobs
from services.store.records import Source
from services.store.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
#: a watched folder without changes is looked for so often: it may have gone
WATCH_MS = 2000
#: what cannot be watched is tried again after this
AGAIN_SECONDS = 60.0
#: a change rarely comes alone
SETTLE_SECONDS = 1.0
_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INTERVAL = re.compile(r"(\d{1,6})\s*([smhd])")
SHORTEST_SECONDS = 10


def check_schedule(schedule: str) -> str:
    """The schedule as it is kept: "15m", "6h", a cron line, "" for `manual`. Raises BadRequest."""
    schedule = " ".join(schedule.split())
    if schedule in ("", "manual"):
        return ""
    if interval := _INTERVAL.fullmatch(schedule):
        if int(interval[1]) * _UNITS[interval[2]] < SHORTEST_SECONDS:
            raise BadRequest(f"schedule {schedule!r} is too often: at least {SHORTEST_SECONDS} s lie between two syncs")
        return schedule
    if len(schedule.split()) == 5 and croniter.is_valid(schedule):
        return schedule
    raise BadRequest(
        f"schedule {schedule!r} is none: say an interval (30s, 15m, 6h, 1d), five fields of cron (0 3 * * *), or manual"
    )


def next_due(schedule: str, after: float) -> float | None:
    """When to look again, seconds since 1970; None for on demand. Cron lines are in the time zone of this machine."""
    if not schedule:
        return None
    if interval := _INTERVAL.fullmatch(schedule):
        return after + int(interval[1]) * _UNITS[interval[2]]
    begin = datetime.fromtimestamp(after).astimezone()
    return float(croniter(schedule, begin).get_next(float))


class Schedule:
    """Starts syncs that are due, and watches folders. `run` until cancelled; several workers may do so at once."""

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs
        self._watches: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Look every second."""
        try:
            while True:
                try:
                    await self._look()
                except RagError as error:
                    log.warning("looking after sources is put off: %s", error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for watch in self._watches.values():
                watch.cancel()
            await asyncio.gather(*self._watches.values(), return_exceptions=True)

    async def _look(self) -> None:
        found = await self._store.sources.list()
        now = time.time()
        for source in found:
            if source.due is not None and source.due <= now and source.state not in ("queued", "running"):
                await self._jobs.sync(source.id)
        wanted = {(source.id, source.location): source for source in found if source.watch}
        for key in [key for key in self._watches if key not in wanted]:
            self._watches.pop(key).cancel()
        for key, source in wanted.items():
            if key not in self._watches or self._watches[key].done():
                self._watches[key] = asyncio.create_task(self._watch(source))

    async def _watch(self, source: Source) -> None:
        """Sync a folder whenever something changes in it. What cannot be watched is looked at by its schedule."""
        from watchfiles import awatch

        folder = Path(source.location)
        begun = False
        try:
            async for changes in awatch(folder, watch_filter=None, rust_timeout=WATCH_MS, yield_on_timeout=True):
                if not begun:  # the watch works; what changed before it did is looked for now
                    begun = True
                    await self._tell(source, "")
                    await self._store.sources.mark_due(source.id, time.time())
                if changes:
                    await self._store.sources.mark_due(source.id, time.time() + SETTLE_SECONDS)
                elif not await asyncio.to_thread(folder.is_dir):
                    raise FileNotFoundError(f"{folder} has gone")
        except (OSError, RuntimeError) as error:  # not there, or too many folders for the kernel's limit
            often = source.schedule or "no schedule"
            await self._tell(source, f"changes are not seen at once ({error}); it is looked at by {often} instead")
            await asyncio.sleep(AGAIN_SECONDS)
        except RagError as error:
            log.warning("watching %s is put off: %s", folder, error)

    async def _tell(self, source: Source, trouble: str) -> None:
        if source.watch_error != trouble:
            await self._store.sources.configure(source.id, watch_error=trouble)
