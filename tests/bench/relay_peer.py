"""Peers of the token path: what most gateways are made of. `PEER=httpx|lcel uvicorn tests.bench.relay_peer:app`"""

import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

UPSTREAM = "http://127.0.0.1:9001/v1"
app = FastAPI()
client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))


def frame(field: str, text: str) -> bytes:
    choice = {"index": 0, "delta": {field: text}, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "x", "object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


async def by_httpx(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """FastAPI, httpx, JSON for each line, thinking split."""
    thinking = False
    async with client.stream("POST", f"{UPSTREAM}/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            choices = orjson.loads(line[6:])["choices"]
            text = choices[0]["delta"].get("content") if choices else None
            if text in ("<think>", "</think>"):
                thinking = text == "<think>"
            elif text:
                yield frame("reasoning_content" if thinking else "content", text)
    yield b"data: [DONE]\n\n"


async def by_lcel(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """A LangChain service: prompt, ChatOpenAI, parser. Needs langchain-openai, which Deepwell does not."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_openai import ChatOpenAI  # type: ignore[import-not-found,unused-ignore]

    model = ChatOpenAI(base_url=UPSTREAM, api_key="x", model="deepseek-r1:7b")
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | model | StrOutputParser()
    thinking = False
    async for text in chain.astream({"question": body["messages"][-1]["content"]}):
        if text in ("<think>", "</think>"):
            thinking = text == "<think>"
        elif text:
            yield frame("reasoning_content" if thinking else "content", text)
    yield b"data: [DONE]\n\n"


@app.post("/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    """Relay one answer."""
    body = orjson.loads(await request.body())
    made = by_lcel(body) if os.environ.get("PEER") == "lcel" else by_httpx(body)
    return StreamingResponse(made, media_type="text/event-stream")
