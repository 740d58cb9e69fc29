"""Deepwell as a server of the Model Context Protocol: tools that an assistant calls. Source: modelcontextprotocol.io.

The tools are calls of our own REST API, over HTTP inside this process or, for `deepwell mcp`, to a running Deepwell.
So every rule about keys, knowledge bases and limits is the one that holds there.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import httpx
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.auth import COUNTED

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.types import CallToolResult

log = logging.getLogger(__name__)
Json = dict[str, Any]
#: a call of the REST API for one tool call: method, path, body; the answer of the server
Call = Callable[["Context[Any, Any]", str, str, Json | None], Awaitable[httpx.Response]]
#: seconds between two signs of life while an answer is written; clients give up after 60 without one
BEAT = 10.0
INSTRUCTIONS = (
    "Deepwell answers from an organisation's own documents. Use `search` to read passages yourself, `ask` for an "
    "answer with citations (it may think for minutes), `list_knowledge_bases` to see what there is. Cite the address "
    "that stands with each passage."
)
Names = Annotated[
    list[str] | None, Field(description="Names of knowledge bases; all that the key may see if left out.")
]
#: headers of the assistant's request that decide who is asking
_PASSED_ON = ("authorization", "x-api-key", "api-key", "host", "origin")


def build_server(call: Call) -> "MCPServer[Any]":
    """The server with its tools."""
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.types import CallToolResult, ToolAnnotations

    server: MCPServer[Any] = MCPServer("deepwell", title="Deepwell", instructions=INSTRUCTIONS, log_level="WARNING")
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    async def search(
        query: Annotated[str, Field(description="What to look for, in any language.")],
        context: Context[Any, Any],
        knowledge_bases: Names = None,
        top_k: Annotated[int, Field(ge=1, le=50, description="Passages at most.")] = 6,
    ) -> CallToolResult:
        """Find the passages of the documents that fit a question best. Quick; no model writes anything."""
        body = {"query": query, "knowledge_bases": knowledge_bases, "top_k": top_k}
        return _result(await call(context, "POST", "/v1/search", body), _passages)

    async def ask(
        question: Annotated[str, Field(description="The question, in any language, complete in itself.")],
        context: Context[Any, Any],
        knowledge_bases: Names = None,
    ) -> CallToolResult:
        """Have the reasoning model answer a question from the documents, with citations. May take minutes."""
        body = {"question": question, "knowledge_bases": knowledge_bases}
        answer = asyncio.ensure_future(call(context, "POST", "/v1/ask", body))
        try:
            seconds = 0.0
            while not (await asyncio.wait({answer}, timeout=BEAT))[0]:
                seconds += BEAT
                await context.report_progress(seconds, message=f"thinking for {seconds:.0f} s")
            return _result(answer.result(), _answer)
        finally:
            answer.cancel()

    async def list_knowledge_bases(context: Context[Any, Any]) -> CallToolResult:
        """List the knowledge bases that can be searched, with what they are about and how much is in them."""
        return _result(await call(context, "GET", "/v1/knowledge_bases", None), _knowledge_bases)

    for tool in (search, ask, list_knowledge_bases):
        server.add_tool(tool, annotations=reads)
    return server


def _result(response: httpx.Response, write: Callable[[Json], str]) -> "CallToolResult":
    """A tool's result: text for the assistant, JSON for a program. What is refused is an error in words."""
    from mcp.types import CallToolResult, TextContent

    body: Json = response.json()
    if response.status_code >= 400 or "error" in body:
        said = body.get("error", {}).get("message", f"status {response.status_code}")
        return CallToolResult(content=[TextContent(type="text", text=said)], is_error=True)
    return CallToolResult(content=[TextContent(type="text", text=write(body))], structured_content=body)


def _passages(found: Json) -> str:
    parts = [
        f"[{n}] {hit['document']}{_page(hit)} (score {hit['score']})\n{hit['url']}\n\n{hit['text']}"
        for n, hit in enumerate(found["hits"], 1)
    ]
    return "\n\n---\n\n".join(parts) or "No passage fits."


def _answer(answer: Json) -> str:
    sources = [f"[{c['n']}] {c['document']}{_page(c)}: {c['url']}" for c in answer["citations"]]
    return "\n\n".join([answer["answer"], *(["\n".join(sources)] if sources else [])])


def _knowledge_bases(listed: Json) -> str:
    lines = [
        f"- {base['name']}: {base['description'] or 'no description'} ({base['documents']} documents)"
        for base in listed["knowledge_bases"]
    ]
    return "\n".join(lines) or "There is no knowledge base yet."


def _page(place: Json) -> str:
    return f", p. {place['page']}" if place["page"] else ""


def inside(app: ASGIApp) -> Call:
    """Calls of `app` in this process, as whoever sent the tool call."""

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, COUNTED: True}, receive, send)

    async def call(context: "Context[Any, Any]", method: str, path: str, body: Json | None) -> httpx.Response:
        request = context.request_context.request
        assert isinstance(request, Request)
        headers = {name: value for name in _PASSED_ON if (value := request.headers.get(name)) is not None}
        peer = request.client or ("", 0)
        transport = httpx.ASGITransport(app=counted, client=(peer[0], peer[1]))
        async with httpx.AsyncClient(transport=transport, base_url=str(request.base_url), timeout=None) as http:
            return await http.request(method, path, json=body, headers=headers)

    return call


class Mcp:
    """Streamable HTTP at one path, without sessions: any process answers any request. Starts when first asked."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._manager: StreamableHTTPSessionManager | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._starting = asyncio.Lock()

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of the protocol."""
        async with self._starting:
            if self._manager is None:
                await self._start()
        assert self._manager is not None
        await self._manager.handle_request(scope, receive, send)

    async def _start(self) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        server = await asyncio.to_thread(build_server, inside(self._app))
        manager = StreamableHTTPSessionManager(server._lowlevel_server, stateless=True)
        started = asyncio.Event()

        async def run() -> None:  # the library wants to be left by the task that entered it
            async with manager.run():
                started.set()
                await self._stop.wait()

        self._task = asyncio.create_task(run())
        await started.wait()
        self._manager = manager

    async def close(self) -> None:
        """End what is in progress."""
        self._stop.set()
        if self._task is not None:
            await asyncio.wait({self._task})


class McpResponse(Response):
    """The answer of the protocol's own library to this request."""

    def __init__(self, mcp: Mcp) -> None:
        super().__init__()
        self._mcp = mcp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on."""
        await self._mcp.handle(scope, receive, send)


async def run_stdio(url: str, key: str) -> None:
    """Serve one assistant on standard input and output, from a Deepwell that runs at `url`."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=None, trust_env=False) as http:

        async def call(_: "Context[Any, Any]", method: str, path: str, body: Json | None) -> httpx.Response:
            try:
                return await http.request(method, path, json=body)
            except httpx.TransportError as error:
                said = f"no Deepwell answers at {url} ({error or type(error).__name__}): start it with `deepwell up`"
                return httpx.Response(503, json={"error": {"message": said}})

        with contextlib.suppress(asyncio.CancelledError):
            await build_server(call).run_stdio_async()
