"""One HTTP/1.1 connection on asyncio's Protocol, parsed by httptools: the lower half of connectors/upstream.py."""

import asyncio
from collections.abc import Callable

import httptools

from pipelines.errors import ModelUnavailable

#: bytes of a body that wait for their reader before reading from the socket is paused
HIGH_WATER = 256 * 1024


class Connection(asyncio.Protocol):
    """One connection: at most one request at a time. Fed by the event loop, read by one task or poured into a sink."""

    __slots__ = (
        "_body", "_deadline", "_heard", "_held", "_inside", "_keep", "_parser", "_paused", "_sink", "_timer", "_waiter",
        "_waiting", "closed", "complete", "headers", "loop", "lost", "received", "status", "transport", "used",
    )  # fmt: skip

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.lost: Exception | None = None
        self.closed = False
        self.used = False
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._held = False
        self._paused = False
        self._deadline = 0.0
        self._heard = False  # since the deadline was set, by a sink
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._keep = False
        self._inside = True  # what comes belongs to no chunk, or to one that has begun
        self.received = 0
        self._body: list[bytes] = []
        self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self._sink is not None and (body := self._whole_chunk(data)):
            self._heard = True
            self._sink(body)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ModelUnavailable(f"what came is not HTTP ({error})"))
        if not data.endswith(b"\r\n"):
            self._inside = True  # the size of the next chunk may have begun
        if self._sink is None:
            self._wake()
        else:
            self._pour()

    def _whole_chunk(self, data: bytes) -> bytes:
        """The content of bytes that are one chunk (RFC 9112, 7.1) and nothing else; b"" for anything else.

        A token comes in such a chunk nearly always, and the parser need not know of it where it stands between two.
        """
        if self._inside or self._held or self._body or self.lost is not None:
            return b""
        end = data.find(b"\r\n", 1, 8)
        if end < 0 or not data.endswith(b"\r\n"):
            return b""
        try:
            size = int(data[:end], 16)
        except ValueError:
            return b""
        return data[end + 2 : -2] if size > 0 and len(data) == end + 4 + size else b""

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.complete or self.lost is not None:  # a silence that was ended is not the end of the body
            pass
        elif self.status and "content-length" not in self.headers and not self._chunked():
            self.complete = True  # a body without a length ends with its connection
        else:
            self.lost = error or ConnectionResetError("the connection was closed")
        self._wake()
        self._pour()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_chunk_header(self) -> None:
        self._inside = True

    def on_chunk_complete(self) -> None:
        self._inside = False

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._waiting += len(body)
        if self._waiting > HIGH_WATER and not self._paused and self.transport and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete, self._inside = self.status >= 200, True
        self._keep = self._parser.should_keep_alive()
        if not self.complete:  # 100 Continue and the like: the answer itself follows
            self.status, self.headers = 0, {}

    def send(self, head: bytes, body: bytes) -> None:
        """Begin a request."""
        if self.used:
            self._start()
        self.used = True
        assert self.transport is not None
        self.transport.write(head + body if len(body) < 65536 else head)
        if len(body) >= 65536:
            self.transport.write(body)

    async def head(self, timeout: float) -> None:
        """Wait for status and headers."""
        while not self.status and self.lost is None:
            await self._wait(timeout)
        if not self.status:
            raise self.lost or ConnectionResetError("the connection was closed")

    async def read(self, timeout: float) -> bytes:
        """Everything of the body that has come; waits for at least one byte; b"" at the end."""
        while not self._body:
            if self.complete:
                return b""
            if self.lost is not None:
                raise self.lost
            await self._wait(timeout)
        data = self._take()
        self._resume()
        return data

    def pour(self, sink: Callable[[bytes], None] | None, timeout: float = 0.0) -> None:
        """From now on call `sink` with what of the body has come and comes; None ends that.

        No task wakes up for it, which is half of the cost of a chunk. b"" is the end: `lost` says why if it came
        early, after `timeout` seconds without a byte, too.
        """
        self._sink, self._held = sink, False
        if sink is None:
            self._resume()
            return
        self._watch(timeout)
        self._pour()

    def hold(self, held: bool) -> None:
        """Whether the sink can take nothing just now: reading from the socket is paused meanwhile."""
        self._held = held
        if held and not self._paused and self.transport and not self.closed:
            self._paused = True
            self.transport.pause_reading()
        elif not held:
            self._resume()
            self._pour()

    def _pour(self) -> None:
        if self._sink is None or self._held:
            return
        if self._body:
            self._heard = True
            self._sink(self._take())
            if self._paused and not self._held:
                self._resume()
        if (self.complete or self.lost is not None) and not self._held and self._sink is not None:
            self._sink(b"")

    def _take(self) -> bytes:
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waiting = 0
        return data

    def _resume(self) -> None:
        if self._paused and self.transport and not self.closed:
            self._paused = False
            self.transport.resume_reading()

    def reusable(self) -> bool:
        """Whether another request may go over this connection."""
        return self.complete and not self.closed and self.lost is None and self._keep and not self._paused

    def abort(self) -> None:
        """Close at once: the server stops generating."""
        if self.transport is not None:
            self.transport.abort()

    async def _wait(self, timeout: float) -> None:
        self._waiter = self.loop.create_future()
        self._watch(timeout)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _watch(self, timeout: float) -> None:
        self._heard = False
        self._deadline = self.loop.time() + timeout
        if self._timer is None:  # one timer runs on over many waits: arming one for each costs as much as the rest
            self._timer = self.loop.call_at(self._deadline, self._check_time, timeout)

    def _check_time(self, timeout: float) -> None:
        self._timer = None
        if (self._waiter is None and self._sink is None) or self.closed:
            return
        if self._heard or self._held:  # something came since the last look: a look a chunk would cost more
            self._watch(timeout)
            return
        if self._deadline > self.loop.time():
            self._timer = self.loop.call_at(self._deadline, self._check_time, timeout)
            return
        self._fail(TimeoutError(f"nothing came for {timeout:g} s"))
        self._wake()
        self._pour()

    def _fail(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()
