"""A model server that speaks OpenAI's protocol and thinks in a fixed way, so that what clients get can be compared.

It answers what the last message asks for: REFUSE a 503, BREAK a connection cut in the middle of the answer, SLOW a
pause of two seconds before the first token, LONG one of 45; TOOL calls the first tool offered, and a tool's result is
repeated; otherwise three pieces of thinking and an answer that
cites passage 1.
"""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "deepseek-r1-twin"
THINKING = ("Let me look. ", "The passage ", "says so.")
ANSWER = ("Twenty-five ", "days ", "[citation:1].")


def frame(delta: dict[str, Any], finish: str | None = None, **root: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice], **root}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def frames(asked: str) -> AsyncIterator[bytes]:
    if "SLOW" in asked:
        await asyncio.sleep(2)
    if "LONG" in asked:
        await asyncio.sleep(45)
    for piece in THINKING:
        yield frame({"reasoning_content": piece})
    for piece in ANSWER:
        yield frame({"content": piece})
        if "BREAK" in asked:
            await asyncio.sleep(0.2)
            raise ConnectionResetError("as asked")
    usage = {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}
    yield frame({}, "stop")
    yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"


async def calling(name: str) -> AsyncIterator[bytes]:
    yield frame({"reasoning_content": THINKING[0]})
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    yield frame({"tool_calls": [head]})
    for piece in ('{"city": ', '"Kyoto"}'):
        yield frame({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield frame({}, "tool_calls", usage={"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49})
    yield b"data: [DONE]\n\n"


async def repeating(result: str) -> AsyncIterator[bytes]:
    yield frame({"content": f"The tool says {result}."})
    yield frame({}, "stop", usage={"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49})
    yield b"data: [DONE]\n\n"


async def completions(request: Request) -> Response:
    request.app.state.headers.append(dict(request.headers))
    body = await request.json()
    request.app.state.bodies.append(body)
    asked = json.dumps(body["messages"][-1], ensure_ascii=False)
    if body["messages"][-1]["role"] == "tool":
        return StreamingResponse(repeating(body["messages"][-1]["content"]), media_type="text/event-stream")
    if body.get("tools") and "TOOL" in asked:
        return StreamingResponse(calling(body["tools"][0]["function"]["name"]), media_type="text/event-stream")
    if "REFUSE" in asked:
        return JSONResponse({"error": {"message": "overloaded"}}, status_code=503)
    return StreamingResponse(frames(asked), media_type="text/event-stream")


async def models(request: Request) -> Response:
    if request.headers.get("authorization") == "Bearer wrong":
        return JSONResponse({"error": {"message": "invalid token"}}, status_code=401)
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 8192}]})


class Upstream:
    """The server in a thread, on a free loopback port."""

    def __init__(self) -> None:
        routes = [Route("/v1/chat/completions", completions, methods=["POST"]), Route("/v1/models", models)]
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = Starlette(routes=routes)
        #: of every request for an answer
        self.headers: list[dict[str, str]] = []
        app.state.headers = self.headers
        self.bodies: list[dict[str, Any]] = []
        app.state.bodies = self.bodies
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
