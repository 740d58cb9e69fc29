"""Answers that are not streamed and may take minutes: the client's timers are kept happy with white space.

White space before JSON is legal JSON. Clients that wait for headers (undici: 300 s) or for bytes get some. What it
costs: the 200 is then committed, and a later error comes as a body with `error` under it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from connectors.bodies import dumps
from pipelines.errors import RagError
from services.disconnect import until_gone
from services.errors import body_for

#: seconds in which an answer is given with its proper status
PATIENCE = 20.0
#: seconds between two blanks
BEAT = 15.0
Body = dict[str, Any]
#: work that is being ended; the event loop itself keeps no hold on a task
_ending: set[asyncio.Future[None]] = set()


async def json_answer(
    request: Request,
    work: Awaitable[Body],
    close: Callable[[], Awaitable[None]],
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The JSON that `work` gives; `close` is called if it fails or the client leaves before. Raises what it raises."""
    task = asyncio.ensure_future(work)
    try:
        await until_gone(request, asyncio.wait({task}, timeout=PATIENCE), _nothing)
        if task.done():
            return Response(dumps(task.result()), media_type="application/json", headers=headers)
    except BaseException:
        await _end(task, close)
        raise
    return StreamingResponse(_beats(request, task, close), media_type="application/json", headers=headers)


async def _beats(
    request: Request, task: asyncio.Future[Body], close: Callable[[], Awaitable[None]]
) -> AsyncIterator[bytes]:
    try:
        while not task.done():
            yield b" "
            await asyncio.wait({task}, timeout=BEAT)
        yield dumps(task.result())
    except RagError as error:
        yield dumps(body_for(request, error, None)[1])
    finally:
        await _end(task, close)


async def _end(task: asyncio.Future[Body], close: Callable[[], Awaitable[None]]) -> None:
    """End the work. It goes through also where the server cancels whoever waits for it, again at every await."""
    ending = asyncio.ensure_future(_ended(task, close))
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)
    await asyncio.shield(ending)


async def _ended(task: asyncio.Future[Body], close: Callable[[], Awaitable[None]]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
    if task.cancelled() or task.exception() is not None:
        await close()


async def _nothing() -> None:
    return
