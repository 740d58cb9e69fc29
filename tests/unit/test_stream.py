"""The token path against the same answer read with JSON alone, at every split, in the styles of real servers."""

import json
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.frames import Frames
from connectors.stream import Relay
from connectors.upstream import MAX_EVENT
from connectors.wire import read_openai
from pipelines.citations import CitationParser
from pipelines.delta import Delta, separate
from pipelines.drift import LanguageGuard
from pipelines.errors import ModelUnavailable
from pipelines.reasoning import ReasoningParser
from pipelines.types import Citation, Hit
from tests.unit.small_rag import chunk

HITS = [Hit(chunk=chunk(n, "The sky is blue."), score=1 / n) for n in (1, 2, 3)]
ROOT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7, "model": "deepseek-r1-rag"}
FIRST = {"search_results": [{"title": "x"}]}

Style = Callable[[int, str, str], bytes]


def vllm_style(i: int, field: str, text: str) -> bytes:
    delta = {"content": text} if field == "content" else {"reasoning": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return orjson.dumps({"id": "a", "object": "x", "created": 5, "model": "content", "choices": [choice]})


def llamacpp_style(i: int, field: str, text: str) -> bytes:
    """`choices` first, and a time that goes on."""
    delta = {"content": text} if field == "content" else {"reasoning_content": text}
    choice = {"finish_reason": None, "index": 0, "delta": delta}
    return orjson.dumps({"choices": [choice], "created": 5 + i // 4, "id": "a", "model": "m", "object": "x"})


def python_style(i: int, field: str, text: str) -> bytes:
    """White space after colons, and everything beyond ASCII escaped."""
    delta = {"content": text, "reasoning_content": None} if field == "content" else {"reasoning_content": text}
    return json.dumps({"model": "m", "choices": [{"delta": delta, "index": 0}]}).encode()


def odd_style(i: int, field: str, text: str) -> bytes:
    """Every event has another shape."""
    return [vllm_style, llamacpp_style, python_style][i % 3](i, field, text)


STYLES: dict[str, Style] = {f.__name__: f for f in (vllm_style, llamacpp_style, python_style, odd_style)}


def stream(style: Style, texts: list[tuple[str, str]], line_end: bytes = b"\n") -> bytes:
    events = [style(i, field, text) for i, (field, text) in enumerate(texts)]
    events.append(orjson.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    events.append(orjson.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(texts)}}))
    blocks = [b": ping", *(b"data: " + event for event in events), b"data: [DONE]"]
    return b"".join(block + line_end + line_end for block in blocks)


async def reference(data: bytes, thinking: bool, hits: list[Hit]) -> list[tuple[str, str]]:
    """Frames by way of JSON: decode each event, separate, resolve citations."""

    async def deltas() -> AsyncIterator[Delta]:
        for line in data.replace(b"\r", b"").split(b"\n"):
            if line.startswith(b"data: {"):
                yield read_openai(orjson.loads(line[6:]))

    frames: list[tuple[str, str]] = []
    citing = CitationParser(hits)
    async for delta in separate(deltas(), ReasoningParser(starts_in_thinking=thinking)):
        if delta.reasoning:
            frames.append(("reasoning_content", delta.reasoning))
        if delta.content and (text := citing.feed(delta.content) if hits else delta.content):
            frames.append(("content", text))
    if hits and (rest := citing.close()):
        frames.append(("content", rest))
    return frames


def relayed(pieces: list[bytes], thinking: bool, hits: list[Hit]) -> tuple[list[tuple[str, str]], Relay]:
    relay = Relay(
        Frames(ROOT, FIRST), read_openai, starts_in_thinking=thinking, citing=CitationParser(hits) if hits else None
    )
    out = Frames(ROOT).opening + b"".join(relay.feed(piece) for piece in pieces) + relay.finish()
    frames: list[tuple[str, str]] = []
    blocks = out.split(b"\n\n")
    assert blocks.pop() == b""
    for i, block in enumerate(blocks):
        frame = orjson.loads(block.removeprefix(b"data: "))
        (choice,) = frame.pop("choices")
        extra = frame.pop("search_results", None)
        assert frame == ROOT
        (field, text), *more = choice["delta"].items()
        if i == 0:
            assert choice["delta"] == {"role": "assistant", "content": ""}
            continue
        assert not more
        assert text
        assert (extra is not None) == (field == "content" and not any(f == "content" for f, _ in frames))
        frames.append((field, text))
    return frames, relay


def relay_citing(relay: Relay) -> tuple[Citation, ...]:
    assert relay._citing is not None
    return relay._citing.citations()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


TAGS = ["<think>", "</think>", "<", "/think>", "[citation:1]", "[", "1]", "【2】", "citation:3", "`", "```", "~~~"]
PLAIN = ["", "word ", " word", "word", "日本", "。", " ", "\n", "\n\n", "é", "a/b", "\u2028", "content", "x" * 40]
WORDS = st.sampled_from([*TAGS, *PLAIN, '"', "\\", "\t", "\x00", '"content":"'])
TEXTS = st.lists(st.tuples(st.sampled_from(["content", "content", "content", "reasoning"]), WORDS), max_size=25)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from(sorted(STYLES)), st.booleans(), st.booleans(), st.booleans(), st.data())
@example(  # thinking in tags and then in a field
    [("reasoning", "a"), ("content", "<think>"), ("content", "<"), ("reasoning", "a")],
    "vllm_style",
    False,
    False,
    False,
    None,
)
async def test_same_as_by_json(
    texts: list[tuple[str, str]], style: str, thinking: bool, cites: bool, crlf: bool, data: st.DataObject | None
) -> None:
    hits = HITS if cites else []
    upstream = stream(STYLES[style], texts, b"\r\n" if crlf else b"\n")
    expected = await reference(upstream, thinking, hits)
    assert relayed([upstream], thinking, hits)[0] == expected
    places = data.draw(st.lists(st.integers(0, len(upstream)), max_size=12)) if data else []
    frames, relay = relayed(cut(upstream, places), thinking, hits)
    assert frames == expected
    assert "".join(relay.answer) == "".join(text for field, text in frames if field == "content")
    assert "".join(relay.thoughts) == "".join(text for field, text in frames if field != "content")
    assert (relay.reason, relay.ended, relay.usage) == (
        "stop",
        True,
        {"prompt_tokens": 3, "completion_tokens": len(texts)},
    )
    if cites:
        citing = CitationParser(hits)
        text = [text for field, text in await reference(upstream, thinking, []) if field == "content"]
        "".join([*map(citing.feed, text), citing.close()])
        assert relay_citing(relay) == citing.citations()


