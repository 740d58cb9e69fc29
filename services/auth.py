"""API key -> Caller, and what a route asks of the caller."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from pipelines.errors import Forbidden, Unauthorized
from pipelines.types import Caller, Scope


def key_of(request: Request) -> str:
    """The key a client sent: `Authorization: Bearer`, `x-api-key` or `api-key` (Azure style). Raises Unauthorized."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else ""
    key = key or request.headers.get("x-api-key", "") or request.headers.get("api-key", "")
    if not key:
        seen = "an Authorization header without a key" if scheme else "no Authorization header"
        raise Unauthorized(f"no API key: the request had {seen}; send `Authorization: Bearer <key>`")
    return key


async def authenticate(request: Request) -> Caller:
    """Who sent this request. Raises Unauthorized."""
    key = key_of(request)
    caller: Caller | None = await request.app.state.deepwell.store.keys.caller(key)
    if caller is None:
        raise Unauthorized(f"unknown API key {key[:6]}…: `deepwell up` printed the right one at its start")
    return caller


def needs(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who must have this scope (admin has all). Raises Unauthorized, Forbidden."""

    async def caller_with_scope(request: Request) -> Caller:
        caller = await authenticate(request)
        if scope not in caller.scopes and "admin" not in caller.scopes:
            raise Forbidden(f"key {caller.name!r} lacks the scope {scope!r}; it has {', '.join(sorted(caller.scopes))}")
        return caller

    return caller_with_scope


Chatter = Annotated[Caller, Depends(needs("chat"))]
Retriever = Annotated[Caller, Depends(needs("retrieve"))]
Ingester = Annotated[Caller, Depends(needs("ingest"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
