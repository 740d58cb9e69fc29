"""LangChain, LlamaIndex and LiteLLM against a running Deepwell; prints what each of them saw as JSON.

Runs in an environment of its own (requirements.txt): these libraries are no part of Deepwell.
"""

import json
import os
from typing import Any

import litellm
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

URL, KEY, MODEL, EMBEDDER, QUESTION = (
    os.environ[f"DEEPWELL_{name}"] for name in ("URL", "KEY", "MODEL", "EMBEDDER", "QUESTION")
)
MESSAGES = [{"role": "user", "content": QUESTION}]


def langchain_deepseek() -> dict[str, Any]:
    chat = ChatDeepSeek(model=MODEL, api_base=f"{URL}/v1", api_key=KEY, max_retries=0)
    whole = chat.invoke(QUESTION)
    text = reasoning = ""
    for chunk in chat.stream(QUESTION):
        text += chunk.text
        reasoning += chunk.additional_kwargs.get("reasoning_content", "")
    return {
        "whole": [whole.text, whole.additional_kwargs.get("reasoning_content")],
        "streamed": [text, reasoning],
        "tokens": whole.usage_metadata["total_tokens"],
    }


def langchain_openai() -> list[Any]:
    chat = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    answer = chat.invoke([*MESSAGES, {"role": "assistant", "content": "Twenty-five."}, *MESSAGES])
    return [answer.text, answer.additional_kwargs.get("reasoning_content")]


def llama_index() -> dict[str, Any]:
    llm = OpenAILike(model=MODEL, api_base=f"{URL}/v1", api_key=KEY, is_chat_model=True, max_retries=0)
    message = ChatMessage(role="user", content=QUESTION)
    streamed = "".join(part.delta or "" for part in llm.stream_chat([message]))
    embedder = OpenAILikeEmbedding(model_name=EMBEDDER, api_base=f"{URL}/v1", api_key=KEY)
    return {
        "whole": llm.chat([message]).message.content,
        "streamed": streamed,
        "completed": llm.complete(QUESTION).text,
        "embedding": len(embedder.get_text_embedding("a")),
    }


def litellm_in_four_ways() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for provider, base in [
        ("openai", f"{URL}/v1"),
        ("hosted_vllm", f"{URL}/v1"),
        ("deepseek", f"{URL}/v1"),
        ("ollama_chat", URL),
    ]:
        given = {"model": f"{provider}/{MODEL}", "messages": MESSAGES, "api_base": base, "api_key": KEY}
        message = litellm.completion(**given).choices[0].message
        text = reasoning = ""
        for chunk in litellm.completion(**given, stream=True):
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasoning += getattr(delta, "reasoning_content", None) or ""
        found[provider] = [[message.content, message.reasoning_content], [text, reasoning]]
    documents = ["The canteen opens at noon.", "Full-time staff have twenty-five days of leave."]
    for provider, base in [("cohere", f"{URL}/v1/rerank"), ("hosted_vllm", URL)]:
        given = {"model": f"{provider}/deepwell-rerank", "query": QUESTION, "documents": documents}
        ranked = litellm.rerank(**given, api_base=base, api_key=KEY)
        found[f"rerank {provider}"] = ranked.results[0]["index"]
    vectors = litellm.embedding(model=f"openai/{EMBEDDER}", input=["a"], api_base=f"{URL}/v1", api_key=KEY)
    found["embedding"] = len(vectors.data[0]["embedding"])
    return found


CHECKS = (langchain_deepseek, langchain_openai, llama_index, litellm_in_four_ways)
print("\n" + json.dumps({check.__name__: check() for check in CHECKS}))
