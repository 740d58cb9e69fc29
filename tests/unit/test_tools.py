"""Tools of clients: offered upstream, called, answered in the next request; in every protocol's shape."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from connectors.apps import ollama, openai_responses
from connectors.apps.openai import Completion, parse_chat
from connectors.models import ollama as ollama_connector
from connectors.models.openai import chat
from connectors.tools import linked, tools_of, turn
from pipelines.answer import answer
from pipelines.chain import chain
from pipelines.errors import BadRequest
from pipelines.events import Lookahead
from pipelines.profiles import Profile, profile_for
from pipelines.tools import CALL_ROUNDS, SAME_CALLS, ToolCalls, circling
from pipelines.types import Event, Finish, Message, ToolCall, ToolCallPiece
from tests.unit.scripted_server import Seen, delta, reply, scripted, sse
from tests.unit.small_rag import ASKER, small_rag
from tests.unit.streaming import Client, ask
from tests.unit.test_streamed import USAGE, WINDOW, server

PLAIN, V31, V4, R1 = (profile_for("", name) for name in ("plain", "v3.1", "v4", "r1-distill"))
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Now.", "parameters": {"type": "object", "properties": {}}},
}
QUESTION = {"role": "user", "content": "Is it raining in Kyoto?"}
CALLED = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kyoto"}'}}
CALL = sse(
    delta(reasoning_content="I must look."),
    delta(
        tool_calls=[{"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    ),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Kyoto"}'}}]),
    delta(tool_calls=[{"index": 1, "id": "call_b", "function": {"name": "clock", "arguments": "{}"}}]),
    delta("tool_calls"),
    USAGE,
)
ANSWER = sse(delta(content="Yes, it is raining."), delta("stop"), USAGE)


def asked(seen: Seen) -> dict[str, Any]:
    """The last request for an answer."""
    return next(orjson.loads(body) for first, _, body in reversed(seen.requests) if "/chat/completions" in first)


async def request(body: dict[str, Any], upstream: bytes, profile: Profile = PLAIN, **how: Any) -> tuple[Client, Any]:
    async with scripted(server(upstream)) as seen:
        client = await ask(seen.url, {"messages": [QUESTION], **body}, profile=profile, **how)
    return client, asked(seen)


def deltas(client: Client, name: str) -> list[Any]:
    found = [
        frame["choices"][0]["delta"] for frame in client.frames if isinstance(frame, dict) and frame.get("choices")
    ]
    return [each[name] for each in found if name in each]


async def test_tools_go_upstream_and_calls_come_back_in_the_wire_profile() -> None:
    body = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    client, sent = await request(body, CALL)
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == ([WEATHER], "required", False)
    pieces = [call for calls in deltas(client, "tool_calls") for call in calls]
    assert pieces[0] == {
        "index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}
    }  # fmt: skip
    assert "".join(each["function"]["arguments"] for each in pieces[:3]) == '{"city": "Kyoto"}'
    assert pieces[1].keys() == {"index", "function"}
    assert pieces[3] == {
        "index": 1,
        "id": "call_b",
        "type": "function",
        "function": {"name": "clock", "arguments": "{}"},
    }
    assert client.last["choices"][0]["finish_reason"] == "tool_calls"
    assert client.text("reasoning_content") == "I must look."
    assert client.text("content") == "", "no apology for an answer without words"


async def test_without_tools_the_choice_of_one_is_not_sent() -> None:
    _, sent = await request({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, ANSWER)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & sent.keys()


async def test_an_unstreamed_answer_has_its_calls_whole() -> None:
    async with scripted(server(CALL)) as seen:
        wanted = parse_chat(json.dumps({"model": "m", "messages": [QUESTION], "tools": [WEATHER]}).encode())
        body = await Completion(wanted, {}).body(await events(seen.url, wanted.messages, wanted.how))
    message = body["choices"][0]["message"]
    assert message["tool_calls"][0] == CALLED
    assert message["content"] == ""
    assert message["reasoning_content"] == "I must look."
    assert body["choices"][0]["finish_reason"] == "tool_calls"


async def events(url: str, messages: Any, how: Any, profile: Profile = PLAIN) -> Any:
    rag = replace(await small_rag(None), chat=chat(url, "m", profile=profile, timeout=5))  # type: ignore[arg-type]
    return answer(rag, ASKER, messages, (), profile=profile, options=how)


ROUND = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "<think>a greeting</think>Hello", "reasoning_content": "a greeting"},
    QUESTION,
    {"role": "assistant", "content": None, "reasoning_content": "I must look.", "tool_calls": [CALLED]},
    {"role": "tool", "tool_call_id": "call_a", "content": "rain"},
]


@pytest.mark.parametrize(("profile", "kept"), [(PLAIN, False), (V4, True)], ids=["plain", "v4"])
async def test_a_round_is_sent_upstream_as_it_was(profile: Profile, kept: bool) -> None:
    client, sent = await request({"messages": ROUND, "tools": [WEATHER]}, ANSWER, profile)
    messages = sent["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "tool"]
    assert messages[1] == {"role": "assistant", "content": "Hello"}
    assert messages[3]["tool_calls"] == [CALLED]
    assert messages[3].get("reasoning_content") == ("I must look." if kept else None)
    assert messages[4]["tool_call_id"] == "call_a"
    assert messages[4]["content"] == "rain"
    assert client.text("content") == "Yes, it is raining."


async def test_a_later_question_still_has_the_round_before_it() -> None:
    more = [*ROUND, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And tomorrow?"}]
    _, sent = await request({"messages": more, "tools": [WEATHER]}, ANSWER, V4)
    assert [m["role"] for m in sent["messages"]][3:] == ["assistant", "tool", "assistant", "user"]
    assert sent["messages"][3]["reasoning_content"] == "I must look."


async def test_a_model_without_tools_gets_results_as_text_and_the_question_last() -> None:
    _, sent = await request({"messages": ROUND, "tools": [WEATHER]}, ANSWER, R1)
    assert "tools" not in sent
    assert [(m["role"], m["content"]) for m in sent["messages"]] == [
        ("user", "Hi"), ("assistant", "Hello"), ("user", "rain"), ("user", QUESTION["content"])
    ]  # fmt: skip


@pytest.mark.parametrize(("body", "thinks"), [({}, False), ({"enable_thinking": True}, True)])
async def test_v31_calls_tools_only_without_thinking(body: dict[str, Any], thinks: bool) -> None:
    _, sent = await request({"tools": [WEATHER], **body}, ANSWER, V31)
    assert sent["chat_template_kwargs"] == {"thinking": thinks}


async def test_functions_as_before_tools() -> None:
    function = WEATHER["function"]
    history = [
        QUESTION,
        {"role": "assistant", "content": None, "function_call": CALLED["function"]},
        {"role": "function", "name": "weather", "content": "rain"},
    ]
    body = {"messages": history, "functions": [function], "function_call": {"name": "weather"}}
    client, sent = await request(body, CALL)
    assert sent["tools"] == [WEATHER]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    made = sent["messages"][1]["tool_calls"][0]
    assert made["function"] == CALLED["function"]
    assert sent["messages"][2]["tool_call_id"] == made["id"]
    calls = deltas(client, "function_call")
    assert calls[0]["name"] == "weather"
    assert "".join(each["arguments"] for each in calls) == '{"city": "Kyoto"}', "one call, as that form has it"
    assert client.last["choices"][0]["finish_reason"] == "function_call"


@pytest.mark.parametrize(
    "refusal",
    [
        b'{"error":{"message":"\\"auto\\" tool choice requires --enable-auto-tool-choice and --tool-call-parser"}}',
        b'{"error":"registry.ollama.ai/library/x does not support tools"}',
    ],
)
async def test_a_server_that_takes_no_tools_answers_without_and_says_so(refusal: bytes) -> None:
    async with scripted(WINDOW, reply(refusal, "400 Bad Request"), reply(ANSWER)) as seen:
        client = await ask(seen.url, {"messages": [QUESTION], "tools": [WEATHER], "tool_choice": "auto"}, profile=PLAIN)
    assert not {"tools", "tool_choice"} & asked(seen).keys()
    assert client.text("content") == "Yes, it is raining."
    assert client.last["warnings"] == ["the model server takes no tools: they were left out"]


# -- knowledge bases -------------------------------------------------------------------------------------------------


async def test_a_knowledge_base_answers_with_passages_and_tools() -> None:
    passages = ("It rains in Kyoto in June.", "The coffee machine is on the second floor.")
    client, sent = await request({"messages": ROUND, "tools": [WEATHER]}, ANSWER, passages=passages)
    question = sent["messages"][2]
    assert question["role"] == "user"
    assert "It rains in Kyoto in June." in question["content"]
    assert [m["role"] for m in sent["messages"]][3:] == ["assistant", "tool"]
    assert sent["tools"] == [WEATHER]
    assert client.text("content") == "Yes, it is raining."


async def test_an_empty_knowledge_base_does_not_end_an_agents_turn() -> None:
    async with scripted(server(CALL)) as seen:
        rag = replace(await small_rag(None), chat=chat(seen.url, "m", profile=PLAIN, timeout=5))  # type: ignore[arg-type]
        wanted = parse_chat(json.dumps({"model": "m", "messages": [QUESTION], "tools": [WEATHER]}).encode())
        found = [
            event async for event in answer(rag, ASKER, wanted.messages, ["kb"], profile=PLAIN, options=wanted.how)
        ]
    assert any(isinstance(event, ToolCallPiece) for event in found)
    assert isinstance(found[-1], Finish) and found[-1].reason == "tool_calls" and not found[-1].abstained


# -- rounds without an end -------------------------------------------------------------------------------------------


def called(n: int, arguments: str = "{}") -> list[dict[str, Any]]:
    call = {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"c{n}", "content": "rain"},
    ]


async def test_the_same_call_again_and_again_is_ended() -> None:
    circle = [QUESTION, *(m for n in range(SAME_CALLS) for m in called(n))]
    client, sent = await request({"messages": circle, "tools": [WEATHER], "tool_choice": "required"}, ANSWER)
    assert sent["tool_choice"] == "none"
    assert "was called 3 times with the same arguments" in client.last["warnings"][0]


def test_different_calls_go_on_for_longer_but_not_for_ever() -> None:
    def rounds(n: int) -> list[Message]:
        return [turn("assistant", "", called(i, f'{{"n":{i}}}')[0]) for i in range(n)]

    assert circling(rounds(CALL_ROUNDS - 1)) == ""
    assert str(CALL_ROUNDS) in circling(rounds(CALL_ROUNDS))


# -- reading and putting together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, [], [{}], "x", [{"type": "web_search"}], [{"type": "function"}], [3]])
def test_what_is_no_tool_is_ignored(given: Any) -> None:
    assert tools_of({"tools": given}) is None


def test_a_choice_of_no_tool_is_refused_with_the_names() -> None:
    with pytest.raises(BadRequest, match="'rain', which is not among the tools: weather"):
        tools_of({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "rain"}}})


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ("any", "required"),
        ("auto", "auto"),
        ({"type": "function", "name": "weather"}, "weather"),
        (3, None),
        ({}, None),
    ],
)
def test_every_spelling_of_a_choice(given: Any, choice: Any) -> None:
    found = tools_of({"tools": [WEATHER], "tool_choice": given})
    assert found is not None
    assert (found.choice["function"]["name"] if isinstance(found.choice, dict) else found.choice) == choice


def test_results_find_their_calls() -> None:
    calls = (ToolCall(id="", name="a", arguments="{}"), ToolCall(id="", name="b", arguments="{}"))
    found = linked(
        [
            Message(role="assistant", content="", tool_calls=calls),
            Message(role="tool", content="1", name="b"),
            Message(role="tool", content="2"),
            Message(role="tool", content="3", tool_call_id="unknown"),
        ]
    )
    assert [call.id for call in found[0].tool_calls] == ["call_0_0", "call_0_1"]
    assert [(m.tool_call_id, m.name) for m in found[1:]] == [("call_0_1", "b"), ("call_0_0", "a"), ("", "")]


def test_calls_of_a_server_that_counts_from_zero_again() -> None:
    calls = ToolCalls()
    pieces = [calls.take(0, "x", "a", "{}"), calls.take(0, "y", "b", "{"), calls.take(0, "", "", "}")]
    assert [piece.index for piece in pieces] == [0, 1, 1]
    assert [call.arguments for call in calls.whole()] == ["{}", "{}"]


# -- Ollama ----------------------------------------------------------------------------------------------------------

OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Kyoto"}}}
OLLAMA_ROUND = [
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [OLLAMA_CALL]},
    {"role": "tool", "tool_name": "weather", "content": "rain"},
]


@pytest.mark.parametrize("stream", [True, False])
async def test_ollamas_clients_get_whole_calls(stream: bool) -> None:
    body = {"model": "m", "messages": OLLAMA_ROUND, "tools": [WEATHER], "stream": stream}
    wanted = ollama.parse_chat(json.dumps(body).encode())
    made = ollama.Answer(wanted)
    async with scripted(server(CALL)) as seen:
        found = await events(seen.url, wanted.messages, wanted.how)
        lines = (
            [json.loads(line) async for line in made.stream(Lookahead(found))] if stream else [await made.body(found)]
        )
    sent = asked(seen)["messages"]
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Kyoto"}
    assert sent[2]["tool_call_id"] == sent[1]["tool_calls"][0]["id"]
    (calls,) = [line["message"]["tool_calls"] for line in lines if line["message"].get("tool_calls")]
    assert [(c["function"]["name"], c["function"]["arguments"]) for c in calls] == [
        ("weather", {"city": "Kyoto"}), ("clock", {})
    ]  # fmt: skip
    assert lines[-1]["done"] is True
    assert "thinking" in "".join(map(str, lines))


async def test_ollama_as_the_model_server() -> None:
    first = {
        "message": {"content": "", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Kyoto"}}}]}
    }
    second = {"message": {"content": "", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}}
    last = {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1}
    upstream = b"\n".join(orjson.dumps({"model": "m", "done": False, **line}) for line in (first, second, last))
    wanted = parse_chat(json.dumps({"model": "m", "messages": ROUND, "tools": [WEATHER]}).encode())
    async with scripted(reply(b'{"model_info":{}}'), reply(upstream)) as seen:
        found = await collected(ollama_connector.chat(seen.url, "qwen3", profile=V4), wanted.messages, wanted.how, V4)
        sent = seen.body()
    assert sent["tools"] == [WEATHER]
    assert sent["messages"][3]["tool_calls"] == [OLLAMA_CALL]
    assert sent["messages"][3]["thinking"] == "I must look."
    assert sent["messages"][4] == {"role": "tool", "content": "rain", "tool_name": "weather"}
    pieces = [event for event in found if isinstance(event, ToolCallPiece)]
    assert [(piece.index, piece.name) for piece in pieces] == [(0, "weather"), (1, "clock")]
    assert len({piece.id for piece in pieces}) == 2
    assert isinstance(found[-1], Finish) and found[-1].reason == "tool_calls"


async def collected(model: Any, messages: Any, how: Any, profile: Profile) -> list[Event]:
    rag = replace(await small_rag(None), chat=model)  # type: ignore[arg-type]
    return [event async for event in answer(rag, ASKER, messages, (), profile=profile, options=how)]


# -- responses -------------------------------------------------------------------------------------------------------

RESPONSES_TOOL = {"type": "function", "strict": None, **WEATHER["function"]}  # type: ignore[dict-item]


async def test_responses_have_calls_as_items_both_ways() -> None:
    items = [
        {"role": "user", "content": QUESTION["content"]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "I must look."}]},
        {"type": "function_call", "call_id": "call_a", "name": "weather", "arguments": '{"city": "Kyoto"}'},
        {"type": "function_call", "call_id": "call_b", "name": "clock", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "12:00"}]},
    ]
    body = {"model": "m", "input": items, "tools": [RESPONSES_TOOL, {"type": "web_search"}], "tool_choice": "auto"}
    wanted = openai_responses.parse_responses(json.dumps(body).encode())
    writer = openai_responses.ResponseWriter(wanted, {})
    async with scripted(server(CALL)) as seen:
        found = Lookahead(await events(seen.url, wanted.messages, wanted.how, V4))
        frames = [json.loads(frame.partition(b"data: ")[2]) async for frame in writer.stream(found)]
    sent = asked(seen)
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in sent["messages"][1]["tool_calls"]] == ["call_a", "call_b"]
    assert sent["messages"][1]["reasoning_content"] == "I must look."
    assert sent["messages"][3]["content"] == "12:00"
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"]
    output = frames[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "function_call"]
    assert (output[1]["call_id"], output[1]["name"], output[1]["arguments"]) == (
        "call_a",
        "weather",
        '{"city": "Kyoto"}',
    )
    kinds = [frame["type"] for frame in frames]
    assert kinds.count("response.function_call_arguments.done") == 2
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))


# -- LangChain -------------------------------------------------------------------------------------------------------


async def test_the_runnable_brings_calls_as_langchain_has_them() -> None:
    wanted = parse_chat(json.dumps({"model": "m", "messages": [QUESTION], "tools": [WEATHER]}).encode())
    async with scripted(server(CALL)) as seen:
        rag = replace(await small_rag(None), chat=chat(seen.url, "m", profile=PLAIN, timeout=5))  # type: ignore[arg-type]
        runnable = chain(rag, ASKER, (), profile=PLAIN, options=wanted.how)
        message = await runnable.ainvoke("Is it raining?")
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("weather", {"city": "Kyoto"}), ("clock", {})]
