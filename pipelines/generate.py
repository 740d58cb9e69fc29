"""One generation, whatever happens to it: thinking apart, its limit kept, in the right language, an answer at the end.

Engines that can are told the limit of thinking tokens. Where one cannot, or does not keep it, we count, stop it at the
limit, close the thinking ourselves and have the answer continued from there (`resume` of the chat model). An answer
in another language than the question's is stopped and written again in the same way.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from pipelines import phrases
from pipelines.budget import answer_reserve, piece_tokens
from pipelines.delta import Delta, separate, streams_deltas
from pipelines.drift import LanguageGuard
from pipelines.errors import BadRequest
from pipelines.generation import Generation
from pipelines.reasoning import Piece, ReasoningParser
from pipelines.types import Message, Reasoning, Text, ToolCallPiece, Usage

Part = Piece | ToolCallPiece


async def generate(generation: Generation) -> AsyncGenerator[Part, None]:
    """Reasoning, Text and ToolCallPiece as they come. Fills `generation` with how it ended.

    Raises what the chat model raises.
    """
    if not generation.relayed:
        async with aclosing(_first(generation)) as pieces:
            async for piece in pieces:
                yield piece
    if (rest := left_to_write(generation)) is not None:
        async with aclosing(rest):
            async for piece in rest:
                yield piece


def left_to_write(generation: Generation) -> AsyncGenerator[Part, None] | None:
    """What has to follow the model's first answer; None if that was all, as it nearly always is."""
    if generation.thoughts and generation.options.thinking is False and generation.profile.thinks == "always":
        generation.warnings.append("the model server cannot make this model skip its thinking")
    if generation.options.tools is not None and streams_deltas(generation.chat) and generation.chat.refuses_tools:
        generation.warnings.append("the model server takes no tools: they were left out")
    if generation.guard is not None and generation.guard.drifted:
        return _repair(generation, generation.guard)
    if not generation.answered and generation.thoughts and (generation.cut or generation.reason == "length"):
        return _resume(generation)
    if generation.answered and 0 < generation.budget.thinking <= generation.thought_tokens + 2:
        generation.warnings.append(f"thinking was ended after about {generation.thought_tokens} tokens, at its limit")
    return None


async def _first(generation: Generation) -> AsyncGenerator[Part, None]:
    """What the model writes by itself, up to the limit of its thinking or to a wrong language."""
    guard = generation.guard
    async with aclosing(_deltas(generation)) as deltas:
        async for delta in deltas:
            for piece in _pieces(generation, delta):
                if guard is None or not isinstance(piece, Text):
                    yield piece
                elif shown := guard.feed(piece.text):
                    yield Text(shown)
            if guard is not None and guard.drifted:
                return
            if delta.reasoning and generation.over():
                generation.cut = True
                return
    if guard is not None and (rest := guard.close()):
        yield Text(rest)


def _deltas(generation: Generation) -> AsyncGenerator[Delta, None]:
    """The chat model's stream; of a chat model that is not ours, in our form."""
    messages = [to_langchain(message) for message in generation.messages]
    chat, stop = generation.chat, generation.options.stop
    if streams_deltas(chat):
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


def _pieces(generation: Generation, delta: Delta) -> list[Part]:
    """What a delta shows, counted."""
    pieces: list[Part] = []
    if delta.reasoning:
        generation.thoughts.append(delta.reasoning)
        generation.thought_tokens += piece_tokens(delta.reasoning)
        pieces.append(Reasoning(delta.reasoning))
    if delta.content:
        generation.answered = True
        pieces.append(Text(delta.content))
    for call in delta.tool_calls or ():
        generation.answered = True
        index, made = call.get("index") or 0, (call.get("id"), call.get("name"), call.get("args"))
        pieces.append(generation.calls.take(index, *(each or "" for each in made)))
    if delta.usage:
        generation.note_usage(delta.usage)
    generation.note_reason(delta.finish_reason)
    return pieces


async def _resume(generation: Generation) -> AsyncGenerator[Part, None]:
    """Close the thinking and have the answer written from what was thought."""
    generation.reason = "length"
    spent, prompt = generation.thought_tokens, generation.usage.prompt
    generation.usage = Usage(prompt=prompt, completion=spent, reasoning=spent)
    try:
        last, tokens = phrases.ENOUGH[generation.language], answer_reserve(generation.budget.max_tokens)
        async with aclosing(_continued(generation, generation.messages, last, tokens)) as pieces:
            async for piece in pieces:
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


async def _repair(generation: Generation, guard: LanguageGuard) -> AsyncGenerator[Part, None]:
    """Have the answer written again, in the right language: from the same thoughts where the engine can, else anew.

    Done once. What was shown in the wrong language stays where it is; a paragraph's end follows it.
    """
    language, shown = generation.language, bool(generation.written)
    asked = generation.messages[-1]
    order = phrases.WRITE_IN[language].format(language=guard.wanted)
    messages = [*generation.messages[:-1], replace(asked, content=f"{asked.content}\n\n{order}")]
    seen = "the answer begins again after what was shown" if shown else "nothing of that was shown"
    generation.warnings.append(f"the model answered in {guard.drifted} and was asked again for {guard.wanted}: {seen}")
    if shown:
        yield Text("\n\n")
    generation.answered = False
    last = phrases.I_WRITE_IN[language].format(language=guard.wanted)
    left = max(answer_reserve(generation.budget.max_tokens), generation.budget.max_tokens - generation.thought_tokens)
    try:
        async with aclosing(_continued(generation, messages, last, left)) as pieces:
            async for piece in pieces:
                yield piece
        return
    except (NotImplementedError, BadRequest):
        if generation.answered:
            raise
    anew = replace(generation, messages=messages, guard=None)
    async with aclosing(_deltas(anew)) as deltas:
        async for delta in deltas:
            for piece in _pieces(generation, delta):
                yield piece


async def _continued(
    generation: Generation, messages: list[Message], last: str, tokens: int
) -> AsyncGenerator[Part, None]:
    """The answer that follows the thoughts so far, ended with `last`. Raises NotImplementedError if impossible."""
    if not streams_deltas(generation.chat):
        raise NotImplementedError("this chat model cannot continue an answer")
    stream = generation.chat.resume(
        [to_langchain(message) for message in messages],
        "".join(generation.thoughts) + last,
        stop=generation.options.stop,
        **{**generation.arguments(), "max_tokens": tokens},
    )
    async with aclosing(stream):
        async for delta in stream:
            for piece in _pieces(generation, delta):
                yield piece


def to_langchain(message: Message) -> BaseMessage:
    """One of our messages in LangChain's form. A result that belongs to no call is the user's word."""
    if message.role == "system":
        return SystemMessage(message.content)
    if message.role == "tool" and message.tool_call_id:
        return ToolMessage(message.content, tool_call_id=message.tool_call_id, name=message.name or None)
    if message.role != "assistant":
        return HumanMessage(message.content)
    if not message.tool_calls:
        return AIMessage(message.content)
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    thought = {"reasoning_content": message.reasoning} if message.reasoning else {}
    return AIMessage(message.content, additional_kwargs={"tool_calls": calls, **thought})
