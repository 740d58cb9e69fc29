"""No body breaks a protocol's parser: it is read, or refused in words. And what clients really send is read."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.apps import dify, ollama, openai, openai_completions, openai_embeddings, openai_responses, rerank
from pipelines.errors import BadRequest
from pipelines.thinking import thinking_of

Parser = Callable[[bytes], object]
PARSERS: dict[str, tuple[Parser, dict[str, Any]]] = {
    "chat": (openai.parse_chat, {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
    "completions": (openai_completions.parse_completion, {"model": "m", "prompt": "x"}),
    "responses": (openai_responses.parse_responses, {"model": "m", "input": [{"role": "user", "content": "x"}]}),
    "embeddings": (openai_embeddings.parse_embeddings, {"model": "m", "input": ["x"]}),
    "rerank": (rerank.parse_rerank, {"model": "m", "query": "x", "documents": ["x"]}),
    "ollama chat": (ollama.parse_chat, {"model": "m", "messages": [{"role": "user", "content": "x"}], "options": {}}),
    "ollama generate": (ollama.parse_generate, {"model": "m", "prompt": "x", "options": {}}),
    "dify": (
        dify.parse_retrieval,
        {
            "knowledge_id": "k",
            "query": "x",
            "retrieval_setting": {"top_k": 1, "score_threshold": 0.5},
            "metadata_condition": {"conditions": [{"name": "a", "comparison_operator": "is", "value": 1}]},
        },
    ),
}
FIELDS = [
    "model", "messages", "prompt", "input", "query", "documents", "texts", "options", "stop", "stream", "think",
    "thinking", "reasoning", "reasoning_effort", "chat_template_kwargs", "stream_options", "max_tokens", "dimensions",
    "encoding_format", "input_type", "top_n", "instructions", "metadata", "system", "images", "keep_alive", "name",
    "knowledge_id", "retrieval_setting", "metadata_condition", "temperature", "max_output_tokens",
]  # fmt: skip
INNER = ["role", "content", "type", "text", "conditions", "comparison_operator", "num_predict", "top_k", "output"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=4))
def test_no_field_of_a_wrong_kind_breaks_a_parser(name: str, changes: dict[str, Any]) -> None:
    parse, good = PARSERS[name]
    try:
        assert parse(json.dumps(good | changes).encode()) is not None
    except BadRequest:
        return


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50, deadline=None)
@given(body=st.binary(max_size=40))
def test_no_bytes_break_a_parser(name: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        PARSERS[name][0](body)


EVERYTHING = {
    "stream_options": None, "user": "u", "user_id": "u", "stop": None, "seed": 1, "n": 1, "logit_bias": {},
    "logprobs": None, "frequency_penalty": 0, "presence_penalty": 0, "top_k": 5, "max_tokens": 1,
    "max_completion_tokens": None, "response_format": {"type": "json_schema", "json_schema": {}}, "tools": [],
    "tool_choice": "auto", "functions": [], "store": False, "metadata": {}, "service_tier": "auto",
    "parallel_tool_calls": True, "verbosity": "low", "enable_thinking": True, "thinking": {"type": "enabled"},
    "chat_template_kwargs": {"thinking": True}, "reasoning_effort": "low", "reasoning": {"effort": "low"},
    "reasoning_format": "auto", "think": "high", "keep_alive": "5m", "format": "json", "truncate": True,
}  # fmt: skip


@pytest.mark.parametrize("name", PARSERS)
def test_nothing_that_clients_send_is_refused(name: str) -> None:
    parse, good = PARSERS[name]
    assert parse(json.dumps(EVERYTHING | good).encode()) is not None


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, None),
        ({"enable_thinking": False}, False),
        ({"think": True}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled"}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"thinking": True}}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"enabled": False}}, False),
        ({"reasoning": {"effort": "medium"}}, True),
        ({"reasoning_effort": "unheard-of"}, None),
    ],
)
def test_every_switch_for_thinking(fields: dict[str, Any], thinks: bool | None) -> None:
    assert thinking_of(fields).on is thinks


def test_ollamas_switch_for_thinking_takes_words_too() -> None:
    def think(value: object) -> bool | None:
        body = {"model": "m", "messages": [], "think": value}
        return ollama.parse_chat(json.dumps(body).encode()).think

    assert [think(value) for value in (None, True, False, "high", "low", "none")] == [
        None,
        True,
        False,
        True,
        True,
        False,
    ]


def test_content_in_every_form() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, "b", {"type": "unheard-of"}]
    messages = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": parts, "name": "x"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [{}]},
        {"role": "function", "name": "f", "content": "1"},
    ]
    read = openai.parse_chat(json.dumps({"model": "m", "messages": messages}).encode())
    assert [(m.role, m.content) for m in read.messages] == [
        ("system", "rules"),
        ("user", "a\n\nb"),
        ("assistant", ""),
        ("tool", "1"),
    ]


@pytest.mark.parametrize("kind", ["image_url", "input_image", "input_audio", "video_url"])
def test_what_a_text_model_cannot_see_is_refused_by_its_name(kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": kind, kind: {"url": "data:image/png;base64,aGk="}}]}]
    with pytest.raises(BadRequest, match=f"{kind} is not supported by this model"):
        openai.parse_chat(json.dumps({"model": "m", "messages": messages}).encode())
