"""The way of a chat completion past FastAPI: the same function, without its router and its dependencies.

Everything else goes on to the application. What this saves is most of the CPU time of a request; per token, a chat
completion costs what services/streamed.py and connectors/pump.py cost either way.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import RagError
from services.api.chat import create_chat_completion
from services.auth import authenticate, permitted
from services.disconnect import ClientGone
from services.errors import error_response

PATH = "/v1/chat/completions"


class TokenPath:
    """Raw ASGI: answers POST /v1/chat/completions, calls the app for the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            caller = permitted(await authenticate(request), "chat")
            with request.app.state.limits.answer(caller.key_id, request.state.limits):
                answer = await create_chat_completion(request, caller, request.app.state.deepwell)
                await answer(scope, receive, send)
        except RagError as error:
            await error_response(request, error)(scope, receive, send)
        except ClientGone:
            await Response(status_code=499)(scope, receive, send)  # nobody reads it
