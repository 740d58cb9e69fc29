"""What LangChain users pay a chunk: `astream` of our chat model against ChatOpenAI's, over one scripted server.

The floor is `astream` of a chat model that has its chunks ready: what LangChain itself takes. Ours is below it where
nobody listens (no callbacks, no tracing), since then LangChain's work per chunk is left out.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from connectors.models.openai import chat
from pipelines.profiles import profile_for
from tests.unit.scripted_server import delta, reply, scripted, sse

CHUNKS, ROUNDS, TIMES = 400, 7, 10.0
ANSWER = sse(*[delta(content=f"tok{i} ") for i in range(CHUNKS)], delta("stop"))


class Ready(BaseChatModel):
    """A chat model with its chunks ready."""

    @property
    def _llm_type(self) -> str:
        return "ready"

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(self, *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for i in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"tok{i} "))


async def cost(stream: Callable[[], AsyncIterator[Any]]) -> float:
    """CPU of a chunk in µs, the least of the rounds; the scripted server's share is in it."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        count = [chunk async for chunk in stream()]
        assert len(count) >= CHUNKS
        best = min(best, time.process_time() - began)
    return best / CHUNKS * 1e6


async def figures() -> dict[str, float]:
    """CPU of a chunk by what streams it."""
    async with scripted(reply(ANSWER, step=220)) as seen:
        ours = chat(seen.url, "m", profile=profile_for("", "plain"))
        upstream = ours.served.upstream  # type: ignore[attr-defined]

        async def bytes_only() -> AsyncIterator[bytes]:
            async with await upstream.request("POST", "/chat/completions", b"{}") as answer:
                async for event in answer.events():
                    yield event

        found = {"server and HTTP alone": await cost(bytes_only)}
        found["LangChain alone"] = await cost(lambda: Ready().astream("Hi"))
        found["ours"] = await cost(lambda: ours.astream("Hi"))
        if find_spec("langchain_openai"):
            from langchain_openai import ChatOpenAI  # type: ignore[import-not-found,unused-ignore]

            theirs = ChatOpenAI(base_url=f"{seen.url}/v1", api_key="x", model="m")
            found["ChatOpenAI"] = await cost(lambda: theirs.astream("Hi"))
    return found


def run() -> dict[str, object]:
    """Prints the table; fails if ChatOpenAI costs less than TIMES as much, though the server's share is in both."""
    found = asyncio.run(figures())
    for name, figure in found.items():
        print(f"{name:28} {figure:8.1f} us CPU a chunk")
    if "ChatOpenAI" not in found:
        return dict(found)
    times = found["ChatOpenAI"] / found["ours"]
    print(f"{'ChatOpenAI, x ours':28} {times:8.1f}   target >= {TIMES:g}{'' if times >= TIMES else '   MISSED'}")
    assert times >= TIMES, f"ChatOpenAI costs {times:.1f} times as much, {TIMES:g} wanted"
    return {**found, "times": round(times, 1)}


if __name__ == "__main__":
    run()