@pytest.mark.parametrize("style", sorted(STYLES))
async def test_every_single_split(style: str) -> None:
    texts = [
        ("content", text)
        for text in ("<th", "ink>", "Hm", " well", "</think>", "\n\nYes", " it", " is[cit", "ation:1]", ".")
    ]
    upstream = stream(STYLES[style], texts)
    expected = await reference(upstream, False, HITS)
    assert "".join(text for field, text in expected if field == "content") == "Yes it is[1]."
    for place in range(len(upstream)):
        assert relayed(cut(upstream, [place]), False, HITS)[0] == expected
    assert relayed([bytes([byte]) for byte in upstream], False, HITS)[0] == expected


GOLDEN = {path.stem: path.read_bytes() for path in (Path(__file__).parents[1] / "golden").glob("*.sse")}


@pytest.mark.parametrize("name", sorted(GOLDEN))
@pytest.mark.parametrize("thinking", [True, False])
async def test_recorded_streams(name: str, thinking: bool) -> None:
    upstream = GOLDEN[name]
    assert relayed([upstream], thinking, [])[0] == await reference(upstream, thinking, [])


class Counting:
    """Counts what was parsed in full."""

    def __init__(self) -> None:
        self.parsed = 0

    def __call__(self, event: dict[str, Any]) -> Delta:
        self.parsed += 1
        return read_openai(event)


@pytest.mark.parametrize("style", [vllm_style, llamacpp_style])
@pytest.mark.parametrize("field", ["content", "reasoning"])
def test_ordinary_events_are_copied_and_not_parsed(style: Style, field: str) -> None:
    read = Counting()
    texts = [("content", "<think>")] if field == "content" else []
    texts += [(field, f"word{i} 日本\n") for i in range(500)]
    texts += [("content", "</think>")] if field == "content" else []
    texts += [("content", f"word{i} 日本\n") for i in range(500)]
    fixed = style if style is vllm_style else lambda i, f, t: llamacpp_style(0, f, t)
    guard = LanguageGuard("en", "How many words are there in the text?")
    relay = Relay(Frames(ROOT), read, starts_in_thinking=field == "content", citing=CitationParser(HITS), guard=guard)
    relay.feed(stream(fixed, texts))
    relay.finish()
    assert len(relay.answer) < 20
    assert read.parsed < 12


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (b'{"error":{"message":"out of memory"}}', "out of memory"),
        (b'{"error":"gone"}', "gone"),
        (b"{broken", "no event"),
        (b"[1]", "no event"),
        (b'{"choices":7}', "no event"),
    ],
)
def test_errors_of_the_server(event: bytes, words: str) -> None:
    relay = Relay(Frames(ROOT), read_openai)
    relay.feed(b"data: " + vllm_style(0, "content", "He") + b"\n\n")
    with pytest.raises(ModelUnavailable, match=words):
        relay.feed(b"data: " + event + b"\n\n")


def test_an_event_without_end_is_refused() -> None:
    relay = Relay(Frames(ROOT), read_openai)
    relay.feed(b"x" * MAX_EVENT)
    with pytest.raises(ModelUnavailable, match="without an end"):
        relay.feed(b"x")


def test_ended_is_false_when_the_stream_just_stops() -> None:
    relay = Relay(Frames(ROOT), read_openai)
    relay.feed(b"data: " + vllm_style(0, "content", "He") + b"\n\n")
    relay.finish()
    assert not relay.ended
    assert relay.begun()
