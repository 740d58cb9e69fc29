"""API key -> Caller, and what a route asks of the caller."""

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from pipelines.errors import Forbidden, Unauthorized
from pipelines.types import Caller, Scope
from pipelines.watch import current, step
from services.limits import KeyLimits, Limits
from services.settings import Settings
from services.store.keys import PREFIX, caller_of

#: in the scope of a request that this process makes to itself for one that was counted (services.mcp)
COUNTED = "deepwell.counted"
#: who asks without a key where the operator opened loopback: may ask and search, nothing else
LOCAL = Caller(name="loopback", scopes=frozenset[Scope]({"chat", "retrieve"}), key_id="loopback")


_KEY_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})


def key_of(request: Request) -> str:
    """The key a client sent: `Authorization: Bearer`, `x-api-key` or `api-key` (Azure style); "" for none."""
    sent: dict[bytes, str] = {}
    for name, value in request.scope["headers"]:  # `request.headers` decodes all of them for each one looked for
        if name in _KEY_HEADERS:
            sent.setdefault(name, value.decode("latin-1"))
    scheme, _, bearer = sent.get(b"authorization", "").partition(" ")
    key = bearer.strip() if scheme.lower() == "bearer" else ""
    return key or sent.get(b"x-api-key", "") or sent.get(b"api-key", "")


async def authenticate(request: Request) -> Caller:
    """Who sent this request; it is counted against the limit of the key. Raises Unauthorized, TooManyRequests."""
    with step("auth"):
        caller = await _authenticate(request)
    if (watch := current()) is not None:
        watch.caller = caller.name
    return caller


async def _authenticate(request: Request) -> Caller:
    deepwell = request.app.state.deepwell
    secret = key_of(request)
    key = await deepwell.store.keys.find(secret) if secret else None
    if key is not None:
        options = key.options
        caller, limits = caller_of(key), limits_of(deepwell.settings, key.requests_per_minute, key.concurrent_answers)
    elif not secret.startswith(PREFIX) and is_open(request, deepwell.settings):
        caller, limits, options = LOCAL, limits_of(deepwell.settings), {}
    elif secret:
        raise Unauthorized(
            f"unknown API key {secret[:6]}…: `deepwell up` printed the right one at its start, and `deepwell keys "
            "create` makes another"
        )
    else:
        raise Unauthorized(missing(request))
    if not request.scope.get(COUNTED):
        counted: Limits = request.app.state.limits
        counted.request(caller.key_id, limits)
    request.state.limits, request.state.options = limits, options
    return caller


def missing(request: Request) -> str:
    """What is wrong with a request that has no key, in words."""
    header = request.headers.get("authorization")
    if header is None:
        seen = "no Authorization header"
    elif header.lower().startswith("bearer") or not header.strip():
        seen = "an Authorization header without a key"
    else:
        seen = f"an Authorization header of the kind {header.split()[0][:20]!r}"
    return f"no API key: the request had {seen}; send `Authorization: Bearer KEY`"


def limits_of(settings: Settings, requests: int | None = None, answers: int | None = None) -> KeyLimits:
    """Limits of a key: its own, else those of the settings."""
    default = settings.keys
    return KeyLimits(
        requests_per_minute=default.requests_per_minute if requests is None else requests,
        concurrent_answers=default.concurrent_answers if answers is None else answers,
    )


def is_open(request: Request, settings: Settings) -> bool:
    """Whether this request needs no key: the operator opened loopback, and it really comes from this machine.

    A page from the web that a browser on this machine shows must not slip in: its `Origin` gives it away, and the
    `Host` it was served under does when its name was pointed at 127.0.0.1 (DNS rebinding).
    """
    if not (settings.server.open_loopback and is_loopback(settings.server.host)):
        return False
    peer = request.client.host if request.client else ""
    names = [peer, urlsplit("//" + request.headers.get("host", "")).hostname or ""]
    if origin := request.headers.get("origin"):
        names.append(urlsplit(origin).hostname or "")
    return all(is_loopback(name) for name in names)


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def needs(*scopes: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, with at least one of these scopes (admin has all). Raises Unauthorized, Forbidden."""

    async def caller_with_scope(request: Request) -> Caller:
        return permitted(await authenticate(request), *scopes)

    return caller_with_scope


def permitted(caller: Caller, *scopes: Scope) -> Caller:
    """The caller, who has at least one of these scopes (admin has all). Raises Forbidden."""
    if not caller.scopes & {*scopes, "admin"}:
        wanted, has = " or ".join(scopes), ", ".join(sorted(caller.scopes))
        raise Forbidden(f"key {caller.name!r} lacks the scope {wanted}; it has {has}")
    return caller


Chatter = Annotated[Caller, Depends(needs("chat"))]
Retriever = Annotated[Caller, Depends(needs("retrieve"))]
Ingester = Annotated[Caller, Depends(needs("ingest"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
#: for models that touch no document: embeddings, rerank
Computer = Annotated[Caller, Depends(needs("chat", "retrieve"))]


async def _answering(request: Request, caller: Chatter) -> AsyncIterator[Caller]:
    counted: Limits = request.app.state.limits
    with counted.answer(caller.key_id, request.state.limits):
        yield caller


#: a Chatter who holds one of the key's places until the whole answer is sent
Answerer = Annotated[Caller, Depends(_answering)]
