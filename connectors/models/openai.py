"""Any OpenAI-compatible model server: DeepSeek's own API, PAI-EAS, LM Studio, SGLang, a gateway.

The address may end in `/v1`, in a deeper path, or in `/chat/completions` itself. The key is sent as `Bearer`, or as it
is if it names its scheme ("Token abc"). A server that wants the token bare, as PAI-EAS does, gets a key written as
`bare:TOKEN`.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from connectors.chat_model import ServedChat
from connectors.embedding_server import OPENAI, ServedEmbeddings
from connectors.engine import Engine, Request, closed_thoughts, raw_body
from connectors.r1_template import render
from connectors.rerank_server import ServedReranker
from connectors.upstream import Upstream
from connectors.wire import names_openai, read_completion, read_openai, write_openai
from pipelines.errors import BadRequest
from pipelines.profiles import Profile
from pipelines.rag import Reranker, TextEmbeddings

NAME = "openai"


def chat(
    url: str, model: str, *, api_key: str = "", profile: Profile, timeout: float = 300.0, context: int = 0
) -> BaseChatModel:
    """A chat model behind `POST {url}/chat/completions`. Raises BadRequest without an address or a model's name."""
    if not url or not model:
        raise BadRequest("an OpenAI-compatible model server needs DEEPWELL_CHAT__URL and DEEPWELL_CHAT__MODEL")
    return ServedChat(
        url=base_url(url),
        model=model,
        engine=ENGINE,
        family=profile,
        api_key=SecretStr(api_key) if api_key else None,
        timeout=timeout,
        context=context,
    )


def base_url(url: str) -> str:
    """The address that paths are added to: with a version or path of its own, else with `/v1`."""
    url = re.sub(r"/chat/completions/?$", "", url.rstrip("/"))
    return url if "/" in url.partition("://")[2] else f"{url}/v1"


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
    """Embeddings of an OpenAI-compatible server; `threads` and `cache_dir` mean nothing here. Raises BadRequest."""
    return ServedEmbeddings(
        base_url(url),
        model,
        OPENAI,
        api_key=api_key,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
    )


def reranker(url: str, model: str, *, api_key: str = "") -> Reranker:
    """Reranking by `POST {url}/rerank`: Jina, Cohere, Xinference, LiteLLM, TEI. Raises BadRequest."""
    return ServedReranker(url, model, api_key)


async def window(upstream: Upstream, model: str) -> int:
    """The window as servers list it (`max_model_len`, `context_length`, …); 0 if this one does not."""
    async with await upstream.request("GET", "/models", timeout=10.0) as answer:
        listing = await answer.json() if answer.status == 200 else {}
    for entry in listing.get("data") or []:
        if entry.get("id") == model:
            served = {**(entry.get("meta") or {}), **entry}  # llama.cpp's stands in `meta`
            return max((int(served.get(name) or 0) for name in _WINDOW_FIELDS), default=0)
    return 0


async def resume(upstream: Upstream, request: Request, thoughts: str) -> tuple[str, dict[str, Any]]:
    """A raw completion after `</think>`, its prompt written in the family's template.

    Raises NotImplementedError for a family whose template we do not write.
    """
    if request.profile.template != "r1":
        raise NotImplementedError(f"no template of {request.profile.name} is known, so its answer cannot be continued")
    return "/completions", raw_body(request, render(request.messages) + closed_thoughts(thoughts, opened=True))


_WINDOW_FIELDS = ("n_ctx", "max_model_len", "context_length", "context_window", "max_context_length")

ENGINE = Engine(
    name=NAME,
    path="/chat/completions",
    write=partial(write_openai, engine=NAME),
    read=read_openai,
    framing="sse",
    models_path="/models",
    names=names_openai,
    window=window,
    resume=resume,
    read_resumed=read_completion,
)
