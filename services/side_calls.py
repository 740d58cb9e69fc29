"""Clients' own requests wait while people's answers are written.

A client sends a title, tags and next questions after each answer, to the same server. Where it knows priorities (vLLM
with --scheduling-policy priority) they are sent with a low one; elsewhere they wait here, one at a time, until no
answer is being written, for a bounded time: a title that comes late is no harm, one that never comes is.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from pipelines.types import Event

#: vLLM: requests with a smaller number go first, and chats have 0
LATER = 10


class SideCalls:
    """The line before one model server."""

    def __init__(self, wait: float) -> None:
        """`wait` is in seconds; 0 lets side calls pass at once."""
        self._wait = wait
        self._answers = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._turn = asyncio.Lock()

    async def answering(self, events: AsyncIterator[Event]) -> AsyncGenerator[Event]:
        """The events of a person's answer; side calls wait for its end."""
        self._answers += 1
        self._idle.clear()
        try:
            async with aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    yield event
        finally:
            self._answers -= 1
            if not self._answers:
                self._idle.set()

    async def waiting(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The events of a side call, in its turn. Closing it while it waits sends nothing to any server."""
        async with aclosing(events):
            locked = await self._wait_for_turn()
            try:
                async for event in events:
                    yield event
            finally:
                if locked:
                    self._turn.release()

    async def _wait_for_turn(self) -> bool:
        """Whether the turn is held: after `wait` seconds a side call goes on without."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                await self._turn.acquire()
                try:
                    await self._idle.wait()
                except asyncio.CancelledError:
                    self._turn.release()
                    raise
                return True
        return False
