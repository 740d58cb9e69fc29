"""What the relay bench measures: the token path alone behind a key, as a raw ASGI app on uvicorn.

`python -m tests.bench.relay_app PORT`
"""

import hmac
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import uvicorn

from connectors.frames import Frames
from connectors.pump import pump
from connectors.stream import Relay
from connectors.upstream import Upstream
from connectors.wire import read_openai
from services.client import Protocol, client_of

KEY = b"Bearer test"
UPSTREAM_PORT = 9001
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

servers: list[Upstream] = []


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """POST anything: check the key, ask the upstream, relay."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    if not hmac.compare_digest(dict(scope["headers"]).get(b"authorization", b""), KEY):
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        return
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    request = orjson.loads(body + message["body"])
    request["model"] = "deepseek-r1:7b"
    if not servers:
        servers.append(Upstream(f"http://127.0.0.1:{UPSTREAM_PORT}/v1"))
    async with await servers[0].request("POST", "/chat/completions", orjson.dumps(request)) as answer:
        root = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "deepseek-r1"}
        frames = Frames(root)
        relay = Relay(frames, read_openai)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        client = client_of(scope)
        assert client is not None
        client.open(headers, frames.opening)
        await pump(answer, relay, client.write)
        await answer.finish()
        end = {"index": 0, "delta": {}, "finish_reason": relay.reason or "stop"}
        last = b"data: " + orjson.dumps({**root, "choices": [end]}) + b"\n\ndata: [DONE]\n\n"
        await send({"type": "http.response.body", "body": last})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), http=Protocol, access_log=False, log_config=None)
