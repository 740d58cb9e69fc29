"""Tools on real model servers, with a tiny model that says one call whatever it is asked."""

import json
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest

from pipelines.budget import Budget
from pipelines.generate import Generation, generate
from pipelines.profiles import profile_for
from pipelines.tools import Tools
from pipelines.turn import Options
from pipelines.types import Message, ToolCall, ToolCallPiece, Usage
from tests import engines, tiny_r1
from tests.contract.conftest import SLOW, Servers
from tests.contract.test_engines import chat
from tests.engines import Engine, NotHere

WITH_TOOLS = profile_for("tiny-deepseek-r1").model_copy(update={"tools": "yes"})
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"rain": {"type": "boolean"}},
            "required": ["rain"],
            "additionalProperties": False,
        },
    },
}
START = {"llamacpp": engines.llamacpp, "openai": engines.llamacpp, "vllm": engines.vllm_tools}
QUESTION = Message(role="user", content="Is it raining?")


@pytest.fixture(scope="module", params=["llamacpp", "openai", pytest.param("vllm", marks=SLOW)])
def caller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A server whose model calls a tool."""
    folder = tmp_path_factory.mktemp("caller")
    tiny = tiny_r1.build(folder, tiny_r1.TOOL_TEMPLATE, says=tiny_r1.TOOL_CALL)
    try:
        with START[request.param](tiny, folder / "server.log") as engine:
            openai = request.param == "openai"
            yield replace(engine, name="openai", url=f"{engine.url}/v1") if openai else engine
    except NotHere as reason:
        pytest.skip(str(reason))


@dataclass
class Finished:
    """How a generation ended."""

    pieces: list[ToolCallPiece]
    calls: tuple[ToolCall, ...]
    reason: str
    usage: Usage
    warnings: list[str]


async def generated(engine: Engine, messages: list[Message], tools: Tools) -> Finished:
    made = Generation(
        chat=chat(engine, profile=WITH_TOOLS),
        messages=messages,
        profile=WITH_TOOLS,
        budget=Budget(hits=(), history=(), max_tokens=1200, thinking=1000),
        options=Options(tools=tools),
        language="en",
    )
    async with aclosing(generate(made)) as events:
        pieces = [event async for event in events if isinstance(event, ToolCallPiece)]
    return Finished(pieces, made.calls.whole(), made.reason, made.usage, made.warnings)


@pytest.mark.parametrize("choice", [None, "auto", "required"])
async def test_a_tool_is_called_and_its_result_taken(caller: Engine, choice: str | None) -> None:
    if caller.name == "vllm" and choice == "required":
        pytest.skip("vLLM makes a required call by a grammar of its own, within which the tiny model finds no end")
    first = await generated(caller, [QUESTION], Tools(offered=(WEATHER,), choice=choice))
    (call,) = first.calls
    assert call.name == "weather" and call.id
    assert json.loads(call.arguments) == {"rain": True}
    assert first.reason == "tool_calls"
    assert first.warnings == []
    rounds = [
        QUESTION,
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="It is.", tool_call_id=call.id, name=call.name),
    ]
    second = await generated(caller, rounds, Tools(offered=(WEATHER,), choice="none"))
    assert not second.calls and second.reason == "stop"
    without = await generated(caller, [QUESTION], Tools(offered=(WEATHER,), choice="none"))
    assert second.usage.prompt > without.usage.prompt, "the round is in the prompt"


@pytest.mark.parametrize("name", ["llamacpp", pytest.param("vllm_plain", marks=SLOW)])
async def test_a_server_without_tools_answers_and_says_so(servers: Servers, name: str) -> None:
    """llama.cpp leaves tools out in silence where the template has no place for them; vLLM refuses them."""
    try:
        engine = servers.get(name)
    except NotHere as reason:
        pytest.skip(str(reason))
    found = await generated(engine, [QUESTION], Tools(offered=(WEATHER,), choice="auto"))
    assert not found.calls and found.reason == "stop"
    assert found.warnings == ["the model server takes no tools: they were left out"]
