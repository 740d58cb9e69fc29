"""One contract for every model server that can be run here, on a tiny model of R1's architecture that thinks.

llama.cpp runs in the default suite; vLLM on the CPU (with its parser for R1, and without) in the slow one. The `openai`
connector passes the same contract in front of llama.cpp. Faults no real server makes on demand: test_engine_faults.py.
"""

import asyncio
import importlib
import re
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from connectors.chat_model import ServedChat
from pipelines.budget import Budget
from pipelines.delta import Delta
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.generate import Generation, generate
from pipelines.profiles import Profile, profile_for
from pipelines.turn import Options
from pipelines.types import Message, Reasoning, Text
from tests import engines, tiny_r1
from tests.engines import MODEL, WINDOW, Engine

R1 = profile_for(MODEL)
QUESTION: list[BaseMessage] = [HumanMessage("How many times does the letter r occur?")]


def chat(engine: Engine, model: str = MODEL, profile: Profile = R1, **fields: Any) -> ServedChat:
    connector = importlib.import_module(f"connectors.models.{engine.name}")
    made = connector.chat(engine.url, model, **{"api_key": engine.api_key, "profile": profile, "timeout": 60, **fields})
    assert isinstance(made, ServedChat)
    return made


async def whole(chat: ServedChat, messages: list[BaseMessage] = QUESTION, **arguments: Any) -> list[Delta]:
    return [delta async for delta in chat.stream_deltas(messages, **{"max_tokens": 400, **arguments})]


def thinking(deltas: list[Delta]) -> str:
    return "".join(delta.reasoning for delta in deltas).strip()


def content(deltas: list[Delta]) -> str:
    return "".join(delta.content for delta in deltas)


def endless(engine: Engine) -> dict[str, Any]:
    """Call arguments with which the model never closes its thinking."""
    return {"extra": {"logit_bias": {str(engine.tiny.close_id): -100}}}


async def tokens(engine: Engine, text: str) -> int:
    """Tokens of a text, counted by the server's own tokenizer."""
    path = "/tokenize"
    base = engine.url.removesuffix("/v1")
    key = {"Authorization": f"Bearer {engine.api_key or None}"}
    body = {"content": text, "prompt": text, "model": MODEL, "add_special_tokens": False}
    async with httpx.AsyncClient(trust_env=False, headers=key) as client:
        return len((await client.post(base + path, json=body)).json()["tokens"])


# --- what comes -----------------------------------------------------------------------------------------------------


async def test_names_and_window(engine: Engine) -> None:
    served = chat(engine)
    assert await served.names() == [MODEL]
    assert await served.window() == (WINDOW)


async def test_thinking_and_answer_come_apart_in_the_stream(engine: Engine) -> None:
    deltas = await whole(chat(engine))
    assert thinking(deltas) == engine.tiny.thoughts
    assert content(deltas) == tiny_r1.ANSWER
    assert deltas[-1].finish_reason == "stop" and deltas[-1].last
    assert len([delta for delta in deltas if delta.reasoning]) > 100, "streamed, not sent at the end"
    (usage,) = (delta.usage for delta in deltas if delta.usage)
    assert usage["completion_tokens"] == tiny_r1.THINKING_TOKENS + 20
    assert 10 <= usage["prompt_tokens"] <= 40


async def test_langchain_sees_the_same(engine: Engine) -> None:
    message = await chat(engine).ainvoke(QUESTION, max_tokens=400)
    assert message.content == tiny_r1.ANSWER
    assert message.additional_kwargs["reasoning_content"].strip() == engine.tiny.thoughts
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata and message.usage_metadata["output_tokens"] == tiny_r1.THINKING_TOKENS + 20


async def test_a_stop_word_ends_the_answer_and_is_not_looked_for_in_the_thinking(engine: Engine) -> None:
    deltas = await whole(chat(engine), stop=[" letter", " Licensor"])
    assert " Licensor" in engine.tiny.thoughts == thinking(deltas)
    assert content(deltas) == "Three times the"
    assert deltas[-1].finish_reason == "stop"


