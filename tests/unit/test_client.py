"""services.client on a real uvicorn: what goes out, slow clients, clients that leave, connections that are kept."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from services.client import Client, Protocol, client_of

HEADERS = [(b"content-type", b"text/event-stream")]
REQUEST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
LAST = {"type": "http.response.body", "body": b"data: end\n\n", "more_body": False}
Work = Callable[[Client, Send], Awaitable[None]]


@asynccontextmanager
async def running(app: Any, **config: Any) -> AsyncIterator[uvicorn.Server]:
    """A server with our protocol."""
    settings = {"port": 0, "http": Protocol, "lifespan": "off", "log_config": None, "access_log": False, **config}
    server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=1, **settings))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    try:
        yield server
    finally:
        server.should_exit = True
        await task


def port_of(server: uvicorn.Server) -> int:
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def serving(work: Work, **config: Any) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """A server that answers every request by `work`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        client = client_of(scope)
        assert client is not None
        await work(client, send)

    async with running(app, **config) as server:
        yield port_of(server), server


async def answer(client: Client, send: Send) -> None:
    assert client.open(HEADERS, b"data: 1\n\n") is None
    assert client.write(b"data: 2\n\n") is None
    await send(LAST)


async def ask(port: int, *requests: bytes) -> bytes:
    """Everything that comes back for requests on one connection, which is closed for writing after them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(requests))
    found = b""
    for _ in requests:
        found += await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    writer.close()
    return found


async def test_an_answer_is_what_uvicorn_would_send() -> None:
    async def plainly(client: Client, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        for n in (b"1", b"2"):
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % n, "more_body": True})
        await send(LAST)

    found = []
    for work in (answer, plainly):
        async with serving(work, date_header=False) as (port, _):
            found.append(await ask(port, REQUEST))
    assert found[0] == found[1]
    assert found[0].startswith(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream\r\n")


async def test_a_connection_is_kept_and_requests_may_come_at_once() -> None:
    async with serving(answer) as (port, server):
        found = await ask(port, REQUEST, REQUEST, REQUEST)
        assert found.count(b"data: end") == found.count(b"200 OK") == 3
        assert server.server_state.total_requests == 3


async def test_a_client_that_wants_the_connection_closed_gets_that() -> None:
    async with serving(answer) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        found = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert b"\r\nconnection: close\r\n" in found
    assert found.endswith(b"data: end\n\n\r\n0\r\n\r\n")


async def test_a_header_with_a_line_end_is_refused() -> None:
    refused = asyncio.Event()

    async def work(client: Client, send: Send) -> None:
        with pytest.raises(ValueError, match="line end"):
            client.open([(b"x", b"a\r\nb: c")], b"data")
        refused.set()
        await answer(client, send)

    async with serving(work) as (port, _):
        assert b"a\r\nb" not in await ask(port, REQUEST)
    assert refused.is_set()


async def test_who_writes_is_told_when_the_client_leaves() -> None:
    left = asyncio.Event()

    async def work(client: Client, send: Send) -> None:
        client.on_leaving(left.set)
        client.open(HEADERS, b"data: 1\n\n")
        await left.wait()
        assert client.write(b"nobody reads it") is None
        late = asyncio.Event()
        client.on_leaving(late.set)
        assert late.is_set()

    async with serving(work) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await reader.readuntil(b"data: 1")
        assert not left.is_set()
        writer.close()
        await asyncio.wait_for(left.wait(), 10)


async def test_nobody_is_told_once_the_answer_is_complete() -> None:
    left, done = asyncio.Event(), asyncio.Event()

    async def work(client: Client, send: Send) -> None:
        client.on_leaving(left.set)
        await answer(client, send)
        done.set()

    async with serving(work) as (port, server):
        await ask(port, REQUEST)
        await done.wait()
        while server.server_state.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not left.is_set()


async def test_a_slow_client_is_waited_for() -> None:
    block, written, waited = b"x" * 65536, 0, asyncio.Event()

    async def work(client: Client, send: Send) -> None:
        nonlocal written
        client.open(HEADERS, block)
        for _ in range(400):
            if (waits := client.write(block)) is not None:
                waited.set()
                await waits
            written += len(block)
        await send(LAST)

    async with serving(work) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
        writer.write(REQUEST.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        await asyncio.wait_for(waited.wait(), 30)
        assert written < 400 * len(block)
        found = 0
        while data := await asyncio.wait_for(reader.read(1 << 20), 30):
            found += data.count(b"x")
        writer.close()
    assert found >= 401 * len(block)


async def test_with_an_access_log_requests_go_uvicorns_way() -> None:
    seen: list[Client | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(client_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send(LAST)

    async with running(app) as server:
        logger = logging.getLogger("uvicorn.access")
        logger.addHandler(handler := logging.NullHandler())
        try:
            assert (await ask(port_of(server), REQUEST)).endswith(b"data: end\n\n\r\n0\r\n\r\n")
        finally:
            logger.removeHandler(handler)
    assert seen == [None]
