"""Our chat model against a loopback server: what it sends, what it reads, how it fails."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import orjson
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

from connectors.models import llamacpp, ollama, openai, vllm
from pipelines.errors import BadRequest, ModelUnavailable, RagError, TooManyRequests
from pipelines.profiles import profile_for
from tests.unit.scripted_server import Script, delta, raw, reply, scripted, sse

USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
R1 = "deepseek-r1:7b"


def lines(*events: Any) -> bytes:
    return b"".join(orjson.dumps(event) + b"\n" for event in events)


def said(thinking: str = "", content: str = "", **fields: Any) -> dict[str, Any]:
    """One line of Ollama's /api/chat, as its docs show it."""
    message = {"role": "assistant", "content": content} | ({"thinking": thinking} if thinking else {})
    return {"model": R1, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False} | fields


OLLAMA_END = said(done=True, done_reason="stop", prompt_eval_count=7, eval_count=5, total_duration=5)

#: the streams of one answer in every form that occurs: thinking "I think.", answer "Yes, 3."
STREAMS: dict[str, tuple[Any, bytes]] = {
    "llama.cpp": (
        llamacpp,
        sse(
            delta(role="assistant", content=None),
            delta(reasoning_content="\nI "),
            delta(reasoning_content="think."),
            delta(content="Yes, "),
            delta(content="3."),
            delta("stop"),
            USAGE,
        ),
    ),
    "llama.cpp, empty thinking": (llamacpp, sse(delta(content="Yes, "), delta(content="3."), delta("stop"), USAGE)),
    "vLLM from 0.17 with a parser": (
        vllm,
        sse(
            delta(role="assistant", content=""),
            delta(reasoning="I "),
            delta(reasoning="think.", content=None),
            delta(content="Yes, "),
            delta("stop", content="3."),
            USAGE,
        ),
    ),
    "older vLLM": (
        vllm,
        sse(delta(reasoning_content="I think."), delta(content="Yes, 3."), delta("stop", content=""), USAGE),
    ),
    "vLLM without a parser: only the closing tag": (
        vllm,
        sse(
            delta(content="I think."), delta(content="</thi"), delta(content="nk>\n\nYes, "),
            delta("stop", content="3."), USAGE,
        ),
    ),
    "tags": (
        openai,
        sse(delta(content="<think>\nI think.</think>\n\nYes, "), delta("stop", content="3."), USAGE),
    ),
    "Ollama": (ollama, lines(said("I "), said("think."), said(content="Yes, "), said(content="3."), OLLAMA_END)),
    "Ollama, tags in content": (
        ollama,
        lines(
            said(content="<think>"), said(content="I think."), said(content="</think>"),
            said(content="Yes, 3."), OLLAMA_END,
        ),
    ),
}  # fmt: skip


def model(connector: Any, url: str, name: str = R1, **fields: Any) -> BaseChatModel:
    return connector.chat(url, name, profile=profile_for(name), timeout=5.0, **fields)  # type: ignore[no-any-return]


async def whole(chat: BaseChatModel, messages: Any = "Hi", **options: Any) -> AIMessageChunk:
    message: AIMessageChunk | None = None
    async for chunk in chat.astream(messages, **options):
        message = chunk if message is None else message + chunk  # type: ignore[assignment]
    assert message is not None
    return message


@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("step", [1, 37, 0])
async def test_thinking_and_answer_in_every_form(form: str, step: int) -> None:
    connector, stream = STREAMS[form]
    async with scripted(reply(stream, step=step)) as server:
        message = await whole(model(connector, server.url))
    assert message.content == "Yes, 3."
    thinking = "" if "empty" in form else "I think."
    assert message.additional_kwargs.get("reasoning_content", "") == thinking
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata is not None
    assert (message.usage_metadata["input_tokens"], message.usage_metadata["output_tokens"]) == (7, 5)


async def test_invoke_and_sync_calls_say_the_same() -> None:
    connector, stream = STREAMS["llama.cpp"]
    async with scripted(reply(stream)) as server:
        chat = model(connector, server.url)
        message = await chat.ainvoke("Hi")
        again = await asyncio.to_thread(chat.invoke, "Hi")
        streamed = await asyncio.to_thread(lambda: list(chat.stream("Hi")))
    assert message.content == again.content == "".join(chunk.text for chunk in streamed) == "Yes, 3."
    assert again.additional_kwargs == {"reasoning_content": "I think."}


async def test_a_model_that_skipped_thinking_behind_an_unknown_server_still_answers() -> None:
    async with scripted(reply(sse(delta(content="Just "), delta("stop", content="this.")))) as server:
        assert (await whole(model(openai, server.url))).content == "Just this."


async def test_cut_while_thinking_is_no_answer() -> None:
    async with scripted(reply(sse(delta(content="Hm, "), delta("length", content="well")))) as server:
        message = await whole(model(openai, server.url))
    assert (message.content, message.response_metadata["finish_reason"]) == ("", "length")
    assert message.additional_kwargs["reasoning_content"] == "Hm, well"


