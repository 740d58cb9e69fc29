"""Streams of answer events: waiting for the first one, and noticing silence."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from pipelines.types import Event, Sources


class EndOfEvents(Exception):
    """There is no further event. (StopAsyncIteration cannot leave a coroutine.)"""


class Lookahead:
    """An event stream whose next event can be waited for without losing it when the wait ends early."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = aiter(events)
        self._waiting: asyncio.Future[Event] | None = None
        self._seen: list[Event] = []

    async def prime(self, seconds: float) -> None:
        """Wait for the first event of the model itself, at most so long; errors until then are raised here.

        Whoever has sent no headers yet can still answer such an error with a proper status.
        """
        end = asyncio.get_running_loop().time() + seconds
        while (left := end - asyncio.get_running_loop().time()) > 0:
            event = await self._fetch(left)
            if event is None:
                return
            self._seen.append(event)
            if not isinstance(event, Sources):
                return

    async def next(self, seconds: float | None) -> Event | None:
        """The next event, or None after `seconds` without one. Raises EndOfEvents at the end."""
        return self._seen.pop(0) if self._seen else await self._fetch(seconds)

    async def _fetch(self, seconds: float | None) -> Event | None:
        if self._waiting is None:
            self._waiting = asyncio.ensure_future(anext(self._events))
        done, _ = await asyncio.wait({self._waiting}, timeout=seconds)
        if not done:
            return None
        waiting, self._waiting = self._waiting, None
        try:
            return waiting.result()
        except StopAsyncIteration:
            raise EndOfEvents from None

    async def close(self) -> None:
        """End the stream: whatever works on it is cancelled, up to the connection to the model server."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.wait({self._waiting})
            self._waiting = None
        if isinstance(self._events, AsyncGenerator):
            await self._events.aclose()


async def with_silence(events: Lookahead, seconds: float) -> AsyncGenerator[Event | None]:
    """The events, with None after every `seconds` without one. Closes the stream at its end."""
    try:
        while True:
            try:
                event = await events.next(seconds)
            except EndOfEvents:
                return
            yield event
    finally:
        await events.close()
