"""A scripted chat model: for demos and tests without a model. It streams, thinks and cites like a real one.

`chat("", "fake", …)` answers a prompt with passages by quoting the first sentences of them, and anything else by saying
what it was asked. A script of replies (with `<think>` blocks as R1 writes them) can be given to `ScriptedChat`.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from connectors.engine import usage_metadata, whole_message
from pipelines.budget import estimate_tokens
from pipelines.delta import Delta, separate
from pipelines.profiles import Profile
from pipelines.reasoning import ReasoningParser
from pipelines.sentences import sentences

NAME = "fake"
_PASSAGE = re.compile(r"\[webpage (\d+) begin\](.*?)\n(.*?)\[webpage \1 end\]", re.DOTALL)
_PIECE = re.compile(r"\s*\S{1,8}|\s+")


class ScriptedChat(BaseChatModel):
    """Replies from a script, in turn; without a script, replies made from the prompt. Every request is kept."""

    replies: list[str] = Field(default_factory=list)
    #: seconds between two pieces
    delay: float = 0.0
    starts_in_thinking: bool = False
    #: tokens of the window it claims to have
    context: int = 8192
    refuses_tools: bool = False
    #: messages of each request so far
    asked: list[list[BaseMessage]] = Field(default_factory=list)
    #: arguments of each request so far
    arguments: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "deepwell-fake"

    def stream_deltas(
        self, messages: Sequence[BaseMessage], *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """Stream the next reply of the script, one word a piece, at most `max_tokens` pieces."""
        self.asked.append(list(messages))
        self.arguments.append({"stop": tuple(stop), **arguments})
        reply = self._reply(messages)
        return separate(
            self._pieces(reply, arguments.get("max_tokens")),
            ReasoningParser(starts_in_thinking=self.starts_in_thinking),
        )

    def resume(
        self, messages: Sequence[BaseMessage], thoughts: str, *, stop: Sequence[str] = (), **arguments: Any
    ) -> AsyncGenerator[Delta, None]:
        """The next reply of the script, as an answer."""
        self.asked.append([*messages, AIMessage("", additional_kwargs={"reasoning_content": thoughts})])
        self.arguments.append({"stop": tuple(stop), **arguments})
        return separate(self._pieces(self._reply(messages), arguments.get("max_tokens")), ReasoningParser())

    async def window(self) -> int:
        """The window it claims to have."""
        return self.context

    def _reply(self, messages: Sequence[BaseMessage]) -> str:
        if self.replies:
            return self.replies[(len(self.asked) - 1) % len(self.replies)]
        prompt = messages[-1].text if messages else ""
        found = [(n, sentences(text)) for n, _, text in _PASSAGE.findall(prompt)]
        cited = [f"{lines[0]} [citation:{n}]" for n, lines in found[:3] if lines]
        thoughts = f"<think>\nThere are {len(found)} passages.\n</think>\n\n" if found else ""
        return thoughts + ("\n\n".join(cited) or f"You said: {prompt[-400:]}")

    async def _pieces(self, reply: str, limit: int | None) -> AsyncIterator[Delta]:
        words = _PIECE.findall(reply)
        for word in words[:limit]:
            await asyncio.sleep(self.delay)
            yield Delta(content=word)
        prompt = sum(estimate_tokens(message.text) for message in self.asked[-1])
        yield Delta(usage={"prompt_tokens": prompt, "completion_tokens": len(words[:limit])})
        yield Delta(finish_reason="length" if limit is not None and limit < len(words) else "stop")

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self.stream_deltas(messages, stop=stop or (), **kwargs)) as deltas:
            async for delta in deltas:
                message = AIMessageChunk(content=delta.content)
                if delta.reasoning:
                    message.additional_kwargs["reasoning_content"] = delta.reasoning
                if delta.usage:
                    message.usage_metadata = usage_metadata(delta.usage)
                if delta.finish_reason:
                    message.response_metadata = {"finish_reason": delta.finish_reason, "model_name": NAME}
                yield ChatGenerationChunk(message=message)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        whole = AIMessageChunk(content="")
        async for chunk in self._astream(messages, stop, **kwargs):
            whole = whole + chunk.message  # type: ignore[assignment]
        return ChatResult(generations=[ChatGeneration(message=whole_message(whole))])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return asyncio.run(self._agenerate(messages, stop, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        async def every() -> list[ChatGenerationChunk]:
            return [chunk async for chunk in self._astream(messages, stop, **kwargs)]

        yield from asyncio.run(every())


def chat(
    url: str, model: str, *, api_key: str = "", profile: Profile, timeout: float = 300.0, context: int = 0
) -> BaseChatModel:
    """A chat model that needs nothing: replies are made from the prompt."""
    return ScriptedChat(context=context or 8192)