async def test_max_tokens_ends_the_thinking(engine: Engine) -> None:
    deltas = await whole(chat(engine), max_tokens=12)
    assert (content(deltas), deltas[-1].finish_reason) == ("", "length")
    assert engine.tiny.thoughts.startswith(thinking(deltas)) and thinking(deltas)


async def test_an_old_turn_costs_its_answer_and_nothing_of_its_thinking(engine: Engine) -> None:
    """The server's own count of prompt tokens shows what it was sent."""

    async def prompt_tokens(answered: AIMessage) -> int:
        conversation = [SystemMessage("Be brief."), HumanMessage("One?"), answered, HumanMessage("Two?")]
        (usage,) = (d.usage for d in await whole(chat(engine), conversation, max_tokens=1) if d.usage)
        return int(usage["prompt_tokens"])

    plain = await prompt_tokens(AIMessage("One."))
    thoughts = "many words " * 20
    assert await prompt_tokens(AIMessage(f"<think>\n{thoughts}\n</think>\n\nOne.")) == plain
    assert await prompt_tokens(AIMessage(f"{thoughts}</think>One.")) == plain
    assert await prompt_tokens(AIMessage("One.", additional_kwargs={"reasoning_content": thoughts})) == plain


# --- thinking: limited, skipped, ended ------------------------------------------------------------------------------


async def generated(engine: Engine, *, max_tokens: int, budget: int, profile: Profile = R1, **options: Any) -> Any:
    """What pipelines.generate makes of a question: (thinking, answer, generation)."""
    generation = Generation(
        chat=chat(engine, profile=profile),
        messages=[Message(role="user", content="How many?")],
        profile=profile,
        budget=Budget(hits=(), history=(), max_tokens=max_tokens, thinking=budget),
        options=Options(**options),
        language="en",
    )
    pieces = [piece async for piece in generate(generation)]
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    return thought.strip(), "".join(piece.text for piece in pieces if isinstance(piece, Text)), generation


@pytest.mark.parametrize("budget", [20, 100])
async def test_a_thinking_budget_is_kept_within_ten_per_cent_and_answered(engine: Engine, budget: int) -> None:
    thought, answer, generation = await generated(engine, max_tokens=400, budget=budget)
    measured = await tokens(engine, thought)
    print(f"{engine.name} {engine.version}: budget {budget}, measured {measured}")
    assert budget * 0.8 <= measured <= max(budget * 1.1, budget + 3)
    assert answer == tiny_r1.ANSWER
    assert measured - 3 <= generation.usage.reasoning <= measured + 3
    assert "thinking was ended after about" in generation.warnings[0]


async def test_a_budget_that_the_server_does_not_know_is_kept_by_us(engine: Engine) -> None:
    rule = R1.engine(engine.name).model_copy(update={"budget": ""})
    profile = R1.model_copy(update={"engines": {engine.name: rule}})
    thought, answer, generation = await generated(engine, max_tokens=400, budget=60, profile=profile)
    assert 54 <= await tokens(engine, thought) <= 66
    assert answer == tiny_r1.ANSWER
    assert "thinking was ended after about" in generation.warnings[0]


async def test_an_answer_survives_a_limit_met_while_thinking(engine: Engine) -> None:
    """max_tokens below what the model thinks: the engine cuts, the thinking is closed, the answer follows."""
    thought, answer, generation = await generated(engine, max_tokens=48, budget=1000)
    assert engine.tiny.thoughts.startswith(thought) and len(thought) > 40
    assert answer and tiny_r1.ANSWER.startswith(answer)
    assert generation.usage.completion <= 48 + 64 + 3


async def test_thinking_is_skipped_when_asked(engine: Engine) -> None:
    thought, answer, generation = await generated(engine, max_tokens=400, budget=300, thinking=False)
    assert (thought, answer) == ("", tiny_r1.ANSWER)
    assert generation.usage.completion <= 24
    assert not generation.warnings


# --- leaving and refusing -------------------------------------------------------------------------------------------


async def busy(engine: Engine) -> bool:
    base, key = engine.url.removesuffix("/v1"), {"Authorization": f"Bearer {engine.api_key or None}"}
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=key) as client:
        if engine.name in {"llamacpp", "openai"}:
            return any(slot["is_processing"] for slot in (await client.get("/slots")).json())
        metrics = (await client.get("/metrics")).text
    return float(re.findall(r"^vllm:num_requests_running\{.*?\} (\S+)$", metrics, re.MULTILINE)[0]) > 0


