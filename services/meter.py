"""Progress that comes many times a second, written twice a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any


class Meter:
    """`note` in the event loop as often as it likes; `settle` at the end waits for the last write."""

    def __init__(self, write: Callable[[dict[str, Any]], Awaitable[bool]], page_seconds: float = 0.0) -> None:
        """`page_seconds` is what comes after for each page, for the estimate."""
        self._write = write
        self._page_seconds = page_seconds
        self._began = time.monotonic()
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    def note(self, done: int, total: int | None) -> None:
        """So many pages are done, of so many if that is known; written unless something was just written."""
        now = time.monotonic()
        if now < self._next or not (self._task is None or self._task.done()):
            return
        self._next = now + 0.5
        progress: dict[str, Any] = {"pages_done": done}
        if total is not None:
            left = (now - self._began) / max(done, 1) * max(total - done, 0)
            progress |= {"pages_total": total, "eta": round(left + total * self._page_seconds, 1)}
        self._task = asyncio.create_task(self._save(progress))

    async def settle(self) -> None:
        """Wait until what was noted is written. Raises what writing raised."""
        if self._task is not None:
            await self._task

    async def _save(self, progress: dict[str, Any]) -> None:
        await self._write(progress)
