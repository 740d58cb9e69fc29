"""Streams recorded from real servers with a tiny model of R1's architecture, read again at every chunk size.

Recorded with `python -m tests.record_golden`; the version of the engine is in the name. The words are gibberish, the
forms are real: thinking split by the server, in tags, cut by max_tokens, ended by a budget, absent, refused after a
200. No Ollama server can be had here: its streams are written after its documentation (docs/api.md,
docs/capabilities/thinking.mdx).
"""

from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.messages import HumanMessage

from connectors.models import llamacpp, ollama, openai, vllm
from pipelines.delta import Delta
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.profiles import profile_for
from tests.tiny_r1 import ANSWER
from tests.unit.scripted_server import Script, reply, scripted

GOLDEN = Path(__file__).parents[1] / "golden"
CONNECTORS = {"llamacpp": llamacpp, "vllm": vllm, "ollama": ollama, "openai": openai}
#: what a server answers that is asked for one token, to find out whether it separates thinking
APART = reply(b'{"choices":[{"message":{"role":"assistant","content":null,"reasoning_content":"\\n"}}]}')
TOGETHER = reply(b'{"choices":[{"message":{"role":"assistant","content":"Hm"}}]}')


def naive(stream: bytes) -> tuple[str, str, str]:
    """Thinking, answer and finish reason, read with the whole stream in hand and no parser of ours."""
    thinking = content = reason = ""
    for line in stream.decode().split("\n"):
        if not line.startswith("data: {"):
            continue
        for choice in orjson.loads(line[6:])["choices"]:
            thinking += choice["delta"].get("reasoning_content") or choice["delta"].get("reasoning") or ""
            content += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
    if "</think>" in content:
        before, _, content = content.partition("</think>")
        thinking += before
    return thinking.lstrip(), content.lstrip(), reason


def named(pattern: str) -> list[str]:
    """Names of recordings; there are some, or the test fails."""
    names = sorted(path.name for path in GOLDEN.glob(pattern))
    assert names, f"no recording {pattern}"
    return names


async def read(connector: Any, stream: bytes, step: int = 0, apart: bool = True, **arguments: Any) -> list[Delta]:
    asked: list[Script] = [APART if apart else TOGETHER] if connector in (llamacpp, vllm) else []
    async with scripted(*asked, reply(stream, step=step)) as server:
        chat = connector.chat(server.url, "tiny-deepseek-r1", profile=profile_for("tiny-deepseek-r1"))
        return [delta async for delta in chat.stream_deltas([HumanMessage("How many?")], **arguments)]


STREAMS = [name for name in named("*.sse") if name != "vllm-0.32.0-stop.sse"]
CUT = {"cut"}


@pytest.mark.parametrize("step", [1, 11, 400, 0])
@pytest.mark.parametrize("name", STREAMS)
async def test_recorded_stream(name: str, step: int) -> None:
    stream = (GOLDEN / name).read_bytes()
    engine, _, form = name.removesuffix(".sse").split("-")
    deltas = await read(CONNECTORS[engine], stream, step, apart=not form.startswith("tags"))
    thinking, content, reason = naive(stream)
    assert "".join(delta.reasoning for delta in deltas) == thinking  # llama.cpp does not know a budget of 0, vLLM does
    assert "".join(delta.content for delta in deltas) == content
    assert deltas[-1].finish_reason == reason == ("length" if form in CUT else "stop")
    assert bool(thinking) == (form != "empty" and (engine, form) != ("vllm", "skipped"))
    assert sum(delta.usage is not None for delta in deltas) == 1
    assert not [delta for delta in deltas if delta.content and delta.reasoning]
    assert ("<think>" in content or "</think>" in content) is False
    assert bool(content) == (form not in CUT)
    if form in {"split", "budget", "tags"}:
        assert content == ANSWER


@pytest.mark.parametrize("form", ["split", "tags"])
async def test_a_stop_in_the_answer_ends_it_and_one_in_the_thinking_does_not(form: str) -> None:
    (name,) = named(f"vllm-*-{form}.sse")
    stream = (GOLDEN / name).read_bytes()
    word = naive(stream)[0].split()[3]
    deltas = await read(vllm, stream, apart=form == "split", stop=[f" {word}", " letter"])
    assert "".join(delta.content for delta in deltas) == "Three times the"
    assert word in "".join(delta.reasoning for delta in deltas)
    assert (deltas[-1].finish_reason, deltas[-1].last) == ("stop", True)


def test_why_vllm_is_not_told_to_stop() -> None:
    """vLLM 0.32 with a stop string loses the end of the thinking, and a piece of its closing tag becomes content."""
    thinking, content, _ = naive((GOLDEN / "vllm-0.32.0-stop.sse").read_bytes())
    assert content.startswith("think>")
    assert len(thinking) < len(naive((GOLDEN / "vllm-0.32.0-split.sse").read_bytes())[0])


async def test_a_budget_refused_after_a_200_is_left_out_and_asked_again() -> None:
    (name,) = named("vllm-*-refused.txt")
    refused, good = (GOLDEN / name).read_bytes(), (GOLDEN / name.replace("refused.txt", "tags.sse")).read_bytes()
    async with scripted(TOGETHER, reply(refused), reply(good)) as server:
        chat = vllm.chat(server.url, "tiny-deepseek-r1", profile=profile_for("tiny-deepseek-r1"))
        for _ in range(2):
            deltas = [d async for d in chat.stream_deltas([HumanMessage("How many?")], thinking_budget=5)]  # type: ignore[attr-defined]
            assert "".join(delta.content for delta in deltas) == ANSWER
        sent = ["thinking_token_budget" in server.body(i) for i in range(1, 4)]
    assert sent == [True, False, False]


@pytest.mark.parametrize(("form", "words"), [("refused", "must be number"), ("toolong", "1024 tokens")])
async def test_recorded_refusal(form: str, words: str) -> None:
    (name,) = named(f"llamacpp-*-{form}.json")
    async with scripted(reply((GOLDEN / name).read_bytes(), "400 Bad Request")) as server:
        chat = llamacpp.chat(server.url, "tiny-r1", profile=profile_for("tiny-r1"))
        with pytest.raises(BadRequest, match=words):
            await chat.ainvoke("Which passage?")


@pytest.mark.parametrize("step", [1, 11, 400, 0])
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("think", ("Let me count:\nr, r, r.", "There are three.", "stop")),
        ("tags", ("Let me count", "Three.", "stop")),
        ("cut", ("Let me count", "", "length")),
    ],
)
async def test_ollama_as_documented(form: str, expected: tuple[str, str, str], step: int) -> None:
    deltas = await read(ollama, (GOLDEN / f"ollama-documented-{form}.ndjson").read_bytes(), step)
    thinking, content = "".join(d.reasoning for d in deltas), "".join(d.content for d in deltas)
    assert (thinking, content, deltas[-1].finish_reason) == expected
    (usage,) = (delta.usage for delta in deltas if delta.usage)
    assert usage == {"prompt_tokens": 26, "completion_tokens": 9}


async def test_an_error_of_ollama_in_the_middle() -> None:
    with pytest.raises(ModelUnavailable, match="encountered while running the model"):
        await read(ollama, (GOLDEN / "ollama-documented-error.ndjson").read_bytes())
