"""Every HTTP request has an id and a record: what it spent its time on becomes metrics, a trace and a log line.

The id is the client's `X-Request-Id`, or made here. It goes to the model server, into the log and back to the client.
"""

import logging
import os
import re
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines import watch as watching
from pipelines.watch import Watch
from services.metrics import Metrics
from services.tracing import Tracing, of_question, parent_of

log = logging.getLogger(__name__)
#: ids that clients may choose; they go into headers and logs as they are
REQUEST_ID = re.compile(r"^[\w.:/+=@-]{1,128}$", re.ASCII)
HEADER = b"x-request-id"


class Watching:
    """Raw ASGI, outermost: notes each HTTP request from its first byte to its last."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None, questions: bool) -> None:
        """`questions`: write their text into the log, too."""
        self.app, self.metrics, self.tracing, self._questions = app, metrics, tracing, questions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watch = watch_of(scope)
        token = watching.begin(watch)
        span = self.tracing.begin(watch, f"{scope['method']} {scope['path'][:200]}") if self.tracing else None
        self.metrics.running.inc()
        try:
            await self.app(scope, receive, send)
        except Exception:
            watch.status = 500
            raise
        finally:
            self.metrics.running.dec()
            route = route_of(scope)
            self.metrics.note_request(watch, route)
            if span is not None and self.tracing is not None:
                span.update_name(f"{scope['method']} {route}")
                self.tracing.end(span, watch, {"http.route": route} | of_question(watch))
            self._log(watch, route)
            watching.end(token)

    def _log(self, watch: Watch, route: str) -> None:
        level = logging.INFO if watch.outcome else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        seconds = time.perf_counter() - watch.began
        fields = {"route": route, "status": watch.status, "seconds": round(seconds, 4), "caller": watch.caller}
        if not watch.outcome:
            log.debug("%s %d in %.3f s", route, watch.status, seconds, extra={"fields": fields})
            return
        used = watch.usage
        fields |= {"user": watch.user} if watch.user else {}
        fields |= {"model": watch.model, "outcome": watch.outcome, "error": watch.error}
        fields |= {"first_token": watch.first_token} if used else {}
        fields |= {"prompt": used.prompt, "thinking": used.reasoning, "completion": used.completion} if used else {}
        fields |= {"question": watch.question} if self._questions else {}
        text = f" {watch.question!r}" if self._questions else ""
        what = f"{watch.outcome} {watch.error}".strip()
        log.info("question to %s: %s in %.3f s%s", watch.model, what, seconds, text, extra={"fields": fields})


def watch_of(scope: Scope) -> Watch:
    """A record with the client's request id and trace, or an id of its own."""
    chosen = parent = user = ""
    for name, value in scope["headers"]:
        if name == HEADER:
            chosen = value.decode("latin-1")
        elif name == b"traceparent":
            parent = parent_of(value.decode("latin-1"))
        elif name == b"x-openwebui-user-id":
            user = value.decode("latin-1")
    request_id = chosen if chosen and REQUEST_ID.match(chosen) else "req-" + os.urandom(8).hex()
    return Watch(request_id, parent, user=user if REQUEST_ID.match(user) else "")


def route_of(scope: Mapping[str, object]) -> str:
    """The route's path as it is written in the code, so that there are only so many; "other" for unknown paths."""
    route = scope.get("route")
    return str(getattr(route, "path", "") or scope.get("deepwell.route") or "other")


def marked(send: Send) -> Send:
    """`send` that gives the request's id back to the client, and keeps the status."""
    if (watch := watching.current()) is None:
        return send
    header = (HEADER, watch.id.encode())

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            watch.status = message["status"]
            message["headers"] = [*message.get("headers", ()), header]
        await send(message)

    return sending
