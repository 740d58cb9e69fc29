"""Progress that comes many times a second, written twice a second."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Meter:
    """`note` in the event loop as often as it likes; `settle` at the end waits for the last write."""

    def __init__(self, write: Callable[[int], Awaitable[bool]]) -> None:
        self._write = write
        self._next = 0.0
        self._task: asyncio.Task[None] | None = None

    def note(self, total: int | None) -> None:
        """So many pages in all; written unless something was just written."""
        if total is not None and time.monotonic() >= self._next and (self._task is None or self._task.done()):
            self._next = time.monotonic() + 0.5
            self._task = asyncio.create_task(self._save(total))

    async def settle(self) -> None:
        """Wait until what was noted is written. Raises what writing raised."""
        if self._task is not None:
            await self._task

    async def _save(self, total: int) -> None:
        await self._write(total)
