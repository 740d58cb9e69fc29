"""Answering as a LangChain Runnable, for those who compose with LangChain: the same functions, visible as a graph."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda

from pipelines.answer import find, respond
from pipelines.profiles import Profile
from pipelines.rag import Rag
from pipelines.turn import Options, Turn, begin
from pipelines.types import Caller, Event, Finish, Hit, Message, Reasoning, Role, Sources, Text, ToolCall, ToolCallPiece

_ROLES: dict[str, Role] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


def chain(
    rag: Rag,
    caller: Caller,
    knowledge_base_ids: Sequence[str],
    *,
    profile: Profile,
    top_k: int = 6,
    max_tokens: int = 4096,
    options: Options | None = None,
) -> Runnable[LanguageModelInput, AIMessageChunk]:
    """`answer` as a Runnable: a question or messages in, the answer as one message, or streamed as chunks.

    Thinking is in `additional_kwargs["reasoning_content"]`; the last chunk's `response_metadata` has sources,
    citations, abstained, warnings, timings. Async only (`ainvoke`, `astream`, `abatch`). Raises what `answer` raises.
    """

    def read_question(given: LanguageModelInput) -> Turn:
        return begin(as_messages(given), options or Options(), profile)

    async def retrieve_passages(turn: Turn) -> tuple[Turn, tuple[Hit, ...] | None]:
        return turn, await find(rag, caller, turn, knowledge_base_ids, top_k)

    async def write_answer(found: AsyncIterator[tuple[Turn, tuple[Hit, ...] | None]]) -> AsyncIterator[AIMessageChunk]:
        async for turn, hits in found:
            sources: tuple[Hit, ...] = ()
            async for event in respond(rag, turn, hits, profile, max_tokens):
                sources = event.hits if isinstance(event, Sources) else sources
                if not isinstance(event, Sources):
                    yield as_chunk(event, sources)

    return RunnableLambda(read_question) | RunnableLambda(retrieve_passages) | RunnableGenerator(write_answer)


def as_messages(given: LanguageModelInput) -> list[Message]:
    """What LangChain users hand to a chat model, in our form."""
    if isinstance(given, str):
        return [Message(role="user", content=given)]
    if isinstance(given, PromptValue):
        given = given.to_messages()
    messages = [m if isinstance(m, BaseMessage) else HumanMessage(str(m)) for m in given]
    return list(map(_message, messages))


def _message(message: BaseMessage) -> Message:
    role, text = _ROLES.get(message.type, "user"), message.text
    if isinstance(message, ToolMessage):
        return Message(role=role, content=text, tool_call_id=message.tool_call_id, name=message.name or "")
    if not isinstance(message, AIMessage) or not message.tool_calls:
        return Message(role=role, content=text)
    calls = [
        ToolCall(id=call["id"] or "", name=call["name"], arguments=orjson.dumps(call["args"]).decode())
        for call in message.tool_calls
    ]
    thought = message.additional_kwargs.get("reasoning_content") or ""
    return Message(role=role, content=text, tool_calls=tuple(calls), reasoning=thought)


def as_chunk(event: Event, sources: Sequence[Hit]) -> AIMessageChunk:
    """An event of an answer as a chunk of a LangChain message."""
    if isinstance(event, Reasoning):
        return AIMessageChunk(content="", additional_kwargs={"reasoning_content": event.text})
    if isinstance(event, Text):
        return AIMessageChunk(content=event.text)
    if isinstance(event, ToolCallPiece):
        piece = tool_call_chunk(name=event.name or None, args=event.arguments, id=event.id or None, index=event.index)
        return AIMessageChunk(content="", tool_call_chunks=[piece])
    assert isinstance(event, Finish)
    usage = event.usage
    metadata: dict[str, Any] = {
        "finish_reason": event.reason,
        "sources": [asdict(hit.chunk) | {"score": hit.score} for hit in sources],
        "citations": [asdict(citation) for citation in event.citations],
        "abstained": event.abstained,
        "warnings": list(event.warnings),
        "timings": dict(event.timings),
    }
    return AIMessageChunk(
        content="",
        response_metadata=metadata,
        usage_metadata=UsageMetadata(
            input_tokens=usage.prompt,
            output_tokens=usage.completion,
            total_tokens=usage.prompt + usage.completion,
            output_token_details={"reasoning": usage.reasoning},
        ),
        chunk_position="last",
    )