async def test_leaving_stops_the_model(engine: Engine) -> None:
    served = chat(engine)
    async with aclosing(served.stream_deltas(QUESTION, max_tokens=7000, **endless(engine))) as stream:
        seen = 0
        async for delta in stream:
            seen += bool(delta.reasoning)
            if seen == 3:
                break
        assert await busy(engine), "the model was to go on thinking"
    left = time.monotonic()
    most = 30.0  # vLLM's gauge follows its engine with a delay
    while await busy(engine):
        assert time.monotonic() - left < most
        await asyncio.sleep(0.02)


async def test_a_wrong_name_is_refused_with_the_names_there_are(engine: Engine) -> None:
    if engine.name in {"llamacpp", "openai"}:
        assert content(await whole(chat(engine, "other"))) == tiny_r1.ANSWER, "llama.cpp serves one model to every name"
        return
    with pytest.raises(ModelUnavailable, match=f"'other'.*It has: {MODEL}.*DEEPWELL_CHAT__MODEL"):
        await whole(chat(engine, "other"))


async def test_a_wrong_token_is_refused(engine: Engine) -> None:
    if not engine.api_key:
        pytest.skip("this server was started without a key")
    with pytest.raises(ModelUnavailable, match=r"refused the key .*DEEPWELL_CHAT__API_KEY"):
        await whole(chat(engine, api_key="wrong"))


async def test_a_prompt_beyond_the_window_is_refused_not_cut(engine: Engine) -> None:
    with pytest.raises(BadRequest, match=str(WINDOW)):
        await whole(chat(engine), [HumanMessage("word " * 5 * WINDOW)])


async def test_nobody_listens(engine: Engine, free_port: int) -> None:
    with pytest.raises(ModelUnavailable, match="no model server answers"):
        await whole(chat(replace(engine, url=f"http://127.0.0.1:{free_port}")))


# --- tokens ---------------------------------------------------------------------------------------------------------


async def test_text_survives_the_tokenizer(engine: Engine) -> None:
    served = chat(engine)
    if served.engine.tokenize is None or served.engine.detokenize is None:
        pytest.skip(f"{engine.name} has no tokenizer over HTTP")
    for text in ("a b\nc 日本語", "知识库  里有什么？\t🙂", "don't   stop\n\n"):
        ids = await served.engine.tokenize(served.served.upstream, MODEL, text)
        assert await served.engine.detokenize(served.served.upstream, MODEL, ids) == text
        assert ids == tiny_r1.make_tokenizer().encode(text, add_special_tokens=False).ids


async def test_the_template_is_the_one_we_write(engine: Engine) -> None:
    from connectors.r1_template import render

    served = chat(engine)
    if served.engine.prompt is None:
        pytest.skip(f"{engine.name} does not show its prompt")
    conversation = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "thoughts</think>1"},
        {"role": "user", "content": "Two?"},
    ]
    prompt = await served.engine.prompt(served.served.upstream, MODEL, conversation)
    assert prompt.removeprefix(tiny_r1.BOS) == render(conversation)


# --- llama.cpp that does not know the template ----------------------------------------------------------------------


async def test_thinking_stays_apart_where_llama_cpp_does_not_know_the_template(tmp_path: Path) -> None:
    """llama.cpp finds R1's templates by a phrase in them; a template that says it otherwise is "content only"."""
    other = tiny_r1.TEMPLATE.replace("content.split('</think>')[-1]", "(content.split('</think>') | last)")
    assert other != tiny_r1.TEMPLATE
    tiny = tiny_r1.build(tmp_path, template=other)
    with engines.llamacpp(tiny, tmp_path / "log") as engine:
        served = chat(engine)
        deltas = await whole(served)
        assert (thinking(deltas), content(deltas)) == (tiny.thoughts, tiny_r1.ANSWER)
        thought, answer, _ = await generated(engine, max_tokens=400, budget=50)
        assert (await tokens(engine, thought)) <= 55 and answer == tiny_r1.ANSWER