CONVERSATION = [
    SystemMessage("Be brief."),
    HumanMessage("One?"),
    AIMessage("<think>\nold thoughts\n</think>\n\nOne.", additional_kwargs={"reasoning_content": "old thoughts"}),
    HumanMessage("Two?"),
    AIMessage("old thoughts</think>Two.", additional_kwargs={"thinking": "old thoughts"}),
    HumanMessage("Three?"),
]


@pytest.mark.parametrize(
    ("connector", "done"), [(llamacpp, b""), (vllm, b""), (openai, b""), (ollama, lines(OLLAMA_END))]
)
async def test_what_r1_is_sent_in_the_third_turn(connector: Any, done: bytes) -> None:
    async with scripted(reply(done or sse(delta("stop", content="x")))) as server:
        await whole(model(connector, server.url), CONVERSATION, temperature=0.0, top_p=1.0)
        body = server.body()
    assert b"old thoughts" not in orjson.dumps(body)
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user", "assistant", "user"]
    assert body["messages"][0]["content"] == "Be brief.\n\nOne?"
    sampling = body.get("options", body)
    assert (sampling["temperature"], sampling["top_p"]) == (0.6, 0.95)


async def test_sampling_is_free_where_the_profile_does_not_guard_it() -> None:
    async with scripted(reply(sse(delta("stop", content="x")))) as server:
        await whole(model(openai, server.url, "qwen2.5:7b"), CONVERSATION, temperature=0.1, seed=3, stop=["END"])
        body = server.body()
        await whole(model(openai, server.url), "Hi", temperature=0.0, free_sampling=True)
        freed = server.body()
    assert (body["temperature"], body["seed"], body["stop"], body["messages"][0]["role"]) == (0.1, 3, ["END"], "system")
    assert "top_p" not in body
    assert freed["temperature"] == 0.0


async def test_ollama_is_always_told_the_window_and_to_think() -> None:
    async with scripted(reply(lines(OLLAMA_END))) as server:
        await whole(model(ollama, server.url, context=16384), "Hi", max_tokens=99)
        body = server.body()
        await whole(model(ollama, server.url, "llama3.2"), "Hi")
        plain = server.body()
    assert (body["options"]["num_ctx"], body["options"]["num_predict"], body["think"]) == (16384, 99, True)
    assert plain["options"]["num_ctx"] == ollama.DEFAULT_CONTEXT
    assert "think" not in plain


async def test_switch_and_budget_are_spelt_for_the_engine() -> None:
    async with scripted(reply(sse(delta("stop", content="x")))) as server:
        await whole(model(vllm, server.url, "DeepSeek-V3.1"), "Hi", thinking=True, thinking_budget=100)
        on = server.body()
        await whole(model(vllm, server.url, "DeepSeek-V3.1"), "Hi")
        default = server.body()
        await whole(model(llamacpp, server.url), "Hi", thinking_budget=100)
        budget = server.body()
    assert on["chat_template_kwargs"] == {"thinking": True}
    assert on["thinking_token_budget"] == 100
    assert default["chat_template_kwargs"] == {"thinking": False}
    assert budget["thinking_budget_tokens"] == 100


async def test_tool_turns_keep_their_reasoning_only_where_the_family_wants_it() -> None:
    call = {"name": "search", "args": {"q": "x"}, "id": "1", "type": "tool_call"}
    turn = AIMessage("", tool_calls=[call], additional_kwargs={"reasoning_content": "I must search."})
    async with scripted(reply(sse(delta("stop", content="x")))) as server:
        await whole(model(openai, server.url, "deepseek-v4-flash"), [HumanMessage("Hi"), turn])
        kept = server.body()["messages"][1]
        await whole(model(openai, server.url), [HumanMessage("Hi"), turn])
        stripped = server.body()["messages"][1]
    assert kept["reasoning_content"] == "I must search."
    assert orjson.loads(kept["tool_calls"][0]["function"]["arguments"]) == {"q": "x"}
    assert "reasoning_content" not in stripped


