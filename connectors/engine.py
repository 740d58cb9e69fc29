"""How one kind of model server is spoken to, and what passes between it and the chat model."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata

from connectors.upstream import Upstream
from pipelines.delta import Delta
from pipelines.profiles import Profile


@dataclass(slots=True)
class Request:
    """What is asked of a model once, in no server's words. None leaves a thing to profile and server."""

    messages: list[dict[str, Any]]
    model: str
    profile: Profile
    stream: bool = True
    context: int = 0
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    #: False switches thinking off where the family can
    thinking: bool | None = None
    thinking_budget: int | None = None
    effort: str | None = None
    tools: Sequence[dict[str, Any]] = ()
    tool_choice: Any = None
    #: whether several calls may come in one turn
    parallel_tool_calls: bool | None = None
    #: how long the model stays loaded, in Ollama's words
    keep_alive: str | float | None = None
    #: how much later than others it may be worked on; 0 is the usual
    priority: int = 0
    #: fields for this server, sent as they are
    extra: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """How one kind of model server is spoken to."""

    name: str
    path: str
    #: the request's body
    write: Callable[[Request], dict[str, Any]]
    #: one event's JSON
    read: Callable[[dict[str, Any]], Delta]
    #: "sse" or "lines"
    framing: str
    #: path of the list of models
    models_path: str
    #: names in that list
    names: Callable[[Any], list[str]]
    #: the server separates thinking by itself for this profile, so `content` never begins inside it
    separates: bool = False
    #: asks for the context window in tokens, 0 if the server does not say
    window: Callable[[Upstream, str], Awaitable[int]] | None = None
    #: the window is what each request asks for, up to the model's
    asks_window: bool = False
    #: path and body of a request that continues with the answer after given thoughts, and how its events are read
    resume: Callable[[Upstream, Request, str], Awaitable[tuple[str, dict[str, Any]]]] | None = None
    read_resumed: Callable[[dict[str, Any]], Delta] | None = None
    #: asks whether the server really separates thinking for this model; `separates` is believed where it does not say
    asks_separation: Callable[[Upstream, str], Awaitable[bool | None]] | None = None
    #: asks whether the model's template has a place for tools, for servers that leave them out in silence
    takes_tools: Callable[[Upstream], Awaitable[bool]] | None = None
    #: has the server load a model for so long, or unload it
    load: Callable[[Upstream, str, str | float], Awaitable[None]] | None = None
    #: token ids of a text without special tokens, the text of token ids, and the prompt the template makes of messages
    tokenize: Callable[[Upstream, str, str], Awaitable[list[int]]] | None = None
    detokenize: Callable[[Upstream, str, list[int]], Awaitable[str]] | None = None
    prompt: Callable[[Upstream, str, list[dict[str, Any]]], Awaitable[str]] | None = None


def raw_body(request: Request, prompt: Any) -> dict[str, Any]:
    """Body of a completion of raw text (or token ids), in OpenAI's words."""
    body: dict[str, Any] = {"model": request.model, "prompt": prompt, "stream": True}
    body["stream_options"] = {"include_usage": True}
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    return body


async def ask(upstream: Upstream, path: str, body: dict[str, Any], server: str) -> dict[str, Any]:
    """The JSON object a path of the server's own answers. Raises NotImplementedError where it does not."""
    async with await upstream.request("POST", path, orjson.dumps(body)) as answer:
        if answer.status != 200:
            raise NotImplementedError(f"{server} at {upstream.url} has no {path} ({answer.status})")
        return dict(await answer.json())


def closed_thoughts(thoughts: str, opened: bool) -> str:
    """Thoughts as they continue a prompt: opened, unless the template did that, and closed."""
    return f"{'' if opened else '<think>' + chr(10)}{thoughts.rstrip()}\n</think>\n\n"


def usage_metadata(usage: dict[str, Any]) -> UsageMetadata:
    """OpenAI's usage in LangChain's words."""
    prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    found = UsageMetadata(input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion)
    if reasoning := (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"):
        found["output_token_details"] = {"reasoning": int(reasoning)}
    if cached := (usage.get("prompt_tokens_details") or {}).get("cached_tokens"):
        found["input_token_details"] = {"cache_read": int(cached)}
    return found


def whole_message(chunk: AIMessageChunk) -> AIMessage:
    """The message that chunks add up to."""
    return AIMessage(
        content=chunk.content,
        additional_kwargs=chunk.additional_kwargs,
        response_metadata=chunk.response_metadata,
        tool_calls=chunk.tool_calls,
        invalid_tool_calls=chunk.invalid_tool_calls,
        usage_metadata=chunk.usage_metadata,
    )
