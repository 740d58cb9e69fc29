"""Progress as server-sent events (HTML standard, section 9.2): what changed, when it changed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pipelines.errors import RagError
from services.errors import error_body

#: seconds between two looks: another process does the work, so there is nothing to wait on
LOOK = 0.3
#: seconds of silence after which a comment is sent, so that proxies do not cut the connection
QUIET = 12.0
#: for the OpenAPI document
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events `progress`, `end`, `error`."}
}

Look = Callable[[], Awaitable[tuple[dict[str, Any], bool]]]


async def follow(look: Look) -> AsyncIterator[bytes]:
    """Events until `look` says that this is the end: (what there is to say, whether it is the last word)."""
    said, spoke = None, time.monotonic()
    while True:
        try:
            now, last = await look()
        except RagError as error:
            yield _event("error", error_body(error))
            return
        if last:
            yield _event("end", now)
            return
        if now != said:
            said, spoke = now, time.monotonic()
            yield _event("progress", now)
        elif time.monotonic() - spoke > QUIET:
            spoke = time.monotonic()
            yield b": still there\n\n"
        await asyncio.sleep(LOOK)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
