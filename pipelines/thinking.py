"""How much a client wants the model to think, in whichever of the many spellings it says so.

| spelling | used by |
|---|---|
| `reasoning_effort`: none, minimal, low, medium, high, xhigh, max | OpenAI, DeepSeek, Open WebUI, LobeChat |
| `reasoning`: `{effort, enabled, max_tokens}` | OpenAI's responses, OpenRouter |
| `thinking`: true, or `{type: enabled or disabled, budget_tokens}` | DeepSeek, Anthropic's shape |
| `enable_thinking`, `thinking_budget` | Qwen's service, Dify's Tongyi, Cherry Studio |
| `chat_template_kwargs`: `{thinking, enable_thinking, thinking_budget}` | vLLM, SGLang |
| `thinking_token_budget`, `thinking_budget_tokens` | vLLM, llama.cpp |
| `think`: true, false, low, medium, high, max | Ollama |
| a model id that ends in `:nothink` | workflow tools that can choose a model and nothing else |
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NOTHINK = ":nothink"
#: tokens of thinking an effort stands for; None is whatever fits
EFFORTS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 0,
    "low": 512,
    "medium": 2048,
    "high": None,
    "xhigh": None,
    "max": None,
    "ultra": None,
}
_SWITCHES = ("enable_thinking", "thinking", "think", "enabled")
_BUDGETS = ("thinking_budget", "budget_tokens", "thinking_token_budget", "thinking_budget_tokens")
#: fields of a body that say something
_NAMES = frozenset({*_SWITCHES, *_BUDGETS, "reasoning", "reasoning_effort", "chat_template_kwargs"})
_WORDS = {"enabled": True, "disabled": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """A client's wish."""

    #: None leaves it to the profile
    on: bool | None = None
    #: tokens at most; None is whatever fits
    budget: int | None = None
    #: the effort in the client's word, for engines that take one; "" if none was named
    effort: str = ""


def thinking_of(data: Mapping[str, Any]) -> Thinking:
    """Read it from a request's body. A switch that says no wins over a budget, a budget over an effort."""
    nothink = str(data.get("model") or "").endswith(NOTHINK)
    if _NAMES.isdisjoint(data):
        return Thinking(on=False if nothink else None)
    switch: bool | None = None
    budget: int | None = None
    effort = ""
    for name, value in _said(data):
        if name in _BUDGETS and isinstance(value, int) and not isinstance(value, bool):
            budget = budget if budget is not None else max(0, value)
        elif name == "effort":
            effort = effort or (str(value) if str(value) in EFFORTS else "")
        elif isinstance(value, bool) and name not in _BUDGETS:
            switch = value if switch is None else switch
    if nothink:
        switch = False
    if budget is None and effort:
        budget = EFFORTS[effort]
    if switch is False or budget == 0:
        return Thinking(on=False)
    return Thinking(on=True if switch or effort or budget else None, budget=budget, effort=effort)


def _said(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything a body says about thinking: (switch, budget or "effort", value), the plainest spelling first."""
    template = data.get("chat_template_kwargs")
    for level in (data, template if isinstance(template, Mapping) else {}):
        for name in (*_BUDGETS, *_SWITCHES[:3]):
            value = level.get(name)
            if isinstance(value, Mapping):  # thinking: {type, budget_tokens}
                yield "budget_tokens", value.get("budget_tokens")
                yield name, _WORDS.get(str(value.get("type")))
            elif isinstance(value, str):  # think: "low", thinking: "disabled"
                yield ("effort", value) if value in EFFORTS else (name, _WORDS.get(value))
            else:
                yield name, value
        yield "effort", level.get("reasoning_effort")
    reasoning = data.get("reasoning")
    if isinstance(reasoning, Mapping):
        yield "budget_tokens", reasoning.get("max_tokens")
        yield "enabled", reasoning.get("enabled")
        yield "effort", reasoning.get("effort")
