"""The same question again within a minute: answered once. Whoever asks while it is being answered waits along."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Results by key, for some seconds; errors are not kept. The work goes on when a caller leaves."""

    def __init__(self, seconds: float = 60.0, most: int = 256) -> None:
        self._seconds = seconds
        self._most = most
        self._tasks: OrderedDict[Hashable, tuple[float, asyncio.Task[T]]] = OrderedDict()

    async def get(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result for this key: a recent one, the one in progress, or a new one. Raises what `work` raises."""
        now = time.monotonic()
        known = self._tasks.get(key)
        if known is None or known[0] < now or _failed(known[1]):
            self._tasks[key] = known = (now + self._seconds, asyncio.ensure_future(_run(work)))
            self._tasks.move_to_end(key)
            if len(self._tasks) > self._most:
                self._tasks.popitem(last=False)
        return await asyncio.shield(known[1])


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


def _failed(task: asyncio.Task[T]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
