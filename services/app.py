"""The HTTP service: routers, errors, lifespan."""

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.routing import APIRoute

from services import errors
from services.api import ask, chat, documents, health, jobs, knowledge_bases, search
from services.build import open_deepwell
from services.settings import Settings, load_settings

log = logging.getLogger(__name__)


def operation_id(route: APIRoute) -> str:
    """The name a generated client gives the call."""
    return route.name


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings. The parts are opened when it starts and closed when it stops."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_deepwell(settings) as deepwell:
            app.state.deepwell = deepwell
            yield

    app = FastAPI(
        title="Deepwell",
        version="0.1.0",
        description="Answers questions over an organisation's own documents with DeepSeek-R1.",
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
    )
    for api in (health, chat, ask, search, knowledge_bases, documents, jobs):
        app.include_router(api.router)
    errors.install(app)
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM; open streams get 5 s to end."""
    import uvicorn

    from services.telemetry import configure_logging

    configure_logging(settings.log)
    uvicorn.run(
        create_app(settings),
        host=settings.server.host,
        port=settings.server.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    run(load_settings())
