"""LangChain's message chunks, made without validating what we wrote ourselves.

`AIMessageChunk(content=…)` takes about 10 µs for its validators; copying the fields of one that was validated takes
about one. Chunks with tool calls are made in the ordinary way: LangChain parses those.
"""

from typing import Any, cast

from langchain_core.messages import AIMessageChunk

from connectors.engine import usage_metadata
from pipelines.delta import Delta

_PATTERN = AIMessageChunk(content="")
_FIELDS = dict(_PATTERN.__dict__)
#: fields that must not be shared between chunks
_FRESH = [(name, type(value)) for name, value in _FIELDS.items() if isinstance(value, dict | list)]
_SET = frozenset({"content"})


def message_chunk(delta: Delta, model: str, provider: str, message_id: str | None = None) -> AIMessageChunk:
    """One delta as LangChain has it: thinking in `additional_kwargs["reasoning_content"]`."""
    if delta.tool_calls:
        chunk = AIMessageChunk(content=delta.content, tool_call_chunks=cast(Any, delta.tool_calls), id=message_id)
    else:
        chunk = _text_chunk(delta.content)
        if message_id is not None:
            chunk.__dict__["id"] = message_id
    if delta.reasoning:
        chunk.additional_kwargs["reasoning_content"] = delta.reasoning
    if delta.usage is not None:
        chunk.usage_metadata = usage_metadata(delta.usage)
    if delta.finish_reason:
        chunk.response_metadata = {
            "finish_reason": delta.finish_reason,
            "model_name": model,
            "model_provider": provider,
        }
        chunk.chunk_position = "last" if delta.last else None
    return chunk


def _text_chunk(text: str) -> AIMessageChunk:
    chunk = AIMessageChunk.__new__(AIMessageChunk)
    fields = _FIELDS.copy()
    fields["content"] = text
    for name, kind in _FRESH:
        fields[name] = kind()
    object.__setattr__(chunk, "__dict__", fields)
    object.__setattr__(chunk, "__pydantic_fields_set__", set(_SET))
    object.__setattr__(chunk, "__pydantic_extra__", None)
    object.__setattr__(chunk, "__pydantic_private__", None)
    return chunk
