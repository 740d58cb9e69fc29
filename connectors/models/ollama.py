"""Ollama's own API: `POST /api/chat` with newline-delimited JSON.

`num_ctx` is always sent: without it Ollama takes 4,096 tokens on small machines and cuts the prompt's beginning without
a word. `think` is sent by the profile; thinking comes as `message.thinking`. Models are listed, pulled and shown with
the `ollama` client. Source: github.com/ollama/ollama, docs/api.md, docs/capabilities/thinking.mdx.
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from ollama import AsyncClient, ResponseError
from pydantic import SecretStr

from connectors.chat_model import ServedChat
from connectors.embedding_server import OLLAMA, ServedEmbeddings
from connectors.engine import Engine, Request
from connectors.refusals import refusal
from connectors.tools import arguments_object
from connectors.upstream import Upstream
from pipelines.delta import Delta
from pipelines.errors import BadRequest, ModelUnavailable
from pipelines.profiles import Profile
from pipelines.rag import TextEmbeddings

NAME = "ollama"
DEFAULT_URL = "http://127.0.0.1:11434"
#: fields of a client's request that have an effect here; a choice of tools has no place in its API
PASSES_ON = frozenset({"tools", "functions", "keep_alive"})
#: window asked for when nobody says one
DEFAULT_CONTEXT = 8192


def chat(
    url: str, model: str, *, api_key: str = "", profile: Profile, timeout: float = 300.0, context: int = 0
) -> BaseChatModel:
    """A chat model served by Ollama. `context` is sent as `num_ctx`. Raises BadRequest without a model's name."""
    if not model:
        raise BadRequest("Ollama needs a model's name: set DEEPWELL_CHAT__MODEL, e.g. deepseek-r1:7b")
    return ServedChat(
        url=server_url(url),
        model=model,
        engine=ENGINE,
        family=profile,
        api_key=SecretStr(api_key) if api_key else None,
        timeout=timeout,
        context=context or DEFAULT_CONTEXT,
    )


def server_url(url: str) -> str:
    """The server's address without `/v1` or `/api`."""
    return re.sub(r"/(?:v1|api)/?$", "", (url or DEFAULT_URL).rstrip("/"))


def embeddings(
    url: str,
    model: str,
    *,
    api_key: str = "",
    threads: int = 0,
    cache_dir: Path | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
) -> TextEmbeddings:
    """Embeddings of a model served by Ollama; `threads` and `cache_dir` mean nothing here. Raises BadRequest."""
    return ServedEmbeddings(
        server_url(url),
        model,
        OLLAMA,
        api_key=api_key,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
    )


def write(request: Request) -> dict[str, Any]:
    """Body of `POST /api/chat`."""
    options: dict[str, Any] = {"num_ctx": request.context or DEFAULT_CONTEXT}
    for ours, theirs in (
        ("max_tokens", "num_predict"),
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("seed", "seed"),
    ):
        if (value := getattr(request, ours)) is not None:
            options[theirs] = value
    if request.stop:
        options["stop"] = list(request.stop)
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        "stream": request.stream,
        "options": options,
    }
    if request.tools and request.tool_choice != "none":  # it has no other choice to say
        body["tools"] = list(request.tools)
    if request.keep_alive is not None:
        body["keep_alive"] = duration(request.keep_alive)
    rule = request.profile.engine(NAME)
    thinks = request.profile.thinks_by_default if request.thinking is None else request.thinking
    if request.profile.thinks != "never":
        body |= rule.thinking_on if thinks else rule.thinking_off
    return body | (request.extra or {})


def read(event: dict[str, Any]) -> Delta:
    """One line of the answer. The last one (`done`) has the counts."""
    if error := event.get("error"):
        return Delta(error=str(error))
    message = event.get("message") or {}
    delta = Delta(content=message.get("content") or "", reasoning=message.get("thinking") or "")
    if calls := message.get("tool_calls"):
        delta.tool_calls = [
            {
                "name": call["function"]["name"],
                "args": orjson.dumps(call["function"].get("arguments") or {}).decode(),
                "id": call.get("id") or f"call_{secrets.token_hex(12)}",
                "index": index,
                "type": "tool_call_chunk",
            }
            for index, call in enumerate(calls)
        ]
    if event.get("done"):
        delta.finish_reason = "length" if event.get("done_reason") == "length" else "stop"
        delta.usage = {
            "prompt_tokens": event.get("prompt_eval_count") or 0,
            "completion_tokens": event.get("eval_count") or 0,
        }
    return delta


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message in Ollama's form: text in `content`, pictures in `images`, tool arguments as objects."""
    out = {name: value for name, value in message.items() if name in {"role", "content"}}
    if isinstance(out.get("content"), list):
        parts = out["content"]
        out["content"] = "".join(part.get("text", "") for part in parts if part.get("type") == "text")
        images = [part["image_url"]["url"].partition("base64,")[2] for part in parts if part.get("type") == "image_url"]
        if images:
            out["images"] = images
    out["content"] = out.get("content") or ""
    if calls := message.get("tool_calls"):
        out["tool_calls"] = [
            {"function": {"name": c["function"]["name"], "arguments": arguments_object(c["function"]["arguments"])}}
            for c in calls
        ]
    if "reasoning_content" in message:
        out["thinking"] = message["reasoning_content"]
    if message["role"] == "tool" and "name" in message:
        out["tool_name"] = message["name"]
    return out


