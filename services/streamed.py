"""A streamed chat completion: events to frames, and the model's own words past the events.

The status is sent with the first frame, so that whatever goes wrong before is answered with its proper status; after
PATIENCE it is sent anyway, and then a comment whenever nothing was sent for a while. When the client leaves, the work
is cancelled, up to the connection to the model server.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain
from weakref import WeakKeyDictionary

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from connectors.apps.openai import KEEP_ALIVE, Completion
from connectors.relaying import relay
from pipelines.errors import RagError
from pipelines.generation import Generation
from pipelines.types import Event, Finish
from services.client import Client, client_of

#: seconds in which the model server may still refuse before we commit to a 200
PATIENCE = 3.0
#: seconds of silence after which a comment is sent. Proxies cut idle connections after 60 s, some clients sooner
QUIET = 9.0
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in STREAM_HEADERS.items()]


class StreamedCompletion(Response):
    """The answer to a chat completion with `stream`. `events` are set before it is sent."""

    media_type = "text/event-stream"
    events: AsyncIterator[Event]
    #: what the client gets for an event
    delivered: Callable[[Event], Sequence[Event]]

    def __init__(self, completion: Completion, headers: Mapping[str, str]) -> None:
        # Response.__init__ would count the bytes of a body
        self.status_code, self.background = 200, None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()),
            *_HEADERS,
        ]
        self._completion = completion
        self._send: Send
        self._client: Client | None = None
        self._begun = self._ended = self._gone = False
        self._frames = self._signs = 0  # sent so far; those that only show that we are there
        self._seen, self._quiet_since = 0, 0.0  # how many there were when there was last something new, and when
        self._silence: asyncio.Future[None] | None = None

    async def relay(self, generation: Generation) -> bool:
        """Write what the model writes, past the events, where that can be done; see pipelines.generation.Relaying."""
        frames = self._completion.relayed()
        if frames is None or not await relay(generation, frames, self._pour):
            return False
        self._completion.note_relayed(generation.written)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Raises RagError where nothing was sent yet."""
        self._send, self._client = send, client_of(scope)
        work = asyncio.current_task()
        assert work is not None
        unwatch = self._watch(receive, work)
        round_ = round_of(asyncio.get_running_loop())
        self._quiet_since = round_.add(self)
        try:
            async with aclosing(self.events) as events:  # type: ignore[type-var]
                async for event in events:
                    if frames := b"".join(chain.from_iterable(map(self._completion.frames, self.delivered(event)))):
                        await self._write(frames, last=isinstance(event, Finish))
        except RagError as error:
            if not self._begun:
                raise
            await self._write(self._completion.error(error), last=True)
        except asyncio.CancelledError:
            if not self._gone or work.uncancel():
                raise
        finally:
            self._ended = True
            self._completion.request.how.relay = None  # that is this; what holds itself waits for the garbage collector
            unwatch()
            round_.drop(self)

    def _pour(self, frames: bytes) -> Awaitable[None] | None:
        """What `_write` does, without a coroutine of its own for each chunk."""
        if not self._begun:
            return self._write(frames)
        self._frames += 1
        if self._client is not None:
            return self._client.write(frames)
        return self._send({"type": "http.response.body", "body": frames, "more_body": True})

    async def _write(self, frames: bytes, last: bool = False) -> None:
        if self._ended:
            return  # a comment that was under way when the end came
        self._frames += 1
        self._ended = self._ended or last
        if not self._begun:
            self._begun = True
            frames = self._completion.opening() + frames
            if self._client is not None and not last:
                if (waits := self._client.open(self.raw_headers, frames)) is not None:
                    await waits
                return
            await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send({"type": "http.response.body", "body": frames, "more_body": not last})

    def _watch(self, receive: Receive, work: asyncio.Task[None]) -> Callable[[], object]:
        """Stop the work when the client leaves; what is returned ends that."""
        if self._client is None:
            return asyncio.ensure_future(self._until_gone(receive, work)).cancel
        self._client.on_leaving(partial(self._leave, work))
        return partial(self._client.on_leaving, None)

    async def _until_gone(self, receive: Receive, work: asyncio.Task[None]) -> None:
        message: Message = {"type": ""}
        while message["type"] != "http.disconnect":
            message = await receive()
        self._leave(work)

    def _leave(self, work: asyncio.Task[None]) -> None:
        if not self._ended:
            self._gone = True
            work.cancel()

    def look(self, now: float) -> None:
        """Commit to a 200, or send a comment, if there was silence for too long."""
        if self._seen != self._frames:
            self._seen, self._quiet_since = self._frames, now
        elif not self._ended and now - self._quiet_since >= (QUIET if self._begun else PATIENCE):
            self._quiet_since = now
            self._silence = asyncio.ensure_future(self._write(self._sign()))

    def _sign(self) -> bytes:
        """What says that we are there. Some clients' timers take no comment for one: before the model's first word,
        every fourth sign is a line of thinking.
        """
        self._signs += 1
        if not self._begun:
            return b""
        silent = self._frames == self._signs - 1
        return self._completion.waiting() if silent and self._signs % 4 == 0 else KEEP_ALIVE


class Round:
    """Looks after all streams of an event loop with one timer: one for each would take memory and time."""

    def __init__(self) -> None:
        self._streams: set[StreamedCompletion] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: StreamedCompletion) -> float:
        """Look after a stream from now on; what time it is."""
        loop = asyncio.get_running_loop()
        self._streams.add(stream)
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE / 3, self._look)
        return loop.time()

    def drop(self, stream: StreamedCompletion) -> None:
        """A stream has ended."""
        self._streams.discard(stream)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for stream in self._streams:
            stream.look(now)
        self._timer = loop.call_later(PATIENCE / 3, self._look) if self._streams else None


_rounds: WeakKeyDictionary[asyncio.AbstractEventLoop, Round] = WeakKeyDictionary()


def round_of(loop: asyncio.AbstractEventLoop) -> Round:
    """The one of an event loop."""
    found = _rounds.get(loop)
    if found is None:
        found = _rounds[loop] = Round()
    return found
