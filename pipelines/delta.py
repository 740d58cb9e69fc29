"""What a chat model of ours offers beyond LangChain's interface: cheap deltas, its window, an answer continued."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

from langchain_core.messages import BaseMessage

from pipelines.reasoning import Piece, ReasoningParser
from pipelines.types import Reasoning


@dataclass(slots=True)
class Delta:
    """What one event of a stream brings; thinking is never in `content`, once it left the chat model."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    #: OpenAI's usage object
    usage: dict[str, Any] | None = None
    #: LangChain's tool call chunks: name, args, id, index
    tool_calls: list[dict[str, Any]] | None = None
    error: str = ""
    #: nothing comes after it
    last: bool = False


@runtime_checkable
class DeltaChat(Protocol):
    """A chat model that streams without LangChain's cost per chunk.

    All raise ModelUnavailable, TooManyRequests and BadRequest.
    """

    @property
    def refuses_tools(self) -> bool:
        """Whether tools were offered and the server cannot take them; they are left out then."""
        ...

    def stream_deltas(
        self, messages: Sequence[BaseMessage], *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Stream one answer. Closing the generator stops the server."""
        ...

    def resume(
        self, messages: Sequence[BaseMessage], thoughts: str, *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Continue with the answer after these thoughts, their end closed. Raises NotImplementedError if impossible."""
        ...

    async def window(self) -> int:
        """Tokens of the engine's real context window; 0 if it does not say."""
        ...


_SPEAKS: dict[type, bool] = {}


def streams_deltas(chat: object) -> TypeGuard[DeltaChat]:
    """Whether a chat model is a DeltaChat. Looked up by class: `isinstance` of a protocol takes 10 µs each time."""
    kind = type(chat)
    if kind not in _SPEAKS:
        _SPEAKS[kind] = isinstance(chat, DeltaChat)
    return _SPEAKS[kind]


async def separate(deltas: AsyncIterator[Delta], parser: ReasoningParser) -> AsyncGenerator[Delta, None]:
    """Deltas whose `content` is free of thinking. Thinking in a field of its own and in tags come out alike.

    When a stream ends by itself while "thinking", and something speaks for an answer in it, that follows as content.
    The last delta has the finish reason.
    """
    answered = thought = False
    reason = ""
    async for delta in deltas:
        reason = delta.finish_reason or reason
        for part in _parts(delta, parser):
            if part.reasoning and not thought:  # llama.cpp keeps the line end of the template's "<think>\n"
                part.reasoning = part.reasoning.lstrip()
                thought = bool(part.reasoning)
                if not thought:
                    continue
            answered = answered or bool(part.content or part.tool_calls)
            yield part
    for piece in parser.close():
        answered = answered or not isinstance(piece, Reasoning)
        yield _delta(piece)
    if not answered and reason == "stop" and (rescued := parser.rescue()):
        yield Delta(content=rescued)
    yield Delta(finish_reason=reason or "stop", last=True)


def _parts(delta: Delta, parser: ReasoningParser) -> list[Delta]:
    """What a delta holds, each in one of its own."""
    parts: list[Delta] = []
    if delta.reasoning:
        parser.separated()
        parts.append(Delta(reasoning=delta.reasoning))
    if delta.content:
        parts.extend(map(_delta, parser.feed(delta.content)))
    if delta.tool_calls:
        parts.append(Delta(tool_calls=delta.tool_calls))
    if delta.usage is not None:
        parts.append(Delta(usage=delta.usage))
    return parts


def _delta(piece: Piece) -> Delta:
    return Delta(reasoning=piece.text) if isinstance(piece, Reasoning) else Delta(content=piece.text)
