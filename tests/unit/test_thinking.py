"""The clients' spellings of one wish, and what has no effect."""

from typing import Any

import pytest

from connectors.asking import options_of
from connectors.bodies import ignored
from connectors.engine import Request
from connectors.models import ollama
from connectors.wire import write_openai
from pipelines.profiles import profile_for
from pipelines.thinking import EFFORTS, Thinking, thinking_of


@pytest.mark.parametrize(
    ("body", "on", "budget"),
    [
        ({}, None, None),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "minimal"}, False, None),
        ({"reasoning_effort": "low"}, True, EFFORTS["low"]),
        ({"reasoning_effort": "medium"}, True, EFFORTS["medium"]),
        ({"reasoning_effort": "high"}, True, None),
        ({"reasoning_effort": "silly"}, None, None),
        ({"reasoning_effort": None}, None, None),
        ({"reasoning": {"effort": "low"}}, True, EFFORTS["low"]),
        ({"reasoning": {"max_tokens": 700}}, True, 700),
        ({"reasoning": {"enabled": False}}, False, None),
        ({"thinking_budget": 800}, True, 800),
        ({"thinking_budget": 0}, False, None),
        ({"thinking_budget": -1}, False, None),
        ({"thinking_budget": True}, None, None),
        ({"thinking_budget": 800, "reasoning_effort": "low"}, True, 800),
        ({"thinking_token_budget": 9}, True, 9),
        ({"enable_thinking": False}, False, None),
        ({"enable_thinking": True, "thinking_budget": 50}, True, 50),
        ({"enable_thinking": False, "thinking_budget": 50}, False, None),
        ({"thinking": True}, True, None),
        ({"thinking": {"type": "disabled"}}, False, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True, 1024),
        ({"thinking": "disabled"}, False, None),
        ({"think": "low"}, True, EFFORTS["low"]),
        ({"think": "max"}, True, None),
        ({"think": False}, False, None),
        ({"think": "false"}, False, None),
        ({"chat_template_kwargs": {"thinking": False}}, False, None),
        ({"chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 33}}, True, 33),
        ({"chat_template_kwargs": "no object"}, None, None),
        ({"thinking": [1], "reasoning": "x"}, None, None),
        ({"model": "deepseek-r1-handbook:nothink"}, False, None),
        ({"model": "deepseek-r1:nothink", "reasoning_effort": "high"}, False, None),
    ],
)
def test_spellings(body: dict[str, Any], on: bool | None, budget: int | None) -> None:
    wish = thinking_of(body)
    assert (wish.on, wish.budget) == (on, budget)


def test_an_effort_is_kept_in_the_clients_word() -> None:
    assert thinking_of({"reasoning_effort": "max"}) == Thinking(on=True, effort="max")


def test_options_of_a_body_and_of_ollamas() -> None:
    options = options_of({"temperature": 0, "top_p": 1, "stop": "x", "seed": 3, "think": "low"})
    assert (options.temperature, options.top_p, options.stop, options.seed) == (0.0, 1.0, ("x",), 3)
    assert (options.thinking, options.thinking_budget, options.effort) == (True, EFFORTS["low"], "low")
    assert options_of({"think": False}, {"temperature": 0.4}).temperature == 0.4


@pytest.mark.parametrize(
    ("body", "guards", "names"),
    [
        ({"temperature": 0.6}, False, []),
        ({"temperature": 0, "top_p": 1}, True, ["temperature", "top_p"]),
        ({"temperature": 0, "free_sampling": True}, True, []),
        ({"presence_penalty": 0, "frequency_penalty": 0.0, "n": 1, "logit_bias": {}, "logprobs": False}, True, []),
        ({"presence_penalty": 0.5, "n": 2, "tools": [{}], "response_format": {"type": "json_object"}}, False,
         ["n", "presence_penalty", "response_format", "tools"]),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named(body: dict[str, Any], guards: bool, names: list[str]) -> None:
    assert ignored(body, guards) == names


@pytest.mark.parametrize(
    ("model", "engine", "arguments", "sent"),
    [
        ("deepseek-v4-flash", "openai", {"effort": "max"}, {"reasoning_effort": "max"}),
        ("deepseek-v4-flash", "openai", {"thinking": False}, {"thinking": {"type": "disabled"}}),
        ("deepseek-v3.1", "vllm", {"thinking": True}, {"chat_template_kwargs": {"thinking": True}}),
        ("deepseek-v3.1", "vllm", {"thinking_budget": 9}, {"thinking_token_budget": 9}),
        ("deepseek-r1:7b", "vllm", {"thinking_budget": 9}, {"thinking_token_budget": 9}),
        ("deepseek-r1:7b", "llamacpp", {"thinking_budget": 9}, {"thinking_budget_tokens": 9}),
        ("deepseek-r1:7b", "openai", {"thinking_budget": 9, "effort": "low"}, {}),
    ],
)
def test_a_wish_in_the_words_of_an_engine(model: str, engine: str, arguments: dict[str, Any], sent: dict) -> None:
    request = Request(messages=[], model=model, profile=profile_for(model), **arguments)
    body = write_openai(request, engine)
    words = {"reasoning_effort", "thinking", "chat_template_kwargs", "thinking_token_budget", "thinking_budget_tokens"}
    switch = {name: value for name, value in body.items() if name in words}
    assert {name: switch.get(name) for name in sent} == sent
    if not sent:
        assert not switch, "a server nobody knows is not sent fields it may refuse"


def test_ollama_is_told_to_skip_thinking() -> None:
    r1 = profile_for("deepseek-r1:7b")
    for thinking, think in ((None, True), (True, True), (False, False)):
        assert ollama.write(Request(messages=[], model="m", profile=r1, thinking=thinking))["think"] is think
