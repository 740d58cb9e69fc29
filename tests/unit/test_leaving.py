"""A client that leaves ends the work at once: in the search, in the line before the model, and while it thinks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from connectors.apps.openai import Completion, parse_chat
from connectors.index.memory import MemoryVectorIndex
from connectors.models.openai import chat
from pipelines.answer import answer
from pipelines.rag import Rag, Vectors
from pipelines.types import Event, Scored
from services.side_calls import SideCalls
from services.streamed import StreamedCompletion
from tests.unit.scripted_server import Script, Seen, delta, scripted
from tests.unit.small_rag import ASKER, small_rag
from tests.unit.streaming import R1, Client
from tests.unit.test_streamed import WINDOW

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "How many days of leave?"}]}
#: seconds in which the work has to be gone; far more than it takes, for a machine that is busy
SOON = 10


class EndlessIndex(MemoryVectorIndex):
    """A vector index that never answers, and says when it is no longer asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def search(
        self, knowledge_base_ids: Sequence[str], vector: Vectors, limit: int, only: Collection[str] | None = None
    ) -> list[Scored]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.let_go.set()
        raise AssertionError("nothing was to come")


async def leave(
    rag: Rag,
    bases: Sequence[str],
    when: Callable[[], bool],
    line: Callable[[AsyncGenerator[Event]], AsyncGenerator[Event]] = lambda events: events,
) -> Client:
    """Ask a streamed question, leave once `when` holds, and wait until the answer's work is gone."""
    wanted, client = parse_chat(orjson.dumps(BODY)), Client()
    streamed = StreamedCompletion(Completion(wanted, {}), {})
    options = replace(wanted.how, relay=streamed.relay)
    streamed.events = line(answer(rag, ASKER, wanted.messages, bases, profile=R1, options=options))
    streamed.delivered = lambda event: (event,)
    work = asyncio.create_task(streamed({"type": "http"}, client.receive, client.send))
    async with asyncio.timeout(SOON):
        while not when():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        client.gone.set()
        await work
    return client


def thinking(started: asyncio.Event, closed: asyncio.Event) -> Script:
    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            await WINDOW(path, writer)
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                piece = b"data: " + orjson.dumps(delta(reasoning_content="hm ")) + b"\n\n"
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                started.set()
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    return run


def asked(seen: Seen) -> list[Any]:
    return [first for first, _, _ in seen.requests if "completions" in first]


async def test_in_the_search_nothing_is_asked_of_the_model() -> None:
    async with scripted(WINDOW) as seen:
        index = EndlessIndex()
        base = await small_rag(None, "Leave is 25 days.")  # type: ignore[arg-type]
        rag = replace(base, chat=chat(seen.url, "deepseek-r1:7b", profile=R1, timeout=5), index=index)
        client = await leave(rag, ["kb"], index.asked.is_set)
        assert index.let_go.is_set()
        assert not asked(seen)
    assert not client.frames[1:], "at most the opening"


async def test_in_the_line_nothing_is_asked_of_the_model_and_the_line_goes_on() -> None:
    line = SideCalls(60)
    running = asyncio.Event()

    async def someone() -> AsyncGenerator[Event]:
        await running.wait()
        return
        yield

    async def drain(events: AsyncGenerator[Event]) -> None:
        async for _ in events:
            pass

    other = asyncio.create_task(drain(line.answering(someone())))
    async with scripted(WINDOW) as seen:
        base = await small_rag(None)  # type: ignore[arg-type]
        rag = replace(base, chat=chat(seen.url, "deepseek-r1:7b", profile=R1, timeout=5))
        waits = asyncio.get_running_loop().time() + 0.1
        await leave(rag, [], lambda: asyncio.get_running_loop().time() > waits, line.waiting)
        assert not seen.requests
    running.set()
    await other
    async with asyncio.timeout(SOON):
        await drain(line.waiting(someone()))


@pytest.mark.parametrize("bases", [[], ["kb"]], ids=["chat", "rag"])
async def test_while_it_thinks_the_model_server_is_let_go(bases: list[str]) -> None:
    started, closed = asyncio.Event(), asyncio.Event()
    async with scripted(thinking(started, closed)) as seen:
        base = await small_rag(None, "Leave is 25 days.")  # type: ignore[arg-type]
        rag = replace(base, chat=chat(seen.url, "deepseek-r1:7b", profile=R1, timeout=5))
        await leave(rag, bases, started.is_set)
        async with asyncio.timeout(SOON):
            await closed.wait()
        assert len(asked(seen)) == 1