async def test_tool_calls_are_read() -> None:
    first = {"index": 0, "id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a":'}}
    rest = {"index": 0, "function": {"arguments": "1}"}}
    stream = sse(delta(tool_calls=[first]), delta(tool_calls=[rest]), delta("tool_calls"))
    async with scripted(reply(stream)) as server:
        chat = model(openai, server.url, "qwen2.5").bind_tools([{"name": "add", "description": "", "parameters": {}}])
        message = await chat.ainvoke("Hi")
        body = server.body()
    assert message.tool_calls == [{"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}]
    assert body["tools"][0]["function"]["name"] == "add"


ERROR = b'{"error":{"message":"no such thing","type":"x","code":404}}'
MODELS = b'{"object":"list","data":[{"id":"deepseek-r1-distill"},{"id":"other"}]}'


@pytest.mark.parametrize(
    ("scripts", "error", "words"),
    [
        ([reply(ERROR, "401 Unauthorized")], ModelUnavailable, "refused the key .*DEEPWELL_CHAT__API_KEY"),
        ([reply(ERROR, "404 Not Found"), reply(MODELS)], ModelUnavailable, "It has: deepseek-r1-distill, other"),
        ([reply(ERROR, "404 Not Found"), reply(b"nope", "500 X")], ModelUnavailable, "does not know the model"),
        ([reply(ERROR, "500 Oops")], ModelUnavailable, "no such thing"),
        ([reply(b"<html>bad gateway", "502 Bad Gateway")], ModelUnavailable, "bad gateway"),
        ([reply(ERROR, "400 Bad Request")], BadRequest, "no such thing"),
        ([reply(b'{"error":"model is gone"}', "500 X")], ModelUnavailable, "model is gone"),
        ([reply(ERROR, "302 Found", "location: /x\r\n")], ModelUnavailable, "answered 302"),
        ([reply(b"data: {broken\n\n")], ModelUnavailable, "no event"),
        ([reply(b"data: [1]\n\n")], ModelUnavailable, "no event"),
        ([reply(sse(delta(content="He"), {"error": {"message": "out of memory"}}))], ModelUnavailable, "out of memory"),
        ([reply(sse(delta(content="He"), done=False))], ModelUnavailable, "before the answer's end"),
        ([raw(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n" + sse(delta(content="He"), done=False))],
         ModelUnavailable, "broke off"),
        ([reply(b"")], ModelUnavailable, "before the answer's end"),
    ],
)  # fmt: skip
async def test_failures_name_cause_server_and_fix(scripts: list[Script], error: type[RagError], words: str) -> None:
    async with scripted(*scripts) as server:
        with pytest.raises(error, match=words) as raised:
            await whole(model(openai, server.url))
        assert server.url in str(raised.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ("retry-after: 7\r\n", 7.0),
        ("retry-after-ms: 250\r\nretry-after: 7\r\n", 0.25),
        ("", 1.0),
        ("retry-after: Wed\r\n", 1.0),
    ],
)
async def test_a_limit_says_when_to_come_back(headers: str, seconds: float) -> None:
    async with scripted(reply(ERROR, "429 Too Many Requests", headers)) as server:
        with pytest.raises(TooManyRequests) as raised:
            await whole(model(openai, server.url))
    assert raised.value.retry_after == seconds


@pytest.mark.parametrize(
    "take", [lambda chat: chat.astream("Hi"), lambda chat: chat.stream_deltas([HumanMessage("Hi")])]
)
async def test_leaving_stops_the_server(take: Callable[[Any], Any]) -> None:
    async def endless(path: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(sse(delta(content="word "), done=False))
            await writer.drain()
            await asyncio.sleep(0.005)

    async with scripted(endless) as server:
        async with aclosing(take(model(openai, server.url, "plain"))) as stream:
            async for _ in stream:
                break
        for _ in range(100):
            await asyncio.sleep(0.01)
            if server.dropped:
                break
        assert server.dropped == 1


async def test_the_window_is_the_servers_own() -> None:
    props = reply(b'{"default_generation_settings":{"n_ctx":1024}}')
    async with scripted(props) as server:
        chat = model(llamacpp, server.url, context=8192)
        assert [await chat.window(), await chat.window()] == [1024, 1024]  # type: ignore[attr-defined]
        assert len(server.requests) == 1
    shown = reply(b'{"model_info":{"qwen2.context_length":131072}}')
    async with scripted(shown) as server:
        assert await model(ollama, server.url, context=16384).window() == 16384  # type: ignore[attr-defined]
    async with scripted(reply(b'{"data":[{"id":"deepseek-r1:7b","max_model_len":4096}]}')) as server:
        assert await model(vllm, server.url).window() == 4096  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("connector", "given", "path"),
    [
        (openai, "", "/v1/chat/completions"),
        (openai, "/v1", "/v1/chat/completions"),
        (openai, "/v1/chat/completions", "/v1/chat/completions"),
        (openai, "/api/predict/eas/", "/api/predict/eas/chat/completions"),
        (vllm, "/v1/", "/v1/chat/completions"),
        (llamacpp, "/v1", "/v1/chat/completions"),
        (ollama, "/v1", "/api/chat"),
        (ollama, "/api/", "/api/chat"),
    ],
)
async def test_addresses_as_people_write_them(connector: Any, given: str, path: str) -> None:
    async with scripted(reply(lines(OLLAMA_END) if connector is ollama else sse(delta("stop", content="x")))) as server:
        await whole(model(connector, server.url + given, api_key="bare:TOKEN"))
        first, headers, _ = server.requests[0]
    assert (first.split()[1], headers["authorization"]) == (path, "TOKEN")
