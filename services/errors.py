"""RagError -> HTTP. One wire shape for our own API and OpenAI's: {"error": {"message", "type", "param", "code"}}."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipelines.errors import BadRequest, NotFound, RagError, TooManyRequests, Unauthorized, Unavailable

log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong, in words."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorBody(BaseModel):
    """Body of every answer with status 400 or higher."""

    error: ErrorDetail


def error_body(error: RagError, param: str | None = None) -> dict[str, object]:
    """The JSON body of an error, in OpenAI's shape."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def error_response(error: RagError, param: str | None = None) -> JSONResponse:
    """The whole HTTP answer to an error: status, headers that clients honour, body."""
    headers = {}
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = "2"
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_body(error, param), status_code=error.status, headers=headers)


def responses(*errors: type[RagError]) -> dict[int | str, dict[str, object]]:
    """OpenAPI `responses=` of a route: these errors and those that every route may answer."""
    documented: list[type[RagError]] = [*errors, BadRequest, Unauthorized, Unavailable]
    return {e.status: {"model": ErrorBody, "description": (e.__doc__ or e.__name__).strip()} for e in documented}


def install(app: FastAPI) -> None:
    """Answer every error of the app in our wire shape; nothing else leaves the process, no traceback least of all."""

    async def rag_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RagError)
        return error_response(error)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problems = [(".".join(str(part) for part in p["loc"] if part != "body"), p["msg"]) for p in error.errors()]
        message = "; ".join(f"{where}: {what}" if where else what for where, what in problems)
        return error_response(BadRequest(message), param=problems[0][0] or None if problems else None)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return error_response(
                NotFound(f"there is no {request.method} {request.url.path}; GET /docs lists every path")
            )
        detail = RagError(str(error.detail))
        detail.status, detail.code = error.status_code, "http_error"
        return error_response(detail)

    async def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("bug in %s %s", request.method, request.url.path, exc_info=error)
        return error_response(RagError("Deepwell failed in a way it should not; the server's log has the details"))

    app.add_exception_handler(RagError, rag_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)
