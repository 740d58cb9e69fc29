"""vLLM's OpenAI-compatible server.

Thinking comes as `reasoning` from 0.17.1 on and as `reasoning_content` before; both are read. It is separated only if
the server was started with `--reasoning-parser`; without, tags are separated here. Sources: docs.vllm.ai,
features/reasoning_outputs; r1 flags by version are in the profile (`start_flags`).
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from connectors.chat_model import ServedChat
from connectors.embedding_server import OPENAI, ServedEmbeddings
from connectors.engine import Engine, Request, ask, closed_thoughts, raw_body
from connectors.rerank_server import ServedReranker
from connectors.upstream import Upstream
from connectors.wire import names_openai, read_completion, read_openai, separates_thinking, write_openai
from pipelines.errors import BadRequest
from pipelines.profiles import Profile
from pipelines.rag import Reranker, TextEmbeddings

NAME = "vllm"
DEFAULT_URL = "http://127.0.0.1:8000"


def chat(
    url: str, model: str, *, api_key: str = "", profile: Profile, timeout: float = 300.0, context: int = 0
) -> BaseChatModel:
    """A chat model served by vLLM; `model` may be the name of a LoRA adapter. Raises BadRequest without a name."""
    if not model:
        raise BadRequest("vLLM needs the model's served name: set DEEPWELL_CHAT__MODEL")
    return ServedChat(
        url=server_url(url),
        model=model,
        engine=ENGINE,
        family=profile,
        api_key=SecretStr(api_key) if api_key else None,
        timeout=timeout,
        context=context,
    )


def server_url(url: str) -> str:
    """The server's address without `/v1`: its other paths (`/metrics`, `/tokenize`) stand beside it."""
    return re.sub(r"/v1/?$", "", (url or DEFAULT_URL).rstrip("/"))


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
    """Embeddings of a vLLM server; `threads` and `cache_dir` mean nothing here. Raises BadRequest."""
    return ServedEmbeddings(
        f"{server_url(url)}/v1",
        model,
        OPENAI,
        api_key=api_key,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
    )


def reranker(url: str, model: str, *, api_key: str = "") -> Reranker:
    """Reranking by a cross-encoder that vLLM serves (`/v1/rerank`). Raises BadRequest."""
    return ServedReranker(f"{server_url(url)}/v1", model, api_key)


async def window(upstream: Upstream, model: str) -> int:
    """`max_model_len` of the served model; 0 if the server does not list it."""
    async with await upstream.request("GET", "/v1/models", timeout=10.0) as answer:
        listing = await answer.json() if answer.status == 200 else {}
    lengths = {entry["id"]: entry.get("max_model_len") or 0 for entry in listing.get("data") or []}
    return int(lengths.get(model, 0))


async def resume(upstream: Upstream, request: Request, thoughts: str) -> tuple[str, dict[str, Any]]:
    """A completion that goes on after `</think>`, by token ids: R1's template would drop thoughts from a message."""
    prompt_ids = await _tokens(upstream, {"model": request.model, "messages": request.messages})
    opened = "<think>" in await detokenize(upstream, request.model, prompt_ids[-4:])
    rest = await tokenize(upstream, request.model, closed_thoughts(thoughts, opened))
    return "/v1/completions", raw_body(request, prompt_ids + rest)


async def prompt(upstream: Upstream, model: str, messages: list[dict[str, Any]]) -> str:
    """What the served template makes of messages. Raises NotImplementedError."""
    return await detokenize(upstream, model, await _tokens(upstream, {"model": model, "messages": messages}))


async def tokenize(upstream: Upstream, model: str, text: str) -> list[int]:
    """Token ids of a text, none added. Raises NotImplementedError."""
    return await _tokens(upstream, {"model": model, "prompt": text, "add_special_tokens": False})


async def detokenize(upstream: Upstream, model: str, tokens: list[int]) -> str:
    """The text of token ids. Raises NotImplementedError."""
    return str((await _post(upstream, "/detokenize", {"model": model, "tokens": tokens}))["prompt"])


async def _tokens(upstream: Upstream, body: dict[str, Any]) -> list[int]:
    return list((await _post(upstream, "/tokenize", body))["tokens"])


_post = partial(ask, server="vLLM")


def write(request: Request) -> dict[str, Any]:
    """Body of a chat completion. vLLM works on smaller priorities first, if it was started with that policy."""
    body = write_openai(request, NAME)
    return body | {"priority": request.priority} if request.priority else body


ENGINE = Engine(
    name=NAME,
    path="/v1/chat/completions",
    write=write,
    read=read_openai,
    framing="sse",
    models_path="/v1/models",
    names=names_openai,
    window=window,
    resume=resume,
    read_resumed=read_completion,
    tokenize=tokenize,
    detokenize=detokenize,
    asks_separation=separates_thinking,
    prompt=prompt,
)
