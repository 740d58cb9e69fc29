"""A loopback server that answers with bytes from a script: what a vendor sends, in the pieces wanted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Seen:
    """What the server saw."""

    url: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    #: connections the client has closed before the script was through
    dropped: int = 0
    sent: int = 0

    def body(self, i: int = -1) -> Any:
        return orjson.loads(self.requests[i][2])


Script = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def sse(*events: Any, done: bool = True) -> bytes:
    """A whole streamed answer."""
    lines = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    return lines + (b"data: [DONE]\n\n" if done else b"")


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """One OpenAI chunk."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def reply(body: bytes, status: str = "200 OK", headers: str = "", step: int = 0) -> Script:
    """Answer with `body`, chunked in pieces of `step` bytes if that is given, else with its length."""

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        if not step:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body)
            await writer.drain()
            return
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n{headers}\r\n".encode())
        for i in range(0, len(body), step):
            piece = body[i : i + step]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return run


def raw(data: bytes, then_close: bool = True) -> Script:
    """Write exactly these bytes."""

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        if then_close:
            writer.close()

    return run


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Seen]:
    """Serve request i with script i (the last one from then on)."""
    seen = Seen()
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen.requests.append((first, headers, body))
                script = scripts[min(len(seen.requests), len(scripts)) - 1]
                await script(first.split()[1], writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except (ConnectionError, OSError):
            seen.dropped += 1
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        await asyncio.sleep(0)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
