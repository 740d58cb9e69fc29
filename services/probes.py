"""What `deepwell doctor --model` asks of a model server, one probe a function: what was found, and how to mend it.

Plumbing probes concern server, template and tokenizer and hold for every model. Knowledge probes ask something that a
model must understand; they are not applicable to one that cannot (`Subject.too_small` says when), and say so.
"""

import re
from collections.abc import Mapping
from typing import Any

from connectors.r1_template import render
from pipelines.budget import answer_reserve
from pipelines.language import Language, detect
from services.subject import COUNTING, TOKENS, Probe, Result, Subject, answer_in, thinking_in

LEAST_WINDOW = 4096
ROUND_TRIP = ("a b\nc 日本語", "知识库  里有什么？", "don't   stop\n\n")


# --- the server -----------------------------------------------------------------------------------------------------


async def name(subject: Subject) -> Result:
    """The server has the model by that name."""
    names = await subject.chat.names()
    there = ", ".join(names[:8]) or "none"
    if subject.chat.model in names:
        return Result("pass", f"{subject.chat.model} at {subject.chat.url}")
    return Result("fail", f"the server has: {there}", "set DEEPWELL_CHAT__MODEL to one of these names")


async def window(subject: Subject) -> Result:
    """The context window, asked of the engine."""
    tokens = await subject.chat.window()
    if not tokens:
        return Result("not applicable", "the server does not say; the profile's is taken")
    if tokens >= LEAST_WINDOW:
        return Result("pass", f"{tokens:,} tokens")
    fix = {
        "vllm": f"start vLLM with --max-model-len {2 * LEAST_WINDOW} or more",
        "llamacpp": f"set DEEPWELL_CHAT__CONTEXT to {2 * LEAST_WINDOW} or more, or start the server with -c",
        "ollama": f"set DEEPWELL_CHAT__CONTEXT to {2 * LEAST_WINDOW} or more: it is sent as num_ctx",
    }.get(subject.name, "serve the model with a larger window")
    return Result("fail", f"{tokens:,} tokens: passages, thinking and answer do not fit", fix)


async def streaming(subject: Subject) -> Result:
    """The answer comes in pieces, with usage at its end."""
    deltas = await subject.ask(COUNTING)
    pieces = sum(bool(delta.reasoning or delta.content) for delta in deltas)
    usage = next((delta.usage for delta in deltas if delta.usage), None)
    if pieces < 2:
        return Result("fail", "the whole answer came at once", "a proxy in between collects it: switch buffering off")
    if not usage or not usage.get("completion_tokens"):
        return Result("fail", f"{pieces} pieces, no usage", "let the server honour stream_options.include_usage")
    return Result("pass", f"{pieces} pieces; {usage['prompt_tokens']} + {usage['completion_tokens']} tokens")


# --- template and tokenizer -----------------------------------------------------------------------------------------


async def template(subject: Subject) -> Result:
    """The chat template is the family's own (a Distill served with Qwen's or Llama's loses what it was tuned for)."""
    ask = subject.chat.engine.prompt
    if subject.profile.template != "r1":
        return Result("not applicable", f"no template of {subject.profile.name} to compare with")
    if ask is None:
        return Result("not applicable", f"{subject.name} does not show its prompt")
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
    ]
    prompt = await ask(subject.chat.served.upstream, subject.chat.model, conversation)
    begin = "<｜begin▁of▁sentence｜>"
    if prompt.startswith(begin * 2):
        return Result("fail", "two tokens begin the prompt", "the template writes one: let the server add none")
    found, wanted = prompt.removeprefix(begin), render(conversation)
    if found == wanted or found == wanted.removesuffix("<think>\n"):
        return Result("pass", f"R1's own; {len(prompt)} characters for three turns")
    return Result(
        "fail",
        f"{prompt[:60]!r} is not R1's",
        "serve the model with its own tokenizer_config.json (GGUF: convert again from DeepSeek's repository)",
    )


