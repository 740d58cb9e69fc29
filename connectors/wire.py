"""The OpenAI chat wire format, upstream side: messages and requests written, events read.

Source: platform.openai.com/docs/api-reference/chat. Thinking comes as `reasoning_content` (llama.cpp, DeepSeek, older
vLLM), `reasoning` (vLLM from 0.17.1, Ollama's /v1, OpenRouter) or `thinking` (Ollama).
"""

from collections.abc import Sequence
from typing import Any

import orjson
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.messages.utils import convert_to_openai_messages

from connectors.engine import Request
from connectors.upstream import Upstream
from pipelines.delta import Delta
from pipelines.generate import to_langchain
from pipelines.profiles import Profile
from pipelines.reasoning import strip_reasoning
from pipelines.types import Message


def plain_messages(messages: Sequence[BaseMessage | Message], profile: Profile) -> list[dict[str, Any]]:
    """Messages in OpenAI's form, without reasoning of earlier turns and, where the family wants none, without system.

    Instructions of a system turn go in front of the user turn that follows them. Tool-call turns keep their reasoning
    for families that require it.
    """
    out: list[dict[str, Any]] = []
    instructions: list[str] = []
    for message in messages:
        if profile.system == "none" and (told := _instructions(message)) is not None:
            instructions.append(told)
            continue
        entry = _own_entry(message, profile) if isinstance(message, Message) else _entry(message, profile)
        if instructions and entry["role"] == "user":
            entry["content"] = _with_instructions(instructions, entry["content"])
            instructions = []
        out.append(entry)
    if instructions:
        out.append({"role": "user", "content": "\n\n".join(instructions)})
    return out


def _with_instructions(instructions: list[str], content: Any) -> Any:
    text = "\n\n".join(instructions)
    return f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": text}, *content]


def _instructions(message: BaseMessage | Message) -> str | None:
    if isinstance(message, Message):
        return message.content if message.role == "system" else None
    return message.text if isinstance(message, SystemMessage) else None


def _own_entry(message: Message, profile: Profile) -> dict[str, Any]:
    """One of our own messages, without LangChain's between where it is nothing but text: that takes 3 µs each."""
    if message.role in {"user", "system"}:
        return {"role": message.role, "content": message.content}
    if message.role == "assistant" and not message.tool_calls:
        return {"role": "assistant", "content": strip_reasoning(message.content)}
    return _entry(to_langchain(message), profile)


def _entry(message: BaseMessage, profile: Profile) -> dict[str, Any]:
    simple = isinstance(message.content, str) and message.type in _ROLES
    # as they were written: LangChain reads their arguments, and drops what is no JSON
    written = message.additional_kwargs.get("tool_calls") if isinstance(message, AIMessage) else None
    called = bool(written or (isinstance(message, AIMessage) and message.tool_calls))
    if not simple or (called and not written):
        (entry,) = convert_to_openai_messages([message])
    else:
        entry = {"role": _ROLES.get(message.type, message.type), "content": message.content}
    if written:
        entry["tool_calls"] = written
    if isinstance(message, AIMessage):
        if isinstance(entry.get("content"), str):
            entry["content"] = strip_reasoning(entry["content"])
        reasoning = message.additional_kwargs.get("reasoning_content")
        if reasoning and called and profile.history == "tool_turns_keep_reasoning":
            entry["reasoning_content"] = reasoning
    return dict(entry)


#: fields of a request with tools
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


def write_openai(request: Request, engine: str) -> dict[str, Any]:
    """Body of `POST /v1/chat/completions` in the words of one engine."""
    rule = request.profile.engine(engine)
    body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": request.stream}
    if request.stream:
        body["stream_options"] = {"include_usage": True}
    for name in ("max_tokens", "temperature", "top_p", "seed", *(_TOOLS if request.tools else ())):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.thinking is not None:
        body |= rule.thinking_on if request.thinking else rule.thinking_off
    elif request.profile.thinks == "switch":
        body |= rule.thinking_on if request.profile.thinks_by_default else rule.thinking_off
    if request.effort and rule.effort:
        body[rule.effort] = request.effort
    if request.thinking_budget is not None and rule.budget:
        body[rule.budget] = request.thinking_budget
    return body | (request.extra or {})


def read_openai(event: dict[str, Any]) -> Delta:
    """One `chat.completion.chunk`."""
    if error := event.get("error"):
        return Delta(error=str(error.get("message") or error) if isinstance(error, dict) else str(error))
    usage = event.get("usage")
    choices = event.get("choices")
    if not choices:
        return Delta(usage=usage)
    choice = choices[0]
    delta = choice.get("delta") or choice.get("message") or {}
    return Delta(
        content=delta.get("content") or "",
        reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
        finish_reason=choice.get("finish_reason") or "",
        usage=usage,
        tool_calls=_tool_calls(delta.get("tool_calls")),
    )


def _tool_calls(calls: Any) -> list[dict[str, Any]] | None:
    if not calls:
        return None
    chunks = []
    for call in calls:
        function = call.get("function") or {}
        args = function.get("arguments")
        chunks.append(
            {
                "name": function.get("name"),
                "args": args if isinstance(args, str | None) else orjson.dumps(args).decode(),
                "id": call.get("id"),
                "index": call.get("index", 0),
                "type": "tool_call_chunk",
            }
        )
    return chunks


def read_completion(event: dict[str, Any]) -> Delta:
    """One event of `/completions`."""
    delta = read_openai(event)
    if choices := event.get("choices"):
        delta.content = choices[0].get("text") or ""
    return delta


def names_openai(listing: Any) -> list[str]:
    """Model ids of `GET /v1/models`."""
    return [str(entry["id"]) for entry in listing.get("data") or []]


async def separates_thinking(upstream: Upstream, model: str) -> bool | None:
    """Whether a server separates the thinking of a model whose template opens it, found out by one token.

    Where it does not, that token is content; where it does, it is thinking, or the end of it and nothing. None if the
    server does not answer that.
    """
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "stream": False}
    async with await upstream.request("POST", "/v1/chat/completions", orjson.dumps(body)) as answer:
        found = await answer.json() if answer.status == 200 else None
    if not isinstance(found, dict) or not found.get("choices"):
        return None
    message = found["choices"][0].get("message") or {}
    return bool(message.get("reasoning_content") or message.get("reasoning")) or not message.get("content")
