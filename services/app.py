"""The HTTP service: routers, errors, lifespan."""

import asyncio
import contextlib
import functools
import gc
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.errors import Conflict, RagError
from services import errors
from services.api import (
    ask,
    chat,
    citations,
    completions,
    dify,
    documents,
    embeddings,
    health,
    jobs,
    keys,
    knowledge_bases,
    mcp,
    metrics,
    ollama,
    pages,
    push,
    rerank,
    responses,
    search,
    sources,
    tei,
    xinference,
)
from services.build import open_deepwell
from services.limits import Limits
from services.mcp import Mcp
from services.metrics import Metrics
from services.metrics_port import metrics_port
from services.paths import Aliases, segments_of
from services.process import process
from services.recent import Recent
from services.settings import Settings
from services.stored_responses import StoredResponses
from services.token_path import TokenPath, takes
from services.tracing import Tracing
from services.watching import Watching, marked

log = logging.getLogger(__name__)
#: what is exposed to the network, written out
ROUTERS = (
    health,
    chat,
    completions,
    responses,
    embeddings,
    rerank,
    ollama,
    dify,
    tei,
    xinference,
    ask,
    search,
    citations,
    knowledge_bases,
    documents,
    pages,
    jobs,
    sources,
    push,
    keys,
    mcp,
    metrics,
)
#: pages served by this machine, and pages inside desktop applications
LOOPBACK_ORIGINS = (
    r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?|(app|file|tauri|capacitor|vscode-webview|vscode-file)://.*"
)


def operation_id(route: APIRoute) -> str:
    """The name a generated client gives the call."""
    return route.name


class Service(FastAPI):
    """FastAPI, with the token path in front of it, and a record of each request around both."""

    token_path: ASGIApp | None = None
    watching: Watching

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        scope["app"] = self
        await self.watching(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that is watched. Where FastAPI itself collects traces, it sees all of them."""
        if self.token_path is not None and takes(scope):
            await self.token_path(scope, receive, send)
        else:
            await super().__call__(scope, receive, marked(send))

    def build_middleware_stack(self) -> ASGIApp:
        """The application as one callable, built at the first request; bugs in the token path are reported alike."""
        telemetry = getattr(self, "_native_telemetry", None)
        if telemetry is None or not telemetry.enabled():
            self.token_path = ServerErrorMiddleware(TokenPath(), handler=self.exception_handlers.get(Exception))
        return super().build_middleware_stack()


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. The parts are opened when it starts and closed when it stops.

    Raises BadRequest for traces that cannot be sent.
    """
    counted = Metrics()
    tracing = Tracing("deepwell", settings.tracing) if settings.tracing.endpoint else None

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                deepwell = await stack.enter_async_context(open_deepwell(settings))
            except RagError as error:
                app.state.refused = error
                raise
            app.state.deepwell = deepwell
            app.state.mcp = Mcp(app)
            gc.collect()
            gc.freeze()  # what is there now stays: looking through it again and again costs every request
            gc.set_threshold(20_000, 20, 20)
            wanted, text = settings.metrics, functools.partial(metrics.text, deepwell, counted)
            async with metrics_port(wanted.host, wanted.port, text, counted.content_type):
                try:
                    yield
                finally:
                    await app.state.mcp.close()
                    if tracing is not None:
                        await asyncio.to_thread(tracing.close)

    app = Service(
        title="Deepwell",
        version="0.1.0",
        description="Answers questions over an organisation's own documents with DeepSeek-R1.",
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
    )
    app.state.metrics = counted
    app.watching = Watching(app.serve, counted, tracing, settings.log.questions)
    app.state.limits = Limits()
    #: why it could not start, for `run`
    app.state.refused = None
    app.state.recent = Recent()
    app.state.responses = StoredResponses(settings.server.stored_responses)
    for api in ROUTERS:
        app.include_router(api.router)
    errors.install(app)
    paths = [getattr(route, "path", "") for api in ROUTERS for route in api.router.routes]
    app.add_middleware(Aliases, first_segments=segments_of(paths))
    allow_origins(app, settings.server.cors_origins)
    return app


def allow_origins(app: FastAPI, wanted: str) -> None:
    """Let web pages of these origins call the service; a preflight needs no key (browsers send none with it)."""
    origins = [] if wanted == "loopback" else [origin.strip().rstrip("/") for origin in wanted.split(",")]
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_origin_regex=LOOPBACK_ORIGINS if wanted == "loopback" else None,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "WWW-Authenticate", "X-Ignored-Params", "X-Request-Id"],
        allow_private_network=True,
    )


def run(settings: Settings) -> None:
    """Serve until SIGTERM; open streams get 5 s to end. Raises what it cannot start for: Unavailable, BadRequest …"""
    import uvicorn

    from services.client import Protocol
    from services.telemetry import configure_logging

    configure_logging(settings.log)
    app = create_app(settings)
    # what is refused at the start is said in one line, by the caller; not as the traceback that uvicorn would log
    logging.getLogger("uvicorn.error").addFilter(lambda _: app.state.refused is None)
    config = uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        http=Protocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt, SystemExit):  # the latter is what uvicorn ends a failed start with
        server.run()
    if app.state.refused is not None:
        raise app.state.refused
    if not server.started:
        raise Conflict(f"the service did not start on {settings.server.host} port {settings.server.port}: see its log")


if __name__ == "__main__":
    process(run)
