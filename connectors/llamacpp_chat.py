"""Speaking to llama.cpp's HTTP server: chat, the window, an answer continued after its thinking was closed.

The server separates thinking itself (`--reasoning-format deepseek`, its default) into `reasoning_content`, if it knows
the template for a thinking model's: by its words (`content.split('</think>')` in R1's). It keeps a limit of thinking
tokens for each request (`thinking_budget_tokens`; 0 is not one). Source: llama.cpp, tools/server/README.md. The
server process itself is in connectors/models/llamacpp.py, which must not import this.
"""

import re
from functools import partial
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

from connectors.chat_model import ServedChat
from connectors.engine import Engine, Request, ask, closed_thoughts
from connectors.upstream import Upstream
from connectors.wire import names_openai, read_openai, separates_thinking, write_openai
from pipelines.delta import Delta
from pipelines.errors import BadRequest
from pipelines.profiles import Profile

NAME = "llamacpp"


def chat(
    url: str, model: str, *, api_key: str = "", profile: Profile, timeout: float = 300.0, context: int = 0
) -> BaseChatModel:
    """A chat model behind a llama.cpp server. Raises BadRequest without an address."""
    if not url:
        raise BadRequest("the llama.cpp server has no address: `deepwell up` starts one, or set DEEPWELL_CHAT__URL")
    return ServedChat(
        url=re.sub(r"/v1/?$", "", url.rstrip("/")),
        model=model,
        engine=ENGINE,
        family=profile,
        api_key=SecretStr(api_key) if api_key else None,
        timeout=timeout,
        context=context,
    )


async def takes_tools(upstream: Upstream) -> bool:
    """Whether the model's template has a place for tools; servers that do not say so are believed to."""
    async with await upstream.request("GET", "/props", timeout=10.0) as answer:
        props = await answer.json() if answer.status == 200 else {}
    return (props.get("chat_template_caps") or {}).get("supports_tools") is not False


async def window(upstream: Upstream, model: str) -> int:
    """Tokens of one slot's context (`/props`)."""
    async with await upstream.request("GET", "/props", timeout=10.0) as answer:
        props = await answer.json() if answer.status == 200 else {}
    return int((props.get("default_generation_settings") or {}).get("n_ctx") or 0)


async def prompt(upstream: Upstream, model: str, messages: list[dict[str, Any]]) -> str:
    """What the server's own template makes of messages. Raises NotImplementedError."""
    return str((await _post(upstream, "/apply-template", {"messages": messages}))["prompt"])


async def tokenize(upstream: Upstream, model: str, text: str) -> list[int]:
    """Token ids of a text; special tokens in it are taken as text. Raises NotImplementedError."""
    return list((await _post(upstream, "/tokenize", {"content": text}))["tokens"])


async def detokenize(upstream: Upstream, model: str, tokens: list[int]) -> str:
    """The text of token ids. Raises NotImplementedError."""
    return str((await _post(upstream, "/detokenize", {"tokens": tokens}))["content"])


_post = partial(ask, server="llama.cpp")


async def resume(upstream: Upstream, request: Request, thoughts: str) -> tuple[str, dict[str, Any]]:
    """A raw completion that goes on after `</think>`; the prompt is rendered by the server's own template."""
    rendered = await prompt(upstream, request.model, request.messages)
    opened = rendered.rstrip().endswith("<think>")
    sampling = {"n_predict": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p}
    sent = {name: value for name, value in (sampling | {"seed": request.seed}).items() if value is not None}
    text = rendered + closed_thoughts(thoughts, opened)
    return "/completion", {"prompt": text, "stream": True, "stop": list(request.stop), "cache_prompt": True, **sent}


def read_completion(event: dict[str, Any]) -> Delta:
    """One event of `/completion`; the last one has the counts."""
    delta = Delta(content=event.get("content") or "")
    if event.get("error"):
        return read_openai(event)
    if event.get("stop"):
        delta.finish_reason = "length" if event.get("stop_type") == "limit" else "stop"
        delta.usage = {
            "prompt_tokens": event.get("tokens_evaluated") or 0,
            "completion_tokens": event.get("tokens_predicted") or 0,
        }
    return delta


ENGINE = Engine(
    name=NAME,
    path="/v1/chat/completions",
    write=partial(write_openai, engine=NAME),
    read=read_openai,
    framing="sse",
    models_path="/v1/models",
    names=names_openai,
    separates=True,
    window=window,
    resume=resume,
    read_resumed=read_completion,
    asks_separation=separates_thinking,
    takes_tools=takes_tools,
    tokenize=tokenize,
    detokenize=detokenize,
    prompt=prompt,
)
