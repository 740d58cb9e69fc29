"""The way past FastAPI for what is asked most: chat completions, and embeddings of one text a request.

The same functions as FastAPI's routes, without its router and its dependencies, which are most of the CPU time of
such a request. Everything else goes on to the application. Per token, a chat completion costs what
services/streamed.py and connectors/pump.py cost either way.
"""

import contextlib
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipelines.errors import RagError
from pipelines.types import Caller
from pipelines.types import Scope as Right
from pipelines.watch import Watch, current
from services.api.chat import create_chat_completion
from services.api.embeddings import create_embeddings
from services.auth import authenticate, permitted
from services.build import Deepwell
from services.disconnect import ClientGone
from services.errors import error_response
from services.watching import HEADER

Route = Callable[[Request, Caller, Deepwell], Awaitable[Response]]
CHAT = "/v1/chat/completions"
#: path -> what answers, and the scopes of which the key needs one
ROUTES: dict[str, tuple[Route, tuple[Right, ...]]] = {
    CHAT: (create_chat_completion, ("chat",)),
    "/v1/embeddings": (create_embeddings, ("chat", "retrieve")),
}


class TokenPath:
    """Raw ASGI: answers the requests that `takes` names."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        watch = current() or Watch()
        scope["deepwell.route"] = scope["path"]
        route, rights = ROUTES[scope["path"]]
        request = Request(scope, receive, send)
        try:
            caller = permitted(await authenticate(request), *rights)
            # an answer holds one of the key's places until it is sent whole
            limits, held = request.app.state.limits, scope["path"] == CHAT
            place = limits.answer(caller.key_id, request.state.limits) if held else contextlib.nullcontext()
            with place:
                answer = await route(request, caller, request.app.state.deepwell)
                await _marked(answer, watch)(scope, receive, send)
        except RagError as error:
            await _marked(error_response(request, error), watch)(scope, receive, send)
        except ClientGone:
            await _marked(Response(status_code=499), watch)(scope, receive, send)  # nobody reads it


def _marked(answer: Response, watch: Watch) -> Response:
    """The answer with the request's id; no wrapper around `send`, which is called for each chunk."""
    watch.status = answer.status_code
    if watch.id:
        answer.raw_headers.append((HEADER, watch.id.encode()))
    return answer


def takes(scope: Scope) -> bool:
    """Whether a request is for the token path. Pages in a browser are not: their answers need CORS headers."""
    if scope["type"] != "http" or scope["path"] not in ROUTES or scope["method"] != "POST":
        return False
    return not any(name == b"origin" for name, _ in scope["headers"])
