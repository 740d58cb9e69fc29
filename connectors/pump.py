"""Upstream bytes to a client without a task wake-up for each chunk.

The client's `send` is an ordinary coroutine, but it waits only when the client is slow. So it is run on the spot, in
the callback that brought the bytes; if it does wait, reading from the model server is paused and a task takes the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from connectors.stream import Relay
from connectors.upstream import Answer
from pipelines.errors import RagError

#: sends bytes; what it returns, if anything, is to be awaited before it is called again
Send = Callable[[bytes], Awaitable[None] | None]


class Rest:
    """An awaitable that was run up to the first thing it waits for; awaiting this does the rest."""

    __slots__ = ("_first", "_steps")

    def __init__(self, steps: Generator[Any, Any, None], first: Any) -> None:
        self._steps, self._first = steps, first

    def __await__(self) -> Generator[Any, Any, None]:
        waits = self._first
        while True:
            try:
                value = yield waits
            except asyncio.CancelledError as error:  # belongs to whoever waits inside
                waits = self._steps.throw(error)
                continue
            try:
                waits = self._steps.send(value)
            except StopIteration:
                return


def begin(work: Awaitable[None]) -> Rest | None:
    """Run `work` until it has to wait. None if it is done; raises what it raises."""
    steps = work.__await__()
    try:
        return Rest(steps, steps.send(None))
    except StopIteration:
        return None


class Pump:
    """One answer on its way from a model server to a client, through a relay."""

    __slots__ = ("_answer", "_done", "_ended", "_error", "_relay", "_rest", "_send")

    def __init__(self, answer: Answer, relay: Relay, send: Send) -> None:
        self._answer, self._relay, self._send = answer, relay, send
        self._done: asyncio.Future[None] | None = None
        self._rest: Rest | None = None
        self._ended = False
        self._error: Exception | None = None

    def at_first(self, note: Callable[[], None]) -> None:
        """Call `note` when the first frames go out; afterwards no chunk pays for it."""
        send = self._send

        def first(frames: bytes) -> Awaitable[None] | None:
            self._send = send
            note()
            return send(frames)

        self._send = first

    async def run(self) -> None:
        """Until the answer has ended or the relay is done with it. Raises what the server did wrong.

        Leaving early (cancelled) is the caller's `async with` around the answer.
        """
        loop = asyncio.get_running_loop()
        try:
            self._answer.pour(self._take)
            while not self._ended or self._rest is not None:
                if self._rest is None:
                    self._done = loop.create_future()
                    await self._done
                    continue
                rest, self._rest = self._rest, None
                await rest
                if not self._ended:
                    self._answer.hold(False)
        finally:
            self._done = None
            self._answer.pour(None)
        if self._error is not None:
            raise self._error

    def _take(self, data: bytes) -> None:
        if self._ended:
            return
        if not data:
            self._end(self._answer.broken())
            return
        relay = self._relay
        try:
            frames = relay.feed(data)
            if frames and (work := self._send(frames)) is not None and (rest := begin(work)) is not None:
                self._rest = rest
                self._answer.hold(True)
                self._wake()
        except (RagError, OSError, RuntimeError) as error:
            self._end(error)
            return
        if relay.over:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


async def pump(answer: Answer, relay: Relay, send: Send, first: Callable[[], None] | None = None) -> None:
    """Relay a whole answer to `send`, what the relay holds back at the end included. Raises what the server did wrong.

    Whatever came while `send` waited goes out in one piece. `first` is called when the first frames go out.
    """
    pumping = Pump(answer, relay, send)
    if first is not None:
        pumping.at_first(first)
    await pumping.run()
    if (frames := relay.finish()) and (work := send(frames)) is not None:
        await work
