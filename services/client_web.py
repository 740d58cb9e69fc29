"""The page of `deepwell client --web`: served on loopback, streams its answers, never sees the token."""

import json
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipelines.errors import BadRequest, Forbidden, RagError
from pipelines.types import Event, Finish, Message, Reasoning, Text
from services.auth import is_loopback
from services.metrics_port import listening
from services.talk import Talk

PAGE = Path(__file__).parent / "client_page"
#: nothing is loaded from elsewhere, and no other page shows this one
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LARGEST = 4 << 20
FILES = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}


def serve(talk: Talk, host: str, port: int, inbrowser: bool = False) -> None:
    """Serve the page until Ctrl-C. Raises BadRequest for an address beyond loopback, Conflict for a taken port."""
    if not is_loopback(host):
        raise BadRequest(
            f"--server-name {host} would let everybody who reaches it use your token: the page is for this machine; "
            "for others run `deepwell up` and give each a key"
        )
    with listening(host, port, "the page", "--server-port 0 takes a free one") as own:
        url = f"http://{f'[{host}]' if ':' in host else host}:{own.getsockname()[1]}"
        sys.stdout.write(f"* Running on local URL:  {url}\n{talk.model} at {talk.url}; Ctrl-C ends\n")
        sys.stdout.flush()
        if inbrowser:
            webbrowser.open(url)
        server = uvicorn.Server(uvicorn.Config(create_page(talk), log_config=None, access_log=False))
        server.run([own])


def create_page(talk: Talk) -> Starlette:
    """The page's application for a model."""

    async def page(request: Request) -> Response:
        check(request)
        return FileResponse(PAGE / FILES[request.url.path], headers=HEADERS)

    async def state(request: Request) -> Response:
        check(request)
        return JSONResponse({"model": talk.model, "models": list(talk.models) or [talk.model], "url": talk.url})

    async def answer(request: Request) -> Response:
        check(request)
        body = await request.body()
        try:
            messages, model = read(body)
            asked = talk.to(model) if model else talk
        except RagError as error:
            return JSONResponse({"type": "error", "message": str(error)}, status_code=error.status)
        return StreamingResponse(lines(asked, messages), media_type="application/x-ndjson", headers=HEADERS)

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"type": "error", "message": str(error)}, status_code=403)

    routes = [
        *(Route(path, page) for path in FILES),
        Route("/state", state),
        Route("/answer", answer, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={Forbidden: refused})


def check(request: Request) -> None:
    """Only this machine's own page may ask: not another site in the browser, nor a name pointed here (DNS rebinding).

    Raises Forbidden.
    """
    host = urlsplit("//" + request.headers.get("host", "")).hostname or ""
    origin = request.headers.get("origin")
    foreign = origin is not None and origin != f"http://{request.headers.get('host')}"
    if not is_loopback(host) or foreign or (request.method == "POST" and not _is_json(request)):
        raise Forbidden("this page answers to itself on this machine only")


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0] == "application/json"


def read(body: bytes) -> tuple[list[Message], str]:
    """Conversation and model out of a request. Raises BadRequest."""
    if len(body) > LARGEST:
        raise BadRequest(f"the conversation is larger than {LARGEST >> 20} MiB: begin a new one")
    try:
        found: dict[str, Any] = json.loads(body)
        messages = [Message(role=turn["role"], content=str(turn["content"])) for turn in found["messages"]]
    except (ValueError, KeyError, TypeError):
        raise BadRequest("this is no conversation: messages with role and content are needed") from None
    if any(message.role not in ("user", "assistant") for message in messages):
        raise BadRequest("a conversation has turns of user and assistant")
    return messages, str(found.get("model") or "")


async def lines(talk: Talk, messages: list[Message]) -> AsyncIterator[str]:
    """An answer as lines of JSON; when the page goes away the model server is stopped."""
    try:
        async with aclosing(talk.answer(messages)) as events:
            async for event in events:
                if told := line(event):
                    yield json.dumps(told, ensure_ascii=False) + "\n"
    except RagError as error:
        yield json.dumps({"type": "error", "message": str(error)}, ensure_ascii=False) + "\n"


def line(event: Event) -> dict[str, Any] | None:
    """What the page is told of an event."""
    if isinstance(event, Reasoning | Text):
        return {"type": "reasoning" if isinstance(event, Reasoning) else "text", "text": event.text}
    if isinstance(event, Finish):
        used = event.usage
        tokens = {"prompt": used.prompt, "completion": used.completion, "thinking": used.reasoning}
        return {"type": "finish", "reason": event.reason, "usage": tokens, "warnings": list(event.warnings)}
    return None
