"""An HTTP/1.1 client for streams of tokens, on asyncio's Protocol: kept-alive connections, back-pressure, cancelling.

Why an own one: per streamed chunk httpx costs about 70 µs of CPU, the openai SDK about 240; this costs a few. It does
what a model server needs and nothing else: POST and GET, Content-Length and chunked bodies, TLS, no redirects, no
compression, no proxy.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from connectors.connection import Connection
from pipelines.errors import ModelUnavailable
from pipelines.watch import current

#: largest body read as a whole
MAX_BODY = 64 * 1024 * 1024
#: longest event of a stream
MAX_EVENT = 8 * 1024 * 1024


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
            raise self._broke(error) from error

    def pour(self, sink: Callable[[bytes], None] | None) -> None:
        """Call `sink` with what comes instead of `read`; b"" is the end. See Connection.pour."""
        self._connection.pour(sink, self._timeout)

    def hold(self, held: bool) -> None:
        """Whether the sink can take nothing just now."""
        self._connection.hold(held)

    def broken(self) -> ModelUnavailable | None:
        """Why the body ended early, if it did."""
        return None if self._connection.lost is None else self._broke(self._connection.lost)

    def _broke(self, error: BaseException) -> ModelUnavailable:
        if isinstance(error, ModelUnavailable):
            return error
        return ModelUnavailable(
            f"the model server at {self._server.url} broke off in the middle of its answer ({_words(error)})"
        )

    async def finish(self) -> None:
        """Take what little may follow the last event, so that the connection can be kept."""
        if self._connection.complete:
            return
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
        head = b"%s %s HTTP/1.1\r\n%s%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
            method.encode(),
            (self.path + path).encode(),
            self._fields,
            _watched(),
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


def _watched() -> bytes:
    """Headers that let the model server's log and traces be matched with ours."""
    watch = current()
    if watch is None or not watch.id:
        return b""
    traced = f"traceparent: {watch.traceparent}\r\n" if watch.traceparent else ""
    return f"x-request-id: {_one_line(watch.id)}\r\n{traced}".encode()


def _one_line(value: str) -> str:
    return value.replace("\r", "").replace("\n", "")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