def names(listing: Any) -> list[str]:
    """Model names of `GET /api/tags`."""
    return [str(entry["name"]) for entry in listing.get("models") or []]


async def models(url: str) -> list[dict[str, Any]]:
    """Models on the server: name, size in bytes, family, quantisation. Raises ModelUnavailable."""
    async with _client(url, "") as client:
        listed = await client.list()
    return [
        {
            "name": entry.model,
            "size": int(entry.size or 0),
            "family": entry.details.family if entry.details else None,
            "quantisation": entry.details.quantization_level if entry.details else None,
        }
        for entry in listed.models
    ]


async def pull(url: str, model: str) -> AsyncIterator[tuple[str, int, int]]:
    """Have the server download a model; yields (what it does, bytes done, bytes in all). Raises ModelUnavailable."""
    async with _client(url, model) as client:
        async for step in await client.pull(model, stream=True):
            yield step.status or "", int(step.completed or 0), int(step.total or 0)


async def show(url: str, model: str) -> dict[str, Any]:
    """What the server knows about a model: window, template, capabilities, parameters. Raises ModelUnavailable."""
    async with _client(url, model) as client:
        shown = await client.show(model)
    info: dict[str, Any] = dict(shown.modelinfo or {})
    windows = [value for name, value in info.items() if name.endswith(".context_length")]
    return {
        "context": int(windows[0]) if windows else 0,
        "template": shown.template or "",
        "capabilities": list(shown.capabilities or []),
        "parameters": shown.parameters or "",
    }


@asynccontextmanager
async def _client(url: str, model: str) -> AsyncIterator[AsyncClient]:
    address = server_url(url)
    try:
        yield AsyncClient(host=address)
    except ResponseError as error:
        raise refusal(error.status_code, {}, str(error.error).encode(), url=address, model=model) from error
    except ConnectionError as error:
        raise ModelUnavailable(f"no Ollama answers at {address}. Start it with `ollama serve`") from error


async def window(upstream: Upstream, model: str) -> int:
    """The window the model was made for; what a request asks for (`num_ctx`) may be less."""
    async with await upstream.request("POST", "/api/show", orjson.dumps({"model": model}), timeout=10.0) as answer:
        info = (await answer.json()).get("model_info") or {} if answer.status == 200 else {}
    return max((int(value) for name, value in info.items() if name.endswith(".context_length")), default=0)


def duration(keep_alive: str | float) -> str | float:
    """A time as Ollama reads it: with a unit as text, without one as a number (of seconds)."""
    try:
        return float(keep_alive)
    except ValueError:
        return keep_alive


async def load(upstream: Upstream, model: str, keep_alive: str | float) -> None:
    """Load the model, or unload it with 0: a request without a prompt does nothing else. Raises ModelUnavailable."""
    body = {"model": model, "stream": False, **({"keep_alive": duration(keep_alive)} if keep_alive != "" else {})}
    async with await upstream.request("POST", "/api/generate", orjson.dumps(body)) as answer:
        if answer.status // 100 != 2:
            raise refusal(answer.status, answer.headers, await answer.body(), url=upstream.url, model=model)


async def resume(upstream: Upstream, request: Request, thoughts: str) -> tuple[str, dict[str, Any]]:
    """The same chat with the thoughts in the last turn: the template writes them back there, closed."""
    body = write(request)
    body["messages"].append({"role": "assistant", "content": "", "thinking": thoughts.rstrip()})
    return "/api/chat", body


ENGINE = Engine(
    name=NAME,
    path="/api/chat",
    write=write,
    read=read,
    framing="lines",
    models_path="/api/tags",
    names=names,
    window=window,
    asks_window=True,
    load=load,
    resume=resume,
)
