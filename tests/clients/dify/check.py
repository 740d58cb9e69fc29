"""The base classes of Dify's model plugins against a running Deepwell; prints what each of them saw as JSON.

The same code as in Dify's plugin "OpenAI-API-compatible": Save, invoke, think block, embeddings, rerank. It needs
Python 3.12 and a process of its own, since importing it patches the standard library with gevent.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from dify_plugin.entities.model.message import AssistantPromptMessage, SystemPromptMessage, UserPromptMessage
from dify_plugin.errors.model import CredentialsValidateFailedError, InvokeError
from dify_plugin.interfaces.model.openai_compatible.llm import OAICompatLargeLanguageModel
from dify_plugin.interfaces.model.openai_compatible.rerank import OAICompatRerankModel
from dify_plugin.interfaces.model.openai_compatible.text_embedding import OAICompatEmbeddingModel

URL, KEY, MODEL, EMBEDDER, QUESTION = (
    os.environ[f"DEEPWELL_{name}"] for name in ("URL", "KEY", "MODEL", "EMBEDDER", "QUESTION")
)
CREDENTIALS = {"endpoint_url": f"{URL}/v1", "api_key": KEY, "mode": "chat", "context_size": "8192"}


class Llm(OAICompatLargeLanguageModel):
    def _get_num_tokens_by_gpt2(self, text: str) -> int:
        return len(text) // 4  # the vocabulary would be downloaded


class Embeddings(OAICompatEmbeddingModel):
    def _get_num_tokens_by_gpt2(self, text: str) -> int:
        return len(text) // 4


def saved(model: Any, name: str, **credentials: Any) -> str:
    """What Dify's Save says: "" for success."""
    try:
        model.validate_credentials(name, {**CREDENTIALS, **credentials})
    except CredentialsValidateFailedError as error:
        return str(error)
    return ""


def saves() -> dict[str, str]:
    llm = Llm(model_schemas=[])
    return {
        "chat": saved(llm, MODEL),
        "slash": saved(llm, MODEL, endpoint_url=f"{URL}/v1/"),
        "root": saved(llm, MODEL, endpoint_url=URL),
        "completion": saved(llm, MODEL, mode="completion"),
        "stream": saved(llm, MODEL, stream_mode_auth="use"),
        "wrong key": saved(llm, MODEL, api_key="wrong"),
        "wrong model": saved(llm, "gpt-4o"),
        "embedding": saved(Embeddings(model_schemas=[]), EMBEDDER),
        "rerank": saved(OAICompatRerankModel(model_schemas=[]), "deepwell-rerank"),
    }


def invoke(stream: bool, question: str = QUESTION, **parameters: Any) -> dict[str, Any]:
    earlier = [
        SystemPromptMessage(content="Be brief."),
        UserPromptMessage(content="Hello"),
        AssistantPromptMessage(content="<think>\nA greeting.\n</think>\n\nHello."),
    ]
    result = Llm(model_schemas=[])._invoke(
        MODEL, CREDENTIALS, [*earlier, UserPromptMessage(content=question)], parameters, stream=stream, user="u-1"
    )
    if not stream:
        return {"text": result.message.content, "tokens": result.usage.total_tokens}
    text, usage, finish = "", None, None
    for chunk in result:
        text += chunk.delta.message.content or ""
        usage, finish = chunk.delta.usage or usage, chunk.delta.finish_reason or finish
    return {"text": text, "tokens": usage and usage.total_tokens, "finish": finish}


def broken() -> str:
    try:
        return f"answered: {invoke(True, 'BREAK leave')}"
    except (InvokeError, ValueError) as error:
        return f"error: {error}"


def embeddings() -> list[int]:
    found = Embeddings(model_schemas=[])._invoke(EMBEDDER, CREDENTIALS, ["a", "b", "c"])
    return [len(vector) for vector in found.embeddings]


def rerank() -> list[Any]:
    documents = ["The canteen opens at noon.", "Full-time staff have twenty-five days of leave."]
    ranked = OAICompatRerankModel(model_schemas=[])._invoke("deepwell-rerank", CREDENTIALS, QUESTION, documents)
    return [[document.index, document.text] for document in ranked.docs]


CHECKS: dict[str, Callable[[], Any]] = {
    "saves": saves,
    "streamed": lambda: invoke(True, max_tokens=512, temperature=0.6),
    "whole": lambda: invoke(False),
    "broken": broken,
    "embeddings": embeddings,
    "rerank": rerank,
}
print("\n" + json.dumps({name: check() for name, check in CHECKS.items()}))
