"""Streams recorded from real servers with a tiny random model of R1's architecture, read again at every chunk size.

Recorded with xllamacpp 2026.10.11549 and vLLM 0.32.0 (CPU). The words are gibberish, the forms are real: thinking
split by a grammar, cut by max_tokens, ended by a thinking budget, empty.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.messages import HumanMessage

from connectors.models import llamacpp, vllm
from pipelines.delta import Delta
from pipelines.errors import BadRequest
from pipelines.profiles import profile_for
from tests.unit.scripted_server import reply, scripted

GOLDEN = Path(__file__).parents[1] / "golden"
CONNECTORS = {"llamacpp": llamacpp, "vllm": vllm}


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
    elif not thinking:
        thinking, content = content, ""
    return thinking.lstrip(), content.lstrip(), reason


async def read(connector: Any, stream: bytes, step: int) -> list[Delta]:
    async with scripted(reply(stream, step=step)) as server:
        chat = connector.chat(server.url, "tiny-r1", profile=profile_for("tiny-r1"))
        return [delta async for delta in chat.stream_deltas([HumanMessage("Which passage?")])]


@pytest.mark.parametrize("step", [1, 11, 400, 0])
@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.sse")))
async def test_recorded_stream(name: str, step: int) -> None:
    stream = (GOLDEN / f"{name}.sse").read_bytes()
    engine, _, form = name.partition("-")
    deltas = await read(CONNECTORS[engine], stream, step)
    thinking, content, reason = naive(stream)
    if form == "empty":
        thinking, content = "", (thinking + content).lstrip()
    assert "".join(delta.reasoning for delta in deltas) == thinking
    assert "".join(delta.content for delta in deltas) == content
    assert deltas[-1].finish_reason == reason == ("stop" if form.startswith(("split", "empty")) else "length")
    assert sum(delta.usage is not None for delta in deltas) == 1
    assert not [delta for delta in deltas if delta.content and delta.reasoning]
    assert ("<think>" in content or "</think>" in content) is False
    assert bool(thinking) == (form != "empty")
    assert bool(content) == (not form.startswith("cut"))


@pytest.mark.parametrize(
    ("name", "words"), [("llamacpp-refused", "must be number"), ("llamacpp-toolong", "1024 tokens")]
)
async def test_recorded_refusal(name: str, words: str) -> None:
    body = (GOLDEN / f"{name}.json").read_bytes()
    async with scripted(reply(body, "400 Bad Request")) as server:
        chat = llamacpp.chat(server.url, "tiny-r1", profile=profile_for("tiny-r1"))
        with pytest.raises(BadRequest, match=words):
            await chat.ainvoke("Which passage?")
