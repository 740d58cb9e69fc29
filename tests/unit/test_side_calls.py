"""Clients' own requests wait while answers are written, in their turn, for a bounded time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.models import openai, vllm
from pipelines.profiles import profile_for
from pipelines.types import Event, Finish, Message, Text
from services.answering import answer_events, client_events
from services.settings import load_settings
from services.side_calls import LATER, SideCalls
from tests.unit.scripted_server import delta, reply, scripted, sse
from tests.unit.small_rag import ASKER, small_rag

TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n### Chat History:\n"
    "<chat_history>\nUSER: How is leave recorded?\nASSISTANT: By HR.\n</chat_history>"
)


async def said(order: list[str], name: str, until: asyncio.Event | None = None) -> AsyncGenerator[Event]:
    order.append(f"{name} begins")
    if until is not None:
        await until.wait()
    yield Text(name)
    order.append(f"{name} ends")


async def drain(events: AsyncGenerator[Event]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


async def test_a_side_call_waits_for_every_answer_and_side_calls_go_one_by_one() -> None:
    line, order, done, side_done = SideCalls(60), list[str](), asyncio.Event(), asyncio.Event()
    answers = [asyncio.create_task(drain(line.answering(said(order, f"answer {n}", done)))) for n in (1, 2)]
    await asyncio.sleep(0)
    sides = [asyncio.create_task(drain(line.waiting(said(order, f"side {n}", side_done)))) for n in (1, 2)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert order == ["answer 1 begins", "answer 2 begins"]
    done.set()
    await asyncio.gather(*answers)
    while "side 1 begins" not in order:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert "side 2 begins" not in order, "one at a time"
    side_done.set()
    await asyncio.gather(*sides)
    assert order[-4:] == ["side 1 begins", "side 1 ends", "side 2 begins", "side 2 ends"]


async def test_it_waits_for_a_bounded_time() -> None:
    line, order, never = SideCalls(0.05), list[str](), asyncio.Event()
    answer = asyncio.create_task(drain(line.answering(said(order, "answer", never))))
    await asyncio.sleep(0)
    await drain(line.waiting(said(order, "side")))
    assert order == ["answer begins", "side begins", "side ends"]
    answer.cancel()
    await asyncio.wait({answer})
    await asyncio.wait_for(drain(line.waiting(said(order, "later"))), 10)


async def test_who_leaves_the_line_takes_nobody_with_it() -> None:
    line, order, done = SideCalls(60), list[str](), asyncio.Event()
    answer = asyncio.create_task(drain(line.answering(said(order, "answer", done))))
    await asyncio.sleep(0)
    gone, stays = (asyncio.create_task(drain(line.waiting(said(order, name)))) for name in ("gone", "stays"))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait({gone})
    done.set()
    await asyncio.gather(answer, stays)
    assert order == ["answer begins", "answer ends", "stays begins", "stays ends"]


async def deepwell(url: str, connector: Any = openai, **chat: Any) -> Any:
    """The parts that answering works with, over a scripted model server that is main and utility model in one."""
    profile = profile_for("", "plain")
    model = connector.chat(url, "m", profile=profile, timeout=5)
    settings = load_settings({f"chat.{name}": value for name, value in chat.items()}, {})
    base = await small_rag(None)  # type: ignore[arg-type]

    async def rag() -> Any:
        from dataclasses import replace

        return replace(base, chat=model)

    served = SimpleNamespace(model=model, id="m", profile=profile)
    wait = 0.0 if settings.chat.priority else settings.chat.side_wait
    return SimpleNamespace(settings=settings, chat=served, utility=served, rag=rag, side_calls=SideCalls(wait))


ANSWER = sse(delta(content="A title"), delta("stop"), {"choices": [], "usage": {"prompt_tokens": 1}})


async def test_a_title_reaches_the_server_after_the_answer_that_runs() -> None:
    release = asyncio.Event()
    order: list[str] = []

    async def run(path: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/chat/completions"):
            order.append("asked")
            if len(order) == 1:
                await release.wait()
        await reply(ANSWER if path.endswith("/chat/completions") else b'{"data":[]}')(path, writer)

    async with scripted(run) as seen:
        parts = await deepwell(seen.url)
        question = [Message(role="user", content="How many days of leave?")]
        answering = asyncio.create_task(drain(await answer_events(parts, ASKER, question, [])))  # type: ignore[arg-type]
        while not order:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        titles = await client_events(parts, ASKER, [Message(role="user", content=TITLE)], [])
        title = asyncio.create_task(drain(titles))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert order == ["asked"], "the title waits"
        release.set()
        await asyncio.gather(answering, title)
        assert order == ["asked", "asked"]


@pytest.mark.parametrize(("priority", "sent"), [(True, LATER), (False, None)])
async def test_vllm_is_told_the_priority_where_it_knows_priorities(priority: bool, sent: int | None) -> None:
    async with scripted(reply(b'{"data":[]}'), reply(ANSWER)) as seen:
        parts = await deepwell(seen.url, vllm, priority=priority, server="vllm", model="m")
        events = await client_events(parts, ASKER, [Message(role="user", content=TITLE)], [])
        found = [event async for event in events]
        assert isinstance(found[-1], Finish)
        assert seen.body().get("priority") == sent
        chat = await answer_events(parts, ASKER, [Message(role="user", content="How many days?")], [])
        await drain(chat)  # type: ignore[arg-type]
        assert "priority" not in seen.body()
