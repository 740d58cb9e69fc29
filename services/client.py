"""The client's end of a request, as the token path writes to it: one write a chunk, and a word when the client leaves.

ASGI wants a message and a coroutine for each chunk, and a task that waits for the client to leave. Both cost more than
the bytes. So uvicorn's protocol hands out its own connection beside ASGI's `send`; whatever begins and ends a request,
parses it, limits it or closes it stays uvicorn's. Behind another server, or with an access log, requests have no
`Client`, and `send` and `receive` are used.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: which of ASGI's extensions it is
_NAME = "deepwell.client"


class Client:
    """Who waits for one answer. Chunks go out at once; what is returned is to be awaited before the next one."""

    __slots__ = ("_cycle", "_flow", "_leaves", "_transport", "_waits")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle: RequestResponseCycle | None = cycle
        self._flow, self._transport = cycle.flow, cycle.transport
        self._waits = True  # for the rest of the answer
        self._leaves: Callable[[], object] | None = None

    def open(self, headers: Sequence[tuple[bytes, bytes]], chunk: bytes) -> Awaitable[None] | None:
        """Send status 200, the headers and a first chunk. Raises ValueError for a header with a line end in it."""
        cycle = self._cycle
        if cycle is None:
            return None
        lines = [b"HTTP/1.1 200 OK"]
        for name, value in (*cycle.default_headers, *headers):
            if b"\r" in value or b"\n" in value:
                raise ValueError(f"the header {name.decode('latin-1')} has a line end in it")
            lines.append(b"%b: %b" % (name, value))
        if not cycle.keep_alive:
            lines.append(b"connection: close")
        lines.append(b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(chunk), chunk))
        cycle.response_started, cycle.chunked_encoding, cycle.waiting_for_100_continue = True, True, False
        self._transport.write(b"\r\n".join(lines))
        return self._flow.drain() if self._flow.write_paused else None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a further chunk, which must not be empty. None unless the client is slow."""
        if not self._waits:
            return None
        self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return self._flow.drain() if self._flow.write_paused else None

    def on_leaving(self, call: Callable[[], object] | None) -> None:
        """Call this when the client leaves before it has the whole answer, at once if it has; None ends that."""
        self._leaves = call
        if call is not None and not self._waits:
            call()

    def answered(self) -> None:
        """The answer is complete. Lets go of everything: a request and its Client hold each other."""
        self._cycle, self._waits, self._leaves = None, False, None

    def left(self) -> None:
        """The connection is gone."""
        if self._cycle is not None:
            self._cycle.disconnected = True
        leaves = self._leaves
        self.answered()
        if leaves is not None:
            leaves()


def client_of(scope: Scope) -> Client | None:
    """The Client of a request, if its server has one."""
    found: Client | None = (scope.get("extensions") or {}).get(_NAME)
    return found


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, which gives each request its Client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._served: Client | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = None if self.access_log else Client(cycle)
        if self._served is not None:
            scope: Any = cycle.scope
            scope["extensions"] = {_NAME: self._served}
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Let go of the request."""
        if self._served is not None:
            self._served.answered()
            self._served = None
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever writes that nobody reads any more."""
        super().connection_lost(exc)
        if self._served is not None:
            self._served.left()
            self._served = None
