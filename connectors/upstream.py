"""An HTTP/1.1 client for streams of tokens, on asyncio's Protocol: kept-alive connections, back-pressure, cancelling.

Why an own one: per streamed chunk httpx costs about 70 µs of CPU, the openai SDK about 240; this costs a few. It does
what a model server needs and nothing else: POST and GET, Content-Length and chunked bodies, TLS, no redirects, no
compression, no proxy.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import httptools
import orjson

from pipelines.errors import ModelUnavailable

#: bytes of a body that wait for their reader before reading from the socket is paused
HIGH_WATER = 256 * 1024
#: largest body read as a whole
MAX_BODY = 64 * 1024 * 1024
#: longest event of a stream
MAX_EVENT = 8 * 1024 * 1024


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
        return (
            self.complete
            and not self.closed
            and not self._body
            and self.lost is None
            and self._keep
            and not self._paused
        )

    def abort(self) -> None:
        """Close at once: the server stops generating."""
        if self.transport is not None:
            self.transport.abort()

    async def _wait(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout, self._time_out, timeout)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _time_out(self, timeout: float) -> None:
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


@dataclass(slots=True)
class Answer:
    """A response whose body is still coming. Leaving the `async with` before the end closes the connection."""

    status: int
    headers: Mapping[str, str]
    _connection: Connection
    _server: "Upstream"
    _timeout: float

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back, or close it if the body has not ended."""
        self._server.give_back(self._connection)

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises ModelUnavailable when the server fails or is silent."""
        try:
            return await self._connection.read(self._timeout)
        except (OSError, TimeoutError) as error:
            raise ModelUnavailable(
                f"the model server at {self._server.url} broke off in the middle of its answer ({_words(error)})"
            ) from error

    async def finish(self) -> None:
        """Take what little may follow the last event, so that the connection can be kept."""
        try:
            async with asyncio.timeout(0.05):
                while await self.read():
                    pass
        except (TimeoutError, ModelUnavailable):
            return

    async def body(self) -> bytes:
        """The whole body."""
        parts = bytearray()
        while data := await self.read():
            parts += data
            if len(parts) > MAX_BODY:
                raise ModelUnavailable(f"the model server at {self._server.url} sent more than {MAX_BODY >> 20} MiB")
        return bytes(parts)

    async def json(self) -> Any:
        """The body as JSON. Raises ModelUnavailable if it is none."""
        body = await self.body()
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            raise ModelUnavailable(
                f"the server at {self._server.url} sent no JSON: {body[:120].decode('utf-8', 'replace')!r}. "
                "Is this the address of a model server?"
            ) from None

    async def events(self) -> AsyncIterator[bytes]:
        """Data of server-sent events (WHATWG HTML, 9.2), comments and other fields left out, `[DONE]` included."""
        buffer = b""
        while data := await self.read():
            buffer += data
            if b"\r" in buffer:
                buffer = buffer.replace(b"\r\n", b"\n")
            *blocks, buffer = buffer.split(b"\n\n")
            for block in blocks:
                if event := event_data(block):
                    yield event
            self._bound(buffer)
        if event := event_data(buffer):
            yield event

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines that are not empty, for newline-delimited JSON."""
        buffer = b""
        while data := await self.read():
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line
            self._bound(buffer)
        if buffer.strip():
            yield buffer

    def _bound(self, buffer: bytes) -> None:
        if len(buffer) > MAX_EVENT:
            raise ModelUnavailable(f"the model server at {self._server.url} sent an event without an end")


def event_data(block: bytes) -> bytes:
    """The data of one event's lines, joined; b"" if it has none."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


class Upstream:
    """One model server: its address, its headers and its kept-alive connections."""

    def __init__(
        self, url: str, *, api_key: str = "", headers: Mapping[str, str] | None = None, timeout: float = 300.0
    ) -> None:
        """`timeout` is seconds without a byte; for the forms of `api_key` see `authorization`."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ModelUnavailable(f"{url!r} is no http or https address of a model server")
        self.url = url
        self.path = parts.path.rstrip("/")
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._timeout = timeout
        self._idle: list[Connection] = []
        fields = {"host": parts.netloc.rpartition("@")[2], "accept": "*/*", "user-agent": "deepwell", **(headers or {})}
        if api_key:
            fields["authorization"] = authorization(api_key.strip())
        self._fields = "".join(f"{name}: {_one_line(value)}\r\n" for name, value in fields.items()).encode()

    async def request(self, method: str, path: str, body: bytes = b"", *, timeout: float | None = None) -> Answer:
        """Send a request, wait for the status. `path` is added to the address's own. Raises ModelUnavailable.

        Sent again only if a kept-alive connection turns out to be closed before a byte of the answer came.
        """
        head = b"%s %s HTTP/1.1\r\n%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
            method.encode(),
            (self.path + path).encode(),
            self._fields,
            len(body),
        )
        seconds = timeout or self._timeout
        while True:
            connection, fresh = await self._connect(seconds)
            try:
                connection.send(head, body)
                await connection.head(seconds)
            except (OSError, TimeoutError, ModelUnavailable) as error:
                connection.abort()
                if not fresh and not connection.received and not isinstance(error, TimeoutError):
                    continue
                raise ModelUnavailable(f"the model server at {self.url} does not answer ({_words(error)})") from error
            except BaseException:
                connection.abort()
                raise
            return Answer(connection.status, connection.headers, connection, self, seconds)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer has ended; close any other."""
        if connection.reusable() and len(self._idle) < 64:
            self._idle.append(connection)
        else:
            connection.abort()

    def close(self) -> None:
        """Close kept-alive connections."""
        while self._idle:
            self._idle.pop().abort()

    async def _connect(self, seconds: float) -> tuple[Connection, bool]:
        loop = asyncio.get_running_loop()
        while self._idle:
            connection = self._idle.pop()
            if connection.closed or connection.loop.is_closed():
                continue
            if connection.loop is loop:
                return connection, False
            connection.loop.call_soon_threadsafe(connection.abort)
        context = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout(min(10.0, seconds)):
                _, made = await loop.create_connection(Connection, self._host, self._port, ssl=context)
        except (OSError, TimeoutError) as error:
            raise ModelUnavailable(
                f"no model server answers at {self.url} ({_words(error)}). Start it, or correct DEEPWELL_CHAT__URL"
            ) from error
        return made, True


def authorization(key: str) -> str:
    """The header's value: `bare:TOKEN` bare, "Scheme token" as it is, anything else as Bearer."""
    if key.startswith("bare:"):
        return key.removeprefix("bare:")
    return key if " " in key else f"Bearer {key}"


def _one_line(value: str) -> str:
    return value.replace("\r", "").replace("\n", "")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