async def prefill(subject: Subject) -> Result:
    """The prompt ends in `<think>` and a line end, where the family wants it forced."""
    ask = subject.chat.engine.prompt
    if not subject.profile.forces_think:
        return Result("not applicable", f"{subject.profile.name} begins its thinking by itself")
    if ask is None:
        return Result("not applicable", f"{subject.name} does not show its prompt")
    prompt = await ask(subject.chat.served.upstream, subject.chat.model, [{"role": "user", "content": "Hi"}])
    if prompt.endswith("<think>\n"):
        return Result("pass", "the prompt ends in <think>\\n")
    return Result(
        "fail",
        f"the prompt ends in {prompt[-20:]!r}: the model may skip its thinking",
        "take the chat template of February 2025 or later from DeepSeek's repository",
    )


async def tokenizer(subject: Subject) -> Result:
    """Text survives encoding and decoding (transformers 5 loses spaces of R1's tokenizers: its issue 45488)."""
    encode, decode = subject.chat.engine.tokenize, subject.chat.engine.detokenize
    if encode is None or decode is None:
        return Result("not applicable", f"{subject.name} has no tokenizer over HTTP")
    upstream, model = subject.chat.served.upstream, subject.chat.model
    for text in ROUND_TRIP:
        if (back := await decode(upstream, model, await encode(upstream, model, text))) != text:
            return Result("fail", f"{text!r} became {back!r}", "serve with transformers below 5")
    return Result("pass", f"{len(ROUND_TRIP)} texts come back as they were")


# --- thinking -------------------------------------------------------------------------------------------------------


async def tags(subject: Subject) -> Result:
    """Thinking is apart from the answer, with no tag in it."""
    deltas = await subject.ask(COUNTING)
    answer, thought = answer_in(deltas), thinking_in(deltas)
    if "<think>" in answer or "</think>" in answer:
        return Result("fail", "a tag stands in the answer", _flags_fix(subject))
    if not answer.strip():
        return Result("fail", f"no answer after {len(thought)} characters of thinking", _flags_fix(subject))
    kept = "separated by the server" if subject.chat.served.separates else "separated by Deepwell"
    return Result("pass", f"{len(thought)} characters of thinking, {kept}" if thought else "no thinking, no tags")


async def thinks(subject: Subject) -> Result:
    """A family that always thinks does."""
    if subject.profile.thinks != "always":
        return Result("not applicable", f"{subject.profile.name} does not always think")
    if thought := thinking_in(await subject.ask(COUNTING)).strip():
        return Result("pass", f"begins with {thought[:40]!r}")
    return Result(
        "fail",
        "the model skipped its thinking",
        "force <think>\\n at the end of the prompt: use DeepSeek's chat template of February 2025 or later",
    )


async def cap(subject: Subject) -> Result:
    """A limit that is met while thinking still leaves an answer."""
    thought, answer, generation = await subject.generated(96, 96 - answer_reserve(96))
    if answer.strip():
        return Result("pass", f"answered after {generation.usage.reasoning} tokens of thinking, of 96 in all")
    return Result("fail", f"{len(thought)} characters of thinking, no answer", _continue_fix(subject))


async def budget(subject: Subject) -> Result:
    """A thinking budget is kept within ten per cent."""
    if subject.profile.thinks == "never":
        return Result("not applicable", f"{subject.profile.name} does not think")
    _, answer, generation = await subject.generated(TOKENS, 64)
    spent = generation.usage.reasoning
    if spent > 64 * 1.1 + 1:
        return Result("fail", f"{spent} tokens for a budget of 64", _flags_fix(subject))
    return (
        Result("pass", f"{spent} tokens for a budget of 64")
        if answer.strip()
        else Result("fail", "no answer after the budget", _continue_fix(subject))
    )


