"""One generation, whatever happens to it: thinking apart, its limit kept, and an answer at the end.

Engines that can are told the limit of thinking tokens. Where one cannot, or does not keep it, we count, stop it at the
limit, close the thinking ourselves and have the answer continued from there (`resume` of the chat model).
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage

from pipelines import phrases
from pipelines.budget import Budget, answer_reserve, estimate_tokens
from pipelines.delta import Delta, DeltaChat, separate
from pipelines.errors import BadRequest
from pipelines.language import Language
from pipelines.profiles import Profile
from pipelines.reasoning import Piece, ReasoningParser
from pipelines.types import Message, Reasoning, Text, Usage

if TYPE_CHECKING:
    from pipelines.answer import Options

#: how far over its limit of thinking tokens an engine may go before we cut: engines that keep it themselves need a few
#: tokens for its end
SLACK = 1.05


@dataclass(slots=True)
class Generation:
    """What is to be generated, and afterwards what came of it."""

    chat: BaseChatModel
    messages: list[Message]
    profile: Profile
    budget: Budget
    options: "Options"
    language: Language
    reason: Literal["stop", "length", "tool_calls"] = "stop"
    usage: Usage = field(default_factory=Usage)
    warnings: list[str] = field(default_factory=list)
    #: pieces of thinking so far, and how many tokens they are
    thoughts: list[str] = field(default_factory=list)
    thought_tokens: int = 0
    answered: bool = False

    def apology(self) -> str:
        """What is said instead of nothing."""
        if self.reason == "length":
            return phrases.CUT_WHILE_THINKING[self.language].format(tokens=self.budget.max_tokens)
        return phrases.EMPTY[self.language]

    def arguments(self) -> dict[str, Any]:
        """Call arguments for the chat model."""
        given = {
            "max_tokens": self.budget.max_tokens,
            "temperature": self.options.temperature,
            "top_p": self.options.top_p,
            "seed": self.options.seed,
            "thinking": self.options.thinking,
            "effort": self.options.effort or None,
            "free_sampling": self.options.free_sampling or None,
            "thinking_budget": self.budget.thinking if self.profile.thinks != "never" else None,
        }
        return {name: value for name, value in given.items() if value is not None}


async def generate(generation: Generation) -> AsyncGenerator[Piece, None]:
    """Reasoning and Text as they come. Raises what the chat model raises. Fills `generation` with how it ended."""
    async with aclosing(_deltas(generation)) as deltas:
        cut = False
        async for delta in deltas:
            for piece in _pieces(generation, delta):
                yield piece
            if delta.reasoning and _over(generation):
                cut = True
                break
    if generation.thoughts and generation.options.thinking is False and generation.profile.thinks == "always":
        generation.warnings.append("the model server cannot make this model skip its thinking")
    if not generation.answered and generation.thoughts and (cut or generation.reason == "length"):
        async with aclosing(_resume(generation)) as pieces:
            async for piece in pieces:
                yield piece


def _over(generation: Generation) -> bool:
    return generation.thought_tokens >= generation.budget.thinking * SLACK + 1


def _deltas(generation: Generation) -> AsyncGenerator[Delta, None]:
    """The chat model's stream; of a chat model that is not ours, in our form."""
    messages = [to_langchain(message) for message in generation.messages]
    chat, stop = generation.chat, generation.options.stop
    if isinstance(chat, DeltaChat):
        return chat.stream_deltas(messages, stop=stop, **generation.arguments())
    arguments = {name: value for name, value in generation.arguments().items() if name in {"max_tokens", "temperature"}}
    stream = chat.astream(messages, stop=list(stop) or None, **arguments)
    return separate(_from_langchain(stream), ReasoningParser(starts_in_thinking=generation.profile.starts_in_thinking))


async def _from_langchain(chunks: AsyncIterator[AIMessageChunk]) -> AsyncIterator[Delta]:
    async for chunk in chunks:
        delta = Delta(content=chunk.text, reasoning=chunk.additional_kwargs.get("reasoning_content") or "")
        if used := chunk.usage_metadata:
            delta.usage = {"prompt_tokens": used["input_tokens"], "completion_tokens": used["output_tokens"]}
        ended = chunk.response_metadata
        delta.finish_reason = ended.get("finish_reason") or ended.get("done_reason") or ""
        yield delta


def _pieces(generation: Generation, delta: Delta) -> list[Piece]:
    """What a delta shows, counted."""
    pieces: list[Piece] = []
    if delta.reasoning:
        generation.thoughts.append(delta.reasoning)
        generation.thought_tokens += piece_tokens(delta.reasoning)
        pieces.append(Reasoning(delta.reasoning))
    if delta.content:
        generation.answered = True
        pieces.append(Text(delta.content))
    if delta.usage:
        generation.usage = _usage(generation, delta.usage)
    if delta.finish_reason in {"stop", "length", "tool_calls"}:
        generation.reason = delta.finish_reason  # type: ignore[assignment]
    return pieces


def piece_tokens(text: str) -> int:
    """Tokens of a streamed piece: one, unless it is too long for one because an engine joins several."""
    return 1 if len(text) <= (18 if text.isascii() else 6) else estimate_tokens(text)


def _usage(generation: Generation, usage: dict[str, Any]) -> Usage:
    """An engine's counts; vLLM says 0 tokens of reasoning where there are some, so ours are taken then."""
    completion = int(usage.get("completion_tokens") or 0)
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    return Usage(
        prompt=int(usage.get("prompt_tokens") or 0),
        completion=completion,
        reasoning=int(reasoning or 0) or min(generation.thought_tokens, completion),
    )


async def _resume(generation: Generation) -> AsyncGenerator[Piece, None]:
    """Close the thinking and have the answer written from what was thought."""
    generation.reason = "length"
    spent, prompt = generation.thought_tokens, generation.usage.prompt
    generation.usage = Usage(prompt=prompt, completion=spent, reasoning=spent)
    if not isinstance(generation.chat, DeltaChat):
        return
    stream = generation.chat.resume(
        [to_langchain(message) for message in generation.messages],
        "".join(generation.thoughts) + phrases.ENOUGH[generation.language],
        stop=generation.options.stop,
        **{**generation.arguments(), "max_tokens": answer_reserve(generation.budget.max_tokens)},
    )
    try:
        async with aclosing(stream):
            async for delta in stream:
                for piece in _pieces(generation, delta):
                    yield piece
    except (NotImplementedError, BadRequest) as error:
        generation.warnings.append(f"thinking met its limit and could not be continued into an answer: {error}")
        return
    written = generation.usage.completion - (spent if generation.usage.prompt == prompt else 0)
    generation.usage = Usage(prompt=prompt or generation.usage.prompt, completion=spent + written, reasoning=spent)
    if not generation.answered:
        generation.reason = "length"
    else:
        generation.warnings.append(f"thinking was ended after about {spent} tokens, at its limit")


def to_langchain(message: Message) -> BaseMessage:
    """One of our messages in LangChain's form."""
    if message.role == "system":
        return SystemMessage(message.content)
    return AIMessage(message.content) if message.role == "assistant" else HumanMessage(message.content)
