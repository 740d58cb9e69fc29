"""Long answers that are not streamed: white space keeps the client waiting, and it is still JSON at the end."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from pipelines.errors import ModelUnavailable
from services import errors, waiting

Work = Callable[[], Awaitable[dict[str, Any]]]


def app_with(work: Work, closed: list[bool]) -> FastAPI:
    app = FastAPI()
    errors.install(app)

    async def close() -> None:
        closed.append(True)

    @app.post("/v1/x")
    async def answer(request: Request) -> Response:
        return await waiting.json_answer(request, work(), close)

    return app


async def call(app: FastAPI, leave_after: float = 60.0) -> tuple[int, list[tuple[float, bytes]]]:
    """Status and every block of the body with its time, as ASGI sends them."""
    began, blocks, status = time.monotonic(), [], 0
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"{}", "more_body": False}
        await asyncio.sleep(leave_after)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message.get("body"):
            blocks.append((time.monotonic() - began, message["body"]))

    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": [], "query_string": b"", "app": app}
    scope |= {"http_version": "1.1", "scheme": "http", "server": ("x", 1), "root_path": "", "asgi": {"version": "3.0"}}
    await app(scope, receive, send)
    return status, blocks


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)
    monkeypatch.setattr(waiting, "BEAT", 0.1)


def after(seconds: float, result: dict[str, Any] | Exception) -> Work:
    async def work() -> dict[str, Any]:
        await asyncio.sleep(seconds)
        if isinstance(result, Exception):
            raise result
        return result

    return work


async def test_a_quick_answer_has_no_white_space() -> None:
    status, blocks = await call(app_with(after(0, {"a": 1}), []))
    assert (status, [body for _, body in blocks]) == (200, [b'{"a":1}'])


async def test_a_long_answer_is_white_space_and_then_json() -> None:
    status, blocks = await call(app_with(after(0.55, {"a": 1}), []))
    assert status == 200 and [body for _, body in blocks][:3] == [b" ", b" ", b" "]
    assert json.loads(b"".join(body for _, body in blocks)) == {"a": 1}
    assert blocks[0][0] < 0.3 < blocks[-1][0], "the white space comes while the work goes on"


async def test_an_early_error_has_its_status_and_a_late_one_its_shape() -> None:
    closed: list[bool] = []
    status, blocks = await call(app_with(after(0, ModelUnavailable("no model")), closed))
    assert status == 503 and json.loads(blocks[0][1])["error"]["message"] == "no model"
    status, blocks = await call(app_with(after(0.3, ModelUnavailable("no model")), closed))
    assert status == 200 and blocks[0][1] == b" "
    assert json.loads(b"".join(body for _, body in blocks))["error"]["code"] == "model_unavailable"
    assert closed == [True, True]


async def test_who_leaves_ends_the_work() -> None:
    ended: list[str] = []

    async def work() -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return {}

    for leave_after in (0.02, 0.3):
        closed: list[bool] = []
        await call(app_with(work, closed), leave_after=leave_after)
        await asyncio.sleep(0.1)
        assert closed == [True]
    assert ended == ["cancelled", "cancelled"]
