"""Metrics on a port of their own: for a scraper on the same machine or in a private network, without a key."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines.errors import Conflict

Text = Callable[[], Awaitable[bytes]]


class Beside(uvicorn.Server):
    """A second server in a process: signals are left to the first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals."""
        yield


@contextlib.asynccontextmanager
async def metrics_port(host: str, port: int, text: Text, media_type: str) -> AsyncIterator[None]:
    """GET /metrics answers with `text()` while this is open; nothing for port 0. Raises Conflict for a taken port."""
    if not port:
        yield
        return

    async def metrics(_: Request) -> Response:
        return Response(await text(), media_type=media_type)

    app = Starlette(routes=[Route("/metrics", metrics)])
    server = Beside(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    with listening(host, port) as own:
        serving = asyncio.create_task(server.serve([own]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def listening(host: str, port: int, what: str = "metrics", advice: str = "set another port") -> socket.socket:
    """A socket that listens there. Raises Conflict."""
    own = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((host, port))
        own.listen()
    except OSError as error:
        own.close()
        raise Conflict(f"cannot serve {what} on {host} port {port}: {error.strerror}; {advice}") from None
    return own
