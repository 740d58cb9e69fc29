"""RagError -> HTTP, in the shape of the protocol that the path belongs to.

Our own API and OpenAI's: {"error": {"message", "type", "param", "code"}}. Ollama: {"error": "…"}. TEI: {"error",
"error_type"}. Dify's external knowledge: {"error_code", "error_msg"}. Xinference: {"detail": "…"}.
"""

import logging
import tempfile
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from pipelines.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    RagError,
    StorageFull,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from pipelines.watch import current
from services.disconnect import ClientGone
from services.store.database import FULL

log = logging.getLogger(__name__)
#: code of Dify's external knowledge interface: the Authorization header has the wrong form
DIFY_NO_KEY = 1001
DIFY_WRONG_KEY = 1002
DIFY_NO_KNOWLEDGE = 2001


class ErrorDetail(BaseModel):
    """What went wrong, in words."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorBody(BaseModel):
    """Body of every answer with status 400 or higher."""

    error: ErrorDetail


def error_body(error: RagError, param: str | None = None) -> dict[str, Any]:
    """The JSON body of an error, in OpenAI's shape."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def body_for(request: Request, error: RagError, param: str | None) -> tuple[int, dict[str, Any]]:
    """Status and body of an error in the shape of the request's protocol."""
    path = request.url.path
    if path.startswith("/api/"):
        return error.status, {"error": str(error)}
    if path.startswith("/tei/"):
        kind = "Validation" if error.status < 500 else "Backend"
        return error.status, {"error": str(error), "error_type": kind}
    if path.startswith("/dify/"):
        return dify_body(request, error)
    if path.startswith("/v1/cluster/"):
        return error.status, {"detail": str(error)}
    body = error_body(error, param)
    if request.method == "GET" and path.startswith("/v1/models/"):
        body["detail"] = str(error)  # Xinference's client asks here too, and indexes `detail` unguarded
    return error.status, body


def dify_body(request: Request, error: RagError) -> tuple[int, dict[str, Any]]:
    """Dify's Save takes every status but 403, 404 and 502 for success: a wrong key must be a 403, and nothing else.

    Where the path itself is unknown it is a 404. Codes: docs.dify.ai, external knowledge API.
    """
    if isinstance(error, Unauthorized):
        bearer = request.headers.get("authorization", "").lower().startswith("bearer ")
        return 403, {"error_code": DIFY_WRONG_KEY if bearer else DIFY_NO_KEY, "error_msg": str(error)}
    if isinstance(error, Forbidden):
        return 403, {"error_code": DIFY_WRONG_KEY, "error_msg": str(error)}
    if isinstance(error, NotFound):
        return 404, {"error_code": DIFY_NO_KNOWLEDGE, "error_msg": str(error)}
    return error.status, {"error_code": error.status, "error_msg": str(error)}


def error_response(request: Request, error: RagError, param: str | None = None) -> JSONResponse:
    """The whole HTTP answer to an error: status, headers that clients honour, body."""
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = "2"
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    status, body = body_for(request, error, param)
    return JSONResponse(body, status_code=status, headers=headers)


def responses(*errors: type[RagError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses=` of a route: these errors and those that every route may answer."""
    documented: list[type[RagError]] = [*errors, BadRequest, Unauthorized, Forbidden, TooManyRequests, Unavailable]
    return {e.status: {"model": ErrorBody, "description": (e.__doc__ or e.__name__).strip()} for e in documented}


def foreign(example: Mapping[str, Any], *errors: type[RagError]) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route in another protocol's shape, shown by an example."""
    content = {"application/json": {"schema": {"type": "object", "example": dict(example)}}}
    return {
        status: {"description": answer["description"], "content": content}
        for status, answer in responses(*errors).items()
    }


def install(app: FastAPI) -> None:
    """Answer every error of the app in its protocol's shape; nothing else leaves the process, no traceback at all."""

    async def rag_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RagError)
        return error_response(request, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problems = [(".".join(str(part) for part in p["loc"] if part != "body"), p["msg"]) for p in error.errors()]
        message = "; ".join(f"{where}: {what}" if where else what for where, what in problems)
        return error_response(request, BadRequest(message), param=problems[0][0] or None if problems else None)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return error_response(
                request, NotFound(f"there is no {request.method} {request.url.path}; GET /docs lists every path")
            )
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:  # an upload, kept there as it comes
            where = tempfile.gettempdir()
            return error_response(request, StorageFull(f"the disk of {where} is full: free some space and try again"))
        detail = RagError(str(error.detail))
        detail.status, detail.code = error.status_code, "http_error"
        response = error_response(request, detail)
        response.headers.update(error.headers or {})
        return response

    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("bug in %s %s", request.method, request.url.path, exc_info=error)
        message = "Deepwell failed in a way it should not; the server's log has the details"
        response = error_response(request, RagError(message))
        if (watch := current()) is not None:
            response.headers["X-Request-Id"] = watch.id  # the log line above has it, too
        return response

    async def client_gone(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(RagError, rag_error)
    app.add_exception_handler(ClientGone, client_gone)
    app.add_exception_handler(ClientDisconnect, client_gone)  # left while its request was still coming
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)
