"""One HTTP/1.1 connection on asyncio's Protocol, parsed by httptools: the lower half of connectors/upstream.py."""

import asyncio

import httptools

from pipelines.errors import ModelUnavailable

#: bytes of a body that wait for their reader before reading from the socket is paused
HIGH_WATER = 256 * 1024


class Connection(asyncio.Protocol):
    """One connection: at most one request at a time. Fed by the event loop, read by one task."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.lost: Exception | None = None
        self.closed = False
        self.used = False
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._start()

    def _start(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._keep = False
        self.received = 0
        self._body: list[bytes] = []
        self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ModelUnavailable(f"what came is not HTTP ({error})"))
        self._wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self.complete and self.status and "content-length" not in self.headers and not self._chunked():
            self.complete = True  # a body without a length ends with its connection
        elif not self.complete and self.lost is None:
            self.lost = error or ConnectionResetError("the connection was closed")
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._waiting += len(body)
        if self._waiting > HIGH_WATER and not self._paused and self.transport and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete = self.status >= 200
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
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._waiting = 0
        if self._paused and self.transport and not self.closed:
            self._paused = False
            self.transport.resume_reading()
        return data

    def reusable(self) -> bool:
        """Whether another request may go over this connection."""
        return self.complete and not self.closed and self.lost is None and self._keep and not self._paused

    def abort(self) -> None:
        """Close at once: the server stops generating."""
        if self.transport is not None:
            self.transport.abort()

    async def _wait(self, timeout: float) -> None:
        self._waiter = self.loop.create_future()
        self._deadline = self.loop.time() + timeout
        if self._timer is None:  # one timer runs on over many waits: arming one for each costs as much as the rest
            self._timer = self.loop.call_at(self._deadline, self._check_time, timeout)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _check_time(self, timeout: float) -> None:
        self._timer = None
        if self._waiter is None or self.closed:
            return
        if self._deadline > self.loop.time():
            self._timer = self.loop.call_at(self._deadline, self._check_time, timeout)
            return
        self._fail(TimeoutError(f"nothing came for {timeout:g} s"))
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
        self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()
