"""A model server that keeps every request and notices when a connection is closed, down to the millisecond.

What the last message says decides: ENDLESS thinks for ever, QUEUE answers nothing at all, FLOOD sends as fast as it
may; anything else is answered with a little thinking and `It is N [citation:1].`, N being the number of the request.
"""

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

MODEL = "deepseek-r1-recorded"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def frame(finish: str | None = None, **delta: Any) -> bytes:
    """One event, chunked."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return chunk({"object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})


def chunk(event: Any) -> bytes:
    """Any event, chunked."""
    data = b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


THINKING = frame(reasoning_content="hm, let me think about that ")
FLOOD = frame(content="word " * 2000)


@dataclass
class Asked:
    """One request for an answer."""

    body: dict[str, Any]
    at: float = field(default_factory=time.monotonic)
    #: when the connection was closed, or the answer was through
    closed: float | None = None
    sent: int = 0


class RecordingUpstream:
    """The server, in a thread with its own event loop, on a free loopback port."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.url = ""
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        """End the thread; open answers with it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def open(self) -> list[Asked]:
        """Requests whose connection is still open and whose answer is not through."""
        return [asked for asked in self.asked if asked.closed is None]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1]
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if b"content-length:" in line), 0)
                body = await reader.readexactly(length)
                if path.endswith(b"/models"):
                    listing = json.dumps({"data": [{"id": MODEL, "max_model_len": 8192}]}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(listing), listing))
                    continue
                if not path.endswith(b"/chat/completions"):
                    writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                    continue
                await self._answer(Asked(json.loads(body)), reader, writer)
        writer.close()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        words = str(asked.body["messages"][-1]["content"])
        endless = next((word for word in ("ENDLESS", "QUEUE", "FLOOD") if word in words), "")
        if endless:
            sending = asyncio.ensure_future(self._endless(endless, asked, writer))
            with contextlib.suppress(ConnectionError):
                await reader.read(1)  # nothing comes any more: this returns when the other side closes
            asked.closed = time.monotonic()
            sending.cancel()
            raise ConnectionResetError
        number = len(self.asked)
        usage = {"prompt_tokens": 40, "completion_tokens": 9}
        writer.write(HEAD + frame(reasoning_content=f"secret thoughts {number}. ") + frame(content=f"It is {number} "))
        writer.write(frame(content="[citation:1].") + frame("stop") + chunk({"choices": [], "usage": usage}))
        writer.write(chunk(b"[DONE]") + b"0\r\n\r\n")
        asked.closed = time.monotonic()
        await writer.drain()

    async def _endless(self, kind: str, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if kind == "QUEUE":
            return
        writer.write(HEAD)
        piece = FLOOD if kind == "FLOOD" else THINKING
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece)
                asked.sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0 if kind == "FLOOD" else 0.25)
