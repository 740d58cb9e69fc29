"""The paths that clients make out of the base URL their user typed, led back to the one path that is served.

Clients join base URLs in many ways: with and without /v1, with /v1 twice, with a slash too many, with another
vendor's prefix. One rewrite before the router serves them all; no route is registered twice.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

#: OpenAI's prefix, given once or more, and GPUStack's name for it
_V1 = re.compile(r"^(?:/v1-openai|/v1)+(?=/|$)")
#: version prefixes that only Cohere's clients put before rerank
_RERANK = frozenset({"/v2/rerank", "/api/v1/rerank"})
_DIFY = frozenset({"/retrieval", "/v1/retrieval", "/dify/v1/retrieval"})


class Aliases:
    """Raw ASGI: rewrites `path` and calls the app."""

    def __init__(self, app: ASGIApp, first_segments: Iterable[str]) -> None:
        self.app = app
        self.first_segments = frozenset(first_segments)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request under its one path."""
        if scope["type"] == "http":
            path = canonical(scope["path"], self.first_segments)
            if path != scope["path"]:
                scope["path"], scope["raw_path"] = path, path.encode()
        await self.app(scope, receive, send)


def canonical(path: str, first_segments: frozenset[str]) -> str:
    """The path that is served. `first_segments` are the names that stand right behind /v1/ in our routes.

    `//` is `/`; a slash at the end is dropped; /v1/v1/x is /v1/x; /x is /v1/x where that is a route; /v1/api/x is
    /api/x (Ollama's API under a base URL with /v1).
    """
    while "//" in path:
        path = path.replace("//", "/")
    path = path.rstrip("/") or "/"
    if path in _RERANK:
        return "/v1/rerank"
    path = _V1.sub("/v1", path)
    if path in _DIFY:
        return "/dify/retrieval"
    if path.startswith(("/v1/api/", "/v1/tei/")):
        return path[3:]
    if path == "/v1":
        return "/"
    return "/v1" + path if path.split("/", 2)[1] in first_segments else path


def segments_of(paths: Iterable[str]) -> frozenset[str]:
    """The names right behind /v1/ in these route paths."""
    return frozenset(path.split("/")[2] for path in paths if path.startswith("/v1/"))
