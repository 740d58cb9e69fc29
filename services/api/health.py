"""Is it alive, can it answer."""

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Response

from pipelines.errors import RagError
from services.api.deps import Parts
from services.api.schemas import Health, Readiness
from services.build import Deepwell
from services.processes import read_states

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers; nothing is said about its parts."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "A part is not ready; `parts` names it."}})
async def readyz(response: Response, deepwell: Parts) -> Readiness:
    """Every part that a question needs, and the worker; 503 names the failing one."""
    parts = await states(deepwell)
    ready = all(state == "ok" for state in parts.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, model=deepwell.chat.id, parts=parts)


async def states(deepwell: Deepwell) -> dict[str, str]:
    """ "ok" or what is wrong, by part."""
    checks = {
        "state": deepwell.store.ping(),
        "vector index": deepwell.index.ping(),
        "full-text index": deepwell.lexical.ping(),
        "model server": deepwell.ping_chat(),
    }
    parts = dict(zip(checks, await asyncio.gather(*(_state(check) for check in checks.values())), strict=True))
    return parts | {name: state for name, state in read_states(deepwell.settings.data_dir).items() if name == "worker"}


async def _state(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(3):
            await check
    except TimeoutError:
        return "no answer within 3 s"
    except RagError as error:
        return str(error)
    return "ok"