async def nothink(subject: Subject) -> Result:
    """Thinking is skipped when asked (`:nothink`)."""
    if subject.profile.thinks == "never":
        return Result("not applicable", f"{subject.profile.name} does not think")
    thought, answer, _ = await subject.generated(TOKENS, TOKENS // 2, thinking=False)
    if thought.strip():
        return Result("fail", f"{len(thought)} characters of thinking all the same", _continue_fix(subject))
    if not answer.strip():
        return Result("fail", "no thinking and no answer", _continue_fix(subject))
    return Result("pass", f"answered at once: {answer.strip()[:40]!r}")


def _flags_fix(subject: Subject) -> str:
    if subject.name == "llamacpp":
        return "start llama.cpp with --jinja --reasoning-format deepseek and the model's own chat template"
    flags = " ".join(subject.flags)
    return f"start the server with {flags}" if flags else "set DEEPWELL_CHAT__PROFILE to the model's family"


def _continue_fix(subject: Subject) -> str:
    return (
        f"the {subject.name} server cannot continue a prompt: serve the model with vLLM, llama.cpp or Ollama, or a "
        "server that has /v1/completions"
    )


# --- the model itself -----------------------------------------------------------------------------------------------


async def garbage(subject: Subject) -> Result:
    """No runs of one character, such as the "!!!!" of 16-bit overflow."""
    text = answer_in(await subject.ask(COUNTING)) + thinking_in(await subject.ask(COUNTING))
    run = re.search(r"(\S)\1{11,}", text)
    if run is None:
        return Result("pass", "no run of one character")
    fix = "float16 overflows: serve with --dtype bfloat16, or float32 on cards that have none, or quantised weights"
    return Result("fail", f"{run.group()[:16]!r} in the output", fix)


async def strawberry(subject: Subject) -> Result:
    """Letters are counted right."""
    return await _knows(subject, COUNTING, r"\b(3|three)\b", "3")


async def sum_(subject: Subject) -> Result:
    """3 + 5."""
    return await _knows(subject, "What is 3 + 5? Answer with the number.", r"\b(8|eight)\b", "8")


async def _knows(subject: Subject, question: str, pattern: str, wanted: str) -> Result:
    if subject.too_small:
        return Result("not applicable", f"model cannot: {subject.too_small}")
    answer = answer_in(await subject.ask(question)).strip()
    if re.search(pattern, answer, re.IGNORECASE):
        return Result("pass", f"{answer[-60:]!r}")
    fix = "check template and sampling above; if they pass, the quantisation is too coarse or the model too small"
    return Result("fail", f"{answer[-60:]!r}, not {wanted}", fix)


IN_LANGUAGE: Mapping[Language, str] = {
    "en": "In one sentence: why is the sky blue?",
    "ja": "空はなぜ青いのですか。一文で答えてください。",
    "zh": "天空为什么是蓝色的？请用一句话回答。",
}


def answers_in(language: Language) -> Probe:
    """The probe that asks in a language."""

    async def probe(subject: Subject) -> Result:
        if subject.too_small:
            return Result("not applicable", f"model cannot: {subject.too_small}")
        if subject.profile.languages and language not in subject.profile.languages:
            return Result("not applicable", f"{subject.profile.name} is not made for it")
        answer = answer_in(await subject.ask(IN_LANGUAGE[language])).strip()
        if re.search(r"[^\W\d_]", answer) and detect(answer) == language:
            return Result("pass", repr(answer[:40]))
        fix = "Deepwell asks again in such cases; ask for the language in the question, or take a larger model"
        return Result("fail", f"{answer[:40]!r} is not {language}", fix)

    probe.__doc__ = f"A question in {language} is answered in it."
    return probe


TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}


async def tools(subject: Subject) -> Result:
    """A tool is taken; for families that have them it is called."""
    if subject.profile.tools == "none":
        return Result("not applicable", f"{subject.profile.name} has no tools")
    if subject.too_small:
        return Result("not applicable", f"model cannot: {subject.too_small}")
    deltas = await subject.ask("Use the tool to add 3 and 5.", tools=[TOOL])
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    if any(call.get("name") == "add" for call in calls):
        return Result("pass", "called add")
    return Result("fail", "the tool was not called", "vLLM: --enable-auto-tool-choice --tool-call-parser of the family")


#: in the order in which they run and are shown
PROBES: Mapping[str, Probe] = {
    "name": name,
    "context window": window,
    "template": template,
    "think prefill": prefill,
    "tokenizer round trip": tokenizer,
    "streaming and usage": streaming,
    "tags": tags,
    "thinks (no empty think)": thinks,
    "cap while thinking": cap,
    "thinking budget": budget,
    "thinking skipped": nothink,
    "no 16-bit garbage": garbage,
    "language: English": answers_in("en"),
    "language: Japanese": answers_in("ja"),
    "language: Chinese": answers_in("zh"),
    "strawberry": strawberry,
    "3 + 5": sum_,
    "tool turn": tools,
}
